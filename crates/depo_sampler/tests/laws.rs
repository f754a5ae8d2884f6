//! Parts against slow, obvious references.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails, fails the test")]

use depo_sampler::Error;
use depo_sampler::advantage::{AdvantageOptions, group_advantages};
use depo_sampler::rng::{Permutation, Stream};
use depo_sampler::sampler::pool::PromptPool;
use depo_sampler::sampler::replay::{Target, TargetReplay};
use proptest::prelude::*;

fn target(number: u32) -> Target {
    let value = number as f32;
    Target {
        prompt: number,
        reward_target: 0.5,
        logprob_target: 0.5,
        count: value,
        weight: 1.0,
        policy_version: number,
    }
}

proptest! {
    #[test]
    fn a_permutation_visits_every_item_once(key: u64, len in 1..3000_usize) {
        let order = Permutation::new(key, len);
        let mut items: Vec<usize> = (0..len).map(|rank| order.at(rank)).collect();
        items.sort_unstable();
        prop_assert_eq!(items, (0..len).collect::<Vec<_>>());
    }

    #[test]
    fn bounded_integers_stay_inside(key: u64, counter: u64, bound in 1..=u64::MAX) {
        prop_assert!(Stream::new(key).below(counter, bound) < bound);
    }

    #[test]
    fn a_sample_is_distinct_and_of_the_size_asked(
        key: u64,
        len in 0..200_usize,
        count in 0..250_usize,
    ) {
        let mut items = Stream::new(key).sample(len, count);
        items.sort_unstable();
        items.dedup();
        prop_assert_eq!(items.len(), count.min(len));
        prop_assert!(items.iter().all(|&item| item < len));
    }

    #[test]
    fn the_pool_finds_every_free_prompt_and_none_twice(
        seed: u64,
        len in 0..200_usize,
        claims in prop::collection::vec((0..300_usize, any::<u64>()), 0..20),
    ) {
        let mut pool = PromptPool::new((0..len as u64).collect(), vec![0; len], seed).unwrap();
        let mut claimed = vec![];
        for (count, release) in claims {
            let free = len - claimed.len();
            let mut prompts = pool.claim_next(count);
            prop_assert_eq!(prompts.len(), count.min(free));
            prompts.retain(|prompt| !claimed.contains(prompt));
            prop_assert_eq!(prompts.len(), count.min(free), "claimed twice");
            claimed.extend(prompts);
            let keep = Stream::new(release);
            let released: Vec<u32> =
                claimed.iter().copied().filter(|&prompt| keep.unit(prompt.into()) < 0.5).collect();
            for &prompt in &released {
                pool.release(prompt);
            }
            claimed.retain(|prompt| !released.contains(prompt));
        }
    }

    #[test]
    fn undisturbed_epochs_are_permutations(seed: u64, len in 1..100_usize, batch in 1..20_usize) {
        let mut pool = PromptPool::new((0..len as u64).collect(), vec![0; len], seed).unwrap();
        let mut visited = vec![];
        while visited.len() < 3 * len {
            // The last batch of an epoch ends with it, so that no prompt is skipped for being
            // claimed in the batch before.
            for prompt in pool.claim_next(batch.min(len - visited.len() % len)) {
                pool.release(prompt);
                visited.push(prompt);
            }
        }
        for epoch in visited.chunks(len) {
            let mut prompts = epoch.to_vec();
            prompts.sort_unstable();
            prop_assert_eq!(prompts, (0..len as u32).collect::<Vec<_>>());
        }
        prop_assert_eq!(pool.epoch(), 3);
    }

    #[test]
    fn duplicate_ids_are_named_with_their_positions(
        len in 2..50_usize,
        places in any::<(usize, usize)>(),
    ) {
        let (first, second) = (places.0 % len, places.1 % len);
        prop_assume!(first < second);
        let mut ids: Vec<u64> = (0..len as u64).collect();
        ids[second] = ids[first];
        let error = PromptPool::new(ids.clone(), vec![0; len], 0).unwrap_err();
        prop_assert_eq!(error, Error::DuplicateId { id: ids[first], first, second });
    }

    #[test]
    fn replay_equals_a_list_cut_from_the_front(
        capacity in 1..12_usize,
        pushes in prop::collection::vec(0..8_usize, 1..12),
    ) {
        let mut replay = TargetReplay::new(capacity, 3);
        let mut all: Vec<Target> = vec![];
        for count in pushes {
            let start = all.len();
            (0..count).for_each(|_| all.push(target(all.len() as u32)));
            all[start..].iter().for_each(|&target| replay.push(target));
            let remembered = &all[all.len().saturating_sub(capacity)..];
            let fresh = &all[start.max(all.len() - remembered.len())..];
            prop_assert_eq!(replay.fresh(), fresh.to_vec());
            let mut sampled = replay.sample(capacity);
            sampled.sort_by_key(|target| target.prompt);
            prop_assert_eq!(sampled, remembered.to_vec());
        }
    }

    #[test]
    fn advantages_equal_the_textbook(
        groups in prop::collection::vec(
            prop::collection::vec(
                prop_oneof![Just(f32::NAN), Just(0.0), Just(1.0), -3.0..3.0_f32], 5
            ),
            1..6
        ),
        ddof in 0..2_usize, scale_by_std: bool, epsilon in 0.0..1e-3_f64,
    ) {
        let options = AdvantageOptions { scale_by_std, ddof, epsilon, tolerance: 1e-6 };
        let output = group_advantages(&groups.concat(), [groups.len(), 5], &options).unwrap();
        for (row, group) in groups.iter().enumerate() {
            let known: Vec<f64> = group
                .iter()
                .filter(|reward| !reward.is_nan())
                .map(|&reward| f64::from(reward))
                .collect();
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            let differ = known.iter().any(|a| known.iter().any(|b| a - b > 1e-6));
            prop_assert_eq!(output.informative[row], differ);
            prop_assert!(known.is_empty() == output.means[row].is_nan());
            let squares: f64 = known.iter().map(|reward| (reward - mean) * (reward - mean)).sum();
            let scale = if scale_by_std {
                (squares / (known.len() as f64 - ddof as f64)).sqrt() + epsilon
            } else {
                1.0
            };
            for (column, &reward) in group.iter().enumerate() {
                let expected = if differ && !reward.is_nan() {
                    (f64::from(reward) - mean) / scale
                } else {
                    0.0
                };
                prop_assert!(
                    (f64::from(output.advantages[5 * row + column]) - expected).abs() < 1e-5
                );
            }
        }
    }
}

/// Share of each of six outcomes among many keys; the standard error is 0.0015.
fn assert_uniform(counts: &[u32; 6], total: u32) {
    for &count in counts {
        assert!((f64::from(count) / f64::from(total) - 1.0 / 6.0).abs() < 0.0075, "{counts:?}");
    }
}

#[test]
fn draws_are_unbiased() {
    let (mut integers, mut first_sampled, mut last_ranked) = ([0; 6], [0; 6], [0; 6]);
    for key in 0..60_000 {
        let stream = Stream::of(key, "test", &[]);
        integers[stream.below(0, 6) as usize] += 1;
        first_sampled[stream.sample(6, 2)[1]] += 1;
        last_ranked[Permutation::new(stream.bits(0), 6).at(5)] += 1;
    }
    for counts in [integers, first_sampled, last_ranked] {
        assert_uniform(&counts, 60_000);
    }
}
