//! Rewards of a group: what is known of them, and the advantages they give (GRPO, arXiv 2402.03300; Dr. GRPO, arXiv 2503.20783).

#[cfg(target_arch = "x86_64")]
mod avx2;

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
        for reward in rewards.iter().filter(|reward| !reward.is_nan()).map(|&reward| f64::from(reward)) {
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
pub fn group_advantages(rewards: &[f32], shape: [usize; 2], options: &AdvantageOptions) -> Result<Advantages> {
    let [groups, group_size] = shape;
    let fits = !rewards.is_empty() && rewards.len() == groups * group_size;
    require(fits, "rewards", format!("shape {shape:?}"), "shape [B, G] with B, G >= 1")?;
    require(options.ddof <= 1, "ddof", options.ddof, "0 or 1")?;
    require(options.epsilon >= 0.0 && options.epsilon.is_finite(), "epsilon", options.epsilon, "finite, at least 0")?;
    require(options.tolerance >= 0.0, "tolerance", options.tolerance, "at least 0")?;
    require_no_infinity(rewards, group_size)?;
    let mut output = Advantages { advantages: vec![0.0; rewards.len()], informative: vec![false; groups], means: vec![0.0; groups] };
    let done = eight_at_a_time(rewards, group_size, options, &mut output);
    one_at_a_time(rewards, group_size, options, &mut output, done);
    Ok(output)
}

/// Fills in the groups from `first` on.
fn one_at_a_time(rewards: &[f32], group_size: usize, options: &AdvantageOptions, output: &mut Advantages, first: usize) {
    let groups = rewards.chunks_exact(group_size).zip(output.advantages.chunks_exact_mut(group_size));
    for (index, (group, advantages)) in groups.enumerate().skip(first) {
        let summary = GroupSummary::of(group);
        output.informative[index] = summary.is_informative(options.tolerance);
        output.means[index] = summary.mean as f32;
        if !output.informative[index] {
            continue;
        }
        let scale = if options.scale_by_std { deviation(group, &summary, options.ddof) + options.epsilon } else { 1.0 };
        for (advantage, &reward) in advantages.iter_mut().zip(group) {
            *advantage = if reward.is_nan() { 0.0 } else { ((f64::from(reward) - summary.mean) / scale) as f32 };
        }
    }
}

/// Fills in as many groups as the processor's vector instructions can take, with the same bits. Returns how many.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the processor is asked first whether it has the instructions")]
fn eight_at_a_time(rewards: &[f32], group_size: usize, options: &AdvantageOptions, output: &mut Advantages) -> usize {
    if is_x86_feature_detected!("avx2") { unsafe { avx2::fill(rewards, group_size, options, output) } } else { 0 }
}

/// There is no vector code for this processor.
#[cfg(not(target_arch = "x86_64"))]
fn eight_at_a_time(_rewards: &[f32], _group_size: usize, _options: &AdvantageOptions, _output: &mut Advantages) -> usize {
    0
}

/// Standard deviation of the known rewards of a group with at least two of them.
fn deviation(group: &[f32], summary: &GroupSummary, ddof: usize) -> f64 {
    let known = group.iter().filter(|reward| !reward.is_nan());
    let squares: f64 = known.map(|&reward| (f64::from(reward) - summary.mean).powi(2)).sum();
    (squares / (summary.known - ddof) as f64).sqrt()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn vector_instructions_give_the_bits_of_the_plain_loop(
            (group_size, rewards) in (1..20_usize).prop_flat_map(|size| (Just(size), proptest::collection::vec(reward(), size..=20 * size))),
            scale_by_std: bool, ddof in 0..2_usize, tolerance in prop_oneof![Just(0.0), Just(1e-6), Just(0.5)],
        ) {
            let groups = rewards.len() / group_size;
            let rewards = &rewards[..groups * group_size];
            let options = AdvantageOptions { scale_by_std, ddof, epsilon: 1e-6, tolerance };
            let fast = group_advantages(rewards, [groups, group_size], &options).expect("finite rewards");
            let mut plain = Advantages { advantages: vec![0.0; rewards.len()], informative: vec![false; groups], means: vec![0.0; groups] };
            one_at_a_time(rewards, group_size, &options, &mut plain, 0);
            let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<u32>>();
            prop_assert_eq!(bits(&fast.advantages), bits(&plain.advantages));
            prop_assert_eq!(fast.informative, plain.informative);
            let means = |means: &[f32]| means.iter().map(|mean| if mean.is_nan() { None } else { Some(mean.to_bits()) }).collect::<Vec<_>>();
            prop_assert_eq!(means(&fast.means), means(&plain.means));
        }
    }
}
