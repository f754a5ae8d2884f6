//! Fixed work for `instructions.py`, which counts what the processor executes: `instructions
//! OPERATION REPEATS`.

#![allow(clippy::unwrap_used, reason = "a wrong call shows where")]

use std::hint::black_box;

use depo_sampler::advantage::{AdvantageOptions, group_advantages};
use depo_sampler::rng::Stream;
use depo_sampler::{Sampler, Settings};
use depo_structures::{SumTree, best};

const PROMPTS: usize = 17_000;
const BATCH: usize = 128;
const GROUP_SIZE: usize = 8;
const ADVANTAGES: [usize; 2] = [1024, 16];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let repeats: u32 = arguments[2].parse().unwrap();
    match arguments[1].as_str() {
        "sample and observe" => steps(repeats),
        "binary advantages" => advantages(repeats, 2),
        "graded advantages" => advantages(repeats, 101),
        "draw by weight" => draws(repeats),
        "change weights" => changes(repeats),
        "best of all" => (0..repeats).for_each(|_| {
            drop(black_box(best(black_box(&numbers(PROMPTS)), BATCH, |score| score)));
        }),
        other => panic!("OPERATION: got {other}"),
    }
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count as u64).map(|counter| Stream::new(0).unit(counter) as f32).collect()
}

/// Batches from proposal to label.
fn steps(repeats: u32) {
    let settings = Settings { group_size: GROUP_SIZE, warmup_steps: 0, ..Settings::default() };
    let mut sampler =
        Sampler::new((0..PROMPTS as u64).collect(), vec![0; PROMPTS], settings).unwrap();
    let number = |id: i64, counter| Stream::new(id.cast_unsigned()).unit(counter) as f32;
    for version in 0..repeats {
        loop {
            let candidates: Vec<i64> =
                sampler.propose(BATCH, version).unwrap().into_iter().map(i64::from).collect();
            if candidates.is_empty() {
                break;
            }
            let predictions: Vec<f32> =
                candidates.iter().map(|&prompt| number(prompt, 0)).collect();
            sampler.offer(&candidates, &predictions, version).unwrap();
        }
        let ids: Vec<i64> =
            sampler.take(BATCH, version).iter().map(|draw| draw.draw_id.cast_signed()).collect();
        let rewards: Vec<f32> = ids
            .iter()
            .flat_map(|&id| (0..GROUP_SIZE as u64).map(move |rollout| number(id, rollout).round()))
            .collect();
        black_box(
            sampler
                .observe(&ids, &rewards, [ids.len(), GROUP_SIZE], &vec![0.5; ids.len()], version)
                .unwrap(),
        );
    }
}

fn advantages(repeats: u32, values: u64) {
    let value = |counter| {
        if Stream::new(1).below(counter, 100) == 0 {
            f32::NAN
        } else {
            Stream::new(0).below(counter, values) as f32
        }
    };
    let rewards: Vec<f32> = (0..(ADVANTAGES[0] * ADVANTAGES[1]) as u64).map(value).collect();
    let options = AdvantageOptions { scale_by_std: true, ddof: 1, epsilon: 1e-6, tolerance: 1e-6 };
    (0..repeats)
        .for_each(|_| drop(black_box(group_advantages(black_box(&rewards), ADVANTAGES, &options))));
}

fn draws(repeats: u32) {
    let mut tree = SumTree::new(&numbers(PROMPTS));
    for draw in 0..u64::from(repeats) {
        let stream = Stream::of(0, "draw", &[draw]);
        black_box(tree.draw_distinct(BATCH, |counter| stream.bits(counter), |_| true));
    }
}

fn changes(repeats: u32) {
    let mut tree = SumTree::new(&numbers(PROMPTS));
    for change in 0..u64::from(repeats) {
        let stream = Stream::of(0, "change", &[change]);
        tree.set((0..BATCH as u64).map(|counter| {
            (stream.below(counter, PROMPTS as u64) as u32, stream.unit(counter) as f32)
        }));
    }
    black_box(&tree);
}
