//! What a limit that moves learns from.

use core::time::Duration;

use crate::stats::log::{log2_fixed, root};
use crate::{Failure, Outcome, nanos};

/// Calls that have ended, summed up: sums of any order and any division between threads are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// How many ended, well or badly; not those about which nothing is to be learned.
    pub calls: u32,
    /// The latencies of those that were answered.
    pub answered: Latencies,
    /// The ages of those that were cut off before there was an answer: they would have taken longer.
    pub cut_off: Latencies,
    /// How many the upstream refused because it has too much to do.
    pub overloaded: u32,
    /// How many timed out.
    pub timed_out: u32,
    /// How many calls could not start at once since the last batch, whether they were refused or wait.
    pub held_back: u32,
    /// The most calls that were in flight.
    pub most_in_flight: u32,
}

impl Batch {
    /// Adds a call that ended with `outcome` after `took` (its time in the limit's queue not included), when with it
    /// `in_flight` were in flight.
    pub fn add(&mut self, outcome: Outcome, took: Duration, in_flight: u32) {
        self.most_in_flight = self.most_in_flight.max(in_flight);
        let counts = !matches!(outcome, Outcome::Ignored | Outcome::Abandoned);
        self.calls = self.calls.saturating_add(u32::from(counts));
        match outcome {
            Outcome::Success => self.answered.add(took),
            // What fails may fail fast, and would make the upstream look fast.
            Outcome::Failure(Failure::Timeout, _) => {
                self.timed_out = self.timed_out.saturating_add(1);
                self.cut_off.add(took);
            }
            Outcome::Overloaded(_) | Outcome::Failure(Failure::Unprocessed, _) => {
                self.overloaded = self.overloaded.saturating_add(1);
            }
            Outcome::Abandoned => self.cut_off.add(took),
            Outcome::Failure(..) | Outcome::Ignored => {}
        }
    }

    /// Adds the calls of another batch.
    pub fn merge(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.answered.merge(&other.answered);
        self.cut_off.merge(&other.cut_off);
        self.overloaded = self.overloaded.saturating_add(other.overloaded);
        self.timed_out = self.timed_out.saturating_add(other.timed_out);
        self.held_back = self.held_back.saturating_add(other.held_back);
        self.most_in_flight = self.most_in_flight.max(other.most_in_flight);
    }

    /// The typical latency. Those cut off count if they were late; one that was given up at once says nothing.
    pub(super) fn level(&self) -> Option<Level> {
        let mut all = self.answered;
        let late = self.cut_off.mean() >= self.answered.mean();
        if late {
            all.merge(&self.cut_off);
        }
        all.level()
    }

    /// How many latencies say something.
    pub(super) fn timed(&self) -> u32 {
        self.answered.count.saturating_add(self.cut_off.count)
    }
}

/// Latencies, summed up as logarithms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latencies {
    /// How many.
    pub count: u32,
    /// The sum of their [`log2_fixed`].
    pub logs: u64,
    /// The sum of the squares of these.
    pub squares: u64,
    /// The sum of the latencies themselves, in nanoseconds.
    pub nanos: u64,
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        let log = u64::from(log2_fixed(nanos(latency)));
        // No sum overflows: 2^32 squares of at most 2^32 each.
        if self.count < u32::MAX {
            self.count += 1;
            self.logs += log;
            self.squares += log * log;
            self.nanos = self.nanos.saturating_add(nanos(latency));
        }
    }

    fn merge(&mut self, other: &Self) {
        if let Some(count) = self.count.checked_add(other.count) {
            self.count = count;
            self.logs = self.logs.saturating_add(other.logs);
            self.squares = self.squares.saturating_add(other.squares);
            self.nanos = self.nanos.saturating_add(other.nanos);
        }
    }

    /// The mean logarithm; 0 of none.
    fn mean(&self) -> f64 {
        self.logs as f64 / f64::from(self.count.max(1)) / FIXED
    }

    fn level(&self) -> Option<Level> {
        let count = u128::from(self.count);
        let (logs, squares) = (u128::from(self.logs), u128::from(self.squares));
        // In whole numbers, as the difference is small against the two.
        let spread = (count * squares).saturating_sub(logs * logs) as f64;
        let n = f64::from(self.count);
        (self.count > 1).then(|| Level {
            log2: self.mean(),
            // The standard error of the mean: the sample's deviation by the root of its size.
            error: root(spread / (n * n * (n - 1.0))) / FIXED,
            mean: (self.nanos as f64 / n).max(1.0),
        })
    }
}

/// A typical latency: the mean of the logarithms to base 2 of nanoseconds, of which one outlier is only one, and how far chance
/// alone may have moved it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Level {
    pub(super) log2: f64,
    pub(super) error: f64,
    /// The plain mean in nanoseconds, of which Little's law speaks.
    pub(super) mean: f64,
}

/// [`log2_fixed`] counts in 1024ths.
const FIXED: f64 = 1024.0;
