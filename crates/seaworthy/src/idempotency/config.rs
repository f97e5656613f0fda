//! The numbers and choices of idempotency keys.

use std::time::Duration;

use seaworthy_core::idempotency::OnUnknown;
use seaworthy_core::{Fault, Rules};

/// The numbers and choices of a [`Keys`](super::Keys).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// How long an operation may run: who holds a key for longer is taken for dead. It is written into the key's record, so
    /// that others go by the owner's, whatever theirs is. 60 s, twice the longest call
    /// ([`call::Config::deadline`](seaworthy_core::call::Config::deadline)); whoever runs an operation has to stop before: see
    /// [`Running::stop_at`](super::Running::stop_at).
    pub lease: Duration,
    /// How long a result is remembered, and with it that there was one. 24 h, the least that Stripe keeps its own.
    pub retention: Duration,
    /// What becomes of an operation of which nobody knows how it ended.
    pub on_unknown: OnUnknown,
    /// What who asks while it runs is told.
    pub busy: Busy,
    /// What happens while the store is down.
    pub when_down: WhenDown,
    /// How long one step of the store may take. 1 s: a durable write to a busy disk takes some milliseconds, and a caller who
    /// waits for longer is better told. So much of the lease is left for writing down how an operation ended, so it is shorter.
    pub store_timeout: Duration,
}

/// What who asks for an operation that is running is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Busy {
    /// That it is running (409), and to come back.
    #[default]
    Refuse,
    /// Nothing until it is done, for this long at most.
    Wait(Duration),
}

/// What happens to an operation whose key can't be looked up. One that can be read, though not written, is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenDown {
    /// It is refused (503): it might be the second time. The default, as a key that is not honoured is worse than none.
    #[default]
    Refuse,
    /// It is carried out, and not remembered.
    Allow,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
            retention: Duration::from_secs(24 * 60 * 60),
            on_unknown: OnUnknown::default(),
            busy: Busy::default(),
            when_down: WhenDown::default(),
            store_timeout: Duration::from_secs(1),
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |field, wrong: bool, problem: &str, remedy: &str| {
            if wrong {
                faults.push(Fault { field, problem: problem.into(), remedy: remedy.into() });
            }
        };
        fault(
            "lease",
            self.lease.is_zero(),
            "is nothing",
            "write how long an operation may run, such as 60s",
        );
        fault(
            "lease",
            !self.lease.is_zero() && self.lease <= self.store_timeout,
            "is not longer than `store_timeout`, so that no time is left for the operation",
            "write a longer lease, such as 60s, or a shorter `store_timeout`",
        );
        fault(
            "retention",
            self.retention < self.lease * 2,
            "is shorter than two leases, so that a running operation could be forgotten",
            "write a longer time, such as 24h",
        );
        fault(
            "store_timeout",
            self.store_timeout.is_zero(),
            "is nothing",
            "write how long to wait, such as 1s",
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(lease: u64, retention: u64, store_timeout: u64) -> Vec<&'static str> {
        let [lease, retention, store_timeout] = [lease, retention, store_timeout].map(Duration::from_millis);
        let config = Config { lease, retention, store_timeout, ..Config::default() };
        config.faults().into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn there_is_time_for_the_operation_and_for_writing_down_how_it_ended() {
        assert!(Config::default().faults().is_empty());
        assert!(faults(1_001, 2_002, 1_000).is_empty());
        assert_eq!(faults(1_000, 2_000, 1_000), ["lease"]);
        assert_eq!(faults(1_001, 2_001, 1_000), ["retention"]);
        assert_eq!(faults(0, 0, 0), ["lease", "store_timeout"]);
    }
}
