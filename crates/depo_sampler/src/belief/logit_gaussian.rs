//! A Gaussian over the logit of a pass rate, integrated on a fixed grid of nodes.

#![allow(clippy::inline_always, reason = "what is called in loops becomes vector instructions")]

use std::f64::consts::PI;

use crate::vectors::wide;
use depo_structures::portable::{exp, exps, ln, lns, powers};

/// Nodes of the rule, evenly spaced over mean +- `REACH` standard deviations. For smooth integrands
/// the sum converges geometrically; Gauss-Hermite rules of this order place so few nodes where a
/// group of one kind puts its likelihood that posteriors become erratic.
const NODES: usize = 40;
const REACH: f64 = 5.0;
const SPACING: f64 = 2.0 * REACH / (NODES - 1) as f64;

/// Distributions judged at a time.
const LANES: usize = 8;

/// Standard normal density at the nodes, normalized to 1, first half; the second mirrors it.
/// Literals, so that all platforms agree.
const HALF_WEIGHTS: [f64; NODES / 2] = [
    3.812_102_355_342_948_5e-7,
    1.329_461_423_543_151_5e-6,
    4.341_439_035_614_034e-6,
    1.327_511_992_851_239_7e-5,
    3.800_930_943_021_286e-5,
    1.019_033_085_821_417_5e-4,
    2.558_193_376_152_499_5e-4,
    6.013_471_194_508_699e-4,
    1.323_621_702_808_710_4e-3,
    2.728_031_015_542_095e-3,
    5.264_795_509_202_064e-3,
    9.513_941_807_751_33e-3,
    1.609_853_120_369_011_3e-2,
    2.550_696_559_346_549_5e-2,
    3.784_235_178_221_298_5e-2,
    5.257_075_575_572_909e-2,
    6.838_440_963_094_417e-2,
    8.329_458_391_685_408e-2,
    9.499_991_218_563_376e-2,
    1.014_556_935_904_640_2e-1,
];

/// Below this variance a belief would no longer move.
const LEAST_VARIANCE: f64 = 1e-4;

/// A belief is never wider than this allows.
const LEAST_PRECISION: f64 = 1e-2;

/// Means beyond this say no more than this: pass rates of 1e-8.
const FARTHEST_MEAN: f64 = 18.0;

/// How logit pass rates move per policy version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dynamics {
    /// What is added.
    pub drift: f64,
    /// Variance of what is added at random.
    pub noise: f64,
    /// Rate at which they move away from 0: the solved get safer, the failed stay behind.
    pub spread: f64,
}

/// Normal distribution of logit(pass rate).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitGaussian {
    /// Mean.
    pub mean: f64,
    /// Variance, above 0.
    pub variance: f64,
}

/// What a distribution of the pass rate expects of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// Mean pass rate.
    pub pass_rate: f64,
    /// Mean of P(informative | pass rate).
    pub p_informative: f64,
    /// Standard deviation of P(informative | pass rate).
    pub deviation: f64,
}

impl LogitGaussian {
    /// The distribution of this variance whose mean pass rate has about this logit (`MacKay`'s
    /// probit approximation, "The evidence framework applied to classification networks", Neural
    /// Computation 1992).
    pub fn around(logit: f64, variance: f64) -> Self {
        Self { mean: logit * (1.0 + PI * variance / 8.0).sqrt(), variance }
    }

    /// After `elapsed` steps, backward in time if negative; noise adds up in both directions.
    #[must_use]
    pub fn after(self, elapsed: f64, dynamics: Dynamics) -> Self {
        self.moved(elapsed, growth(elapsed, dynamics.spread), dynamics)
    }

    /// The same where what the spread makes of a logit in this time is known.
    pub(crate) fn moved(self, elapsed: f64, growth: f64, dynamics: Dynamics) -> Self {
        Self {
            mean: Self::within_reach(self.mean * growth + dynamics.drift * elapsed),
            variance: self.variance * growth * growth + dynamics.noise * elapsed.abs(),
        }
    }

    /// The mean, clamped to where it still makes a difference.
    #[inline(always)]
    pub(crate) fn within_reach(mean: f64) -> f64 {
        mean.clamp(-FARTHEST_MEAN, FARTHEST_MEAN)
    }

    /// Product of two independent opinions.
    #[must_use]
    pub fn fused(self, other: Self) -> Self {
        let (own, its) = (1.0 / self.variance, 1.0 / other.variance);
        Self {
            mean: (own * self.mean + its * other.mean) / (own + its),
            variance: 1.0 / (own + its),
        }
    }

    /// What this opinion becomes by the same step that led from `prior` to `posterior`: their
    /// difference in precision and weighted mean is added. A surprise may widen it.
    #[must_use]
    pub fn learning(self, prior: Self, posterior: Self) -> Self {
        let precision = (1.0 / self.variance + 1.0 / posterior.variance - 1.0 / prior.variance)
            .max(LEAST_PRECISION);
        let weighted_mean = self.mean / self.variance + posterior.mean / posterior.variance
            - prior.mean / prior.variance;
        Self {
            mean: (weighted_mean / precision).clamp(-FARTHEST_MEAN, FARTHEST_MEAN),
            variance: 1.0 / precision,
        }
    }

    /// Expected pass rate and P(informative) = 1 - p^G - (1 - p)^G of a group of `group_size`.
    pub fn outlook(self, group_size: usize) -> Outlook {
        outlook(self, group_size as u32)
    }

    /// The normal distribution with the mean and the variance of the posterior after `successes` of
    /// `rollouts`.
    #[must_use]
    pub fn given(self, successes: u32, rollouts: u32) -> Self {
        posterior(self, f64::from(successes), f64::from(rollouts - successes))
    }

    /// Log-likelihoods of one sequence of `rollouts` with `successes` under each of the
    /// distributions.
    pub fn log_likelihoods(gaussians: &[Self], successes: u32, rollouts: u32) -> Vec<f64> {
        Self::on_nodes(1, gaussians, successes, rollouts)
    }

    /// The same on every second node, which is enough for the variance of a prompt with labels.
    pub(crate) fn rough_log_likelihoods(
        gaussians: &[Self],
        successes: u32,
        rollouts: u32,
    ) -> Vec<f64> {
        Self::on_nodes(2, gaussians, successes, rollouts)
    }

    fn on_nodes(stride: usize, gaussians: &[Self], successes: u32, rollouts: u32) -> Vec<f64> {
        // Settings that differ in what does not matter here, text where there is none, are
        // neighbors and the same distribution.
        let runs: Vec<&[Self]> = gaussians.chunk_by(|one, next| one == next).collect();
        let mut result = Vec::with_capacity(gaussians.len());
        for block in runs.chunks(LANES) {
            let lanes = std::array::from_fn(|lane| block[lane.min(block.len() - 1)][0]);
            let log_likelihoods = log_likelihoods(lanes, stride, successes, rollouts - successes);
            block
                .iter()
                .zip(log_likelihoods)
                .for_each(|(run, log)| result.extend(std::iter::repeat_n(log, run.len())));
        }
        result
    }

    /// Logarithms of the odds against success at the first node, and of their ratio at every
    /// `stride`-th node to the one before: a geometric progression, so two exponentials serve all.
    #[inline]
    fn progression(self, stride: usize) -> [f64; 2] {
        let deviation = self.variance.sqrt();
        [REACH * deviation - self.mean, -(stride as f64) * SPACING * deviation]
    }
}

/// Logarithm of the odds of a pass rate within (0, 1).
#[inline(always)]
pub(crate) fn logit(pass_rate: f64) -> f64 {
    ln(pass_rate) - ln(1.0 - pass_rate)
}

/// Factor by which logits grow.
pub(crate) fn growth(elapsed: f64, spread: f64) -> f64 {
    exp((spread * elapsed).clamp(-1.0, 1.0))
}

fn outlook(gaussian: LogitGaussian, group_size: u32) -> Outlook {
    wide(
        #[inline(always)]
        || {
            let (right, wrong) = pass_rates(odds_against(gaussian));
            let (all_right, all_wrong) = (powers(right, group_size), powers(wrong, group_size));
            let (mut pass_rate, mut mean, mut square) = (0.0, 0.0, 0.0);
            for (node, weight) in weights().enumerate() {
                let informative = 1.0 - all_right[node] - all_wrong[node];
                pass_rate += weight * right[node];
                mean += weight * informative;
                square += weight * informative * informative;
            }
            Outlook {
                pass_rate,
                p_informative: mean.clamp(0.0, 1.0),
                deviation: (square - mean * mean).max(0.0).sqrt(),
            }
        },
    )
}

fn posterior(prior: LogitGaussian, rights: f64, wrongs: f64) -> LogitGaussian {
    wide(
        #[inline(always)]
        || {
            let (right, wrong) = pass_rates(odds_against(prior));
            // In logarithms: the likelihood of many rollouts underflows.
            let mut logs = lns(right);
            logs.iter_mut()
                .zip(lns(wrong))
                .for_each(|(log, of_wrong)| *log = rights * *log + wrongs * of_wrong);
            let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            for log in &mut logs {
                *log -= highest;
            }
            let (mut total, mut mean, mut square) = (0.0, 0.0, 0.0);
            for (node, (likelihood, weight)) in exps(logs).into_iter().zip(weights()).enumerate() {
                let (mass, place) = (weight * likelihood, node as f64 * SPACING - REACH);
                total += mass;
                mean += mass * place;
                square += mass * place * place;
            }
            (mean, square) = (mean / total, square / total);
            let variance = (prior.variance * (square - mean * mean)).max(LEAST_VARIANCE);
            LogitGaussian {
                mean: (prior.mean + mean * prior.variance.sqrt())
                    .clamp(-FARTHEST_MEAN, FARTHEST_MEAN),
                variance,
            }
        },
    )
}

/// Log-likelihoods of one sequence of outcomes on every `stride`-th node, one distribution per
/// lane.
fn log_likelihoods(
    gaussians: [LogitGaussian; LANES],
    stride: usize,
    successes: u32,
    failures: u32,
) -> [f64; LANES] {
    wide(
        #[inline(always)]
        || {
            let progressions = gaussians.map(|gaussian| gaussian.progression(stride));
            let (mut odds, ratios) = (
                exps(progressions.map(|[first, _]| first)),
                exps(progressions.map(|[_, ratio]| ratio)),
            );
            let mut totals = [0.0; LANES];
            for weight in weights().step_by(stride) {
                let (right, wrong) = pass_rates(odds);
                let (rights, wrongs) = (powers(right, successes), powers(wrong, failures));
                for lane in 0..LANES {
                    totals[lane] += weight * rights[lane] * wrongs[lane];
                    odds[lane] *= ratios[lane];
                }
            }
            lns(totals.map(|total| (total * stride as f64).max(f64::MIN_POSITIVE)))
        },
    )
}

/// Odds against success at the nodes.
#[inline(always)]
fn odds_against(gaussian: LogitGaussian) -> [f64; NODES] {
    let [first, ratio] = exps(gaussian.progression(1));
    let mut odds = [first; NODES];
    for node in 1..NODES {
        odds[node] = odds[node - 1] * ratio;
    }
    odds
}

/// Probabilities of success and failure at these odds against success.
#[inline(always)]
fn pass_rates<const N: usize>(odds: [f64; N]) -> ([f64; N], [f64; N]) {
    let (mut right, mut wrong) = (odds, odds);
    for node in 0..N {
        right[node] = 1.0 / (1.0 + odds[node]);
        wrong[node] = odds[node] * right[node];
    }
    (right, wrong)
}

fn weights() -> impl Iterator<Item = f64> {
    HALF_WEIGHTS.into_iter().chain(HALF_WEIGHTS.into_iter().rev())
}
