//! `MoPPS`, "Can prompt difficulty be online predicted for accelerating RL finetuning of reasoning
//! models?" (arXiv 2507.04632).
//!
//! Each prompt has a Beta(1 + S, 1 + F); a label takes S to d S + k and F to d F + (n - k), and
//! nothing else ever fades. One pass rate is drawn per candidate, and those nearest to the target
//! are taken (the source's `topk`). With `candidates_from` the pool these are the nearest of all
//! prompts, found without a pass rate drawn for each. Not reproduced: its `threshold` strategy, and
//! initial counts from earlier rollouts.

use depo_structures::{GREATEST_COUNT, GREATEST_TARGET, LEAST_COUNT, LEAST_TARGET, ThompsonTree};

use super::{
    CandidatesFrom, Judgement, NamedOption, Prospect, Registered, RuleSettings, Search,
    SelectionRule, Wanted,
};
use crate::belief::{Belief, Label};
use crate::error::Result;
use crate::state::{Carry, StateMap, StateReader};
use crate::variates::Variates;

/// What a prompt's counts keep when its next label arrives.
const DECAY: NamedOption = NamedOption { name: "decay", default: 0.5, range: (0.0, 1.0) };

/// Pass rate that is looked for.
const TARGET: NamedOption = NamedOption { name: "target", default: 0.5, range: (0.0, 1.0) };

pub(super) const RULE: Registered = Registered {
    name: "mopps",
    options: &[DECAY, TARGET],
    build: |settings, len| Box::new(Mopps::new(settings, len)),
};

struct Mopps {
    candidates_per_draw: usize,
    decay: f64,
    target: f64,
    successes: Vec<f64>,
    failures: Vec<f64>,
    /// Posteriors of the whole pool, if it is drawn from.
    posteriors: Option<ThompsonTree>,
}

impl Mopps {
    fn new(settings: &RuleSettings, len: usize) -> Self {
        let mut rule = Self {
            candidates_per_draw: settings.candidates_per_draw,
            decay: DECAY.of(&settings.rule_options),
            target: TARGET.of(&settings.rule_options),
            successes: vec![0.0; len],
            failures: vec![0.0; len],
            posteriors: None,
        };
        rule.posteriors = (settings.candidates_from == CandidatesFrom::Pool).then(|| rule.tree());
        rule
    }

    /// Posteriors of all prompts. A target nearer to 0 or 1 than a tree can have is moved there.
    fn tree(&self) -> ThompsonTree {
        let shapes = self
            .successes
            .iter()
            .zip(&self.failures)
            .map(|(&successes, &failures)| shape([successes, failures]));
        let (alphas, betas): (Vec<f32>, Vec<f32>) =
            shapes.map(|[alpha, beta]| (alpha, beta)).unzip();
        ThompsonTree::new(self.target.clamp(LEAST_TARGET, GREATEST_TARGET), &alphas, &betas)
    }
}

/// Parameters of a posterior from Beta(1, 1); without decay counts may exceed what a tree can have:
/// their ratio stays.
fn shape(counts: [f64; 2]) -> [f32; 2] {
    let [alpha, beta] = counts.map(|count| 1.0 + count);
    let factor = (f64::from(GREATEST_COUNT) / alpha.max(beta)).min(1.0);
    [alpha, beta].map(|count| (count * factor) as f32).map(|count| count.max(LEAST_COUNT))
}

impl SelectionRule for Mopps {
    fn search(&self) -> Search {
        // Prompts drawn from the whole pool need not compete again.
        Search::Compare {
            candidates_per_draw: if self.posteriors.is_some() {
                1
            } else {
                self.candidates_per_draw
            },
        }
    }

    fn nominate(&mut self, wanted: &Wanted, _belief: &mut dyn Belief) -> Vec<u32> {
        let Wanted { count, stream, is_free, .. } = *wanted;
        let Some(posteriors) = &mut self.posteriors else { return vec![] };
        posteriors
            .draw_nearest(count, |counter| stream.bits(counter), is_free)
            .into_iter()
            .map(|(prompt, _)| prompt)
            .collect()
    }

    fn judge(&self, prospect: &Prospect, _belief: &dyn Belief) -> Judgement {
        let prompt = prospect.prompt as usize;
        let distance = Variates::new(prospect.stream)
            .beta(1.0 + self.successes[prompt], 1.0 + self.failures[prompt])
            - self.target;
        Judgement::competing(-distance * distance)
    }

    fn observe(&mut self, label: &Label) {
        let prompt = label.prompt as usize;
        self.successes[prompt] = self.decay * self.successes[prompt] + f64::from(label.successes);
        self.failures[prompt] =
            self.decay * self.failures[prompt] + f64::from(label.rollouts - label.successes);
        if let Some(posteriors) = &mut self.posteriors {
            let [alpha, beta] = shape([self.successes[prompt], self.failures[prompt]]);
            posteriors.set(&[label.prompt.into()], &[alpha], &[beta]);
        }
    }

    fn save(&self, state: &mut StateMap) {
        state.insert("policy.successes".into(), self.successes.clone().into());
        state.insert("policy.failures".into(), self.failures.clone().into());
    }

    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let len = carry.saved_len();
        let [successes, failures] = [
            state.counts::<f64>("policy.successes", len)?,
            state.counts::<f64>("policy.failures", len)?,
        ];
        self.successes = carry.gather(|prompt| successes[prompt], 0.0);
        self.failures = carry.gather(|prompt| failures[prompt], 0.0);
        self.posteriors = self.posteriors.is_some().then(|| self.tree());
        Ok(())
    }
}
