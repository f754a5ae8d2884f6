//! Advantages of rewards that take no more than two values, as those of most verifiers do: a group
//! is two counts, and its advantages are two numbers.

#![allow(clippy::inline_always, reason = "it is compiled for the processor of its caller")]
#![allow(clippy::float_cmp, reason = "a reward is one of the two values to the bit, or another")]

use super::{AdvantageOptions, Advantages};
use crate::vectors::wide;

/// Rewards that are compared at a time.
const LANES: usize = 8;

/// What belongs to the lower and to the higher value.
type Pair<T> = [T; 2];

/// Advantages of rewards that take no more than two values, or None.
pub(super) fn advantages(
    rewards: &[f32],
    group_size: usize,
    options: &AdvantageOptions,
) -> Option<Advantages> {
    wide(
        #[inline(always)]
        || {
            let values = values(rewards)?;
            let groups = rewards.len() / group_size;
            let mut counts = [Vec::with_capacity(groups), Vec::with_capacity(groups)];
            for group in rewards.chunks_exact(group_size) {
                let [low, high] = count(group, values)?;
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
                let rows =
                    rewards.chunks_exact(group_size).zip(advantages.chunks_exact_mut(group_size));
                for ((group, row), (&low, &high)) in rows.zip(counts[0].iter().zip(&counts[1])) {
                    write(group, values[1], [low as f32, high as f32], row);
                }
            }
            Some(Advantages { advantages, informative, means })
        },
    )
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
fn count(group: &[f32], [low, high]: Pair<f32>) -> Option<Pair<u32>> {
    let (chunks, rest) = group.as_chunks::<LANES>();
    let mut lanes = [[0_u32; LANES]; 3];
    for chunk in chunks {
        for lane in 0..LANES {
            let reward = chunk[lane];
            lanes[0][lane] += u32::from(reward == low);
            lanes[1][lane] += u32::from(reward == high);
            lanes[2][lane] += u32::from(reward.is_nan());
        }
    }
    let mut counts = lanes.map(|lanes| lanes.iter().sum::<u32>());
    for &reward in rest {
        for (count, is) in counts.iter_mut().zip([reward == low, reward == high, reward.is_nan()]) {
            *count += u32::from(is);
        }
    }
    let [lows, highs, unknown] = counts;
    let distinct = if low == high { lows } else { lows + highs };
    ((distinct + unknown) as usize == group.len()).then_some([lows, highs])
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
