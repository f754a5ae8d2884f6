//! Beliefs against slow, obvious references, and what they learn.

use depo_sampler::belief::{
    Belief, BeliefSettings, BetaCounts, DiscountedBeta, Label, LogitGaussian, LogitNormal,
};
use depo_sampler::registry::NamedNumbers;
use depo_sampler::rng::Stream;
use proptest::prelude::*;

fn label(prompt: u32, successes: u32, version: u32, weight: f64) -> Label {
    Label {
        prompt,
        successes,
        rollouts: 8,
        informative: !successes.is_multiple_of(8),
        version,
        weight,
    }
}

fn settings(options: &[(&str, f64)]) -> BeliefSettings {
    let belief_options: NamedNumbers =
        options.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    BeliefSettings { belief_options, fit_belief: false, ..BeliefSettings::default() }
}

fn parameter(belief: &dyn Belief, name: &str) -> f64 {
    belief
        .parameters()
        .into_iter()
        .find(|(own, _)| *own == name)
        .map_or(f64::NAN, |(_, value)| value)
}

/// Sum over k = 1 .. G - 1 of the beta-binomial probability of k successes, each term by the chain
/// rule over an order of outcomes.
fn informative_by_enumeration(alpha: f64, beta: f64, group_size: usize) -> f64 {
    (1..(1_u32 << group_size) - 1)
        .map(|outcomes| {
            let (mut right, mut wrong, mut probability) = (alpha, beta, 1.0);
            for rollout in 0..group_size {
                let count = if outcomes >> rollout & 1 == 1 { &mut right } else { &mut wrong };
                probability *= *count / (alpha + beta + rollout as f64);
                *count += 1.0;
            }
            probability
        })
        .sum()
}

/// Mean of `value(logit)` under a Gaussian times `likelihood(logit)`, by 2,001 rectangles; and the
/// total mass.
fn integral(
    state: LogitGaussian,
    likelihood: impl Fn(f64) -> f64,
    value: impl Fn(f64) -> f64,
) -> (f64, f64) {
    let (mut total, mut sum, mut density) = (0.0, 0.0, 0.0);
    for node in -1000..=1000 {
        let place = f64::from(node) * 8.0 / 1000.0;
        let logit = state.mean + place * state.variance.sqrt();
        let weight = (-place * place / 2.0).exp();
        density += weight;
        total += weight * likelihood(logit);
        sum += weight * likelihood(logit) * value(logit);
    }
    (sum / total, total / density)
}

fn pass_rate(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

fn informative(logit: f64, group_size: i32) -> f64 {
    1.0 - pass_rate(logit).powi(group_size) - pass_rate(-logit).powi(group_size)
}

proptest! {
    #[test]
    fn p_informative_equals_the_sum_over_all_outcomes(
        alpha in 1e-3..50.0_f64,
        beta in 1e-3..50.0_f64,
        group_size in 2..9_usize,
    ) {
        let fast = BetaCounts { alpha, beta }.p_informative(group_size);
        prop_assert!((fast - informative_by_enumeration(alpha, beta, group_size)).abs() < 1e-12);
    }

    #[test]
    fn history_is_the_sum_of_labels_discounted_to_the_newest_in_any_order_of_arrival(
        labels in prop::collection::vec((0..=8_u32, 0..30_u32), 1..12),
        prediction in 0.01..0.99_f32,
        wait in 0..10_u32,
    ) {
        let mut belief = DiscountedBeta::new(
            3,
            &settings(&[
                ("discount", 0.9),
                ("text_concentration", 4.0),
                ("base_concentration", 2.0),
            ]),
        );
        belief.set_prior(1, prediction);
        let mut newest = 0;
        for &(successes, version) in &labels {
            prop_assert_eq!(belief.observe(&label(1, successes, version, 1.0)), version < newest);
            newest = newest.max(version);
        }
        let now = newest + wait;
        let weight = |version: u32| 0.9_f64.powf(f64::from(now - version));
        let (mean, base) = (f64::from(prediction), parameter(&belief, "base_rate"));
        let right = 4.0 * mean
            + 2.0 * base
            + labels.iter().map(|&(k, version)| weight(version) * f64::from(k)).sum::<f64>();
        let wrong = 4.0 * (1.0 - mean)
            + 2.0 * (1.0 - base)
            + labels.iter().map(|&(k, version)| weight(version) * f64::from(8 - k)).sum::<f64>();
        let forecast = belief.forecast(1, f32::NAN, now);
        prop_assert!((forecast.pass_rate - right / (right + wrong)).abs() < 1e-5);
        let posterior = BetaCounts { alpha: right, beta: wrong };
        prop_assert!((forecast.p_informative - posterior.p_informative(8)).abs() < 1e-5);
    }

    #[test]
    fn without_history_labels_speak_through_the_base_rate_alone(
        successes in 0..=8_u32,
        prediction in 0.0..=1.0_f32,
        weight in 1.0..=10.0_f64,
    ) {
        let text_only = BeliefSettings {
            use_history: false,
            ..settings(&[("base_concentration", 1e-3), ("text_concentration", 1e3)])
        };
        let mut belief = DiscountedBeta::new(2, &text_only);
        let before = belief.forecast(0, prediction, 5);
        belief.observe(&label(0, successes, 3, weight));
        prop_assert!((belief.forecast(0, prediction, 5).pass_rate - before.pass_rate).abs() < 1e-5);
        // Without a prediction, the base rate of all labels speaks, each weighted by 1 / admission.
        let base_rate = (0.999 + weight * f64::from(successes)) / (2.0 * 0.999 + weight * 8.0);
        let expected = base_rate.clamp(1e-3, 1.0 - 1e-3);
        prop_assert!((belief.forecast(1, f32::NAN, 5).pass_rate - expected).abs() < 1e-12);
    }

    #[test]
    fn the_quadrature_equals_fine_integration(
        mean in -6.0..6.0_f64,
        variance in 0.01..10.0_f64,
        group_size in 2..17_usize,
        rollouts in 1..17_u32,
        share in 0.0..=1.0_f64,
    ) {
        let state = LogitGaussian { mean, variance };
        let outlook = state.outlook(group_size);
        let size = group_size as i32;
        let (expected, _) = integral(state, |_| 1.0, |logit| informative(logit, size));
        let (square, _) = integral(state, |_| 1.0, |logit| informative(logit, size).powi(2));
        prop_assert!((outlook.pass_rate - integral(state, |_| 1.0, pass_rate).0).abs() < 1e-4);
        prop_assert!(
            (outlook.p_informative - expected).abs() < 1e-3,
            "{} {}",
            outlook.p_informative,
            expected
        );
        prop_assert!(
            (outlook.deviation - (square - expected * expected).max(0.0).sqrt()).abs() < 5e-3
        );
        let successes = (share * f64::from(rollouts)).round() as u32;
        let likelihood = |logit: f64| {
            pass_rate(logit).powi(successes as i32)
                * pass_rate(-logit).powi((rollouts - successes) as i32)
        };
        let (posterior_mean, evidence) = integral(state, likelihood, |logit| logit);
        // Beyond, the nodes of the rule are too few.
        prop_assume!((posterior_mean - mean).abs() < 3.0 * variance.sqrt());
        let (posterior_variance, _) =
            integral(state, likelihood, |logit| (logit - posterior_mean).powi(2));
        let posterior = state.given(successes, rollouts);
        prop_assert!(
            (LogitGaussian::log_likelihoods(&[state], successes, rollouts)[0] - evidence.ln())
                .abs()
                < 0.05
        );
        prop_assert!(
            (posterior.mean - posterior_mean).abs() < 0.05 * variance.sqrt(),
            "{} {}",
            posterior.mean,
            posterior_mean
        );
        prop_assert!(
            (posterior.variance / posterior_variance - 1.0).abs() < 0.12,
            "{} {}",
            posterior.variance,
            posterior_variance
        );
    }

    #[test]
    fn learning_what_was_learned_gives_the_posterior(
        mean in -3.0..3.0_f64,
        variance in 0.1..9.0_f64,
        successes in 0..=8_u32,
    ) {
        let prior = LogitGaussian { mean, variance };
        let posterior = prior.given(successes, 8);
        let again = prior.learning(prior, posterior);
        prop_assert!(
            (again.mean - posterior.mean).abs() < 1e-9
                && (again.variance / posterior.variance - 1.0).abs() < 1e-9
        );
    }

    #[test]
    fn more_success_is_believed_more_and_time_changes_what_is_believed(
        successes in 0..8_u32,
        wait in 1..50_u32,
        prediction in 0.05..0.95_f32,
    ) {
        let mut belief = LogitNormal::new(2, &settings(&[("noise", 0.05)]));
        for prompt in 0..2 {
            belief.set_prior(prompt, prediction);
            belief.observe(&label(prompt, successes + prompt, 3, 1.0));
        }
        let [fewer, more] = [0, 1].map(|prompt| belief.forecast(prompt, f32::NAN, 3));
        prop_assert!(fewer.pass_rate < more.pass_rate);
        let later = belief.forecast(0, f32::NAN, 3 + wait);
        prop_assert!(later != fewer);
    }

    #[test]
    fn a_late_label_says_nearly_what_it_had_said_in_time(
        first in 2..=6_u32,
        second in 2..=6_u32,
        wait in 1..20_u32,
    ) {
        let options = [("noise", 0.02), ("drift", 0.01)];
        let [mut in_time, mut late] = [(); 2].map(|()| LogitNormal::new(1, &settings(&options)));
        in_time.observe(&label(0, first, 0, 1.0));
        in_time.observe(&label(0, second, wait, 1.0));
        prop_assert!(!late.observe(&label(0, second, wait, 1.0)));
        prop_assert!(late.observe(&label(0, first, 0, 1.0)));
        let [in_time, late] =
            [in_time, late].map(|belief| belief.forecast(0, f32::NAN, wait).pass_rate);
        prop_assert!((in_time - late).abs() < 0.06, "{in_time} {late}");
    }
}

/// A stream of 4,000 labels of 400 prompts: `pass_rate(prompt, version)` and a text prediction that
/// is right with probability `trust`.
fn taught(belief: &mut dyn Belief, trust: f64, pass_rate: impl Fn(u32, u32) -> f64) {
    for number in 0..4000_u32 {
        let (prompt, version) = (number % 400, number / 100);
        let stream = Stream::of(5, "simulation", &[prompt.into(), version.into()]);
        let p = pass_rate(prompt, version);
        let prediction = if Stream::of(5, "trust", &[prompt.into()]).unit(0) < trust {
            p
        } else {
            Stream::of(5, "noise", &[prompt.into()]).unit(0)
        };
        belief.set_prior(prompt, prediction as f32);
        let successes = (0..8).filter(|&rollout| stream.unit(rollout) < p).count() as u32;
        belief.observe(&label(prompt, successes, version, 1.0));
    }
}

fn fitted() -> BeliefSettings {
    BeliefSettings { fit_belief: true, ..settings(&[]) }
}

fn steady(prompt: u32, _version: u32) -> f64 {
    Stream::of(5, "pass_rate", &[prompt.into()]).unit(0)
}

#[test]
fn text_earns_its_weight() {
    let weight = |trust, name| {
        let (mut beta, mut normal) =
            (DiscountedBeta::new(400, &fitted()), LogitNormal::new(400, &fitted()));
        taught(&mut beta, trust, steady);
        taught(&mut normal, trust, steady);
        if name == "text_concentration" { parameter(&beta, name) } else { parameter(&normal, name) }
    };
    for (name, most, least) in [("text_concentration", 0.5, 16.0), ("text_precision", 0.1, 2.0)] {
        let [useless, fair, perfect] = [0.0, 0.8, 1.0].map(|trust| weight(trust, name));
        assert!(
            useless < most && useless < fair && fair < perfect && perfect > least,
            "{name}: {useless} {fair} {perfect}"
        );
    }
}

#[test]
fn drift_noise_spread_and_memory_are_found() {
    let learned = |pass_rate: &dyn Fn(u32, u32) -> f64, name: &str| {
        let (mut beta, mut normal) =
            (DiscountedBeta::new(400, &fitted()), LogitNormal::new(400, &fitted()));
        taught(&mut beta, 0.0, pass_rate);
        taught(&mut normal, 0.0, pass_rate);
        if name == "discount" { parameter(&beta, name) } else { parameter(&normal, name) }
    };
    let restless = |prompt: u32, version: u32| {
        Stream::of(5, "restless", &[prompt.into(), version.into()]).unit(0)
    };
    let rising = |prompt: u32, version: u32| {
        let odds =
            steady(prompt, 0) / (1.0 - steady(prompt, 0)) * (0.03 * f64::from(version)).exp();
        odds / (1.0 + odds)
    };
    assert!(learned(&steady, "noise") < 0.01 && learned(&restless, "noise") > 0.05);
    assert!(learned(&steady, "discount") > 0.97 && learned(&restless, "discount") < 0.8);
    let parting = |prompt: u32, version: u32| {
        let odds =
            (steady(prompt, 0) / (1.0 - steady(prompt, 0))).powf((0.02 * f64::from(version)).exp());
        odds / (1.0 + odds)
    };
    let [still, apart] = [learned(&steady, "spread"), learned(&parting, "spread")];
    assert!(still.abs() < 0.005 && apart > 0.01, "{still} {apart}");
    assert!(
        learned(&steady, "drift").abs() < 0.01 && (learned(&rising, "drift") - 0.03).abs() < 0.01
    );
}
