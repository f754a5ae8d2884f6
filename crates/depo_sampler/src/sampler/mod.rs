//! The whole as one state machine: propose, offer, take; observe, release; save, load. One clock: the policy version.

mod labels;
mod saving;

use crate::age::LabelAges;
use crate::allotment::{Candidate, Pick, Places, allot, places_for};
use crate::belief::{Belief, DiscountedBeta, Forecast};
use crate::buffer::{Pending, PromptBuffer};
use crate::counters::{Counter, Counters};
use crate::draws::{Draw, OpenDraws};
use crate::error::{Error, Result, require};
use crate::pool::PromptPool;
use crate::replay::{Target, TargetReplay};
use crate::rng::Stream;
use crate::selection::{Judgement, Progress, SelectionPolicy, Standing};
use crate::settings::Settings;

pub use labels::{Observation, Status};
pub use saving::{LoadReport, STATE_VERSION};

/// Weight of the past in the running admission threshold.
const THRESHOLD_MEMORY: f64 = 0.9;

/// Prompt pool, beliefs, selection policy, buffer and target replay.
pub struct Sampler {
    settings: Settings,
    policy: Box<dyn SelectionPolicy + Send>,
    pool: PromptPool,
    ages: LabelAges,
    belief: Box<dyn Belief + Send>,
    buffer: PromptBuffer,
    draws: OpenDraws,
    replay: TargetReplay,
    counters: Counters,
    /// Running mean of the lowest score that won a place in open competition.
    threshold: Option<f64>,
    /// Newest policy version that any call named.
    clock: u32,
    takes: u64,
}

impl Sampler {
    /// A sampler that knows nothing yet of the prompts `ids` from `sources` (indices into `settings.source_floors`).
    ///
    /// # Errors
    /// A setting is out of its range, ids are not distinct, or a source has no floor.
    pub fn new(ids: Vec<u64>, sources: Vec<u32>, settings: Settings) -> Result<Self> {
        settings.validate()?;
        settings.validate_sources(&sources)?;
        let len = ids.len();
        Ok(Self {
            policy: settings.selection_policy(),
            pool: PromptPool::new(ids, sources, settings.seed)?,
            ages: LabelAges::new(settings.seed, len),
            belief: Box::new(DiscountedBeta::new(len, settings.beta())),
            buffer: PromptBuffer::default(),
            draws: OpenDraws::default(),
            replay: TargetReplay::new(settings.replay_capacity, settings.seed),
            counters: Counters::default(),
            threshold: None,
            clock: 0,
            takes: 0,
            settings,
        })
    }

    /// Candidates to be scored next for a batch of `n`: first those left admitted by the last batch and those due for a re-probe.
    /// Empty when enough are admitted, or the scan cap or the pool is exhausted.
    ///
    /// # Errors
    /// The candidates of the last call have not been offered.
    pub fn propose(&mut self, n: usize, policy_version: u32) -> Result<Vec<u32>> {
        self.clock = self.clock.max(policy_version);
        let unanswered = !self.buffer.pending().is_empty();
        let begins = self.buffer.open_batch()?;
        if unanswered {
            return Ok(self.buffer.propose());
        }
        let warmup = policy_version < self.settings.warmup_steps;
        if begins && !warmup {
            self.propose_reprobes(n, policy_version);
        }
        let progress =
            Progress { n, admitted: self.buffer.admitted(), waiting: self.buffer.pending().len(), judged: self.buffer.judged().len() };
        let fresh = if warmup { progress.missing() } else { self.policy.fresh_candidates(&progress) };
        for prompt in self.pool.claim_next(fresh) {
            self.buffer.wait_for(Pending { prompt, reprobe: false });
            self.counters[Counter::Scanned] += 1;
        }
        Ok(self.buffer.propose())
    }

    fn propose_reprobes(&mut self, n: usize, policy_version: u32) {
        if self.settings.max_age == 0 {
            return;
        }
        let due = self.ages.due(policy_version, self.settings.max_age).filter(|&prompt| self.pool.is_free(prompt));
        let prompts: Vec<u32> = due.take(places_for(self.settings.reprobe_share, n)).collect();
        for prompt in prompts {
            self.pool.claim(prompt);
            self.buffer.wait_for(Pending { prompt, reprobe: true });
            self.counters[Counter::Scanned] += 1;
        }
    }

    /// Judges the candidates of the last `propose` by their text predictions (NaN: none).
    ///
    /// # Errors
    /// Other candidates than proposed, another number of predictions, or a prediction outside of [0, 1]; nothing has changed then.
    pub fn offer(&mut self, candidates: &[i64], predicted_rewards: &[f32], policy_version: u32) -> Result<()> {
        require_predictions(candidates.len(), predicted_rewards)?;
        let accepted = self.buffer.accept(&self.prompt_indices("candidates", candidates)?)?;
        self.clock = self.clock.max(policy_version);
        let warmup = policy_version < self.settings.warmup_steps;
        for (pending, &predicted_reward) in accepted.iter().zip(predicted_rewards) {
            let prompt = pending.prompt;
            if !predicted_reward.is_nan() {
                self.belief.set_prior(prompt, predicted_reward);
            }
            let forecast = self.belief.forecast(prompt, predicted_reward, policy_version);
            let Judgement { standing, score } = match (pending.reprobe, warmup) {
                (true, _) => Judgement { standing: Standing::Reprobe, score: 0.0 },
                (false, true) => Judgement { standing: Standing::Warmup, score: 0.0 },
                (false, false) => self.policy.judge(predicted_reward, &forecast),
            };
            let p_informative = forecast.p_informative as f32;
            self.buffer.judge(Candidate { prompt, predicted_reward, p_informative, standing, score });
        }
        Ok(())
    }

    /// Hands out up to `n` draws and marks them in flight. Without `propose` and `offer` before it, only what is buffered.
    pub fn take(&mut self, n: usize, policy_version: u32) -> Vec<Draw> {
        self.clock = self.clock.max(policy_version);
        let candidates = self.buffer.close_batch();
        let places = Places {
            n,
            explore_share: self.settings.explore_share,
            source_floors: &self.settings.source_floors,
            sources: self.pool.sources(),
        };
        let stream = |purpose| Stream::of(self.settings.seed, purpose, &[self.takes]);
        let allotment = allot(&candidates, &places, stream("explore_count"), stream("explore"));
        self.takes += 1;
        for candidate in &candidates {
            self.pool.release(candidate.prompt);
        }
        let draw = |pick: &Pick| self.open_draw(&candidates[pick.candidate], pick, policy_version);
        let draws: Vec<Draw> = allotment.picks.iter().map(draw).collect();
        // A re-probe that found no place is due next time in any case.
        let surplus = allotment.surplus.iter().map(|&index| candidates[index]);
        for candidate in surplus.filter(|candidate| candidate.standing != Standing::Reprobe) {
            self.pool.claim(candidate.prompt);
            self.buffer.judge(candidate);
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

    fn open_draw(&mut self, candidate: &Candidate, pick: &Pick, policy_version: u32) -> Draw {
        let draw = Draw {
            draw_id: self.draws.next_id(),
            prompt: candidate.prompt,
            predicted_reward: candidate.predicted_reward,
            p_informative: candidate.p_informative,
            admission: pick.admission as f32,
            kind: pick.kind,
            policy_version,
        };
        self.pool.claim(draw.prompt);
        self.draws.open(draw);
        self.counters[pick.kind.into()] += 1;
        draw
    }

    /// What is believed of prompts at `policy_version` under text predictions (NaN: the stored one). Changes nothing.
    ///
    /// # Errors
    /// An index out of range, another number of predictions, or a prediction outside of [0, 1].
    pub fn beliefs(&self, prompts: &[i64], predicted_rewards: &[f32], policy_version: u32) -> Result<Vec<Forecast>> {
        require_predictions(prompts.len(), predicted_rewards)?;
        let prompts = self.prompt_indices("prompts", prompts)?;
        let pairs = prompts.iter().zip(predicted_rewards);
        Ok(pairs.map(|(&prompt, &prediction)| self.belief.forecast(prompt, prediction, policy_version)).collect())
    }

    /// Whether the policy alone (no exploration, no warm-up) would admit each prompt now. Changes nothing.
    ///
    /// # Errors
    /// As `beliefs`.
    pub fn wanted(&self, prompts: &[i64], predicted_rewards: &[f32], policy_version: u32) -> Result<Vec<bool>> {
        let forecasts = self.beliefs(prompts, predicted_rewards, policy_version)?;
        let threshold = self.threshold.unwrap_or(0.0);
        let pairs = forecasts.iter().zip(predicted_rewards);
        Ok(pairs.map(|(forecast, &prediction)| self.policy.wants(prediction, forecast, threshold)).collect())
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

    /// Totals since construction, and the epochs completed.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counters.named().chain([("epochs", self.pool.epoch())])
    }

    /// Rollouts that the text prediction counts for at present.
    pub fn concentration(&self) -> f64 {
        self.belief.concentration()
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

/// One prediction per candidate, each within [0, 1] or NaN.
fn require_predictions(candidates: usize, predicted_rewards: &[f32]) -> Result<()> {
    let len = predicted_rewards.len();
    require(len == candidates, "predicted_rewards", format!("length {len}"), &format!("length {candidates}, one per prompt"))?;
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
