//! One number per prompt, over pools of millions: draws by weight, and the best few.

use std::sync::{Mutex, PoisonError};

use depo_structures::{SumTree, best};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use super::convert::{borrowed_floats, integers, unsigned};
use super::detached;
use crate::error::{Error, Result, require};
use crate::rng::Stream;

type Positions<'py> = PyResult<Bound<'py, PyArray1<i64>>>;

fn positions(py: Python<'_>, items: Vec<u32>) -> Bound<'_, PyArray1<i64>> {
    items.into_iter().map(i64::from).collect::<Vec<i64>>().into_pyarray(py)
}

/// Positions of the greatest scores.
#[pyfunction]
pub(super) fn top<'py>(scores: &Bound<'py, PyAny>, count: &Bound<'py, PyAny>) -> Positions<'py> {
    best_by(scores, count, |score| score)
}

/// Positions of the scores nearest to a target.
#[pyfunction]
pub(super) fn nearest<'py>(scores: &Bound<'py, PyAny>, target: f32, count: &Bound<'py, PyAny>) -> Positions<'py> {
    detached(scores.py(), || require(target.is_finite(), "target", target, "a finite number"))?;
    best_by(scores, count, |score| -(score - target).abs())
}

fn best_by<'py>(scores: &Bound<'py, PyAny>, count: &Bound<'py, PyAny>, key: impl Fn(f32) -> f32 + Send) -> Positions<'py> {
    let (py, count) = (scores.py(), unsigned("count", count)?);
    let scores = borrowed_floats("scores", scores, 1)?;
    let scores = scores.as_slice()?;
    let found = detached(py, || {
        require_len(scores.len(), "scores")?;
        Ok(best(scores, count, key))
    })?;
    Ok(positions(py, found))
}

fn require_len(len: usize, argument: &'static str) -> Result<()> {
    require(len < u32::MAX as usize, argument, format!("length {len}"), "fewer than 2^32 - 1 numbers")
}

fn require_weights(weights: &[f32]) -> Result<()> {
    let is_weight = |weight: &f32| (0.0..=SumTree::GREATEST_WEIGHT).contains(weight);
    match weights.iter().position(|weight| !is_weight(weight)) {
        Some(at) => Err(Error::argument("weights", format!("{} at position {at}", weights[at]), "numbers within 0..1e28")),
        None => Ok(()),
    }
}

/// Draws by weight, without replacement within a draw.
#[pyclass(frozen, module = "depo._core")]
pub(super) struct WeightedSampler {
    tree: Mutex<SumTree>,
    seed: u64,
}

#[pymethods]
impl WeightedSampler {
    #[new]
    #[pyo3(signature = (weights, *, seed))]
    fn new(weights: &Bound<'_, PyAny>, seed: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (py, seed) = (weights.py(), unsigned("seed", seed)?);
        let weights = borrowed_floats("weights", weights, 1)?;
        let weights = weights.as_slice()?;
        let tree = detached(py, || {
            require_len(weights.len(), "weights")?;
            require_weights(weights)?;
            Ok(SumTree::new(weights))
        })?;
        Ok(Self { tree: Mutex::new(tree), seed })
    }

    /// Up to `count` distinct positions, in the order drawn.
    #[pyo3(signature = (count, draw, *, exclude = None))]
    fn sample<'py>(&self, count: &Bound<'py, PyAny>, draw: &Bound<'py, PyAny>, exclude: Option<&Bound<'py, PyAny>>) -> Positions<'py> {
        let (py, count, draw) = (count.py(), unsigned("count", count)?, unsigned("draw", draw)?);
        let mut excluded: Vec<i64> = exclude.map_or(Ok(vec![]), |exclude| integers("exclude", exclude))?;
        let drawn = detached(py, || {
            excluded.sort_unstable();
            let stream = Stream::of(self.seed, "weighted", &[draw]);
            let is_eligible = |item| excluded.binary_search(&i64::from(item)).is_err();
            Ok(self.tree.lock().unwrap_or_else(PoisonError::into_inner).draw_distinct(count, |counter| stream.bits(counter), is_eligible))
        })?;
        Ok(positions(py, drawn))
    }

    /// Changes the weights at some positions.
    fn update<'py>(&self, positions: &Bound<'py, PyAny>, weights: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = positions.py();
        let positions: Vec<i64> = integers("positions", positions)?;
        let weights = borrowed_floats("weights", weights, 1)?;
        let weights = weights.as_slice()?;
        detached(py, || {
            let (len, named) = (weights.len(), positions.len());
            require(len == named, "weights", format!("length {len}"), &format!("length {named}, as positions"))?;
            require_weights(weights)?;
            let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
            let len = tree.len();
            let outside = positions.iter().position(|&index| !usize::try_from(index).is_ok_and(|index| index < len));
            if let Some(position) = outside {
                return Err(Error::Index { argument: "positions", position, index: positions[position], len });
            }
            tree.set(positions.iter().map(|&index| index as u32).zip(weights.iter().copied()));
            Ok(())
        })
    }
}
