//! The numbers of balancing, each with its reason.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::valid::fault;
use crate::{Fault, Rules};

/// How an endpoint is chosen within a tier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Algorithm {
    /// Of two drawn by lot the cheaper: latency times calls in flight. (Mitzenmacher, "The Power of Two Choices in
    /// Randomized Load Balancing", 2001; Finagle's Peak EWMA for the latency.)
    #[default]
    PeakEwma,
    /// Of two drawn by lot the one with fewer calls in flight for its weight.
    LeastRequests,
    /// In turn, as often as the weight says.
    RoundRobin,
    /// The same key to the same endpoint, as long as that is there and not overloaded. (Karger and others, "Consistent
    /// Hashing and Random Trees", 1997; Mirrokni and others, "Consistent Hashing with Bounded Loads", 2016.)
    ConsistentHash,
}

impl Algorithm {
    /// The algorithm's name in configuration, metrics and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PeakEwma => "peak_ewma",
            Self::LeastRequests => "least_requests",
            Self::RoundRobin => "round_robin",
            Self::ConsistentHash => "consistent_hash",
        }
    }
}

/// The numbers of a [`Table`](super::Table).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// How an endpoint is chosen within a tier. By latency and load, which needs no tuning and avoids the slow.
    pub algorithm: Algorithm,
    /// Below this share of healthy weight, and if that can't carry all traffic, the checks are not believed; 0 for never. A
    /// half, as in Envoy: that most endpoints fail at once is rarer than that a check is wrong.
    pub panic_threshold: f64,
    /// How much more than its share of the traffic an endpoint can carry: nothing spills over to the next tier until fewer
    /// than one in so many is ready. 1.4, as in Envoy: a zone copes without two sevenths of its endpoints.
    pub overprovision: f64,
    /// How long an endpoint that has joined or returned takes to its full weight; zero for no slow start. Ten seconds, as long
    /// as a breaker's ramp: caches and pools that are cold get the time to warm.
    pub slow_start: Duration,
    /// Whether nearer endpoints come first. Yes: what stays in the zone is faster and costs nothing between zones.
    pub locality: bool,
    /// With consistent hashing, how many times its share of the calls in flight an endpoint may have. 1.25, from the paper's
    /// trade-off between even load and keys that stay (HAProxy suggests 1.25 to 2).
    pub load_bound: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::PeakEwma,
            panic_threshold: 0.5,
            overprovision: 1.4,
            slow_start: Duration::from_secs(10),
            locality: true,
            load_bound: 1.25,
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        [
            fault(
                !(0.0..=1.0).contains(&self.panic_threshold),
                "panic_threshold",
                format!("is {:?}", self.panic_threshold),
                "write a share of the endpoints from 0 (never) to 1, such as 0.5",
            ),
            fault(
                !(1.0..=10.0).contains(&self.overprovision),
                "overprovision",
                format!("is {:?}", self.overprovision),
                "write a factor from 1 (nothing to spare) to 10, such as 1.4",
            ),
            fault(
                self.slow_start > LONGEST_START,
                "slow_start",
                format!("is {:?}, longer than a day", self.slow_start),
                "write \"10s\" or so, or \"off\"",
            ),
            fault(
                !(1.0..=1000.0).contains(&self.load_bound),
                "load_bound",
                format!("is {:?}", self.load_bound),
                "write a factor above 1, such as 1.25; the nearer to 1, the more keys move",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A day: what is longer is a mistake.
const LONGEST_START: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn the_defaults_are_valid_and_all_faults_are_told_at_once() {
        assert_eq!(Config::default().faults(), []);
        let wrong = Config {
            panic_threshold: f64::NAN,
            overprovision: 0.9,
            slow_start: Duration::MAX,
            load_bound: f64::INFINITY,
            ..Config::default()
        };
        let fields: Vec<_> = wrong.faults().iter().map(|fault| fault.field).collect();
        assert_eq!(fields, ["panic_threshold", "overprovision", "slow_start", "load_bound"]);
    }
}
