//! The batch in the making: candidates that wait for their predictions, and judged ones that wait
//! for a place.

use crate::error::{Error, Result};
use crate::rules::Standing;
use crate::sampler::allotment::Candidate;
use crate::state::{Carry, StateMap, StateReader};

/// A proposed prompt without a judgement yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Prompt index.
    pub prompt: u32,
    /// Whether it is proposed because it was unlabeled for too long.
    pub due: bool,
}

/// The batch in the making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
enum Batch {
    /// None: `propose` was not called since the last `take`.
    #[default]
    None,
    /// Of candidates in epoch order.
    Open,
    /// Of candidates that the caller named.
    Named,
}

impl Batch {
    const ALL: [Self; 3] = [Self::None, Self::Open, Self::Named];
}

/// Candidates of the present batch, and those admitted in the last one beyond what was taken.
#[derive(Debug, Clone, Default)]
pub struct PromptBuffer {
    pending: Vec<Pending>,
    judged: Vec<Candidate>,
    /// `propose` returned `pending` and the caller has not offered them yet.
    awaiting_offer: bool,
    batch: Batch,
}

impl PromptBuffer {
    /// Opens a batch: what an earlier one left admitted waits for a newer prediction, in front of
    /// all others.
    ///
    /// Returns whether a new batch began.
    ///
    /// # Errors
    /// The candidates of the last `propose` have not been offered.
    pub fn open_batch(&mut self) -> Result<bool> {
        if self.awaiting_offer {
            return Err(Error::OfferMissing { pending: self.pending.len() });
        }
        let begins = self.batch == Batch::None;
        if begins {
            let kept = self
                .judged
                .drain(..)
                .map(|candidate| Pending { prompt: candidate.prompt, due: false });
            self.pending.splice(0..0, kept);
            self.batch = Batch::Open;
        }
        Ok(begins)
    }

    /// Opens a batch of candidates that the caller names. Returns the prompts that waited here
    /// until now, to be released; none if it is open already.
    ///
    /// # Errors
    /// The candidates of the last `propose` have not been offered, or the present batch is not one
    /// of named candidates.
    pub fn open_named(&mut self) -> Result<Option<Vec<u32>>> {
        if self.awaiting_offer {
            return Err(Error::OfferMissing { pending: self.pending.len() });
        }
        match self.batch {
            Batch::Named => Ok(None),
            Batch::Open => Err(Error::argument(
                "among",
                "candidates in the middle of a batch without",
                "the same `among` until `take`",
            )),
            Batch::None => {
                self.batch = Batch::Named;
                let judged = self.judged.drain(..).map(|candidate| candidate.prompt);
                Ok(Some(
                    judged.chain(self.pending.drain(..).map(|pending| pending.prompt)).collect(),
                ))
            }
        }
    }

    /// Whether the caller named the candidates of the present batch.
    pub fn is_named(&self) -> bool {
        self.batch == Batch::Named
    }

    /// Adds a candidate for the next offer.
    pub fn wait_for(&mut self, pending: Pending) {
        self.pending.push(pending);
    }

    /// Marks those that wait for an offer and are unlabeled for too long.
    pub fn mark_due(&mut self, is_due: impl Fn(u32) -> bool) {
        for pending in &mut self.pending {
            pending.due |= is_due(pending.prompt);
        }
    }

    /// Candidates that wait for an offer.
    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Hands the pending candidates to the caller.
    pub fn propose(&mut self) -> Vec<u32> {
        self.awaiting_offer = !self.pending.is_empty();
        self.pending.iter().map(|pending| pending.prompt).collect()
    }

    /// Takes the pending candidates out, to be judged.
    ///
    /// # Errors
    /// `candidates` are not what was proposed.
    pub fn accept(&mut self, candidates: &[u32]) -> Result<Vec<Pending>> {
        let longest = self.pending.len().max(candidates.len());
        let proposed = |position: usize| self.pending.get(position).map(|pending| pending.prompt);
        let differs =
            (0..longest).find(|&position| candidates.get(position).copied() != proposed(position));
        if let Some(position) = differs {
            let name = |prompt: Option<u32>| {
                prompt.map_or_else(|| "nothing".into(), |prompt| format!("prompt {prompt}"))
            };
            let (got, expected) =
                (name(candidates.get(position).copied()), name(proposed(position)));
            return Err(Error::OtherCandidates { position, got, expected });
        }
        self.awaiting_offer = false;
        Ok(std::mem::take(&mut self.pending))
    }

    /// Adds a judged candidate.
    pub fn judge(&mut self, candidate: Candidate) {
        self.judged.push(candidate);
    }

    /// Number of candidates that wait for an offer and were not added because they are due.
    pub fn waiting(&self) -> usize {
        self.pending.iter().filter(|pending| !pending.due).count()
    }

    /// Number of judged candidates that were not added because they are due.
    pub fn compared(&self) -> usize {
        self.judged.iter().filter(|candidate| !candidate.due).count()
    }

    /// Judged candidates.
    pub fn judged(&self) -> &[Candidate] {
        &self.judged
    }

    /// Number of judged candidates that are admitted without competition.
    pub fn admitted(&self) -> usize {
        self.judged.iter().filter(|candidate| candidate.standing <= Standing::Admitted).count()
    }

    /// Ends the batch and hands out its judged candidates. Candidates that were proposed but never
    /// offered head the next batch.
    pub fn close_batch(&mut self) -> Vec<Candidate> {
        self.batch = Batch::None;
        self.awaiting_offer = false;
        std::mem::take(&mut self.judged)
    }

    pub(crate) fn save(&self, state: &mut StateMap) {
        let column =
            |field: fn(&Candidate) -> f32| self.judged.iter().map(field).collect::<Vec<f32>>();
        let prompts: Vec<u32> = self.judged.iter().map(|candidate| candidate.prompt).collect();
        let standings: Vec<u8> =
            self.judged.iter().map(|candidate| candidate.standing as u8).collect();
        state.insert("buffer.batch_open".into(), (self.batch as u64).into());
        state.insert("buffer.prompts".into(), prompts.into());
        state.insert("buffer.standings".into(), standings.into());
        state.insert(
            "buffer.predicted_rewards".into(),
            column(|candidate| candidate.predicted_reward).into(),
        );
        state.insert(
            "buffer.p_informative".into(),
            column(|candidate| candidate.p_informative).into(),
        );
        state.insert("buffer.pass_rates".into(), column(|candidate| candidate.pass_rate).into());
        state.insert(
            "buffer.due".into(),
            self.judged.iter().map(|candidate| u8::from(candidate.due)).collect::<Vec<_>>().into(),
        );
        state.insert("buffer.scores".into(), column(|candidate| candidate.score).into());
        let pending: Vec<u32> = self.pending.iter().map(|pending| pending.prompt).collect();
        let pending_due: Vec<u8> =
            self.pending.iter().map(|pending| u8::from(pending.due)).collect();
        state.insert("buffer.pending".into(), pending.into());
        state.insert("buffer.pending_due".into(), pending_due.into());
    }

    /// Restores the batch. The pending candidates may be offered, or proposed again: the
    /// process that proposed them may be gone.
    pub(crate) fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let batch: u64 = state.take("buffer.batch_open")?;
        let known = Batch::ALL.into_iter().find(|&known| known as u64 == batch);
        self.batch = known.ok_or_else(|| Error::state_entry("buffer.batch_open", batch, "0..2"))?;
        self.awaiting_offer = false;
        let prompts: Vec<u32> = state.take("buffer.prompts")?;
        let standings: Vec<u8> = state.array("buffer.standings", prompts.len())?;
        let predicted_rewards: Vec<f32> = state.array("buffer.predicted_rewards", prompts.len())?;
        let p_informative: Vec<f32> = state.array("buffer.p_informative", prompts.len())?;
        let pass_rates: Vec<f32> = state.array("buffer.pass_rates", prompts.len())?;
        let scores: Vec<f32> = state.array("buffer.scores", prompts.len())?;
        let due: Vec<u8> = state.array("buffer.due", prompts.len())?;
        for (row, &old) in prompts.iter().enumerate() {
            let standing = Standing::ALL.get(usize::from(standings[row])).copied();
            let standing = standing
                .ok_or_else(|| Error::state_entry("buffer.standings", standings[row], "0..3"))?;
            if let Some(prompt) = carry.prompt("buffer.prompts", old)? {
                let (predicted_reward, pass_rate) = (predicted_rewards[row], pass_rates[row]);
                let (p_informative, score, due) = (p_informative[row], scores[row], due[row] != 0);
                self.judged.push(Candidate {
                    prompt,
                    predicted_reward,
                    p_informative,
                    pass_rate,
                    standing,
                    score,
                    due,
                });
            }
        }
        let pending: Vec<u32> = state.take("buffer.pending")?;
        let pending_due: Vec<u8> = state.array("buffer.pending_due", pending.len())?;
        for (&old, &due) in pending.iter().zip(&pending_due) {
            if let Some(prompt) = carry.prompt("buffer.pending", old)? {
                self.pending.push(Pending { prompt, due: due != 0 });
            }
        }
        Ok(())
    }
}
