//! `MoPPS`, "Can prompt difficulty be online predicted for accelerating RL finetuning of reasoning models?" (arXiv 2507.04632).
//!
//! Each prompt has a Beta(1 + S, 1 + F); a label takes S to d S + k and F to d F + (n - k), and nothing else ever fades. One pass rate is
//! drawn per candidate, and those nearest to the target are taken (the source's `topk`). Not reproduced: its `threshold` strategy, and
//! initial counts from earlier rollouts.

use super::{Asked, Judgement, NamedOption, Registered, Search, SelectionPolicy};
use crate::belief::{Belief, Label};
use crate::error::Result;
use crate::settings::Settings;
use crate::state::{Carry, StateMap, StateReader};
use crate::variates::Variates;

/// What a prompt's counts keep when its next label arrives.
const DECAY: NamedOption = NamedOption { name: "decay", default: 0.5, range: (0.0, 1.0) };

/// Pass rate that is looked for.
const TARGET: NamedOption = NamedOption { name: "target", default: 0.5, range: (0.0, 1.0) };

pub(super) const POLICY: Registered =
    Registered { name: "mopps", options: &[DECAY, TARGET], build: |settings, len| Box::new(Mopps::new(settings, len)) };

struct Mopps {
    candidates_per_draw: usize,
    decay: f64,
    target: f64,
    successes: Vec<f64>,
    failures: Vec<f64>,
}

impl Mopps {
    fn new(settings: &Settings, len: usize) -> Self {
        Self {
            candidates_per_draw: settings.candidates_per_draw,
            decay: DECAY.of(&settings.policy_options),
            target: TARGET.of(&settings.policy_options),
            successes: vec![0.0; len],
            failures: vec![0.0; len],
        }
    }
}

impl SelectionPolicy for Mopps {
    fn search(&self) -> Search {
        Search::Compare { candidates_per_draw: self.candidates_per_draw }
    }

    fn judge(&self, asked: &Asked, _belief: &dyn Belief) -> Judgement {
        let prompt = asked.prompt as usize;
        let distance = Variates::new(asked.stream).beta(1.0 + self.successes[prompt], 1.0 + self.failures[prompt]) - self.target;
        Judgement::competing(-distance * distance)
    }

    fn observe(&mut self, label: &Label) {
        let prompt = label.prompt as usize;
        self.successes[prompt] = self.decay * self.successes[prompt] + f64::from(label.successes);
        self.failures[prompt] = self.decay * self.failures[prompt] + f64::from(label.rollouts - label.successes);
    }

    fn save(&self, state: &mut StateMap) {
        state.insert("policy.successes".into(), self.successes.clone().into());
        state.insert("policy.failures".into(), self.failures.clone().into());
    }

    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let len = carry.saved_len();
        let [successes, failures] = [state.lent("policy.successes", len)?, state.lent("policy.failures", len)?];
        self.successes = carry.gather(|prompt| successes[prompt], 0.0);
        self.failures = carry.gather(|prompt| failures[prompt], 0.0);
        Ok(())
    }
}
