//! Breaker: stop asking what does not answer, and find out carefully when it does again.
//!
//! # What it is for
//! An endpoint that fails costs its callers time and itself the air to recover. The breaker refuses at once while it is open,
//! lets single probes find out, and brings the traffic back in a ramp.
//!
//! # When not to use it
//! Around a whole service of many endpoints: one bad shard would cut off the good ones. Put one around each endpoint.
//! And where every call goes to a different place, there is nothing to learn.
//!
//! # The states
//! ```text
//!              threshold reached,
//!              or tripped                            wait over
//!   CLOSED ------------------------> OPEN ------------------------> HALF-OPEN
//!     ^  ^                            ^ ^                            |     |
//!     |  |        threshold reached,  | |        a probe fails,      |     |
//!     |  |        or tripped          | +------- or never ends ------+     |
//!     |  +--- ramp over --- RAMPING --+                                    |
//!     |                        ^                                           |
//!     |                        +------- enough probes succeed -------------+
//!     +----------------------- the same, if there is no ramp
//! ```
//!
//! It opens when any of three holds: so many failures in a row; a failure rate, or a rate of slow calls, over a window
//! that slides, with a minimum of calls in it. And whoever compares endpoints with each other may [`trip`](Breaker::trip)
//! it ([`outlier`](super::outlier)): to be put out is nothing but its breaker's opening, so the return is by evidence too.
//! Only bad news opens it, so that good news can be counted in batches. The wait grows with every reopening and is
//! jittered, so that many clients do not probe together. What ends after the state has moved on is ignored: every ticket
//! knows the generation that let it in. A probe that is slow counts as failed: slower than `slow_after` or, until it is
//! closed again, than the bound that it was tripped with. A call that hangs counts as a failure when it has hung for
//! `hung_after`, not when somebody gives it up.
//!
//! ```
//! use seaworthy_core::{Failure, Instant, Outcome, Valid, gate::breaker::{Breaker, Config, State}};
//! let mut breaker = Breaker::new(Valid::new(Config::default()).unwrap(), 42);
//! let mut now = Instant::from_millis(1);
//! for _ in 0..5 {
//!     let ticket = breaker.admit(now).unwrap();
//!     breaker.settle(now, ticket, Outcome::failed(Failure::Error));
//! }
//! assert_eq!(breaker.snapshot(now).state, State::Open);
//! let rejection = breaker.admit(now).unwrap_err();
//! now = now.plus(rejection.retry_after.unwrap());
//! assert!(breaker.admit(now).is_ok()); // a probe
//! ```

mod config;

use core::time::Duration;

pub use config::{Config, Window};

use crate::stats::window::{self, Sample, Totals};
use crate::{Instant, Mode, Outcome, Policy, Reason, Rejection, Rng, Seeded, Valid};

/// The states of a [`Breaker`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// Healthy: every call passes.
    Closed,
    /// Everything is refused until the wait is over.
    Open,
    /// Only probes pass.
    HalfOpen,
    /// A growing share passes.
    Ramping,
}

impl State {
    /// The state's name in metrics, logs and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Ramping => "ramping",
        }
    }
}

/// An operator's override.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Force {
    /// Refuse everything.
    Open,
    /// Admit everything.
    Closed,
}

/// Why a breaker changed its state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// So many failures in a row.
    ConsecutiveFailures,
    /// The failure rate.
    FailureRate,
    /// The rate of slow calls.
    SlowRate,
    /// More of its calls fail than of its peers'; see [`outlier`](super::outlier).
    ErrorOutlier,
    /// Its calls take longer than its peers'; see [`outlier`](super::outlier).
    LatencyOutlier,
    /// The wait is over.
    WaitOver,
    /// A probe failed.
    ProbeFailed,
    /// A probe never ended.
    ProbeHung,
    /// Enough probes succeeded.
    Probed,
    /// The ramp is over.
    RampOver,
    /// An operator said so.
    Forced,
}

impl Cause {
    /// The cause's name in metrics, logs and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailureRate => "failure_rate",
            Self::SlowRate => "slow_rate",
            Self::ErrorOutlier => "error_outlier",
            Self::LatencyOutlier => "latency_outlier",
            Self::WaitOver => "wait_over",
            Self::ProbeFailed => "probe_failed",
            Self::ProbeHung => "probe_hung",
            Self::Probed => "probed",
            Self::RampOver => "ramp_over",
            Self::Forced => "forced",
        }
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
    /// Why.
    pub cause: Cause,
}

/// The right to make one call. It must be settled; a call that its caller gave up settles as
/// [`Outcome::Abandoned`].
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a ticket that is not settled holds a probe's slot until it counts as hung"]
pub struct Ticket {
    generation: u64,
    admitted: Instant,
    /// It holds one of the probes' slots.
    probe: bool,
    /// It has been counted as hung already.
    counted: bool,
    shadow: Option<Rejection>,
}

impl Ticket {
    /// The ticket for a call that passed a closed breaker of this generation without asking it: for shells that publish
    /// [`Breaker::is_open_to_all`].
    pub const fn passed(generation: u64, now: Instant) -> Self {
        Self { generation, admitted: now, probe: false, counted: false, shadow: None }
    }

    /// What would have been refused, in observe-only mode.
    #[must_use]
    pub const fn shadow(&self) -> Option<Rejection> {
        self.shadow
    }

    /// The generation of the state that let it in.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// When it was let in.
    #[must_use]
    pub const fn admitted(&self) -> Instant {
        self.admitted
    }

    /// Whether it holds a probe's slot, and whether it has been counted as hung: what a recording keeps of it besides.
    pub(crate) const fn marks(&self) -> (bool, bool) {
        (self.probe, self.counted)
    }

    /// The ticket that was recorded with these [`marks`](Self::marks).
    pub(crate) const fn marked(mut self, (probe, counted): (bool, bool)) -> Self {
        (self.probe, self.counted) = (probe, counted);
        self
    }
}

/// The state of a [`Breaker`] at a moment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Snapshot {
    /// Its state.
    pub state: State,
    /// Whether it refuses or only observes.
    pub mode: Mode,
    /// The operator's override, if there is one.
    pub forced: Option<Force>,
    /// Calls, failures and slow calls in the window.
    pub totals: Totals,
    /// Failures in a row.
    pub consecutive: u32,
    /// How long until it admits a probe, if it is open.
    pub wait: Option<Duration>,
    /// What a probe may take at most, since it was tripped and until it is closed again.
    pub not_slower_than: Option<Duration>,
    /// The admitted share, 0 to 1.
    pub share: f64,
    /// How often it has opened.
    pub opened: u64,
    /// How many calls it has refused.
    pub rejected: u64,
    /// How many calls it would have refused in observe-only mode.
    pub would_reject: u64,
}

/// A circuit breaker. See the [module](self).
#[derive(Clone, Debug)]
pub struct Breaker {
    config: Valid<Config>,
    rng: Seeded,
    phase: Phase,
    /// Counts every change of state.
    generation: u64,
    /// The oldest generation whose calls still count: the ramp's, when it has ended well.
    counts_from: u64,
    window: window::Window,
    consecutive: u32,
    /// When the last failure of these was known.
    last_in_a_row: Instant,
    /// The last wait before jitter; the next one grows from it.
    last_wait: Duration,
    closed_at: Instant,
    not_slower_than: Option<Duration>,
    forced: Option<Force>,
    last_change: Option<Change>,
    opened: u64,
    rejected: u64,
    would_reject: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { since: Instant, out: u32, successes: u32 },
    Ramping { since: Instant, credit: f64 },
}

impl Phase {
    const fn state(self) -> State {
        match self {
            Self::Closed => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
            Self::Ramping { .. } => State::Ramping,
        }
    }
}

impl Breaker {
    /// A closed breaker whose jitter follows from `seed`.
    #[must_use]
    pub fn new(config: Valid<Config>, seed: u64) -> Self {
        Self {
            window: config.window.sliding(),
            config,
            rng: Seeded::new(seed),
            phase: Phase::Closed,
            generation: 0,
            counts_from: 0,
            consecutive: 0,
            last_in_a_row: Instant::ZERO,
            last_wait: Duration::ZERO,
            closed_at: Instant::ZERO,
            not_slower_than: None,
            forced: None,
            last_change: None,
            opened: 0,
            rejected: 0,
            would_reject: 0,
        }
    }

    /// Takes new numbers; they apply to the old window unless that has another length.
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        if config.window != self.config.window {
            self.window = config.window.sliding();
        }
        self.config = config;
    }

    /// Whether every call passes without being asked about, which a shell may publish together with the
    /// [`generation`](Self::generation).
    #[must_use]
    pub const fn is_open_to_all(&self) -> bool {
        matches!((self.phase, self.forced), (Phase::Closed, None))
    }

    /// Counts every change of state; what was admitted in another generation is ignored.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The last change of state, also those that time brought and that [`admit`](Self::admit) noticed; a shell that sees
    /// the generation move tells it.
    #[must_use]
    pub const fn last_change(&self) -> Option<Change> {
        self.last_change
    }

    /// May a call start?
    ///
    /// # Errors
    /// The refusal, with how long until a probe is admitted.
    pub fn admit(&mut self, now: Instant) -> Result<Ticket, Rejection> {
        let mut ticket = Ticket::passed(self.generation, now);
        if self.config.mode == Mode::Off {
            return Ok(ticket);
        }
        let refused = match self.forced {
            Some(Force::Closed) => None,
            Some(Force::Open) => Some(Rejection::new(Policy::Breaker, Reason::Forced)),
            None => self.decide(now),
        };
        ticket.generation = self.generation;
        ticket.probe = refused.is_none() && matches!(self.phase, Phase::HalfOpen { .. });
        match refused {
            None => Ok(ticket),
            Some(rejection) if self.config.mode == Mode::Observe => {
                self.would_reject += 1;
                // What was let in against the rules is no probe: it must not move the state.
                ticket.generation = NO_GENERATION;
                ticket.shadow = Some(rejection);
                Ok(ticket)
            }
            Some(rejection) => {
                self.rejected += 1;
                Err(rejection)
            }
        }
    }

    /// A call is still running after [`Config::hung_after`]: it counts as a failure now and not again when it ends. Before
    /// that, and the second time, this does nothing.
    pub fn overdue(&mut self, now: Instant, ticket: &mut Ticket) -> Option<Change> {
        if ticket.counted || !self.hung(now.since(ticket.admitted)) {
            return None;
        }
        ticket.counted = true;
        self.count(now, ticket, End::Hung, true)
    }

    /// A call ended.
    pub fn settle(&mut self, now: Instant, ticket: Ticket, outcome: Outcome) -> Option<Change> {
        if ticket.counted {
            return None;
        }
        let age = now.since(ticket.admitted);
        let slow = self.config.slow_after.is_some_and(|limit| age >= limit);
        match outcome {
            Outcome::Success => self.count(now, &ticket, End::Success, slow),
            Outcome::Overloaded(_) => self.count(now, &ticket, End::Overloaded, slow),
            Outcome::Failure(..) => self.count(now, &ticket, End::Failure, slow),
            Outcome::Abandoned if self.hung(age) => self.count(now, &ticket, End::Hung, true),
            Outcome::Ignored | Outcome::Abandoned => {
                self.give_back(&ticket);
                None
            }
        }
    }

    /// Counts `successes` good calls that a shell has kept back. They were let in by a closed breaker, so they change nothing
    /// in another state.
    pub fn fold(&mut self, now: Instant, successes: u32) {
        if successes > 0 && matches!(self.phase, Phase::Closed) {
            self.window.fold(now, successes);
            self.consecutive = 0;
        }
    }

    /// Opens it for a reason that it can't see by itself: its endpoint does worse than its peers. Until it is closed again, a
    /// probe that takes longer than `not_slower_than` counts as failed. Does nothing if it is open or half-open already,
    /// forced, or off.
    pub fn trip(&mut self, now: Instant, cause: Cause, not_slower_than: Option<Duration>) -> Option<Change> {
        if self.config.mode == Mode::Off || self.forced.is_some() {
            return None;
        }
        if !matches!(self.phase, Phase::Closed | Phase::Ramping { .. }) {
            return None;
        }
        // A ramp that is over is a closed breaker, which has forgotten the bound.
        self.pass_time(now);
        self.not_slower_than = not_slower_than.or(self.not_slower_than);
        self.open(now, cause);
        self.last_change
    }

    /// Overrides the state, or ends the override. A breaker that is let go starts closed and empty.
    pub fn force(&mut self, now: Instant, force: Option<Force>) -> Option<Change> {
        if self.forced == force {
            return None;
        }
        let from = self.state(now);
        self.forced = force;
        self.enter(now, Phase::Closed, Cause::Forced);
        let to = self.state(now);
        self.last_change = Some(Change { from, to, at: now, cause: Cause::Forced });
        self.last_change
    }

    /// The state at `now`. Reading it changes nothing.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            state: self.state(now),
            mode: self.config.mode,
            forced: self.forced,
            totals: self.window.totals(now),
            consecutive: self.consecutive,
            wait: match (self.phase, self.forced) {
                (Phase::Open { until }, None) => Some(until.since(now)),
                _ => None,
            },
            not_slower_than: self.not_slower_than,
            share: self.share(now),
            opened: self.opened,
            rejected: self.rejected,
            would_reject: self.would_reject,
        }
    }

    /// The numbers in force.
    #[must_use]
    pub const fn config(&self) -> &Valid<Config> {
        &self.config
    }

    // Decisions.

    fn decide(&mut self, now: Instant) -> Option<Rejection> {
        self.pass_time(now);
        let share = self.share(now);
        match &mut self.phase {
            Phase::Closed => None,
            Phase::Open { until } => {
                Some(Rejection::new(Policy::Breaker, Reason::Open).after(until.since(now)))
            }
            Phase::HalfOpen { since, out, .. } if *out < self.config.probes => {
                *out += 1;
                *since = now;
                None
            }
            Phase::HalfOpen { .. } => Some(Rejection::new(Policy::Breaker, Reason::Probing).after(PROBING)),
            Phase::Ramping { credit, .. } => {
                // Error diffusion: exactly the share is admitted, evenly, without a die.
                *credit += share;
                if *credit < 1.0 {
                    return Some(Rejection::new(Policy::Breaker, Reason::Ramping).after(PROBING));
                }
                *credit -= 1.0;
                None
            }
        }
    }

    /// The exits that time opens.
    fn pass_time(&mut self, now: Instant) {
        self.anchor(now);
        match self.phase {
            // A wait that is longer than any can be was set by a clock that has jumped back.
            Phase::Open { until } if now >= until || until.since(now) > self.config.open_at_most => {
                let probing = Phase::HalfOpen { since: now, out: 0, successes: 0 };
                self.enter(now, probing, Cause::WaitOver);
            }
            Phase::HalfOpen { since, out, .. } if out >= self.config.probes => {
                let limit = self.config.hung_after.unwrap_or(PROBE_LOST);
                if now.since(since) >= limit {
                    self.open(now, Cause::ProbeHung);
                }
            }
            Phase::Ramping { since, .. } if now.since(since) >= self.config.ramp => {
                self.enter(now, Phase::Closed, Cause::RampOver);
            }
            _ => {}
        }
    }

    /// After the clock was set back, no state may last until the old time is reached again.
    fn anchor(&mut self, now: Instant) {
        self.closed_at = self.closed_at.min(now);
        if let Phase::HalfOpen { since, .. } | Phase::Ramping { since, .. } = &mut self.phase {
            *since = now.min(*since);
        }
    }

    fn count(&mut self, now: Instant, ticket: &Ticket, end: End, slow: bool) -> Option<Change> {
        if self.config.mode == Mode::Off {
            self.give_back(ticket);
            return None;
        }
        let late = !(self.counts_from..=self.generation).contains(&ticket.generation);
        if late || self.forced.is_some() {
            return None;
        }
        self.anchor(now);
        let entry = Sample { failed: end != End::Success, slow };
        match &mut self.phase {
            Phase::Closed | Phase::Ramping { .. } => {
                self.window.record(now, entry);
                match end {
                    End::Success => self.consecutive = 0,
                    // An upstream that is busy and says so is alive: it moves the rate, and five in a row mean nothing.
                    End::Overloaded => {}
                    End::Failure => self.count_in_a_row(now, ticket),
                    // Nothing hangs for that long because of a hiccup.
                    End::Hung => self.consecutive = self.consecutive.saturating_add(1),
                }
                let cause = self.tripped(now, entry)?;
                self.open(now, cause);
            }
            Phase::HalfOpen { out, successes, .. } if ticket.probe => {
                *out = out.saturating_sub(1);
                // A probe that is still slow proves nothing better than one that fails.
                let age = now.since(ticket.admitted);
                if entry.failed || slow || self.not_slower_than.is_some_and(|bound| age > bound) {
                    self.open(now, if end == End::Hung { Cause::ProbeHung } else { Cause::ProbeFailed });
                } else {
                    *successes += 1;
                    if *successes < self.config.successes_to_close {
                        return None;
                    }
                    // The first call after the probes passes at once.
                    let ramp = Phase::Ramping { since: now, credit: 1.0 - RAMP_FROM };
                    let next = if self.config.ramp.is_zero() { Phase::Closed } else { ramp };
                    self.enter(now, next, Cause::Probed);
                }
            }
            Phase::HalfOpen { .. } | Phase::Open { .. } => return None,
        }
        self.last_change
    }

    /// Failures are in a row only if each began after the one before was known. What fails together, as sixty calls do that
    /// one hiccup cuts off, is one failure seen sixty times.
    fn count_in_a_row(&mut self, now: Instant, ticket: &Ticket) {
        let echo = self.consecutive > 0 && ticket.admitted < self.last_in_a_row && self.last_in_a_row <= now;
        if !echo {
            self.consecutive = self.consecutive.saturating_add(1);
            self.last_in_a_row = now;
        }
    }

    fn hung(&self, age: Duration) -> bool {
        self.config.hung_after.is_some_and(|limit| age >= limit)
    }

    /// Which threshold the window has reached with this entry, if any.
    fn tripped(&self, now: Instant, entry: Sample) -> Option<Cause> {
        if entry.failed && self.config.consecutive_failures.is_some_and(|most| self.consecutive >= most) {
            return Some(Cause::ConsecutiveFailures);
        }
        if !entry.failed && !entry.slow {
            return None;
        }
        let totals = self.window.totals(now);
        if totals.calls() < u64::from(self.config.minimum_calls) {
            return None;
        }
        if self.config.failure_rate.is_some_and(|rate| totals.failures > 0 && totals.failure_rate() >= rate) {
            return Some(Cause::FailureRate);
        }
        let slow = self.config.slow_after.is_some() && totals.slow_rate() >= self.config.slow_rate;
        slow.then_some(Cause::SlowRate)
    }

    /// A call ended without news: if it was a probe, its slot is free again.
    fn give_back(&mut self, ticket: &Ticket) {
        if let Phase::HalfOpen { out, .. } = &mut self.phase
            && ticket.probe
            && ticket.generation == self.generation
        {
            *out = out.saturating_sub(1);
        }
    }

    // States.

    fn open(&mut self, now: Instant, cause: Cause) {
        let config = *self.config;
        // It has recovered if it stayed closed for as long as it was made to wait.
        let recovered = matches!(self.phase, Phase::Closed) && now.since(self.closed_at) >= self.last_wait;
        let grown = self.last_wait.mul_f64(config.open_growth);
        let wait = if recovered || self.last_wait.is_zero() { config.open_for } else { grown };
        self.last_wait = wait.clamp(config.open_for, config.open_at_most);
        let least = self.last_wait.mul_f64(1.0 - config.jitter);
        let until = now.plus(self.rng.between(least, self.last_wait));
        self.opened += 1;
        self.enter(now, Phase::Open { until }, cause);
    }

    fn enter(&mut self, now: Instant, phase: Phase, cause: Cause) {
        let from = self.phase.state();
        self.generation += 1;
        // What was learned on the ramp, and the calls let in on it, go on counting when it ends well.
        let goes_on = cause == Cause::RampOver;
        if !goes_on {
            self.counts_from = self.generation;
        }
        if matches!(phase, Phase::Closed) {
            self.not_slower_than = None;
        }
        if matches!(phase, Phase::Closed | Phase::Ramping { .. }) {
            self.closed_at = now;
            if !goes_on {
                self.window.clear();
                self.consecutive = 0;
            }
        }
        self.phase = phase;
        self.last_change = Some(Change { from, to: phase.state(), at: now, cause });
    }

    fn state(&self, now: Instant) -> State {
        match (self.forced, self.phase) {
            (Some(Force::Open), _) => State::Open,
            (Some(Force::Closed), _) => State::Closed,
            (None, Phase::Ramping { since, .. }) if now.since(since) >= self.config.ramp => State::Closed,
            (None, phase) => phase.state(),
        }
    }

    fn share(&self, now: Instant) -> f64 {
        match (self.forced, self.phase) {
            (Some(Force::Open), _) | (None, Phase::Open { .. } | Phase::HalfOpen { .. }) => 0.0,
            (Some(Force::Closed), _) | (None, Phase::Closed) => 1.0,
            (None, Phase::Ramping { since, .. }) => {
                let gone = now.since(since).as_secs_f64() / self.config.ramp.as_secs_f64();
                (RAMP_FROM + (1.0 - RAMP_FROM) * gone).min(1.0)
            }
        }
    }
}

/// How a call ended, as far as it is news.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Success,
    Overloaded,
    Failure,
    Hung,
}

/// The share that a ramp begins with: a tenth, as in Envoy's slow start.
const RAMP_FROM: f64 = 0.1;
/// A generation that never is.
const NO_GENERATION: u64 = u64::MAX;
/// When to come back while the probes are out or the ramp is on: soon, since one round trip may change it.
const PROBING: Duration = Duration::from_millis(100);
/// After how long a probe that never ended counts as lost, if no call ever counts as hung: the usual longest timeout.
const PROBE_LOST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
