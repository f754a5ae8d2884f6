//! Which candidates get a place, and whether the recorded probabilities are the true ones.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails, fails the test")]

use depo_sampler::rng::Stream;
use depo_sampler::rules::{RuleKind, Standing};
use depo_sampler::sampler::allotment::{Allotment, Candidate, Places, allot};
use depo_sampler::sampler::draws::{Draw, DrawKind};
use depo_sampler::{Sampler, Settings};
use proptest::prelude::*;

fn candidates(standings: &[Standing], scores: &[f32]) -> Vec<Candidate> {
    let candidate = |(index, (&standing, &score)): (usize, (&Standing, &f32))| Candidate {
        prompt: index as u32,
        predicted_reward: f32::NAN,
        p_informative: score,
        pass_rate: 0.5,
        standing,
        score,
        due: false,
    };
    standings.iter().zip(scores).enumerate().map(candidate).collect()
}

fn give_out(
    candidates: &[Candidate],
    n: usize,
    explore_share: f64,
    floors: &[f32],
    seed: u64,
) -> Allotment {
    let sources: Vec<u32> =
        (0..candidates.len() as u32).map(|prompt| prompt % floors.len() as u32).collect();
    let places = Places {
        n,
        surplus_waits: true,
        explore_share,
        arms: None,
        source_floors: floors,
        sources: &sources,
    };
    allot(
        candidates,
        &places,
        Stream::of(seed, "rounding", &[]),
        Stream::of(seed, "exploration", &[]),
    )
}

fn standings() -> impl Strategy<Value = Vec<(Standing, f32)>> {
    let window = prop_oneof![Just(Standing::Admitted), Just(Standing::Rejected)];
    let budget = Just(Standing::Competing);
    prop_oneof![
        prop::collection::vec((window, 0.0..1.0_f32), 0..14),
        prop::collection::vec((budget, 0.0..1.0_f32), 0..14),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn recorded_admission_is_the_frequency_of_being_drawn(
        rows in standings(), n in 1..8_usize, explore_share in 0.0..=0.5_f64, floor in 0.0..0.5_f32,
    ) {
        const SEEDS: u64 = 3000;
        let (standings, scores): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let candidates = candidates(&standings, &scores);
        let mut drawn = vec![0_u32; candidates.len()];
        let mut waiting = vec![0_u32; candidates.len()];
        let mut admissions = vec![f64::NAN; candidates.len()];
        for seed in 0..SEEDS {
            let allotment = give_out(&candidates, n, explore_share, &[floor, 0.0], seed);
            prop_assert_eq!(allotment.picks.len(), n.min(candidates.len()));
            for pick in allotment.picks {
                let admission = &mut admissions[pick.candidate];
                prop_assert!(
                    admission.is_nan() || (*admission - pick.admission).abs() < 1e-12,
                    "depends on the draw"
                );
                *admission = pick.admission;
                drawn[pick.candidate] += 1;
            }
            allotment.surplus.iter().for_each(|&index| waiting[index] += 1);
        }
        for (index, &admission) in
            admissions.iter().enumerate().filter(|(_, admission)| !admission.is_nan())
        {
            // An admitted candidate without a place keeps its admission and waits for the next
            // batch.
            let frequency = f64::from(drawn[index] + waiting[index]) / SEEDS as f64;
            let error = (admission * (1.0 - admission) / SEEDS as f64).sqrt();
            prop_assert!(
                (frequency - admission).abs() <= 6.0 * error + 1.0 / SEEDS as f64,
                "{} {}",
                frequency,
                admission
            );
        }
    }

    #[test]
    fn where_nobody_waits_recorded_admission_is_the_frequency_over_random_arrivals(
        rows in standings(),
        n in 1..8_usize,
        explore_share in 0.0..=0.5_f64,
        floor in prop_oneof![Just(0.0), 0.1..0.5_f32],
    ) {
        const SEEDS: u64 = 2000;
        // Ties, or a floor; the two together are only nearly exact.
        let score = |score: f32| if floor > 0.0 { score } else { (3.0 * score).floor() };
        let (standings, scores): (Vec<_>, Vec<_>) =
            rows.into_iter().map(|(standing, merit)| (standing, score(merit))).unzip();
        let candidates = candidates(&standings, &scores);
        let sources: Vec<u32> = (0..candidates.len() as u32).map(|prompt| prompt % 2).collect();
        let places = Places {
            n,
            surplus_waits: false,
            explore_share,
            arms: None,
            source_floors: &[floor, 0.0],
            sources: &sources,
        };
        let mut drawn = vec![0_u32; candidates.len()];
        let mut admissions = vec![f64::NAN; candidates.len()];
        for seed in 0..SEEDS {
            let stream = |purpose| Stream::of(seed, purpose, &[]);
            let arrived: Vec<Candidate> =
                stream("arrival")
                    .sample(candidates.len(), candidates.len())
                    .into_iter()
                    .map(|index| candidates[index])
                    .collect();
            for pick in allot(&arrived, &places, stream("rounding"), stream("exploration")).picks {
                let prompt = arrived[pick.candidate].prompt as usize;
                prop_assert!(
                    admissions[prompt].is_nan()
                        || (admissions[prompt] - pick.admission).abs() < 1e-12,
                    "depends on the arrival"
                );
                admissions[prompt] = pick.admission;
                drawn[prompt] += 1;
            }
        }
        for (&count, &admission) in
            drawn.iter().zip(&admissions).filter(|(_, admission)| !admission.is_nan())
        {
            let frequency = f64::from(count) / SEEDS as f64;
            let error = (admission * (1.0 - admission) / SEEDS as f64).sqrt();
            prop_assert!(
                (frequency - admission).abs() <= 6.0 * error + 1.0 / SEEDS as f64,
                "{} {}",
                frequency,
                admission
            );
        }
    }

    #[test]
    fn merit_goes_to_the_best_and_floors_come_first(
        scores in prop::collection::vec(0.0..1.0_f32, 1..40),
        n in 1..12_usize,
        floor in 0.0..=1.0_f32,
    ) {
        let candidates = candidates(&vec![Standing::Competing; scores.len()], &scores);
        let picks: Vec<usize> =
            give_out(&candidates, n, 0.0, &[floor, 0.0], 1)
                .picks
                .iter()
                .map(|pick| pick.candidate)
                .collect();
        let mut by_score: Vec<usize> = (0..scores.len()).collect();
        by_score.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let quota = (f64::from(floor) * n as f64 - 1e-6).ceil() as usize;
        let floored: Vec<usize> =
            by_score.iter().copied().filter(|index| index % 2 == 0).take(quota).collect();
        let others = by_score.into_iter().filter(|index| !floored.contains(index));
        let expected: Vec<usize> = floored.iter().copied().chain(others).take(n).collect();
        prop_assert_eq!(picks, expected);
    }
}

fn sampler(prompts: usize, settings: Settings) -> Sampler {
    Sampler::new((0..prompts as u64).collect(), vec![0; prompts], settings).unwrap()
}

/// One batch with a prediction per prompt; returns the draws and every candidate looked at.
fn batch(
    sampler: &mut Sampler,
    n: usize,
    version: u32,
    predict: impl Fn(u32) -> f32,
) -> (Vec<Draw>, Vec<u32>) {
    let mut looked_at = vec![];
    loop {
        let proposed = sampler.propose(n, version).unwrap();
        if proposed.is_empty() {
            return (sampler.take(n, version), looked_at);
        }
        let predictions: Vec<f32> = proposed.iter().map(|&prompt| predict(prompt)).collect();
        let candidates: Vec<i64> = proposed.iter().map(|&prompt| prompt.into()).collect();
        sampler.offer(&candidates, &predictions, version).unwrap();
        looked_at.extend(proposed);
    }
}

fn label(sampler: &mut Sampler, draws: &[Draw], version: u32) {
    let ids: Vec<i64> = draws.iter().map(|draw| draw.draw_id as i64).collect();
    let group_size = sampler.group_size();
    let reward = |rollout: usize| if rollout == 0 { 1.0 } else { 0.0 };
    let rewards: Vec<f32> = ids.iter().flat_map(|_| (0..group_size).map(reward)).collect();
    sampler
        .observe(&ids, &rewards, [ids.len(), group_size], &vec![0.5; ids.len()], version)
        .unwrap();
}

fn window_settings() -> Settings {
    Settings {
        rule: RuleKind::Window,
        group_size: 2,
        warmup_steps: 0,
        explore_share: 0.0,
        scan_cap: 6,
        ..Settings::default()
    }
}

/// A prediction inside of the window for one prompt in ten.
fn one_in_ten(prompt: u32) -> f32 {
    if prompt.is_multiple_of(10) { 0.5 } else { 0.9 + (prompt % 10) as f32 / 100.0 }
}

#[test]
fn a_starved_window_fills_up_with_the_nearest() {
    let mut sampler = sampler(1000, window_settings());
    let (draws, looked_at) = batch(&mut sampler, 10, 0, one_in_ten);
    assert_eq!(looked_at.len(), 60, "the scan cap");
    let inside = looked_at.iter().filter(|&prompt| prompt % 10 == 0).count();
    let filled: Vec<&Draw> = draws.iter().filter(|draw| draw.kind == DrawKind::Fill).collect();
    assert_eq!((draws.len(), filled.len()), (10, 10 - inside.min(10)));
    let farthest_taken = filled.iter().map(|draw| draw.prompt % 10).max().unwrap();
    let taken: Vec<u32> = draws.iter().map(|draw| draw.prompt).collect();
    let rejected = looked_at.iter().filter(|prompt| !taken.contains(prompt));
    assert!(
        rejected.clone().count() > 0
            && rejected.clone().all(|prompt| prompt % 10 >= farthest_taken)
    );
}

#[test]
fn surplus_waits_and_is_judged_again_by_newer_predictions() {
    let mut sampler = sampler(1000, window_settings());
    let (first, looked_at) = batch(&mut sampler, 10, 0, |_| 0.5);
    assert_eq!((first.len(), looked_at.len()), (10, 20));
    let surplus: Vec<u32> = looked_at[10..].to_vec();
    // Half of the surplus falls out of the window in the meantime.
    let rejects = |prompt: u32| surplus[..5].contains(&prompt);
    let (second, again) =
        batch(&mut sampler, 10, 1, |prompt| if rejects(prompt) { 0.99 } else { 0.5 });
    assert_eq!(again[..10], surplus[..]);
    assert!(second.iter().all(|draw| !rejects(draw.prompt)));
    assert_eq!(second.iter().map(|draw| draw.prompt).collect::<Vec<_>>()[..5], surplus[5..]);
    let scanned = sampler.counters().find(|(name, _)| *name == "scanned").unwrap().1;
    assert_eq!(
        scanned as usize,
        looked_at.len() + again.len() - 10,
        "waiting candidates count once"
    );
}

/// Labels per version of a pool that is drawn from under an age limit, by prompt; and what all of
/// it cost, in rollouts.
fn follow_ages(prompts: usize, settings: &Settings, versions: u32) -> (Vec<Vec<u32>>, u64) {
    let mut sampler = sampler(prompts, settings.clone());
    let (mut labelled, mut cost) = (vec![vec![]; prompts], 0);
    for version in 0..versions {
        let (draws, _) = batch(&mut sampler, 8, version, |prompt| prompt as f32 / prompts as f32);
        for draw in &draws {
            labelled[draw.prompt as usize].push(version);
            let is_probe = draw.kind == DrawKind::Reprobe;
            assert_eq!(
                draw.n_rollouts as usize,
                if is_probe { settings.probe_rollouts } else { settings.group_size }
            );
            cost += u64::from(draw.n_rollouts);
        }
        label(&mut sampler, &draws, version);
    }
    (labelled, cost)
}

#[test]
fn no_prompt_stays_unlabelled_longer_than_max_age_and_probes_are_paid_from_the_batch() {
    for (max_age, probe_rollouts) in [(4, 1), (6, 1), (6, 2)] {
        let budget = Settings {
            rule: RuleKind::Budget,
            candidates_per_draw: 2,
            reprobe_share: 1.0,
            group_size: 8,
            ..window_settings()
        };
        let settings = Settings { max_age, probe_rollouts, ..budget };
        let (labelled, cost) = follow_ages(30, &settings, 90);
        for versions in labelled {
            let starts =
                std::iter::once(-1).chain(versions.iter().map(|&version| i64::from(version)));
            let gaps = starts
                .zip(versions.iter().map(|&version| i64::from(version)).chain([90]))
                .map(|(start, end)| end - start);
            assert!(gaps.max().unwrap() <= i64::from(max_age), "{versions:?}");
        }
        assert!(
            cost.abs_diff(90 * 8 * settings.group_size as u64) < settings.group_size as u64,
            "never more than a place is owed: {cost}"
        );
    }
}

#[test]
fn probes_keep_to_their_share_of_a_batch_oldest_first() {
    let settings = Settings {
        rule: RuleKind::Budget,
        max_age: 1,
        candidates_per_draw: 6,
        group_size: 8,
        ..window_settings()
    };
    let mut sampler = sampler(400, settings.clone());
    let mut labelled_at = vec![-1; 400];
    for version in 0..20 {
        let (draws, _) = batch(&mut sampler, 8, version, |_| 0.5);
        let probed: Vec<u32> = draws
            .iter()
            .filter(|draw| draw.kind == DrawKind::Reprobe)
            .map(|draw| draw.prompt)
            .collect();
        assert!(
            !probed.is_empty() && probed.len() <= 2 * settings.group_size,
            "a quarter of the batch"
        );
        let youngest = probed.iter().map(|&prompt| labelled_at[prompt as usize]).max().unwrap();
        let labelled: Vec<usize> = draws.iter().map(|each| each.prompt as usize).collect();
        assert!(
            (0..400)
                .filter(|prompt| !labelled.contains(prompt))
                .all(|prompt| labelled_at[prompt] >= youngest)
        );
        label(&mut sampler, &draws, version);
        for prompt in labelled {
            labelled_at[prompt] = i64::from(version);
        }
    }
}

#[test]
fn warmup_admits_everyone_in_epoch_order() {
    for &rule in RuleKind::ALL {
        let mut sampler = sampler(
            100,
            Settings { rule, warmup_steps: 5, explore_share: 0.5, ..window_settings() },
        );
        let mut uniform =
            self::sampler(100, Settings { rule: RuleKind::Uniform, ..window_settings() });
        let (draws, looked_at) = batch(&mut sampler, 10, 4, |_| 0.99);
        let (expected, _) = batch(&mut uniform, 10, 4, |_| 0.99);
        assert_eq!(looked_at.len(), 10);
        assert!(draws.iter().zip(&expected).all(|(draw, uniform)| draw.prompt == uniform.prompt));
        assert!(draws.iter().all(|draw| draw.kind == DrawKind::Warmup && draw.admission >= 1.0));
    }
}

#[test]
fn wanted_follows_the_running_threshold() {
    let exploit = [("optimism".to_owned(), 0.0), ("curiosity".to_owned(), 0.0)].into();
    let settings = Settings {
        rule: RuleKind::Budget,
        rule_options: exploit,
        use_history: false,
        ..window_settings()
    };
    let mut sampler = sampler(100, Settings { fit_belief: false, ..settings });
    assert_eq!(sampler.wanted(&[0, 1], &[0.5, 0.001], 0), Ok(vec![true, true]));
    let mut threshold = None;
    for version in 0..20 {
        let (draws, _) = batch(&mut sampler, 10, version, |prompt| prompt as f32 / 100.0);
        let lowest = draws.iter().map(|draw| f64::from(draw.p_informative)).fold(1.0, f64::min);
        threshold = Some(threshold.map_or(lowest, |past: f64| 0.9 * past + 0.1 * lowest));
        label(&mut sampler, &draws, version);
    }
    let prompts: Vec<i64> = (0..100).collect();
    let predictions: Vec<f32> = (0..100).map(|prompt| prompt as f32 / 100.0).collect();
    let forecasts = sampler.beliefs(&prompts, &predictions, 20).unwrap();
    let expected: Vec<bool> = forecasts
        .iter()
        .map(|forecast| f64::from(forecast.p_informative as f32) >= threshold.unwrap())
        .collect();
    assert_eq!(sampler.wanted(&prompts, &predictions, 20), Ok(expected.clone()));
    assert!(expected.contains(&true) && expected.contains(&false));
}
