//! The class `depo._core.Sampler`.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::convert::{entries_from_py, floats, integers, state_from_py, state_to_py, unsigned};
use super::detached;
use super::settings::settings_from_py;
use crate::error::Result;
use crate::sampler::Sampler as CoreSampler;
use crate::sampler::draws::Draw;
use crate::sampler::replay::Target;
use crate::sampler::shared::SharedSampler;

type Dict<'py> = PyResult<Bound<'py, PyDict>>;

/// Prompt pool, beliefs, selection rule, buffer and target replay as one state machine. One
/// clock: `policy_version`.
#[pyclass(frozen, module = "depo._core")]
pub(super) struct Sampler {
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
    #[pyo3(signature = (ids, sources, **settings))]
    fn new(
        py: Python<'_>,
        ids: &Bound<'_, PyAny>,
        sources: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let (ids, sources) = (integers("ids", ids)?, integers("sources", sources)?);
        let (settings, names) = settings_from_py(py, settings)?;
        let core = detached(py, move || CoreSampler::new(ids, sources, names.chosen(settings)?))?;
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
