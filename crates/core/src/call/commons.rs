//! What the calls to one upstream share: what was learned of its latency, and the budgets for extra attempts.

use core::time::Duration;

use super::Config;
use super::budget::Budget;
use super::timeout::Timeout;
use crate::stats::quantile::Quantile;
use crate::{Instant, Mode, Valid};

/// What a [`Call`](super::Call) needs of what it shares with its neighbours.
///
/// [`Commons`] is the sequential form; a driver with several threads puts its own sharing behind the same questions.
pub trait Shared {
    /// What is known of the upstream's latency.
    fn learned(&mut self, now: Instant) -> Learned;
    /// Learns from an attempt.
    fn observe(&mut self, now: Instant, sample: Sample);
    /// Notes that a call began.
    fn deposit(&mut self, now: Instant);
    /// Takes the price of an extra attempt; false if the budget is spent.
    fn withdraw(&mut self, now: Instant, extra: Extra) -> bool;
    /// Gives the price of an extra attempt back that was never sent.
    fn refund(&mut self, now: Instant, extra: Extra);
}

/// The two kinds of extra attempts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Extra {
    /// After a failure.
    Retry,
    /// Beside a slow attempt.
    Hedge,
}

/// What an attempt tells about the upstream's latency.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sample {
    /// It was answered after this long.
    Took(Duration),
    /// It was given up after this long, and would have taken longer.
    Above(Duration),
}

/// What is known of an upstream's latency, ready for use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Learned {
    /// How long an attempt may take; `None` if only the deadline limits it.
    pub timeout: Option<Duration>,
    /// How long to wait before a hedge; `None` while that is unknown or hedging is off.
    pub hedge_after: Option<Duration>,
    /// The quantile that the timeout follows, before its multiplier: an attempt older than this is late.
    pub late: Option<Duration>,
    /// The median, once there are enough samples.
    pub typical: Option<Duration>,
}

/// The sequential form of [`Shared`], for one thread, or behind a lock.
#[derive(Clone, Debug)]
pub struct Commons {
    config: Valid<Config>,
    seen: Quantile,
    timeout: Timeout,
    learned: Learned,
    stale_at: Instant,
    retries: Budget,
    hedges: Budget,
}

/// The state of a [`Commons`] at a moment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Snapshot {
    /// What is learned.
    pub learned: Learned,
    /// How many samples that rests on.
    pub samples: u64,
    /// Tokens left for retries.
    pub retry_tokens: f64,
    /// Tokens left for hedges.
    pub hedge_tokens: f64,
}

impl Commons {
    /// Knows nothing yet; the budgets are full.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        let mut commons = Self {
            config,
            seen: Quantile::new(config.timeout.window),
            timeout: Timeout::new(part(config.timeout)),
            learned: Learned::default(),
            stale_at: Instant::ZERO,
            retries: Budget::new(part(config.budget)),
            hedges: Budget::new(part(config.hedge.budget)),
        };
        commons.learned.timeout = commons.timeout_in_force();
        commons
    }

    /// Takes new numbers and keeps what was learned. A new window begins empty.
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        if config.timeout.window != self.config.timeout.window {
            self.seen = Quantile::new(config.timeout.window);
        }
        self.timeout.reconfigure(part(config.timeout));
        self.retries.reconfigure(part(config.budget));
        self.hedges.reconfigure(part(config.hedge.budget));
        self.config = config;
        self.stale_at = Instant::ZERO;
    }

    /// Learns from `samples` and tells what is known now, afresh. For drivers that batch good news.
    pub fn refresh(&mut self, now: Instant) -> Learned {
        self.timeout.learn(now, &self.seen);
        let enough = self.seen.count(now) >= u64::from(self.config.timeout.minimum_samples);
        let known = |q| {
            let estimate = if enough { self.seen.quantile(now, q) } else { None };
            estimate.filter(|e| !e.above).map(|e| e.value)
        };
        let hedge = self.config.hedge;
        self.learned = Learned {
            timeout: self.timeout_in_force(),
            hedge_after: known(hedge.quantile)
                .filter(|_| hedge.mode != Mode::Off)
                .map(|d| d.max(hedge.floor)),
            late: known(self.config.timeout.quantile),
            typical: known(0.5),
        };
        self.stale_at = now.plus(REFRESH);
        self.learned
    }

    /// Notes that `calls` calls began. For drivers that batch good news.
    pub fn deposit_many(&mut self, now: Instant, calls: u32) {
        self.retries.deposit(now, calls);
        self.hedges.deposit(now, calls);
    }

    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            learned: self.learned,
            samples: self.seen.count(now),
            retry_tokens: self.retries.tokens(now),
            hedge_tokens: self.hedges.tokens(now),
        }
    }

    /// The numbers in force.
    #[must_use]
    pub const fn config(&self) -> &Valid<Config> {
        &self.config
    }

    fn timeout_in_force(&self) -> Option<Duration> {
        (self.config.timeout.mode != Mode::Off).then(|| self.timeout.current())
    }

    fn budget(&mut self, extra: Extra) -> &mut Budget {
        match extra {
            Extra::Retry => &mut self.retries,
            Extra::Hedge => &mut self.hedges,
        }
    }
}

impl Shared for Commons {
    fn learned(&mut self, now: Instant) -> Learned {
        // Too far ahead of `now` is as stale: the clock jumped back.
        let fresh = now < self.stale_at && self.stale_at.since(now) <= REFRESH;
        if fresh { self.learned } else { self.refresh(now) }
    }

    fn observe(&mut self, now: Instant, sample: Sample) {
        match sample {
            Sample::Took(latency) => self.seen.record(now, latency),
            Sample::Above(age) => self.seen.record_above(now, age),
        }
    }

    fn deposit(&mut self, now: Instant) {
        self.deposit_many(now, 1);
    }

    fn withdraw(&mut self, now: Instant, extra: Extra) -> bool {
        self.budget(extra).withdraw(now)
    }

    fn refund(&mut self, _now: Instant, extra: Extra) {
        self.budget(extra).refund();
    }
}

/// A part of a configuration that was checked whole.
fn part<C: crate::Rules + Copy>(config: C) -> Valid<C> {
    match Valid::new(config) {
        Ok(valid) => valid,
        Err(_) => unreachable!("the faults of the parts are faults of the whole"),
    }
}

/// How long what was learned is used before it is computed anew: a few times a second follows a shift within the
/// shortest window, and keeps the cost (about a microsecond) out of the calls.
const REFRESH: Duration = Duration::from_millis(100);
