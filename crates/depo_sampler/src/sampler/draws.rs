//! Draws handed out and not yet answered.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::state::{Carry, StateMap, StateReader};

/// Why a prompt was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DrawKind {
    /// The selection rule wanted it.
    Selected,
    /// In epoch order, during warm-up.
    Warmup,
    /// At random from what the rule rejects.
    Explore,
    /// Unlabeled for too long, and without a place otherwise.
    Reprobe,
    /// Nearest to admission, because too few were admitted.
    Fill,
}

impl DrawKind {
    /// Every kind, by code.
    pub const ALL: [Self; 5] =
        [Self::Selected, Self::Warmup, Self::Explore, Self::Reprobe, Self::Fill];
}

/// One prompt handed out for one group of rollouts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Unique, increasing from 0.
    pub draw_id: u64,
    /// Prompt index.
    pub prompt: u32,
    /// Text prediction it was judged with; NaN without one.
    pub predicted_reward: f32,
    /// Believed probability that its group is informative.
    pub p_informative: f32,
    /// Believed mean pass rate.
    pub pass_rate: f32,
    /// Probability with which it was to be drawn, in (0, 1].
    pub admission: f32,
    /// Why it was drawn.
    pub kind: DrawKind,
    /// Rollouts wanted: G, or fewer of a re-probe.
    pub n_rollouts: u32,
    /// Policy version at the time of the draw.
    pub policy_version: u32,
}

/// What an id refers to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Closing {
    /// An open draw, closed by asking.
    Open(Draw),
    /// A draw that was closed before.
    Closed,
    /// No draw.
    NeverIssued,
}

/// Ledger of open draws.
#[derive(Debug, Clone, Default)]
pub struct OpenDraws {
    open: BTreeMap<u64, Draw>,
    issued: u64,
}

impl OpenDraws {
    /// Id of the next draw.
    pub fn next_id(&self) -> u64 {
        self.issued
    }

    /// Adds a draw that was numbered with `next_id`.
    pub fn open(&mut self, draw: Draw) {
        self.issued = draw.draw_id + 1;
        self.open.insert(draw.draw_id, draw);
    }

    /// Closes a draw.
    pub fn close(&mut self, draw_id: i64) -> Closing {
        match u64::try_from(draw_id) {
            Ok(id) if id < self.issued => {
                self.open.remove(&id).map_or(Closing::Closed, Closing::Open)
            }
            _ => Closing::NeverIssued,
        }
    }

    /// Open draws by id.
    pub fn iter(&self) -> impl Iterator<Item = &Draw> {
        self.open.values()
    }

    pub(crate) fn save(&self, state: &mut StateMap) {
        state.insert("draws.issued".into(), self.issued.into());
        state.insert(
            "draws.ids".into(),
            self.iter().map(|draw| draw.draw_id).collect::<Vec<_>>().into(),
        );
        state.insert(
            "draws.prompts".into(),
            self.iter().map(|draw| draw.prompt).collect::<Vec<_>>().into(),
        );
        let column = |field: fn(&Draw) -> f32| self.iter().map(field).collect::<Vec<f32>>();
        state.insert("draws.predicted_rewards".into(), column(|draw| draw.predicted_reward).into());
        state.insert("draws.p_informative".into(), column(|draw| draw.p_informative).into());
        state.insert("draws.pass_rates".into(), column(|draw| draw.pass_rate).into());
        state.insert("draws.admissions".into(), column(|draw| draw.admission).into());
        state.insert(
            "draws.n_rollouts".into(),
            self.iter().map(|draw| draw.n_rollouts).collect::<Vec<_>>().into(),
        );
        state.insert(
            "draws.kinds".into(),
            self.iter().map(|draw| draw.kind as u8).collect::<Vec<_>>().into(),
        );
        let versions = self.iter().map(|draw| draw.policy_version).collect::<Vec<_>>();
        state.insert("draws.policy_versions".into(), versions.into());
    }

    /// Restores the open draws of prompts that are still there.
    pub(crate) fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        self.issued = state.take("draws.issued")?;
        let ids: Vec<u64> = state.take("draws.ids")?;
        let len = ids.len();
        let prompts: Vec<u32> = state.array("draws.prompts", len)?;
        let predicted_rewards: Vec<f32> = state.array("draws.predicted_rewards", len)?;
        let p_informative: Vec<f32> = state.array("draws.p_informative", len)?;
        let pass_rates: Vec<f32> = state.array("draws.pass_rates", len)?;
        let admissions: Vec<f32> = state.array("draws.admissions", len)?;
        let kinds: Vec<u8> = state.array("draws.kinds", len)?;
        let n_rollouts: Vec<u32> = state.array("draws.n_rollouts", len)?;
        let policy_versions: Vec<u32> = state.array("draws.policy_versions", len)?;
        for row in 0..len {
            if ids[row] >= self.issued {
                return Err(Error::state_entry(
                    "draws.ids",
                    ids[row],
                    format!("ids below {}", self.issued),
                ));
            }
            let kind = DrawKind::ALL.get(usize::from(kinds[row])).copied();
            let kind = kind.ok_or_else(|| Error::state_entry("draws.kinds", kinds[row], "0..4"))?;
            if let Some(prompt) = carry.prompt("draws.prompts", prompts[row])? {
                let draw = Draw {
                    draw_id: ids[row],
                    prompt,
                    predicted_reward: predicted_rewards[row],
                    p_informative: p_informative[row],
                    pass_rate: pass_rates[row],
                    admission: admissions[row],
                    kind,
                    n_rollouts: n_rollouts[row],
                    policy_version: policy_versions[row],
                };
                self.open.insert(ids[row], draw);
            }
        }
        Ok(())
    }
}
