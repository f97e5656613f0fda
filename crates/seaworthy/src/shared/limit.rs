//! A limit shared between threads: one atomic step a call.

use seaworthy_core::gate::limit::{self, Config, Permit, Snapshot};
use seaworthy_core::{Instant, Mode, Rejection, Valid};

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// [`limit::Limit`] for several threads.
#[derive(Debug)]
pub struct Limit {
    in_flight: AtomicU32,
    /// The most there may be; everything passes at `u32::MAX`.
    enforced: AtomicU32,
    /// The same, for telling what would be refused.
    observed: AtomicU32,
    rejected: AtomicU64,
}

impl Limit {
    /// With nothing in flight.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        let limit = Self {
            in_flight: AtomicU32::new(0),
            enforced: AtomicU32::new(0),
            observed: AtomicU32::new(0),
            rejected: AtomicU64::new(0),
        };
        limit.reconfigure(config);
        limit
    }

    /// Takes new numbers; what is in flight stays.
    pub fn reconfigure(&self, config: Valid<Config>) {
        let most = |mode| if config.mode == mode { config.max_in_flight } else { u32::MAX };
        self.enforced.store(most(Mode::Enforce), Ordering::Relaxed);
        self.observed.store(most(Mode::Observe), Ordering::Relaxed);
    }

    /// May a call start?
    ///
    /// # Errors
    /// The refusal.
    pub fn admit(&self, _now: Instant) -> Result<Permit, Rejection> {
        let most = self.enforced.load(Ordering::Relaxed);
        // Take the place first and give it back if it was one too many: one step on the good path. In between, a call
        // beside may be refused that a sequential order would have admitted after this one; over-issue there is none.
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        match limit::decide(before, most) {
            Ok(()) => {
                if before < self.observed.load(Ordering::Relaxed) {
                    return Ok(Permit::decided());
                }
                self.rejected.fetch_add(1, Ordering::Relaxed);
                Ok(Permit::observed())
            }
            Err(rejection) => {
                self.in_flight.fetch_sub(1, Ordering::AcqRel);
                self.rejected.fetch_add(1, Ordering::Relaxed);
                Err(rejection)
            }
        }
    }

    /// A call ended.
    pub fn release(&self, permit: Permit) {
        drop(permit);
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// The state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (enforced, observed) =
            (self.enforced.load(Ordering::Relaxed), self.observed.load(Ordering::Relaxed));
        let mode = match (enforced, observed) {
            (u32::MAX, u32::MAX) => Mode::Off,
            (u32::MAX, _) => Mode::Observe,
            _ => Mode::Enforce,
        };
        Snapshot {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            max_in_flight: enforced.min(observed),
            mode,
            rejected: self.rejected.load(Ordering::Relaxed),
        }
    }
}
