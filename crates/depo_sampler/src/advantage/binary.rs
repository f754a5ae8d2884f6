//! Advantages of rewards that take no more than two values, as those of most verifiers do: a group
//! is two counts, and its advantages are two numbers.

#![allow(clippy::inline_always, reason = "it is compiled for the processor of its caller")]
#![allow(clippy::float_cmp, reason = "a reward is one of the two values to the bit, or another")]

use super::{AdvantageOptions, Advantages};

/// Rewards that are compared at a time.
pub(super) const LANES: usize = 8;

/// What belongs to the lower and to the higher value.
pub(super) type Pair<T> = [T; 2];

/// Which of eight rewards, as bits, are the lower value, the higher one and unknown.
pub(super) type Masks = [u32; 3];

/// Advantages of rewards that take no more than two values, or None. `masks` compares eight rewards
/// with the values.
#[inline(always)]
pub(super) fn advantages(
    rewards: &[f32],
    group_size: usize,
    options: &AdvantageOptions,
    masks: impl Fn(&[f32; LANES], Pair<f32>) -> Masks,
) -> Option<Advantages> {
    let values = values(rewards)?;
    let groups = rewards.len() / group_size;
    let mut counts = [Vec::with_capacity(groups), Vec::with_capacity(groups)];
    for group in rewards.chunks_exact(group_size) {
        let [low, high] = count(group, values, &masks)?;
        counts[0].push(f64::from(low));
        counts[1].push(f64::from(high));
    }
    let [lowest, highest] = values.map(f64::from);
    let differ = highest - lowest > options.tolerance;
    let pairs = || counts[0].iter().zip(&counts[1]);
    let informative = pairs().map(|(low, high)| differ && low * high > 0.0).collect();
    let means = pairs()
        .map(|(low, high)| ((low * lowest + high * highest) / (low + high)) as f32)
        .collect();
    let mut advantages = vec![0.0; rewards.len()];
    if differ {
        scale(&mut counts, highest - lowest, options);
        let rows = rewards.chunks_exact(group_size).zip(advantages.chunks_exact_mut(group_size));
        for ((group, row), (&low, &high)) in rows.zip(counts[0].iter().zip(&counts[1])) {
            write(group, values[1], [low as f32, high as f32], row);
        }
    }
    Some(Advantages { advantages, informative, means })
}

/// Compares eight rewards on any processor.
pub(super) fn masks(rewards: &[f32; LANES], [low, high]: Pair<f32>) -> Masks {
    let mut masks = [0; 3];
    for (lane, &reward) in rewards.iter().enumerate() {
        for (mask, bit) in masks.iter_mut().zip([reward == low, reward == high, reward.is_nan()]) {
            *mask |= u32::from(bit) << lane;
        }
    }
    masks
}

/// The first two values of the known rewards, equal if there is but one.
fn values(rewards: &[f32]) -> Option<Pair<f32>> {
    let mut known = rewards.iter().copied().filter(|reward| !reward.is_nan());
    let first = known.next()?;
    let second = known.find(|&reward| reward != first).unwrap_or(first);
    (first.is_finite() && second.is_finite()).then(|| [first.min(second), first.max(second)])
}

/// How many rewards of a group have either value; None if some reward has another.
#[inline(always)]
fn count(
    group: &[f32],
    values: Pair<f32>,
    masks: &impl Fn(&[f32; LANES], Pair<f32>) -> Masks,
) -> Option<Pair<u32>> {
    let (mut counts, mut others) = ([0; 2], 0);
    let (chunks, rest) = group.as_chunks();
    for chunk in chunks {
        let [low, high, unknown] = masks(chunk, values);
        counts = [counts[0] + low.count_ones(), counts[1] + high.count_ones()];
        others |= !(low | high | unknown) & 0xff;
    }
    for &reward in rest {
        let is = values.map(|value| reward == value);
        counts = [counts[0] + u32::from(is[0]), counts[1] + u32::from(is[1])];
        others |= u32::from(!(is[0] || is[1] || reward.is_nan()));
    }
    (others == 0).then_some(counts)
}

/// Turns the counts of each group into its two advantages.
#[inline(always)]
fn scale([lows, highs]: &mut Pair<Vec<f64>>, spread: f64, options: &AdvantageOptions) {
    let (ddof, epsilon) = (options.ddof as f64, options.epsilon);
    for (low, high) in lows.iter_mut().zip(highs) {
        let (known, product) = (*low + *high, *low * *high);
        // Deviations of n and m rewards a distance d apart are -d m / (n + m) and d n / (n + m);
        // their squares sum up to d^2 n m / (n + m).
        let deviation = spread * (product / (known * (known - ddof))).sqrt();
        let divisor = if options.scale_by_std { deviation + epsilon } else { 1.0 };
        let unit = spread / (known * divisor);
        let scaled = [-*high * unit, *low * unit];
        *low = if product > 0.0 { scaled[0] } else { 0.0 };
        *high = if product > 0.0 { scaled[1] } else { 0.0 };
    }
}

/// Gives each reward of a group the advantage of its value.
#[inline(always)]
fn write(group: &[f32], highest: f32, [low, high]: Pair<f32>, row: &mut [f32]) {
    let of = |reward: f32| {
        let known = if reward == highest { high } else { low };
        if reward.is_nan() { 0.0 } else { known }
    };
    let ((chunks, rest), (outputs, rest_of_row)) =
        (group.as_chunks::<LANES>(), row.as_chunks_mut::<LANES>());
    for (output, chunk) in outputs.iter_mut().zip(chunks) {
        *output = chunk.map(of);
    }
    for (output, &reward) in rest_of_row.iter_mut().zip(rest) {
        *output = of(reward);
    }
}
