//! Prompts in the order of their last label, least recent first, so that the ones due for a re-probe are found without a scan.

use crate::error::{Error, Result};
use crate::pool::epoch_order;
use crate::state::{Carry, StateMap, StateReader};

/// Doubly linked list over prompt indices; index `len` is the sentinel before the head and after the tail.
#[derive(Debug, Clone)]
pub struct LabelAges {
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Version after that of the last label; 0: never labelled.
    unlabelled_from: Vec<u32>,
}

impl LabelAges {
    /// Nobody has been labelled since version 0; the order is that of epoch 0.
    pub fn new(seed: u64, len: usize) -> Self {
        let order = epoch_order(seed, 0, len);
        Self::linked((0..len).map(|rank| order.at(rank) as u32), vec![0; len])
    }

    fn linked(order: impl Iterator<Item = u32>, unlabelled_from: Vec<u32>) -> Self {
        let sentinel = unlabelled_from.len() as u32;
        let mut ages =
            Self { next: vec![sentinel; unlabelled_from.len() + 1], previous: vec![sentinel; unlabelled_from.len() + 1], unlabelled_from };
        order.for_each(|prompt| ages.append(prompt));
        ages
    }

    fn sentinel(&self) -> u32 {
        self.unlabelled_from.len() as u32
    }

    fn append(&mut self, prompt: u32) {
        let sentinel = self.sentinel();
        let tail = self.previous[sentinel as usize];
        self.next[tail as usize] = prompt;
        self.previous[prompt as usize] = tail;
        self.next[prompt as usize] = sentinel;
        self.previous[sentinel as usize] = prompt;
    }

    /// A verdict on this prompt arrived while the clock stood at `version`, which never runs backwards.
    pub fn touch(&mut self, prompt: u32, version: u32) {
        let (before, after) = (self.previous[prompt as usize], self.next[prompt as usize]);
        self.next[before as usize] = after;
        self.previous[after as usize] = before;
        self.append(prompt);
        self.unlabelled_from[prompt as usize] = version.saturating_add(1);
    }

    /// Prompts from the least recently labelled on.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let sentinel = self.sentinel();
        std::iter::successors(Some(self.next[sentinel as usize]), |&prompt| Some(self.next[prompt as usize]))
            .take_while(move |&prompt| prompt != sentinel)
    }

    /// Whether a prompt will have been unlabelled for `max_age` versions or more if it gets no label at `version`.
    pub fn is_due(&self, prompt: u32, version: u32, max_age: u32) -> bool {
        (version + 1).saturating_sub(self.unlabelled_from[prompt as usize]) >= max_age
    }

    /// The prompts of which that is so, oldest first.
    pub fn due(&self, version: u32, max_age: u32) -> impl Iterator<Item = u32> {
        self.iter().take_while(move |&prompt| self.is_due(prompt, version, max_age))
    }

    /// Versions since the last label of the prompt that has waited longest, those never labelled from the start on; 0 without prompts.
    pub fn greatest(&self, version: u32) -> u64 {
        let oldest = self.iter().next();
        oldest.map_or(0, |prompt| (u64::from(version) + 1).saturating_sub(self.unlabelled_from[prompt as usize].into()))
    }

    pub(crate) fn save(&self, state: &mut StateMap) {
        state.insert("ages.order".into(), self.iter().collect::<Vec<u32>>().into());
        state.insert("ages.unlabelled_from".into(), self.unlabelled_from.clone().into());
    }

    /// Restores the order; prompts that the state does not know come first, as never labelled.
    pub(crate) fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let saved_order: Vec<u32> = state.array("ages.order", carry.saved_len())?;
        let unlabelled_from = carry.gather(&state.array("ages.unlabelled_from", carry.saved_len())?, 0);
        let mut seen = vec![false; unlabelled_from.len()];
        let mut order = Vec::with_capacity(unlabelled_from.len());
        for old in saved_order {
            if let Some(prompt) = carry.prompt("ages.order", old)? {
                if std::mem::replace(&mut seen[prompt as usize], true) {
                    return Err(Error::state_entry("ages.order", format!("prompt {old} twice"), "a permutation"));
                }
                order.push(prompt);
            }
        }
        let unknown = self.iter().filter(|&prompt| !seen[prompt as usize]).collect::<Vec<u32>>();
        *self = Self::linked(unknown.into_iter().chain(order), unlabelled_from);
        Ok(())
    }
}
