//! Bindings `depo._core`: convert arguments, release the interpreter, map errors. No logic.

mod convert;
mod lock;
mod sampler;
mod scale;
mod settings;
mod texts;

use numpy::prelude::*;
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::advantage::{AdvantageOptions, group_advantages as core_group_advantages};
use crate::error::{Error, Result};
use crate::rng::{Stream, content_id, derive_key as core_derive_key};
use crate::rules::RuleKind;
use convert::{borrowed_floats, integers, unsigned};

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

#[pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::sampler::Sampler;
    #[pymodule_export]
    use super::scale::{
        DiscountedCounts, ThompsonSampler, WeightedSampler, in_window, nearest, top,
    };
    #[pymodule_export]
    use super::texts::TextColumn;
    #[pymodule_export]
    use super::{content_ids, derive_key, group_advantages, rule_traits, uniforms};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("build_profile", if cfg!(debug_assertions) { "debug" } else { "release" })
    }
}
