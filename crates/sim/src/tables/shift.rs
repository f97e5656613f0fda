//! A timeout under a shift of latencies.
//!
//! A hundred calls a second meet a lognormal latency (median 20 ms, sigma 0.5), which after 120 s is ten times as long, thirty
//! times, or 300 ms longer, for 300 s. Nothing is lost, so every attempt that is cut off was cut off for nothing.

use std::time::Duration;

use seaworthy_core::call::{self, Repeat, retry, timeout};
use seaworthy_core::{Rules, Valid};

use crate::{Change, Clients, Load, Policies, Row, Scenario, Service, Spread, run};

/// The columns of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Column {
    /// Ten times as slow.
    Times10,
    /// Thirty times as slow.
    Times30,
    /// 300 ms on top.
    Plus300Ms,
}

impl Column {
    /// All columns, from the left.
    pub const ALL: [Self; 3] = [Self::Times10, Self::Times30, Self::Plus300Ms];

    /// The column's heading.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Times10 => "x10",
            Self::Times30 => "x30",
            Self::Plus300Ms => "+300 ms",
        }
    }

    fn change(self) -> Change {
        let change = Change { at: SHIFT_AT, lasts: Some(SHIFT_LASTS), ..Change::default() };
        match self {
            Self::Times10 => Change { slower: 10.0, ..change },
            Self::Times30 => Change { slower: 30.0, ..change },
            Self::Plus300Ms => Change { extra: Duration::from_millis(300), ..change },
        }
    }
}

/// The adaptive timeout of the table: the defaults, between 10 ms and 5 s.
#[must_use]
pub fn adaptive() -> timeout::Config {
    let (floor, ceiling) = (Duration::from_millis(10), Duration::from_secs(5));
    timeout::Config { floor, ceiling, ..timeout::Config::default() }
}

/// A timeout of 250 ms that stays.
#[must_use]
pub fn fixed() -> timeout::Config {
    timeout::Config { fixed: Some(Duration::from_millis(250)), ..timeout::Config::default() }
}

/// The scenario of one cell, for drivers of other timeouts too.
#[must_use]
pub fn scenario(column: Column, timeout: timeout::Config, seed: u64) -> Scenario {
    let call = call::Config {
        deadline: None,
        timeout,
        retry: retry::Config { attempts: 1, ..retry::Config::default() },
        ..call::Config::default()
    };
    Scenario {
        name: format!("latency {}", column.name()),
        seed,
        duration: SHIFT_AT + SHIFT_LASTS,
        record: false,
        clients: Clients { count: 1, load: Load::Poisson(100.0), repeat: Repeat::Safe },
        service: Service {
            servers: None,
            queue: None,
            latency: Spread::Lognormal { median: Duration::from_millis(20), sigma: 0.5 },
            failures: 0.0,
            drops_cancelled: false,
            changes: vec![column.change()],
        },
        policies: Policies::without_gates(checked(call)),
    }
}

/// What `timeout` did after the shift: [`Row::timed_out`] of [`Row::attempts`] were cut off, and [`Row::cut_off_for_s`] is how
/// long it took to escape.
///
/// # Panics
/// If `timeout` has [faults](Rules::faults).
#[must_use]
pub fn cell(column: Column, timeout: timeout::Config, seed: u64) -> Row {
    let mut phases = run(&scenario(column, timeout, seed)).phases;
    phases.pop().unwrap_or_default()
}

fn checked<C: Rules>(config: C) -> Valid<C> {
    match Valid::new(config) {
        Ok(valid) => valid,
        Err(faults) => panic!("{faults:?}"),
    }
}

/// When the latencies shift.
pub const SHIFT_AT: Duration = Duration::from_secs(120);
/// For how long they are watched after that.
pub const SHIFT_LASTS: Duration = Duration::from_secs(300);
