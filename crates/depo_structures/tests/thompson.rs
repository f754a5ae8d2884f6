//! Laws of the Thompson tree, the window and the counts; the distributions of Beta variates are
//! tested from Python, against `NumPy`'s.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails, fails the test")]

mod common;

use std::collections::BTreeSet;

use common::words;
use depo_structures::{DiscountedCounts, ThompsonTree, Window};
use proptest::prelude::*;

fn shape() -> impl Strategy<Value = [f32; 2]> {
    let count = || prop_oneof![Just(1.0_f32), Just(1e4), 1.0..3.0_f32, 1.0..500.0_f32];
    [count(), count()]
}

/// A few of any kind, or hundreds that repeat a few.
fn shapes() -> impl Strategy<Value = Vec<[f32; 2]>> {
    let few = || prop::collection::vec(shape(), 0..40);
    prop_oneof![
        few(),
        (few(), 400..900_usize).prop_map(|(few, len)| few
            .iter()
            .copied()
            .cycle()
            .take(len)
            .collect())
    ]
}

fn columns(shapes: &[[f32; 2]]) -> (Vec<f32>, Vec<f32>) {
    shapes.iter().map(|&[alpha, beta]| (alpha, beta)).unzip()
}

fn tree(target: f64, shapes: &[[f32; 2]]) -> ThompsonTree {
    let (alphas, betas) = columns(shapes);
    ThompsonTree::new(target, &alphas, &betas)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn an_updated_tree_is_the_tree_of_the_new_shapes(
        mut shapes in shapes(),
        changes in prop::collection::vec((any::<u32>(), shape()), 0..50),
        target in 0.001..0.999_f64,
    ) {
        let mut updated = tree(target, &shapes);
        let len = shapes.len();
        let changes: Vec<(i64, [f32; 2])> = changes
            .into_iter()
            .filter(|_| len > 0)
            .map(|(item, shape)| (i64::from(item) % len as i64, shape))
            .collect();
        let (items, changed): (Vec<i64>, Vec<[f32; 2]>) = changes.into_iter().unzip();
        for (&item, &shape) in items.iter().zip(&changed) {
            shapes[item as usize] = shape;
        }
        let (alphas, betas) = columns(&changed);
        updated.set(&items, &alphas, &betas);
        prop_assert!(updated == tree(target, &shapes));
    }

    #[test]
    fn draws_are_distinct_eligible_in_order_and_as_many_as_there_are(
        shapes in shapes(),
        count in 0..200_usize,
        seed: u64,
        modulus in 1..5_u32,
        target in 0.001..0.999_f64,
    ) {
        let mut drawn_from = tree(target, &shapes);
        let before = drawn_from.clone();
        let hits = drawn_from.draw_nearest(count, words(seed), |item| item % modulus == 0);
        let available = (0..shapes.len() as u32).filter(|item| item % modulus == 0).count();
        prop_assert_eq!(hits.len(), count.min(available));
        prop_assert_eq!(
            hits.iter().map(|&(item, _)| item).collect::<BTreeSet<_>>().len(),
            hits.len()
        );
        prop_assert!(hits.iter().all(|&(item, above)| item % modulus == 0
            && (0.0..=1.0).contains(&(target + f64::from(above)))));
        prop_assert!(hits.is_sorted_by_key(|&(_, above)| above.abs()));
        prop_assert!(drawn_from == before);
    }

    #[test]
    fn a_window_gives_each_side_its_places_and_fills_up_from_the_other(
        few in prop::collection::vec(
            prop_oneof![Just(f32::NAN), (-4..4_i8).prop_map(f32::from), -1.0..1.0_f32], 0..60
        ),
        len in 0..3000_usize,
        window in [-2.0..2.0_f32, -2.0..2.0_f32],
        count in 0..100_usize,
        share in 0.0..=1.0_f64,
        seed: u64,
    ) {
        let (low, high) = (window[0].min(window[1]), window[0].max(window[1]));
        let scores: Vec<f32> = few.iter().copied().cycle().take(len).collect();
        let outside = (share * count as f64) as usize;
        let is_inside = |item: &u32| (low..=high).contains(&scores[*item as usize]);
        let drawn = Window::new(&scores, low, high).draw(count, outside, words(seed));
        let all_inside = (0..scores.len() as u32).filter(is_inside).count();
        let all_others = scores.iter().filter(|&&score| score < low || score > high).count();
        let from_others = outside.max(count.saturating_sub(all_inside)).min(all_others);
        prop_assert_eq!(drawn.len(), count.min(all_inside + all_others));
        prop_assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len());
        prop_assert!(drawn.iter().all(|&item| !scores[item as usize].is_nan()));
        prop_assert!(drawn.iter().take(drawn.len() - from_others).all(is_inside));
        prop_assert!(!drawn.iter().skip(drawn.len() - from_others).any(is_inside));
    }

    #[test]
    fn counts_are_those_of_a_sum_over_all_groups(
        groups in prop::collection::vec((0..5_i64, 0..=8_u8, 0..40_u32), 0..60),
        decay in 0.0..=1.0_f64,
        cut in 0..60_usize,
    ) {
        let mut counts = DiscountedCounts::new(5, decay);
        let add = |counts: &mut DiscountedCounts, groups: &[(i64, u8, u32)]| {
            for &(item, successes, version) in groups {
                counts.add(&[item], &[successes.into()], &[8.0], version);
            }
        };
        add(&mut counts, &groups);
        for item in 0..5 {
            let of_item = groups.iter().filter(|group| group.0 == item);
            let sum = |part: fn(u8) -> u8| {
                of_item
                    .clone()
                    .map(|group| f64::from(part(group.1)) * decay.powi(50 - group.2 as i32))
                    .sum::<f64>()
            };
            let expected = [sum(|successes| successes), sum(|successes| 8 - successes)];
            for (count, expected) in counts.at(item as usize, 50).iter().zip(expected) {
                prop_assert!(
                    (f64::from(*count) - expected).abs() <= 1e-5 * expected + 1e-30,
                    "{count} {expected}"
                );
            }
        }
        // Groups of one version in one call are groups one after another.
        let groups: Vec<_> =
            groups.into_iter().map(|(item, successes, _)| (item, successes, 3)).collect();
        let (mut together, mut apart) = (counts.clone(), counts);
        add(&mut apart, &groups);
        let (first, second) = groups.split_at(cut.min(groups.len()));
        for part in [first, second] {
            let items: Vec<i64> = part.iter().map(|group| group.0).collect();
            let successes: Vec<f32> = part.iter().map(|group| group.1.into()).collect();
            together.add(&items, &successes, &vec![8.0; part.len()], 3);
        }
        prop_assert!(together == apart);
        let mut loaded = DiscountedCounts::new(5, decay);
        let (successes, failures, versions) = together.columns();
        loaded.load(&successes, &failures, &versions);
        prop_assert!(loaded == together);
    }
}

/// How often each of the members is among a few draws: Pearson's statistic has a mean of the number
/// of members less 1, a little less without replacement.
#[test]
fn a_window_prefers_nobody_and_nothing_on_the_left() {
    // Drawn among all items; listed because few are inside; listed because many are wanted.
    for (len, inside, count) in [(640, 200, 20), (640, 9, 6), (64, 40, 20)] {
        let scores: Vec<f32> =
            (0..len).map(|item| if item * inside % len < inside { 0.5 } else { 2.0 }).collect();
        let (mut counts, mut firsts) = (vec![0.0; len], vec![0.0; len]);
        for repeat in 0..20_000_u64 {
            let drawn = Window::new(&scores, 0.0, 1.0).draw(count, 0, words(repeat << 20));
            for &item in &drawn {
                counts[item as usize] += 1.0;
            }
            firsts[drawn[0] as usize] += 1.0;
        }
        for (counts, drawn) in [(counts, count), (firsts, 1)] {
            let expected = 20_000.0 * drawn as f64 / inside as f64;
            let members = (0..len).filter(|&item| scores[item] < 1.0);
            let statistic: f64 =
                members.map(|item: usize| (counts[item] - expected).powi(2) / expected).sum();
            let freedom = (inside - drawn) as f64;
            assert!(
                (statistic - freedom).abs() < 4.0 * (2.0 * freedom).sqrt(),
                "{statistic} with {freedom} degrees of freedom"
            );
        }
    }
}
