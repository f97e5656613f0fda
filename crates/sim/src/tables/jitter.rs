//! Backoff and jitter under contention: Brooker, "Exponential Backoff And Jitter" (AWS, 2015).
//!
//! `n` clients each update the one row of a store once, with optimistic concurrency: read the version, write if it is still
//! that, otherwise back off and begin again. Every message takes |N(10, 2)| ms. Counted are the writes of all clients
//! and the time until the last one is through. The waits are drawn by the core's [`Backoff`].

use std::time::Duration;

use seaworthy_core::call::retry::{Backoff, Config, Jitter};
use seaworthy_core::{Instant, Rng as _, Seeded, Valid};

use crate::agenda::Agenda;
use crate::spread::{normal, seconds_of};

/// The columns of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Column {
    /// No wait at all.
    NoBackoff,
    /// Exponential backoff with this jitter.
    Backoff(Jitter),
}

impl Column {
    /// All columns, from the left.
    pub const ALL: [Self; 5] = [
        Self::NoBackoff,
        Self::Backoff(Jitter::None),
        Self::Backoff(Jitter::Equal),
        Self::Backoff(Jitter::Full),
        Self::Backoff(Jitter::Decorrelated),
    ];

    /// The column's heading.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoBackoff => "none",
            Self::Backoff(Jitter::None) => "exponential",
            Self::Backoff(jitter) => jitter.name(),
        }
    }

    fn backoff(self) -> Backoff {
        let (base_ms, cap_ms, jitter) = match self {
            Self::NoBackoff => (0, 0, Jitter::None),
            // The original counts the failed attempt before it doubles, so its first wait is twice its base of 5 ms;
            // decorrelated jitter starts from the base itself.
            Self::Backoff(Jitter::Decorrelated) => (5, 2_000, Jitter::Decorrelated),
            Self::Backoff(jitter) => (10, 2_000, jitter),
        };
        let (base, cap) = (Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
        match Valid::new(Config { base, cap, jitter, ..Config::default() }) {
            Ok(valid) => Backoff::new(&valid),
            Err(_) => unreachable!("the cap is not below the base"),
        }
    }
}

/// A cell of the table, the mean over the trials.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cell {
    /// Writes of all clients together.
    pub calls: f64,
    /// Until the last client was through, in milliseconds.
    pub finish_ms: f64,
}

/// The cell for `clients` clients under `column`, over `trials` trials.
#[must_use]
pub fn cell(column: Column, clients: usize, trials: u32, seed: u64) -> Cell {
    let mut seeds = Seeded::new(seed);
    let (mut calls, mut finish) = (0u64, 0u64);
    for _ in 0..trials {
        let (trial_calls, end) = trial(column, clients, seeds.next_u64());
        calls += trial_calls;
        finish += end.as_nanos();
    }
    let per_trial = 1.0 / f64::from(trials.max(1));
    Cell { calls: calls as f64 * per_trial, finish_ms: finish as f64 * 1e-6 * per_trial }
}

/// A message on its way.
#[derive(Clone, Copy, Debug)]
enum Message {
    /// To the store.
    Read,
    /// To the client: the version.
    Version(u64),
    /// To the store: only if the version is still this.
    Write(u64),
    /// To the client: whether it was.
    Written(bool),
}

fn trial(column: Column, clients: usize, seed: u64) -> (u64, Instant) {
    let mut rng = Seeded::new(seed);
    let mut backoffs = vec![column.backoff(); clients];
    let mut agenda = Agenda::new();
    for client in 0..clients {
        agenda.enter(Instant::ZERO.plus(delay(&mut rng)), (client, Message::Read));
    }
    let (mut version, mut calls, mut end) = (0, 0, Instant::ZERO);
    while let Some((now, (client, message))) = agenda.next() {
        end = now;
        let mut wait = Duration::ZERO;
        let next = match message {
            Message::Read => Message::Version(version),
            Message::Version(read) => Message::Write(read),
            Message::Write(expected) => {
                calls += 1;
                let written = expected == version;
                version += u64::from(written);
                Message::Written(written)
            }
            Message::Written(true) => continue,
            Message::Written(false) => {
                wait = backoffs[client].next(&mut rng);
                Message::Read
            }
        };
        agenda.enter(now.plus(wait).plus(delay(&mut rng)), (client, next));
    }
    (calls, end)
}

/// |N(10, 2)| ms.
fn delay(rng: &mut Seeded) -> Duration {
    seconds_of((10.0 + 2.0 * normal(rng)).abs() * 1e-3)
}
