//! Settings of a sampler, and their ranges.

use crate::belief::{Belief, BeliefKind, BeliefSettings};
use crate::error::{Error, Result, require};
use crate::registry::NamedNumbers;
use crate::rules::exploration::ExploreBy;
use crate::rules::{CandidatesFrom, RuleKind, RuleSettings, SelectionRule};
use crate::state::{StateMap, StateReader};

/// How prompts are selected. `Default` is the budget rule with the Python package's default
/// values.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Rollouts of a prompt, G, at least 2.
    pub group_size: usize,
    /// Seed of every random draw.
    pub seed: u64,
    /// Selection rule.
    pub rule: RuleKind,
    /// Options of the rule, by name; see `RuleKind::options`.
    pub rule_options: NamedNumbers,
    /// Policy versions below this admit every prompt.
    pub warmup_steps: u32,
    /// Rule window: lowest and highest predicted reward admitted, 0 <= low < high <= 1.
    pub window: (f64, f64),
    /// Rules that compare candidates: how many for each prompt drawn, at least 1.
    pub candidates_per_draw: usize,
    /// Where these come from.
    pub candidates_from: CandidatesFrom,
    /// Rule budget: a prompt is nominated from the whole pool only so many policy versions after
    /// its last label, or more.
    pub min_age: u32,
    /// Share of each batch drawn at random from what the rule rejects, in [0, 1].
    pub explore_share: f64,
    /// How these places are given out.
    pub explore_by: ExploreBy,
    /// No prompt stays unlabeled for more than this many policy versions, as far as
    /// `reprobe_share` allows; 0: it may.
    pub max_age: u32,
    /// Rollouts of a re-probe that would get no place otherwise, at most G; 0: G.
    pub probe_rollouts: usize,
    /// At most this share of a batch goes to re-probes, in [0, 1].
    pub reprobe_share: f64,
    /// Rules that compare candidates: least share of each batch by source index; every source
    /// has an entry, the sum is at most 1.
    pub source_floors: Vec<f32>,
    /// Rules that admit and reject: candidates looked at per prompt wanted, at least 1.
    pub scan_cap: usize,
    /// Whether a prompt's own past results enter its forecast.
    pub use_history: bool,
    /// Model of pass rates.
    pub belief: BeliefKind,
    /// Options of this model, by name; those not named have their defaults.
    pub belief_options: NamedNumbers,
    /// Whether the model's parameters are fitted to the labels.
    pub fit_belief: bool,
    /// A reward at or above this is a success.
    pub success_threshold: f64,
    /// Rewards of a group no further apart than this carry no signal.
    pub tolerance: f64,
    /// Reward targets remembered for the estimator, at least 1.
    pub replay_capacity: usize,
    /// Cap of a target's weight 1 / admission, at least 1.
    pub max_target_weight: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            group_size: 8,
            seed: 0,
            rule: RuleKind::Budget,
            rule_options: NamedNumbers::new(),
            warmup_steps: 5,
            window: (0.15, 0.85),
            candidates_per_draw: 6,
            candidates_from: CandidatesFrom::Epoch,
            min_age: 10,
            explore_share: 0.005,
            explore_by: ExploreBy::Uniform,
            max_age: 0,
            probe_rollouts: 1,
            reprobe_share: 0.25,
            source_floors: vec![0.0],
            scan_cap: 40,
            use_history: true,
            belief: BeliefKind::LogitNormal,
            belief_options: NamedNumbers::new(),
            fit_belief: true,
            success_threshold: 0.5,
            tolerance: 1e-6,
            replay_capacity: 2048,
            max_target_weight: 10.0,
        }
    }
}

impl Settings {
    /// Checks every range.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn validate(&self) -> Result<()> {
        self.rule.registered().check_options("rule_options", &self.rule_options)?;
        self.belief.registered().check_options("belief_options", &self.belief_options)?;
        require(self.group_size >= 2, "group_size", self.group_size, "at least 2")?;
        self.validate_window()?;
        require_positive("candidates_per_draw", self.candidates_per_draw)?;
        if self.candidates_from == CandidatesFrom::Pool {
            self.validate_search()?;
        }
        require_share("explore_share", self.explore_share)?;
        let expected = format!("at most group_size = {}", self.group_size);
        let fits = self.probe_rollouts <= self.group_size;
        require(fits, "probe_rollouts", self.probe_rollouts, &expected)?;
        require_share("reprobe_share", self.reprobe_share)?;
        self.validate_floors()?;
        require_positive("scan_cap", self.scan_cap)?;
        let threshold = self.success_threshold;
        require(threshold.is_finite(), "success_threshold", threshold, "a finite number")?;
        require(self.tolerance >= 0.0, "tolerance", self.tolerance, "at least 0")?;
        require_positive("replay_capacity", self.replay_capacity)?;
        let cap = self.max_target_weight;
        require(cap >= 1.0, "max_target_weight", cap, "at least 1")
    }

    fn validate_window(&self) -> Result<()> {
        let (low, high) = self.window;
        let fits = 0.0 <= low && low < high && high <= 1.0;
        require(fits, "window", format!("{:?}", self.window), "0 <= low < high <= 1")
    }

    fn validate_floors(&self) -> Result<()> {
        let floors = &self.source_floors;
        let fits =
            floors.iter().all(|&floor| floor >= 0.0) && floors.iter().sum::<f32>() <= 1.0 + 1e-6;
        require(fits, "source_floors", format!("{floors:?}"), "shares >= 0 that sum to at most 1")
    }

    /// Checks that the whole pool can be searched for what the rule needs.
    fn validate_search(&self) -> Result<()> {
        let (got, belief) = (|with: String| format!("pool with {with}"), self.belief.name());
        let require_of = |fits: bool, with: String, expected: &str| {
            require(fits, "candidates_from", got(with), expected)
        };
        let traits = self.rule.traits();
        if traits.searches_pool && !traits.reads_text {
            return Ok(());
        }
        let rule = format!("rule {}", self.rule.name());
        require_of(
            self.rule == RuleKind::Budget,
            rule,
            "epoch, or rule budget, mopps or prime_pools",
        )?;
        require_of(
            self.belief == BeliefKind::LogitNormal,
            format!("belief {belief}"),
            "epoch, or belief logit_normal",
        )?;
        require_of(self.use_history, "use_history off".to_owned(), "epoch, or use_history on")?;
        let count = format!("candidates_per_draw {}", self.candidates_per_draw);
        require_of(
            self.candidates_per_draw >= 2,
            count,
            "epoch, or candidates_per_draw at least 2, of which 1 comes in epoch order",
        )
    }

    /// Checks that every prompt's source has a floor.
    pub(crate) fn validate_sources(&self, sources: &[u32]) -> Result<()> {
        let len = self.source_floors.len();
        match sources.iter().position(|&source| source as usize >= len) {
            Some(position) => Err(Error::Index {
                argument: "sources",
                position,
                index: sources[position].into(),
                len,
            }),
            None => Ok(()),
        }
    }

    /// Rollouts of a re-probe.
    pub(crate) fn probe_size(&self) -> usize {
        if self.probe_rollouts == 0 { self.group_size } else { self.probe_rollouts }
    }

    /// Probes that the share of one place in a batch pays for.
    pub(crate) fn probes_per_place(&self) -> f64 {
        self.reprobe_share * self.group_size as f64 / self.probe_size() as f64
    }

    /// The belief, of nothing yet, for a pool of `len` prompts.
    pub(crate) fn belief(&self, len: usize) -> Box<dyn Belief + Send> {
        let settings = BeliefSettings {
            group_size: self.group_size,
            seed: self.seed,
            use_history: self.use_history,
            fit_belief: self.fit_belief,
            belief_options: self.belief_options.clone(),
        };
        (self.belief.registered().build)(&settings, len)
    }

    /// The rule, without a memory yet, for a pool of `len` prompts.
    pub(crate) fn selection_rule(&self, len: usize) -> Box<dyn SelectionRule + Send> {
        let settings = RuleSettings {
            group_size: self.group_size,
            window: self.window,
            candidates_per_draw: self.candidates_per_draw,
            candidates_from: self.candidates_from,
            min_age: self.min_age,
            scan_cap: self.scan_cap,
            rule_options: self.rule_options.clone(),
        };
        (self.rule.registered().build)(&settings, len)
    }

    /// Writes the settings that a saved state depends on.
    pub(crate) fn save(&self, state: &mut StateMap) {
        state.insert("settings.group_size".into(), (self.group_size as u64).into());
        state.insert("settings.seed".into(), self.seed.into());
        state.insert("settings.belief".into(), self.belief.name().to_owned().into());
        state.insert("settings.policy".into(), self.rule.name().to_owned().into());
    }

    /// Refuses a state whose labels or draws mean something else under these settings; every other
    /// setting may change. Returns whether the state's rule is the present one.
    pub(crate) fn check(&self, state: &mut StateReader) -> Result<bool> {
        for (name, expected) in
            [("settings.group_size", self.group_size as u64), ("settings.seed", self.seed)]
        {
            let got: u64 = state.take(name)?;
            if got != expected {
                return Err(Error::state_entry(
                    name,
                    got,
                    format!("{expected}, as this sampler was built with"),
                ));
            }
        }
        let belief: String = state.take("settings.belief")?;
        if belief != self.belief.name() {
            return Err(Error::state_entry(
                "settings.belief",
                belief,
                format!("{}, as this sampler was built with", self.belief.name()),
            ));
        }
        Ok(state.take::<String>("settings.policy")? == self.rule.name())
    }
}

fn require_positive(argument: &'static str, value: usize) -> Result<()> {
    require(value >= 1, argument, value, "at least 1")
}

fn require_share(argument: &'static str, value: f64) -> Result<()> {
    require((0.0..=1.0).contains(&value), argument, value, "within 0..1")
}
