//! Distinct random numbers.

const WORD_BITS: u32 = 64;

/// Slots of a set for each number that it will hold, at least: few probes then.
const SLOTS_PER_NUMBER: usize = 2;

/// An odd number that spreads numbers over all bits (2^64 / golden ratio).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// A set of a known number of numbers below 2^32 - 1.
pub(crate) struct Seen {
    /// A number plus 1, or 0; the search for a number starts at its hash and goes on until it or 0
    /// is found.
    slots: Vec<u32>,
}

impl Seen {
    /// An empty set that will hold `count` at most.
    pub fn new(count: usize) -> Self {
        Self { slots: vec![0; (SLOTS_PER_NUMBER * count).next_power_of_two().max(2)] }
    }

    /// Adds a number; returns whether it is new.
    pub fn insert(&mut self, number: u32) -> bool {
        let mask = self.slots.len() - 1;
        let mut slot = (u64::from(number).wrapping_mul(SPREAD)
            >> (WORD_BITS - self.slots.len().trailing_zeros())) as usize;
        while self.slots[slot] != 0 {
            if self.slots[slot] == number + 1 {
                return false;
            }
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = number + 1;
        true
    }
}

/// The first `count` places hold distinct items in random order afterwards (Fisher and Yates).
/// `words(k)` is the k-th of independent random words.
///
/// # Panics
/// There are fewer items.
pub(crate) fn shuffle(items: &mut [u32], count: usize, words: impl Fn(u64) -> u64) {
    for position in 0..count {
        let offset = below(words(position as u64), items.len() - position);
        items.swap(position, position + offset);
    }
}

/// A number below `bound`, uniform up to a bias of `bound` / 2^64.
pub(crate) fn below(word: u64, bound: usize) -> usize {
    ((u128::from(word) * bound as u128) >> WORD_BITS) as usize
}
