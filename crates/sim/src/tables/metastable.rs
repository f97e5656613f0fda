//! Metastable failures: does an outage outlast its cause?
//!
//! Calls arrive at random at a service with one server, which takes exponential times and can serve 300 a second. Whoever has no
//! answer after a second gives up, and asks again at once as often as it may. Then the server pauses. While it does, requests
//! pile up whose callers have long gone, and when it is back it works on those first; the callers of what arrives meanwhile
//! give up as well, and ask again. If that is more than it can serve, the end of the pause is not the end of the outage
//! (Bronson et al., "Metastable Failures in Distributed Systems", HotOS 2021).
//!
//! Retries, budgets, expiry and the order of the queue are those of the core. Refusing costs the server nothing.

use std::time::Duration;

use seaworthy_core::call::{self, budget, retry, timeout};
use seaworthy_core::gate::{limit, queue};
use seaworthy_core::{Mode, Rules, Valid};

use crate::{Change, Clients, Guard, Load, Policies, Row, Scenario, Service, Spread, run};

/// The columns of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Column {
    /// One retry; the server works on everything, the oldest first.
    OneRetry,
    /// Three retries.
    ThreeRetries,
    /// Three retries from a budget: a tenth of the calls.
    Bucket,
    /// Three retries; the server drops what its caller no longer waits for.
    ThreeRetriesExpiry,
    /// Three retries from a budget of a tenth; the server drops what its caller no longer waits for.
    BucketExpiry,
    /// Three retries; the server drops what its caller no longer waits for, and begins with the newest.
    ThreeRetriesLifo,
    /// Three retries from a budget, and a queue, with the numbers that both have by default.
    Default,
}

impl Column {
    /// All columns, from the left.
    pub const ALL: [Self; 7] = [
        Self::OneRetry,
        Self::ThreeRetries,
        Self::Bucket,
        Self::ThreeRetriesExpiry,
        Self::BucketExpiry,
        Self::ThreeRetriesLifo,
        Self::Default,
    ];

    /// The column's heading.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneRetry => "1 retry",
            Self::ThreeRetries => "3 retries",
            Self::Bucket => "10% bucket",
            Self::ThreeRetriesExpiry => "3 retries + drop expired",
            Self::BucketExpiry => "10% bucket + drop expired",
            Self::ThreeRetriesLifo => "3 retries, LIFO + expiry",
            Self::Default => "defaults",
        }
    }

    fn call(self) -> call::Config {
        let budget = match self {
            Self::Bucket | Self::BucketExpiry => budget::Config { share: 0.1, per_second: 0.0, burst: 10 },
            Self::Default => budget::Config::default(),
            // More than can be spent.
            _ => budget::Config { share: 1.0, per_second: 1e6, burst: 1_000_000 },
        };
        call::Config {
            deadline: None,
            timeout: timeout::Config { fixed: Some(PATIENCE), ..timeout::Config::default() },
            retry: retry::Config {
                attempts: if self == Self::OneRetry { 2 } else { 4 },
                base: Duration::ZERO,
                cap: Duration::ZERO,
                ..retry::Config::default()
            },
            budget,
            ..call::Config::default()
        }
    }

    fn guard(self) -> Option<Guard> {
        let expiring = |overload_after| queue::Config {
            // More than ever wait, and longer than anybody waits: the callers' deadlines alone decide.
            size: 1_000_000,
            max_wait: PATIENCE * 2,
            overload_after,
            mode: Mode::Enforce,
        };
        let queue = match self {
            Self::OneRetry | Self::ThreeRetries | Self::Bucket => return None,
            Self::ThreeRetriesExpiry | Self::BucketExpiry => expiring(Duration::MAX),
            Self::ThreeRetriesLifo => expiring(Duration::ZERO),
            Self::Default => queue::Config::default(),
        };
        let one = limit::Config { max_in_flight: 1, ..limit::Config::default() };
        Some(Guard { limit: checked(one), queue: checked(queue), takes: Duration::ZERO })
    }
}

/// The scenario of one cell: its phases are before the pause, the pause, the first second after it, the rest, and the last minute.
///
/// # Panics
/// If `rate`, in calls a second, is not above 0.
#[must_use]
pub fn scenario(column: Column, rate: f64, pause: Duration, seed: u64) -> Scenario {
    assert!(rate > 0.0 && rate.is_finite(), "{rate} is no rate");
    let repaired = PAUSE_AT + pause;
    let duration = repaired + WATCHED;
    let pause = Change { at: PAUSE_AT, lasts: Some(pause), paused: true, ..Change::default() };
    let mark = |at| Change { at, ..Change::default() };
    Scenario {
        name: format!("{}, {rate} a second, a pause of {:?}", column.name(), pause.lasts.unwrap_or_default()),
        seed,
        duration,
        record: false,
        clients: Clients { load: Load::Poisson(rate), ..Clients::default() },
        service: Service {
            servers: Some(1),
            guard: column.guard(),
            latency: Spread::Exponential(Duration::from_secs_f64(1.0 / CAPACITY)),
            changes: vec![pause, mark(repaired + Duration::from_secs(1)), mark(duration - LAST)],
            ..Service::default()
        },
        policies: Policies::without_gates(checked(column.call())),
    }
}

/// What became of the service after the pause.
#[derive(Clone, PartialEq, Debug)]
pub struct Cell {
    /// From a second after the end of the pause to the last minute.
    pub after: Row,
    /// The last minute.
    pub last: Row,
}

impl Cell {
    /// Whether the outage outlasted its cause: fewer than half of the calls of the last minute succeeded.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.last.success < 0.5
    }
}

/// What `column` makes of so many calls a second after a pause of that length.
///
/// # Panics
/// As [`scenario`] does.
#[must_use]
pub fn cell(column: Column, rate: f64, pause: Duration, seed: u64) -> Cell {
    let mut phases = run(&scenario(column, rate, pause, seed)).phases;
    let last = phases.pop().unwrap_or_default();
    Cell { after: phases.pop().unwrap_or_default(), last }
}

fn checked<C: Rules>(config: C) -> Valid<C> {
    match Valid::new(config) {
        Ok(valid) => valid,
        Err(faults) => unreachable!("{faults:?}"),
    }
}

/// What the server can serve, in calls a second.
pub const CAPACITY: f64 = 300.0;
/// When the pause begins: everything has found its level by then.
pub const PAUSE_AT: Duration = Duration::from_secs(30);
/// For how long the service is watched after the pause.
pub const WATCHED: Duration = Duration::from_secs(300);
/// The part of that which tells whether it is stuck.
const LAST: Duration = Duration::from_secs(60);
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
