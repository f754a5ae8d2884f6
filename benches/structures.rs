//! Times of choices among many items by one number each. Run with `cargo bench -p depo_benches --bench structures`.

use depo_sampler::rng::Stream;
use depo_structures::{SumTree, best};
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
        tree.set((0..COUNT as u64).map(|counter| (stream.below(counter, items as u64) as u32, stream.unit(counter) as f32)));
    });
}
