//! The logit-normal belief against slow references.

use super::super::search::TOLERANCE;
use super::super::surface::{Outlooks, Surface};
use super::*;
use crate::vectors::tests::plainly;
use proptest::prelude::*;

/// Prompt, successes, versions that the label is late, text prediction.
type Observed = (u32, u32, u32, f32);

const PROMPTS: u32 = 50;

/// Everything that is known and believed after some labels, to the bit.
fn after(observed: &[Observed], group_size: usize) -> String {
    let mut belief = LogitNormal::new(
        PROMPTS as usize,
        &BeliefSettings { group_size, ..BeliefSettings::default() },
    );
    let mut forecasts = vec![];
    for (&(prompt, successes, late, predicted_reward), newest) in observed.iter().zip(3..) {
        let version = newest - late;
        belief.set_prior(prompt, predicted_reward);
        let (rollouts, informative) = (group_size as u32, successes > 0);
        belief.observe(&Label {
            prompt,
            successes: successes % (rollouts + 1),
            rollouts,
            informative,
            version,
            weight: 1.0,
        });
        forecasts.push(belief.forecast(prompt, f32::NAN, version + 1));
    }
    let mut state = StateMap::new();
    belief.save(&mut state);
    format!("{state:?} {forecasts:?}")
}

fn observed() -> impl Strategy<Value = Observed> {
    (0..PROMPTS, any::<u32>(), 0..4_u32, prop_oneof![Just(f32::NAN), 0.0..=1.0_f32])
}

/// Mean, variance, version and text prediction; the variance is 0 without a label.
type Known = (f32, f32, u32, f32);

fn known() -> impl Strategy<Value = Known> {
    let variance = prop_oneof![Just(0.0), 1e-4..0.1_f32, 0.1..20.0_f32];
    let text = prop_oneof![Just(f32::NAN), 0.0..=1.0_f32];
    (prop_oneof![-1.0..1.0_f32, -18.0..18.0_f32], variance, 0..3000_u32, text)
}

/// A belief of which so much is known of each prompt; some of them three times.
fn knowing(known: &[Known], settings: &BeliefSettings) -> LogitNormal {
    let known: Vec<Known> = known.iter().copied().cycle().take(known.len() * 3 / 2).collect();
    let mut belief = LogitNormal::new(known.len(), settings);
    for (&(mean, variance, version, text), prompt) in known.iter().zip(0..) {
        let label =
            Label { prompt, successes: 0, rollouts: 1, informative: false, version, weight: 1.0 };
        if variance > 0.0 {
            belief.records.set_history(&label, [mean, variance].map(f64::from));
        }
        belief.set_prior(prompt, text);
    }
    belief
}

/// Settings with parameters that stay.
fn fixed(parameters: [f64; 5]) -> BeliefSettings {
    let names = ["drift", "noise", "spread", "text_precision", "text_precision_labelled"];
    let belief_options = names.into_iter().map(String::from).zip(parameters).collect();
    BeliefSettings { belief_options, fit_belief: false, ..BeliefSettings::default() }
}

/// Whether a search may return this prompt.
fn may_be_found(belief: &LogitNormal, query: &PoolQuery, prompt: u32) -> bool {
    let record = belief.records.of(prompt);
    let rested = query.version.saturating_sub(record.version) >= query.min_age;
    (query.is_free)(prompt) && (!record.is_labelled() || rested)
}

/// The score by which a scan would order prompts; a surface for new and one for labeled ones.
fn score(belief: &LogitNormal, surfaces: &[Surface; 2], prompt: u32, version: u32) -> f64 {
    let labelled = usize::from(belief.records.is_labelled(prompt));
    surfaces[labelled].at(belief.believed(prompt, f32::NAN, version))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_search_finds_what_a_scan_finds(
        known in prop::collection::vec(known(), 1..2000),
        count in 1..150_usize,
        version in 0..3500_u32,
        deviations in [0.0..2.0_f64, 0.0..2.0], min_age in prop_oneof![Just(0), 1..1000_u32],
        parameters in [
            (-0.05..0.05_f64), (1e-6..0.1_f64), (-0.02..0.02_f64), (0.0..3.0_f64),
            (0.0..3.0_f64)
        ],
        modulus in 1..4_u32,
    ) {
        let mut belief = knowing(&known, &fixed(parameters));
        let is_free = |prompt: u32| prompt.is_multiple_of(modulus);
        let query = PoolQuery { count, version, min_age, deviations, is_free: &is_free };
        let found = belief.best_of_pool(&query);
        let surfaces = deviations.map(|deviations| Outlooks::new(8).surface(deviations));
        let value = |prompt: u32| score(&belief, &surfaces, prompt, version);
        let mut scores: Vec<f64> = (0..belief.records.len() as u32)
            .filter(|&prompt| may_be_found(&belief, &query, prompt))
            .map(value)
            .collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        // Unknown prompts are not looked for everywhere.
        if count * 16 >= belief.records.len() {
            scores.truncate(count);
            prop_assert_eq!(found.len(), scores.len());
            let pairs = found.iter().map(|&prompt| value(prompt)).zip(scores);
            prop_assert!(
                pairs
                    .clone()
                    .all(|(found, best)| (-1e-9..=TOLERANCE + 1e-9).contains(&(best - found))),
                "{:?}",
                pairs.collect::<Vec<_>>()
            );
        }
        prop_assert!(found.iter().all(|&prompt| may_be_found(&belief, &query, prompt)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn vector_instructions_give_the_bits_of_plain_loops(
        observed in prop::collection::vec(observed(), 0..200),
        group_size in 2..70_usize,
    ) {
        prop_assert_eq!(after(&observed, group_size), plainly(|| after(&observed, group_size)));
    }
}
