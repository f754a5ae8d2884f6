//! Variates against the distributions that they are drawn from.

use depo_sampler::rng::Stream;
use depo_sampler::variates::Variates;

const DRAWS: u64 = 20_000;

/// Critical value of the Kolmogorov-Smirnov statistic at a level of 1e-6, times the root of the
/// number of draws.
const KS_LIMIT: f64 = 2.7;

fn drawn(purpose: &str, draw: impl Fn(&mut Variates) -> f64) -> Vec<f64> {
    (0..DRAWS).map(|key| draw(&mut Variates::new(Stream::of(key, purpose, &[])))).collect()
}

/// Largest distance of the draws' empirical distribution to `cdf`, times the root of their number.
fn kolmogorov_smirnov(mut draws: Vec<f64>, cdf: impl Fn(f64) -> f64) -> f64 {
    draws.sort_by(f64::total_cmp);
    let count = draws.len() as f64;
    let gap = |(rank, &draw): (usize, &f64)| {
        let probability = cdf(draw);
        (probability - rank as f64 / count)
            .abs()
            .max((probability - (rank + 1) as f64 / count).abs())
    };
    draws.iter().enumerate().map(gap).fold(0.0, f64::max) * count.sqrt()
}

/// Of Beta(a, b) with whole a and b: the probability of at least a successes in a + b - 1 trials.
fn beta_cdf(a: i32, b: i32, x: f64) -> f64 {
    let trials = a + b - 1;
    let mut coefficient = 1.0;
    let mut total = 0.0;
    for k in 0..=trials {
        if k >= a {
            total += coefficient * x.powi(k) * (1.0 - x).powi(trials - k);
        }
        coefficient *= f64::from(trials - k) / f64::from(k + 1);
    }
    total
}

/// Of the standard normal distribution, by Simpson's rule.
fn normal_cdf(x: f64) -> f64 {
    const STEPS: i32 = 400;
    let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let step = x / f64::from(STEPS);
    let weight = |index: i32| {
        if index == 0 || index == STEPS { 1.0 } else { 2.0 + 2.0 * f64::from(index % 2) }
    };
    0.5 + step / 3.0
        * (0..=STEPS).map(|index| weight(index) * density(f64::from(index) * step)).sum::<f64>()
}

#[test]
fn normal_variates_are_normal() {
    let statistic = kolmogorov_smirnov(drawn("normal", Variates::normal), normal_cdf);
    assert!(statistic < KS_LIMIT, "{statistic}");
}

#[test]
fn beta_variates_with_whole_shapes_follow_the_binomial_tail() {
    for (a, b) in [(1, 1), (9, 1), (1, 17), (2, 3), (5, 5), (30, 12)] {
        let draws = drawn("beta", |variates| variates.beta(a.into(), b.into()));
        let statistic = kolmogorov_smirnov(draws, |x| beta_cdf(a, b, x));
        assert!(statistic < KS_LIMIT, "Beta({a}, {b}): {statistic}");
    }
}

#[test]
fn beta_variates_have_the_moments_of_any_shapes() {
    for (a, b) in [(0.5, 0.5), (0.005, 0.02), (0.03, 3.0), (2.5, 0.3), (0.9, 40.0), (700.5, 300.25)]
    {
        let draws = drawn("moments", |variates| variates.beta(a, b));
        assert!(draws.iter().all(|draw| (0.0..=1.0).contains(draw)));
        let count = DRAWS as f64;
        let expected = a / (a + b);
        let variance = a * b / ((a + b) * (a + b) * (a + b + 1.0));
        let mean = draws.iter().sum::<f64>() / count;
        assert!(
            (mean - expected).abs() < 6.0 * (variance / count).sqrt() + 1e-12,
            "Beta({a}, {b}): mean {mean}, expected {expected}"
        );
        let squares: Vec<f64> =
            draws.iter().map(|draw| (draw - expected) * (draw - expected)).collect();
        let spread = squares.iter().sum::<f64>() / count;
        let error =
            (squares.iter().map(|square| (square - spread) * (square - spread)).sum::<f64>()
                / count
                / count)
                .sqrt();
        assert!(
            (spread - variance).abs() < 6.0 * error + 1e-12,
            "Beta({a}, {b}): variance {spread}, expected {variance}"
        );
    }
}
