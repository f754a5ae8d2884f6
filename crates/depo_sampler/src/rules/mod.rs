//! Selection rules: which prompts are candidates, and which candidates are admitted. One small
//! file per rule; the registry below names them.
//!
//! A rule may remember labels and may use random numbers, once per policy version: the stream is
//! a function of (seed, version, prompt). Labels count in their order of arrival, explored prompts
//! included, probes of fewer rollouts than a group not. The belief stays beside every rule, so
//! that each draw's P(informative) is the belief's; recorded admissions are probabilities given
//! the rule's own random numbers.

pub mod exploration;

use std::str::FromStr;

use crate::belief::{Belief, Forecast, Label};
use crate::error::{Error, Result};
use crate::registry::{NamedNumbers, NamedOption, by_name, registry};
use crate::rng::Stream;
use crate::state::{Carry, StateMap, StateReader};

/// Where a candidate stands when places are given out; better standings come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// Admitted, as every prompt is during warm-up.
    Warmup,
    /// Admitted by the rule.
    Admitted,
    /// Competes with the other candidates by score.
    Competing,
    /// Rejected by the rule.
    Rejected,
}

impl Standing {
    /// Every standing, by code.
    pub const ALL: [Self; 4] = [Self::Warmup, Self::Admitted, Self::Competing, Self::Rejected];
}

/// A rule's opinion of one candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// Admitted, competing or rejected.
    pub standing: Standing,
    /// Order within a standing, higher first.
    pub score: f32,
}

impl Judgement {
    /// Admitted or rejected, one as good as another.
    pub(crate) fn admitted_if(admitted: bool) -> Self {
        Self {
            standing: if admitted { Standing::Admitted } else { Standing::Rejected },
            score: 0.0,
        }
    }

    /// Competes with this score.
    pub(crate) fn competing(score: f64) -> Self {
        Self { standing: Standing::Competing, score: score as f32 }
    }

    /// Whether the candidate would be admitted outside of any batch; `threshold` is the running
    /// admission threshold of competing candidates.
    pub fn is_wanted(&self, threshold: f64) -> bool {
        match self.standing {
            // In the scores' own precision, for the threshold is made of scores.
            Standing::Competing => f64::from(self.score) >= threshold,
            standing => standing < Standing::Competing,
        }
    }
}

/// How far the batch in the making has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Prompts wanted.
    pub n: usize,
    /// Candidates admitted so far.
    pub admitted: usize,
    /// Candidates that will be judged next in any case (buffered ones), those that are due not
    /// counted.
    pub waiting: usize,
    /// Candidates of this batch judged so far.
    pub judged: usize,
}

impl Progress {
    /// Candidates missing if every one is admitted.
    pub fn missing(&self) -> usize {
        self.n.saturating_sub(self.admitted + self.waiting)
    }
}

/// Where the candidates come from that a rule compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CandidatesFrom {
    /// The next ones in epoch order.
    Epoch,
    /// The whole pool: those that the rule nominates; budget: but for one per prompt wanted, in
    /// epoch order.
    Pool,
}

impl CandidatesFrom {
    /// Every place.
    pub const ALL: [Self; 2] = [Self::Epoch, Self::Pool];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Pool => "pool",
        }
    }
}

impl FromStr for CandidatesFrom {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        by_name("candidates_from", name, &Self::ALL, Self::name)
    }
}

/// Candidates that are looked for in the whole pool.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Candidates wanted.
    pub count: usize,
    /// Version of the policy that would roll them out.
    pub policy_version: u32,
    /// Labels so far per prompt of the pool.
    pub visits: f64,
    /// Random numbers of this batch.
    pub stream: Stream,
    /// Whether a prompt may be among them.
    pub is_free: &'a dyn Fn(u32) -> bool,
}

/// How candidates are looked for. Caps count per prompt wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// As many as are missing, until enough are admitted or so many were looked at.
    Missing {
        /// Candidates looked at, at most.
        cap: usize,
    },
    /// The same in chunks of twice the batch.
    Chunks {
        /// Candidates looked at, at most.
        cap: usize,
    },
    /// A fixed number, to compare.
    Compare {
        /// Candidates compared.
        candidates_per_draw: usize,
    },
}

impl Search {
    /// Number of fresh candidates to look at next; 0 ends the search.
    pub fn fresh_candidates(self, progress: &Progress) -> usize {
        let left = (progress.n.saturating_mul(self.candidates_per_draw()))
            .saturating_sub(progress.judged + progress.waiting);
        match self {
            Self::Missing { .. } => progress.missing().min(left),
            Self::Chunks { .. } if progress.admitted >= progress.n => 0,
            Self::Chunks { .. } => {
                progress.n.saturating_mul(2).saturating_sub(progress.waiting).min(left)
            }
            Self::Compare { .. } => left,
        }
    }

    /// Candidates looked at per prompt wanted, at most.
    pub fn candidates_per_draw(self) -> usize {
        match self {
            Self::Missing { cap } | Self::Chunks { cap } => cap,
            Self::Compare { candidates_per_draw } => candidates_per_draw,
        }
    }
}

/// A candidate, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Prospect {
    /// Prompt index.
    pub prompt: u32,
    /// Text prediction of its pass rate; NaN: none was made just now.
    pub predicted_reward: f32,
    /// What the belief expects of it.
    pub forecast: Forecast,
    /// Version of the policy that would roll it out.
    pub policy_version: u32,
    /// Labels so far per prompt of the pool.
    pub visits: f64,
    /// Random numbers of this prompt at this version.
    pub stream: Stream,
}

/// What a rule is built from.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleSettings {
    /// Rollouts of a prompt, G, at least 2.
    pub group_size: usize,
    /// Rule window: lowest and highest predicted reward admitted, 0 <= low < high <= 1.
    pub window: (f64, f64),
    /// Rules that compare candidates: how many for each prompt drawn, at least 1.
    pub candidates_per_draw: usize,
    /// Where these come from.
    pub candidates_from: CandidatesFrom,
    /// Policy versions after its last label before a prompt is nominated from the whole pool again.
    pub min_age: u32,
    /// Rules that admit and reject: candidates looked at per prompt wanted, at least 1.
    pub scan_cap: usize,
    /// Numbers that the rule alone has, by name; those not named have their defaults.
    pub rule_options: NamedNumbers,
}

/// Decides which candidates are admitted.
pub trait SelectionRule {
    /// How candidates are looked for.
    fn search(&self) -> Search;

    /// Judges one candidate.
    fn judge(&self, prospect: &Prospect, belief: &dyn Belief) -> Judgement;

    /// The candidates of the whole pool that would be judged best, at most as many as wanted; the
    /// rest comes in epoch order.
    fn nominate(&mut self, _wanted: &Wanted, _belief: &mut dyn Belief) -> Vec<u32> {
        vec![]
    }

    /// A policy version begins that no call has named before; called before anything else is done
    /// at that version.
    fn begin_step(&mut self, _version: u32) {}

    /// Takes in a label.
    fn observe(&mut self, _label: &Label) {}

    /// Writes the rule's memory into a state, under names that start with `policy.`.
    fn save(&self, _state: &mut StateMap) {}

    /// Reads what `save` wrote; prompts follow `carry`.
    ///
    /// # Errors
    /// An entry is missing or unusable; the memory is then in an unspecified state.
    fn restore(&mut self, _state: &mut StateReader, _carry: &Carry) -> Result<()> {
        Ok(())
    }
}

type Registered = crate::registry::Registered<dyn SelectionRule + Send, RuleSettings>;

registry! {
    /// The selection rules.
    RuleKind of dyn SelectionRule + Send, built from RuleSettings, as "rule" in RULE {
        /// Every prompt, in epoch order.
        Uniform: uniform;
        /// Predicted rewards within a window: DEPO as published.
        Window: window;
        /// The most probably informative of some candidates.
        Budget: budget;
        /// The same by a pass rate drawn from the belief.
        Thompson: thompson;
        /// Pass rates drawn from a Beta per prompt, nearest to a target.
        Mopps: mopps;
        /// Skips prompts that were silent at their last visits.
        Greso: greso;
        /// Drops prompts that were easy throughout a stage.
        Polaris: polaris;
        /// Weights by the pass rate of the latest group.
        PrimePools: prime_pools;
        /// A hidden Markov chain per prompt.
        Dps: dps;
    }
}

/// What a rule needs and does, for code that embeds the sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleTraits {
    /// Scores several candidates for each prompt that it draws (`candidates_per_draw`).
    pub compares_candidates: bool,
    /// Can find its candidates in the whole pool (`candidates_from`).
    pub searches_pool: bool,
    /// Its choice depends on the text predictions.
    pub reads_text: bool,
}

impl RuleKind {
    /// What this rule needs and does.
    pub fn traits(self) -> RuleTraits {
        let (compares_candidates, searches_pool, reads_text) = match self {
            Self::Uniform | Self::Greso | Self::Polaris => (false, false, false),
            Self::Window => (false, false, true),
            Self::Budget => (true, true, true),
            Self::Thompson => (true, false, true),
            Self::Mopps | Self::PrimePools => (true, true, false),
            Self::Dps => (true, false, false),
        };
        RuleTraits { compares_candidates, searches_pool, reads_text }
    }
}
