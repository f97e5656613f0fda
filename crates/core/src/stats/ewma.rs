//! One latency, the recent weighing more.
//!
//! # What it is for
//! A load balancer wants one number per endpoint, cheap to keep and to read. Two kinds:
//!
//! * **average**: every sample weighs `exp(-age / tau)`, and the value is the weighted mean. Unlike the recurrence
//!   `v += (1 - exp(-gap / tau)) * (x - v)`, samples that arrive at the same moment weigh the same instead of nothing.
//!   Idle does not change it: the mean of what was seen stays the mean.
//! * **peak**: a sample above the value becomes the value; below, it pulls by the recurrence above. While idle it decays
//!   towards zero, so that an endpoint avoided for being slow is tried again. (Finagle's Peak EWMA; Twitter, "Finagle:
//!   Load Balancing", `PeakEwma`.)
//!
//! Reading does not change it: two readers see the same, and how often one looks does not matter.
//!
//! # When not to use it
//! For timeouts and hedges: a mean says nothing about the slow ones. See [`quantile`](super::quantile).
//!
//! ```
//! use core::time::Duration;
//! use seaworthy_core::{Instant, stats::ewma::Ewma};
//!
//! let mut latency = Ewma::peak(Duration::from_secs(10));
//! latency.record(Instant::ZERO, Duration::from_millis(100));
//! latency.record(Instant::ZERO, Duration::from_millis(20));
//! assert_eq!(latency.value(Instant::ZERO), Some(Duration::from_millis(100)));
//! // After tau, a share of 1/e is left.
//! let later = latency.value(Instant::from_millis(10_000)).unwrap();
//! assert!(later.abs_diff(Duration::from_micros(36_788)) < Duration::from_micros(1));
//! ```

use core::time::Duration;

use crate::{Instant, nanos};

/// A latency that follows the recent samples. See the [module](self).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ewma {
    kind: Kind,
    /// The time constant in nanoseconds, at least 1.
    tau: f64,
    last: Instant,
    /// Average: the weighted sum in nanoseconds. Peak: the value itself.
    sum: f64,
    /// Average: the sum of the weights. Peak: 1 once there was a sample.
    weight: f64,
}

impl Ewma {
    /// The time-decayed mean, in which a sample `tau` old weighs 1/e.
    #[must_use]
    pub fn average(tau: Duration) -> Self {
        Self::new(Kind::Average, tau)
    }

    /// Up at once, down with the time constant `tau`.
    #[must_use]
    pub fn peak(tau: Duration) -> Self {
        Self::new(Kind::Peak, tau)
    }

    /// Takes in a sample.
    pub fn record(&mut self, now: Instant, value: Duration) {
        let value = nanos(value) as f64;
        let kept = self.kept(now);
        match self.kind {
            Kind::Average => {
                self.sum = self.sum * kept + value;
                self.weight = self.weight * kept + 1.0;
            }
            Kind::Peak => {
                self.sum = value.max(self.sum * kept + value * (1.0 - kept));
                self.weight = 1.0;
            }
        }
        self.move_to(now);
    }

    /// The value at `now`; `None` before the first sample.
    #[must_use]
    pub fn value(&self, now: Instant) -> Option<Duration> {
        if self.weight <= 0.0 {
            return None;
        }
        let nanos = match self.kind {
            Kind::Average => self.sum / self.weight,
            Kind::Peak => self.sum * self.kept(now),
        };
        Some(Duration::from_nanos(nanos as u64))
    }

    fn new(kind: Kind, tau: Duration) -> Self {
        Self { kind, tau: nanos(tau).max(1) as f64, last: Instant::ZERO, sum: 0.0, weight: 0.0 }
    }

    /// The share that is left at `now` of what weighed 1 at the last sample.
    fn kept(&self, now: Instant) -> f64 {
        exp_minus(now.nanos_since(self.last) as f64 / self.tau)
    }

    /// A reading slightly in the past changes nothing; one further back than `tau` means that the clock was set back.
    fn move_to(&mut self, now: Instant) {
        let back = self.last.nanos_since(now) as f64;
        if back == 0.0 || back > self.tau {
            self.last = now;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Average,
    Peak,
}

/// `exp(-x)` for `x >= 0`; `core` has none.
///
/// `x = n ln 2 + r`, so that `exp(-x) = 2^-n exp(-r)` with `r` in `[0, ln 2)`, where the Taylor series reaches f64's
/// precision within 16 terms (0.7^16 / 16! < 2^-52).
pub(super) fn exp_minus(x: f64) -> f64 {
    let halvings = x / core::f64::consts::LN_2;
    // Below 2^-1022 comes what f64 only holds with less precision; nobody misses it.
    if halvings >= 1022.0 {
        return 0.0;
    }
    let halvings = halvings as u64;
    let r = x - halvings as f64 * core::f64::consts::LN_2;
    let series = (1..=16).rev().fold(1.0, |sum, n| 1.0 - r / f64::from(n) * sum);
    series * f64::from_bits((1023 - halvings) << 52)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;

    const TAU: Duration = Duration::from_secs(10);

    #[test]
    fn nothing_is_known_before_the_first_sample() {
        assert_eq!(Ewma::average(TAU).value(Instant::FAR), None);
        assert_eq!(Ewma::peak(TAU).value(Instant::FAR), None);
    }

    #[test]
    fn samples_of_one_moment_weigh_the_same() {
        let mut latency = Ewma::average(TAU);
        for ms in [10, 20, 60] {
            latency.record(Instant::ZERO, Duration::from_millis(ms));
        }
        assert_eq!(latency.value(Instant::ZERO), Some(Duration::from_millis(30)));
        assert_eq!(
            latency.value(Instant::FAR),
            Some(Duration::from_millis(30)),
            "idle does not change a mean"
        );
    }

    #[test]
    fn a_sample_as_old_as_tau_weighs_one_over_e() {
        let mut latency = Ewma::average(TAU);
        latency.record(Instant::ZERO, Duration::from_secs(1));
        latency.record(Instant::ZERO.plus(TAU), Duration::ZERO);
        let expected = 1.0 / (1.0 + std::f64::consts::E);
        assert!((latency.value(Instant::FAR).unwrap().as_secs_f64() - expected).abs() < 1e-8);
    }

    #[test]
    fn a_peak_is_seen_at_once_and_forgotten_while_idle() {
        let mut latency = Ewma::peak(TAU);
        latency.record(Instant::ZERO, Duration::from_millis(1));
        latency.record(Instant::ZERO, Duration::from_secs(5));
        assert_eq!(latency.value(Instant::ZERO), Some(Duration::from_secs(5)));
        assert_eq!(latency.value(Instant::FAR), Some(Duration::ZERO));
    }

    #[test]
    fn a_clock_set_back_does_not_freeze_it() {
        let mut latency = Ewma::peak(TAU);
        latency.record(Instant::FAR, Duration::from_secs(1));
        latency.record(Instant::ZERO, Duration::ZERO);
        let later = latency.value(Instant::ZERO.plus(TAU)).unwrap();
        assert!(later < Duration::from_millis(369));
    }

    proptest! {
        #[test]
        fn the_exponential_is_right(x in 0.0f64..700.0) {
            let truth = (-x).exp();
            prop_assert!((exp_minus(x) - truth).abs() <= truth * 1e-12);
        }

        #[test]
        fn it_stays_between_the_least_and_the_greatest(
            samples in prop::collection::vec((any::<u64>(), 0u64..1_000_000_000_000), 1..50), peak in any::<bool>(),
        ) {
            let mut latency = if peak { Ewma::peak(TAU) } else { Ewma::average(TAU) };
            let mut last = Instant::ZERO;
            for &(now, value) in &samples {
                last = Instant::from_nanos(now);
                latency.record(last, Duration::from_nanos(value));
            }
            let value = latency.value(last).unwrap().as_nanos() as u64;
            let (least, greatest) = (
                samples.iter().map(|s| s.1).min().unwrap(), samples.iter().map(|s| s.1).max().unwrap(),
            );
            // A nanosecond for rounding.
            prop_assert!(value + 1 >= least && value <= greatest + 1);
        }
    }
}
