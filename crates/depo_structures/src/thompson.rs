//! The items whose Beta variates are nearest to a target, without a variate per item.
//!
//! The distance of an item's variate to the target is the first point of a Poisson process over the
//! distance with the item's hazard. All items together are one process of the sum of bounds of
//! their hazards: its points come in increasing distance, each at an item drawn by its bound, and
//! count with the ratio of hazard and bound (thinning: Lewis and Shedler, "Simulation of
//! nonhomogeneous Poisson processes", 1979). So winners come in order of nearness.

use std::hint::black_box;

use crate::best::best;
use crate::beta::{Item, LANES, Lanes, Target, attempts, bounded_all};
use crate::portable::lns;
use crate::sum_tree::SumTree;

/// More points than items / this, and a variate per item is cheaper.
const ITEMS_PER_POINT: usize = 4;

/// Random words of a block of points beside those of its walks down the tree: a gap, a thinning and
/// a side each.
const WORDS_PER_POINT: usize = 3;

/// Random words from here on are those of the variates: 2 for each item and attempt.
const FIRST_VARIATE: u64 = 1 << 63;
const ATTEMPT_BITS: u32 = 34;

/// An item, and how far its variate is above the target.
type Hit = (u32, f32);

/// A point of the process.
#[derive(Debug, Clone, Copy)]
struct Point {
    item: u32,
    distance: f64,
}

/// Beta shapes of items 0..len, from which those with variates nearest to a target are drawn in
/// O(count log len).
#[derive(Debug, Clone, PartialEq)]
pub struct ThompsonTree {
    target: Target,
    items: Vec<Item>,
    /// Bounds of the hazards. Within a draw, items that are found are marked.
    tree: SumTree,
}

impl ThompsonTree {
    /// Alphas and betas within `LEAST_COUNT..=GREATEST_COUNT`, equally many; a target inside of
    /// 0.001..=0.999.
    pub fn new(target: f64, alphas: &[f32], betas: &[f32]) -> Self {
        let target = Target::new(target);
        let shapes = alphas.iter().zip(betas).map(|(&alpha, &beta)| [alpha, beta]);
        let (items, bounds): (Vec<_>, Vec<_>) = bounded_all(target, shapes).unzip();
        Self { target, items, tree: SumTree::new(&bounds) }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no item at all.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Changes shapes; of an item named twice, the last counts.
    ///
    /// # Panics
    /// There is no such item.
    pub fn set(&mut self, changed: &[i64], alphas: &[f32], betas: &[f32]) {
        let shapes = alphas.iter().zip(betas).map(|(&alpha, &beta)| [alpha, beta]);
        let Self { target, items, tree } = self;
        tree.set(bounded_all(*target, shapes).zip(changed).map(|((item, bound), &index)| {
            items[index as usize] = item;
            (index as u32, bound)
        }));
    }

    /// The `count` eligible items whose variates are nearest to the target, nearest first, and how
    /// far each is above it. Fewer only if no more are eligible. `words(k)` is the k-th of
    /// independent random words; the tree is left as it was.
    pub fn draw_nearest(
        &mut self,
        count: usize,
        words: impl Fn(u64) -> u64,
        is_eligible: impl Fn(u32) -> bool,
    ) -> Vec<Hit> {
        let mut hits = Vec::with_capacity(count.min(self.len()));
        let searched = self.search(&mut hits, count, &words, &is_eligible);
        if hits.len() < count {
            hits.extend(self.nearest_beyond(searched, count - hits.len(), &words, is_eligible));
        }
        self.tree.unmark(hits.iter().map(|&(item, _)| item));
        hits
    }

    /// Finds items in order of distance and marks them, until there are enough or it is not worth
    /// the while. Returns up to which distance all are found.
    fn search(
        &mut self,
        hits: &mut Vec<Hit>,
        count: usize,
        words: &impl Fn(u64) -> u64,
        is_eligible: impl Fn(u32) -> bool,
    ) -> f64 {
        let (mut distance, most_points) = (0.0, self.len() / ITEMS_PER_POINT);
        let points_within_reach = f64::from(self.tree.total()) * self.target.reach;
        if count > most_points || count as f64 > points_within_reach {
            return distance;
        }
        let words_per_block = LANES * (WORDS_PER_POINT + self.tree.depth());
        for block in 0..most_points / LANES {
            if hits.len() == count || distance >= self.target.reach {
                break;
            }
            let first = (block * words_per_block) as u64;
            let points = self.points(distance, |counter| words(first + counter));
            distance = points[LANES - 1].distance.min(self.target.reach);
            for hit in self.thinned(&points, |counter| words(first + counter)).into_iter().flatten()
            {
                // The first point of an item is its distance; later ones mean nothing.
                if hits.len() < count && is_eligible(hit.0) && self.tree.mark(hit.0) {
                    hits.push(hit);
                }
            }
        }
        distance
    }

    /// The points that follow a distance.
    fn points(&self, mut distance: f64, words: impl Fn(u64) -> u64) -> [Point; LANES] {
        let total = f64::from(self.tree.total());
        let gaps: Lanes = lns(std::array::from_fn(|lane| unit(words(lane as u64))));
        let items =
            self.tree.draw(LANES, |counter| words((LANES * WORDS_PER_POINT) as u64 + counter));
        std::array::from_fn(|lane| {
            distance -= gaps[lane] / total;
            Point { item: items[lane], distance }
        })
    }

    /// The points within reach that are points of their items' own processes.
    fn thinned(&self, points: &[Point; LANES], words: impl Fn(u64) -> u64) -> [Option<Hit>; LANES] {
        // Asks for all the cache lines before it works on the first.
        for point in points {
            black_box(self.items[point.item as usize].density);
        }
        let items = points.map(|point| self.items[point.item as usize]);
        let distances = points.map(|point| point.distance.min(self.target.reach));
        let sides = self.target.densities_beside(&items, &distances);
        std::array::from_fn(|lane| {
            let Point { item, distance } = points[lane];
            let bound = f64::from(self.tree.weight(item).abs());
            let (level, density) =
                (unit(words((LANES + lane) as u64)) * bound, sides[0][lane] + sides[1][lane]);
            // The mass within the distance is at most the bound times the distance: most points are
            // decided without the integral.
            let is_hit = distance <= self.target.reach
                && (level <= density
                    || level * (1.0 - bound * distance) < density
                        && level * self.target.survival(items[lane], distance) <= density);
            let above = unit(words((2 * LANES + lane) as u64)) * density <= sides[0][lane];
            is_hit.then_some((item, if above { distance as f32 } else { -(distance as f32) }))
        })
    }

    /// The nearest of those that are eligible and not marked, given that all of them are farther
    /// than a distance: a variate each.
    fn nearest_beyond(
        &self,
        distance: f64,
        count: usize,
        words: &impl Fn(u64) -> u64,
        is_eligible: impl Fn(u32) -> bool,
    ) -> Vec<Hit> {
        let mut offsets = vec![f32::NAN; self.len()];
        let mut pending: Vec<u32> = (0..self.len() as u32)
            .filter(|&item| !self.tree.is_marked(item) && is_eligible(item))
            .collect();
        let mut attempt = FIRST_VARIATE;
        while !pending.is_empty() {
            pending =
                self.attempt(&mut offsets, &pending, distance, |counter| words(attempt + counter));
            attempt += 1 << ATTEMPT_BITS;
        }
        let nearest = best(&offsets, count, |offset| -offset.abs());
        nearest.into_iter().map(|item| (item, offsets[item as usize])).collect()
    }

    /// Enters variates that are accepted and farther than a distance, and returns the items that
    /// need another attempt.
    fn attempt(
        &self,
        offsets: &mut [f32],
        pending: &[u32],
        distance: f64,
        words: impl Fn(u64) -> u64,
    ) -> Vec<u32> {
        let mut rejected = Vec::new();
        for items in pending.chunks(LANES) {
            let variates = self
                .variates(&std::array::from_fn(|lane| items[lane.min(items.len() - 1)]), &words);
            for (&item, variate) in items.iter().zip(variates) {
                let offset = variate - self.target.at;
                // A rejected variate is NaN.
                if offset.abs() > distance {
                    offsets[item as usize] = offset as f32;
                } else {
                    rejected.push(item);
                }
            }
        }
        rejected
    }

    fn variates(&self, items: &[u32; LANES], words: impl Fn(u64) -> u64) -> Lanes {
        let shapes =
            items.map(|item| self.items[item as usize]).map(|item| [item.alpha, item.beta]);
        let units =
            items.map(|item| [0, 1].map(|which| open_unit(words(u64::from(item) << 1 | which))));
        attempts(&shapes, &units)
    }
}

/// Uniform number in (0, 1].
fn unit(word: u64) -> f64 {
    ((word >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// Uniform number in (0, 1).
fn open_unit(word: u64) -> f64 {
    ((word >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}
