//! What happens to draws: labels and releases.

use super::Sampler;
use crate::advantage::{GroupSummary, require_no_infinity};
use crate::belief::Label;
use crate::error::{Error, Result, require};
use crate::sampler::counters::Counter;
use crate::sampler::draws::{Closing, Draw, DrawKind};
use crate::sampler::replay::Target;

/// exp(mean token log-prob) may exceed 1 by rounding, not by more than this.
const LOGPROB_ROUNDING: f32 = 1e-3;

/// What became of one observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Rewards were recorded as a label.
    Labelled,
    /// Every reward was unknown: the prompt is free again and nothing was learned.
    Unknown,
    /// The draw was observed or released before.
    Closed,
    /// No such draw.
    NeverIssued,
}

/// Verdict on one draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// What became of it.
    pub status: Status,
    /// Whether its known rewards differ.
    pub informative: bool,
    /// Mean of the known rewards; NaN if there are none.
    pub mean_reward: f32,
    /// Share of the known rewards that are successes; NaN if there are none.
    pub pass_rate: f32,
    /// The draw that was open until now.
    pub draw: Option<Draw>,
}

impl Observation {
    fn without_label(status: Status, draw: Option<Draw>) -> Self {
        Self { status, informative: false, mean_reward: f32::NAN, pass_rate: f32::NAN, draw }
    }
}

impl Sampler {
    /// Records rewards of shape `[B, G]` (row by row, NaN: unknown) and exp(mean token log-prob)
    /// `[B]` (NaN: unknown) of rollouts by policy `policy_version`. Late, partial, repeated and
    /// unknown observations are all fine.
    ///
    /// # Errors
    /// A shape does not fit, a reward is infinite, or a log-prob target is outside of [0, 1];
    /// nothing has changed then.
    pub fn observe(
        &mut self,
        draw_ids: &[i64],
        rewards: &[f32],
        shape: [usize; 2],
        logprob_targets: &[f32],
        policy_version: u32,
    ) -> Result<Vec<Observation>> {
        let group_size = self.settings.group_size;
        check_arrays([draw_ids.len(), group_size], rewards, shape, logprob_targets)?;
        self.advance_clock(policy_version);
        let groups = rewards.chunks_exact(group_size).zip(logprob_targets);
        let observed = draw_ids.iter().zip(groups);
        Ok(observed
            .map(|(&id, (group, &target))| self.observe_one(id, group, target, policy_version))
            .collect())
    }

    fn observe_one(
        &mut self,
        draw_id: i64,
        rewards: &[f32],
        logprob_target: f32,
        policy_version: u32,
    ) -> Observation {
        let draw = match self.draws.close(draw_id) {
            Closing::Open(draw) => draw,
            Closing::Closed => {
                self.counters[Counter::Closed] += 1;
                return Observation::without_label(Status::Closed, None);
            }
            Closing::NeverIssued => {
                self.counters[Counter::NeverIssued] += 1;
                return Observation::without_label(Status::NeverIssued, None);
            }
        };
        self.pool.release(draw.prompt);
        // A group without any known reward counts as a try, or it would come back as the oldest at
        // every batch.
        self.ages.touch(draw.prompt, self.clock);
        let summary = GroupSummary::of(rewards);
        if summary.known == 0 {
            self.counters[Counter::Unknown] += 1;
            return Observation::without_label(Status::Unknown, Some(draw));
        }
        // In the rewards' own type: a reward of 0.9f32 meets a threshold of 0.9.
        let threshold = self.settings.success_threshold as f32;
        let successes = rewards.iter().filter(|&&reward| reward >= threshold).count();
        self.record(draw, &summary, successes, logprob_target, policy_version)
    }

    fn record(
        &mut self,
        draw: Draw,
        summary: &GroupSummary,
        successes: usize,
        logprob_target: f32,
        policy_version: u32,
    ) -> Observation {
        let informative = summary.is_informative(self.settings.tolerance);
        let label = Label {
            prompt: draw.prompt,
            successes: successes as u32,
            rollouts: summary.known as u32,
            informative,
            version: policy_version,
            weight: (1.0 / f64::from(draw.admission)).min(self.settings.max_target_weight),
        };
        self.learn(&draw, &label);
        let pass_rate = (successes as f64 / summary.known as f64) as f32;
        self.replay.push(Target {
            prompt: draw.prompt,
            reward_target: pass_rate,
            logprob_target: logprob_target.clamp(0.0, 1.0),
            count: summary.known as f32,
            weight: label.weight as f32,
            policy_version,
        });
        let mean_reward = summary.mean as f32;
        let draw = Some(draw);
        Observation { status: Status::Labelled, informative, mean_reward, pass_rate, draw }
    }

    /// Passes a label to everything that learns from it, and counts it.
    fn learn(&mut self, draw: &Draw, label: &Label) {
        let late = self.belief.observe(label);
        // Rules expect whole groups: a probe of one rollout would look like a group without signal.
        if draw.n_rollouts as usize == self.settings.group_size {
            self.rule.observe(label);
        }
        if draw.kind == DrawKind::Explore {
            self.explored.pull(self.cluster_of(draw), label.informative);
        }
        self.counters[Counter::Labelled] += 1;
        self.counters[Counter::Informative] += u64::from(label.informative);
        self.counters[Counter::Late] += u64::from(late);
    }

    /// Frees the prompts of draws without a label; returns how many were in flight.
    pub fn release(&mut self, draw_ids: &[i64]) -> usize {
        let mut released = 0;
        for &draw_id in draw_ids {
            if let Closing::Open(draw) = self.draws.close(draw_id) {
                self.pool.release(draw.prompt);
                released += 1;
            }
        }
        self.counters[Counter::Released] += released as u64;
        released
    }
}

/// Checks shapes and values of what was observed, before anything changes.
fn check_arrays(
    expected: [usize; 2],
    rewards: &[f32],
    shape: [usize; 2],
    logprob_targets: &[f32],
) -> Result<()> {
    let [rows, group_size] = expected;
    let fits = shape == [rows, group_size] && rewards.len() == rows * group_size;
    require(
        fits,
        "rewards",
        format!("shape {shape:?}"),
        &format!("shape {:?}", [rows, group_size]),
    )?;
    let len = logprob_targets.len();
    require(
        len == rows,
        "logprob_targets",
        format!("length {len}"),
        &format!("length {rows}, one per draw"),
    )?;
    require_no_infinity(rewards, group_size)?;
    let valid = |target: &f32| target.is_nan() || (0.0..=1.0 + LOGPROB_ROUNDING).contains(target);
    if let Some(at) = logprob_targets.iter().position(|target| !valid(target)) {
        let got = format!("{} at position {at}", logprob_targets[at]);
        return Err(Error::argument(
            "logprob_targets",
            got,
            "exp(mean log-prob) within 0..1, or NaN for unknown",
        ));
    }
    Ok(())
}
