//! Logit-normal state-space belief: each prompt's logit pass rate is a random walk with drift, seen
//! through its labels and its text.
//!
//! Per prompt a Gaussian over x = logit(pass rate), moved by x' = (1 + spread) x + drift + N(0,
//! noise) per policy version (process noise as in Kalman filters; KGPS, arXiv 2607.27610, does so
//! per prompt), and updated by moment matching on the binomial likelihood. The text prediction is a
//! second, independent opinion, N(logit of the prediction, 1 / precision), fused on demand and
//! never stored: its newest version counts, and a precision of 0 makes it count for nothing. Six
//! parameters are fitted to the labels: variance of a prompt never labeled, text precision without
//! and with labels, drift, noise, spread. Spread is what keeps the belief calibrated for
//! prompts without recent labels. Over training, solved prompts get safer and failed ones fall
//! behind, so without it rejected prompts are believed better than they are.

use super::fit::Fit;
use super::logit_gaussian::{Dynamics, LogitGaussian, growth, logit};
use super::present::Present;
use super::records::{PromptRecord, Records};
use super::search::PoolSearch;
use super::{
    BaseRate, Belief, BeliefSettings, Forecast, Label, NamedOption, PoolQuery, Registered,
};
use crate::error::Result;
use crate::rng::{Permutation, Stream, derive_key};
use crate::state::{Carry, StateMap, StateReader};
use crate::variates::Variates;
use depo_structures::portable::exp;

/// Variance of the logit pass rate of a prompt that was never labeled.
const PRIOR_VARIANCE: NamedOption =
    NamedOption { name: "prior_variance", default: 5.0, range: (1e-2, 1e2) };

/// 1 / variance of the logit pass rate around the text prediction.
const TEXT_PRECISION: NamedOption =
    NamedOption { name: "text_precision", default: 0.5, range: (0.0, 1e2) };

/// The same for a prompt with labels, where the text adds less, for the labels have shown how it
/// errs.
const TEXT_PRECISION_LABELLED: NamedOption =
    NamedOption { name: "text_precision_labelled", default: 0.1, range: (0.0, 1e2) };

/// Expected change of a logit pass rate per policy version.
const DRIFT: NamedOption = NamedOption { name: "drift", default: 0.0, range: (-1.0, 1.0) };

/// Variance of that change.
const NOISE: NamedOption = NamedOption { name: "noise", default: 0.01, range: (1e-6, 10.0) };

/// Rate at which logit pass rates move away from 0 per policy version.
const SPREAD: NamedOption = NamedOption { name: "spread", default: 0.0, range: (-0.5, 0.5) };

pub(super) const BELIEF: Registered = Registered {
    name: "logit_normal",
    options: &[PRIOR_VARIANCE, TEXT_PRECISION, TEXT_PRECISION_LABELLED, DRIFT, NOISE, SPREAD],
    build: |settings, len| Box::new(LogitNormal::new(len, settings)),
};

const PRIOR_VARIANCES: [f64; 6] = [1.0, 2.5, 5.0, 9.0, 14.0, 20.0];
const TEXT_PRECISIONS: [f64; 8] = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0];
const DRIFTS: [f64; 9] = [-0.1, -0.03, -0.01, 0.0, 0.01, 0.02, 0.03, 0.05, 0.1];
const NOISES: [f64; 6] = [1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1];
const SPREADS: [f64; 7] = [-0.02, -0.005, 0.0, 0.002, 0.005, 0.01, 0.02];

/// What first labels say of text fades within some hundred of them, for the estimator learns while
/// prompts run out.
const FIRST_MEMORY: f64 = 0.99;
const MEMORY: f64 = 0.999;

/// Drift and noise are small beside the noise of one label.
const LONG_MEMORY: f64 = 0.9998;

/// What is believed of a prompt by its labels up to the newest.
fn state(record: &PromptRecord) -> LogitGaussian {
    let [mean, variance] = record.history.map(f64::from);
    LogitGaussian { mean, variance }
}

/// The belief of the module's description.
#[derive(Debug, Clone)]
pub struct LogitNormal {
    group_size: usize,
    use_history: bool,
    /// Mean and variance of the logit pass rate at the version of the newest label.
    records: Records,
    base_rate: BaseRate,
    /// [prior variance, text precision] of prompts without labels.
    prior: Fit<2>,
    /// [text precision] of prompts with labels.
    reminder: Fit<1>,
    /// [drift, noise].
    movement: Fit<2>,
    spread: Fit<1>,
    /// Order in which prompts of which nothing is known are looked for.
    seed: u64,
    /// Laid out at the first search.
    search: Option<PoolSearch>,
}

impl LogitNormal {
    /// Nothing is known of any of `len` prompts.
    pub fn new(len: usize, settings: &BeliefSettings) -> Self {
        let [variance, precision, reminder, drift, noise, spread] =
            [PRIOR_VARIANCE, TEXT_PRECISION, TEXT_PRECISION_LABELLED, DRIFT, NOISE, SPREAD]
                .map(|option| option.of(&settings.belief_options));
        let fit = settings.fit_belief;
        let priors = PRIOR_VARIANCES
            .into_iter()
            .flat_map(|variance| TEXT_PRECISIONS.map(|precision| [variance, precision]));
        let movements = DRIFTS.into_iter().flat_map(|drift| NOISES.map(|noise| [drift, noise]));
        Self {
            group_size: settings.group_size,
            use_history: settings.use_history,
            records: Records::new(len, ["belief.means", "belief.variances"]),
            base_rate: BaseRate::default(),
            prior: Fit::new("belief.prior", [variance, precision], priors, FIRST_MEMORY, fit),
            reminder: Fit::new(
                "belief.reminder",
                [reminder],
                TEXT_PRECISIONS.map(|precision| [precision]).into_iter(),
                MEMORY,
                fit,
            ),
            movement: Fit::new("belief.movement", [drift, noise], movements, LONG_MEMORY, fit),
            spread: Fit::new(
                "belief.spread",
                [spread],
                SPREADS.map(|spread| [spread]).into_iter(),
                LONG_MEMORY,
                fit,
            ),
            seed: settings.seed,
            search: None,
        }
    }

    /// What all labels say of a prompt without any.
    fn without_labels(&self) -> LogitGaussian {
        LogitGaussian::around(logit(self.base_rate.mean()), self.prior.value()[0])
    }

    /// What a prompt's labels say at `version`, or at its own version if that is newer; without
    /// labels, what all labels say.
    fn walk(&self, record: &PromptRecord, version: u32) -> LogitGaussian {
        if !record.is_labelled() || !self.use_history {
            return self.without_labels();
        }
        state(record).after(f64::from(version.saturating_sub(record.version)), self.dynamics())
    }

    fn text_precision(&self, record: &PromptRecord) -> f64 {
        if record.is_labelled() && self.use_history {
            self.reminder.value()[0]
        } else {
            self.prior.value()[1]
        }
    }

    fn dynamics(&self) -> Dynamics {
        let ([drift, noise], [spread]) = (self.movement.value(), self.spread.value());
        Dynamics { drift, noise, spread }
    }

    fn believed(&self, prompt: u32, predicted_reward: f32, version: u32) -> LogitGaussian {
        let record = self.records.under(prompt, predicted_reward);
        with_text(self.walk(&record, version), record.text(), self.text_precision(&record))
    }

    /// Keeps the index up to date with a record that has changed.
    fn note(&mut self, prompt: u32) {
        if let Some(search) = &mut self.search {
            search.note(prompt, &self.records);
        }
    }

    /// Fits the parameters to a label that is about to be taken in.
    fn learn(&mut self, record: &PromptRecord, label: &Label) {
        if record.is_labelled() && self.use_history {
            self.learn_movement(record, label);
            return;
        }
        let (base, text) = (logit(self.base_rate.mean()), record.text());
        let prior = |&[variance, precision]: &[f64; 2]| {
            with_text(LogitGaussian::around(base, variance), text, precision)
        };
        let priors = self.prior.likelihoods(|settings| {
            let priors: Vec<LogitGaussian> = settings.iter().map(prior).collect();
            LogitGaussian::log_likelihoods(&priors, label.successes, label.rollouts)
        });
        self.prior.observe(priors);
    }

    /// The part of `learn` that concerns prompts with labels.
    fn learn_movement(&mut self, record: &PromptRecord, label: &Label) {
        let Some(elapsed) = label.version.checked_sub(record.version) else { return };
        let ([precision], current) = (self.reminder.value(), self.dynamics());
        let (state, text, elapsed) = (state(record), record.text(), f64::from(elapsed));
        let likelihoods = |beliefs: Vec<LogitGaussian>| {
            LogitGaussian::rough_log_likelihoods(&beliefs, label.successes, label.rollouts)
        };
        if text.is_some() {
            let now = state.after(elapsed, current);
            let believed = |&[precision]: &[f64; 1]| with_text(now, text, precision);
            let reminders = self
                .reminder
                .likelihoods(|settings| likelihoods(settings.iter().map(believed).collect()));
            self.reminder.observe(reminders);
        }
        if elapsed > 0.0 {
            let growth = growth(elapsed, current.spread);
            let moved = |&[drift, noise]: &[f64; 2]| {
                with_text(
                    state.moved(elapsed, growth, Dynamics { drift, noise, ..current }),
                    text,
                    precision,
                )
            };
            let spread = |&[spread]: &[f64; 1]| {
                with_text(state.after(elapsed, Dynamics { spread, ..current }), text, precision)
            };
            let movements = self
                .movement
                .likelihoods(|settings| likelihoods(settings.iter().map(moved).collect()));
            let spreads = self
                .spread
                .likelihoods(|settings| likelihoods(settings.iter().map(spread).collect()));
            self.movement.observe(movements);
            self.spread.observe(spreads);
        }
    }
}

/// Fuses the evidence of labels with that of the text.
fn with_text(walk: LogitGaussian, text: Option<f64>, precision: f64) -> LogitGaussian {
    match text {
        Some(text) if precision > 0.0 => walk.fused(LogitGaussian::around(text, 1.0 / precision)),
        _ => walk,
    }
}

impl Belief for LogitNormal {
    fn observe(&mut self, label: &Label) -> bool {
        let record = self.records.of(label.prompt);
        self.learn(&record, label);
        // A late label is weighed at its own time; the state then walks on to the time of the
        // newest.
        let (lag, dynamics) =
            (f64::from(record.version.saturating_sub(label.version)), self.dynamics());
        let newest = self.walk(&record, label.version);
        let then =
            with_text(newest.after(-lag, dynamics), record.text(), self.text_precision(&record));
        let given = then.given(label.successes, label.rollouts);
        let LogitGaussian { mean, variance } =
            newest.learning(then.after(lag, dynamics), given.after(lag, dynamics));
        self.base_rate.observe(label);
        let late = self.records.set_history(label, [mean, variance]);
        self.note(label.prompt);
        late
    }

    fn set_prior(&mut self, prompt: u32, predicted_reward: f32) {
        self.records.set_prior(prompt, predicted_reward);
        self.note(prompt);
    }

    fn best_of_pool(&mut self, query: &PoolQuery) -> Vec<u32> {
        let laid_out = || {
            let order = Permutation::new(derive_key(self.seed, "unknown", &[]), self.records.len());
            PoolSearch::new(&self.records, self.group_size, order)
        };
        let mut search = self.search.take().unwrap_or_else(laid_out);
        let text_precisions = [self.prior.value()[1], self.reminder.value()[0]];
        let present = Present::new(
            [query.version, query.min_age],
            self.without_labels(),
            self.dynamics(),
            text_precisions,
        );
        let best = search.best(query, &self.records, &present);
        self.search = Some(search);
        best
    }

    fn forecast(&self, prompt: u32, predicted_reward: f32, version: u32) -> Forecast {
        let outlook = self.believed(prompt, predicted_reward, version).outlook(self.group_size);
        Forecast {
            pass_rate: outlook.pass_rate,
            p_informative: outlook.p_informative,
            deviation: outlook.deviation,
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
        let LogitGaussian { mean, variance } = self.believed(prompt, predicted_reward, version);
        1.0 / (1.0 + exp(-(mean + variance.sqrt() * Variates::new(stream).normal())))
    }

    fn parameters(&self) -> Vec<(&'static str, f64)> {
        let ([prior_variance, text_precision], dynamics) = (self.prior.value(), self.dynamics());
        vec![
            ("base_rate", self.base_rate.mean()),
            ("prior_variance", prior_variance),
            ("text_precision", text_precision),
            ("text_precision_labelled", self.reminder.value()[0]),
            ("drift", dynamics.drift),
            ("noise", dynamics.noise),
            ("spread", dynamics.spread),
        ]
    }

    fn save<'a>(&'a self, state: &mut StateMap<'a>) {
        self.records.save(state);
        self.base_rate.save(state);
        self.prior.save(state);
        self.reminder.save(state);
        self.movement.save(state);
        self.spread.save(state);
    }

    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        self.search = None;
        self.records.restore(state, carry, false)?;
        self.base_rate.restore(state)?;
        self.prior.restore(state)?;
        self.reminder.restore(state)?;
        self.movement.restore(state)?;
        self.spread.restore(state)
    }
}

#[cfg(test)]
mod tests;
