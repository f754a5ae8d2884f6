//! Bindings `depo._core`: convert arguments, release the interpreter, map errors. No logic.

mod convert;
mod lock;
mod scale;
mod texts;

use std::collections::BTreeMap;

use numpy::prelude::*;
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::advantage::{AdvantageOptions, group_advantages as core_group_advantages};
use crate::error::{Error, Result};
use crate::rng::{Stream, content_id, derive_key as core_derive_key};
use crate::rules::RuleKind;
use crate::sampler::Sampler as CoreSampler;
use crate::sampler::draws::Draw;
use crate::sampler::replay::Target;
use crate::sampler::shared::SharedSampler;
use crate::settings::Settings;
use convert::{
    borrowed_floats, entries_from_py, floats, integers, state_from_py, state_to_py, unsigned,
};

type Dict<'py> = PyResult<Bound<'py, PyDict>>;

/// Runs `work` without the interpreter and maps its error: an index to `IndexError`, a saved state
/// to `depo.types.errors.StateError`, anything else to `ValueError`.
fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| match &error {
        Error::Index { .. } => PyIndexError::new_err(error.to_string()),
        other if other.is_state() => state_error(py, other),
        _ => PyValueError::new_err(error.to_string()),
    })
}

fn state_error(py: Python<'_>, error: &impl std::fmt::Display) -> PyErr {
    let class = py.import("depo.types.errors").and_then(|module| module.getattr("StateError"));
    match class.and_then(|class| class.call1((error.to_string(),))) {
        Ok(exception) => PyErr::from_value(exception),
        Err(import_error) => import_error,
    }
}

/// XXH3-64 of each text.
#[pyfunction]
fn content_ids(py: Python<'_>, texts: Vec<String>) -> PyResult<Bound<'_, PyArray1<u64>>> {
    let ids = detached(py, move || Ok(texts.iter().map(content_id).collect::<Vec<u64>>()))?;
    Ok(ids.into_pyarray(py))
}

/// Name of each selection rule -> whether it compares candidates, can search the pool, reads text.
#[pyfunction]
fn rule_traits(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for rule in RuleKind::ALL {
        let traits = rule.traits();
        dict.set_item(
            rule.name(),
            (traits.compares_candidates, traits.searches_pool, traits.reads_text),
        )?;
    }
    Ok(dict)
}

/// Random key (unsigned 64 bit): a pure function of its arguments.
#[pyfunction]
fn derive_key(seed: &Bound<'_, PyAny>, purpose: &str, parts: &Bound<'_, PyAny>) -> PyResult<u64> {
    Ok(core_derive_key(unsigned("seed", seed)?, purpose, &integers::<u64>("parts", parts)?))
}

/// Uniform numbers in [0, 1), float64 [len(keys), count]: draw numbers first .. first + count - 1
/// of each key.
#[pyfunction]
fn uniforms<'py>(
    py: Python<'py>,
    keys: &Bound<'py, PyAny>,
    first: &Bound<'py, PyAny>,
    count: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let keys: Vec<u64> = integers("keys", keys)?;
    let (first, count): (u64, u32) = (unsigned("first", first)?, unsigned("count", count)?);
    let rows = keys.len();
    let numbers = detached(py, move || {
        let row = |&key| {
            (0..u64::from(count))
                .map(move |offset| Stream::new(key).unit(first.wrapping_add(offset)))
        };
        Ok(keys.iter().flat_map(row).collect::<Vec<f64>>())
    })?;
    numbers.into_pyarray(py).reshape([rows, count as usize])
}

type AdvantageArrays<'py> =
    (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray1<bool>>, Bound<'py, PyArray1<f32>>);

/// Advantages of reward groups, whether each is informative, and its mean reward.
#[pyfunction]
#[pyo3(signature = (rewards, *, scale_by_std = true, ddof = 1, epsilon = 1e-6, tolerance = 1e-6))]
fn group_advantages<'py>(
    rewards: &Bound<'py, PyAny>,
    scale_by_std: bool,
    ddof: usize,
    epsilon: f64,
    tolerance: f64,
) -> PyResult<AdvantageArrays<'py>> {
    let py = rewards.py();
    let rewards = borrowed_floats("rewards", rewards, 2)?;
    let (groups, group_size, known) = (rewards.shape()[0], rewards.shape()[1], rewards.as_slice()?);
    let options = AdvantageOptions { scale_by_std, ddof, epsilon, tolerance };
    let output = detached(py, || core_group_advantages(known, [groups, group_size], &options))?;
    let advantages = output.advantages.into_pyarray(py).reshape([groups, group_size])?;
    Ok((advantages, output.informative.into_pyarray(py), output.means.into_pyarray(py)))
}

/// Prompt pool, beliefs, selection rule, buffer and target replay as one state machine. One
/// clock: `policy_version`.
#[pyclass(frozen, module = "depo._core")]
struct Sampler {
    core: SharedSampler,
}

impl Sampler {
    /// Locks the core without holding the interpreter, which a thread that waits for the lock would
    /// keep from the one that has it.
    fn with_core<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut CoreSampler) -> Result<T> + Send,
    ) -> PyResult<T> {
        detached(py, || self.core.with(work))
    }
}

#[pymethods]
impl Sampler {
    #[new]
    #[pyo3(signature = (ids, sources, *, group_size, seed, rule, rule_options, warmup_steps, window,
        candidates_per_draw, explore_share, explore_by = "uniform", candidates_from = "epoch", min_age = None, max_age, probe_rollouts, reprobe_share,
        source_floors, scan_cap, use_history, belief, belief_options,
        fit_belief, success_threshold, tolerance, replay_capacity, max_target_weight))]
    #[expect(clippy::too_many_arguments, reason = "the keyword arguments of the Python class")]
    fn new(
        py: Python<'_>,
        ids: &Bound<'_, PyAny>,
        sources: &Bound<'_, PyAny>,
        group_size: &Bound<'_, PyAny>,
        seed: &Bound<'_, PyAny>,
        rule: &str,
        rule_options: BTreeMap<String, f64>,
        warmup_steps: &Bound<'_, PyAny>,
        window: (f64, f64),
        candidates_per_draw: &Bound<'_, PyAny>,
        explore_share: f64,
        explore_by: &str,
        candidates_from: &str,
        min_age: Option<&Bound<'_, PyAny>>,
        max_age: &Bound<'_, PyAny>,
        probe_rollouts: &Bound<'_, PyAny>,
        reprobe_share: f64,
        source_floors: &Bound<'_, PyAny>,
        scan_cap: &Bound<'_, PyAny>,
        use_history: bool,
        belief: &str,
        belief_options: BTreeMap<String, f64>,
        fit_belief: bool,
        success_threshold: f64,
        tolerance: f64,
        replay_capacity: &Bound<'_, PyAny>,
        max_target_weight: f64,
    ) -> PyResult<Self> {
        let (ids, sources) = (integers("ids", ids)?, integers("sources", sources)?);
        let mut settings = Settings {
            group_size: unsigned("group_size", group_size)?,
            seed: unsigned("seed", seed)?,
            rule_options,
            warmup_steps: unsigned("warmup_steps", warmup_steps)?,
            window,
            candidates_per_draw: unsigned("candidates_per_draw", candidates_per_draw)?,
            explore_share,
            min_age: min_age
                .map_or(Ok(Settings::default().min_age), |min_age| unsigned("min_age", min_age))?,
            max_age: unsigned("max_age", max_age)?,
            probe_rollouts: unsigned("probe_rollouts", probe_rollouts)?,
            reprobe_share,
            source_floors: floats::<1>("source_floors", source_floors)?.0,
            scan_cap: unsigned("scan_cap", scan_cap)?,
            use_history,
            belief_options,
            fit_belief,
            success_threshold,
            tolerance,
            replay_capacity: unsigned("replay_capacity", replay_capacity)?,
            max_target_weight,
            ..Settings::default()
        };
        let core = detached(py, move || {
            settings.rule = rule.parse()?;
            settings.belief = belief.parse()?;
            settings.explore_by = explore_by.parse()?;
            settings.candidates_from = candidates_from.parse()?;
            CoreSampler::new(ids, sources, settings)
        })?;
        Ok(Self { core: SharedSampler::new(core) })
    }

    /// Candidates to be scored next for a batch of n.
    #[pyo3(signature = (n, policy_version, among = None))]
    fn propose<'py>(
        &self,
        py: Python<'py>,
        n: &Bound<'py, PyAny>,
        policy_version: &Bound<'py, PyAny>,
        among: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let (n, version) = (unsigned("n", n)?, unsigned("policy_version", policy_version)?);
        let among: Option<Vec<i64>> = among.map(|among| integers("among", among)).transpose()?;
        let prompts = self.with_core(py, |core| match &among {
            Some(among) => core.propose_among(n, version, among),
            None => core.propose(n, version),
        })?;
        Ok(prompts.into_iter().map(i64::from).collect::<Vec<i64>>().into_pyarray(py))
    }

    /// Candidates that may be looked at for each prompt wanted.
    fn candidates_per_draw(
        &self,
        py: Python<'_>,
        policy_version: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let version = unsigned("policy_version", policy_version)?;
        self.with_core(py, |core| Ok(core.candidates_per_draw(version)))
    }

    /// Judge the candidates of the last `propose`.
    fn offer<'py>(
        &self,
        py: Python<'py>,
        candidates: &Bound<'py, PyAny>,
        predicted_rewards: &Bound<'py, PyAny>,
        policy_version: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let candidates: Vec<i64> = integers("candidates", candidates)?;
        let (predicted_rewards, _) = floats::<1>("predicted_rewards", predicted_rewards)?;
        let version = unsigned("policy_version", policy_version)?;
        self.with_core(py, |core| core.offer(&candidates, &predicted_rewards, version))
    }

    /// Hand out up to n draws and mark them in flight.
    fn take<'py>(
        &self,
        py: Python<'py>,
        n: &Bound<'py, PyAny>,
        policy_version: &Bound<'py, PyAny>,
    ) -> Dict<'py> {
        let (n, version) = (unsigned("n", n)?, unsigned("policy_version", policy_version)?);
        draw_columns(py, &self.with_core(py, |core| Ok(core.take(n, version)))?)
    }

    /// Record the rewards of draws.
    fn observe<'py>(
        &self,
        draw_ids: &Bound<'py, PyAny>,
        rewards: &Bound<'py, PyAny>,
        logprob_targets: &Bound<'py, PyAny>,
        policy_version: &Bound<'py, PyAny>,
    ) -> Dict<'py> {
        let py = draw_ids.py();
        let draw_ids: Vec<i64> = integers("draw_ids", draw_ids)?;
        let (rewards, shape) = floats("rewards", rewards)?;
        let (targets, _) = floats::<1>("logprob_targets", logprob_targets)?;
        let version = unsigned("policy_version", policy_version)?;
        let observed =
            self.with_core(py, |core| core.observe(&draw_ids, &rewards, shape, &targets, version))?;
        let dict = PyDict::new(py);
        set(&dict, "statuses", &observed, |verdict| verdict.status as u8)?;
        set(&dict, "informative", &observed, |verdict| verdict.informative)?;
        set(&dict, "mean_rewards", &observed, |verdict| verdict.mean_reward)?;
        set(&dict, "pass_rates", &observed, |verdict| verdict.pass_rate)?;
        let draw = |field: fn(&Draw) -> f32| {
            move |draw: &Option<Draw>| draw.as_ref().map_or(f32::NAN, field)
        };
        let draws: Vec<Option<Draw>> = observed.iter().map(|verdict| verdict.draw).collect();
        set(&dict, "prompts", &draws, |draw| draw.map_or(-1, |draw| i64::from(draw.prompt)))?;
        set(&dict, "predicted_rewards", &draws, draw(|draw| draw.predicted_reward))?;
        set(&dict, "p_informative", &draws, draw(|draw| draw.p_informative))?;
        set(&dict, "admissions", &draws, draw(|draw| draw.admission))?;
        set(&dict, "kinds", &draws, |draw| draw.map_or(0, |draw| draw.kind as u8))?;
        Ok(dict)
    }

    /// Free the prompts of draws without a label; returns how many were in flight.
    fn release(&self, py: Python<'_>, draw_ids: &Bound<'_, PyAny>) -> PyResult<usize> {
        let draw_ids: Vec<i64> = integers("draw_ids", draw_ids)?;
        self.with_core(py, |core| Ok(core.release(&draw_ids)))
    }

    /// Open draws.
    fn in_flight<'py>(&self, py: Python<'py>) -> Dict<'py> {
        let draws: Vec<Draw> =
            self.with_core(py, |core| Ok(core.in_flight().copied().collect()))?;
        let dict = draw_columns(py, &draws)?;
        set(&dict, "policy_versions", &draws, |draw| i64::from(draw.policy_version))?;
        Ok(dict)
    }

    /// What is believed now, without changing anything.
    fn beliefs<'py>(
        &self,
        py: Python<'py>,
        prompts: &Bound<'py, PyAny>,
        predicted_rewards: &Bound<'py, PyAny>,
        policy_version: &Bound<'py, PyAny>,
    ) -> Dict<'py> {
        let prompts: Vec<i64> = integers("prompts", prompts)?;
        let (predicted_rewards, _) = floats::<1>("predicted_rewards", predicted_rewards)?;
        let version = unsigned("policy_version", policy_version)?;
        let forecasts =
            self.with_core(py, |core| core.beliefs(&prompts, &predicted_rewards, version))?;
        let dict = PyDict::new(py);
        set(&dict, "pass_rates", &forecasts, |forecast| forecast.pass_rate as f32)?;
        set(&dict, "p_informative", &forecasts, |forecast| forecast.p_informative as f32)?;
        Ok(dict)
    }

    /// Whether the rule alone would admit each prompt now.
    fn wanted<'py>(
        &self,
        py: Python<'py>,
        prompts: &Bound<'py, PyAny>,
        predicted_rewards: &Bound<'py, PyAny>,
        policy_version: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let prompts: Vec<i64> = integers("prompts", prompts)?;
        let (predicted_rewards, _) = floats::<1>("predicted_rewards", predicted_rewards)?;
        let version = unsigned("policy_version", policy_version)?;
        let wanted =
            self.with_core(py, |core| core.wanted(&prompts, &predicted_rewards, version))?;
        Ok(wanted.into_pyarray(py))
    }

    /// Targets recorded since the last call.
    fn fresh_targets<'py>(&self, py: Python<'py>) -> Dict<'py> {
        target_columns(py, &self.with_core(py, |core| Ok(core.fresh_targets()))?)
    }

    /// min(m, remembered) targets drawn without replacement.
    fn replay_targets<'py>(&self, py: Python<'py>, m: &Bound<'py, PyAny>) -> Dict<'py> {
        let m = unsigned("m", m)?;
        target_columns(py, &self.with_core(py, |core| Ok(core.replay_targets(m)))?)
    }

    /// Totals since construction.
    fn counters<'py>(&self, py: Python<'py>) -> Dict<'py> {
        let totals: Vec<(&str, u64)> = self.with_core(py, |core| Ok(core.counters().collect()))?;
        let dict = PyDict::new(py);
        totals.into_iter().try_for_each(|(name, total)| dict.set_item(name, total))?;
        Ok(dict)
    }

    /// The belief's parameters by name, as fitted at present.
    fn belief_parameters<'py>(&self, py: Python<'py>) -> Dict<'py> {
        let dict = PyDict::new(py);
        let parameters = self.with_core(py, |core| Ok(core.belief_parameters()))?;
        parameters.into_iter().try_for_each(|(name, value)| dict.set_item(name, value))?;
        Ok(dict)
    }

    /// Everything that `load_state_dict` needs.
    fn state_dict<'py>(&self, py: Python<'py>) -> Dict<'py> {
        state_to_py(py, self.with_core(py, |core| Ok(core.state()))?)
    }

    /// Restore; returns how many prompts matched, were missing and were added. Arrays of the state
    /// must not be written to meanwhile.
    #[pyo3(signature = (state, *, strict = true))]
    fn load_state_dict<'py>(
        &self,
        py: Python<'py>,
        state: &Bound<'py, PyAny>,
        strict: bool,
    ) -> Dict<'py> {
        let entries = entries_from_py(state)?;
        let state = state_from_py(&entries)?;
        let report = self.with_core(py, |core| core.load_state(state?, strict))?;
        let dict = PyDict::new(py);
        dict.set_item("matched", report.matched)?;
        dict.set_item("missing", report.missing)?;
        dict.set_item("added", report.added)?;
        Ok(dict)
    }
}

/// Sets one array of a dict: `field` of each row.
fn set<R, T: numpy::Element>(
    dict: &Bound<'_, PyDict>,
    name: &str,
    rows: &[R],
    field: impl Fn(&R) -> T,
) -> PyResult<()> {
    dict.set_item(name, rows.iter().map(field).collect::<Vec<T>>().into_pyarray(dict.py()))
}

fn draw_columns<'py>(py: Python<'py>, draws: &[Draw]) -> Dict<'py> {
    let dict = PyDict::new(py);
    set(&dict, "draw_ids", draws, |draw| draw.draw_id.cast_signed())?;
    set(&dict, "prompts", draws, |draw| i64::from(draw.prompt))?;
    set(&dict, "predicted_rewards", draws, |draw| draw.predicted_reward)?;
    set(&dict, "p_informative", draws, |draw| draw.p_informative)?;
    set(&dict, "admissions", draws, |draw| draw.admission)?;
    set(&dict, "kinds", draws, |draw| draw.kind as u8)?;
    set(&dict, "n_rollouts", draws, |draw| i64::from(draw.n_rollouts))?;
    Ok(dict)
}

fn target_columns<'py>(py: Python<'py>, targets: &[Target]) -> Dict<'py> {
    let dict = PyDict::new(py);
    set(&dict, "prompts", targets, |target| i64::from(target.prompt))?;
    set(&dict, "reward_targets", targets, |target| target.reward_target)?;
    set(&dict, "logprob_targets", targets, |target| target.logprob_target)?;
    set(&dict, "counts", targets, |target| target.count)?;
    set(&dict, "weights", targets, |target| target.weight)?;
    Ok(dict)
}

#[pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::scale::{
        DiscountedCounts, ThompsonSampler, WeightedSampler, in_window, nearest, top,
    };
    #[pymodule_export]
    use super::texts::TextColumn;
    #[pymodule_export]
    use super::{Sampler, content_ids, derive_key, group_advantages, rule_traits, uniforms};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("build_profile", if cfg!(debug_assertions) { "debug" } else { "release" })
    }
}
