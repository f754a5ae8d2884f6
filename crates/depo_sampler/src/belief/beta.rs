//! Beta belief with a discounted history.
//!
//! Beta(b r + c m + S, b (1 - r) + c (1 - m) + F): r the running base rate of all labels, m the
//! text prediction (without one, c = 0), S and F the successes and failures so far, discounted by g
//! per policy version. Three parameters are fitted to the labels: b, c and g. With c at 0 text
//! counts for nothing; with a large one it rules for prompts without labels.

use super::fit::Fit;
use super::records::{PromptRecord, Records};
use super::{
    BaseRate, Belief, BeliefSettings, Forecast, LABEL_MEMORY, Label, NamedOption, PRIOR_MARGIN,
    Registered,
};
use crate::error::Result;
use crate::rng::Stream;
use crate::state::{Carry, StateMap, StateReader};
use crate::variates::Variates;
use depo_structures::portable::{ln, power};

const BASE_CONCENTRATION: NamedOption =
    NamedOption { name: "base_concentration", default: 1.0, range: (1e-3, 1e3) };
const TEXT_CONCENTRATION: NamedOption =
    NamedOption { name: "text_concentration", default: 4.0, range: (0.0, 1e3) };
const DISCOUNT: NamedOption = NamedOption { name: "discount", default: 0.97, range: (1e-3, 1.0) };

pub(super) const BELIEF: Registered = Registered {
    name: "beta",
    options: &[BASE_CONCENTRATION, TEXT_CONCENTRATION, DISCOUNT],
    build: |settings, len| Box::new(DiscountedBeta::new(len, settings)),
};

const BASE_CONCENTRATIONS: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];
const TEXT_CONCENTRATIONS: [f64; 9] = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
const DISCOUNTS: [f64; 8] = [0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0];

/// Pseudo-counts of successes and failures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BetaCounts {
    /// Successes.
    pub alpha: f64,
    /// Failures.
    pub beta: f64,
}

impl BetaCounts {
    fn around(mean: f64, concentration: f64) -> Self {
        Self { alpha: concentration * mean, beta: concentration * (1.0 - mean) }
    }

    fn plus(self, other: Self) -> Self {
        Self { alpha: self.alpha + other.alpha, beta: self.beta + other.beta }
    }

    fn times(self, factor: f64) -> Self {
        Self { alpha: factor * self.alpha, beta: factor * self.beta }
    }

    /// Mean of the Beta distribution.
    pub fn mean(self) -> f64 {
        self.alpha / (self.alpha + self.beta)
    }

    /// E[p^`right` (1 - p)^`wrong`]: (a)_right (b)_wrong / (a + b)_(right + wrong), (x)_n = x (x +
    /// 1) ... (x + n - 1).
    fn moment(self, right: usize, wrong: usize) -> f64 {
        let total = self.alpha + self.beta;
        let up = |start: f64, steps: usize, done: usize| {
            (0..steps)
                .map(move |j| (start + j as f64) / (total + (done + j) as f64))
                .product::<f64>()
        };
        up(self.alpha, right, 0) * up(self.beta, wrong, right)
    }

    /// Probability that `group_size` beta-binomial rollouts are neither all right nor all wrong.
    pub fn p_informative(self, group_size: usize) -> f64 {
        (1.0 - self.moment(group_size, 0) - self.moment(0, group_size)).clamp(0.0, 1.0)
    }

    /// Standard deviation of 1 - p^G - (1 - p)^G over this distribution of p.
    fn deviation(self, group_size: usize) -> f64 {
        let (right, wrong) = (self.moment(group_size, 0), self.moment(0, group_size));
        let square = self.moment(2 * group_size, 0)
            + self.moment(0, 2 * group_size)
            + 2.0 * self.moment(group_size, group_size);
        (square - (right + wrong) * (right + wrong)).max(0.0).sqrt()
    }

    /// Log-likelihood of one sequence of `rollouts` with `successes`.
    fn log_likelihood(self, successes: u32, rollouts: u32) -> f64 {
        let rising = |start: f64, steps: u32| {
            (0..steps).map(|step| ln(start + f64::from(step))).sum::<f64>()
        };
        rising(self.alpha, successes) + rising(self.beta, rollouts - successes)
            - rising(self.alpha + self.beta, rollouts)
    }
}

/// Successes and failures at `version`; at the record's own version if that is newer.
fn faded(record: &PromptRecord, version: u32, discount: f64) -> BetaCounts {
    let [alpha, beta] = record.history.map(f64::from);
    BetaCounts { alpha, beta }.times(power(discount, version.saturating_sub(record.version)))
}

/// The belief of the module's description.
#[derive(Debug, Clone)]
pub struct DiscountedBeta {
    group_size: usize,
    use_history: bool,
    /// Successes and failures, discounted to the version of the newest.
    records: Records,
    base_rate: BaseRate,
    /// [base concentration, text concentration].
    prior: Fit<2>,
    /// [discount].
    memory: Fit<1>,
}

impl DiscountedBeta {
    /// Nothing is known of any of `len` prompts.
    pub fn new(len: usize, settings: &BeliefSettings) -> Self {
        let [base, text, discount] = [BASE_CONCENTRATION, TEXT_CONCENTRATION, DISCOUNT]
            .map(|option| option.of(&settings.belief_options));
        let priors = BASE_CONCENTRATIONS
            .into_iter()
            .flat_map(|base| TEXT_CONCENTRATIONS.map(|text| [base, text]));
        Self {
            group_size: settings.group_size,
            use_history: settings.use_history,
            records: Records::new(len, ["belief.successes", "belief.failures"]),
            base_rate: BaseRate::default(),
            prior: Fit::new(
                "belief.prior",
                [base, text],
                priors,
                LABEL_MEMORY,
                settings.fit_belief,
            ),
            memory: Fit::new(
                "belief.memory",
                [discount],
                DISCOUNTS.into_iter().map(|discount| [discount]),
                LABEL_MEMORY,
                settings.fit_belief,
            ),
        }
    }

    /// The prior, and the history as far as it is used.
    fn believed(
        &self,
        history: BetaCounts,
        predicted_reward: f32,
        [base, text]: [f64; 2],
    ) -> BetaCounts {
        let mut prior = BetaCounts::around(self.base_rate.mean(), base);
        if !predicted_reward.is_nan() {
            prior = prior.plus(BetaCounts::around(
                f64::from(predicted_reward).clamp(PRIOR_MARGIN, 1.0 - PRIOR_MARGIN),
                text,
            ));
        }
        if self.use_history { prior.plus(history) } else { prior }
    }

    fn posterior(&self, prompt: u32, predicted_reward: f32, version: u32) -> BetaCounts {
        let record = self.records.under(prompt, predicted_reward);
        self.believed(
            faded(&record, version, self.memory.value()[0]),
            record.predicted_reward,
            self.prior.value(),
        )
    }

    /// Fits the parameters to a label that is about to be taken in.
    fn learn(&mut self, record: &PromptRecord, label: &Label) {
        let log_likelihood =
            |counts: BetaCounts| counts.log_likelihood(label.successes, label.rollouts);
        let ([discount], prior) = (self.memory.value(), self.prior.value());
        let now = faded(record, label.version, discount);
        let likelihood =
            |&prior: &[f64; 2]| log_likelihood(self.believed(now, record.predicted_reward, prior));
        let priors = self.prior.likelihoods(|settings| settings.iter().map(likelihood).collect());
        self.prior.observe(priors);
        if self.use_history && record.is_labelled() && label.version > record.version {
            let history = |discount| faded(record, label.version, discount);
            let likelihood = |&[discount]: &[f64; 1]| {
                log_likelihood(self.believed(history(discount), record.predicted_reward, prior))
            };
            let memories =
                self.memory.likelihoods(|settings| settings.iter().map(likelihood).collect());
            self.memory.observe(memories);
        }
    }
}

impl Belief for DiscountedBeta {
    fn observe(&mut self, label: &Label) -> bool {
        let record = self.records.of(label.prompt);
        self.learn(&record, label);
        let [discount] = self.memory.value();
        // A late label fades as if it had come in time; the prompt's clock stays where it is.
        let lateness = record.version.saturating_sub(label.version);
        let failures = label.rollouts - label.successes;
        let seen = BetaCounts { alpha: label.successes.into(), beta: failures.into() }
            .times(power(discount, lateness));
        let counts = faded(&record, label.version, discount).plus(seen);
        self.base_rate.observe(label);
        self.records.set_history(label, [counts.alpha, counts.beta])
    }

    fn set_prior(&mut self, prompt: u32, predicted_reward: f32) {
        self.records.set_prior(prompt, predicted_reward);
    }

    fn forecast(&self, prompt: u32, predicted_reward: f32, version: u32) -> Forecast {
        let posterior = self.posterior(prompt, predicted_reward, version);
        Forecast {
            pass_rate: posterior.mean(),
            p_informative: posterior.p_informative(self.group_size),
            deviation: posterior.deviation(self.group_size),
            labelled: self.records.is_labelled(prompt),
        }
    }

    fn draw_pass_rate(
        &self,
        prompt: u32,
        predicted_reward: f32,
        version: u32,
        stream: Stream,
    ) -> f64 {
        let BetaCounts { alpha, beta } = self.posterior(prompt, predicted_reward, version);
        Variates::new(stream).beta(alpha, beta)
    }

    fn parameters(&self) -> Vec<(&'static str, f64)> {
        let ([base, text], [discount]) = (self.prior.value(), self.memory.value());
        vec![
            ("base_rate", self.base_rate.mean()),
            ("base_concentration", base),
            ("text_concentration", text),
            ("discount", discount),
        ]
    }

    fn save<'a>(&'a self, state: &mut StateMap<'a>) {
        self.records.save(state);
        self.base_rate.save(state);
        self.prior.save(state);
        self.memory.save(state);
    }

    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        self.records.restore(state, carry, true)?;
        self.base_rate.restore(state)?;
        self.prior.restore(state)?;
        self.memory.restore(state)
    }
}
