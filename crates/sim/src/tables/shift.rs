//! A timeout under a shift of latencies.
//!
//! A hundred calls a second meet a lognormal latency (median 20 ms, sigma 0.5), which after 120 s is ten times as long, thirty
//! times, or 300 ms longer, for 300 s. Nothing is lost, so every attempt that is cut off was cut off for nothing.

use std::collections::VecDeque;
use std::time::Duration;

use seaworthy_core::call::{self, retry, timeout};
use seaworthy_core::{Instant, Rules, Seeded, Valid};

use crate::agenda::Agenda;
use crate::spread::{exponential, seconds_of};

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
        clients: Clients { count: 1, load: Load::Poisson(100.0), ..Clients::default() },
        service: Service {
            latency: Spread::Lognormal { median: Duration::from_millis(20), sigma: 0.5 },
            changes: vec![column.change()],
            ..Service::default()
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

/// What a naive timeout did after the shift.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Naive {
    /// The share of the attempts sent after the shift that were cut off.
    pub cut_off: f64,
    /// How long after the shift the timeout for the last time was shorter than the latency's median.
    pub locked_for_s: f64,
}

/// How *not* to do it, for contrast: twice the 99th percentile of the last thousand successes. What is cut off teaches it
/// nothing, so the more it cuts off, the surer it is.
#[must_use]
pub fn naive(column: Column, seed: u64) -> Naive {
    let mut rng = Seeded::new(seed);
    let (calm, shifted) = (Change::default(), column.change());
    let latency = Spread::Lognormal { median: Duration::from_millis(20), sigma: 0.5 };
    let (start, end) = (Instant::ZERO.plus(SHIFT_AT), Instant::ZERO.plus(SHIFT_AT + SHIFT_LASTS));
    let mut agenda = Agenda::new();
    let mut successes = VecDeque::new();
    let mut timeout = timeout::Config::default().initial;
    let (mut sent, mut cut_off, mut locked_for) = (0u32, 0u32, Duration::ZERO);
    agenda.enter(Instant::ZERO, None);
    while let Some((now, took)) = agenda.next() {
        if let Some(took) = took {
            successes.push_back(took);
            if successes.len() > 1_000 {
                successes.pop_front();
            }
            continue;
        }
        if now >= end {
            break;
        }
        timeout = percentile_99(&successes).map_or(timeout, |p99| p99 * 2);
        let change = if now < start { &calm } else { &shifted };
        let took =
            seconds_of(latency.draw(&mut rng).as_secs_f64() * change.slower).saturating_add(change.extra);
        if took <= timeout {
            agenda.enter(now.plus(took), Some(took));
        }
        if now >= start {
            sent += 1;
            cut_off += u32::from(took > timeout);
            let median = seconds_of(0.02 * change.slower).saturating_add(change.extra);
            locked_for = if timeout < median { now.since(start) } else { locked_for };
        }
        agenda.enter(now.plus(seconds_of(exponential(&mut rng) / 100.0)), None);
    }
    Naive { cut_off: f64::from(cut_off) / f64::from(sent.max(1)), locked_for_s: locked_for.as_secs_f64() }
}

fn percentile_99(samples: &VecDeque<Duration>) -> Option<Duration> {
    let mut sorted: Vec<Duration> = samples.iter().copied().collect();
    let place = (sorted.len() * 99).div_ceil(100).checked_sub(1)?;
    Some(*sorted.select_nth_unstable(place).1)
}

/// When the latencies shift.
pub const SHIFT_AT: Duration = Duration::from_secs(120);
/// For how long they are watched after that.
pub const SHIFT_LASTS: Duration = Duration::from_secs(300);
