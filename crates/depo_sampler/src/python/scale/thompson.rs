//! Thompson sampling over a whole pool.

use std::sync::Mutex;

use depo_structures::{GREATEST_COUNT, GREATEST_TARGET, LEAST_COUNT, LEAST_TARGET, ThompsonTree};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use super::super::convert::{borrowed_floats, borrowed_integers, unsigned};
use super::super::detached;
use super::super::lock::locked;
use super::{all_but, positions, require_as_many, require_len, require_positions, require_within};
use crate::error::{Result, require};
use crate::rng::Stream;

fn require_shape(argument: &'static str, counts: &[f32]) -> Result<()> {
    require_within(argument, counts, LEAST_COUNT..=GREATEST_COUNT, "numbers within 1..10000")
}

type Nearest<'py> = PyResult<(Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f64>>)>;

/// Those whose Beta variates are nearest to a target.
#[pyclass(frozen, module = "depo._core")]
pub(crate) struct ThompsonSampler {
    tree: Mutex<ThompsonTree>,
    target: f64,
    seed: u64,
}

#[pymethods]
impl ThompsonSampler {
    #[new]
    #[pyo3(signature = (alpha, beta, *, target = 0.5, seed))]
    fn new(
        alpha: &Bound<'_, PyAny>,
        beta: &Bound<'_, PyAny>,
        target: f64,
        seed: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let (py, seed) = (alpha.py(), unsigned("seed", seed)?);
        let (alpha, beta) =
            (borrowed_floats("alpha", alpha, 1)?, borrowed_floats("beta", beta, 1)?);
        let (alpha, beta) = (alpha.as_slice()?, beta.as_slice()?);
        let tree = detached(py, || {
            require_len(alpha.len(), "alpha")?;
            require(
                beta.len() == alpha.len(),
                "beta",
                format!("length {}", beta.len()),
                &format!("length {}, as alpha", alpha.len()),
            )?;
            require_shape("alpha", alpha)?;
            require_shape("beta", beta)?;
            require(
                (LEAST_TARGET..=GREATEST_TARGET).contains(&target),
                "target",
                target,
                "a number within 0.001..0.999",
            )?;
            Ok(ThompsonTree::new(target, alpha, beta))
        })?;
        Ok(Self { tree: Mutex::new(tree), target, seed })
    }

    /// Up to `count` distinct positions, nearest first, and their variates.
    #[pyo3(signature = (count, draw, *, exclude = None))]
    fn sample<'py>(
        &self,
        count: &Bound<'py, PyAny>,
        draw: &Bound<'py, PyAny>,
        exclude: Option<&Bound<'py, PyAny>>,
    ) -> Nearest<'py> {
        let (py, count, draw) = (count.py(), unsigned("count", count)?, unsigned("draw", draw)?);
        let is_eligible = all_but(exclude)?;
        let hits = detached(py, || {
            let stream = Stream::of(self.seed, "thompson", &[draw]);
            Ok(locked(&self.tree).draw_nearest(count, |counter| stream.bits(counter), is_eligible))
        })?;
        let (items, pass_rates): (Vec<u32>, Vec<f64>) =
            hits.into_iter().map(|(item, above)| (item, self.target + f64::from(above))).unzip();
        Ok((positions(py, items), pass_rates.into_pyarray(py)))
    }

    /// Changes the shapes at some positions.
    fn update(
        &self,
        positions: &Bound<'_, PyAny>,
        alpha: &Bound<'_, PyAny>,
        beta: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (py, positions) = (positions.py(), borrowed_integers("positions", positions)?);
        let (alpha, beta) =
            (borrowed_floats("alpha", alpha, 1)?, borrowed_floats("beta", beta, 1)?);
        let (positions, alpha, beta) = (positions.as_slice()?, alpha.as_slice()?, beta.as_slice()?);
        detached(py, || {
            for (argument, counts) in [("alpha", alpha), ("beta", beta)] {
                require_as_many(argument, counts, positions.len())?;
                require_shape(argument, counts)?;
            }
            let mut tree = locked(&self.tree);
            require_positions(positions, tree.len())?;
            tree.set(positions, alpha, beta);
            Ok(())
        })
    }
}
