//! Rewards of a group: what is known of them, and the advantages they give (GRPO, arXiv 2402.03300;
//! Dr. GRPO, arXiv 2503.20783).

mod binary;
mod lanes;

use crate::error::{Error, Result, require};

/// What the known rewards of one group say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupSummary {
    /// Rewards that are not NaN.
    pub known: usize,
    /// Their mean; NaN if there are none.
    pub mean: f64,
    /// Largest minus smallest; 0 if there are none.
    pub spread: f64,
}

impl GroupSummary {
    /// Summary of one group; NaN means unknown.
    pub fn of(rewards: &[f32]) -> Self {
        let (mut known, mut sum) = (0_usize, 0.0);
        let (mut lowest, mut highest) = (f64::INFINITY, f64::NEG_INFINITY);
        for reward in
            rewards.iter().filter(|reward| !reward.is_nan()).map(|&reward| f64::from(reward))
        {
            known += 1;
            sum += reward;
            lowest = lowest.min(reward);
            highest = highest.max(reward);
        }
        Self { known, mean: sum / known as f64, spread: (highest - lowest).max(0.0) }
    }

    /// Whether the known rewards differ by more than `tolerance`.
    pub fn is_informative(&self, tolerance: f64) -> bool {
        self.spread > tolerance
    }
}

/// How rewards become advantages.
#[derive(Debug, Clone, Copy)]
pub struct AdvantageOptions {
    /// Divide by the group's standard deviation plus `epsilon`.
    pub scale_by_std: bool,
    /// Degrees of freedom taken off in that deviation, 0 or 1.
    pub ddof: usize,
    /// Added to the deviation, at least 0.
    pub epsilon: f64,
    /// Groups whose rewards differ by no more than this have advantages of exactly 0.
    pub tolerance: f64,
}

/// Advantages of B groups of G rewards.
#[derive(Debug, Clone, PartialEq)]
pub struct Advantages {
    /// `[B, G]`, row by row; 0 where the reward is unknown.
    pub advantages: Vec<f32>,
    /// `[B]`, whether the known rewards differ.
    pub informative: Vec<bool>,
    /// `[B]`, mean of the known rewards; NaN where none is known.
    pub means: Vec<f32>,
}

/// Rewards are finite or unknown.
pub(crate) fn require_no_infinity(rewards: &[f32], group_size: usize) -> Result<()> {
    // A loop without an exit compiles to vector instructions.
    if !rewards.iter().fold(false, |any, reward| any | reward.is_infinite()) {
        return Ok(());
    }
    match rewards.iter().position(|reward| reward.is_infinite()) {
        Some(at) => Err(Error::argument(
            "rewards",
            format!("{} in row {}, column {}", rewards[at], at / group_size, at % group_size),
            "finite numbers, or NaN for unknown",
        )),
        None => Ok(()),
    }
}

/// Advantages of rewards of shape [B, G], stored row by row.
///
/// # Errors
/// There is no reward, a reward is infinite, or an option is out of its range.
pub fn group_advantages(
    rewards: &[f32],
    shape: [usize; 2],
    options: &AdvantageOptions,
) -> Result<Advantages> {
    let [groups, group_size] = shape;
    let fits = !rewards.is_empty() && rewards.len() == groups * group_size;
    require(fits, "rewards", format!("shape {shape:?}"), "shape [B, G] with B, G >= 1")?;
    require(options.ddof <= 1, "ddof", options.ddof, "0 or 1")?;
    require(
        options.epsilon >= 0.0 && options.epsilon.is_finite(),
        "epsilon",
        options.epsilon,
        "finite, at least 0",
    )?;
    require(options.tolerance >= 0.0, "tolerance", options.tolerance, "at least 0")?;
    if let Some(output) = binary::advantages(rewards, group_size, options) {
        return Ok(output);
    }
    require_no_infinity(rewards, group_size)?;
    Ok(lanes::advantages(rewards, group_size, options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::tests::plainly;
    use proptest::prelude::*;

    fn reward() -> impl Strategy<Value = f32> {
        prop_oneof![
            Just(0.0),
            Just(1.0),
            Just(-0.0),
            Just(f32::NAN),
            -2.0..2.0_f32,
            any::<i16>().prop_map(|bits| f32::from(bits) * 1e-30),
            -1e30..1e30_f32
        ]
    }

    /// Groups of one size, with rewards of any values, or of two and unknown ones.
    fn groups() -> impl Strategy<Value = (usize, Vec<f32>)> {
        let any = (1..20_usize).prop_flat_map(|size| {
            (Just(size), proptest::collection::vec(reward(), size..=20 * size))
        });
        let whole = |(size, mut rewards): (usize, Vec<f32>)| {
            rewards.truncate(rewards.len() / size * size);
            (size, rewards)
        };
        prop_oneof![any.prop_map(whole), groups_of_two_values()]
    }

    fn groups_of_two_values() -> impl Strategy<Value = (usize, Vec<f32>)> {
        let values = (reward(), reward()).prop_map(|(first, second)| [first, second, f32::NAN]);
        let shape = (1..40_usize, 1..20_usize);
        (values, shape).prop_flat_map(|(values, (size, groups))| {
            let rewards =
                proptest::collection::vec(proptest::sample::select(values.to_vec()), size * groups);
            (Just(size), rewards)
        })
    }

    fn options() -> impl Strategy<Value = AdvantageOptions> {
        (
            any::<bool>(),
            0..2_usize,
            prop_oneof![Just(0.0), Just(1e-6)],
            prop_oneof![Just(0.0), Just(1e-6), Just(0.5)],
        )
            .prop_map(|(scale_by_std, ddof, epsilon, tolerance)| AdvantageOptions {
                scale_by_std,
                ddof,
                epsilon,
                tolerance,
            })
    }

    /// Advantages, group by group.
    fn group_by_group(rewards: &[f32], size: usize, options: &AdvantageOptions) -> Advantages {
        let mut output = Advantages { advantages: vec![], informative: vec![], means: vec![] };
        for group in rewards.chunks_exact(size) {
            let summary = GroupSummary::of(group);
            let informative = summary.is_informative(options.tolerance);
            let known = group.iter().filter(|reward| !reward.is_nan());
            let squares: f64 =
                known.map(|&reward| (f64::from(reward) - summary.mean).powi(2)).sum();
            let deviation = (squares / (summary.known as f64 - options.ddof as f64)).sqrt();
            let factor =
                if options.scale_by_std { 1.0 / (deviation + options.epsilon) } else { 1.0 };
            output.advantages.extend(group.iter().map(|&reward| {
                let advantage = ((f64::from(reward) - summary.mean) * factor) as f32;
                if informative && !reward.is_nan() { advantage } else { 0.0 }
            }));
            output.informative.push(informative);
            output.means.push(summary.mean as f32);
        }
        output
    }

    /// The bits of numbers; every NaN counts as equal.
    fn bits(numbers: &[f32]) -> Vec<Option<u32>> {
        numbers.iter().map(|number| (!number.is_nan()).then_some(number.to_bits())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn lanes_give_the_bits_of_a_loop_over_groups(
            (size, rewards) in groups(),
            options in options(),
        ) {
            let fast = lanes::advantages(&rewards, size, &options);
            let slow = group_by_group(&rewards, size, &options);
            prop_assert_eq!(bits(&fast.advantages), bits(&slow.advantages));
            prop_assert_eq!(fast.informative, slow.informative);
            prop_assert_eq!(bits(&fast.means), bits(&slow.means));
        }

        #[test]
        fn vector_instructions_do_not_change_bits(
            (size, rewards) in groups(),
            options in options(),
        ) {
            let shape = [rewards.len() / size, size];
            let fast = group_advantages(&rewards, shape, &options).expect("finite rewards");
            let plain =
                plainly(|| group_advantages(&rewards, shape, &options)).expect("finite rewards");
            prop_assert_eq!(bits(&fast.advantages), bits(&plain.advantages));
            prop_assert_eq!(fast.informative, plain.informative);
            prop_assert_eq!(bits(&fast.means), bits(&plain.means));
        }

        /// Both are computed in double precision: they differ by the last bit of a float at most,
        /// here allowed three times.
        #[test]
        fn counts_of_two_values_say_what_sums_say(
            (size, rewards) in groups_of_two_values(),
            options in options(),
        ) {
            let Some(counted) = binary::advantages(&rewards, size, &options) else {
                prop_assert!(rewards.iter().all(|reward| reward.is_nan()), "no value is known");
                return Ok(());
            };
            let summed = lanes::advantages(&rewards, size, &options);
            let near = |a: &f32, b: &f32| {
                (a.is_nan() && b.is_nan())
                    || (a - b).abs() <= 3.0 * f32::EPSILON * a.abs().max(f32::MIN_POSITIVE)
            };
            prop_assert!(
                counted.advantages.iter().zip(&summed.advantages).all(|(a, b)| near(a, b)),
                "{:?}, {:?}",
                counted.advantages,
                summed.advantages
            );
            prop_assert_eq!(counted.informative, summed.informative);
            let largest = rewards.iter().fold(0.0_f32, |largest, reward| largest.max(reward.abs()));
            let means = counted.means.iter().zip(&summed.means);
            prop_assert!(
                means.clone().all(|(a, b)| near(a, b) || (a - b).abs() <= f32::EPSILON * largest),
                "{:?}",
                means.collect::<Vec<_>>()
            );
        }
    }
}
