//! Health: what active checks make of one endpoint.
//!
//! # What it is for
//! An endpoint that nobody calls learns nothing from calls: checks find out that it is down before the first call does, and
//! that it is up again without risking one.
//!
//! # When not to use it
//! As the only judge. A check asks one question of the endpoint itself; what its callers see is judged by their calls
//! ([`breaker`](super::breaker), [`outlier`](super::outlier)). An endpoint that is fine in its own eyes passes every check.
//!
//! # The states
//! ```text
//!            one failure                          `up` successes in a row
//!   UNKNOWN --------------> DOWN ----------------------------------> UP
//!      |                      ^                                     | ^
//!      |                      +----- `down` failures in a row ------+ |
//!      +------------------------- one success ------------------------+
//! ```
//!
//! Unknown counts as usable: at the start, and for one that has just joined, refusing it would be the greater mistake, and
//! one check settles it. While unsure (unknown, or the last results speak against the state) checks come faster.
//!
//! ```
//! use seaworthy_core::{Instant, Valid, gate::health::{Config, Health, State}};
//! let mut health = Health::new(Valid::new(Config::default()).unwrap(), 42, Instant::ZERO);
//! let mut now = health.next(Instant::ZERO);
//! for _ in 0..3 {
//!     health.checked(now, false);
//!     now = health.next(now);
//! }
//! assert_eq!(health.state(), State::Down);
//! ```

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::valid::fault;
use crate::{Fault, Instant, Rng, Rules, Seeded, Valid};

/// The numbers of a [`Health`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// From the end of one check to the start of the next. Five seconds, between HAProxy's 2 and Kubernetes' 10: calls find
    /// out faster, so checks need not hurry.
    pub interval: Duration,
    /// The same while unsure. One second: a state is confirmed within two or three.
    pub unsure_interval: Duration,
    /// How far an interval may be from its length, as a share of it. A fifth: many checkers do not keep step.
    pub jitter: f64,
    /// A check that takes this long has failed. One second, as in Kubernetes and Envoy's examples: whoever needs longer to say
    /// that it is well is not.
    pub timeout: Duration,
    /// How many successes in a row bring it up. Two, as in HAProxy (`rise`): one may have been luck.
    pub up: u32,
    /// How many failures in a row bring it down. Three, as in HAProxy (`fall`) and Kubernetes: one lost packet is no outage.
    pub down: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            unsure_interval: Duration::from_secs(1),
            jitter: 0.2,
            timeout: Duration::from_secs(1),
            up: 2,
            down: 3,
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        [
            fault(
                self.interval < SHORTEST,
                "interval",
                format!("is {:?}", self.interval),
                "so many checks are an attack; write \"10ms\" or more, such as \"5s\"",
            ),
            fault(
                self.interval > LONGEST,
                "interval",
                format!("is {:?}, longer than a day", self.interval),
                "write \"5s\" or so; for no checks, set kind to \"off\"",
            ),
            fault(
                self.unsure_interval < SHORTEST,
                "unsure_interval",
                format!("is {:?}", self.unsure_interval),
                "write \"10ms\" or more, such as \"1s\"",
            ),
            fault(
                self.unsure_interval > self.interval,
                "unsure_interval",
                format!("is {:?}, above interval ({:?})", self.unsure_interval, self.interval),
                "checks come faster while unsure; write at most the interval",
            ),
            fault(
                !(0.0..=1.0).contains(&self.jitter),
                "jitter",
                format!("is {:?}", self.jitter),
                "write a share of the interval from 0 to 1, such as 0.2",
            ),
            fault(self.timeout.is_zero(), "timeout", "is 0", "every check would fail; write \"1s\" or so"),
            fault(
                self.timeout > LONGEST,
                "timeout",
                format!("is {:?}, longer than a day", self.timeout),
                "a check that hangs would never be noticed; write \"1s\" or so",
            ),
            fault(self.up == 0, "up", "is 0", "write 1 or more"),
            fault(self.down == 0, "down", "is 0", "write 1 or more"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// What the checks say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// There was no check yet.
    Unknown,
    /// It is well.
    Up,
    /// It is not.
    Down,
}

impl State {
    /// The state's name in metrics, logs and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// Whether calls may go there.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        !matches!(self, Self::Down)
    }
}

/// A change of state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Change {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// When.
    pub at: Instant,
}

/// The state of a [`Health`] at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Its state.
    pub state: State,
    /// How many results in a row speak against it.
    pub against: u32,
    /// How many change it.
    pub needed: u32,
    /// How many checks there were.
    pub checks: u64,
    /// How many of them failed.
    pub failures: u64,
    /// When the last one ended.
    pub last: Option<Instant>,
    /// When the next one is due.
    pub next: Instant,
}

/// The opinion of active checks on one endpoint. See the [module](self).
#[derive(Clone, Debug)]
pub struct Health {
    config: Valid<Config>,
    rng: Seeded,
    state: State,
    against: u32,
    due: Instant,
    last: Option<Instant>,
    checks: u64,
    failures: u64,
}

impl Health {
    /// Nothing is known, and the first check is due soon: within `jitter` of an unsure interval, so that the checks of many
    /// endpoints do not all start at once.
    #[must_use]
    pub fn new(config: Valid<Config>, seed: u64, now: Instant) -> Self {
        let mut rng = Seeded::new(seed);
        let soon = rng.between(Duration::ZERO, config.unsure_interval.mul_f64(config.jitter));
        Self {
            config,
            rng,
            state: State::Unknown,
            against: 0,
            due: now.plus(soon),
            last: None,
            checks: 0,
            failures: 0,
        }
    }

    /// Takes new numbers. What is due stays due, unless that is further away than the new numbers allow.
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        self.config = config;
    }

    /// When the next check is due: `now` or earlier if at once.
    #[must_use]
    pub fn next(&self, now: Instant) -> Instant {
        // What lies further ahead than any interval was set by a clock that has been set back, or by other numbers.
        let furthest = now.plus(self.config.interval.mul_f64(1.0 + self.config.jitter));
        if self.due > furthest { now } else { self.due }
    }

    /// A check ended at `now`, well or not.
    pub fn checked(&mut self, now: Instant, ok: bool) -> Option<Change> {
        self.checks += 1;
        self.failures += u64::from(!ok);
        self.last = Some(now);
        let from = self.state;
        let to = if ok { State::Up } else { State::Down };
        self.against = if from == to { 0 } else { self.against + 1 };
        if from != to && self.against >= self.needed() {
            self.state = to;
            self.against = 0;
        }
        let wait = if self.is_unsure() { self.config.unsure_interval } else { self.config.interval };
        let jitter = self.config.jitter;
        self.due = now.plus(self.rng.between(wait.mul_f64(1.0 - jitter), wait.mul_f64(1.0 + jitter)));
        (self.state != from).then_some(Change { from, to: self.state, at: now })
    }

    /// The present state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether the last results speak against the state, or there is none.
    #[must_use]
    pub const fn is_unsure(&self) -> bool {
        self.against > 0 || matches!(self.state, State::Unknown)
    }

    /// The numbers in force.
    #[must_use]
    pub const fn config(&self) -> &Valid<Config> {
        &self.config
    }

    /// The state at `now`. Reading it changes nothing.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            state: self.state,
            against: self.against,
            needed: self.needed(),
            checks: self.checks,
            failures: self.failures,
            last: self.last,
            next: self.next(now),
        }
    }

    fn needed(&self) -> u32 {
        match self.state {
            State::Unknown => 1,
            State::Up => self.config.down,
            State::Down => self.config.up,
        }
    }
}

/// A hundred checks a second of one endpoint are more than any answer is worth.
const SHORTEST: Duration = Duration::from_millis(10);
/// A day. Also keeps the jitter far from overflowing.
const LONGEST: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests;
