//! What is kept of each prompt under any model: two numbers for its history, the version they stand
//! at, and its text prediction.

use std::borrow::Cow;

use super::logit_gaussian::logit;
use super::{Label, PRIOR_MARGIN};
use crate::error::Result;
use crate::state::{Carry, StateMap, StateReader};
use depo_structures::memory::filled;

/// What is known of one prompt.
#[derive(Debug, Clone, Copy)]
pub(super) struct PromptRecord {
    /// What the model makes of the labels; zeros: never labeled.
    pub history: [f32; 2],
    /// Newest version that a label came from.
    pub version: u32,
    /// NaN: none.
    pub predicted_reward: f32,
}

const UNKNOWN_PROMPT: PromptRecord =
    PromptRecord { history: [0.0; 2], version: 0, predicted_reward: f32::NAN };

impl PromptRecord {
    pub fn is_labelled(&self) -> bool {
        self.history != UNKNOWN_PROMPT.history
    }

    /// Logit of the text prediction; none without one.
    pub fn text(&self) -> Option<f64> {
        let predicted_reward = f64::from(self.predicted_reward);
        (!predicted_reward.is_nan())
            .then(|| logit(predicted_reward.clamp(PRIOR_MARGIN, 1.0 - PRIOR_MARGIN)))
    }
}

/// The records of a pool, one array for each number, so that they are saved and loaded as they are.
#[derive(Debug, Clone)]
pub(super) struct Records {
    /// Entries of a saved state that hold the two numbers.
    names: [&'static str; 2],
    history: [Vec<f32>; 2],
    versions: Vec<u32>,
    predicted_rewards: Vec<f32>,
}

impl Records {
    /// Nothing is known of any of `len` prompts.
    pub fn new(len: usize, names: [&'static str; 2]) -> Self {
        let PromptRecord { history, version, predicted_reward } = UNKNOWN_PROMPT;
        let history = history.map(|number| filled(number, len));
        Self {
            names,
            history,
            versions: filled(version, len),
            predicted_rewards: filled(predicted_reward, len),
        }
    }

    pub fn len(&self) -> usize {
        self.versions.len()
    }

    pub fn is_labelled(&self, prompt: u32) -> bool {
        self.of(prompt).is_labelled()
    }

    pub fn of(&self, prompt: u32) -> PromptRecord {
        let prompt = prompt as usize;
        let history = [self.history[0][prompt], self.history[1][prompt]];
        PromptRecord {
            history,
            version: self.versions[prompt],
            predicted_reward: self.predicted_rewards[prompt],
        }
    }

    /// The record under another text prediction; NaN stands for the stored one.
    pub fn under(&self, prompt: u32, predicted_reward: f32) -> PromptRecord {
        let record = self.of(prompt);
        if predicted_reward.is_nan() { record } else { PromptRecord { predicted_reward, ..record } }
    }

    pub fn set_prior(&mut self, prompt: u32, predicted_reward: f32) {
        self.predicted_rewards[prompt as usize] = predicted_reward;
    }

    /// Notes what a label made of its prompt's history. Returns whether it is late: older than the
    /// newest, whose version stays.
    pub fn set_history(&mut self, label: &Label, history: [f64; 2]) -> bool {
        let prompt = label.prompt as usize;
        for (numbers, number) in self.history.iter_mut().zip(history) {
            numbers[prompt] = number as f32;
        }
        let newest = &mut self.versions[prompt];
        let late = label.version < *newest;
        *newest = label.version.max(*newest);
        late
    }

    pub fn save<'a>(&'a self, state: &mut StateMap<'a>) {
        for (name, numbers) in self.names.into_iter().zip(&self.history) {
            state.insert(name.into(), Cow::from(numbers).into());
        }
        state.insert("belief.predicted_rewards".into(), Cow::from(&self.predicted_rewards).into());
        state.insert("belief.versions".into(), Cow::from(&self.versions).into());
    }

    /// Reads what `save` wrote. `are_counts`: the two numbers may not be negative.
    pub fn restore(
        &mut self,
        state: &mut StateReader,
        carry: &Carry,
        are_counts: bool,
    ) -> Result<()> {
        let (len, PromptRecord { history, version, predicted_reward }) =
            (carry.saved_len(), UNKNOWN_PROMPT);
        for ((name, numbers), unknown) in self.names.into_iter().zip(&mut self.history).zip(history)
        {
            let saved =
                if are_counts { state.counts(name, len)? } else { state.lent(name, len)? };
            *numbers = carry.column(saved, unknown);
        }
        self.predicted_rewards =
            carry.column(state.lent("belief.predicted_rewards", len)?, predicted_reward);
        self.versions = carry.column(state.lent("belief.versions", len)?, version);
        Ok(())
    }
}
