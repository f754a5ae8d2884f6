//! Totals since construction.

use std::ops::{Index, IndexMut};

use crate::error::Result;
use crate::sampler::draws::DrawKind;
use crate::state::{StateMap, StateReader};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Candidates looked at; one that waits in the buffer counts once.
    Scanned,
    /// Candidates that the rule rejected, drawn to explore or to fill up or not.
    Rejected,
    /// Draws that the rule selected.
    DrawnSelected,
    /// Draws during warm-up.
    DrawnWarmup,
    /// Draws at random from the rejected.
    DrawnExplore,
    /// Draws of prompts unlabeled for too long.
    DrawnReprobe,
    /// Draws to fill up.
    DrawnFill,
    /// Batches that had to be filled up with rejected candidates.
    StarvedCalls,
    /// Batches with fewer draws than wanted.
    ShortCalls,
    /// Labels recorded.
    Labelled,
    /// Groups without a single known reward.
    Unknown,
    /// Observations of draws closed before.
    Closed,
    /// Observations of ids never handed out.
    NeverIssued,
    /// Draws freed without a label.
    Released,
    /// Labels older than the newest of their prompt.
    Late,
    /// Labels whose rewards differ.
    Informative,
}

/// Names, by counter.
pub const NAMES: [&str; 16] = [
    "scanned",
    "rejected",
    "drawn_selected",
    "drawn_warmup",
    "drawn_explore",
    "drawn_reprobe",
    "drawn_fill",
    "starved_calls",
    "short_calls",
    "labelled",
    "unknown",
    "closed",
    "never_issued",
    "released",
    "late",
    "informative",
];

impl From<DrawKind> for Counter {
    fn from(kind: DrawKind) -> Self {
        match kind {
            DrawKind::Selected => Self::DrawnSelected,
            DrawKind::Warmup => Self::DrawnWarmup,
            DrawKind::Explore => Self::DrawnExplore,
            DrawKind::Reprobe => Self::DrawnReprobe,
            DrawKind::Fill => Self::DrawnFill,
        }
    }
}

/// One total per counter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters([u64; NAMES.len()]);

impl Index<Counter> for Counters {
    type Output = u64;

    fn index(&self, counter: Counter) -> &u64 {
        &self.0[counter as usize]
    }
}

impl IndexMut<Counter> for Counters {
    fn index_mut(&mut self, counter: Counter) -> &mut u64 {
        &mut self.0[counter as usize]
    }
}

impl Counters {
    /// Names and totals.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.0)
    }

    pub(crate) fn save(&self, state: &mut StateMap) {
        state.insert("counters".into(), self.0.to_vec().into());
    }

    pub(crate) fn restore(&mut self, state: &mut StateReader) -> Result<()> {
        let totals: Vec<u64> = state.array("counters", NAMES.len())?;
        self.0.copy_from_slice(&totals);
        Ok(())
    }
}
