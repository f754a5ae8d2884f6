//! Successes and failures of each prompt.

use std::sync::Mutex;

use depo_structures::{DiscountedCounts as Counts, GREATEST_COUNT};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::super::convert::{
    borrowed_floats, borrowed_integers, entries_from_py, state_from_py, state_to_py, unsigned,
};
use super::super::detached;
use super::super::lock::locked;
use super::{require_as_many, require_positions};
use crate::error::{Error, Result, require};
use crate::state::{StateMap, StateReader, StateValue};

/// Entries of a saved state.
const SUCCESSES: &str = "successes";
const FAILURES: &str = "failures";
const VERSIONS: &str = "versions";

type Shapes<'py> = PyResult<(Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f32>>)>;

/// Successes and failures that fade.
#[pyclass(frozen, module = "depo._core")]
pub(crate) struct DiscountedCounts {
    counts: Mutex<Counts>,
    prior: [f32; 2],
}

#[pymethods]
impl DiscountedCounts {
    #[new]
    #[pyo3(signature = (size, *, decay, alpha = 1.0, beta = 1.0))]
    fn new(
        py: Python<'_>,
        size: &Bound<'_, PyAny>,
        decay: f64,
        alpha: f32,
        beta: f32,
    ) -> PyResult<Self> {
        let size = unsigned::<u32>("size", size)?;
        let counts = detached(py, || {
            require((0.0..=1.0).contains(&decay), "decay", decay, "a number within 0..1")?;
            for (argument, count) in [("alpha", alpha), ("beta", beta)] {
                require(count > 0.0 && count.is_finite(), argument, count, "a number above 0")?;
            }
            Ok(Counts::new(size as usize, decay))
        })?;
        Ok(Self { counts: Mutex::new(counts), prior: [alpha, beta] })
    }

    /// Adds groups.
    fn update(
        &self,
        positions: &Bound<'_, PyAny>,
        successes: &Bound<'_, PyAny>,
        rollouts: &Bound<'_, PyAny>,
        policy_version: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (py, version) = (positions.py(), unsigned("policy_version", policy_version)?);
        let positions = borrowed_integers("positions", positions)?;
        let (successes, rollouts) = (
            borrowed_floats("successes", successes, 1)?,
            borrowed_floats("rollouts", rollouts, 1)?,
        );
        let (positions, successes, rollouts) =
            (positions.as_slice()?, successes.as_slice()?, rollouts.as_slice()?);
        detached(py, || {
            require_as_many("successes", successes, positions.len())?;
            require_as_many("rollouts", rollouts, positions.len())?;
            require_groups(successes, rollouts)?;
            let mut counts = locked(&self.counts);
            require_positions(positions, counts.len())?;
            counts.add(positions, successes, rollouts, version);
            Ok(())
        })
    }

    /// Alpha and beta at some positions, or at all.
    #[pyo3(signature = (policy_version, positions = None))]
    fn shapes<'py>(
        &self,
        policy_version: &Bound<'py, PyAny>,
        positions: Option<&Bound<'py, PyAny>>,
    ) -> Shapes<'py> {
        let (py, version) = (policy_version.py(), unsigned("policy_version", policy_version)?);
        let positions =
            positions.map(|positions| borrowed_integers("positions", positions)).transpose()?;
        let positions = positions.as_ref().map(|positions| positions.as_slice()).transpose()?;
        let (alpha, beta): (Vec<f32>, Vec<f32>) = detached(py, || {
            let counts = locked(&self.counts);
            require_positions(positions.unwrap_or_default(), counts.len())?;
            let shape = |item| {
                let [successes, failures] = counts.at(item, version);
                (self.prior[0] + successes, self.prior[1] + failures)
            };
            Ok(positions.map_or_else(
                || (0..counts.len()).map(shape).unzip(),
                |positions| positions.iter().map(|&item| shape(item as usize)).unzip(),
            ))
        })?;
        Ok((alpha.into_pyarray(py), beta.into_pyarray(py)))
    }

    /// A copy of the counts.
    fn state_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = detached(py, || {
            let (successes, failures, versions) = locked(&self.counts).columns();
            let (successes, failures): (StateValue<'_>, StateValue<'_>) =
                (successes.into(), failures.into());
            Ok(StateMap::from([
                (SUCCESSES.into(), successes),
                (FAILURES.into(), failures),
                (VERSIONS.into(), versions.into()),
            ]))
        })?;
        state_to_py(py, state)
    }

    /// Replaces all counts.
    fn load_state_dict(&self, state: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, entries) = (state.py(), entries_from_py(state)?);
        let state = state_from_py(&entries)?;
        detached(py, || {
            let (mut state, mut counts) = (StateReader::new(state?), locked(&self.counts));
            let [successes, failures] = [
                state.counts::<f32>(SUCCESSES, counts.len())?,
                state.counts::<f32>(FAILURES, counts.len())?,
            ];
            let versions = state.lent::<u32>(VERSIONS, counts.len())?;
            state.finish()?;
            counts.load(&successes, &failures, &versions);
            Ok(())
        })
    }
}

/// As many successes as rollouts at most.
fn require_groups(successes: &[f32], rollouts: &[f32]) -> Result<()> {
    let is_group = |(&successes, &rollouts): (&f32, &f32)| {
        successes >= 0.0 && successes <= rollouts && rollouts <= GREATEST_COUNT
    };
    // A loop without an exit compiles to vector instructions.
    if successes.iter().zip(rollouts).fold(true, |all, group| all & is_group(group)) {
        return Ok(());
    }
    match successes.iter().zip(rollouts).position(|group| !is_group(group)) {
        Some(at) => Err(Error::argument(
            "successes",
            format!("{} of {} at position {at}", successes[at], rollouts[at]),
            "0..rollouts, at most 10000",
        )),
        None => Ok(()),
    }
}
