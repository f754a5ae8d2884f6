//! The prompts, the order of each epoch, and which prompts are claimed (waiting, buffered or in
//! flight).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result, require};
use crate::rng::{Permutation, derive_key};
use crate::state::{Carry, StateMap, StateReader};

/// Set of prompt indices with a running count.
#[derive(Debug, Clone)]
struct Bitset {
    words: Vec<u64>,
    count: usize,
}

impl Bitset {
    fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], count: 0 }
    }

    fn contains(&self, index: u32) -> bool {
        self.words[index as usize / 64] >> (index % 64) & 1 == 1
    }

    fn insert(&mut self, index: u32) {
        self.count += usize::from(!self.contains(index));
        self.words[index as usize / 64] |= 1 << (index % 64);
    }

    fn remove(&mut self, index: u32) {
        self.count -= usize::from(self.contains(index));
        self.words[index as usize / 64] &= !(1 << (index % 64));
    }
}

/// Order in which an epoch visits `len` prompts.
pub(crate) fn epoch_order(seed: u64, epoch: u64, len: usize) -> Permutation {
    Permutation::new(derive_key(seed, "epoch", &[epoch]), len)
}

/// Fails if two ids are equal.
fn require_distinct(ids: &[u64]) -> Result<()> {
    // Sorting is several times faster than a table of positions, which only a duplicate needs.
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    if sorted.windows(2).all(|pair| pair[0] < pair[1]) {
        return Ok(());
    }
    let mut positions = HashMap::new();
    let again = ids
        .iter()
        .enumerate()
        .find_map(|(second, &id)| positions.insert(id, second).map(|first| (id, first, second)));
    again.map_or(Ok(()), |(id, first, second)| Err(Error::DuplicateId { id, first, second }))
}

/// Prompts in epoch order, each claimed by at most one draw at a time.
#[derive(Debug, Clone)]
pub struct PromptPool {
    ids: Arc<Vec<u64>>,
    sources: Arc<Vec<u32>>,
    seed: u64,
    epoch: u64,
    cursor: usize,
    order: Permutation,
    claimed: Bitset,
}

impl PromptPool {
    /// A pool at the start of epoch 0.
    ///
    /// # Errors
    /// Two ids are equal, the lengths differ, or there are 2^32 - 1 prompts or more.
    pub fn new(ids: Vec<u64>, sources: Vec<u32>, seed: u64) -> Result<Self> {
        let len = ids.len();
        require(
            sources.len() == len,
            "sources",
            format!("length {}", sources.len()),
            &format!("length {len}, as ids"),
        )?;
        require(
            len < u32::MAX as usize,
            "ids",
            format!("length {len}"),
            "fewer than 2^32 - 1 prompts",
        )?;
        require_distinct(&ids)?;
        let order = epoch_order(seed, 0, len);
        Ok(Self {
            ids: ids.into(),
            sources: sources.into(),
            seed,
            epoch: 0,
            cursor: 0,
            order,
            claimed: Bitset::new(len),
        })
    }

    /// The same prompts at the start of epoch 0, none claimed.
    pub(crate) fn restarted(&self) -> Self {
        let (len, order) = (self.len(), epoch_order(self.seed, 0, self.len()));
        Self {
            ids: self.ids.clone(),
            sources: self.sources.clone(),
            seed: self.seed,
            epoch: 0,
            cursor: 0,
            order,
            claimed: Bitset::new(len),
        }
    }

    /// Number of prompts.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no prompt at all.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Ids by prompt index.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Source indices by prompt index.
    pub fn sources(&self) -> &[u32] {
        &self.sources
    }

    /// Epochs completed so far.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Number of prompts that are not claimed.
    pub fn free(&self) -> usize {
        self.len() - self.claimed.count
    }

    /// Whether this prompt is not claimed.
    pub fn is_free(&self, prompt: u32) -> bool {
        !self.claimed.contains(prompt)
    }

    /// Takes a prompt out of circulation.
    pub fn claim(&mut self, prompt: u32) {
        self.claimed.insert(prompt);
    }

    /// Puts a prompt back into circulation.
    pub fn release(&mut self, prompt: u32) {
        self.claimed.remove(prompt);
    }

    /// Claims the next `count` free prompts in epoch order; fewer if no more are free.
    ///
    /// Ends after at most the rest of this epoch and one whole epoch, for by then every free prompt
    /// has been met.
    pub fn claim_next(&mut self, count: usize) -> Vec<u32> {
        let count = count.min(self.free());
        let mut prompts = Vec::with_capacity(count);
        while prompts.len() < count {
            let prompt = self.advance();
            if self.is_free(prompt) {
                self.claim(prompt);
                prompts.push(prompt);
            }
        }
        prompts
    }

    /// Moves the cursor past one prompt and into the next epoch where this one ends.
    fn advance(&mut self) -> u32 {
        let prompt = self.order.at(self.cursor) as u32;
        self.cursor += 1;
        if self.cursor == self.len() {
            self.cursor = 0;
            self.epoch += 1;
            self.order = epoch_order(self.seed, self.epoch, self.len());
        }
        prompt
    }

    pub(crate) fn save<'a>(&'a self, state: &mut StateMap<'a>) {
        state.insert("pool.ids".into(), Cow::from(self.ids.as_slice()).into());
        state.insert("pool.epoch".into(), self.epoch.into());
        state.insert("pool.cursor".into(), (self.cursor as u64).into());
    }

    /// Restores the place in the epoch. Another pool has other orders: it starts the saved epoch
    /// anew.
    pub(crate) fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        self.epoch = state.take("pool.epoch")?;
        let cursor = state.take::<u64>("pool.cursor")?;
        let saved_len = carry.saved_len();
        if cursor >= saved_len.max(1) as u64 {
            return Err(Error::state_entry(
                "pool.cursor",
                cursor,
                format!("a position below {saved_len}"),
            ));
        }
        self.cursor = if carry.is_identical() { cursor as usize } else { 0 };
        self.order = epoch_order(self.seed, self.epoch, self.len());
        Ok(())
    }
}
