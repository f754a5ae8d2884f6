//! Which prompts become candidates: in epoch order, or among prompts that the caller names.

use super::Sampler;
use crate::error::{Error, Result};
use crate::rng::Stream;
use crate::rules::{Progress, Wanted};
use crate::sampler::buffer::Pending;
use crate::sampler::counters::Counter;

impl Sampler {
    /// Candidates to be scored next for a batch of `n`: first those left admitted by the last batch
    /// and those unlabeled for too long. Empty when enough are admitted, or the scan cap or the
    /// pool is exhausted.
    ///
    /// # Errors
    /// The candidates of the last call have not been offered.
    pub fn propose(&mut self, n: usize, policy_version: u32) -> Result<Vec<u32>> {
        self.advance_clock(policy_version);
        let unanswered = !self.buffer.pending().is_empty();
        let begins = self.buffer.open_batch()?;
        if unanswered || self.buffer.is_named() {
            return Ok(self.buffer.propose());
        }
        let warmup = policy_version < self.settings.warmup_steps;
        if begins && !warmup {
            let max_age = self.settings.max_age;
            self.buffer.mark_due(|prompt| {
                max_age > 0 && self.ages.is_due(prompt, policy_version, max_age)
            });
            let due = self.due_prompts(n, policy_version, |prompt| self.pool.is_free(prompt));
            self.wait_for(due, true);
        }
        let progress = Progress {
            n,
            admitted: self.buffer.admitted(),
            waiting: self.buffer.waiting(),
            judged: self.buffer.compared(),
        };
        let fresh = if warmup {
            progress.missing()
        } else {
            self.rule.search().fresh_candidates(&progress)
        };
        let asked_for = if warmup { 0 } else { fresh.min(self.pool.free()) };
        let nominated =
            if asked_for == 0 { vec![] } else { self.nominees(asked_for, policy_version) };
        let others = fresh - nominated.len();
        self.wait_for(nominated, false);
        let prompts = self.pool.claim_next(others);
        self.wait_for(prompts, false);
        Ok(self.buffer.propose())
    }

    /// Candidates that the rule finds in the whole pool.
    fn nominees(&mut self, count: usize, policy_version: u32) -> Vec<u32> {
        let (stream, visits, pool) =
            (Stream::of(self.settings.seed, "nominate", &[self.takes]), self.visits(), &self.pool);
        let wanted = Wanted {
            count,
            policy_version,
            visits,
            stream,
            is_free: &|prompt| pool.is_free(prompt),
        };
        self.rule.nominate(&wanted, self.belief.as_mut())
    }

    /// The same with no other candidates than the free ones of `among`: all of them at once, in an
    /// order that depends on seed and batch alone, and later calls for the same batch give nothing
    /// more. No candidate is kept for the next batch, neither before nor after this one.
    ///
    /// # Errors
    /// As `propose`; an index out of range or twice; or a batch without `among` has begun.
    pub fn propose_among(
        &mut self,
        n: usize,
        policy_version: u32,
        among: &[i64],
    ) -> Result<Vec<u32>> {
        let named = self.distinct_prompts("among", among)?;
        let waiting = self.buffer.open_named()?;
        self.advance_clock(policy_version);
        let Some(waiting) = waiting else {
            return Ok(self.buffer.propose());
        };
        for prompt in waiting {
            self.pool.release(prompt);
        }
        let is_candidate =
            |prompt: u32| named.binary_search(&prompt).is_ok() && self.pool.is_free(prompt);
        let warmup = policy_version < self.settings.warmup_steps;
        let due = if warmup { vec![] } else { self.due_prompts(n, policy_version, is_candidate) };
        let order = Stream::of(self.settings.seed, "among", &[self.takes]);
        let mut others: Vec<u32> =
            named.iter().copied().filter(|&prompt| self.pool.is_free(prompt)).collect();
        others.sort_by_cached_key(|&prompt| (order.bits(u64::from(prompt)), prompt));
        self.wait_for(due, true);
        others.retain(|&prompt| self.pool.is_free(prompt));
        self.wait_for(others, false);
        Ok(self.buffer.propose())
    }

    /// Candidates that may be looked at for each prompt wanted.
    pub fn candidates_per_draw(&self, policy_version: u32) -> usize {
        let due = if self.settings.max_age == 0 {
            0
        } else {
            self.settings.probes_per_place().ceil() as usize
        };
        if policy_version < self.settings.warmup_steps {
            1
        } else {
            self.rule.search().candidates_per_draw() + due
        }
    }

    /// The candidates that are due for a re-probe, oldest first, as many as may have a place.
    fn due_prompts(
        &self,
        n: usize,
        policy_version: u32,
        is_candidate: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        if self.settings.max_age == 0 {
            return vec![];
        }
        let due = self
            .ages
            .due(policy_version, self.settings.max_age)
            .filter(|&prompt| is_candidate(prompt));
        let affordable = self.settings.probes_per_place() * n as f64;
        due.take((affordable as usize).max(1)).collect()
    }

    fn wait_for(&mut self, prompts: Vec<u32>, due: bool) {
        self.counters[Counter::Scanned] += prompts.len() as u64;
        for prompt in prompts {
            self.pool.claim(prompt);
            self.buffer.wait_for(Pending { prompt, due });
        }
    }

    /// The prompts named, ascending, checked to be named once.
    fn distinct_prompts(&self, argument: &'static str, prompts: &[i64]) -> Result<Vec<u32>> {
        let mut named: Vec<(u32, usize)> =
            self.prompt_indices(argument, prompts)?.into_iter().zip(0..).collect();
        named.sort_unstable();
        let again = named.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1]);
        match again.min_by_key(|&(_, position)| position) {
            Some((prompt, position)) => Err(Error::argument(
                argument,
                format!("prompt {prompt} again at position {position}"),
                "distinct prompts",
            )),
            None => Ok(named.into_iter().map(|(prompt, _)| prompt).collect()),
        }
    }
}
