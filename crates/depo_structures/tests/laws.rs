//! Laws against brute force.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails, fails the test")]

mod common;

use std::collections::BTreeSet;

use common::words;
use depo_structures::{Bounds, BoxTree, SumTree, best};
use proptest::prelude::*;

fn weight() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.0), Just(1.0), 0.0..1.0_f32, Just(1e-20), Just(SumTree::GREATEST_WEIGHT)]
}

/// A few of any kind, or thousands that repeat a few.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let few = || prop::collection::vec(weight(), 0..40);
    prop_oneof![
        few(),
        (few(), 4000..5000_usize).prop_map(|(few, len)| few
            .iter()
            .copied()
            .cycle()
            .take(len)
            .collect())
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn an_updated_tree_is_the_tree_of_the_new_weights(
        mut weights in weights(),
        changes in prop::collection::vec((any::<u32>(), weight()), 0..50),
    ) {
        let mut tree = SumTree::new(&weights);
        let len = weights.len() as u32;
        let changes: Vec<(u32, f32)> = changes
            .into_iter()
            .filter(|_| len > 0)
            .map(|(item, weight)| (item % len, weight))
            .collect();
        for &(item, weight) in &changes {
            weights[item as usize] = weight;
        }
        tree.set(changes);
        prop_assert!(tree == SumTree::new(&weights));
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        prop_assert!((f64::from(tree.total()) - total).abs() <= 1e-5 * total);
    }

    #[test]
    fn draws_are_distinct_eligible_and_as_many_as_there_are(
        weights in weights(),
        count in 0..200_usize,
        seed: u64,
        modulus in 1..5_u32,
    ) {
        let mut tree = SumTree::new(&weights);
        let before = tree.clone();
        let drawn = tree.draw_distinct(count, words(seed), |item| item % modulus == 0);
        let available = (0..)
            .zip(&weights)
            .filter(|&(item, &weight)| weight > 0.0 && item % modulus == 0)
            .count();
        prop_assert_eq!(drawn.len(), count.min(available));
        prop_assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len());
        prop_assert!(drawn.iter().all(|&item| weights[item as usize] > 0.0 && item % modulus == 0));
        prop_assert!(tree == before);
    }

    #[test]
    fn the_best_are_those_of_a_stable_sort(
        scores in prop::collection::vec(
            prop_oneof![
                (-9..9_i8).prop_map(f32::from), Just(f32::NAN), Just(f32::NEG_INFINITY),
                -1.0..1.0_f32
            ],
            0..3000
        ),
        count in 0..300_usize, target in -2.0..2.0_f32,
    ) {
        let key = |score: f32| -(score - target).abs();
        let mut expected: Vec<u32> =
            (0..scores.len() as u32).filter(|&item| !scores[item as usize].is_nan()).collect();
        expected.sort_by(|&a, &b| key(scores[b as usize]).total_cmp(&key(scores[a as usize])));
        expected.truncate(count);
        prop_assert_eq!(best(&scores, count, key), expected);
    }
}

const UNITS: [f32; 3] = [1.0, 0.5, 30.0];

const REGION: Bounds<3> = [[-8.0, 8.0], [0.0, 2.0], [0.0, 4096.0]];

/// A few values on an axis, so that many items share a point.
fn points() -> impl Strategy<Value = [f32; 3]> {
    let last = (0..4000_u16).prop_map(f32::from);
    (
        prop_oneof![-8.0..8.0_f32, Just(1.0)],
        prop_oneof![Just(0.0), Just(1.0), Just(2.0), Just(1e-6)],
        last,
    )
        .prop_map(|(a, b, c)| [a, b, c])
}

/// A score that is highest at `target`, and the highest it gets in a box.
fn nearness(target: [f32; 3], point: [f32; 3]) -> f64 {
    -(0..3).map(|axis| f64::from((point[axis] - target[axis]).abs() / UNITS[axis])).sum::<f64>()
}

fn nearest_in(target: [f32; 3], bounds: &Bounds<3>) -> f64 {
    nearness(
        target,
        std::array::from_fn(|axis| target[axis].clamp(bounds[axis][0], bounds[axis][1])),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_best_in_a_tree_of_boxes_are_those_of_a_scan(
        points in prop::collection::vec(points(), 1..1500),
        moves in prop::collection::vec((any::<u32>(), points(), any::<bool>()), 0..1500),
        target in points(),
        count in 0..80_usize,
        floor in prop_oneof![Just(f64::NEG_INFINITY), -9.0..0.0],
        slack in 0.0..0.5,
        modulus in 1..4_u32,
    ) {
        let len = points.len() as u32;
        let mut lies: Vec<Option<[f32; 3]>> = points
            .iter()
            .enumerate()
            .map(|(item, &point)| (item % 3 > 0).then_some(point))
            .collect();
        let entries = |lies: &[Option<[f32; 3]>]| {
            (0..len).filter_map(|item| lies[item as usize].map(|point| (point, item))).collect()
        };
        let mut tree = BoxTree::new(points.len(), REGION, UNITS, entries(&lies));
        for (item, point, stays) in moves {
            let item = item % len;
            lies[item as usize] = stays.then_some(point);
            if stays {
                tree.put(item, |item| lies[item as usize].unwrap());
            } else {
                tree.remove(item);
            }
        }
        let score = |item: u32| (nearness(target, lies[item as usize].unwrap()), item);
        let wanted = |item: &&u32| item.is_multiple_of(modulus);
        let scores = |items: &[u32], scored: &mut Vec<(f64, u32)>| {
            scored.extend(items.iter().filter(wanted).map(|&item| score(item)));
        };
        let best = |tree: &BoxTree<3>, slack: f64| {
            tree.best(count, floor, slack, |bounds| nearest_in(target, bounds), scores)
        };

        let held =
            (0..len).filter(|&item| lies[item as usize].is_some() && item.is_multiple_of(modulus));
        let mut expected: Vec<(f64, u32)> =
            held.map(score).filter(|&(score, _)| score >= floor).collect();
        expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        expected.truncate(count);
        prop_assert_eq!(best(&tree, 0.0), expected.clone());

        let found = best(&tree, slack);
        prop_assert_eq!(
            &found,
            &best(&BoxTree::new(points.len(), REGION, UNITS, entries(&lies)), slack),
            "the order of arrival shows"
        );
        let worst = found.last().map_or(floor, |last| last.0).max(floor);
        let left_out = expected.iter().filter(|item| !found.contains(item));
        prop_assert!(
            left_out.clone().all(|&(score, _)| score <= worst + slack
                || (found.len() < count && score <= floor + slack))
        );
    }
}

/// Ordered pairs of successive draws: `w_i / W`, then `w_j / (W - w_i)` among the eligible.
/// Pearson's statistic has a mean of the number of pairs less 1.
fn pearson(weights: &[f32], repeats: u64) -> (f64, usize) {
    let (eligible, len) = (|item: u32| item != 1, weights.len());
    let mut tree = SumTree::new(weights);
    let mut counts = vec![0.0; len * len];
    for repeat in 0..repeats {
        let pair = tree.draw_distinct(2, words(repeat << 20), eligible);
        counts[pair[0] as usize * len + pair[1] as usize] += 1.0;
    }
    let weight = |item: usize| {
        if eligible(item as u32) { f64::from(weights[item]) } else { 0.0 }
    };
    let total: f64 = (0..len).map(weight).sum();
    let expected = |first: usize, second: usize| {
        if first == second {
            0.0
        } else {
            repeats as f64 * weight(first) / total * weight(second) / (total - weight(first))
        }
    };
    let cells = (0..len * len).map(|cell| (counts[cell], expected(cell / len, cell % len)));
    let cells: Vec<(f64, f64)> = cells.filter(|&(_, expected)| expected > 0.0).collect();
    (cells.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum(), cells.len())
}

#[test]
fn pairs_come_as_often_as_by_successive_draws() {
    let mut many = vec![1.0; 40];
    many[..4].copy_from_slice(&[8.0, 20.0, 0.0, 0.5]);
    // The second has an item that most draws hit in vain, the third one that takes nearly all
    // draws.
    for weights in [
        vec![1.0, 2.0, 3.0, 0.25, 4.0],
        vec![1.0, 1000.0, 3.0, 2.0],
        vec![300.0, 1.0, 1.0, 2.0],
        many,
    ] {
        let (statistic, cells) = pearson(&weights, 40_000);
        let freedom = (cells - 1) as f64;
        assert!(
            statistic < freedom + 4.0 * (2.0 * freedom).sqrt(),
            "{statistic} with {freedom} degrees of freedom"
        );
    }
}

/// The same on every processor: a change of this changes what a seed means.
#[test]
fn draws_and_totals_are_pinned() {
    let random = words(1);
    let weights: Vec<f32> = (0..5000).map(|counter| (random(counter) >> 40) as f32).collect();
    let mut tree = SumTree::new(&weights);
    let mut hash = 0_u64;
    let mut note = |word: u64| hash = words(hash ^ word)(0);
    for round in 0..20 {
        let drawn = tree.draw_distinct(64, words(round), |item| item % 7 != 0);
        for &item in &drawn {
            note(item.into());
        }
        tree.set(drawn.iter().map(|&item| (item, (words(round)(item.into()) >> 41) as f32)));
        note(tree.total().to_bits().into());
    }
    for item in best(&weights, 50, |score| -(score - 1e6).abs()) {
        note(item.into());
    }
    assert_eq!(hash, 3_193_362_044_506_993_681);
}
