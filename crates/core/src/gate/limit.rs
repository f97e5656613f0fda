//! Limit: at most so many calls in flight.
//!
//! # What it is for
//! Whoever takes everything in serves nobody: memory, connections and the upstream all have a number of calls beyond which
//! each further one makes the others late. Past it a refusal in microseconds is better than an answer after the caller left.
//!
//! # When not to use it
//! To protect an upstream whose capacity moves: a fixed number is right for one day. And not for fairness between callers.
//!
//! # How
//! One permit for each call in flight, given back when it ends, however it ends. [`decide`] is the whole decision, so that
//! a shell can make it in one atomic step.
//!
//! ```
//! use seaworthy_core::{Valid, gate::limit::{Config, Limit}};
//! let mut limit = Limit::new(Valid::new(Config { max_in_flight: 1, ..Config::default() }).unwrap());
//! let permit = limit.admit().unwrap();
//! assert!(limit.admit().is_err());
//! limit.release(permit);
//! assert!(limit.admit().is_ok());
//! ```

use alloc::vec::Vec;
use core::time::Duration;

use crate::{Fault, Mode, Policy, Reason, Rejection, Rules, Valid};

/// The numbers of a [`Limit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Whether it refuses, only tells what it would refuse, or is not there.
    pub mode: Mode,
    /// The most calls in flight. 1024, Envoy's default for one upstream: by Little's law that is 10,000 calls a second at 100 ms.
    pub max_in_flight: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { mode: Mode::Enforce, max_in_flight: 1024 }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.max_in_flight == 0 {
            faults.push(Fault {
                field: "max_in_flight",
                problem: "is 0".into(),
                remedy: "no call could ever start; write 1 or more, or set mode to \"off\"".into(),
            });
        }
        faults
    }
}

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
    /// The most there may be.
    pub max_in_flight: u32,
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
    config: Valid<Config>,
    in_flight: u32,
    rejected: u64,
}

impl Limit {
    /// With nothing in flight.
    #[must_use]
    pub const fn new(config: Valid<Config>) -> Self {
        Self { config, in_flight: 0, rejected: 0 }
    }

    /// May a call start?
    ///
    /// # Errors
    /// The refusal.
    pub fn admit(&mut self) -> Result<Permit, Rejection> {
        let mut permit = Permit::decided();
        if self.config.mode != Mode::Off
            && let Err(rejection) = decide(self.in_flight, self.config.max_in_flight)
        {
            self.rejected += 1;
            if self.config.mode == Mode::Enforce {
                return Err(rejection);
            }
            permit = Permit::observed();
        }
        self.in_flight += 1;
        Ok(permit)
    }

    /// A call ended.
    pub fn release(&mut self, permit: Permit) {
        let Permit { .. } = permit;
        self.in_flight -= 1;
    }

    /// The state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            in_flight: self.in_flight,
            max_in_flight: self.config.max_in_flight,
            mode: self.config.mode,
            rejected: self.rejected,
        }
    }
}

const FULL: Rejection = Rejection::new(Policy::Limit, Reason::Full).after(COME_BACK);
/// When a place will be free nobody knows; a second is the least that Retry-After can say, and long beside most calls.
const COME_BACK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(mode: Mode) -> Limit {
        Limit::new(Valid::new(Config { mode, max_in_flight: 3 }).unwrap())
    }

    #[test]
    fn the_last_place_is_given_and_none_after_it() {
        let mut limit = limit(Mode::Enforce);
        let mut permits: Vec<_> = (0..3).map(|_| limit.admit().unwrap()).collect();
        assert_eq!(limit.admit(), Err(FULL));
        limit.release(permits.pop().unwrap());
        assert!(limit.admit().is_ok());
        assert_eq!(limit.snapshot().rejected, 1);
    }

    #[test]
    fn observing_it_counts_tells_and_admits() {
        let mut limit = limit(Mode::Observe);
        let permits: Vec<_> = (0..5).map(|_| limit.admit().unwrap()).collect();
        let told: Vec<_> = permits.iter().map(|permit| permit.shadow().is_some()).collect();
        assert_eq!(told, [false, false, false, true, true]);
        assert_eq!((limit.snapshot().in_flight, limit.snapshot().rejected), (5, 2));
        permits.into_iter().for_each(|p| limit.release(p));
        assert_eq!(limit.snapshot().in_flight, 0);
    }
}
