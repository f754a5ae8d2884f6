//! Difficulty pools of prime-rl (Prime Intellect, `DifficultyPoolSampler`, 2026): a prompt's weight
//! is that of the pool in which the pass rate of its latest group lies.
//!
//! Weighted sampling without replacement by exponential keys: the candidates with the greatest
//! ln(u) / w are drawn (Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
//! 2006). The source samples with replacement from the whole pool; here a prompt is in flight once,
//! and candidates compete in chunks, unless `candidates_from` is the pool: a sum tree then draws
//! from all of it. Its gate that refuses groups without advantage is the trainer's backfill.

use super::{
    CandidatesFrom, Judgement, NamedOption, Prospect, Registered, RuleSettings, Search,
    SelectionRule, Wanted,
};
use crate::belief::{Belief, Label};
use crate::error::Result;
use crate::state::{Carry, StateMap, StateReader};
use crate::variates::Variates;
use depo_structures::SumTree;
use depo_structures::portable::ln;

const WEIGHT_RANGE: (f64, f64) = (1e-6, 1e6);

/// Pass rates up to this are hard.
const HARD_UP_TO: NamedOption =
    NamedOption { name: "hard_up_to", default: 0.25, range: (0.0, 1.0) };

/// Pass rates above the former and up to this are normal, higher ones easy.
const NORMAL_UP_TO: NamedOption =
    NamedOption { name: "normal_up_to", default: 0.75, range: (0.0, 1.0) };

/// Weight of hard prompts; normal and unseen ones weigh 1.
const HARD_WEIGHT: NamedOption =
    NamedOption { name: "hard_weight", default: 0.2, range: WEIGHT_RANGE };

/// Weight of easy prompts.
const EASY_WEIGHT: NamedOption =
    NamedOption { name: "easy_weight", default: 0.2, range: WEIGHT_RANGE };

pub(super) const RULE: Registered = Registered {
    name: "prime_pools",
    options: &[HARD_UP_TO, NORMAL_UP_TO, HARD_WEIGHT, EASY_WEIGHT],
    build: |settings, len| Box::new(PrimePools::new(settings, len)),
};

struct PrimePools {
    candidates_per_draw: usize,
    hard_up_to: f64,
    normal_up_to: f64,
    hard_weight: f64,
    easy_weight: f64,
    /// Pass rate of each prompt's latest group; NaN: unseen.
    pass_rates: Vec<f64>,
    /// Weights of the whole pool, if it is drawn from.
    weights: Option<SumTree>,
}

impl PrimePools {
    fn new(settings: &RuleSettings, len: usize) -> Self {
        Self {
            candidates_per_draw: settings.candidates_per_draw,
            hard_up_to: HARD_UP_TO.of(&settings.rule_options),
            normal_up_to: NORMAL_UP_TO.of(&settings.rule_options),
            hard_weight: HARD_WEIGHT.of(&settings.rule_options),
            easy_weight: EASY_WEIGHT.of(&settings.rule_options),
            pass_rates: vec![f64::NAN; len],
            weights: (settings.candidates_from == CandidatesFrom::Pool)
                .then(|| SumTree::new(&vec![1.0; len])),
        }
    }

    fn weight(&self, pass_rate: f64) -> f64 {
        if pass_rate <= self.hard_up_to {
            self.hard_weight
        } else if pass_rate > self.normal_up_to {
            self.easy_weight
        } else {
            1.0
        }
    }
}

impl SelectionRule for PrimePools {
    fn search(&self) -> Search {
        // Prompts drawn from the whole pool need not compete again.
        Search::Compare {
            candidates_per_draw: if self.weights.is_some() { 1 } else { self.candidates_per_draw },
        }
    }

    fn nominate(&mut self, wanted: &Wanted, _belief: &mut dyn Belief) -> Vec<u32> {
        let Wanted { count, stream, is_free, .. } = *wanted;
        self.weights.as_mut().map_or_else(Vec::new, |weights| {
            weights.draw_distinct(count, |counter| stream.bits(counter), is_free)
        })
    }

    fn judge(&self, prospect: &Prospect, _belief: &dyn Belief) -> Judgement {
        let weight = self.weight(self.pass_rates[prospect.prompt as usize]);
        Judgement::competing(ln(Variates::new(prospect.stream).unit()) / weight)
    }

    fn observe(&mut self, label: &Label) {
        self.pass_rates[label.prompt as usize] = label.pass_rate();
        let weight = self.weight(label.pass_rate()) as f32;
        if let Some(weights) = &mut self.weights {
            weights.set([(label.prompt, weight)]);
        }
    }

    fn save(&self, state: &mut StateMap) {
        state.insert("policy.pass_rates".into(), self.pass_rates.clone().into());
    }

    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let pass_rates = state.lent("policy.pass_rates", carry.saved_len())?;
        self.pass_rates = carry.gather(|prompt| pass_rates[prompt], f64::NAN);
        if self.weights.is_some() {
            let weights: Vec<f32> =
                self.pass_rates.iter().map(|&pass_rate| self.weight(pass_rate) as f32).collect();
            self.weights = Some(SumTree::new(&weights));
        }
        Ok(())
    }
}
