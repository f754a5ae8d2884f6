//! Advantages of any rewards, eight groups at a time, one lane per group. Lanes never mix, and
//! every group is summed in the order of its rewards, so the bits depend on neither the processor
//! nor the group's neighbors.

#![allow(clippy::inline_always, reason = "it is compiled for the processor of its caller")]

use super::{AdvantageOptions, Advantages};
use crate::vectors::wide;

/// Groups at a time.
const LANES: usize = 8;

/// One number per group.
type Lanes<T> = [T; LANES];

/// Advantages of finite or unknown rewards.
pub(super) fn advantages(
    rewards: &[f32],
    group_size: usize,
    options: &AdvantageOptions,
) -> Advantages {
    wide(
        #[inline(always)]
        || {
            let groups = rewards.len() / group_size;
            let mut output = Advantages {
                advantages: vec![0.0; rewards.len()],
                informative: vec![false; groups],
                means: vec![0.0; groups],
            };
            let mut columns = vec![[f32::NAN; LANES]; group_size];
            let blocks = rewards
                .chunks(LANES * group_size)
                .zip(output.advantages.chunks_mut(LANES * group_size))
                .zip(output.informative.chunks_mut(LANES).zip(output.means.chunks_mut(LANES)));
            for ((rows, advantages), (informative, means)) in blocks {
                transpose(rows, &mut columns);
                let summary = Summary::of(&columns);
                for (lane, (informative, mean)) in informative.iter_mut().zip(means).enumerate() {
                    *informative = summary.spreads[lane] > options.tolerance;
                    *mean = summary.means[lane] as f32;
                }
                if informative.contains(&true) {
                    let factors = summary.factors(&columns, options);
                    scale(&mut columns, &summary.means, &factors);
                    transpose_back(&columns, informative, advantages);
                }
            }
            output
        },
    )
}

/// What the known rewards of eight groups say.
struct Summary {
    known: Lanes<f64>,
    means: Lanes<f64>,
    /// Largest minus smallest reward; not positive without any.
    spreads: Lanes<f64>,
}

impl Summary {
    #[inline(always)]
    fn of(columns: &[Lanes<f32>]) -> Self {
        let (mut known, mut sums) = ([0.0_f64; LANES], [0.0_f64; LANES]);
        let (mut lowest, mut highest) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        for column in columns {
            for lane in 0..LANES {
                let reward = column[lane];
                known[lane] += if reward.is_nan() { 0.0 } else { 1.0 };
                sums[lane] += if reward.is_nan() { 0.0 } else { f64::from(reward) };
                lowest[lane] = if reward < lowest[lane] { reward } else { lowest[lane] };
                highest[lane] = if reward > highest[lane] { reward } else { highest[lane] };
            }
        }
        Self {
            known,
            means: std::array::from_fn(|lane| sums[lane] / known[lane]),
            spreads: std::array::from_fn(|lane| f64::from(highest[lane]) - f64::from(lowest[lane])),
        }
    }

    /// What deviations from the mean are multiplied by.
    #[inline(always)]
    fn factors(&self, columns: &[Lanes<f32>], options: &AdvantageOptions) -> Lanes<f64> {
        if !options.scale_by_std {
            return [1.0; LANES];
        }
        let mut squares = [0.0; LANES];
        for column in columns {
            for lane in 0..LANES {
                let deviation = f64::from(column[lane]) - self.means[lane];
                squares[lane] += if deviation.is_nan() { 0.0 } else { deviation * deviation };
            }
        }
        std::array::from_fn(|lane| {
            let variance = squares[lane] / (self.known[lane] - options.ddof as f64);
            // One division for each group: that of every reward would take half of the time.
            1.0 / (variance.sqrt() + options.epsilon)
        })
    }
}

/// Turns rewards into advantages; 0 where they are unknown.
#[inline(always)]
fn scale(columns: &mut [Lanes<f32>], means: &Lanes<f64>, factors: &Lanes<f64>) {
    for column in columns {
        for lane in 0..LANES {
            let reward = column[lane];
            let advantage = (f64::from(reward) - means[lane]) * factors[lane];
            column[lane] = if reward.is_nan() { 0.0 } else { advantage as f32 };
        }
    }
}

/// Up to eight rows into columns; rows that are missing are unknown.
#[inline(always)]
fn transpose(rows: &[f32], columns: &mut [Lanes<f32>]) {
    let group_size = columns.len();
    if rows.len() < LANES * group_size {
        columns.fill([f32::NAN; LANES]);
    }
    for (lane, row) in rows.chunks_exact(group_size).enumerate() {
        for (column, &reward) in columns.iter_mut().zip(row) {
            column[lane] = reward;
        }
    }
}

/// Columns into the rows of informative groups.
#[inline(always)]
fn transpose_back(columns: &[Lanes<f32>], informative: &[bool], rows: &mut [f32]) {
    let rows = rows.chunks_exact_mut(columns.len()).zip(informative).enumerate();
    for (lane, (row, _)) in rows.filter(|(_, (_, informative))| **informative) {
        for (advantage, column) in row.iter_mut().zip(columns) {
            *advantage = column[lane];
        }
    }
}
