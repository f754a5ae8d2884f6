//! Candidates from the whole pool: the best there are, none in flight, and the same after a
//! resume.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails, fails the test")]

mod common;

use std::collections::BTreeSet;

use common::{Caller, Op, ops, searching, settings, split_equals_whole};
use depo_sampler::belief::BeliefKind;
use depo_sampler::rng::Stream;
use depo_sampler::rules::{CandidatesFrom, RuleKind};
use depo_sampler::sampler::draws::Draw;
use depo_sampler::{Error, Sampler, Settings};
use proptest::prelude::*;

/// What nominated prompts may score less than others.
const TOLERANCE: f64 = 2e-3;
const CANDIDATES_PER_DRAW: usize = 3;
const OPTIMISM: f64 = 1.25;
const CURIOSITY: f64 = 2.0;

fn pool_settings() -> Settings {
    let candidates_from = CandidatesFrom::Pool;
    Settings {
        group_size: 4,
        warmup_steps: 0,
        candidates_per_draw: CANDIDATES_PER_DRAW,
        candidates_from,
        ..Settings::default()
    }
}

/// A sampler that has drawn and observed for some versions.
struct Run {
    sampler: Sampler,
    prompts: usize,
    lots: Stream,
    version: u32,
    in_flight: Vec<i64>,
    labelled_at: Vec<Option<u32>>,
}

impl Run {
    fn new(prompts: usize, seed: u64, settings: Settings) -> Self {
        let sampler =
            Sampler::new((0..prompts as u64).collect(), vec![0; prompts], settings).unwrap();
        Self {
            sampler,
            prompts,
            lots: Stream::new(seed),
            version: 0,
            in_flight: vec![],
            labelled_at: vec![None; prompts],
        }
    }

    /// P(informative) plus optimism of every prompt, under its stored prediction.
    fn scores(&self) -> Vec<f64> {
        let all: Vec<i64> = (0..self.prompts as i64).collect();
        let forecasts =
            self.sampler.beliefs(&all, &vec![f32::NAN; self.prompts], self.version).unwrap();
        let labelled = self.sampler.counters().find(|(name, _)| *name == "labelled").unwrap().1;
        let curiosity = CURIOSITY * (labelled as f64 / self.prompts as f64).min(1.0);
        let deviations = |labelled: bool| if labelled { OPTIMISM } else { curiosity };
        forecasts
            .iter()
            .map(|each| each.p_informative + deviations(each.labelled) * each.deviation)
            .collect()
    }

    /// Draws `n` prompts, and observes most that are in flight. Returns the candidates.
    fn step(&mut self, n: usize) -> Vec<u32> {
        let lots = Stream::new(self.lots.bits(self.version.into()));
        let proposed = self.sampler.propose(n, self.version).unwrap();
        let candidates: Vec<i64> = proposed.iter().copied().map(i64::from).collect();
        let prediction = |prompt: u64| {
            if lots.unit(3 * prompt) < 0.3 { f32::NAN } else { lots.unit(3 * prompt + 1) as f32 }
        };
        let predictions: Vec<f32> =
            proposed.iter().map(|&prompt| prediction(prompt.into())).collect();
        self.sampler.offer(&candidates, &predictions, self.version).unwrap();
        self.in_flight
            .extend(self.sampler.take(n, self.version).iter().map(|draw| draw.draw_id as i64));
        let (told, kept): (Vec<i64>, Vec<i64>) =
            self.in_flight.iter().partition(|&&id| lots.unit(id as u64) < 0.8);
        self.in_flight = kept;
        let rewards: Vec<f32> = (0..4 * told.len() as u64)
            .map(|rollout| lots.unit(rollout << 20).round() as f32)
            .collect();
        let seen = self
            .sampler
            .observe(&told, &rewards, [told.len(), 4], &vec![0.5; told.len()], self.version)
            .unwrap();
        seen.iter()
            .filter_map(|each| each.draw)
            .for_each(|draw| self.labelled_at[draw.prompt as usize] = Some(self.version));
        self.version += 1 + lots.below(7, 30) as u32;
        proposed
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn nominated_are_the_best_of_all_that_are_free(
        prompts in 1..700_usize,
        seed: u64,
        steps in 1..30,
        fit_belief: bool,
        min_age in 0..40_u32,
    ) {
        let mut run =
            Run::new(prompts, seed, Settings { seed, fit_belief, min_age, ..pool_settings() });
        for _ in 0..steps {
            let n = 1 + prompts / 32 + (seed % 5) as usize;
            let scores = run.scores();
            let busy: BTreeSet<u32> = run.sampler.in_flight().map(|draw| draw.prompt).collect();
            let (labelled_at, version) = (run.labelled_at.clone(), run.version);
            let candidates = run.step(n);
            prop_assert_eq!(candidates.len(), (CANDIDATES_PER_DRAW * n).min(prompts - busy.len()));
            prop_assert!(candidates.iter().all(|prompt| !busy.contains(prompt)), "in flight");
            let is_free = |prompt: u32| {
                !busy.contains(&prompt)
                    && labelled_at[prompt as usize].is_none_or(|label| version - label >= min_age)
            };
            let free: Vec<u32> = (0..prompts as u32).filter(|&prompt| is_free(prompt)).collect();
            // The rest comes in epoch order, however few are left.
            let count = candidates.len() - candidates.len() / CANDIDATES_PER_DRAW;
            let nominated = &candidates[..count.min(free.len())];
            prop_assert!(nominated.iter().all(|&prompt| is_free(prompt)), "labelled just now");
            let score = |&prompt: &u32| scores[prompt as usize];
            let worst = nominated.iter().map(score).fold(f64::INFINITY, f64::min);
            let best = free
                .iter()
                .filter(|prompt| !nominated.contains(prompt))
                .map(score)
                .fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(worst >= best - TOLERANCE, "{} < {}", worst, best);
        }
    }

    #[test]
    fn a_split_run_equals_a_run_in_one_piece(
        prompts in 1..300_usize, settings in settings(),
        rule in prop::sample::select(vec![RuleKind::Budget, RuleKind::Mopps, RuleKind::PrimePools]),
        ops in ops(),
        n in 1..40_usize,
    ) {
        let settings = searching(Settings {
            rule,
            belief: BeliefKind::LogitNormal,
            use_history: true,
            ..settings
        });
        prop_assert!(settings.candidates_from == CandidatesFrom::Pool);
        let mut whole = Caller::new(prompts, settings.clone());
        let mut split = Caller::new(prompts, settings);
        // What is known before makes the index one of many boxes.
        let known = (0..6)
            .flat_map(|_| [Op::Batch(n), Op::Step(2)])
            .chain((0..n).map(|place| Op::Observe(place, place as u64)));
        whole.apply_all(&known.collect::<Vec<Op>>());
        split.sampler.load_state(whole.sampler.state(), true).unwrap();
        (split.version, split.issued) = (whole.version, whole.issued.clone());
        whole.log.clear();
        split_equals_whole(&mut whole, &mut split, &ops)?;
    }
}

#[test]
fn settings_that_cannot_be_searched_are_refused_by_name() {
    let others = [
        Settings { rule: RuleKind::Thompson, ..pool_settings() },
        Settings { belief: BeliefKind::Beta, ..pool_settings() },
        Settings { use_history: false, ..pool_settings() },
        Settings { candidates_per_draw: 1, ..pool_settings() },
    ];
    for (settings, named) in others.into_iter().zip([
        "rule thompson",
        "belief beta",
        "use_history off",
        "candidates_per_draw 1",
    ]) {
        let Err(Error::Argument { argument, got, .. }) = settings.validate() else {
            panic!("{named} is accepted")
        };
        assert_eq!((argument, got), ("candidates_from", format!("pool with {named}")));
        assert_eq!(
            Settings { candidates_from: CandidatesFrom::Epoch, ..settings }.validate(),
            Ok(())
        );
    }
    assert_eq!(
        "epcoh".parse::<CandidatesFrom>().unwrap_err().to_string(),
        "candidates_from: got \"epcoh\", expected one of epoch, pool"
    );
}

/// How many hopeless and how many other prompts are drawn, half of each, after a hundred versions:
/// even prompts are hopeless, odd ones right half of the time.
fn drawn_hopeless_and_normal(rule: RuleKind) -> (f64, f64) {
    let (prompts, n) = (1000_u64, 100);
    let settings = Settings { rule, explore_share: 0.0, ..pool_settings() };
    let mut sampler =
        Sampler::new((0..prompts).collect(), vec![0; prompts as usize], settings).unwrap();
    let (mut hopeless, mut normal) = (0.0, 0.0);
    for version in 0..200 {
        let draws = draw_all(&mut sampler, n, version);
        assert_eq!(draws.len(), n);
        observe_all(&mut sampler, &draws, version, |prompt, rollout| {
            if prompt.is_multiple_of(2) { 0.0 } else { (rollout % 2) as f32 }
        });
        if version >= 100 {
            hopeless += draws.iter().filter(|draw| draw.prompt % 2 == 0).count() as f64;
            normal += draws.iter().filter(|draw| draw.prompt % 2 == 1).count() as f64;
        }
    }
    (hopeless, normal)
}

/// With one candidate per place drawn from the whole pool, drawn prompts are a sample by weight:
/// those of weight .2 come five times less often.
#[test]
fn pools_of_prime_rl_are_drawn_from_by_weight() {
    let (hard, normal) = drawn_hopeless_and_normal(RuleKind::PrimePools);
    // Without replacement the odds are a little above .2; 10,000 draws leave a standard error of
    // .005.
    assert!((hard / normal - 0.2_f64).abs() < 0.03, "{hard} {normal}");
}

/// The posterior Beta(1, 1 + 8) of a hopeless prompt has a density of .04 at the target, Beta(1 +
/// 4, 1 + 4), of the others, one of 2.5.
#[test]
fn prompts_whose_pass_rate_is_the_target_are_drawn_by_posterior() {
    let (hopeless, normal) = drawn_hopeless_and_normal(RuleKind::Mopps);
    assert!(hopeless / normal < 0.1, "{hopeless} {normal}");
    assert!(hopeless > 0.0, "they are not excluded");
}

/// Neighbouring numbers of single precision are far apart there.
#[test]
fn versions_may_be_any_number() {
    for first in [1 << 20, 1_700_000_000, u32::MAX - 4] {
        let mut sampler = Sampler::new(
            (0..400).collect(),
            vec![0; 400],
            Settings { min_age: 0, ..pool_settings() },
        )
        .unwrap();
        for version in first..=first + 4 {
            let draws = draw_all(&mut sampler, 100, version);
            assert_eq!(draws.len(), 100);
            observe_all(&mut sampler, &draws, version, |_, _| 0.0);
        }
    }
}

#[test]
fn no_batch_is_too_large() {
    for rule in [RuleKind::Budget, RuleKind::Mopps, RuleKind::PrimePools] {
        let mut sampler =
            Sampler::new((0..100).collect(), vec![0; 100], Settings { rule, ..pool_settings() })
                .unwrap();
        assert_eq!(sampler.propose(1 << 60, 0).unwrap().len(), 100, "{rule:?}");
    }
}

/// Without decay the counts of a prompt exceed what a tree of posteriors holds; their ratio stays.
#[test]
fn posteriors_of_mopps_keep_their_means_for_ever() {
    let rule_options = [("decay".to_owned(), 1.0), ("target".to_owned(), 0.5)].into();
    let settings = Settings {
        group_size: 1000,
        rule: RuleKind::Mopps,
        rule_options,
        explore_share: 0.0,
        ..pool_settings()
    };
    let mut sampler = Sampler::new((0..40).collect(), vec![0; 40], settings).unwrap();
    for version in 0..60 {
        let draws = draw_all(&mut sampler, 40, version);
        observe_all(&mut sampler, &draws, version, |prompt, rollout| {
            f32::from(rollout < if prompt < 20 { 950 } else { 450 })
        });
    }
    let nearest = sampler.propose(10, 60).unwrap();
    assert!(nearest.iter().all(|&prompt| prompt >= 20), "{nearest:?}");
}

fn draw_all(sampler: &mut Sampler, n: usize, version: u32) -> Vec<Draw> {
    loop {
        let candidates: Vec<i64> =
            sampler.propose(n, version).unwrap().into_iter().map(i64::from).collect();
        if candidates.is_empty() {
            return sampler.take(n, version);
        }
        sampler.offer(&candidates, &vec![f32::NAN; candidates.len()], version).unwrap();
    }
}

/// Observes draws whose rewards are a function of prompt and rollout.
fn observe_all(
    sampler: &mut Sampler,
    draws: &[Draw],
    version: u32,
    reward: impl Fn(u32, u32) -> f32,
) {
    let ids: Vec<i64> = draws.iter().map(|draw| draw.draw_id as i64).collect();
    let group_size = sampler.group_size();
    let reward = &reward;
    let rewards: Vec<f32> = draws
        .iter()
        .flat_map(|draw| (0..group_size as u32).map(move |rollout| reward(draw.prompt, rollout)))
        .collect();
    sampler
        .observe(&ids, &rewards, [ids.len(), group_size], &vec![0.5; ids.len()], version)
        .unwrap();
}
