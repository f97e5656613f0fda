//! Limit: at most so many calls in flight.
//!
//! # What it is for
//! Whoever takes everything in serves nobody: memory, connections and the upstream all have a number of calls beyond which
//! each further one makes the others late. Past it a refusal in microseconds is better than an answer after the caller left.
//!
//! # When not to use it
//! For fairness between callers: that is the [queue](super::queue)'s, and the [rate](super::rate)'s. And a limit that moves is
//! not for calls whose length says nothing of the upstream's load, such as long polls.
//!
//! # How
//! One permit for each call in flight, given back when it ends, however it ends. [`decide`] is the whole decision, so that
//! a shell can make it in one atomic step.
//!
//! # How it moves
//! A fixed number is right for one day. [`Learner::learn`] is told how calls ended, and at the end of a window (a tenth of a
//! second or two round trips, with enough calls) it moves the limit by an [`Algorithm`]:
//!
//! ```text
//! aimd         refused, timed out or slow: limit * 0.9              else: limit + 1
//! gradient2    limit + 0.2 * (limit * clamp(1.5 * average / latency, 0.5, 1) + max(4, sqrt limit) - limit)
//! vegas        waiting = limit * (1 - least / latency)
//!              < log10 limit: + beta    < alpha: + log10 limit    > beta: - (waiting - beta) / 2
//!              with alpha = 3 log10 limit and beta = 6 log10 limit
//! ```
//! (Gradient2 and Vegas as in Netflix's concurrency-limits.) Latency is the geometric mean of a window, less what chance may
//! have added. The ways in which such limits are known to fail are closed:
//!
//! * **Idle growth.** While fewer than half of the permits are in use, it does not grow.
//! * **The outlier.** One slow call of a window's moves its mean little and its standard error much; and no window takes more
//!   than a tenth away.
//! * **The stale minimum.** The least latency counts for [`Config::baseline_window`]. And if latency has not fallen although the
//!   limit has by a third, it does not come from the calls in flight, and what is seen now is the new least.
//! * **Drift.** While the limit holds calls back, every window sees the latency of a full upstream, and a least latency that
//!   is learned from them creeps up. So now and then, only then, a probe lowers the limit for two windows to nine tenths of what
//!   by Little's law carries the present throughput. Where nothing is held back there is no probe, so none refuses anything that
//!   would not be refused or wait anyway.
//!
//! ```
//! use seaworthy_core::{Valid, gate::limit::{Config, Limit}};
//! let mut limit = Limit::new(Valid::new(Config { max_in_flight: 1, ..Config::default() }).unwrap());
//! let permit = limit.admit().unwrap();
//! assert!(limit.admit().is_err());
//! limit.release(permit);
//! assert!(limit.admit().is_ok());
//! ```

mod batch;
mod config;
mod learner;

use core::time::Duration;

pub use batch::{Batch, Latencies};
pub use config::{Algorithm, Config};
pub use learner::{Change, Learned, Learner};

use crate::{Instant, Mode, Outcome, Policy, Reason, Rejection, Valid};

/// The right to be in flight; to be [released](Limit::release).
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a permit that is not released is lost"]
pub struct Permit {
    /// It was given out in observe-only mode, beyond the limit.
    beyond: bool,
}

impl Permit {
    /// The permit for a call that [`decide`] admitted: for shells that count by themselves.
    pub const fn decided() -> Self {
        Self { beyond: false }
    }

    /// The permit for a call that is let in beyond the limit in observe-only mode: for shells that count by themselves.
    pub const fn observed() -> Self {
        Self { beyond: true }
    }

    /// What would have been refused, in observe-only mode.
    #[must_use]
    pub const fn shadow(&self) -> Option<Rejection> {
        if self.beyond { Some(FULL) } else { None }
    }
}

/// The state of a [`Limit`] at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Calls in flight.
    pub in_flight: u32,
    /// The most there may be, now.
    pub max_in_flight: u32,
    /// Whether and how that moves.
    pub algorithm: Algorithm,
    /// How long calls typically take of late; unknown of a fixed limit.
    pub latency: Option<Duration>,
    /// How long they typically take while none waits in the upstream, as far as is known.
    pub baseline: Option<Duration>,
    /// Whether the limit is lowered for a moment to find that out.
    pub probing: bool,
    /// Whether it refuses or only observes.
    pub mode: Mode,
    /// How many calls it has refused, or would have in observe-only mode.
    pub rejected: u64,
}

/// Whether one more call may start beside `in_flight` others.
///
/// # Errors
/// The refusal, with a guess of when to come back.
pub const fn decide(in_flight: u32, max_in_flight: u32) -> Result<(), Rejection> {
    if in_flight < max_in_flight { Ok(()) } else { Err(FULL) }
}

/// A limit on the calls in flight. See the [module](self).
#[derive(Clone, Debug)]
pub struct Limit {
    learner: Learner,
    in_flight: u32,
    rejected: u64,
    /// Calls that could not start since it last learned.
    held_back: u32,
}

impl Limit {
    /// With nothing in flight.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        Self { learner: Learner::new(config), in_flight: 0, rejected: 0, held_back: 0 }
    }

    /// Takes new numbers; what is in flight stays, and so does what was learned.
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        self.learner.reconfigure(config);
    }

    /// May a call start?
    ///
    /// # Errors
    /// The refusal.
    pub fn admit(&mut self) -> Result<Permit, Rejection> {
        let mode = self.learner.config().mode;
        let mut permit = Permit::decided();
        if mode != Mode::Off
            && let Err(rejection) = decide(self.in_flight, self.learner.limit())
        {
            self.rejected += 1;
            self.held_back = self.held_back.saturating_add(1);
            if mode == Mode::Enforce {
                return Err(rejection);
            }
            permit = Permit::observed();
        }
        self.in_flight += 1;
        Ok(permit)
    }

    /// May a call start? As [`admit`](Self::admit), for one that can wait if it may not: it is held back, not rejected.
    pub fn try_admit(&mut self) -> Option<Permit> {
        if self.learner.config().mode == Mode::Enforce && self.in_flight >= self.learner.limit() {
            self.held_back = self.held_back.saturating_add(1);
            return None;
        }
        self.admit().ok()
    }

    /// A call ended, and nothing is to be learned from it.
    pub fn release(&mut self, permit: Permit) {
        let Permit { .. } = permit;
        self.in_flight -= 1;
    }

    /// A call ended with `outcome`, `took` after it was admitted. If that moves the limit, says so.
    pub fn settle(
        &mut self,
        now: Instant,
        permit: Permit,
        outcome: Outcome,
        took: Duration,
    ) -> Option<Change> {
        let mut batch = Batch { held_back: core::mem::take(&mut self.held_back), ..Batch::default() };
        batch.add(outcome, took, self.in_flight);
        self.release(permit);
        self.learner.learn(now, &batch)
    }

    /// Lowers the limit to a share of what it would be; see [`Learner::press`].
    pub fn press(&mut self, share: f64) -> Option<Change> {
        self.learner.press(share)
    }

    /// The state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let config = self.learner.config();
        Snapshot::new(config, self.learner.learned(), self.in_flight, self.rejected)
    }
}

impl Snapshot {
    /// What is known of a limit: for shells that count by themselves.
    #[must_use]
    pub fn new(config: &Config, learned: Learned, in_flight: u32, rejected: u64) -> Self {
        Self {
            in_flight,
            max_in_flight: if config.mode == Mode::Off { u32::MAX } else { learned.limit },
            algorithm: config.algorithm,
            latency: learned.latency,
            baseline: learned.baseline,
            probing: learned.probing,
            mode: config.mode,
            rejected,
        }
    }
}

const FULL: Rejection = Rejection::new(Policy::Limit, Reason::Full).after(COME_BACK);
/// When a place will be free nobody knows; a second is the least that Retry-After can say, and long beside most calls.
const COME_BACK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
