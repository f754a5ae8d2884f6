//! Polaris ("A post-training recipe for scaling reinforcement learning on advanced reasoning
//! models", 2025): at the end of a stage, prompts whose mean over the stage's groups is above 0.9
//! are dropped for good.
//!
//! The source ends its stages by hand; here a stage lasts `stage_steps` policy versions. As
//! published there is no way back. The mean is that of the groups' pass rates. Not reproduced: the
//! initial pool (a matter of the data), temperatures tuned per stage, and the copying of good
//! groups over silent ones within a batch.

use super::{Judgement, NamedOption, Prospect, Registered, RuleSettings, Search, SelectionRule};
use crate::belief::{Belief, Label};
use crate::error::{Error, Result};
use crate::state::{Carry, StateMap, StateReader};

/// Policy versions of a stage.
const STAGE_STEPS: NamedOption =
    NamedOption { name: "stage_steps", default: 20.0, range: (1.0, 1e6) };

/// Prompts with a higher mean are dropped.
const DROP_ABOVE: NamedOption = NamedOption { name: "drop_above", default: 0.9, range: (0.0, 1.0) };

pub(super) const RULE: Registered = Registered {
    name: "polaris",
    options: &[STAGE_STEPS, DROP_ABOVE],
    build: |settings, len| Box::new(Polaris::new(settings, len)),
};

#[derive(Clone, Copy, Default)]
struct Record {
    /// Sum of this stage's pass rates.
    total: f64,
    /// Groups of this stage.
    groups: u32,
    dropped: bool,
}

struct Polaris {
    scan_cap: usize,
    stage_steps: f64,
    drop_above: f64,
    /// Stages completed.
    stage: u32,
    records: Vec<Record>,
}

impl Polaris {
    fn new(settings: &RuleSettings, len: usize) -> Self {
        Self {
            scan_cap: settings.scan_cap,
            stage_steps: STAGE_STEPS.of(&settings.rule_options),
            drop_above: DROP_ABOVE.of(&settings.rule_options),
            stage: 0,
            records: vec![Record::default(); len],
        }
    }
}

impl SelectionRule for Polaris {
    fn search(&self) -> Search {
        Search::Missing { cap: self.scan_cap }
    }

    fn judge(&self, prospect: &Prospect, _belief: &dyn Belief) -> Judgement {
        Judgement::admitted_if(!self.records[prospect.prompt as usize].dropped)
    }

    fn begin_step(&mut self, version: u32) {
        let stage = (f64::from(version) / self.stage_steps) as u32;
        if stage == self.stage {
            return;
        }
        self.stage = stage;
        for record in &mut self.records {
            let easy =
                record.groups > 0 && record.total > self.drop_above * f64::from(record.groups);
            *record = Record { dropped: record.dropped || easy, ..Record::default() };
        }
    }

    fn observe(&mut self, label: &Label) {
        let record = &mut self.records[label.prompt as usize];
        record.total += label.pass_rate();
        record.groups += 1;
    }

    fn save(&self, state: &mut StateMap) {
        state.insert("policy.stage".into(), u64::from(self.stage).into());
        state.insert(
            "policy.totals".into(),
            self.records.iter().map(|record| record.total).collect::<Vec<f64>>().into(),
        );
        state.insert(
            "policy.groups".into(),
            self.records.iter().map(|record| record.groups).collect::<Vec<u32>>().into(),
        );
        state.insert(
            "policy.dropped".into(),
            self.records.iter().map(|record| u8::from(record.dropped)).collect::<Vec<u8>>().into(),
        );
    }

    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let len = carry.saved_len();
        let completed: u64 = state.take("policy.stage")?;
        self.stage = u32::try_from(completed)
            .map_err(|_| Error::state_entry("policy.stage", completed, "below 2^32"))?;
        let totals = state.lent("policy.totals", len)?;
        let groups = state.lent("policy.groups", len)?;
        let dropped = state.lent::<u8>("policy.dropped", len)?;
        let record = |prompt: usize| Record {
            total: totals[prompt],
            groups: groups[prompt],
            dropped: dropped[prompt] != 0,
        };
        self.records = carry.gather(record, Record::default());
        Ok(())
    }
}
