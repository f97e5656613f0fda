//! What a worker counts.
//!
//! Every worker has its own counters, which it alone writes, so counting is a load, an addition and a store, without a
//! lock or a shared cache line. Whoever reads adds them up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seaworthy_config::Config;
use seaworthy_core::Outcome;
use seaworthy_core::call::Kind;

/// A count that one thread writes.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds `n`.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Replaces it: for what goes up and down.
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Its value.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a worker counts.
#[derive(Debug)]
pub(crate) struct Tally {
    /// By route; the last is for calls that no route took.
    pub routes: Vec<RouteTally>,
    /// By upstream: attempts that were settled.
    pub settled: Vec<Count>,
    /// Client connections accepted.
    pub accepted: Count,
    /// When the worker showed last that it lives, in nanoseconds of its clock.
    pub pulse: Count,
    /// Log lines dropped because the writer was behind.
    pub unlogged: Count,
}

/// What a route answers with instead of its upstream's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Degraded {
    Stale,
    Upstream,
    Static,
    /// Of a flag service.
    Flags,
}

impl Degraded {
    pub(crate) const ALL: [Self; 4] = [Self::Stale, Self::Upstream, Self::Static, Self::Flags];

    /// Its name in configuration, headers, metrics and logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Upstream => "upstream",
            Self::Static => "static",
            Self::Flags => "flags",
        }
    }
}

/// The counts of one route.
#[derive(Debug, Default)]
pub(crate) struct RouteTally {
    /// By class of the status: 1xx to 5xx, and calls whose caller went away.
    pub requests: [Count; 6],
    /// Calls that a policy of ours refused.
    pub rejected: Count,
    /// Calls answered with what there is instead, by [`Degraded`].
    pub degraded: [Count; Degraded::ALL.len()],
    /// From the request's head to the answer's.
    pub head: Histogram,
    /// From the request's head to the answer's end.
    pub total: Histogram,
}

/// What one worker counts of one endpoint, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct EndpointTally {
    /// By [`outcome_name`].
    pub outcomes: [Count; OUTCOMES.len()],
    /// By [`KINDS`].
    pub kinds: [Count; 3],
    /// Attempts that the breaker did not let start.
    pub refused: Count,
    /// Connections made.
    pub connected: Count,
    /// Answers that broke off.
    pub broken_bodies: Count,
    /// Latencies that were learned.
    pub timed: Count,
    /// The sum of their logarithms, as the comparison of endpoints takes them.
    pub logs: Count,
    /// Attempts in flight.
    pub in_flight: Count,
    /// Idle connections.
    pub idle: Count,
}

impl Tally {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            routes: (0..=config.routes.len()).map(|_| RouteTally::default()).collect(),
            settled: config.upstreams.iter().map(|_| Count::default()).collect(),
            accepted: Count::default(),
            pulse: Count::default(),
            unlogged: Count::default(),
        }
    }
}

impl EndpointTally {
    /// Counts how an attempt ended.
    pub(crate) fn count(&self, outcome: Outcome) {
        let name = outcome_name(outcome);
        if let Some(n) = OUTCOMES.iter().position(|known| *known == name) {
            self.outcomes[n].add(1);
        }
    }

    /// Attempts that went well.
    pub(crate) fn successes(&self) -> u64 {
        self.outcomes[0].get()
    }

    /// Attempts that failed, by whatever failure; an endpoint that is overloaded and says so is none.
    pub(crate) fn failures(&self) -> u64 {
        self.outcomes[FAILURES].iter().map(Count::get).sum()
    }

    /// Counts an attempt that starts.
    pub(crate) fn start(&self, kind: Kind) {
        if let Some(n) = KINDS.iter().position(|known| *known == kind) {
            self.kinds[n].add(1);
        }
    }
}

/// The outcome's name in metrics and logs.
pub(crate) const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Failure(failure, _) => failure.name(),
        Outcome::Overloaded(_) => "overloaded",
        Outcome::Abandoned => "abandoned",
        _ => "ignored",
    }
}

/// Every outcome by its name.
pub(crate) const OUTCOMES: [&str; 9] =
    ["success", "connect", "unprocessed", "timeout", "broken", "error", "overloaded", "ignored", "abandoned"];
/// Those of them that are failures.
const FAILURES: std::ops::RangeInclusive<usize> = 1..=5;
/// Every kind of attempt.
pub(crate) const KINDS: [Kind; 3] = [Kind::First, Kind::Retry, Kind::Hedge];

/// Durations in buckets whose bounds double: enough to see a shift, and a few hundred bytes.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// The first holds what took up to [`FIRST`], each further one up to twice as much, the last all the rest.
    pub buckets: [Count; BUCKETS],
    /// The sum of all, in nanoseconds.
    pub sum: Count,
}

impl Histogram {
    /// Counts `took`.
    pub(crate) fn record(&self, took: Duration) {
        let nanos = seaworthy_core::nanos(took);
        // The power of two at or above the multiple of the first bound.
        let multiple = nanos.saturating_sub(1) / FIRST;
        let n = (u64::BITS - multiple.leading_zeros()) as usize;
        self.buckets[n.min(BUCKETS - 1)].add(1);
        self.sum.add(nanos);
    }

    /// The upper bound of bucket `n`, in seconds; `None` for the last.
    pub(crate) fn bound(n: usize) -> Option<f64> {
        (n + 1 < BUCKETS).then(|| (FIRST << n) as f64 / 1e9)
    }
}

/// 250 microseconds: a healthy call over loopback is about there.
const FIRST: u64 = 250_000;
/// Up to 65.5 s, twice the default deadline.
pub(crate) const BUCKETS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        for n in 0..BUCKETS - 1 {
            histogram.record(Duration::from_nanos(FIRST << n));
            assert_eq!(histogram.buckets[n].get(), 1, "{n}");
            histogram.record(Duration::from_nanos((FIRST << n) + 1));
            assert_eq!(histogram.buckets[n + 1].get(), 1, "{n}");
            histogram.buckets[n + 1].set(0);
        }
        assert_eq!(Histogram::bound(0), Some(0.000_25));
        assert_eq!(Histogram::bound(BUCKETS - 1), None);
    }
}
