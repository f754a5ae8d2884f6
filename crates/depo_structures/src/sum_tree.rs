//! Draws by weight, without replacement, from weights that change a few at a time.

use std::hint::black_box;

/// Children of a node: as many f32 as fill a cache line.
const WIDTH: usize = 16;

/// Draws that walk down the tree side by side, so that their cache misses overlap.
const ABREAST: usize = 16;

/// Bits of a uniform number: those of an f32's significand.
const UNIT_BITS: u32 = 24;

/// Weights of neighbors.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(64))]
struct Node([f32; WIDTH]);

impl Node {
    /// Sum of the weights, marked ones too: always in the same order, halves upon halves, so that
    /// all machines agree.
    fn sum(&self) -> f32 {
        let mut sums = self.0.map(f32::abs);
        for width in [8, 4, 2, 1] {
            for index in 0..width {
                sums[index] += sums[index + width];
            }
        }
        sums[0]
    }

    /// The child in whose stretch of the sum `unit` of it lies; never one without weight unless
    /// none has any.
    fn pick(&self, unit: f32) -> usize {
        let (target, mut running, mut passed) = (unit * self.sum(), 0.0, 0);
        for weight in self.0 {
            running += weight.abs();
            passed += usize::from(running <= target);
        }
        // The running sum is rounded otherwise than the sum, and may fall short of the target.
        if passed < WIDTH {
            passed
        } else {
            self.0.iter().rposition(|&weight| weight != 0.0).unwrap_or(0)
        }
    }
}

/// Sum tree over the weights of items 0..len. Every inner number is recomputed from the numbers
/// below it, so that updates leave no error behind.
#[derive(Debug, Clone, PartialEq)]
pub struct SumTree {
    /// Leaves first; the last level is one node. Within a draw, leaves that were hit are marked by
    /// a minus.
    levels: Vec<Vec<Node>>,
    len: usize,
}

impl SumTree {
    /// Greatest weight: 2^32 of them still have a sum.
    pub const GREATEST_WEIGHT: f32 = 1e28;

    /// A tree over weights within `0..=GREATEST_WEIGHT`.
    pub fn new(weights: &[f32]) -> Self {
        let mut levels = vec![nodes(weights.iter().copied())];
        while let Some(below) = levels.last().filter(|below| below.len() > 1) {
            levels.push(nodes(below.iter().map(Node::sum)));
        }
        Self { levels, len: weights.len() }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no item at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Weight of an item.
    ///
    /// # Panics
    /// There is no such item.
    pub fn weight(&self, item: u32) -> f32 {
        self.levels[0][item as usize / WIDTH].0[item as usize % WIDTH]
    }

    /// Sum of all weights, up to rounding.
    pub fn total(&self) -> f32 {
        self.levels.last().map_or(0.0, |top| top.iter().map(Node::sum).sum())
    }

    /// Changes weights, which must be within `0..=GREATEST_WEIGHT`; of an item named twice, the
    /// last counts.
    ///
    /// # Panics
    /// There is no such item.
    pub fn set(&mut self, weights: impl IntoIterator<Item = (u32, f32)>) {
        let mut changed = Vec::new();
        for (item, weight) in weights {
            self.put(item, weight);
            changed.push(item);
        }
        self.repair(changed);
    }

    fn put(&mut self, item: u32, weight: f32) {
        self.levels[0][item as usize / WIDTH].0[item as usize % WIDTH] = weight;
    }

    /// Recomputes the sums above some items.
    fn repair(&mut self, mut below: Vec<u32>) {
        below.sort_unstable();
        for level in 1..self.levels.len() {
            for node in &mut below {
                *node /= WIDTH as u32;
            }
            below.dedup();
            let (lower, upper) = self.levels.split_at_mut(level);
            for &node in &below {
                upper[0][node as usize / WIDTH].0[node as usize % WIDTH] =
                    lower[level - 1][node as usize].sum();
            }
        }
    }

    /// Up to `count` distinct items that are eligible, in the order drawn: each with the
    /// probability of its weight among those that are left. Fewer only if no more are eligible and
    /// have weight. `bits(k)` is the k-th of a sequence of independent random words; the tree is
    /// left as it was.
    pub fn draw_distinct(
        &mut self,
        count: usize,
        bits: impl Fn(u64) -> u64,
        is_eligible: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let count = count.min(self.len);
        let (mut drawn, mut hit, mut used, mut taken_out) =
            (Vec::with_capacity(count), Vec::new(), 0, 0);
        let mut sums_are_whole = true;
        while drawn.len() < count && self.total() > 0.0 {
            let wanted = count - drawn.len();
            for item in self.draw(wanted, |counter| bits(used + counter)) {
                // To draw again instead of an item that was hit before is to draw among the others.
                if !self.mark(item) {
                    continue;
                }
                hit.push((item, -self.weight(item)));
                if is_eligible(item) {
                    drawn.push(item);
                }
            }
            used += (wanted * self.levels.len()) as u64;
            // Where most draws are in vain, those that were hit are better taken out of the sums.
            if 2 * (count - drawn.len()) > wanted {
                self.set(hit[taken_out..].iter().map(|&(item, _)| (item, 0.0)));
                taken_out = hit.len();
                sums_are_whole = false;
            }
        }
        for &(item, weight) in &hit {
            self.put(item, weight);
        }
        if !sums_are_whole {
            self.repair(hit.into_iter().map(|(item, _)| item).collect());
        }
        drawn
    }

    /// Marks an item that has weight; returns whether it was not marked before. Its weight stays
    /// in the sums, and counts as negative until `unmark`.
    pub(crate) fn mark(&mut self, item: u32) -> bool {
        let is_new = !self.is_marked(item);
        self.put(item, -self.weight(item).abs());
        is_new
    }

    /// Whether an item is marked.
    pub(crate) fn is_marked(&self, item: u32) -> bool {
        self.weight(item) < 0.0
    }

    /// Takes the marks off some items.
    pub(crate) fn unmark(&mut self, items: impl Iterator<Item = u32>) {
        for item in items {
            self.put(item, self.weight(item).abs());
        }
    }

    /// Random words that a walk down the tree takes.
    pub(crate) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// `count` items drawn independently.
    pub(crate) fn draw(&self, count: usize, bits: impl Fn(u64) -> u64) -> Vec<u32> {
        let mut items = vec![0_u32; count];
        for (chunk, places) in items.chunks_mut(ABREAST).enumerate() {
            for (depth, level) in self.levels.iter().rev().enumerate() {
                // Asks for all the cache lines before it works on the first.
                for place in &*places {
                    black_box(level[*place as usize].0[0]);
                }
                for (offset, place) in places.iter_mut().enumerate() {
                    let counter = (chunk * ABREAST + offset) * self.levels.len() + depth;
                    let unit = (bits(counter as u64) >> (u64::BITS - UNIT_BITS)) as f32
                        / (1_u32 << UNIT_BITS) as f32;
                    *place = *place * WIDTH as u32 + level[*place as usize].pick(unit) as u32;
                }
            }
        }
        items
    }
}

/// Numbers in nodes, the last one filled up with zeros.
fn nodes(mut numbers: impl ExactSizeIterator<Item = f32>) -> Vec<Node> {
    let count = numbers.len().div_ceil(WIDTH);
    let node = |_| Node(std::array::from_fn(|_| numbers.next().unwrap_or(0.0)));
    (0..count).map(node).collect()
}
