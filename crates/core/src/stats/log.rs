//! Logarithms and powers of two, which `core` has not.
//!
//! Latencies spread over orders of magnitude and multiply rather than add: their typical value is the geometric mean, the
//! power of the mean logarithm. [`log2_fixed`] makes a logarithm cheap enough to take of every call, and whole, so that
//! sums of any order are the same.
//!
//! ```
//! use core::time::Duration;
//! use seaworthy_core::stats::log::{geometric_mean, log2_fixed};
//! let sum: u32 = [1_000, 4_000, 2_000].map(log2_fixed).iter().sum();
//! let mean = geometric_mean(u64::from(sum), 3).unwrap();
//! assert!(mean.abs_diff(Duration::from_nanos(2_000)) < Duration::from_nanos(2));
//! ```

use core::time::Duration;

use super::ewma::exp_minus;

/// The logarithm to base 2 of a number of nanoseconds, in 1024ths, rounded to the nearest (within 0.501 of a 1024th); 0 of 0.
#[must_use]
pub fn log2_fixed(nanos: u64) -> u32 {
    let nanos = nanos.max(1);
    let (whole, mantissa) = split(nanos as f64);
    // z is at most 1/3, so that what is cut off is below 2 / ln 2 * (1/3)^11 / 11 / (1 - 1/9) = 1.7e-6.
    let fraction = 2.0 * core::f64::consts::LOG2_E * artanh(mantissa, 5);
    ((whole + fraction) * FIXED + 0.5) as u32
}

/// The geometric mean of `count` latencies, of which `sum` is the sum of [`log2_fixed`]; `None` if there are none.
#[must_use]
pub fn geometric_mean(sum: u64, count: u64) -> Option<Duration> {
    (count > 0).then(|| Duration::from_nanos((exp2(sum as f64 / count as f64 / FIXED) + 0.5) as u64))
}

/// The natural logarithm of a positive, normal `x`, within 1e-15 of it or its 1e-15th part.
pub(crate) fn ln(x: f64) -> f64 {
    let (mut exponent, mut mantissa) = split(x);
    if mantissa > core::f64::consts::SQRT_2 {
        (exponent, mantissa) = (exponent + 1.0, mantissa * 0.5);
    }
    // z is at most 0.172, so that what is cut off is below 2 * 0.172^23 / 23 = 3e-19.
    exponent * core::f64::consts::LN_2 + 2.0 * artanh(mantissa, 11)
}

/// 2 to the power of `x`, within its 1e-12th part, for `x` from -1022 to 1023; 0 below.
pub(crate) fn power_of_two(x: f64) -> f64 {
    if x < 0.0 { exp_minus(-x * core::f64::consts::LN_2) } else { exp2(x) }
}

/// The square root of a normal `x`; 0 of anything less.
pub(crate) fn root(x: f64) -> f64 {
    if x < f64::MIN_POSITIVE { 0.0 } else { power_of_two(ln(x) / core::f64::consts::LN_2 / 2.0) }
}

/// 2 to the power of `x`, within its 1e-12th part; for `x` from 0 to 1023.
fn exp2(x: f64) -> f64 {
    let above = (x as u64 + 1).min(1023);
    f64::from_bits((1023 + above) << 52) * exp_minus((above as f64 - x) * core::f64::consts::LN_2)
}

/// The exponent and the mantissa, in [1, 2), of a positive, normal number.
fn split(x: f64) -> (f64, f64) {
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    (f64::from(exponent), f64::from_bits(bits & MANTISSA | ONE))
}

/// Half the logarithm of `m` by `terms` terms of its series: ln m = 2 artanh z with z = (m - 1) / (m + 1), and
/// artanh z = z + z^3 / 3 + z^5 / 5 ... (Abramowitz and Stegun, 4.6.22).
fn artanh(m: f64, terms: u32) -> f64 {
    let z = (m - 1.0) / (m + 1.0);
    let square = z * z;
    z * (0..terms).rev().fold(0.0, |sum, n| sum * square + 1.0 / f64::from(2 * n + 1))
}

/// How finely [`log2_fixed`] tells: a 1024th is 0.07%, and the mean of many is finer.
const FIXED: f64 = 1024.0;
const MANTISSA: u64 = (1 << 52) - 1;
const ONE: u64 = 1023 << 52;

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_hold() {
        assert_eq!((log2_fixed(0), log2_fixed(1), log2_fixed(1 << 40)), (0, 0, 40 << 10));
        assert_eq!(log2_fixed(u64::MAX), 64 << 10);
        assert_eq!(geometric_mean(0, 0), None);
        assert_eq!(geometric_mean(u64::from(log2_fixed(u64::MAX)), 1), Some(Duration::from_nanos(u64::MAX)));
        assert_eq!(geometric_mean(u64::MAX, 1), Some(Duration::from_nanos(u64::MAX)), "no sum panics");
    }

    proptest! {
        #[test]
        fn the_fixed_logarithm_is_right(nanos in 1u64.., shift in 0u32..64) {
            let nanos = (nanos >> shift).max(1);
            prop_assert!((f64::from(log2_fixed(nanos)) / 1024.0 - (nanos as f64).log2()).abs() < 0.502 / 1024.0);
        }

        #[test]
        fn the_natural_logarithm_is_right(x in 1e-300f64..1e300, small in 1e-9f64..2.0) {
            for x in [x, small] {
                prop_assert!((ln(x) - x.ln()).abs() <= 1e-15 * x.ln().abs().max(1.0), "{x}");
            }
        }

        #[test]
        fn the_power_is_right(x in 0.0f64..1022.0) {
            prop_assert!((exp2(x) - x.exp2()).abs() <= 1e-12 * x.exp2());
        }

        #[test]
        fn powers_and_roots_are_right(x in -1000.0f64..1000.0, y in 1e-300f64..1e300) {
            prop_assert!((power_of_two(x) - x.exp2()).abs() <= 1e-12 * x.exp2());
            prop_assert!((root(y) - y.sqrt()).abs() <= 1e-12 * y.sqrt());
        }

        #[test]
        fn one_latency_is_its_own_mean(nanos in 1_000u64..1_000_000_000_000) {
            let mean = geometric_mean(u64::from(log2_fixed(nanos)), 1).unwrap().as_nanos() as f64;
            prop_assert!((mean / nanos as f64 - 1.0).abs() < 0.0004);
        }
    }
}
