//! A step whose candidates come from the whole pool, beside one in epoch order and beside a scan of
//! all scores. Run with `cargo bench -p depo_benches --bench pool_search`.
//!
//! Three prompts of ten have been labeled, at versions 0..2000, with all kinds of results; half of
//! the pool has a text prediction.

use depo_sampler::rng::Stream;
use depo_sampler::rules::{CandidatesFrom, RuleKind};
use depo_sampler::{Sampler, Settings};
use depo_structures::best;
use divan::Bencher;
use divan::counter::ItemsCount;

const SIZES: [usize; 3] = [17_000, 1_000_000, 10_000_000];
const BATCH: usize = 128;
const GROUP_SIZE: usize = 8;
const VERSIONS: u32 = 2000;
const OPTIMISM: f64 = 1.25;

fn main() {
    divan::main();
}

fn unit(prompt: u64, counter: u64) -> f64 {
    Stream::new(prompt).unit(counter)
}

/// About normal, with variance 1.
fn normal(prompt: u64, counter: u64) -> f64 {
    (0..3).map(|part| 2.0 * unit(prompt, counter + part) - 1.0).sum()
}

fn pass_rate(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// Mean, variance and version of what is believed; a variance of 0 without a label.
fn belief(prompt: u64) -> (f64, f64, u32) {
    if unit(prompt, 0) >= 0.3 {
        return (0.0, 0.0, 0);
    }
    (
        2.5 * normal(prompt, 10) - 1.0,
        0.2 + 3.0 * unit(prompt, 1) * unit(prompt, 2),
        (unit(prompt, 3) * f64::from(VERSIONS)) as u32,
    )
}

/// A logit pass rate such as is believed, which has walked on since.
fn truth(prompt: u64) -> f64 {
    let (mean, variance, version) = belief(prompt);
    let variance =
        if variance > 0.0 { variance + 1e-3 * f64::from(VERSIONS - version) } else { 5.0 };
    mean + variance.sqrt() * normal(prompt, 20)
}

/// What an estimator would say of it.
fn prediction(prompt: u64) -> f32 {
    pass_rate(truth(prompt) + 2.0 * normal(prompt, 30)) as f32
}

/// A sampler in the middle of a run.
fn build(prompts: usize, rule: RuleKind, candidates_from: CandidatesFrom) -> Sampler {
    let settings = Settings {
        rule,
        candidates_from,
        group_size: GROUP_SIZE,
        warmup_steps: 0,
        ..Settings::default()
    };
    let mut sampler = Sampler::new((0..prompts as u64).collect(), vec![0; prompts], settings)
        .expect("valid settings");
    let mut state = sampler.state();
    let all = || 0..prompts as u64;
    state.insert(
        "belief.means".into(),
        all().map(|prompt| belief(prompt).0 as f32).collect::<Vec<f32>>().into(),
    );
    state.insert(
        "belief.variances".into(),
        all().map(|prompt| belief(prompt).1 as f32).collect::<Vec<f32>>().into(),
    );
    state.insert(
        "belief.versions".into(),
        all().map(|prompt| belief(prompt).2).collect::<Vec<u32>>().into(),
    );
    let stored = |prompt: u64| {
        if unit(prompt, 5) < 0.5 { prediction(prompt) } else { f32::NAN }
    };
    state.insert("belief.predicted_rewards".into(), all().map(stored).collect::<Vec<f32>>().into());
    sampler.load_state(state, true).expect("as saved");
    sampler
}

/// One batch from proposal to label.
fn step(sampler: &mut Sampler, version: u32) {
    loop {
        let candidates: Vec<i64> = sampler
            .propose(BATCH, version)
            .expect("all offered")
            .into_iter()
            .map(i64::from)
            .collect();
        if candidates.is_empty() {
            break;
        }
        let predictions: Vec<f32> =
            candidates.iter().map(|&prompt| prediction(prompt.cast_unsigned())).collect();
        sampler.offer(&candidates, &predictions, version).expect("as proposed");
    }
    let draws = sampler.take(BATCH, version);
    let ids: Vec<i64> = draws.iter().map(|draw| draw.draw_id.cast_signed()).collect();
    let succeeds = |prompt: u64, rollout: u64| {
        unit(prompt, u64::from(version) << 8 | rollout) < pass_rate(truth(prompt))
    };
    let group = |prompt: u32| {
        (0..GROUP_SIZE as u64)
            .map(move |rollout| f32::from(u8::from(succeeds(prompt.into(), rollout))))
    };
    let rewards: Vec<f32> = draws.iter().flat_map(|draw| group(draw.prompt)).collect();
    sampler
        .observe(&ids, &rewards, [ids.len(), GROUP_SIZE], &vec![0.5; ids.len()], version)
        .expect("shapes fit");
}

fn bench_steps(bencher: Bencher, prompts: usize, rule: RuleKind, candidates_from: CandidatesFrom) {
    let (mut sampler, mut version) = (build(prompts, rule, candidates_from), VERSIONS);
    // The first search lays out its index.
    step(&mut sampler, version);
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        version += 1;
        step(&mut sampler, version);
    });
}

#[divan::bench(args = SIZES)]
fn step_epoch(bencher: Bencher, prompts: usize) {
    bench_steps(bencher, prompts, RuleKind::Budget, CandidatesFrom::Epoch);
}

#[divan::bench(args = SIZES)]
fn step_pool(bencher: Bencher, prompts: usize) {
    bench_steps(bencher, prompts, RuleKind::Budget, CandidatesFrom::Pool);
}

#[divan::bench(args = SIZES)]
fn step_prime_pools(bencher: Bencher, prompts: usize) {
    bench_steps(bencher, prompts, RuleKind::PrimePools, CandidatesFrom::Pool);
}

/// The first step after a load, which lays out the index.
#[divan::bench(args = SIZES, sample_count = 3)]
fn first_step_pool(bencher: Bencher, prompts: usize) {
    bencher
        .with_inputs(|| build(prompts, RuleKind::Budget, CandidatesFrom::Pool))
        .bench_local_values(|mut sampler| {
            step(&mut sampler, VERSIONS);
            sampler
        });
}

/// Every score, and the best of them: what a search must not cost.
#[divan::bench(args = SIZES, sample_count = 3)]
fn scan(bencher: Bencher, prompts: usize) {
    let sampler = build(prompts, RuleKind::Budget, CandidatesFrom::Epoch);
    let (all, stored) = ((0..prompts as i64).collect::<Vec<i64>>(), vec![f32::NAN; prompts]);
    bencher.bench_local(|| {
        let forecasts = sampler.beliefs(&all, &stored, VERSIONS).expect("all are there");
        let score = |labelled: bool, p: f64, deviation: f64| {
            if labelled { p + OPTIMISM * deviation } else { p }
        };
        let scores: Vec<f32> = forecasts
            .iter()
            .map(|each| score(each.labelled, each.p_informative, each.deviation) as f32)
            .collect();
        best(&scores, 5 * BATCH, |score| score)
    });
}
