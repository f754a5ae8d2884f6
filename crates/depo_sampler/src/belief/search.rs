//! The most promising prompts of a whole pool, without scoring every one: boxes of records are
//! bounded under the belief's present parameters.
//!
//! Cached scores would never be right, for every prompt ages with every version and every label
//! moves the parameters of all. But both moves are monotone: they make a box of records a box of
//! means and variances, over which the score is bounded by a table.

use depo_structures::{Bounds, BoxTree};

use super::PoolQuery;
use super::logit_gaussian::LogitGaussian;
use super::present::{LANES, Present, REGION, UNITS, point};
use super::records::{PromptRecord, Records};
use super::surface::{Outlooks, Surface};
use crate::rng::Permutation;

/// More than coordinates in single precision and rounding can move a score.
const MARGIN: f64 = 2e-6;

/// No prompt that is left out scores more than this above one that is found, by the table. The
/// table errs by half as much within the limits that `surface` names. Where thousands are nearly
/// equal, most of them need not be scored.
pub(super) const TOLERANCE: f64 = 1e-3;

/// Places in the order of unknown prompts that are looked at for each one wanted.
const PLACES_PER_UNKNOWN: usize = 16;

/// Index of the prompts that have a label or a prediction. The others are all alike: they come in a
/// random order that stays.
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

fn is_unknown(record: &PromptRecord) -> bool {
    !record.is_labelled() && record.predicted_reward.is_nan()
}

impl PoolSearch {
    pub fn new(records: &Records, group_size: usize, order: Permutation) -> Self {
        let known = (0..records.len() as u32)
            .map(|prompt| (records.of(prompt), prompt))
            .filter(|(record, _)| !is_unknown(record));
        let entries = known.map(|(record, prompt)| (point(&record), prompt)).collect();
        let outlooks = Outlooks::new(group_size);
        let surfaces = [0.0; 2].map(|deviations| outlooks.surface(deviations));
        Self {
            outlooks,
            surfaces,
            tree: BoxTree::new(records.len(), REGION, UNITS, entries),
            order,
            first_unknown: 0,
        }
    }

    /// Notes that the record of a prompt has changed.
    pub fn note(&mut self, prompt: u32, records: &Records) {
        self.tree.put(prompt, |prompt| point(&records.of(prompt)));
    }

    /// The free prompts with the highest scores, best first.
    pub fn best(&mut self, query: &PoolQuery, records: &Records, present: &Present) -> Vec<u32> {
        for (surface, deviations) in self.surfaces.iter_mut().zip(query.deviations) {
            if surface.deviations().to_bits() != deviations.to_bits() {
                *surface = self.outlooks.surface(deviations);
            }
        }
        let unknown = self.unknown(query, records);
        let score_of_unknown = self.surfaces[0].at(present.prior);
        let floor = if unknown.len() < query.count { f64::NEG_INFINITY } else { score_of_unknown };
        let scores = |prompts: &[u32], scored: &mut Vec<(f64, u32)>| {
            self.score(prompts, query, records, present, scored);
        };
        let known = self.tree.best(
            query.count,
            floor,
            TOLERANCE,
            |bounds| self.bound(bounds, present),
            scores,
        );
        let (better, worse) =
            known.split_at(known.partition_point(|&(score, _)| score >= score_of_unknown));
        let prompts =
            |known: &[(f64, u32)]| known.iter().map(|&(_, prompt)| prompt).collect::<Vec<u32>>();
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
        let unknown = (self.first_unknown..end)
            .filter(|&rank| is_unknown_at(rank))
            .map(|rank| order.at(rank) as u32);
        unknown.filter(|&prompt| (query.is_free)(prompt)).take(query.count).collect()
    }

    /// Appends the scores of the free ones among some prompts.
    fn score(
        &self,
        prompts: &[u32],
        query: &PoolQuery,
        records: &Records,
        present: &Present,
        scored: &mut Vec<(f64, u32)>,
    ) {
        let free = prompts
            .iter()
            .filter(|&&prompt| (query.is_free)(prompt))
            .map(|&prompt| (prompt, records.of(prompt)));
        let (found, rested): (Vec<u32>, Vec<PromptRecord>) =
            free.filter(|(_, record)| present.has_rested(record)).unzip();
        for (prompts, records) in found.chunks(LANES).zip(rested.chunks(LANES)) {
            let rows = prompts.iter().zip(records).zip(present.believed(records));
            let score = |((&prompt, record), gaussian): ((&u32, &PromptRecord), LogitGaussian)| {
                (self.surfaces[usize::from(record.is_labelled())].at(gaussian), prompt)
            };
            scored.extend(rows.map(score));
        }
    }

    /// At least the score of every record in a box that may be found.
    fn bound(&self, bounds: &Bounds<4>, present: &Present) -> f64 {
        if !present.may_have_rested(bounds) {
            return f64::NEG_INFINITY;
        }
        let Some((labelled, believed)) = present.believed_in(bounds) else {
            return f64::INFINITY;
        };
        self.surfaces[usize::from(labelled)].greatest(believed.distances(), believed.variances)
            + MARGIN
    }
}
