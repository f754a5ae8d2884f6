//! The same results everywhere: hashes of long runs, the same constants for every processor,
//! compiler, number of threads and build. `make levels` runs them as compiled for each level of
//! x86-64. A change of one changes what a seed means: that is a new version, and a line in
//! CHANGELOG.md.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails, fails the test")]

#[allow(dead_code, reason = "the caller has more to offer")]
mod common;

use std::thread;

use common::{Caller, Op};
use depo_sampler::Settings;
use depo_sampler::advantage::{AdvantageOptions, group_advantages};
use depo_sampler::rng::{Stream, content_id};
use depo_sampler::rules::CandidatesFrom;
use depo_sampler::rules::exploration::ExploreBy;

const PROMPTS: usize = 300;
const STEPS: u64 = 40;

/// Policy and belief, and the hash of all answers of a run with them.
const RUNS: [(&str, &str, u64); 11] = [
    ("uniform", "beta", 17_309_125_095_200_297_591),
    ("window", "beta", 7_308_419_131_888_777_930),
    ("budget", "logit_normal", 10_928_392_148_079_810_991),
    ("budget", "beta", 993_500_854_333_901_908),
    ("polaris", "logit_normal", 14_358_046_507_605_083_850),
    ("greso", "beta", 7_312_652_937_666_683_063),
    ("mopps", "beta", 4_690_845_478_708_658_643),
    ("thompson", "logit_normal", 5_730_952_795_927_887_024),
    ("thompson", "beta", 6_239_016_093_303_684_945),
    ("prime_pools", "logit_normal", 7_381_475_967_455_551_491),
    ("dps", "beta", 11_982_672_731_870_216_213),
];
/// The same with candidates from the whole pool.
const POOL_RUNS: [(&str, &str, u64); 3] = [
    ("budget", "logit_normal", 17_325_098_905_819_302_040),
    ("mopps", "beta", 14_904_207_923_189_537_357),
    ("prime_pools", "logit_normal", 18_401_126_602_182_974_539),
];
const STATE: u64 = 11_140_068_177_822_473_707;
const ADVANTAGES: u64 = 717_336_064_834_894_948;

fn run(rule: &str, belief: &str, candidates_from: CandidatesFrom) -> Caller {
    let settings = Settings {
        group_size: 4,
        seed: 7,
        rule: rule.parse().unwrap(),
        belief: belief.parse().unwrap(),
        candidates_from,
        min_age: 3,
        explore_by: ExploreBy::Ucb,
        explore_share: 0.2,
        warmup_steps: 2,
        max_age: 12,
        probe_rollouts: 1,
        source_floors: vec![0.1, 0.0],
        ..Settings::default()
    };
    let mut caller = Caller::new(PROMPTS, settings);
    for step in 0..STEPS {
        let lots = Stream::new(step);
        caller.apply(&if step % 8 == 7 { Op::Among(6, lots.bits(0)) } else { Op::Batch(10) });
        let newest = caller.issued.len();
        for draw in newest.saturating_sub(12)..newest {
            caller.apply(&if draw % 9 == 8 {
                Op::Release(draw)
            } else {
                Op::Observe(draw, lots.bits(draw as u64))
            });
        }
        caller.apply_all(&[Op::Fresh, Op::Replay(16), Op::Step(1)]);
    }
    caller
}

fn answers(caller: &Caller) -> u64 {
    content_id(caller.log.join("\n"))
}

#[test]
fn a_run_gives_the_answers_that_it_always_gave() {
    let threads = RUNS.map(|(rule, belief, _)| {
        thread::spawn(move || (rule, belief, answers(&run(rule, belief, CandidatesFrom::Epoch))))
    });
    assert_eq!(threads.map(|thread| thread.join().unwrap()), RUNS);
}

#[test]
fn a_search_of_the_pool_gives_the_answers_that_it_always_gave() {
    assert_eq!(
        POOL_RUNS.map(|(rule, belief, _)| (
            rule,
            belief,
            answers(&run(rule, belief, CandidatesFrom::Pool))
        )),
        POOL_RUNS
    );
}

/// Also fails where the layout of the state changes: what was saved before must still be read, or
/// `STATE_VERSION` is another one.
#[test]
fn a_run_leaves_the_state_that_it_always_left() {
    assert_eq!(
        content_id(format!(
            "{:?}",
            run("budget", "logit_normal", CandidatesFrom::Epoch).sampler.state()
        )),
        STATE
    );
}

#[test]
fn rewards_give_the_advantages_that_they_always_gave() {
    let mut bits: Vec<u32> = vec![];
    for (values, group_size) in [(2, 4), (2, 16), (2, 37), (11, 4), (11, 16), (1 << 20, 37)] {
        let stream = Stream::of(7, "rewards", &[values, group_size as u64]);
        let reward = |counter| {
            if stream.below(counter, 20) == 0 {
                f32::NAN
            } else {
                (stream.below(counter, values) as f32).sqrt() - 1.0
            }
        };
        let rewards: Vec<f32> = (0..(20 * group_size) as u64).map(reward).collect();
        for (scale_by_std, ddof) in [(true, 0), (true, 1), (false, 0)] {
            let options = AdvantageOptions { scale_by_std, ddof, epsilon: 1e-6, tolerance: 1e-6 };
            let output = group_advantages(&rewards, [20, group_size], &options).unwrap();
            let numbers =
                output.advantages.iter().chain(output.means.iter().filter(|mean| !mean.is_nan()));
            bits.extend(numbers.map(|number| number.to_bits()));
        }
    }
    assert_eq!(content_id(format!("{bits:?}")), ADVANTAGES);
}
