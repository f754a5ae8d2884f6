//! What is kept of each prompt under any model: two numbers for its history, the version they stand at, and its text prediction.

use super::logit_gaussian::logit;
use super::{Label, PRIOR_MARGIN};
use crate::error::Result;
use crate::state::{Carry, StateMap, StateReader};

/// What is known of one prompt.
#[derive(Debug, Clone, Copy)]
pub(super) struct PromptRecord {
    /// What the model makes of the labels; zeros: never labelled.
    pub history: [f32; 2],
    /// Newest version that a label came from.
    pub version: u32,
    /// NaN: none.
    pub predicted_reward: f32,
}

const UNKNOWN_PROMPT: PromptRecord = PromptRecord { history: [0.0; 2], version: 0, predicted_reward: f32::NAN };

impl PromptRecord {
    pub fn is_labelled(&self) -> bool {
        self.history != UNKNOWN_PROMPT.history
    }

    /// Logit of the text prediction; none without one.
    pub fn text(&self) -> Option<f64> {
        let predicted_reward = f64::from(self.predicted_reward);
        (!predicted_reward.is_nan()).then(|| logit(predicted_reward.clamp(PRIOR_MARGIN, 1.0 - PRIOR_MARGIN)))
    }
}

/// The records of a pool.
#[derive(Debug, Clone)]
pub(super) struct Records {
    /// Entries of a saved state that hold the two numbers.
    names: [&'static str; 2],
    records: Vec<PromptRecord>,
}

impl Records {
    /// Nothing is known of any of `len` prompts.
    pub fn new(len: usize, names: [&'static str; 2]) -> Self {
        Self { names, records: vec![UNKNOWN_PROMPT; len] }
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_labelled(&self, prompt: u32) -> bool {
        self.records[prompt as usize].is_labelled()
    }

    pub fn of(&self, prompt: u32) -> PromptRecord {
        self.records[prompt as usize]
    }

    /// The record under another text prediction; NaN stands for the stored one.
    pub fn under(&self, prompt: u32, predicted_reward: f32) -> PromptRecord {
        let record = self.of(prompt);
        if predicted_reward.is_nan() { record } else { PromptRecord { predicted_reward, ..record } }
    }

    pub fn set_prior(&mut self, prompt: u32, predicted_reward: f32) {
        self.records[prompt as usize].predicted_reward = predicted_reward;
    }

    /// Notes what a label made of its prompt's history. Returns whether it is late: older than the newest, whose version stays.
    pub fn set_history(&mut self, label: &Label, history: [f64; 2]) -> bool {
        let record = &mut self.records[label.prompt as usize];
        let late = label.version < record.version;
        record.history = history.map(|number| number as f32);
        record.version = record.version.max(label.version);
        late
    }

    pub fn save(&self, state: &mut StateMap) {
        for (index, name) in self.names.into_iter().enumerate() {
            state.insert(name.into(), self.column(|record| record.history[index]).into());
        }
        state.insert("belief.predicted_rewards".into(), self.column(|record| record.predicted_reward).into());
        state.insert("belief.versions".into(), self.column(|record| record.version).into());
    }

    fn column<T>(&self, field: impl Fn(&PromptRecord) -> T) -> Vec<T> {
        self.records.iter().map(field).collect()
    }

    pub fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let len = carry.saved_len();
        let [first, second] = [state.lent(self.names[0], len)?, state.lent(self.names[1], len)?];
        let predicted_rewards = state.lent("belief.predicted_rewards", len)?;
        let versions = state.lent("belief.versions", len)?;
        let record = |prompt: usize| PromptRecord {
            history: [first[prompt], second[prompt]],
            version: versions[prompt],
            predicted_reward: predicted_rewards[prompt],
        };
        self.records = carry.gather(record, UNKNOWN_PROMPT);
        Ok(())
    }
}
