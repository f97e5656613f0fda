//! Retries against budgets: Brooker, "Fixing retries with token buckets and circuit breakers" (2022).
//!
//! A hundred clients make ten calls a second each, for a minute, to a service that fails a share of its requests whatever
//! the load. What a policy is worth shows in two numbers: the share of calls that succeed in the end, and how many requests
//! the service gets for each.

use std::time::Duration;

use seaworthy_core::call::{self, budget, retry, timeout};
use seaworthy_core::{Mode, Rules, Valid};

use crate::{Clients, Load, Policies, Row, Scenario, Service, Spread, run};

/// The columns of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Column {
    /// No retries.
    NoRetries,
    /// Up to three retries of every call.
    ThreeRetries,
    /// Up to three retries of every call, from a budget for each client: a tenth of its calls, and five saved up.
    Budget,
}

impl Column {
    /// All columns, from the left.
    pub const ALL: [Self; 3] = [Self::NoRetries, Self::ThreeRetries, Self::Budget];

    /// The column's heading.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRetries => "no retries",
            Self::ThreeRetries => "3 retries",
            Self::Budget => "budget",
        }
    }

    fn call(self) -> call::Config {
        let attempts = if self == Self::NoRetries { 1 } else { 4 };
        let budget = match self {
            Self::Budget => budget::Config { share: 0.1, per_second: 0.0, burst: 5 },
            // More than can be spent.
            _ => budget::Config { share: 1.0, per_second: 1e6, burst: 1_000_000 },
        };
        call::Config {
            deadline: None,
            // Nothing is timed, so nothing need be learned.
            timeout: timeout::Config {
                mode: Mode::Off,
                minimum_samples: u32::MAX,
                ..timeout::Config::default()
            },
            retry: retry::Config {
                attempts,
                base: Duration::ZERO,
                cap: Duration::ZERO,
                ..retry::Config::default()
            },
            budget,
            ..call::Config::default()
        }
    }
}

/// The scenario of one cell.
///
/// # Panics
/// If `failures` is no share.
#[must_use]
pub fn scenario(column: Column, failures: f64, seed: u64) -> Scenario {
    assert!((0.0..=1.0).contains(&failures), "{failures} is no share");
    Scenario {
        name: format!("{}, {}% fail", column.name(), failures * 100.0),
        seed,
        duration: Duration::from_secs(60),
        record: false,
        clients: Clients { count: 100, load: Load::Poisson(10.0), ..Clients::default() },
        service: Service {
            // Two exponential network delays of 10 ms in the original; only the mean matters to a service without a queue.
            latency: Spread::Exponential(Duration::from_millis(20)),
            failures,
            ..Service::default()
        },
        policies: Policies::without_gates(checked(column.call())),
    }
}

/// What `column` makes of a service that fails this share of its requests: see [`Row::success`] and [`Row::load`].
#[must_use]
pub fn cell(column: Column, failures: f64, seed: u64) -> Row {
    run(&scenario(column, failures, seed)).total
}

fn checked<C: Rules>(config: C) -> Valid<C> {
    match Valid::new(config) {
        Ok(valid) => valid,
        Err(faults) => unreachable!("{faults:?}"),
    }
}
