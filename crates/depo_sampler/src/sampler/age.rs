//! Prompts in the order of their last label, least recent first, so that the ones due for a
//! re-probe are found without a scan.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::rng::Permutation;
use crate::sampler::pool::epoch_order;
use crate::state::{Carry, StateMap, StateReader};
use depo_structures::memory::zeros;

/// Superseded entries that the log may always hold.
const SLACK: usize = 16;

/// First the prompts that were never labeled, in the order of epoch 0, which takes no memory; then
/// a log of the labels, in which a prompt's last entry counts. A log is saved and loaded as it lies
/// there, which walking a linked list of millions is not.
#[derive(Debug, Clone)]
pub struct LabelAges {
    unlabelled: Permutation,
    /// Every prompt before this rank of the permutation has been labeled.
    first_unlabelled: usize,
    /// Prompts, in the order of their labels.
    order: Vec<u32>,
    /// Version after that of the label, for each entry of the log.
    unlabelled_from: Vec<u32>,
    /// By prompt, the number of its last entry, from 1 on; 0: never labeled. Only zeros are laid
    /// out without being written.
    last: Vec<u32>,
    labelled: usize,
    /// Every entry before this one is superseded.
    first: usize,
}

impl LabelAges {
    /// No prompt has a label yet, since version 0.
    pub fn new(seed: u64, len: usize) -> Self {
        let (unlabelled, last) = (epoch_order(seed, 0, len), zeros(len));
        Self {
            unlabelled,
            first_unlabelled: 0,
            order: vec![],
            unlabelled_from: vec![],
            last,
            labelled: 0,
            first: 0,
        }
    }

    /// Number of prompts.
    fn len(&self) -> usize {
        self.last.len()
    }

    fn unlabelled_from(&self, prompt: u32) -> u32 {
        let last = self.last[prompt as usize] as usize;
        if last > 0 { self.unlabelled_from[last - 1] } else { 0 }
    }

    fn is_labelled(&self, prompt: u32) -> bool {
        self.last[prompt as usize] > 0
    }

    /// Whether an entry is its prompt's last.
    fn counts(&self, entry: usize) -> bool {
        self.last[self.order[entry] as usize] as usize == entry + 1
    }

    fn append(&mut self, prompt: u32, unlabelled_from: u32) {
        self.labelled += usize::from(!self.is_labelled(prompt));
        self.order.push(prompt);
        self.unlabelled_from.push(unlabelled_from);
        self.last[prompt as usize] = self.order.len() as u32;
    }

    /// Moves both fronts past what no longer counts.
    fn advance(&mut self) {
        while self.first_unlabelled < self.len()
            && self.is_labelled(self.unlabelled.at(self.first_unlabelled) as u32)
        {
            self.first_unlabelled += 1;
        }
        while self.first < self.order.len() && !self.counts(self.first) {
            self.first += 1;
        }
    }

    /// Drops superseded entries once they are half as many as the others: seldom enough to cost
    /// nothing.
    fn compact(&mut self) {
        // Entries are counted in 32 bits.
        if self.order.len() <= self.labelled + self.labelled / 2 + SLACK
            && self.order.len() < u32::MAX as usize - 1
        {
            return;
        }
        let log: Vec<(u32, u32)> =
            self.labelled().map(|prompt| (prompt, self.unlabelled_from(prompt))).collect();
        (self.order, self.unlabelled_from) = log.into_iter().unzip();
        for (entry, &prompt) in (1..).zip(&self.order) {
            self.last[prompt as usize] = entry;
        }
        self.first = 0;
    }

    /// A verdict on this prompt arrived while the clock stood at `version`, which never runs
    /// backwards.
    pub fn touch(&mut self, prompt: u32, version: u32) {
        self.append(prompt, version.saturating_add(1));
        self.compact();
        self.advance();
    }

    /// The prompts that have a label, from the least recently labeled on.
    fn labelled(&self) -> impl Iterator<Item = u32> {
        (self.first..self.order.len())
            .filter(|&entry| self.counts(entry))
            .map(|entry| self.order[entry])
    }

    /// Prompts from the least recently labeled on.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let ranks = self.first_unlabelled..self.len();
        let unlabelled = ranks
            .map(|rank| self.unlabelled.at(rank) as u32)
            .filter(|&prompt| !self.is_labelled(prompt));
        unlabelled.chain(self.labelled())
    }

    /// Whether a prompt will have been unlabeled for `max_age` versions or more if it gets no
    /// label at `version`.
    pub fn is_due(&self, prompt: u32, version: u32, max_age: u32) -> bool {
        version.saturating_add(1).saturating_sub(self.unlabelled_from(prompt)) >= max_age
    }

    /// The prompts of which that is so, oldest first.
    pub fn due(&self, version: u32, max_age: u32) -> impl Iterator<Item = u32> {
        self.iter().take_while(move |&prompt| self.is_due(prompt, version, max_age))
    }

    /// Versions since the last label of the prompt that has waited longest, those never labeled
    /// from the start on; 0 without prompts.
    pub fn greatest(&self, version: u32) -> u64 {
        let oldest = self.iter().next();
        oldest.map_or(0, |prompt| {
            (u64::from(version) + 1).saturating_sub(self.unlabelled_from(prompt).into())
        })
    }

    pub(crate) fn save<'a>(&'a self, state: &mut StateMap<'a>) {
        state.insert("ages.first_unlabelled".into(), (self.first_unlabelled as u64).into());
        state.insert("ages.order".into(), Cow::from(&self.order).into());
        state.insert("ages.unlabelled_from".into(), Cow::from(&self.unlabelled_from).into());
    }

    /// Restores the log, without the prompts that the pool lacks.
    pub(crate) fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let order: Cow<[u32]> = state.take("ages.order")?;
        let unlabelled_from: Cow<[u32]> = state.lent("ages.unlabelled_from", order.len())?;
        if unlabelled_from.contains(&0) {
            return Err(Error::state_entry("ages.unlabelled_from", 0, "versions of at least 1"));
        }
        let entries = order.len();
        (self.order, self.unlabelled_from) = carry.prompts("ages.order", order, unlabelled_from)?;
        for (entry, &prompt) in (1..).zip(&self.order) {
            let last = std::mem::replace(&mut self.last[prompt as usize], entry);
            self.labelled += usize::from(last == 0);
        }
        let first_unlabelled: u64 = state.take("ages.first_unlabelled")?;
        if first_unlabelled > entries as u64 {
            let expected = format!("at most {entries}, as many as there are labels");
            return Err(Error::state_entry("ages.first_unlabelled", first_unlabelled, expected));
        }
        self.first_unlabelled = if carry.is_identical() { first_unlabelled as usize } else { 0 };
        self.advance();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_order_is_that_of_epoch_0_and_then_of_last_labels(
            seed: u64,
            len in 1..40_usize,
            labels in prop::collection::vec(any::<u32>(), 0..100),
            saved_at in 0..100_usize,
        ) {
            let order = epoch_order(seed, 0, len);
            let mut expected: Vec<u32> = (0..len).map(|rank| order.at(rank) as u32).collect();
            let mut ages = LabelAges::new(seed, len);
            let mut unlabelled_from = vec![0; len];
            for (version, prompt) in labels.iter().map(|label| label % len as u32).enumerate() {
                if version == saved_at {
                    let mut state = StateMap::new();
                    ages.save(&mut state);
                    let ids: Vec<u64> = (0..len as u64).collect();
                    let mut reader = StateReader::new(state);
                    let mut restored = LabelAges::new(seed, len);
                    restored.restore(&mut reader, &Carry::new(&ids, &ids, true).expect("the same \
                        ids")).expect("a saved state");
                    reader.finish().expect("nothing is left");
                    ages = restored;
                }
                ages.touch(prompt, version as u32);
                expected.retain(|&other| other != prompt);
                expected.push(prompt);
                unlabelled_from[prompt as usize] = version as u32 + 1;
                prop_assert!(
                    (0..len as u32)
                        .all(|prompt| ages.unlabelled_from(prompt)
                            == unlabelled_from[prompt as usize])
                );
                prop_assert!(ages.order.len() <= len + len / 2 + SLACK);
                prop_assert_eq!(ages.iter().collect::<Vec<u32>>(), expected.clone());
            }
        }
    }
}
