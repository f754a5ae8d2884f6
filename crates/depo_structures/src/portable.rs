//! Logarithm, exponential and whole powers from additions, multiplications and divisions alone: the
//! same bits on every platform, which a C library's are not.

#![allow(clippy::inline_always, reason = "the callers' loops become vector instructions")]

use std::f64::consts::{LN_2, SQRT_2};

const MANTISSA_BITS: u32 = 52;
const EXPONENT_BIAS: i32 = 1023;

/// Terms of the series of ln, enough for |s| <= 0.172.
const LN_TERMS: u32 = 12;

/// Terms of the series of exp, enough for |r| <= 0.347.
const EXP_TERMS: u32 = 14;

/// Beyond it exp leaves the normal numbers.
const LARGEST_EXPONENT: f64 = 700.0;

/// `LN_2` in two parts, the first short enough for exact products with whole numbers below 2^11.
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// Added to a whole number, it leaves that number plus `EXPONENT_BIAS` in the lowest bits.
const BIAS_IN_LOW_BITS: f64 = (1_u64 << MANTISSA_BITS) as f64 + EXPONENT_BIAS as f64;

/// Natural logarithm of a positive normal number: with x = m 2^e and s = (m - 1) / (m + 1), e ln 2
/// + 2 (s + s^3 / 3 + s^5 / 5 + ...).
#[inline(always)]
pub fn ln(x: f64) -> f64 {
    debug_assert!(x.is_normal() && x > 0.0, "logarithm of {x}");
    let bits = x.to_bits();
    // Whole numbers of 32 bits: the conversion to floating point is a vector instruction.
    let exponent = (bits >> MANTISSA_BITS) as i32 - EXPONENT_BIAS;
    let mantissa = f64::from_bits(
        bits & ((1 << MANTISSA_BITS) - 1) | ((EXPONENT_BIAS as u64) << MANTISSA_BITS),
    );
    let (mantissa, exponent) =
        if mantissa > SQRT_2 { (mantissa / 2.0, exponent + 1) } else { (mantissa, exponent) };
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let series =
        (0..LN_TERMS).rev().fold(0.0, |sum, term| sum * (s * s) + 1.0 / f64::from(2 * term + 1));
    f64::from(exponent) * LN_2 + 2.0 * s * series
}

/// Exponential, with its argument kept within -700..700: 2^k (1 + r + r^2 / 2! + ...), where x = k
/// ln 2 + r.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    let x = x.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT);
    let exponent = (x / LN_2).round();
    let rest = (x - exponent * LN_2_HIGH) - exponent * LN_2_LOW;
    let series = (1..=EXP_TERMS).rev().fold(1.0, |sum, term| 1.0 + sum * rest / f64::from(term));
    series * f64::from_bits((exponent + BIAS_IN_LOW_BITS).to_bits() << MANTISSA_BITS)
}

/// Logarithms of all numbers at a time.
#[inline(always)]
pub fn lns<const N: usize>(mut numbers: [f64; N]) -> [f64; N] {
    for number in &mut numbers {
        *number = ln(*number);
    }
    numbers
}

/// Exponentials of all numbers at a time.
#[inline(always)]
pub fn exps<const N: usize>(mut numbers: [f64; N]) -> [f64; N] {
    for number in &mut numbers {
        *number = exp(*number);
    }
    numbers
}

/// base^exponent.
pub fn power(base: f64, exponent: u32) -> f64 {
    powers([base], exponent)[0]
}

/// Powers of all bases at a time, by squaring: a loop that compiles to vector instructions.
#[inline(always)]
pub fn powers<const N: usize>(mut factors: [f64; N], exponent: u32) -> [f64; N] {
    let mut results = [1.0; N];
    let mut rest = exponent;
    while rest > 0 {
        if rest & 1 == 1 {
            results.iter_mut().zip(&factors).for_each(|(result, factor)| *result *= factor);
        }
        for factor in &mut factors {
            *factor *= *factor;
        }
        rest >>= 1;
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_logarithm_is_that_of_the_library_but_for_rounding(
            mantissa in 1.0..2.0_f64,
            exponent in -1000..1000_i32,
        ) {
            let x = mantissa * 2.0_f64.powi(exponent);
            prop_assert!(
                (ln(x) - x.ln()).abs() <= 1e-15 * (1.0 + x.ln().abs()),
                "{} {}",
                ln(x),
                x.ln()
            );
        }

        #[test]
        fn the_exponential_is_that_of_the_library_but_for_rounding(x in -700.0..700.0_f64) {
            prop_assert!((exp(x) / x.exp() - 1.0).abs() <= 1e-15, "{} {}", exp(x), x.exp());
        }
    }

    #[test]
    fn exact_values_are_exact() {
        assert_eq!([ln(1.0).to_bits(), exp(0.0).to_bits()], [0, 1.0_f64.to_bits()]);
        assert_eq!(exp(f64::NEG_INFINITY).to_bits(), exp(-LARGEST_EXPONENT).to_bits());
    }
}
