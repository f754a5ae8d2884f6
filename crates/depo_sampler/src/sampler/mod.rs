//! The whole as one state machine: propose, offer, take; observe, release; save, load. One clock:
//! the policy version.

pub mod age;
pub mod allotment;
pub mod buffer;
pub mod counters;
pub mod draws;
mod labels;
pub mod pool;
mod proposing;
pub mod replay;
mod saving;
pub mod shared;

use crate::belief::{Belief, Forecast};
use crate::error::{Error, Result, require};
use crate::rng::Stream;
use crate::rules::exploration::{Arms, ExploreBy, cluster};
use crate::rules::{Judgement, Prospect, SelectionRule, Standing};
use crate::sampler::age::LabelAges;
use crate::sampler::allotment::{Allotment, Candidate, Pick, Places, allot};
use crate::sampler::buffer::PromptBuffer;
use crate::sampler::counters::{Counter, Counters};
use crate::sampler::draws::{Draw, DrawKind, OpenDraws};
use crate::sampler::pool::PromptPool;
use crate::sampler::replay::{Target, TargetReplay};
use crate::settings::Settings;

pub use labels::{Observation, Status};
pub use saving::{LoadReport, STATE_VERSION};

/// Weight of the past in the running admission threshold.
const THRESHOLD_MEMORY: f64 = 0.9;

/// Prompt pool, beliefs, selection rule, buffer and target replay.
pub struct Sampler {
    settings: Settings,
    rule: Box<dyn SelectionRule + Send>,
    pool: PromptPool,
    ages: LabelAges,
    belief: Box<dyn Belief + Send>,
    buffer: PromptBuffer,
    draws: OpenDraws,
    replay: TargetReplay,
    /// Results of explored groups, per cluster.
    explored: Arms,
    counters: Counters,
    /// Running mean of the lowest score that got a place in open competition.
    threshold: Option<f64>,
    /// Newest policy version that any call named.
    clock: u32,
    takes: u64,
    /// Part of a place that probes have cost and that was not taken off yet.
    probe_debt: f64,
}

impl Sampler {
    /// A sampler without labels for the prompts `ids` from `sources` (indices into
    /// `settings.source_floors`).
    ///
    /// # Errors
    /// A setting is out of its range, ids are not distinct, or a source has no floor.
    pub fn new(ids: Vec<u64>, sources: Vec<u32>, settings: Settings) -> Result<Self> {
        settings.validate()?;
        settings.validate_sources(&sources)?;
        let pool = PromptPool::new(ids, sources, settings.seed)?;
        let belief = settings.belief(pool.len());
        Ok(Self::at_start(pool, belief, settings))
    }

    /// A sampler of a pool whose prompts have no labels but those in `belief`.
    fn at_start(pool: PromptPool, belief: Box<dyn Belief + Send>, settings: Settings) -> Self {
        let len = pool.len();
        Self {
            rule: settings.selection_rule(len),
            pool,
            ages: LabelAges::new(settings.seed, len),
            belief,
            buffer: PromptBuffer::default(),
            draws: OpenDraws::default(),
            replay: TargetReplay::new(settings.replay_capacity, settings.seed),
            explored: Arms::new(settings.source_floors.len()),
            counters: Counters::default(),
            threshold: None,
            clock: 0,
            takes: 0,
            probe_debt: 0.0,
            settings,
        }
    }

    /// The prompts.
    pub fn pool(&self) -> &PromptPool {
        &self.pool
    }

    /// Rollouts of a full group, G.
    pub fn group_size(&self) -> usize {
        self.settings.group_size
    }

    /// Judges the candidates of the last `propose` by their text predictions (NaN: none).
    ///
    /// # Errors
    /// Other candidates than proposed, another number of predictions, or a prediction outside of
    /// [0, 1]; nothing has changed then.
    pub fn offer(
        &mut self,
        candidates: &[i64],
        predicted_rewards: &[f32],
        policy_version: u32,
    ) -> Result<()> {
        require_predictions(candidates.len(), predicted_rewards)?;
        let accepted = self.buffer.accept(&self.prompt_indices("candidates", candidates)?)?;
        self.advance_clock(policy_version);
        let warmup = policy_version < self.settings.warmup_steps;
        for (pending, &predicted_reward) in accepted.iter().zip(predicted_rewards) {
            let prompt = pending.prompt;
            if !predicted_reward.is_nan() {
                self.belief.set_prior(prompt, predicted_reward);
            }
            let forecast = self.belief.forecast(prompt, predicted_reward, policy_version);
            let Judgement { standing, score } = if warmup {
                Judgement { standing: Standing::Warmup, score: 0.0 }
            } else {
                self.judgement(prompt, predicted_reward, forecast, policy_version)
            };
            let (p_informative, pass_rate) =
                (forecast.p_informative as f32, forecast.pass_rate as f32);
            self.buffer.judge(Candidate {
                prompt,
                predicted_reward,
                p_informative,
                pass_rate,
                standing,
                score,
                due: pending.due,
            });
        }
        Ok(())
    }

    /// Hands out draws worth up to `n` groups and marks them in flight; a re-probe costs
    /// `probe_rollouts` / G of a group. Without `propose` and `offer` before it, only what is
    /// buffered.
    pub fn take(&mut self, n: usize, policy_version: u32) -> Vec<Draw> {
        self.advance_clock(policy_version);
        let surplus_waits = !self.buffer.is_named();
        let candidates = self.buffer.close_batch();
        let (allotment, probes) = self.give_places(n, surplus_waits, &candidates);
        self.takes += 1;
        for candidate in &candidates {
            self.pool.release(candidate.prompt);
        }
        let draw = |pick: &Pick| self.open_draw(&candidates[pick.candidate], pick, policy_version);
        let draws: Vec<Draw> = allotment.picks.iter().chain(&probes).map(draw).collect();
        if surplus_waits {
            let is_probed = |index: usize| probes.iter().any(|pick| pick.candidate == index);
            self.keep(
                allotment
                    .surplus
                    .iter()
                    .filter(|&&index| !is_probed(index))
                    .map(|&index| candidates[index]),
            );
        }
        self.counters[Counter::Rejected] += allotment.rejected as u64;
        self.counters[Counter::StarvedCalls] += u64::from(allotment.filled > 0);
        self.counters[Counter::ShortCalls] += u64::from(draws.len() < n);
        if let Some(lowest) = allotment.lowest_on_merit.map(f64::from) {
            let past = self.threshold.unwrap_or(lowest);
            self.threshold = Some(THRESHOLD_MEMORY * past + (1.0 - THRESHOLD_MEMORY) * lowest);
        }
        draws
    }

    /// Gives out `n` places, less what probes cost: those unlabeled for too long that get no
    /// place.
    fn give_places(
        &mut self,
        n: usize,
        surplus_waits: bool,
        candidates: &[Candidate],
    ) -> (Allotment, Vec<Pick>) {
        let stream = |purpose| Stream::of(self.settings.seed, purpose, &[self.takes]);
        let cost_of_one = self.settings.probe_size() as f64 / self.settings.group_size as f64;
        let arms =
            (self.settings.explore_by == ExploreBy::Ucb).then(|| self.arms_with_open_draws());
        let mut cost = 0;
        loop {
            let places = Places {
                n: n - cost,
                surplus_waits,
                explore_share: self.settings.explore_share,
                arms: arms.as_ref(),
                source_floors: &self.settings.source_floors,
                sources: self.pool.sources(),
            };
            let allotment = allot(candidates, &places, stream("explore_count"), stream("explore"));
            let mut probes = left_due(candidates, &allotment);
            probes.truncate((n as f64 / cost_of_one) as usize);
            let owed = self.probe_debt + probes.len() as f64 * cost_of_one;
            // Whole places only; the rest is remembered, so that costs are exact over time.
            let due_cost = (owed.floor().max(0.0) as usize).min(n);
            if due_cost <= cost {
                self.probe_debt = owed - cost as f64;
                return (allotment, probes);
            }
            cost = due_cost;
        }
    }

    /// What is known of the clusters, with explored groups that are still out as pulls without
    /// reward, so that no cluster gets them all.
    fn arms_with_open_draws(&self) -> Arms {
        let mut arms = self.explored.clone();
        for draw in self.draws.iter().filter(|draw| draw.kind == DrawKind::Explore) {
            arms.pull(self.cluster_of(draw), false);
        }
        arms
    }

    fn cluster_of(&self, draw: &Draw) -> u32 {
        cluster(self.pool.sources()[draw.prompt as usize], draw.pass_rate)
    }

    /// Keeps admitted candidates for the next batch.
    fn keep(&mut self, surplus: impl Iterator<Item = Candidate>) {
        for candidate in surplus {
            self.pool.claim(candidate.prompt);
            self.buffer.judge(candidate);
        }
    }

    fn open_draw(&mut self, candidate: &Candidate, pick: &Pick, policy_version: u32) -> Draw {
        let draw = Draw {
            draw_id: self.draws.next_id(),
            prompt: candidate.prompt,
            predicted_reward: candidate.predicted_reward,
            p_informative: candidate.p_informative,
            pass_rate: candidate.pass_rate,
            admission: pick.admission as f32,
            kind: pick.kind,
            n_rollouts: if pick.kind == DrawKind::Reprobe {
                self.settings.probe_size()
            } else {
                self.settings.group_size
            } as u32,
            policy_version,
        };
        self.pool.claim(draw.prompt);
        self.draws.open(draw);
        self.counters[pick.kind.into()] += 1;
        draw
    }

    /// What is believed of prompts at `policy_version` under text predictions (NaN: the stored
    /// one). Changes nothing.
    ///
    /// # Errors
    /// An index out of range, another number of predictions, or a prediction outside of [0, 1].
    pub fn beliefs(
        &self,
        prompts: &[i64],
        predicted_rewards: &[f32],
        policy_version: u32,
    ) -> Result<Vec<Forecast>> {
        require_predictions(prompts.len(), predicted_rewards)?;
        let prompts = self.prompt_indices("prompts", prompts)?;
        let pairs = prompts.iter().zip(predicted_rewards);
        Ok(pairs
            .map(|(&prompt, &prediction)| self.belief.forecast(prompt, prediction, policy_version))
            .collect())
    }

    /// Whether the rule alone (no exploration, no warm-up) would admit each prompt now. Changes
    /// nothing.
    ///
    /// # Errors
    /// As `beliefs`.
    pub fn wanted(
        &self,
        prompts: &[i64],
        predicted_rewards: &[f32],
        policy_version: u32,
    ) -> Result<Vec<bool>> {
        let forecasts = self.beliefs(prompts, predicted_rewards, policy_version)?;
        let threshold = self.threshold.unwrap_or(f64::NEG_INFINITY);
        let rows = prompts.iter().zip(predicted_rewards).zip(forecasts);
        let judgements = rows.map(|((&prompt, &prediction), forecast)| {
            self.judgement(prompt as u32, prediction, forecast, policy_version)
        });
        Ok(judgements.map(|judgement| judgement.is_wanted(threshold)).collect())
    }

    /// The rule's judgement of a prompt at this version. A second call at the same version uses the
    /// same random numbers.
    fn judgement(
        &self,
        prompt: u32,
        predicted_reward: f32,
        forecast: Forecast,
        policy_version: u32,
    ) -> Judgement {
        let stream =
            Stream::of(self.settings.seed, "judge", &[policy_version.into(), prompt.into()]);
        let prospect = Prospect {
            prompt,
            predicted_reward,
            forecast,
            policy_version,
            visits: self.visits(),
            stream,
        };
        self.rule.judge(&prospect, self.belief.as_ref())
    }

    /// Labels so far per prompt of the pool.
    fn visits(&self) -> f64 {
        self.counters[Counter::Labelled] as f64 / self.pool.len().max(1) as f64
    }

    /// Notes that `policy_version` exists.
    fn advance_clock(&mut self, policy_version: u32) {
        if policy_version > self.clock {
            self.clock = policy_version;
            self.rule.begin_step(policy_version);
        }
    }

    /// Targets recorded since the last call.
    pub fn fresh_targets(&mut self) -> Vec<Target> {
        self.replay.fresh()
    }

    /// `min(m, remembered)` targets drawn without replacement.
    pub fn replay_targets(&mut self, m: usize) -> Vec<Target> {
        self.replay.sample(m)
    }

    /// Open draws by id.
    pub fn in_flight(&self) -> impl Iterator<Item = &Draw> {
        self.draws.iter()
    }

    /// Totals since construction, the epochs completed, and for how many versions the least
    /// recently labeled prompt has been unlabeled.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counters.named().chain([
            ("epochs", self.pool.epoch()),
            ("oldest_label_age", self.ages.greatest(self.clock)),
        ])
    }

    /// The belief's parameters by name, as fitted at present.
    pub fn belief_parameters(&self) -> Vec<(&'static str, f64)> {
        self.belief.parameters()
    }

    /// Checks prompt indices that come from outside.
    fn prompt_indices(&self, argument: &'static str, prompts: &[i64]) -> Result<Vec<u32>> {
        let len = self.pool.len();
        let in_range = |(position, &index): (usize, &i64)| {
            let prompt = u32::try_from(index).ok().filter(|&prompt| (prompt as usize) < len);
            prompt.ok_or(Error::Index { argument, position, index, len })
        };
        prompts.iter().enumerate().map(in_range).collect()
    }
}

/// The candidates unlabeled for too long that `allotment` leaves without a place, those that could
/// wait for one included: they have waited enough.
fn left_due(candidates: &[Candidate], allotment: &Allotment) -> Vec<Pick> {
    let mut left: Vec<bool> = candidates.iter().map(|candidate| candidate.due).collect();
    allotment.picks.iter().for_each(|pick| left[pick.candidate] = false);
    let indices = (0..candidates.len()).filter(|&index| left[index]);
    indices.map(|candidate| Pick { candidate, kind: DrawKind::Reprobe, admission: 1.0 }).collect()
}

/// One prediction per candidate, each within [0, 1] or NaN.
fn require_predictions(candidates: usize, predicted_rewards: &[f32]) -> Result<()> {
    let len = predicted_rewards.len();
    require(
        len == candidates,
        "predicted_rewards",
        format!("length {len}"),
        &format!("length {candidates}, one per prompt"),
    )?;
    let valid = |prediction: &f32| prediction.is_nan() || (0.0..=1.0).contains(prediction);
    match predicted_rewards.iter().position(|prediction| !valid(prediction)) {
        Some(at) => Err(Error::argument(
            "predicted_rewards",
            format!("{} at position {at}", predicted_rewards[at]),
            "numbers within 0..1, or NaN for no prediction",
        )),
        None => Ok(()),
    }
}
