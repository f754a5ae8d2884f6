//! Bounded memory of reward targets for the estimator.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::rng::Stream;
use crate::state::{Carry, StateMap, StateReader};

/// One label, as the estimator learns from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Prompt index.
    pub prompt: u32,
    /// Observed pass rate, in [0, 1].
    pub reward_target: f32,
    /// exp(mean token log-probability), in [0, 1]; NaN if unknown.
    pub logprob_target: f32,
    /// Known rewards behind the pass rate.
    pub count: f32,
    /// 1 / admission, capped.
    pub weight: f32,
    /// Policy version that made the rollouts.
    pub policy_version: u32,
}

/// The newest targets, oldest first.
#[derive(Debug, Clone)]
pub struct TargetReplay {
    targets: VecDeque<Target>,
    capacity: usize,
    fresh: usize,
    seed: u64,
    samples: u64,
}

impl TargetReplay {
    /// An empty memory of at most `capacity` targets.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self { targets: VecDeque::new(), capacity, fresh: 0, seed, samples: 0 }
    }

    /// Remembers a target, forgetting the oldest if there are too many.
    pub fn push(&mut self, target: Target) {
        if self.targets.len() == self.capacity {
            self.targets.pop_front();
        }
        self.targets.push_back(target);
        self.fresh = (self.fresh + 1).min(self.targets.len());
    }

    /// Targets pushed since the last call that are still remembered, oldest first.
    pub fn fresh(&mut self) -> Vec<Target> {
        let known = self.targets.len() - std::mem::take(&mut self.fresh);
        self.targets.range(known..).copied().collect()
    }

    /// `min(m, remembered)` targets drawn without replacement, differently at each call.
    pub fn sample(&mut self, m: usize) -> Vec<Target> {
        let stream = Stream::of(self.seed, "replay", &[self.samples]);
        self.samples += 1;
        stream.sample(self.targets.len(), m).into_iter().map(|index| self.targets[index]).collect()
    }

    pub(crate) fn save(&self, state: &mut StateMap) {
        let floats =
            |field: fn(&Target) -> f32| self.targets.iter().map(field).collect::<Vec<f32>>();
        let integers =
            |field: fn(&Target) -> u32| self.targets.iter().map(field).collect::<Vec<u32>>();
        state.insert("replay.prompts".into(), integers(|target| target.prompt).into());
        state.insert("replay.reward_targets".into(), floats(|target| target.reward_target).into());
        state
            .insert("replay.logprob_targets".into(), floats(|target| target.logprob_target).into());
        state.insert("replay.counts".into(), floats(|target| target.count).into());
        state.insert("replay.weights".into(), floats(|target| target.weight).into());
        state.insert(
            "replay.policy_versions".into(),
            integers(|target| target.policy_version).into(),
        );
        state.insert("replay.fresh".into(), (self.fresh as u64).into());
        state.insert("replay.samples".into(), self.samples.into());
    }

    /// Restores the targets of prompts that are still there; the newest ones if the capacity is
    /// smaller now.
    pub(crate) fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let prompts: Vec<u32> = state.take("replay.prompts")?;
        let len = prompts.len();
        let reward_targets: Vec<f32> = state.array("replay.reward_targets", len)?;
        let logprob_targets: Vec<f32> = state.array("replay.logprob_targets", len)?;
        let counts: Vec<f32> = state.array("replay.counts", len)?;
        let weights: Vec<f32> = state.array("replay.weights", len)?;
        let policy_versions: Vec<u32> = state.array("replay.policy_versions", len)?;
        let fresh: u64 = state.take("replay.fresh")?;
        if fresh > len as u64 {
            return Err(Error::state_entry("replay.fresh", fresh, format!("at most {len}")));
        }
        self.samples = state.take("replay.samples")?;
        for row in 0..len {
            if row + fresh as usize == len {
                self.fresh = 0;
            }
            if let Some(prompt) = carry.prompt("replay.prompts", prompts[row])? {
                self.push(Target {
                    prompt,
                    reward_target: reward_targets[row],
                    logprob_target: logprob_targets[row],
                    count: counts[row],
                    weight: weights[row],
                    policy_version: policy_versions[row],
                });
            }
        }
        if fresh == 0 {
            self.fresh = 0;
        }
        Ok(())
    }
}
