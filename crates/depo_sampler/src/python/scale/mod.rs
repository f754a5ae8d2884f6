//! A number or two per prompt, over pools of millions: the best few, a window, draws by weight,
//! Thompson sampling, counts that fade.

mod counts;
mod thompson;
mod weighted;

use std::ops::RangeInclusive;

use depo_structures::{Window, best};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use super::convert::{borrowed_floats, integers, unsigned};
use super::detached;
use crate::error::{Error, Result, require};
use crate::rng::Stream;

pub(super) use counts::DiscountedCounts;
pub(super) use thompson::ThompsonSampler;
pub(super) use weighted::WeightedSampler;

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
pub(super) fn nearest<'py>(
    scores: &Bound<'py, PyAny>,
    target: f32,
    count: &Bound<'py, PyAny>,
) -> Positions<'py> {
    detached(scores.py(), || require(target.is_finite(), "target", target, "a finite number"))?;
    best_by(scores, count, |score| -(score - target).abs())
}

fn best_by<'py>(
    scores: &Bound<'py, PyAny>,
    count: &Bound<'py, PyAny>,
    key: impl Fn(f32) -> f32 + Send,
) -> Positions<'py> {
    let (py, count) = (scores.py(), unsigned("count", count)?);
    let scores = borrowed_floats("scores", scores, 1)?;
    let scores = scores.as_slice()?;
    let found = detached(py, || {
        require_len(scores.len(), "scores")?;
        Ok(best(scores, count, key))
    })?;
    Ok(positions(py, found))
}

/// Positions of scores in a window, and of a few others.
#[pyfunction]
#[pyo3(signature = (scores, low, high, count, draw, *, seed, explore_share = 0.1))]
pub(super) fn in_window<'py>(
    scores: &Bound<'py, PyAny>,
    low: f32,
    high: f32,
    count: &Bound<'py, PyAny>,
    draw: &Bound<'py, PyAny>,
    seed: &Bound<'py, PyAny>,
    explore_share: f64,
) -> Positions<'py> {
    let (py, count, draw, seed): (_, usize, _, _) =
        (scores.py(), unsigned("count", count)?, unsigned("draw", draw)?, unsigned("seed", seed)?);
    let scores = borrowed_floats("scores", scores, 1)?;
    let scores = scores.as_slice()?;
    let drawn = detached(py, || {
        require_len(scores.len(), "scores")?;
        require(low <= high, "low", low, &format!("a number up to high, {high}"))?;
        require(
            (0.0..=1.0).contains(&explore_share),
            "explore_share",
            explore_share,
            "a number within 0..1",
        )?;
        let stream = Stream::of(seed, "window", &[draw]);
        let explored = (explore_share * count as f64).round() as usize;
        Ok(Window::new(scores, low, high).draw(count, explored, |counter| stream.bits(counter)))
    })?;
    Ok(positions(py, drawn))
}

fn require_len(len: usize, argument: &'static str) -> Result<()> {
    require(
        len < u32::MAX as usize,
        argument,
        format!("length {len}"),
        "fewer than 2^32 - 1 numbers",
    )
}

/// `len` must be that of the positions.
fn require_as_many(argument: &'static str, numbers: &[f32], len: usize) -> Result<()> {
    let got = numbers.len();
    require(got == len, argument, format!("length {got}"), &format!("length {len}, as positions"))
}

/// All numbers must be within `range`, which `expected` puts into words.
fn require_within(
    argument: &'static str,
    numbers: &[f32],
    range: RangeInclusive<f32>,
    expected: &str,
) -> Result<()> {
    match numbers.iter().position(|number| !range.contains(number)) {
        Some(at) => {
            Err(Error::argument(argument, format!("{} at position {at}", numbers[at]), expected))
        }
        None => Ok(()),
    }
}

fn require_positions(positions: &[i64], len: usize) -> Result<()> {
    let is_outside = |&index: &i64| index as u64 >= len as u64;
    // A loop without an exit compiles to vector instructions.
    if !positions.iter().fold(false, |any, index| any | is_outside(index)) {
        return Ok(());
    }
    match positions.iter().position(is_outside) {
        Some(position) => {
            Err(Error::Index { argument: "positions", position, index: positions[position], len })
        }
        None => Ok(()),
    }
}

/// Whether an item is none of those to be excluded.
fn all_but(exclude: Option<&Bound<'_, PyAny>>) -> PyResult<impl Fn(u32) -> bool> {
    let mut excluded: Vec<i64> =
        exclude.map_or(Ok(vec![]), |exclude| integers("exclude", exclude))?;
    excluded.sort_unstable();
    Ok(move |item| excluded.binary_search(&i64::from(item)).is_err())
}
