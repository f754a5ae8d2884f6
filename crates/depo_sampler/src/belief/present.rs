//! What the belief's present parameters make of many records at a time, and of boxes of records,
//! for a search.
//!
//! The same as `LogitNormal` makes of one, but for rounding.

#![allow(clippy::inline_always, reason = "what is called in loops becomes vector instructions")]

use depo_structures::Bounds;

use super::PRIOR_MARGIN;
use super::logit_gaussian::{Dynamics, LogitGaussian, growth, logit};
use super::records::PromptRecord;
use crate::vectors::wide;

/// Mean, standard deviation, version of the newest label, logit of the text prediction.
pub(super) type Point = [f32; 4];

/// What stands for the version of a prompt that was never labeled: below all others, as no version
/// is negative.
const UNLABELLED: f32 = -1.0;

/// What stands for the logit of a prediction that was never made, and a number below that of every
/// prediction.
const NO_TEXT: f32 = -16.0;
const LEAST_TEXT: f32 = -8.0;

/// Where points may be.
pub(super) const REGION: Bounds<4> =
    [[-18.0, 18.0], [0.0, 16.0], [-4_294_967_296.0, 4_294_967_296.0], [NO_TEXT, 16.0]];

/// About as much of each moves a score equally far: a version adds some hundredths to mean and
/// variance, text weighs a quarter.
pub(super) const UNITS: Point = [1.0, 1.0, 64.0, 4.0];

/// Where a record lies.
pub(super) fn point(record: &PromptRecord) -> Point {
    let text = record.text().map_or(NO_TEXT, |text| text as f32);
    let [mean, variance] = record.history;
    if record.is_labelled() {
        [mean, variance.sqrt(), record.version as f32, text]
    } else {
        [0.0, 0.0, UNLABELLED, text]
    }
}

/// Elapsed versions of which the growth is remembered.
const REMEMBERED: u32 = 4096;

/// Records whose scores are computed at a time.
pub(super) const LANES: usize = 16;

/// Some beliefs on their way to the present, lane by lane.
#[derive(Debug, Clone, Copy)]
struct Lanes {
    means: [f64; LANES],
    variances: [f64; LANES],
    elapsed: [f64; LANES],
    growths: [f64; LANES],
    predicted_rewards: [f64; LANES],
    precisions: [f64; LANES],
    factors: [f64; LANES],
}

/// Means and variances after the time that has elapsed, with the text.
fn believed(lanes: &Lanes, dynamics: Dynamics) -> [[f64; LANES]; 2] {
    wide(
        #[inline(always)]
        || {
            let (mut means, mut variances) = (lanes.means, lanes.variances);
            for lane in 0..LANES {
                let (growth, elapsed, precision) =
                    (lanes.growths[lane], lanes.elapsed[lane], lanes.precisions[lane]);
                let mean =
                    LogitGaussian::within_reach(means[lane] * growth + dynamics.drift * elapsed);
                let variance = variances[lane] * growth * growth + dynamics.noise * elapsed;
                let text = logit(lanes.predicted_rewards[lane]) * lanes.factors[lane];
                let share = 1.0 / (1.0 + precision * variance);
                means[lane] = mean + (1.0 - share) * (text - mean);
                variances[lane] = variance * share;
            }
            [means, variances]
        },
    )
}

/// How much text counts.
#[derive(Debug, Clone, Copy)]
struct TextWeight {
    precision: f64,
    /// From the logit of a prediction to the mean of a Gaussian of this precision around it.
    factor: f64,
}

impl TextWeight {
    fn new(precision: f64) -> Self {
        // Without any precision the Gaussian would be infinitely wide.
        let factor =
            if precision > 0.0 { LogitGaussian::around(1.0, 1.0 / precision).mean } else { 0.0 };
        Self { precision, factor }
    }
}

/// The parameters at one version.
#[derive(Debug, Clone)]
pub(super) struct Present {
    version: u32,
    /// Versions since the last label, at least.
    min_age: u32,
    /// What is believed of a prompt without labels and text.
    pub prior: LogitGaussian,
    dynamics: Dynamics,
    /// Of prompts without labels, and with.
    texts: [TextWeight; 2],
    /// By elapsed versions.
    growths: Vec<f64>,
}

impl Present {
    /// `text_precisions`: of prompts without labels, and with.
    pub fn new(
        [version, min_age]: [u32; 2],
        prior: LogitGaussian,
        dynamics: Dynamics,
        text_precisions: [f64; 2],
    ) -> Self {
        let growths = (0..=version.min(REMEMBERED))
            .map(|elapsed| growth(f64::from(elapsed), dynamics.spread))
            .collect();
        Self {
            version,
            min_age,
            prior,
            dynamics,
            texts: text_precisions.map(TextWeight::new),
            growths,
        }
    }

    /// Whether the last label of a prompt, if it has any, is old enough.
    pub fn has_rested(&self, record: &PromptRecord) -> bool {
        !record.is_labelled() || self.version.saturating_sub(record.version) >= self.min_age
    }

    /// Whether a record of a box may have rested.
    pub fn may_have_rested(&self, &[_, _, version, _]: &Bounds<4>) -> bool {
        // A prompt labeled after the present version has age 0.
        self.min_age == 0
            || version[0] < 0.0
            || f64::from(version[0].next_down())
                <= f64::from(self.version) - f64::from(self.min_age)
    }

    fn growth(&self, elapsed: u32) -> f64 {
        self.growths
            .get(elapsed as usize)
            .copied()
            .unwrap_or_else(|| growth(f64::from(elapsed), self.dynamics.spread))
    }

    /// What is believed of up to `LANES` prompts.
    pub fn believed(&self, records: &[PromptRecord]) -> impl Iterator<Item = LogitGaussian> {
        let ones = [1.0; LANES];
        let mut lanes = Lanes {
            means: [self.prior.mean; LANES],
            variances: [self.prior.variance; LANES],
            elapsed: [0.0; LANES],
            growths: ones,
            predicted_rewards: [0.5; LANES],
            precisions: [0.0; LANES],
            factors: ones,
        };
        for (lane, record) in records.iter().enumerate() {
            if record.is_labelled() {
                [lanes.means[lane], lanes.variances[lane]] = record.history.map(f64::from);
                let elapsed = self.version.saturating_sub(record.version);
                (lanes.elapsed[lane], lanes.growths[lane]) =
                    (f64::from(elapsed), self.growth(elapsed));
            }
            let predicted_reward = f64::from(record.predicted_reward);
            if !predicted_reward.is_nan() {
                let text = self.texts[usize::from(record.is_labelled())];
                lanes.predicted_rewards[lane] =
                    predicted_reward.clamp(PRIOR_MARGIN, 1.0 - PRIOR_MARGIN);
                (lanes.precisions[lane], lanes.factors[lane]) = (text.precision, text.factor);
            }
        }
        let [means, variances] = believed(&lanes, self.dynamics);
        means
            .into_iter()
            .zip(variances)
            .map(|(mean, variance)| LogitGaussian { mean, variance })
            .take(records.len())
    }

    /// What is believed of the records in a box, and whether they are labeled; none if some are
    /// and some are not, or some have a text alone.
    pub fn believed_in(
        &self,
        &[mean, deviation, version, text]: &Bounds<4>,
    ) -> Option<(bool, Believed)> {
        let (labelled, has_text) = (version[0] >= 0.0, text[0] >= LEAST_TEXT);
        if (!labelled && version[1] > 0.0) || (!has_text && text[1] > LEAST_TEXT) {
            return None;
        }
        let walk = if labelled {
            let variances = deviation.map(|deviation| f64::from(deviation) * f64::from(deviation));
            self.after(Believed { means: mean.map(f64::from), variances }, version)
        } else {
            Believed { means: [self.prior.mean; 2], variances: [self.prior.variance; 2] }
        };
        Some((
            labelled,
            if has_text {
                walk.fused(text.map(f64::from), self.texts[usize::from(labelled)])
            } else {
                walk
            },
        ))
    }

    /// The present of beliefs of these versions.
    fn after(
        &self,
        Believed { means: [low, high], variances }: Believed,
        versions: [f32; 2],
    ) -> Believed {
        // A version as f32 is off by less than a step of that format.
        let elapsed = [versions[1].next_up(), versions[0].next_down()]
            .map(|version| self.version.saturating_sub(version.ceil() as u32));
        let growths = sorted([elapsed[0], elapsed[1]].map(|elapsed| self.growth(elapsed)));
        let elapsed = elapsed.map(f64::from);
        let drifts = sorted(elapsed.map(|elapsed| self.dynamics.drift * elapsed));
        let means = [
            (low * growths[0]).min(low * growths[1]) + drifts[0],
            (high * growths[0]).max(high * growths[1]) + drifts[1],
        ];
        let variance = |end: usize| {
            variances[end] * growths[end] * growths[end] + self.dynamics.noise * elapsed[end]
        };
        Believed {
            means: means.map(LogitGaussian::within_reach),
            variances: [variance(0), variance(1)],
        }
    }
}

/// Least and greatest mean and variance of some beliefs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Believed {
    means: [f64; 2],
    pub variances: [f64; 2],
}

impl Believed {
    fn fused(self, texts: [f64; 2], TextWeight { precision, factor }: TextWeight) -> Self {
        let shares = self.variances.map(|variance| 1.0 / (1.0 + precision * variance));
        let mean = |end: usize, share: f64| {
            self.means[end] + (1.0 - share) * (texts[end] * factor - self.means[end])
        };
        let means = [
            mean(0, shares[0]).min(mean(0, shares[1])),
            mean(1, shares[0]).max(mean(1, shares[1])),
        ];
        Self { means, variances: [self.variances[0] * shares[0], self.variances[1] * shares[1]] }
    }

    /// Least and greatest distance of a mean from 0.
    pub fn distances(&self) -> [f64; 2] {
        let [low, high] = self.means;
        [low.max(-high).max(0.0), high.max(-low)]
    }
}

fn sorted([a, b]: [f64; 2]) -> [f64; 2] {
    [a.min(b), a.max(b)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = PromptRecord> {
        let numbers = (-18.0..18.0_f32, 1e-4..50.0_f32, 0..3000_u32, 0.0..=1.0_f32);
        numbers.prop_map(|(mean, variance, version, predicted_reward)| PromptRecord {
            history: [mean, variance],
            version,
            predicted_reward,
        })
    }

    /// The least box that holds the points of some records.
    fn box_of(records: &[PromptRecord]) -> [[f32; 2]; 4] {
        let points: Vec<Point> = records.iter().map(point).collect();
        std::array::from_fn(|axis| {
            [f32::min, f32::max].map(|extreme| {
                points.iter().map(|point| point[axis]).reduce(extreme).expect("records")
            })
        })
    }

    proptest! {
        #[test]
        fn a_box_of_records_holds_what_is_believed_of_each(
            records in prop::collection::vec(record(), 1..LANES),
            labelled: bool,
            has_text: bool,
            version in 0..3500_u32,
            drift in -0.1..0.1_f64,
            noise in 1e-6..0.1_f64,
            spread in -0.02..0.02_f64,
            text_precisions in [0.0..8.0_f64, 0.0..8.0],
        ) {
            let alike = |record: PromptRecord| PromptRecord {
                history: if labelled { record.history } else { [0.0; 2] },
                predicted_reward: if has_text { record.predicted_reward } else { f32::NAN },
                ..record
            };
            let records: Vec<PromptRecord> = records.into_iter().map(alike).collect();
            let prior = LogitGaussian { mean: -0.7, variance: 5.0 };
            let dynamics = Dynamics { drift, noise, spread };
            let present = Present::new([version, 0], prior, dynamics, text_precisions);
            let (_, held) = present.believed_in(&box_of(&records)).expect("all alike");
            let ([nearest, farthest], [least, greatest]) = (held.distances(), held.variances);
            for LogitGaussian { mean, variance } in present.believed(&records) {
                prop_assert!(
                    nearest <= mean.abs() + 1e-5 && mean.abs() <= farthest + 1e-5,
                    "{mean} {nearest} {farthest}"
                );
                prop_assert!(
                    least <= variance * (1.0 + 1e-5) && variance <= greatest * (1.0 + 1e-5),
                    "{variance} {least} {greatest}"
                );
            }
        }
    }
}
