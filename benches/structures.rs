//! Times of choices among many items by one number each. Run with `cargo bench -p depo_benches
//! --bench structures`.

use depo_sampler::rng::Stream;
use depo_structures::{DiscountedCounts, SumTree, ThompsonTree, Window, best};
use divan::Bencher;
use divan::counter::ItemsCount;

const SIZES: [usize; 3] = [17_000, 1_000_000, 10_000_000];
const COUNT: usize = 1024;

fn main() {
    divan::main();
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count as u64).map(|counter| Stream::new(0).unit(counter) as f32).collect()
}

#[divan::bench(args = SIZES)]
fn best_of(bencher: Bencher, items: usize) {
    let scores = numbers(items);
    bencher.counter(ItemsCount::new(items)).bench_local(|| best(&scores, COUNT, |score| score));
}

#[divan::bench(args = SIZES)]
fn draw_by_weight(bencher: Bencher, items: usize) {
    let (mut tree, mut draw) = (SumTree::new(&numbers(items)), 0);
    bencher.counter(ItemsCount::new(COUNT)).bench_local(|| {
        draw += 1;
        let stream = Stream::of(0, "draw", &[draw]);
        tree.draw_distinct(COUNT, |counter| stream.bits(counter), |_| true)
    });
}

#[divan::bench(args = SIZES)]
fn change_weights(bencher: Bencher, items: usize) {
    let (mut tree, mut change) = (SumTree::new(&numbers(items)), 0);
    bencher.counter(ItemsCount::new(COUNT)).bench_local(|| {
        change += 1;
        let stream = Stream::of(0, "change", &[change]);
        tree.set((0..COUNT as u64).map(|counter| {
            (stream.below(counter, items as u64) as u32, stream.unit(counter) as f32)
        }));
    });
}

/// Shapes after up to 15 successes and failures.
fn thompson(items: usize) -> ThompsonTree {
    let [alphas, betas] = [0, 1].map(|part| {
        (0..items as u64)
            .map(|item| 1.0 + Stream::new(part).below(item, 16) as f32)
            .collect::<Vec<_>>()
    });
    ThompsonTree::new(0.5, &alphas, &betas)
}

#[divan::bench(args = SIZES)]
fn thompson_nearest(bencher: Bencher, items: usize) {
    let (mut tree, mut draw) = (thompson(items), 0);
    bencher.counter(ItemsCount::new(COUNT)).bench_local(|| {
        draw += 1;
        let stream = Stream::of(0, "draw", &[draw]);
        tree.draw_nearest(COUNT, |counter| stream.bits(counter), |_| true)
    });
}

#[divan::bench(args = SIZES)]
fn thompson_change(bencher: Bencher, items: usize) {
    let (mut tree, mut change) = (thompson(items), 0);
    bencher.counter(ItemsCount::new(COUNT)).bench_local(|| {
        change += 1;
        tree.set(&positions(change, items), &[2.0; COUNT], &[7.0; COUNT]);
    });
}

#[divan::bench(args = SIZES)]
fn count_groups(bencher: Bencher, items: usize) {
    let (mut counts, mut version) = (DiscountedCounts::new(items, 0.97), 0);
    bencher.counter(ItemsCount::new(COUNT)).bench_local(|| {
        version += 1;
        counts.add(&positions(version.into(), items), &[3.0; COUNT], &[8.0; COUNT], version);
    });
}

#[divan::bench(args = SIZES)]
fn draw_from_window(bencher: Bencher, items: usize) {
    let (scores, mut draw) = (numbers(items), 0);
    bencher.counter(ItemsCount::new(COUNT)).bench_local(|| {
        draw += 1;
        let stream = Stream::of(0, "draw", &[draw]);
        Window::new(&scores, 0.25, 0.75).draw(COUNT, COUNT / 10, |counter| stream.bits(counter))
    });
}

fn positions(change: u64, items: usize) -> Vec<i64> {
    let stream = Stream::of(0, "change", &[change]);
    (0..COUNT as u64).map(|counter| stream.below(counter, items as u64) as i64).collect()
}
