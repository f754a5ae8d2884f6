//! The most promising prompts of a whole pool, without asking every one: boxes of records are bounded under the belief's present parameters.
//!
//! Cached scores would never be right, for every prompt ages with every version and every label moves the parameters of all. But both moves are monotone:
//! they make a box of records a box of means and variances, over which the score is bounded by a table.

use depo_structures::{Bounds, BoxTree};

use super::PoolQuery;
use super::logit_gaussian::{Dynamics, LogitGaussian, growth};
use super::records::{PromptRecord, Records};
use super::surface::{Outlooks, Surface};
use crate::rng::Permutation;

/// Axes of the tree: mean, standard deviation, version of the newest label, logit of the text prediction.
type Box = Bounds<4>;

/// What stands for the version of a prompt that was never labelled, and for the logit of a prediction that was never made. Far from all others.
const UNLABELLED: f32 = -1.0;
const NO_TEXT: f32 = -16.0;

const REGION: Box = [[-18.0, 18.0], [0.0, 16.0], [-4_294_967_296.0, 4_294_967_296.0], [-16.0, 16.0]];

/// About as much of each moves a score equally far: a version adds some hundredths to mean and variance, text weighs a quarter.
const UNITS: [f32; 4] = [1.0, 1.0, 64.0, 4.0];

/// More than coordinates in single precision and rounding can move a score.
const MARGIN: f64 = 2e-6;

/// Places in the order of unknown prompts that are looked at for each one wanted.
const PLACES_PER_UNKNOWN: usize = 16;

/// The parameters under which a search goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present {
    /// What is believed of a prompt without labels, and without text.
    pub prior: LogitGaussian,
    pub dynamics: Dynamics,
    /// Of prompts without and with labels.
    pub text_precisions: [f64; 2],
}

/// Index of the prompts that have a label or a prediction. The others are all alike: they come in a random order that stays.
#[derive(Debug, Clone)]
pub(super) struct PoolSearch {
    outlooks: Outlooks,
    /// Scores of prompts without and with labels.
    surfaces: [Surface; 2],
    tree: BoxTree<4>,
    order: Permutation,
    /// Every prompt before this rank of the order has a label or a prediction.
    first_unknown: usize,
}

/// Where a record lies.
fn point(record: &PromptRecord) -> [f32; 4] {
    let text = record.text().map_or(NO_TEXT, |text| text as f32);
    let [mean, variance] = record.history;
    if record.is_labelled() { [mean, variance.sqrt(), record.version as f32, text] } else { [0.0, 0.0, UNLABELLED, text] }
}

fn is_unknown(record: &PromptRecord) -> bool {
    !record.is_labelled() && record.predicted_reward.is_nan()
}

impl PoolSearch {
    pub fn new(records: &Records, group_size: usize, order: Permutation) -> Self {
        let known = (0..records.len() as u32).map(|prompt| (records.of(prompt), prompt)).filter(|(record, _)| !is_unknown(record));
        let entries = known.map(|(record, prompt)| (point(&record), prompt)).collect();
        let outlooks = Outlooks::new(group_size);
        let surfaces = [0.0; 2].map(|deviations| outlooks.surface(deviations));
        Self { outlooks, surfaces, tree: BoxTree::new(records.len(), REGION, UNITS, entries), order, first_unknown: 0 }
    }

    /// Notes that the record of a prompt has changed.
    pub fn note(&mut self, prompt: u32, records: &Records) {
        self.tree.put(prompt, |prompt| point(&records.of(prompt)));
    }

    /// The free prompts with the highest scores, best first. `believed` is what is believed of each.
    pub fn best(&mut self, query: &PoolQuery, records: &Records, present: Present, believed: impl Fn(u32) -> LogitGaussian) -> Vec<u32> {
        for (surface, deviations) in self.surfaces.iter_mut().zip(query.deviations) {
            if surface.deviations().to_bits() != deviations.to_bits() {
                *surface = self.outlooks.surface(deviations);
            }
        }
        let unknown = self.unknown(query, records);
        let score_of_unknown = self.surfaces[0].at(present.prior);
        let floor = if unknown.len() < query.count { f64::NEG_INFINITY } else { score_of_unknown };
        let score = |prompt: u32| {
            let surface = &self.surfaces[usize::from(records.is_labelled(prompt))];
            (query.is_free)(prompt).then(|| surface.at(believed(prompt)))
        };
        let known = self.tree.best(query.count, floor, |bounds| self.bound(bounds, query.version, &present), score);
        let (better, worse) = known.split_at(known.partition_point(|&(score, _)| score >= score_of_unknown));
        let prompts = |known: &[(f64, u32)]| known.iter().map(|&(_, prompt)| prompt).collect::<Vec<u32>>();
        let mut best = [prompts(better), unknown, prompts(worse)].concat();
        best.truncate(query.count);
        best
    }

    /// Free prompts without label and prediction: those found within so many places of their order.
    fn unknown(&mut self, query: &PoolQuery, records: &Records) -> Vec<u32> {
        let (order, len) = (&self.order, records.len());
        let is_unknown_at = |rank: usize| is_unknown(&records.of(order.at(rank) as u32));
        while self.first_unknown < len && !is_unknown_at(self.first_unknown) {
            self.first_unknown += 1;
        }
        let end = len.min(self.first_unknown + PLACES_PER_UNKNOWN * query.count);
        let unknown = (self.first_unknown..end).filter(|&rank| is_unknown_at(rank)).map(|rank| order.at(rank) as u32);
        unknown.filter(|&prompt| (query.is_free)(prompt)).take(query.count).collect()
    }

    /// At least the score of every record in a box.
    fn bound(&self, [mean, deviation, version, text]: &Box, now: u32, present: &Present) -> f64 {
        let labelled = version[0] > UNLABELLED;
        if (!labelled && version[1] > UNLABELLED) || (text[0] <= NO_TEXT && text[1] > NO_TEXT) {
            return f64::INFINITY;
        }
        let walk = if labelled {
            let variances = deviation.map(|deviation| f64::from(deviation) * f64::from(deviation));
            // A version as f32 is off by less than a step of that format.
            let versions = [version[0].next_down(), version[1].next_up()].map(f64::from);
            let elapsed = [versions[1], versions[0]].map(|version| (f64::from(now) - version).max(0.0));
            Believed { means: mean.map(f64::from), variances }.after(elapsed, present.dynamics)
        } else {
            Believed { means: [present.prior.mean; 2], variances: [present.prior.variance; 2] }
        };
        let precision = present.text_precisions[usize::from(labelled)];
        let fused = if text[0] > NO_TEXT && precision > 0.0 { walk.fused(text.map(f64::from), precision) } else { walk };
        let [low, high] = fused.means;
        let farthest = low.abs().max(high.abs());
        let nearest = if low <= 0.0 && high >= 0.0 { 0.0 } else { low.abs().min(high.abs()) };
        self.surfaces[usize::from(labelled)].greatest([nearest, farthest], fused.variances) + MARGIN
    }
}

/// Least and greatest mean and variance of some beliefs.
#[derive(Debug, Clone, Copy)]
struct Believed {
    means: [f64; 2],
    variances: [f64; 2],
}

impl Believed {
    /// `LogitGaussian::after` for every belief and every time in between.
    fn after(self, elapsed: [f64; 2], dynamics: Dynamics) -> Self {
        let growths = sorted(elapsed.map(|elapsed| growth(elapsed, dynamics.spread)));
        let drifts = sorted(elapsed.map(|elapsed| dynamics.drift * elapsed));
        let [low, high] = self.means;
        let means = [(low * growths[0]).min(low * growths[1]) + drifts[0], (high * growths[0]).max(high * growths[1]) + drifts[1]];
        let variance = |end: usize| self.variances[end] * growths[end] * growths[end] + dynamics.noise * elapsed[end];
        Self { means: means.map(LogitGaussian::within_reach), variances: [variance(0), variance(1)] }
    }

    /// `LogitGaussian::fused` of every belief and every text in between.
    fn fused(self, texts: [f64; 2], precision: f64) -> Self {
        let texts = texts.map(|text| LogitGaussian::around(text, 1.0 / precision).mean);
        let weights = self.variances.map(|variance| precision * variance / (1.0 + precision * variance));
        let mean = |end: usize, weight: f64| self.means[end] + weight * (texts[end] - self.means[end]);
        let means = [mean(0, weights[0]).min(mean(0, weights[1])), mean(1, weights[0]).max(mean(1, weights[1]))];
        Self { means, variances: self.variances.map(|variance| variance / (1.0 + precision * variance)) }
    }
}

fn sorted([a, b]: [f64; 2]) -> [f64; 2] {
    [a.min(b), a.max(b)]
}
