//! Draws from the items whose score lies in a window, and from the others.

use crate::distinct::{Seen, below, shuffle};

/// A draw of one in so many items, or of more, lists the members first.
const ITEMS_PER_DRAW: usize = 16;

/// Members are listed as well if they are fewer than about one in so many items per draw.
const ITEMS_PER_TRY: usize = 8;

/// Scores that are passed over at a time where none is a member.
const CHUNK: usize = 16;

/// The random words of each side, and of each way to draw.
const OTHERS: u64 = 1 << 63;
const LISTED: u64 = 1 << 62;

/// Items by whether their score is inside of `low..=high`; those whose score is NaN are neither
/// inside nor outside.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    scores: &'a [f32],
    low: f32,
    high: f32,
}

impl<'a> Window<'a> {
    /// The window over some scores.
    pub fn new(scores: &'a [f32], low: f32, high: f32) -> Self {
        Self { scores, low, high }
    }

    /// Up to `count` distinct items: first those inside, then `outside`, at most `count`, from
    /// outside, both uniform and in random order; where one side has too few, the other fills up.
    /// `words(k)` is the k-th of independent random words.
    pub fn draw(&self, count: usize, outside: usize, words: impl Fn(u64) -> u64) -> Vec<u32> {
        let is_inside = |score: f32| score >= self.low && score <= self.high;
        let is_outside = |score: f32| score < self.low || score > self.high;
        let mut drawn = self.members(count - outside, is_inside, &words);
        let others =
            self.members(count - drawn.len(), is_outside, |counter| words(OTHERS + counter));
        if others.len() < outside {
            drawn = self.members(count - others.len(), is_inside, &words);
        }
        drawn.extend(others);
        drawn
    }

    /// Up to `count` distinct members, uniformly and in random order: by drawing among all items,
    /// unless a list of all members is cheaper.
    fn members(
        &self,
        count: usize,
        is_member: impl Fn(f32) -> bool,
        words: impl Fn(u64) -> u64,
    ) -> Vec<u32> {
        if count <= self.scores.len() / ITEMS_PER_DRAW
            && let Some(drawn) = self.drawn_among_all(count, &is_member, &words)
        {
            return drawn;
        }
        let mut members = self.listed(is_member);
        let count = count.min(members.len());
        shuffle(&mut members, count, |counter| words(LISTED + counter));
        members.truncate(count);
        members
    }

    /// `count` distinct members; none if it takes too many tries. Whether it does depends on how
    /// many are members, not on which, so that starting anew prefers no item.
    fn drawn_among_all(
        &self,
        count: usize,
        is_member: impl Fn(f32) -> bool,
        words: impl Fn(u64) -> u64,
    ) -> Option<Vec<u32>> {
        let (mut drawn, mut seen) = (Vec::with_capacity(count), Seen::new(count));
        for start in (0..self.scores.len() / ITEMS_PER_TRY).step_by(CHUNK) {
            // Every item is written and only members stay, which spares a jump that cannot be
            // predicted.
            let (mut hits, mut len) = ([0; CHUNK + 1], 0);
            for counter in start..start + CHUNK {
                hits[len] = below(words(counter as u64), self.scores.len());
                len += usize::from(is_member(self.scores[hits[len]]));
            }
            let wanted = count - drawn.len();
            drawn.extend(
                hits[..len]
                    .iter()
                    .map(|&item| item as u32)
                    .filter(|&item| seen.insert(item))
                    .take(wanted),
            );
            if drawn.len() == count {
                return Some(drawn);
            }
        }
        None
    }

    /// All members.
    fn listed(&self, is_member: impl Fn(f32) -> bool) -> Vec<u32> {
        let (mut members, mut len) = (vec![0; self.scores.len() + 1], 0);
        for (chunk, start) in self.scores.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
            // A loop without an exit compiles to vector instructions.
            if !chunk.iter().fold(false, |any, &score| any | is_member(score)) {
                continue;
            }
            // Every item is written and only members stay, which spares a jump that cannot be
            // predicted.
            for (item, &score) in (start..).zip(chunk) {
                members[len] = item;
                len += usize::from(is_member(score));
            }
        }
        members.truncate(len);
        members
    }
}
