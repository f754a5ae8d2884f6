//! Prompts in the order of their last label, least recent first, so that the ones due for a re-probe are found without a scan.

use crate::error::{Error, Result};
use crate::pool::epoch_order;
use crate::rng::Permutation;
use crate::state::{Carry, StateMap, StateReader};

/// Fields of a node. They are an array, for only numbers are laid out as zeros without being written.
type Node = [u32; 3];
const NEXT: usize = 0;
const PREVIOUS: usize = 1;
/// Version after that of the last label; 0: never labelled.
const UNLABELLED_FROM: usize = 2;

/// First the prompts that were never labelled, in the order of epoch 0, which takes no memory; then a doubly linked list of the others. Zeros say that
/// nothing is known, so that the memory of prompts without a label is never touched.
#[derive(Debug, Clone)]
pub struct LabelAges {
    unlabelled: Permutation,
    /// Every prompt before this rank of the permutation has been labelled.
    first_unlabelled: usize,
    /// The list: prompt p is node p + 1, and node 0 stands before the head and after the tail.
    nodes: Vec<Node>,
}

impl LabelAges {
    /// Nobody has been labelled since version 0.
    pub fn new(seed: u64, len: usize) -> Self {
        Self { unlabelled: epoch_order(seed, 0, len), first_unlabelled: 0, nodes: vec![[0; 3]; len + 1] }
    }

    /// Number of prompts.
    fn len(&self) -> usize {
        self.nodes.len() - 1
    }

    fn unlabelled_from(&self, prompt: u32) -> u32 {
        self.nodes[prompt as usize + 1][UNLABELLED_FROM]
    }

    fn is_labelled(&self, prompt: u32) -> bool {
        self.unlabelled_from(prompt) > 0
    }

    fn append(&mut self, prompt: u32, unlabelled_from: u32) {
        let (node, tail) = (prompt + 1, self.nodes[0][PREVIOUS]);
        self.nodes[tail as usize][NEXT] = node;
        self.nodes[node as usize] = [0, tail, unlabelled_from];
        self.nodes[0][PREVIOUS] = node;
    }

    fn pass_labelled(&mut self) {
        while self.first_unlabelled < self.len() && self.is_labelled(self.unlabelled.at(self.first_unlabelled) as u32) {
            self.first_unlabelled += 1;
        }
    }

    /// A verdict on this prompt arrived while the clock stood at `version`, which never runs backwards.
    pub fn touch(&mut self, prompt: u32, version: u32) {
        if self.is_labelled(prompt) {
            let [after, before, _] = self.nodes[prompt as usize + 1];
            self.nodes[before as usize][NEXT] = after;
            self.nodes[after as usize][PREVIOUS] = before;
        }
        self.append(prompt, version.saturating_add(1));
        self.pass_labelled();
    }

    /// The prompts that have a label, from the least recently labelled on.
    fn labelled(&self) -> impl Iterator<Item = u32> {
        let node = |node: u32| (node > 0).then_some(node);
        std::iter::successors(node(self.nodes[0][NEXT]), move |&last| node(self.nodes[last as usize][NEXT])).map(|node| node - 1)
    }

    /// Prompts from the least recently labelled on.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let ranks = self.first_unlabelled..self.len();
        let unlabelled = ranks.map(|rank| self.unlabelled.at(rank) as u32).filter(|&prompt| !self.is_labelled(prompt));
        unlabelled.chain(self.labelled())
    }

    /// Whether a prompt will have been unlabelled for `max_age` versions or more if it gets no label at `version`.
    pub fn is_due(&self, prompt: u32, version: u32, max_age: u32) -> bool {
        (version + 1).saturating_sub(self.unlabelled_from(prompt)) >= max_age
    }

    /// The prompts of which that is so, oldest first.
    pub fn due(&self, version: u32, max_age: u32) -> impl Iterator<Item = u32> {
        self.iter().take_while(move |&prompt| self.is_due(prompt, version, max_age))
    }

    /// Versions since the last label of the prompt that has waited longest, those never labelled from the start on; 0 without prompts.
    pub fn greatest(&self, version: u32) -> u64 {
        let oldest = self.iter().next();
        oldest.map_or(0, |prompt| (u64::from(version) + 1).saturating_sub(self.unlabelled_from(prompt).into()))
    }

    pub(crate) fn save(&self, state: &mut StateMap) {
        let order: Vec<u32> = self.labelled().collect();
        let unlabelled_from: Vec<u32> = order.iter().map(|&prompt| self.unlabelled_from(prompt)).collect();
        state.insert("ages.first_unlabelled".into(), (self.first_unlabelled as u64).into());
        state.insert("ages.order".into(), order.into());
        state.insert("ages.unlabelled_from".into(), unlabelled_from.into());
    }

    /// Restores the order of the prompts that have a label.
    pub(crate) fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let order: Vec<u32> = state.take("ages.order")?;
        let unlabelled_from: Vec<u32> = state.array("ages.unlabelled_from", order.len())?;
        for (&old, &unlabelled_from) in order.iter().zip(&unlabelled_from) {
            let Some(prompt) = carry.prompt("ages.order", old)? else { continue };
            if self.is_labelled(prompt) {
                return Err(Error::state_entry("ages.order", format!("prompt {old} twice"), "distinct prompts"));
            }
            if unlabelled_from == 0 {
                return Err(Error::state_entry("ages.unlabelled_from", 0, "versions of at least 1"));
            }
            self.append(prompt, unlabelled_from);
        }
        let first_unlabelled: u64 = state.take("ages.first_unlabelled")?;
        if first_unlabelled > order.len() as u64 {
            let expected = format!("at most {}, as many as have a label", order.len());
            return Err(Error::state_entry("ages.first_unlabelled", first_unlabelled, expected));
        }
        self.first_unlabelled = if carry.is_identical() { first_unlabelled as usize } else { 0 };
        self.pass_labelled();
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
            seed: u64, len in 1..40_usize, labels in prop::collection::vec(any::<u32>(), 0..100), saved_at in 0..100_usize,
        ) {
            let order = epoch_order(seed, 0, len);
            let mut expected: Vec<u32> = (0..len).map(|rank| order.at(rank) as u32).collect();
            let mut ages = LabelAges::new(seed, len);
            for (version, prompt) in labels.iter().map(|label| label % len as u32).enumerate() {
                if version == saved_at {
                    let mut state = StateMap::new();
                    ages.save(&mut state);
                    ages = LabelAges::new(seed, len);
                    let ids: Vec<u64> = (0..len as u64).collect();
                    let mut reader = StateReader::new(state);
                    ages.restore(&mut reader, &Carry::new(&ids, &ids, true).expect("the same ids")).expect("a saved state");
                    reader.finish().expect("nothing is left");
                }
                ages.touch(prompt, version as u32);
                expected.retain(|&other| other != prompt);
                expected.push(prompt);
                prop_assert_eq!(ages.iter().collect::<Vec<u32>>(), expected.clone());
            }
        }
    }
}
