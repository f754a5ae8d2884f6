//! GRESO, "Act only when it pays: efficient reinforcement learning for LLM reasoning via selective
//! rollouts" (arXiv 2506.02177).
//!
//! A prompt whose last z visits were all silent in the same way is kept with probability max(p^z,
//! 0.01); p is `p_easy` after groups that were all right, `p_hard` after groups that were all
//! wrong. Once per policy version, from the second epoch on, each p moves by `adaptation` = 0.01
//! within 0.05..0.95: down if the version's share of such groups reached its part of
//! `target_zero_variance` (easy 1/3, hard 2/3), else up. The second epoch begins with the first
//! label of a prompt that has one already, so no epoch order is needed.
//!
//! Not reproduced: batches sized by the share of silent groups (the trainer's backfill takes that
//! part), and the released code's test for hard groups, a mean up to 0.11, which is about its
//! format reward; here a silent group is hard if nothing succeeded.

use super::{Judgement, NamedOption, Prospect, Registered, RuleSettings, Search, SelectionRule};
use crate::belief::{Belief, Label};
use crate::error::Result;
use crate::state::{Carry, StateMap, StateReader};
use depo_structures::portable::power;

const LEAST_KEEP: f64 = 0.01;
const PROBABILITY_RANGE: (f64, f64) = (0.05, 0.95);
const EASY_PART: f64 = 1.0 / 3.0;
const HARD_PART: f64 = 2.0 / 3.0;

/// Both p to begin with.
const KEEP: NamedOption = NamedOption { name: "keep", default: 0.5, range: PROBABILITY_RANGE };

/// What both p move by in a step; 0: they stay.
const ADAPTATION: NamedOption =
    NamedOption { name: "adaptation", default: 0.01, range: (0.0, 1.0) };

/// Share of silent groups that is aimed at.
const TARGET: NamedOption =
    NamedOption { name: "target_zero_variance", default: 0.25, range: (0.0, 1.0) };

pub(super) const RULE: Registered = Registered {
    name: "greso",
    options: &[KEEP, ADAPTATION, TARGET],
    build: |settings, len| Box::new(Greso::new(settings, len)),
};

/// Visits of a prompt; at most one of the runs is not 0.
#[derive(Clone, Copy, Default)]
struct Trace {
    visits: u32,
    /// Visits up to the last one that were all right.
    easy_run: u32,
    /// Visits up to the last one that were all wrong.
    hard_run: u32,
}

/// Groups of the present step.
#[derive(Clone, Copy, Default)]
struct Tally {
    groups: u64,
    easy: u64,
    hard: u64,
}

struct Greso {
    scan_cap: usize,
    adaptation: f64,
    target: f64,
    p_easy: f64,
    p_hard: f64,
    /// Whether some prompt was visited twice.
    revisiting: bool,
    tally: Tally,
    traces: Vec<Trace>,
}

impl Greso {
    fn new(settings: &RuleSettings, len: usize) -> Self {
        let keep = KEEP.of(&settings.rule_options);
        Self {
            scan_cap: settings.scan_cap,
            adaptation: ADAPTATION.of(&settings.rule_options),
            target: TARGET.of(&settings.rule_options),
            p_easy: keep,
            p_hard: keep,
            revisiting: false,
            tally: Tally::default(),
            traces: vec![Trace::default(); len],
        }
    }

    /// Moves p down if `silent` of `groups` reached this part of the target, else up.
    fn adapted(&self, p: f64, silent: u64, groups: u64, part: f64) -> f64 {
        let (least, greatest) = PROBABILITY_RANGE;
        let reached = silent as f64 >= part * self.target * groups as f64;
        if reached { (p - self.adaptation).max(least) } else { (p + self.adaptation).min(greatest) }
    }
}

impl SelectionRule for Greso {
    fn search(&self) -> Search {
        Search::Missing { cap: self.scan_cap }
    }

    fn judge(&self, prospect: &Prospect, _belief: &dyn Belief) -> Judgement {
        let trace = self.traces[prospect.prompt as usize];
        let keep = (power(self.p_easy, trace.easy_run) * power(self.p_hard, trace.hard_run))
            .max(LEAST_KEEP);
        Judgement::admitted_if(prospect.stream.unit(0) < keep)
    }

    fn begin_step(&mut self, _version: u32) {
        let Tally { groups, easy, hard } = std::mem::take(&mut self.tally);
        if self.revisiting && groups > 0 {
            self.p_easy = self.adapted(self.p_easy, easy, groups, EASY_PART);
            self.p_hard = self.adapted(self.p_hard, hard, groups, HARD_PART);
        }
    }

    fn observe(&mut self, label: &Label) {
        let trace = &mut self.traces[label.prompt as usize];
        let (easy, hard) =
            (!label.informative && label.successes > 0, !label.informative && label.successes == 0);
        self.revisiting |= trace.visits > 0;
        trace.visits += 1;
        trace.easy_run = if easy { trace.easy_run + 1 } else { 0 };
        trace.hard_run = if hard { trace.hard_run + 1 } else { 0 };
        self.tally.groups += 1;
        self.tally.easy += u64::from(easy);
        self.tally.hard += u64::from(hard);
    }

    fn save(&self, state: &mut StateMap) {
        let column = |field: fn(&Trace) -> u32| self.traces.iter().map(field).collect::<Vec<u32>>();
        state.insert("policy.visits".into(), column(|trace| trace.visits).into());
        state.insert("policy.easy_runs".into(), column(|trace| trace.easy_run).into());
        state.insert("policy.hard_runs".into(), column(|trace| trace.hard_run).into());
        state.insert("policy.p_easy".into(), self.p_easy.into());
        state.insert("policy.p_hard".into(), self.p_hard.into());
        state.insert("policy.revisiting".into(), u64::from(self.revisiting).into());
        state.insert(
            "policy.tally".into(),
            vec![self.tally.groups, self.tally.easy, self.tally.hard].into(),
        );
    }

    fn restore(&mut self, state: &mut StateReader, carry: &Carry) -> Result<()> {
        let len = carry.saved_len();
        let visits = state.lent("policy.visits", len)?;
        let easy_runs = state.lent("policy.easy_runs", len)?;
        let hard_runs = state.lent("policy.hard_runs", len)?;
        let trace = |prompt: usize| Trace {
            visits: visits[prompt],
            easy_run: easy_runs[prompt],
            hard_run: hard_runs[prompt],
        };
        self.traces = carry.gather(trace, Trace::default());
        self.p_easy = state.take("policy.p_easy")?;
        self.p_hard = state.take("policy.p_hard")?;
        self.revisiting = state.take::<u64>("policy.revisiting")? != 0;
        let tally: Vec<u64> = state.array("policy.tally", 3)?;
        self.tally = Tally { groups: tally[0], easy: tally[1], hard: tally[2] };
        Ok(())
    }
}
