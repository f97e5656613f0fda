//! How times are distributed.

use std::f64::consts::TAU;
use std::time::Duration;

use seaworthy_core::{Rng, Seeded};

/// A distribution of durations.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Spread {
    /// Always the same.
    Constant(Duration),
    /// Exponential with this mean: times without memory.
    Exponential(Duration),
    /// Lognormal: `median * e^(sigma * N(0,1))`, the usual shape of service latencies; at a sigma of 0.5 the 99th percentile
    /// is 3.2 times the median.
    Lognormal {
        /// Half are shorter.
        median: Duration,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
}

impl Spread {
    /// One draw.
    #[must_use]
    pub fn draw(&self, rng: &mut Seeded) -> Duration {
        let seconds = match *self {
            Self::Constant(constant) => return constant,
            Self::Exponential(mean) => exponential(rng) * mean.as_secs_f64(),
            Self::Lognormal { median, sigma } => median.as_secs_f64() * (sigma * normal(rng)).exp(),
        };
        seconds_of(seconds)
    }

    /// What stands for it where one number has to: the constant, the mean, or the median.
    #[must_use]
    pub const fn typical(&self) -> Duration {
        match *self {
            Self::Constant(typical)
            | Self::Exponential(typical)
            | Self::Lognormal { median: typical, .. } => typical,
        }
    }
}

/// A draw from the exponential distribution with mean 1, by inversion.
pub(crate) fn exponential(rng: &mut Seeded) -> f64 {
    // 1 - [0,1) is never 0, whose logarithm would be infinite.
    -(1.0 - rng.unit()).ln()
}

/// A draw from N(0, 1), by the transform of Box and Muller (1958).
pub(crate) fn normal(rng: &mut Seeded) -> f64 {
    let radius = (2.0 * exponential(rng)).sqrt();
    radius * (TAU * rng.unit()).cos()
}

/// `seconds`, at most a year: no model here means anything longer, and sums of them stay far from overflow.
pub(crate) fn seconds_of(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, YEAR_SECONDS))
}

const YEAR_SECONDS: f64 = 365.0 * 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(spread: Spread) -> Vec<f64> {
        let mut rng = Seeded::new(1);
        let mut draws: Vec<f64> = (0..100_000).map(|_| spread.draw(&mut rng).as_secs_f64()).collect();
        draws.sort_by(f64::total_cmp);
        draws
    }

    /// Within 2% of the quantile functions: -mean ln(1-q), and median e^(sigma z(q)) with z(0.99) = 2.326.
    #[test]
    fn quantiles_are_those_of_the_distribution() {
        let exponential = sorted(Spread::Exponential(Duration::from_millis(10)));
        let lognormal = sorted(Spread::Lognormal { median: Duration::from_millis(20), sigma: 0.5 });
        let cases = [
            (exponential[50_000], 0.006_931),
            (exponential[99_000], 0.046_05),
            (lognormal[50_000], 0.02),
            (lognormal[99_000], 0.064),
        ];
        for (drawn, exact) in cases {
            assert!((drawn / exact - 1.0).abs() < 0.02, "{drawn} is not {exact}");
        }
    }
}
