//! A limit shared between threads: one atomic step a call.

use std::time::Duration;

use seaworthy_core::gate::limit::{self, Algorithm, Batch, Change, Config, Learner, Permit, Snapshot};
use seaworthy_core::{Instant, Mode, Outcome, Rejection, Valid};

use super::gather::Gather;
use crate::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, lock, try_lock};

/// [`limit::Limit`] for several threads.
///
/// The limit is one published word, the calls in flight are another. How calls ended is summed up in cells and told to the core
/// twenty times a second, which moves the word.
#[derive(Debug)]
pub struct Limit {
    in_flight: AtomicU32,
    /// The most there may be; everything passes at `u32::MAX`.
    enforced: AtomicU32,
    /// The same, for telling what would be refused.
    observed: AtomicU32,
    rejected: AtomicU64,
    /// Calls that could not start at once, whether they were rejected or wait.
    held_back: AtomicU64,
    /// How calls ended, if anything is learned of it.
    ended: Gather<Batch>,
    core: Mutex<Core>,
}

#[derive(Debug)]
struct Core {
    learner: Learner,
    /// Of [`Limit::held_back`], what the learner was told of.
    told: u64,
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
            held_back: AtomicU64::new(0),
            ended: Gather::new(FOLD_EVERY),
            core: Mutex::new(Core { learner: Learner::new(config), told: 0 }),
        };
        limit.publish(&lock(&limit.core));
        limit
    }

    /// Takes new numbers; what is in flight stays, and so does what was learned.
    pub fn reconfigure(&self, config: Valid<Config>) {
        let mut core = lock(&self.core);
        core.learner.reconfigure(config);
        self.publish(&core);
    }

    /// May a call start?
    ///
    /// # Errors
    /// The refusal.
    pub fn admit(&self, _now: Instant) -> Result<Permit, Rejection> {
        self.take().inspect_err(|_| self.count_rejected())
    }

    /// May a call start? As [`admit`](Self::admit), for one that can wait if it may not: it is held back, not rejected.
    pub fn try_admit(&self) -> Option<Permit> {
        self.take().ok()
    }

    fn take(&self) -> Result<Permit, Rejection> {
        let most = self.enforced.load(Ordering::Relaxed);
        // Take the place first and give it back if it was one too many: one step on the good path. In between, a call
        // beside may be refused that a sequential order would have admitted after this one; over-issue there is none.
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        match limit::decide(before, most) {
            Ok(()) => {
                if before < self.observed.load(Ordering::Relaxed) {
                    return Ok(Permit::decided());
                }
                self.held_back.fetch_add(1, Ordering::Relaxed);
                self.count_rejected();
                Ok(Permit::observed())
            }
            Err(rejection) => {
                self.in_flight.fetch_sub(1, Ordering::AcqRel);
                self.held_back.fetch_add(1, Ordering::Relaxed);
                Err(rejection)
            }
        }
    }

    fn count_rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// A call ended, and nothing is to be learned from it.
    pub fn release(&self, permit: Permit) {
        drop(permit);
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// A call ended with `outcome`, `took` after it was admitted. If that moved the limit, says so: more may start now than this
    /// one made room for.
    pub fn settle(&self, now: Instant, permit: Permit, outcome: Outcome, took: Duration) -> Option<Change> {
        drop(permit);
        let in_flight = self.in_flight.fetch_sub(1, Ordering::AcqRel);
        let due = self.ended.add(now, |batch| batch.add(outcome, took, in_flight));
        if due { self.fold(now, try_lock(&self.core)?) } else { None }
    }

    /// Lowers the limit to a share of what it would be; see [`Learner::press`].
    pub fn press(&self, share: f64) -> Option<Change> {
        let mut core = lock(&self.core);
        let change = core.learner.press(share);
        self.publish(&core);
        change
    }

    /// The state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let core = lock(&self.core);
        let (in_flight, rejected) =
            (self.in_flight.load(Ordering::Relaxed), self.rejected.load(Ordering::Relaxed));
        Snapshot::new(core.learner.config(), core.learner.learned(), in_flight, rejected)
    }

    fn fold(&self, now: Instant, mut core: MutexGuard<'_, Core>) -> Option<Change> {
        let mut batch = self.ended.take(now, Batch::merge);
        let held_back = self.held_back.load(Ordering::Relaxed);
        batch.held_back = u32::try_from(held_back.saturating_sub(core.told)).unwrap_or(u32::MAX);
        core.told = held_back;
        let change = core.learner.learn(now, &batch);
        self.publish(&core);
        change
    }

    /// Under the lock, so that the words are those of the last state.
    fn publish(&self, core: &Core) {
        let config = core.learner.config();
        let most = |mode| if config.mode == mode { core.learner.limit() } else { u32::MAX };
        self.enforced.store(most(Mode::Enforce), Ordering::Relaxed);
        self.observed.store(most(Mode::Observe), Ordering::Relaxed);
        self.ended.switch(config.algorithm != Algorithm::Fixed && config.mode != Mode::Off);
    }
}

/// A twentieth of a second: twice in the shortest window that the core decides by.
const FOLD_EVERY: Duration = Duration::from_millis(50);
