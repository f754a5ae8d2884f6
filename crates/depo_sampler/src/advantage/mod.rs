//! Rewards of a group: what is known of them, and the advantages they give (GRPO, arXiv 2402.03300;
//! Dr. GRPO, arXiv 2503.20783).

#[cfg(target_arch = "x86_64")]
mod avx2;
mod binary;

use crate::error::{Error, Result, require};
#[cfg(target_arch = "x86_64")]
use crate::vectors::has_avx2;

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
    if let Some(output) = of_two_values(rewards, group_size, options) {
        return Ok(output);
    }
    require_no_infinity(rewards, group_size)?;
    Ok(of_any_values(rewards, group_size, options))
}

/// Advantages of finite or unknown rewards.
fn of_any_values(rewards: &[f32], group_size: usize, options: &AdvantageOptions) -> Advantages {
    let groups = rewards.len() / group_size;
    let mut output = Advantages {
        advantages: vec![0.0; rewards.len()],
        informative: vec![false; groups],
        means: vec![0.0; groups],
    };
    let done = eight_at_a_time(rewards, group_size, options, &mut output);
    one_at_a_time(rewards, group_size, options, &mut output, done);
    output
}

/// Fills in the groups from `first` on.
fn one_at_a_time(
    rewards: &[f32],
    group_size: usize,
    options: &AdvantageOptions,
    output: &mut Advantages,
    first: usize,
) {
    let groups =
        rewards.chunks_exact(group_size).zip(output.advantages.chunks_exact_mut(group_size));
    for (index, (group, advantages)) in groups.enumerate().skip(first) {
        let summary = GroupSummary::of(group);
        output.informative[index] = summary.is_informative(options.tolerance);
        output.means[index] = summary.mean as f32;
        if !output.informative[index] {
            continue;
        }
        // One division for each group: that of every reward would take half of the time.
        let factor = if options.scale_by_std {
            1.0 / (deviation(group, &summary, options.ddof) + options.epsilon)
        } else {
            1.0
        };
        for (advantage, &reward) in advantages.iter_mut().zip(group) {
            *advantage = if reward.is_nan() {
                0.0
            } else {
                ((f64::from(reward) - summary.mean) * factor) as f32
            };
        }
    }
}

/// Fills in as many groups as the processor's vector instructions can take, with the same bits.
/// Returns how many.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the processor was asked whether it has the instructions")]
fn eight_at_a_time(
    rewards: &[f32],
    group_size: usize,
    options: &AdvantageOptions,
    output: &mut Advantages,
) -> usize {
    if has_avx2() { unsafe { avx2::fill(rewards, group_size, options, output) } } else { 0 }
}

/// There is no vector code for this processor.
#[cfg(not(target_arch = "x86_64"))]
fn eight_at_a_time(
    _rewards: &[f32],
    _group_size: usize,
    _options: &AdvantageOptions,
    _output: &mut Advantages,
) -> usize {
    0
}

/// Advantages of rewards that take no more than two values, or None; the same bits on every
/// processor.
fn of_two_values(
    rewards: &[f32],
    group_size: usize,
    options: &AdvantageOptions,
) -> Option<Advantages> {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        #[expect(unsafe_code, reason = "the processor was asked whether it has the instructions")]
        return unsafe { avx2::of_two_values(rewards, group_size, options) };
    }
    binary::advantages(rewards, group_size, options, binary::masks)
}

/// Standard deviation of the known rewards of a group with at least two of them.
fn deviation(group: &[f32], summary: &GroupSummary, ddof: usize) -> f64 {
    let known = group.iter().filter(|reward| !reward.is_nan());
    let squares: f64 = known.map(|&reward| (f64::from(reward) - summary.mean).powi(2)).sum();
    (squares / (summary.known - ddof) as f64).sqrt()
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

    /// Of a mean that is unknown any NaN will do.
    fn bits(numbers: &[f32]) -> Vec<Option<u32>> {
        numbers.iter().map(|number| (!number.is_nan()).then_some(number.to_bits())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn vector_instructions_give_the_bits_of_the_plain_loop(
            (size, rewards) in groups(),
            options in options(),
        ) {
            let shape = [rewards.len() / size, size];
            let fast = group_advantages(&rewards, shape, &options).expect("finite rewards");
            let plain = plainly(|| group_advantages(&rewards, shape, &options)).expect("finite \
                rewards");
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
            let Some(counted) = of_two_values(&rewards, size, &options) else {
                prop_assert!(rewards.iter().all(|reward| reward.is_nan()), "only unknown rewards \
                    have no value");
                return Ok(());
            };
            let summed = of_any_values(&rewards, size, &options);
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
