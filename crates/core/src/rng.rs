//! Randomness as a seed.

use core::time::Duration;

use crate::nanos;

/// A source of random draws that the caller owns.
pub trait Rng {
    /// The next 64 random bits.
    fn next_u64(&mut self) -> u64;

    /// A number in `[0, 1)`, with 53 random bits.
    fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A whole number in `[0, below)`; 0 if `below` is 0.
    ///
    /// By the widening multiplication of Lemire, "Fast Random Integer Generation in an Interval" (2019); the bias of
    /// at most `below / 2^64` is left in, as no decision here could tell.
    fn below(&mut self, below: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(below)) >> 64) as u64
    }

    /// A duration in `[low, high)`; `low` if the interval is empty.
    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let (low, high) = (nanos(low), nanos(high));
        Duration::from_nanos(low.saturating_add(self.below(high.saturating_sub(low))))
    }
}

/// SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014): eight bytes of state, one
/// multiplication chain a draw, and any seed is a good seed. For jitter and sampling, not for secrets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// A generator whose draws follow from `seed` alone.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Rng for Seeded {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for seed 1234567 as published with the reference implementation.
    #[test]
    fn draws_match_the_reference() {
        let mut rng = Seeded::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn draws_stay_in_their_interval() {
        let mut rng = Seeded::new(7);
        for _ in 0..10_000 {
            assert!((0.0..1.0).contains(&rng.unit()));
            assert!(rng.below(3) < 3);
            let d = rng.between(Duration::from_millis(5), Duration::from_millis(6));
            assert!(d >= Duration::from_millis(5) && d < Duration::from_millis(6));
        }
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.between(Duration::from_secs(1), Duration::ZERO), Duration::from_secs(1));
    }
}
