//! Exploration by clusters: the bandit against a slow reference that keeps every pull, and whether
//! recorded probabilities are true.

#![allow(clippy::unwrap_used, reason = "an unwrap that fails, fails the test")]

use std::collections::BTreeMap;

use depo_sampler::rng::Stream;
use depo_sampler::rules::exploration::{Arms, Bounds, ExploreBy, PASS_RATE_BINS, cluster};
use depo_sampler::rules::{RuleKind, Standing};
use depo_sampler::sampler::allotment::{Candidate, Places, allot};
use depo_sampler::sampler::draws::{Draw, DrawKind};
use depo_sampler::state::StateValue;
use depo_sampler::{Sampler, Settings};
use proptest::prelude::*;

fn window_length(sources: usize) -> usize {
    100.max(4 * 5 * sources)
}

/// Every pull, in order.
#[derive(Clone, Default)]
struct History(Vec<(u32, bool)>);

impl History {
    fn bound(&self, cluster: u32, weights: &[f64]) -> f64 {
        let weighted = self.0.iter().zip(weights).filter(|&(_, &weight)| weight > 0.0);
        let (mut rewards, mut pulls, mut all) = (0.0, 0.0, 0.0);
        for (&(pulled, informative), &weight) in weighted {
            all += weight;
            pulls += if pulled == cluster { weight } else { 0.0 };
            rewards += if pulled == cluster && informative { weight } else { 0.0 };
        }
        if pulls == 0.0 { f64::INFINITY } else { rewards / pulls + (all.ln() / pulls).sqrt() }
    }

    fn bounds(&self, cluster: u32, sources: usize) -> Bounds {
        let ages: Vec<usize> = (0..self.0.len()).rev().collect();
        let faded: Vec<f64> = ages.iter().map(|&age| 0.99_f64.powi(age as i32)).collect();
        let recent: Vec<f64> =
            ages.iter().map(|&age| if age < window_length(sources) { 1.0 } else { 0.0 }).collect();
        Bounds { discounted: self.bound(cluster, &faded), window: self.bound(cluster, &recent) }
    }

    fn share_out(
        &self,
        candidates: &BTreeMap<u32, usize>,
        places: usize,
        sources: usize,
    ) -> BTreeMap<u32, usize> {
        let (mut left, mut given, mut history) =
            (candidates.clone(), BTreeMap::new(), self.clone());
        for _ in 0..places {
            left.retain(|_, count| *count > 0);
            let value = |cluster: u32| {
                let Bounds { discounted, window } = history.bounds(cluster, sources);
                [f64::midpoint(discounted, window), discounted]
            };
            let Some(best) =
                left.keys().copied().reduce(|a, b| if value(b) > value(a) { b } else { a })
            else {
                break;
            };
            *left.get_mut(&best).unwrap() -= 1;
            *given.entry(best).or_insert(0) += 1;
            history.0.push((best, false));
        }
        given
    }
}

fn arms_after(pulls: &[(u32, bool)], sources: usize) -> Arms {
    let mut arms = Arms::new(sources);
    for &(cluster, informative) in pulls {
        arms.pull(cluster, informative);
    }
    arms
}

fn is_near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 || (a.is_infinite() && b.is_infinite())
}

/// Pulls of six clusters, then of two alone, so that the others may fall out of the window.
fn pulls() -> impl Strategy<Value = Vec<(u32, bool)>> {
    let phase = |clusters: u32| prop::collection::vec((0..clusters, any::<bool>()), 0..140);
    (phase(6), phase(2)).prop_map(|(first, second)| [first, second].concat())
}

fn candidates() -> impl Strategy<Value = Vec<(Standing, f32, f32)>> {
    // With or without ties.
    let score = prop_oneof![Just(0.0), 0.0..1.0_f32];
    prop::collection::vec((prop::sample::select(&Standing::ALL[1..]), score, 0.0..1.0_f32), 0..9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn bounds_are_those_of_the_whole_history(pulls in pulls(), sources in 1..8_usize) {
        let arms = arms_after(&pulls, sources);
        for cluster in 0..7 {
            let (got, expected) =
                (arms.bounds(cluster), History(pulls.clone()).bounds(cluster, sources));
            prop_assert!(
                is_near(got.discounted, expected.discounted)
                    && is_near(got.window, expected.window),
                "{:?} {:?}",
                got,
                expected
            );
            prop_assert!(is_near(
                got.combined(),
                f64::midpoint(expected.discounted, expected.window)
            ));
        }
    }

    #[test]
    fn places_go_one_by_one_to_the_greatest_bound(
        pulls in pulls(),
        sizes in prop::collection::btree_map(0..7_u32, 1..4_usize, 0..6),
        places in 0..12_usize,
    ) {
        let given = arms_after(&pulls, 2).share_out(&sizes, places);
        prop_assert_eq!(&given, &History(pulls).share_out(&sizes, places, 2));
        prop_assert_eq!(given.values().sum::<usize>(), places.min(sizes.values().sum()));
    }

    #[test]
    fn no_cluster_waits_longer_than_the_window_and_a_round(
        sources in 1..8_usize, rates in prop::collection::vec(0.0..1.0_f64, 40), seed: u64,
    ) {
        let clusters = PASS_RATE_BINS as usize * sources;
        let longest = window_length(sources) + clusters;
        let (mut arms, mut waited, lots) =
            (Arms::new(sources), vec![0; clusters], Stream::new(seed));
        let everyone: BTreeMap<u32, usize> =
            (0..clusters as u32).map(|cluster| (cluster, 1)).collect();
        for place in 0..3 * longest {
            let best = *arms.share_out(&everyone, 1).keys().next().unwrap();
            arms.pull(best, lots.unit(place as u64) < rates[best as usize]);
            for places in &mut waited {
                *places += 1;
            }
            waited[best as usize] = 0;
            prop_assert!(waited.iter().all(|&places| places <= longest), "{:?}", waited);
        }
    }

    #[test]
    fn recorded_admission_is_the_frequency_given_the_arms_and_who_arrived_in_time(
        rows in candidates(),
        n in 1..6_usize,
        explore_share in 0.0..=0.8_f64,
        pulls in pulls(),
        surplus_waits: bool,
        floor in prop_oneof![Just(0.0), 0.1..0.5_f32],
    ) {
        let arms = arms_after(&pulls, 2);
        let sources: Vec<u32> = (0..rows.len() as u32).map(|prompt| prompt % 2).collect();
        let places = Places {
            n,
            surplus_waits,
            explore_share,
            arms: Some(&arms),
            source_floors: &[floor, 0.0],
            sources: &sources,
        };
        for (count, placed) in outcomes(&rows, &places)?.into_values() {
            for (places, admission) in
                placed.into_iter().filter(|(_, admission)| !admission.is_nan())
            {
                let frequency = places as f64 / count as f64;
                let error = (admission * (1.0 - admission) / count as f64).sqrt();
                let near = (frequency - admission).abs() <= 6.0 * error + 2.0 / count as f64;
                prop_assert!(near, "{} {} of {}", frequency, admission, count);
            }
        }
    }
}

/// Of so many batches: how often each prompt got a place, now or later, and what was recorded (NaN:
/// never a place).
type Outcome = (u64, Vec<(u64, f64)>);

/// Gives out one batch for each of many seeds. Outcomes by what is given: the clusters in their
/// order of claim, which depends on arrival.
fn outcomes(
    rows: &[(Standing, f32, f32)],
    places: &Places,
) -> Result<BTreeMap<Vec<u32>, Outcome>, TestCaseError> {
    let prompt = |(prompt, &(standing, score, pass_rate))| Candidate {
        prompt,
        predicted_reward: f32::NAN,
        p_informative: score,
        pass_rate,
        standing,
        score,
        due: false,
    };
    let prompts: Vec<Candidate> = (0..).zip(rows).map(prompt).collect();
    let cluster_of = |candidate: &Candidate| {
        cluster(places.sources[candidate.prompt as usize], candidate.pass_rate)
    };
    let mut outcomes: BTreeMap<Vec<u32>, Outcome> = BTreeMap::new();
    for seed in 0..3000 {
        let stream = |purpose| Stream::of(seed, purpose, &[]);
        let mut arrived = prompts.clone();
        if !places.surplus_waits {
            arrived = stream("arrival")
                .sample(prompts.len(), prompts.len())
                .into_iter()
                .map(|index| prompts[index])
                .collect();
        }
        let mut ranked = arrived.clone();
        ranked.sort_by(|a, b| a.standing.cmp(&b.standing).then(b.score.total_cmp(&a.score)));
        let given: Vec<u32> = ranked.iter().map(cluster_of).collect();
        let (count, of_prompt) =
            outcomes.entry(given).or_insert_with(|| (0, vec![(0, f64::NAN); prompts.len()]));
        *count += 1;
        let allotment = allot(&arrived, places, stream("rounding"), stream("exploration"));
        prop_assert_eq!(allotment.picks.len(), places.n.min(prompts.len()));
        for pick in allotment.picks {
            let (times, admission) = &mut of_prompt[arrived[pick.candidate].prompt as usize];
            let same = admission.is_nan() || (*admission - pick.admission).abs() < 1e-12;
            prop_assert!(pick.admission > 0.0 && same, "depends on the draw");
            (*times, *admission) = (*times + 1, pick.admission);
        }
        let waiting = if places.surplus_waits { allotment.surplus } else { vec![] };
        for index in waiting {
            of_prompt[arrived[index].prompt as usize].0 += 1;
        }
    }
    Ok(outcomes)
}

#[test]
fn bins_are_of_equal_width_within_each_source() {
    let rates = [0.0, 0.19, 0.2, 0.5, 0.79, 0.81, 1.0];
    assert_eq!(rates.map(|rate| cluster(0, rate)), [0, 0, 1, 2, 3, 4, 4]);
    assert_eq!(rates.map(|rate| cluster(3, rate)), [15, 15, 16, 17, 18, 19, 19]);
}

#[test]
fn places_follow_the_cluster_that_pays_also_when_it_changes() {
    let everyone: BTreeMap<u32, usize> = (0..5).map(|cluster| (cluster, 1)).collect();
    let mut arms = Arms::new(1);
    for paying in [3, 1, 4] {
        let mut pulls = vec![];
        for _ in 0..300 {
            pulls.push(*arms.share_out(&everyone, 1).keys().next().unwrap());
            arms.pull(pulls[pulls.len() - 1], pulls[pulls.len() - 1] == paying);
        }
        // Once known; the rest is the price of looking.
        let share = pulls[150..].iter().filter(|&&pulled| pulled == paying).count() as f64 / 150.0;
        assert!(share > 0.6, "{share}");
    }
}

/// A sampler that explores half of each batch in clusters, and what its arms should know.
struct Run {
    sampler: Sampler,
    pulled: History,
}

impl Run {
    fn new() -> Self {
        let settings = Settings {
            rule: RuleKind::Window,
            group_size: 2,
            warmup_steps: 0,
            explore_share: 0.5,
            explore_by: ExploreBy::Ucb,
            source_floors: vec![0.0, 0.0],
            window: (0.4, 0.6),
            ..Settings::default()
        };
        let sampler =
            Sampler::new((0..600).collect(), (0..600).map(|prompt| prompt % 2).collect(), settings)
                .unwrap();
        Self { sampler, pulled: History::default() }
    }

    /// Offers candidates until there are no more; the clusters of those outside of the window, by
    /// prompt.
    fn rejected(&mut self, version: u32) -> BTreeMap<u32, u32> {
        let mut rejected = BTreeMap::new();
        loop {
            let proposed: Vec<i64> =
                self.sampler.propose(8, version).unwrap().into_iter().map(i64::from).collect();
            if proposed.is_empty() {
                return rejected;
            }
            let predictions: Vec<f32> =
                proposed.iter().map(|&prompt| (prompt * 37 % 100) as f32 / 100.0).collect();
            self.sampler.offer(&proposed, &predictions, version).unwrap();
            let forecasts = self.sampler.beliefs(&proposed, &predictions, version).unwrap();
            let judged = proposed.into_iter().zip(predictions).zip(forecasts);
            let outside = judged.filter(|((_, prediction), _)| !(0.4..=0.6).contains(prediction));
            rejected.extend(outside.map(|((prompt, _), forecast)| {
                (prompt as u32, cluster(prompt as u32 % 2, forecast.pass_rate as f32))
            }));
        }
    }

    fn open_draws(&self) -> Vec<Draw> {
        self.sampler.in_flight().copied().collect()
    }

    /// Labels draws, some of them up to three versions late: the prompts of one source are
    /// informative.
    fn label(&mut self, version: u32) {
        for draw in self.open_draws() {
            if (draw.prompt + draw.policy_version) % 4 > version - draw.policy_version {
                continue;
            }
            let informative = draw.prompt % 2 == 1;
            let rewards = [1.0, if informative { 0.0 } else { 1.0 }];
            self.sampler
                .observe(&[draw.draw_id as i64], &rewards, [1, 2], &[0.5], version)
                .unwrap();
            if draw.kind == DrawKind::Explore {
                self.pulled.0.push((cluster(draw.prompt % 2, draw.pass_rate), informative));
            }
        }
    }

    fn saved_window(&self) -> Vec<(u32, bool)> {
        let state = self.sampler.state();
        let entries =
            (&state["exploration.window_clusters"], &state["exploration.window_informative"]);
        let (StateValue::U32(clusters), StateValue::U8(informative)) = entries else {
            panic!("other types")
        };
        clusters.iter().copied().zip(informative.iter().map(|&code| code == 1)).collect()
    }
}

fn sizes(clusters: impl IntoIterator<Item = u32>) -> BTreeMap<u32, usize> {
    let mut sizes = BTreeMap::new();
    for cluster in clusters {
        *sizes.entry(cluster).or_insert(0) += 1;
    }
    sizes
}

#[test]
fn a_sampler_explores_where_the_labels_of_explored_groups_and_its_open_draws_say() {
    let mut run = Run::new();
    let mut explored = 0;
    for version in 0..60 {
        let mut rejected = run.rejected(version);
        let mut known = run.pulled.clone();
        let open = run.open_draws().into_iter().filter(|draw| draw.kind == DrawKind::Explore);
        known.0.extend(open.map(|draw| (cluster(draw.prompt % 2, draw.pass_rate), false)));
        let draws = run.sampler.take(8, version);
        let of_kind = |kind: DrawKind| {
            draws.iter().filter(move |draw| draw.kind == kind).map(|draw| draw.prompt)
        };
        let chosen: Vec<u32> = of_kind(DrawKind::Explore).map(|prompt| rejected[&prompt]).collect();
        for prompt in of_kind(DrawKind::Fill) {
            rejected.remove(&prompt);
        }
        explored += chosen.len();
        assert_eq!(
            sizes(chosen.clone()),
            known.share_out(&sizes(rejected.into_values()), chosen.len(), 2)
        );
        run.label(version);
        assert_eq!(
            run.saved_window(),
            run.pulled.0[run.pulled.0.len().saturating_sub(window_length(2))..]
        );
    }
    let clusters = sizes(run.pulled.0.iter().map(|pull| pull.0));
    let paying = run.pulled.0.iter().filter(|pull| pull.1).count();
    assert!(
        explored == 240 && clusters.len() > 4 && 2 * paying > run.pulled.0.len(),
        "{explored} {clusters:?} {paying}"
    );
}

#[test]
fn ways_to_explore_go_by_their_names() {
    assert_eq!(["uniform".parse(), "ucb".parse()], [Ok(ExploreBy::Uniform), Ok(ExploreBy::Ucb)]);
    let error = "best".parse::<ExploreBy>().unwrap_err().to_string();
    assert_eq!(error, "explore_by: got \"best\", expected one of uniform, ucb");
}
