//! What is believed of each prompt's pass rate: a prior from its text, fused with its history. One
//! trait, one file per model.

mod fit;
mod logit_gaussian;
mod present;
mod records;
mod search;
mod surface;

pub use beta::{BetaCounts, DiscountedBeta};
pub use logit_gaussian::LogitGaussian;
pub use logit_normal::LogitNormal;

use crate::error::{Error, Result};
use crate::registry::{NamedNumbers, NamedOption, registry};
use crate::rng::Stream;
use crate::state::{Carry, StateMap, StateReader};

/// Predictions are kept this far from 0 and 1, so that a prior never excludes an outcome.
pub(crate) const PRIOR_MARGIN: f64 = 1e-3;

/// Share of its weight that a label keeps in the running base rate when the next one arrives.
pub(crate) const LABEL_MEMORY: f64 = 0.999;

/// What a belief is built from.
#[derive(Debug, Clone, PartialEq)]
pub struct BeliefSettings {
    /// Rollouts of a prompt, G, at least 2.
    pub group_size: usize,
    /// Seed of every random draw.
    pub seed: u64,
    /// Whether a prompt's own past results enter its forecast.
    pub use_history: bool,
    /// Whether the model's parameters are fitted to the labels.
    pub fit_belief: bool,
    /// Numbers that the model alone has, by name; those not named have their defaults.
    pub belief_options: NamedNumbers,
}

impl Default for BeliefSettings {
    fn default() -> Self {
        let belief_options = NamedNumbers::new();
        Self { group_size: 8, seed: 0, use_history: true, fit_belief: true, belief_options }
    }
}

/// What is expected of one prompt's next group of rollouts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Believed mean pass rate, in (0, 1).
    pub pass_rate: f64,
    /// Probability that the group holds both a success and a failure, in [0, 1].
    pub p_informative: f64,
    /// Standard deviation of that probability over what the pass rate may be.
    pub deviation: f64,
    /// Whether the prompt has a label.
    pub labelled: bool,
}

/// What became of one group of rollouts, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Label {
    /// Prompt index.
    pub prompt: u32,
    /// Rollouts that succeeded.
    pub successes: u32,
    /// Rollouts whose reward is known, at least 1.
    pub rollouts: u32,
    /// Whether the known rewards differ.
    pub informative: bool,
    /// Policy version that generated the rollouts.
    pub version: u32,
    /// 1 / admission (capped), what the label counts for in what is believed of the pool as a
    /// whole.
    pub weight: f64,
}

impl Label {
    /// Share of the known rollouts that succeeded.
    pub fn pass_rate(&self) -> f64 {
        f64::from(self.successes) / f64::from(self.rollouts)
    }
}

/// Which prompts of a whole pool are looked for.
#[derive(Clone, Copy)]
pub struct PoolQuery<'a> {
    /// Prompts wanted.
    pub count: usize,
    /// Version at which they are judged.
    pub version: u32,
    /// Versions since the last label of a prompt that has one, at least.
    pub min_age: u32,
    /// The score is P(informative) and so many of its standard deviations: of prompts without
    /// labels, and with.
    pub deviations: [f64; 2],
    /// Whether a prompt may be among them.
    pub is_free: &'a dyn Fn(u32) -> bool,
}

/// A model of every prompt's pass rate over policy versions.
pub trait Belief {
    /// Takes in a label. Returns whether it is late: older than the newest of its prompt.
    fn observe(&mut self, label: &Label) -> bool;

    /// Stores the text prediction of a prompt's pass rate.
    fn set_prior(&mut self, prompt: u32, predicted_reward: f32);

    /// Forecast at `version` under a text prediction; NaN stands for the stored one.
    fn forecast(&self, prompt: u32, predicted_reward: f32, version: u32) -> Forecast;

    /// The free prompts with the highest scores under their stored text predictions, best first, up
    /// to 2e-3 in the score (for variances of the logit up to 36, groups up to 64 and 2 deviations;
    /// a hundredth or more beyond); fewer if no more are found in the time that a search may take,
    /// none by a model that cannot search. Much less work than a forecast of every prompt.
    fn best_of_pool(&mut self, _query: &PoolQuery) -> Vec<u32> {
        vec![]
    }

    /// A pass rate drawn from what `forecast` summarises, in [0, 1]: a function of the stream
    /// alone, given the belief.
    fn draw_pass_rate(
        &self,
        prompt: u32,
        predicted_reward: f32,
        version: u32,
        stream: Stream,
    ) -> f64;

    /// The parameters that are fitted to the labels, by name, and the base rate of all labels.
    fn parameters(&self) -> Vec<(&'static str, f64)>;

    /// Writes the whole belief into a state.
    fn save<'a>(&'a self, state: &mut StateMap<'a>);

    /// Reads what `save` wrote; prompts follow `carry`.
    ///
    /// # Errors
    /// An entry is missing or unusable; the belief is then in an unspecified state.
    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()>;
}

type Registered = crate::registry::Registered<dyn Belief + Send, BeliefSettings>;

registry! {
    /// The models of pass rates.
    BeliefKind of dyn Belief + Send, built from BeliefSettings, as "belief" in BELIEF {
        /// Beta with a discounted history.
        Beta: beta;
        /// Logit-normal random walk.
        LogitNormal: logit_normal;
    }
}

/// Running mean pass rate of the pool: labels weighted by 1 / admission, the past fading.
#[derive(Debug, Clone, Copy)]
struct BaseRate {
    successes: f64,
    rollouts: f64,
}

impl Default for BaseRate {
    fn default() -> Self {
        Self { successes: 1.0, rollouts: 2.0 }
    }
}

impl BaseRate {
    fn mean(&self) -> f64 {
        (self.successes / self.rollouts).clamp(PRIOR_MARGIN, 1.0 - PRIOR_MARGIN)
    }

    fn observe(&mut self, label: &Label) {
        self.successes = LABEL_MEMORY * self.successes + label.weight * f64::from(label.successes);
        self.rollouts = LABEL_MEMORY * self.rollouts + label.weight * f64::from(label.rollouts);
    }

    fn save(&self, state: &mut StateMap) {
        state.insert("belief.base_rate".into(), vec![self.successes, self.rollouts].into());
    }

    fn restore(&mut self, state: &mut StateReader) -> Result<()> {
        let saved: Vec<f64> = state.array("belief.base_rate", 2)?;
        if !saved.iter().all(|number| number.is_finite() && *number > 0.0) {
            return Err(Error::state_entry(
                "belief.base_rate",
                format!("{saved:?}"),
                "finite numbers above 0",
            ));
        }
        (self.successes, self.rollouts) = (saved[0], saved[1]);
        Ok(())
    }
}
