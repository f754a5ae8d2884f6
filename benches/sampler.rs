//! Times of each operation by pool size. Run with `cargo bench -p depo_benches`.

use depo_sampler::advantage::{AdvantageOptions, group_advantages};
use depo_sampler::rng::{Permutation, Stream, derive_key};
use depo_sampler::rules::RuleKind;
use depo_sampler::state::StateMap;
use depo_sampler::{Sampler, Settings};
use divan::Bencher;
use divan::counter::ItemsCount;

const SIZES: [usize; 3] = [17_000, 1_000_000, 10_000_000];
const BATCH: usize = 128;
const GROUP_SIZE: usize = 8;

fn main() {
    divan::main();
}

fn number(prompt: i64, counter: u64) -> f32 {
    Stream::new(prompt.cast_unsigned()).unit(counter) as f32
}

fn build(prompts: usize, rule: RuleKind) -> Sampler {
    let settings = Settings {
        rule,
        group_size: GROUP_SIZE,
        warmup_steps: 0,
        max_age: 100,
        ..Settings::default()
    };
    Sampler::new((0..prompts as u64).collect(), vec![0; prompts], settings).expect("valid settings")
}

/// Candidates of one batch, all judged; nothing is taken yet.
fn judge(sampler: &mut Sampler, version: u32) {
    loop {
        let candidates: Vec<i64> = sampler
            .propose(BATCH, version)
            .expect("all offered")
            .into_iter()
            .map(i64::from)
            .collect();
        if candidates.is_empty() {
            return;
        }
        let predictions: Vec<f32> = candidates.iter().map(|&prompt| number(prompt, 0)).collect();
        sampler.offer(&candidates, &predictions, version).expect("as proposed");
    }
}

/// One batch from proposal to label.
fn step(sampler: &mut Sampler, version: u32) {
    judge(sampler, version);
    let draws = sampler.take(BATCH, version);
    let ids: Vec<i64> = draws.iter().map(|draw| draw.draw_id.cast_signed()).collect();
    observe(sampler, &ids, version);
}

fn observe(sampler: &mut Sampler, ids: &[i64], version: u32) {
    let rewards: Vec<f32> = ids
        .iter()
        .flat_map(|&id| (0..GROUP_SIZE as u64).map(move |rollout| number(id, rollout).round()))
        .collect();
    let targets = vec![0.5; ids.len()];
    sampler.observe(ids, &rewards, [ids.len(), GROUP_SIZE], &targets, version).expect("shapes fit");
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn construct(prompts: usize) -> Sampler {
    build(prompts, RuleKind::Budget)
}

#[divan::bench(args = SIZES)]
fn step_uniform(bencher: Bencher, prompts: usize) {
    bench_steps(bencher, prompts, RuleKind::Uniform);
}

#[divan::bench(args = SIZES)]
fn step_window(bencher: Bencher, prompts: usize) {
    bench_steps(bencher, prompts, RuleKind::Window);
}

#[divan::bench(args = SIZES)]
fn step_budget(bencher: Bencher, prompts: usize) {
    bench_steps(bencher, prompts, RuleKind::Budget);
}

fn bench_steps(bencher: Bencher, prompts: usize, rule: RuleKind) {
    let mut sampler = build(prompts, rule);
    let mut version = 0;
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        version += 1;
        step(&mut sampler, version);
    });
}

#[divan::bench(args = SIZES)]
fn take_budget(bencher: Bencher, prompts: usize) {
    let mut sampler = build(prompts, RuleKind::Budget);
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        judge(&mut sampler, 0);
        let ids: Vec<i64> =
            sampler.take(BATCH, 0).iter().map(|draw| draw.draw_id.cast_signed()).collect();
        sampler.release(&ids)
    });
}

#[divan::bench(args = SIZES)]
fn beliefs(bencher: Bencher, prompts: usize) {
    let sampler = build(prompts, RuleKind::Budget);
    let candidates: Vec<i64> = (0..384).map(|position| position * 7919 % prompts as i64).collect();
    let predictions: Vec<f32> = candidates.iter().map(|&prompt| number(prompt, 0)).collect();
    bencher
        .counter(ItemsCount::new(candidates.len()))
        .bench_local(|| sampler.beliefs(&candidates, &predictions, 1));
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn save(bencher: Bencher, prompts: usize) {
    let mut sampler = build(prompts, RuleKind::Budget);
    step(&mut sampler, 0);
    bencher.bench_local(|| sampler.state());
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn load(bencher: Bencher, prompts: usize) {
    let mut sampler = build(prompts, RuleKind::Budget);
    step(&mut sampler, 0);
    let state: StateMap = sampler.state();
    bencher
        .with_inputs(|| state.clone())
        .bench_local_values(|state| sampler.load_state(state, true));
}

/// The next batch in the middle of an epoch from nothing but the seed and the place: what a resume
/// costs beside what is known of the prompts.
#[divan::bench(args = SIZES)]
fn resume_order(bencher: Bencher, prompts: usize) {
    bencher.bench_local(|| {
        let order = Permutation::new(derive_key(0, "epoch", &[1]), prompts);
        (prompts / 2..prompts / 2 + BATCH).map(|rank| order.at(rank) as u64).sum::<u64>()
    });
}

#[divan::bench]
fn replay(bencher: Bencher) {
    let mut sampler = build(1_000, RuleKind::Budget);
    (0..20).for_each(|version| step(&mut sampler, version));
    bencher.counter(ItemsCount::new(48_usize)).bench_local(|| sampler.replay_targets(48));
}

#[divan::bench(args = [[128, 8], [1024, 16], [4096, 64]])]
fn advantages(bencher: Bencher, shape: [usize; 2]) {
    let rewards: Vec<f32> =
        (0..(shape[0] * shape[1]) as i64).map(|position| number(position, 0).round()).collect();
    let options = AdvantageOptions { scale_by_std: true, ddof: 1, epsilon: 1e-6, tolerance: 1e-6 };
    bencher
        .counter(ItemsCount::new(rewards.len()))
        .bench_local(|| group_advantages(&rewards, shape, &options));
}
