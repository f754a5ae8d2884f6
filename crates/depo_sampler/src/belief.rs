//! What is believed of each prompt's pass rate: a prior from its text, fused with its discounted history.

use crate::concentration::Concentration;
use crate::error::Result;
use crate::state::{Carry, StateMap, StateReader};

/// Predictions are kept this far from 0 and 1, so that a prior never excludes an outcome.
const PRIOR_MARGIN: f64 = 1e-3;

/// Share of its weight that a label keeps in the running base rate when the next one arrives.
pub(crate) const LABEL_MEMORY: f64 = 0.999;

/// What is expected of one prompt's next group of rollouts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Believed mean pass rate, in (0, 1).
    pub pass_rate: f64,
    /// Probability that the group holds both a success and a failure, in [0, 1].
    pub p_informative: f64,
}

/// A model of every prompt's pass rate over policy versions.
pub trait Belief {
    /// Takes in `successes` of `rollouts` (known ones) that policy `version` made of a prompt. `weight`, 1 / admission, is what the label
    /// counts for in what is believed of the pool as a whole. Returns whether the label is late: older than the newest of that prompt.
    fn observe(&mut self, prompt: u32, successes: u32, rollouts: u32, version: u32, weight: f64) -> bool;

    /// Stores the text prediction of a prompt's pass rate.
    fn set_prior(&mut self, prompt: u32, predicted_reward: f32);

    /// Forecast at `version` under a text prediction; NaN stands for the stored one.
    fn forecast(&self, prompt: u32, predicted_reward: f32, version: u32) -> Forecast;

    /// Rollouts that the text prediction counts for.
    fn concentration(&self) -> f64;

    /// Writes the whole belief into a state.
    fn save(&self, state: &mut StateMap);

    /// Reads what `save` wrote; prompts follow `carry`.
    ///
    /// # Errors
    /// An entry is missing or unusable; the belief is then in an unspecified state.
    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()>;
}

/// Pseudo-counts of successes and failures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BetaCounts {
    /// Successes.
    pub alpha: f64,
    /// Failures.
    pub beta: f64,
}

impl BetaCounts {
    /// Mean of the Beta distribution.
    pub fn mean(self) -> f64 {
        self.alpha / (self.alpha + self.beta)
    }

    /// Probability that `group_size` beta-binomial rollouts are neither all right nor all wrong:
    /// 1 - prod (a+j)/(a+b+j) - prod (b+j)/(a+b+j) over j < G.
    pub fn p_informative(self, group_size: usize) -> f64 {
        let (mut all_right, mut all_wrong) = (1.0, 1.0);
        for j in 0..group_size {
            let j = j as f64;
            let total = self.alpha + self.beta + j;
            all_right *= (self.alpha + j) / total;
            all_wrong *= (self.beta + j) / total;
        }
        (1.0 - all_right - all_wrong).clamp(0.0, 1.0)
    }
}

#[derive(Debug, Clone, Copy)]
struct PromptRecord {
    successes: f32,
    failures: f32,
    version: u32,
    predicted_reward: f32,
}

const UNKNOWN_PROMPT: PromptRecord = PromptRecord { successes: 0.0, failures: 0.0, version: 0, predicted_reward: f32::NAN };

/// Settings of `DiscountedBeta`.
#[derive(Debug, Clone, Copy)]
pub struct BetaSettings {
    /// Rollouts of a group, G.
    pub group_size: usize,
    /// Weight of a past result after one policy version, in (0, 1].
    pub discount: f64,
    /// Whether forecasts use the history; it is recorded in any case.
    pub use_history: bool,
    /// Rollouts that the text prediction counts for, to begin with.
    pub prior_concentration: f64,
    /// Whether that is learned from incoming labels.
    pub learn_concentration: bool,
}

/// Beta(c m + S, c (1 - m) + F): m the text prediction (without one, the running base rate of all labels), S and F the successes and
/// failures so far, discounted by g per policy version.
#[derive(Debug, Clone)]
pub struct DiscountedBeta {
    settings: BetaSettings,
    records: Vec<PromptRecord>,
    base_successes: f64,
    base_rollouts: f64,
    concentration: Concentration,
}

impl DiscountedBeta {
    /// Nothing is known of any of `len` prompts.
    pub fn new(len: usize, settings: BetaSettings) -> Self {
        Self {
            settings,
            records: vec![UNKNOWN_PROMPT; len],
            base_successes: 1.0,
            base_rollouts: 2.0,
            concentration: Concentration::new(settings.prior_concentration, settings.learn_concentration),
        }
    }

    fn prior_mean(&self, predicted_reward: f32) -> f64 {
        let mean = if predicted_reward.is_nan() { self.base_successes / self.base_rollouts } else { f64::from(predicted_reward) };
        mean.clamp(PRIOR_MARGIN, 1.0 - PRIOR_MARGIN)
    }

    /// History at `version`; at its own version if that is newer.
    fn history(&self, record: &PromptRecord, version: u32) -> BetaCounts {
        let weight = power(self.settings.discount, version.saturating_sub(record.version));
        BetaCounts { alpha: weight * f64::from(record.successes), beta: weight * f64::from(record.failures) }
    }

    fn posterior(&self, record: &PromptRecord, predicted_reward: f32, version: u32) -> BetaCounts {
        let mean = self.prior_mean(predicted_reward);
        let concentration = self.concentration.value();
        let mut counts = BetaCounts { alpha: concentration * mean, beta: concentration * (1.0 - mean) };
        if self.settings.use_history {
            let history = self.history(record, version);
            counts.alpha += history.alpha;
            counts.beta += history.beta;
        }
        counts
    }
}

impl Belief for DiscountedBeta {
    fn observe(&mut self, prompt: u32, successes: u32, rollouts: u32, version: u32, weight: f64) -> bool {
        let record = self.records[prompt as usize];
        let history = self.history(&record, version);
        let known = if self.settings.use_history { history } else { BetaCounts { alpha: 0.0, beta: 0.0 } };
        self.concentration.observe(self.prior_mean(record.predicted_reward), known, successes, rollouts);
        // A late label fades as if it had come in time; the prompt's clock stays where it is.
        let faded = power(self.settings.discount, record.version.saturating_sub(version));
        let failures = rollouts - successes;
        self.records[prompt as usize] = PromptRecord {
            successes: (history.alpha + faded * f64::from(successes)) as f32,
            failures: (history.beta + faded * f64::from(failures)) as f32,
            version: record.version.max(version),
            ..record
        };
        self.base_successes = LABEL_MEMORY * self.base_successes + weight * f64::from(successes);
        self.base_rollouts = LABEL_MEMORY * self.base_rollouts + weight * f64::from(rollouts);
        version < record.version
    }

    fn set_prior(&mut self, prompt: u32, predicted_reward: f32) {
        self.records[prompt as usize].predicted_reward = predicted_reward;
    }

    fn forecast(&self, prompt: u32, predicted_reward: f32, version: u32) -> Forecast {
        let record = &self.records[prompt as usize];
        let predicted_reward = if predicted_reward.is_nan() { record.predicted_reward } else { predicted_reward };
        let posterior = self.posterior(record, predicted_reward, version);
        Forecast { pass_rate: posterior.mean(), p_informative: posterior.p_informative(self.settings.group_size) }
    }

    fn concentration(&self) -> f64 {
        self.concentration.value()
    }

    fn save(&self, state: &mut StateMap) {
        let column = |field: fn(&PromptRecord) -> f32| self.records.iter().map(field).collect::<Vec<f32>>();
        state.insert("belief.successes".into(), column(|record| record.successes).into());
        state.insert("belief.failures".into(), column(|record| record.failures).into());
        state.insert("belief.predicted_rewards".into(), column(|record| record.predicted_reward).into());
        let versions: Vec<u32> = self.records.iter().map(|record| record.version).collect();
        state.insert("belief.versions".into(), versions.into());
        state.insert("belief.base_rate".into(), vec![self.base_successes, self.base_rollouts].into());
        self.concentration.save(state);
    }

    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let len = carry.saved_len();
        let successes: Vec<f32> = state.array("belief.successes", len)?;
        let failures: Vec<f32> = state.array("belief.failures", len)?;
        let predicted_rewards: Vec<f32> = state.array("belief.predicted_rewards", len)?;
        let versions: Vec<u32> = state.array("belief.versions", len)?;
        let saved: Vec<PromptRecord> = (0..len)
            .map(|prompt| PromptRecord {
                successes: successes[prompt],
                failures: failures[prompt],
                version: versions[prompt],
                predicted_reward: predicted_rewards[prompt],
            })
            .collect();
        self.records = carry.gather(&saved, UNKNOWN_PROMPT);
        let base_rate: Vec<f64> = state.array("belief.base_rate", 2)?;
        (self.base_successes, self.base_rollouts) = (base_rate[0], base_rate[1]);
        self.concentration.restore(state)
    }
}

/// base^exponent by squaring: multiplications only, so the same bits on every platform.
pub(crate) fn power(base: f64, exponent: u32) -> f64 {
    let (mut result, mut factor, mut rest) = (1.0, base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            result *= factor;
        }
        factor *= factor;
        rest >>= 1;
    }
    result
}
