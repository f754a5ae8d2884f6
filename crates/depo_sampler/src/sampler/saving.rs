//! Saving and loading the whole sampler.

use std::borrow::Cow;

use super::Sampler;
use crate::error::{Error, Result};
use crate::state::{Carry, StateMap, StateReader};

/// Version of the saved state's layout.
pub const STATE_VERSION: u64 = 3;

/// How the prompts of a loaded state relate to the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadReport {
    /// In both.
    pub matched: usize,
    /// In the state, not in the pool.
    pub missing: usize,
    /// In the pool, not in the state.
    pub added: usize,
}

impl Sampler {
    /// Everything that an exact continuation needs, at any point between two calls.
    pub fn state(&self) -> StateMap<'static> {
        self.lend_state().into_iter().map(|(name, value)| (name, value.into_owned())).collect()
    }

    /// The same, with the largest arrays lent.
    pub fn lend_state(&self) -> StateMap<'_> {
        let mut state = StateMap::new();
        state.insert("version".into(), STATE_VERSION.into());
        self.settings.save(&mut state);
        self.pool.save(&mut state);
        self.ages.save(&mut state);
        self.belief.save(&mut state);
        self.rule.save(&mut state);
        self.buffer.save(&mut state);
        self.draws.save(&mut state);
        self.replay.save(&mut state);
        self.explored.save(&mut state);
        self.counters.save(&mut state);
        state.insert(
            "sampler.threshold".into(),
            self.threshold.map_or_else(Vec::new, |value| vec![value]).into(),
        );
        state.insert("sampler.clock".into(), u64::from(self.clock).into());
        state.insert("sampler.probe_debt".into(), self.probe_debt.into());
        state.insert("sampler.takes".into(), self.takes.into());
        state
    }

    /// Restores what `state` returned. `strict`: the pool must hold the same prompts in the same
    /// order. Otherwise what is known of each prompt is carried over by id, and open draws of
    /// missing prompts are dropped; what is known of clusters is forgotten, for other sources may
    /// bear their numbers. Another rule than the state's starts without a memory.
    ///
    /// # Errors
    /// The state does not fit this sampler; nothing has changed then.
    pub fn load_state(&mut self, state: StateMap, strict: bool) -> Result<LoadReport> {
        let mut reader = StateReader::new(state);
        let version: u64 = reader.take("version")?;
        if version != STATE_VERSION {
            return Err(Error::state_entry("version", version, STATE_VERSION));
        }
        let same_rule = self.settings.check(&mut reader)?;
        let saved_ids: Cow<[u64]> = reader.take("pool.ids")?;
        let carry = Carry::new(&saved_ids, self.pool.ids(), strict)?;
        // What is believed of each prompt is read below: laying it out before would touch as much
        // memory again.
        let mut restored =
            Self::at_start(self.pool.restarted(), self.settings.belief(0), self.settings.clone());
        if same_rule {
            restored.rule.restore(&mut reader, &carry)?;
        } else {
            reader.skip("policy.");
        }
        restored.restore(reader, &carry)?;
        *self = restored;
        let matched = carry.matched();
        Ok(LoadReport {
            matched,
            missing: saved_ids.len() - matched,
            added: self.pool.len() - matched,
        })
    }

    fn restore(&mut self, mut reader: StateReader, carry: &Carry) -> Result<()> {
        self.pool.restore(&mut reader, carry)?;
        self.ages.restore(&mut reader, carry)?;
        self.belief.restore(&mut reader, carry)?;
        self.buffer.restore(&mut reader, carry)?;
        self.draws.restore(&mut reader, carry)?;
        self.replay.restore(&mut reader, carry)?;
        if carry.is_identical() {
            self.explored.restore(&mut reader)?;
        } else {
            reader.skip("exploration.");
        }
        self.counters.restore(&mut reader)?;
        self.threshold = reader.take::<Vec<f64>>("sampler.threshold")?.first().copied();
        let clock: u64 = reader.take("sampler.clock")?;
        self.clock = u32::try_from(clock)
            .map_err(|_| Error::state_entry("sampler.clock", clock, "below 2^32"))?;
        self.probe_debt = reader.take("sampler.probe_debt")?;
        self.takes = reader.take("sampler.takes")?;
        reader.finish()?;
        self.claim_restored()
    }

    /// Claims every prompt that is waiting, buffered or in flight; each can be only one of these.
    fn claim_restored(&mut self) -> Result<()> {
        let pending = self.buffer.pending().iter().map(|pending| pending.prompt);
        let judged = self.buffer.judged().iter().map(|candidate| candidate.prompt);
        let in_flight = self.draws.iter().map(|draw| draw.prompt);
        let claimed: Vec<u32> = pending.chain(judged).chain(in_flight).collect();
        for prompt in claimed {
            if !self.pool.is_free(prompt) {
                let got = format!("prompt {prompt} twice");
                return Err(Error::state_entry(
                    "draws.prompts",
                    got,
                    "prompts that wait or are in flight once",
                ));
            }
            self.pool.claim(prompt);
        }
        Ok(())
    }
}
