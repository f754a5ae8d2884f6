//! Draws by weight.

use std::sync::Mutex;

use depo_structures::SumTree;
use pyo3::prelude::*;

use super::super::convert::{borrowed_floats, borrowed_integers, unsigned};
use super::super::detached;
use super::super::lock::locked;
use super::{
    Positions, all_but, positions, require_as_many, require_len, require_positions, require_within,
};
use crate::error::Result;
use crate::rng::Stream;

fn require_weights(weights: &[f32]) -> Result<()> {
    require_within("weights", weights, 0.0..=SumTree::GREATEST_WEIGHT, "numbers within 0..1e28")
}

/// Draws by weight, without replacement within a draw.
#[pyclass(frozen, module = "depo._core")]
pub(crate) struct WeightedSampler {
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
    fn sample<'py>(
        &self,
        count: &Bound<'py, PyAny>,
        draw: &Bound<'py, PyAny>,
        exclude: Option<&Bound<'py, PyAny>>,
    ) -> Positions<'py> {
        let (py, count, draw) = (count.py(), unsigned("count", count)?, unsigned("draw", draw)?);
        let is_eligible = all_but(exclude)?;
        let drawn = detached(py, || {
            let stream = Stream::of(self.seed, "weighted", &[draw]);
            Ok(locked(&self.tree).draw_distinct(count, |counter| stream.bits(counter), is_eligible))
        })?;
        Ok(positions(py, drawn))
    }

    /// Changes the weights at some positions.
    fn update<'py>(
        &self,
        positions: &Bound<'py, PyAny>,
        weights: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let py = positions.py();
        let (positions, weights) =
            (borrowed_integers("positions", positions)?, borrowed_floats("weights", weights, 1)?);
        let (positions, weights) = (positions.as_slice()?, weights.as_slice()?);
        detached(py, || {
            require_as_many("weights", weights, positions.len())?;
            require_weights(weights)?;
            let mut tree = locked(&self.tree);
            require_positions(positions, tree.len())?;
            tree.set(positions.iter().map(|&index| index as u32).zip(weights.iter().copied()));
            Ok(())
        })
    }
}
