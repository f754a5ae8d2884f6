//! Beta densities about a target, and Beta variates, of many shapes side by side.

#![allow(clippy::inline_always, reason = "the callers' loops become vector instructions")]

use crate::portable::{exps, lns};
use crate::vectors::wide;

/// Shapes that are computed side by side: the loops over them become vector instructions.
pub(crate) const LANES: usize = 16;

/// A number per lane.
pub(crate) type Lanes = [f64; LANES];

/// Least alpha and beta: from here on the density has a single peak.
pub const LEAST_COUNT: f32 = 1.0;

/// Greatest alpha and beta: up to here mass is left beyond the reach of every target, at least a
/// millionth.
pub const GREATEST_COUNT: f32 = 1e4;

/// Least and greatest target: rounding leaves both sides of it apart.
pub const LEAST_TARGET: f64 = 1e-3;
/// See `LEAST_TARGET`.
pub const GREATEST_TARGET: f64 = 1.0 - LEAST_TARGET;

/// The reach in standard deviations of one Bernoulli trial, and the share of the way to 0 or 1 that
/// it may take up.
const REACH_IN_DEVIATIONS: f64 = 1.0 / 32.0;
const REACH_IN_INTERVAL: f64 = 0.25;

/// The most mass within reach that is bounded by width times height; more is integrated.
const MASS_BOUNDED: f64 = 0.5;

/// Densities are kept as f32, which leaves this much doubt about the mass beyond the reach.
const LEAST_SURVIVAL: f64 = 1e-7;

/// Takes a bound above what rounding to f32 can take off it.
const ABOVE_ROUNDING: f64 = 1.0 + 1e-6;

/// Shift of the argument from which on Stirling's series of ln gamma has 14 digits.
const STIRLING_SHIFT: u32 = 8;
const STIRLING: [f64; 5] = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0];
const HALF_LN_TAU: f64 = 0.918_938_533_204_672_7;

/// Gauss-Legendre quadrature with 16 nodes: those above 0 on -1..1, and their weights.
const NODES: [f64; 8] = [
    0.095_012_509_837_637_44,
    0.281_603_550_779_258_9,
    0.458_016_777_657_227_4,
    0.617_876_244_402_643_7,
    0.755_404_408_355_003,
    0.865_631_202_387_831_7,
    0.944_575_023_073_232_6,
    0.989_400_934_991_649_9,
];
const WEIGHTS: [f64; 8] = [
    0.189_450_610_455_068_4,
    0.182_603_415_044_923_6,
    0.169_156_519_395_002_5,
    0.149_595_988_816_576_8,
    0.124_628_971_255_533_9,
    0.095_158_511_682_492_81,
    0.062_253_523_938_647_96,
    0.027_152_459_411_754_23,
];

const LN_4: f64 = 1.386_294_361_119_890_6;

/// What is kept of an item: its shape, and its density at the target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Item {
    pub alpha: f32,
    pub beta: f32,
    pub density: f32,
}

/// A pass rate that is looked for, and the distance up to which densities are bounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    pub at: f64,
    pub reach: f64,
}

impl Target {
    pub fn new(at: f64) -> Self {
        let reach = REACH_IN_DEVIATIONS * (at * (1.0 - at)).sqrt();
        Self { at, reach: reach.min(REACH_IN_INTERVAL * at.min(1.0 - at)) }
    }

    /// Items of shapes [alpha, beta], each with a bound of its hazard up to the reach: hazard(r) =
    /// g(r) / (1 - mass(r)), g(r) = f(at + r) + f(at - r).
    pub fn bounded(&self, shapes: &[[f32; 2]; LANES]) -> [(Item, f32); LANES] {
        wide(
            #[inline(always)]
            || self.bounded_lanes(shapes),
        )
    }

    #[inline(always)]
    fn bounded_lanes(&self, shapes: &[[f32; 2]; LANES]) -> [(Item, f32); LANES] {
        let (p, q) = (
            lanes(|lane| f64::from(shapes[lane][0]) - 1.0),
            lanes(|lane| f64::from(shapes[lane][1]) - 1.0),
        );
        // The density falls on either side of its peak: on the side away from the peak it is
        // greatest at the target.
        let greatest = lanes(|lane| {
            let all = p[lane] + q[lane];
            let peak = if all > 0.0 { p[lane] / all } else { self.at };
            peak.clamp(self.at - self.reach, self.at + self.reach)
        });
        let ratios = self.ratios(&p, &q, &greatest);
        let densities = self.densities(&p, &q);
        std::array::from_fn(|lane| {
            let item = Item {
                alpha: shapes[lane][0],
                beta: shapes[lane][1],
                density: densities[lane] as f32,
            };
            let bound = f64::from(item.density) * (1.0 + ratios[lane]);
            let survival = if bound * self.reach <= MASS_BOUNDED {
                1.0 - bound * self.reach
            } else {
                self.survival(item, self.reach)
            };
            (item, (bound / survival * ABOVE_ROUNDING) as f32)
        })
    }

    /// f(at) of Beta(p + 1, q + 1).
    #[inline(always)]
    fn densities(&self, p: &Lanes, q: &Lanes) -> Lanes {
        let [ln_at, ln_rest] = lns([self.at, 1.0 - self.at]);
        let sums = lanes(|lane| p[lane] + q[lane] + 2.0);
        let (alphas, betas) = (lanes(|lane| p[lane] + 1.0), lanes(|lane| q[lane] + 1.0));
        let (ln_alphas, ln_betas, ln_sums) =
            (shifted_ln_gamma(&alphas), shifted_ln_gamma(&betas), shifted_ln_gamma(&sums));
        let products =
            lns(lanes(|lane| rising(alphas[lane]) / rising(sums[lane]) * rising(betas[lane])));
        exps(lanes(|lane| {
            let ln_beta_function =
                ln_alphas[lane] + ln_betas[lane] - ln_sums[lane] - products[lane];
            p[lane] * ln_at + q[lane] * ln_rest - ln_beta_function
        }))
    }

    /// f(x) / f(at), x between 0 and 1.
    #[inline(always)]
    fn ratios(&self, p: &Lanes, q: &Lanes, x: &Lanes) -> Lanes {
        let (up, down) = (
            lns(lanes(|lane| x[lane] / self.at)),
            lns(lanes(|lane| (1.0 - x[lane]) / (1.0 - self.at))),
        );
        exps(lanes(|lane| p[lane] * up[lane] + q[lane] * down[lane]))
    }

    /// [f(at + r), f(at - r)] of each item.
    pub fn densities_beside(&self, items: &[Item; LANES], r: &Lanes) -> [Lanes; 2] {
        wide(
            #[inline(always)]
            || self.densities_beside_lanes(items, r),
        )
    }

    #[inline(always)]
    fn densities_beside_lanes(&self, items: &[Item; LANES], r: &Lanes) -> [Lanes; 2] {
        let (p, q) = (
            lanes(|lane| f64::from(items[lane].alpha) - 1.0),
            lanes(|lane| f64::from(items[lane].beta) - 1.0),
        );
        [1.0, -1.0].map(|side| {
            let ratios = self.ratios(&p, &q, &lanes(|lane| self.at + side * r[lane]));
            lanes(|lane| f64::from(items[lane].density) * ratios[lane])
        })
    }

    /// Mass that is farther from the target than r.
    pub fn survival(&self, item: Item, r: f64) -> f64 {
        let distances = lanes(|node| {
            let (index, side) = (node / 2, if node % 2 == 0 { 1.0 } else { -1.0 });
            r / 2.0 * (1.0 + side * NODES[index])
        });
        let [right, left] = self.densities_beside(&[item; LANES], &distances);
        let mass: f64 =
            (0..LANES).map(|node| r / 2.0 * WEIGHTS[node / 2] * (right[node] + left[node])).sum();
        (1.0 - mass).max(LEAST_SURVIVAL)
    }
}

/// A number for each lane; `array::from_fn` and `map` are not always inlined, and then not vector
/// instructions.
#[inline(always)]
fn lanes(number: impl Fn(usize) -> f64) -> Lanes {
    let mut numbers = [0.0; LANES];
    for (lane, place) in numbers.iter_mut().enumerate() {
        *place = number(lane);
    }
    numbers
}

/// x (x + 1) ... (x + `STIRLING_SHIFT` - 1)
#[inline(always)]
fn rising(x: f64) -> f64 {
    (0..STIRLING_SHIFT).fold(1.0, |product, step| product * (x + f64::from(step)))
}

/// ln gamma of `STIRLING_SHIFT` more than the arguments.
#[inline(always)]
fn shifted_ln_gamma(arguments: &Lanes) -> Lanes {
    let x = lanes(|lane| arguments[lane] + f64::from(STIRLING_SHIFT));
    let logarithms = lns(x);
    lanes(|lane| {
        let inverse = 1.0 / x[lane];
        let series =
            STIRLING.iter().rev().fold(0.0, |sum, term| sum * inverse * inverse + term) * inverse;
        (x[lane] - 0.5) * logarithms[lane] - x[lane] + HALF_LN_TAU + series
    })
}

/// One attempt each at a variate of Beta(alpha, beta), from two uniform numbers in (0, 1); NaN
/// where it is rejected, which two of three are not. Exact for shapes of at least 1 (algorithm BB
/// of Cheng, "Generating beta variates with nonintegral shape parameters", CACM 1978).
pub(crate) fn attempts(shapes: &[[f32; 2]; LANES], units: &[[f64; 2]; LANES]) -> Lanes {
    wide(
        #[inline(always)]
        || attempts_lanes(shapes, units),
    )
}

#[inline(always)]
fn attempts_lanes(shapes: &[[f32; 2]; LANES], units: &[[f64; 2]; LANES]) -> Lanes {
    let odds = lns(lanes(|lane| units[lane][0] / (1.0 - units[lane][0])));
    let ln_units = lns(lanes(|lane| units[lane][0] * units[lane][0] * units[lane][1]));
    // 1 / lambda, where lambda^2 = (2 a b - a - b) / (a + b - 2); 1 where both are 1.
    let scale = lanes(|lane| {
        let [alpha, beta] = shapes[lane].map(f64::from);
        let (p, q) = (alpha - 1.0, beta - 1.0);
        ((p + q + f64::MIN_POSITIVE) / (alpha * q + beta * p + f64::MIN_POSITIVE)).sqrt()
    });
    let (least, most) = (
        lanes(|lane| shapes[lane][0].min(shapes[lane][1]).into()),
        lanes(|lane| shapes[lane][0].max(shapes[lane][1]).into()),
    );
    let v = lanes(|lane| scale[lane] * odds[lane]);
    let growth = exps(v);
    let w = lanes(|lane| least[lane] * growth[lane]);
    let ln_shares = lns(lanes(|lane| (least[lane] + most[lane]) / (most[lane] + w[lane])));
    lanes(|lane| {
        let r = (least[lane] + 1.0 / scale[lane]) * v[lane] - LN_4;
        if r + (least[lane] + most[lane]) * ln_shares[lane] < ln_units[lane] {
            return f64::NAN;
        }
        let [alpha, beta] = shapes[lane];
        if alpha <= beta {
            w[lane] / (most[lane] + w[lane])
        } else {
            most[lane] / (most[lane] + w[lane])
        }
    })
}

/// All shapes, as `Target::bounded` has them.
pub(crate) fn bounded_all(
    target: Target,
    mut shapes: impl Iterator<Item = [f32; 2]>,
) -> impl Iterator<Item = (Item, f32)> {
    std::iter::from_fn(move || {
        let mut lanes = [[LEAST_COUNT; 2]; LANES];
        let filled =
            lanes.iter_mut().zip(shapes.by_ref()).map(|(lane, shape)| *lane = shape).count();
        (filled > 0).then(|| target.bounded(&lanes).into_iter().take(filled))
    })
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// On a machine without AVX2 both are the same code.
        #[test]
        fn wide_instructions_give_the_same_bits(
            shapes in prop::array::uniform16([1.0..2000.0_f32, 1.0..2000.0_f32]),
            units in prop::array::uniform16([1e-9..1.0_f64, 1e-9..1.0_f64]),
            at in 0.01..0.99_f64,
        ) {
            let target = Target::new(at);
            let bounded = target.bounded(&shapes);
            prop_assert_eq!(bounded, target.bounded_lanes(&shapes));
            let (items, distances) =
                (bounded.map(|(item, _)| item), units.map(|[unit, _]| unit * target.reach));
            prop_assert_eq!(
                target.densities_beside(&items, &distances),
                target.densities_beside_lanes(&items, &distances)
            );
            let bits = |variates: Lanes| variates.map(f64::to_bits);
            prop_assert_eq!(bits(attempts(&shapes, &units)), bits(attempts_lanes(&shapes, &units)));
        }

        /// The beta function of whole numbers is made of factorials; no hazard within reach is
        /// above its bound.
        #[test]
        fn densities_are_right_and_hazards_bounded(
            alpha in 1..100_u16,
            beta in 1..100_u16,
            at in 0.001..0.999_f64,
            share in 0.0..1.0_f64,
        ) {
            let target = Target::new(at);
            let [(item, bound), ..] = target.bounded(&[[alpha.into(), beta.into()]; LANES]);
            let [p, q] = [alpha - 1, beta - 1].map(i32::from);
            let factors =
                (1..=q).map(|step| f64::from(p + 1 + step) / f64::from(step)).product::<f64>()
                    * f64::from(p + 1);
            let density = at.powi(p) * (1.0 - at).powi(q) * factors;
            prop_assert!((f64::from(item.density) - density).abs() <= 1e-6 * density + 1e-40, "{} \
                {density}", item.density);
            let distance = share * target.reach;
            let [right, left] = target.densities_beside(&[item; LANES], &[distance; LANES]);
            prop_assert!(
                (right[0] + left[0]) / target.survival(item, distance) <= f64::from(bound)
            );
        }
    }
}
