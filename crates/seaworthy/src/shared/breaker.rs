//! A breaker shared between threads: one load to pass while it is closed.

use std::time::Duration;

pub use seaworthy_core::gate::breaker::Ticket;
use seaworthy_core::gate::breaker::{Cause, Change, Config, Force, Snapshot};
use seaworthy_core::record::RecordedBreaker;
use seaworthy_core::{Instant, Mode, Outcome, Rejection, Valid, nanos};

use super::cells::Cells;
use crate::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, lock, try_lock};

/// [`seaworthy_core::gate::breaker::Breaker`] for several threads.
///
/// While it is closed, admission is one load and a quick success is counted in the thread's own cell. Everything else takes
/// the lock, folds the cells and asks the core.
#[derive(Debug)]
pub struct Breaker {
    /// The generation, shifted by one; the lowest bit says that calls pass without asking.
    published: AtomicU64,
    /// A success slower than this is news; `u64::MAX` if none is.
    slow_after: AtomicU64,
    /// [`Config::hung_after`]; `u64::MAX` if nothing ever hangs.
    hung_after: AtomicU64,
    /// Until when the successes in the cells belong to the present slice of the window.
    fold_at: AtomicU64,
    successes: Cells<AtomicU32>,
    core: Mutex<RecordedBreaker>,
}

impl Breaker {
    /// A closed breaker whose jitter follows from `seed`.
    #[must_use]
    pub fn new(config: Valid<Config>, seed: u64) -> Self {
        Self::recorded(config, seed, None)
    }

    /// The same, recorded under the number `id`, if there is one; see [`seaworthy_core::record`].
    #[must_use]
    pub fn recorded(config: Valid<Config>, seed: u64, id: Option<u64>) -> Self {
        let breaker = Self {
            published: AtomicU64::new(0),
            slow_after: AtomicU64::new(slow_after(&config)),
            hung_after: AtomicU64::new(hung_after(&config)),
            fold_at: AtomicU64::new(0),
            successes: Cells::new(|| AtomicU32::new(0)),
            core: Mutex::new(RecordedBreaker::new(config, seed, id)),
        };
        breaker.publish(&lock(&breaker.core));
        breaker
    }

    /// Takes new numbers; they apply to the old window unless that has another length.
    pub fn reconfigure(&self, now: Instant, config: Valid<Config>) {
        let mut core = self.folded(now);
        core.reconfigure(config);
        self.slow_after.store(slow_after(&config), Ordering::Relaxed);
        self.hung_after.store(hung_after(&config), Ordering::Relaxed);
        self.publish(&core);
    }

    /// May a call start? With a change of state that this brought about, if any (a wait that is over, say).
    ///
    /// # Errors
    /// The refusal, with how long until a probe is admitted.
    pub fn admit(&self, now: Instant) -> Result<Ticket, Rejection> {
        self.admit_telling(now).0
    }

    /// As [`admit`](Self::admit), with the change of state that the time until now has brought about, if any.
    pub fn admit_telling(&self, now: Instant) -> (Result<Ticket, Rejection>, Option<Change>) {
        let published = self.published.load(Ordering::Acquire);
        if published & PASS != 0 {
            return (Ok(Ticket::passed(published >> 1, now)), None);
        }
        let mut core = self.folded(now);
        let before = core.generation();
        let admitted = core.admit(now);
        let change = core.last_change().filter(|_| core.generation() != before);
        self.publish(&core);
        (admitted, change)
    }

    /// When a call that starts at `now` will be [overdue](Self::overdue); [`Instant::FAR`] if never.
    #[must_use]
    pub fn overdue_at(&self, now: Instant) -> Instant {
        now.plus_nanos(self.hung_after.load(Ordering::Relaxed))
    }

    /// A call has run for [`Config::hung_after`] and still runs.
    pub fn overdue(&self, now: Instant, ticket: &mut Ticket) -> Option<Change> {
        let mut core = self.folded(now);
        let change = core.overdue(now, ticket);
        self.publish(&core);
        change
    }

    /// A call ended.
    pub fn settle(&self, now: Instant, ticket: Ticket, outcome: Outcome) -> Option<Change> {
        if outcome == Outcome::Success && self.is_no_news(now, &ticket) {
            self.successes.mine().fetch_add(1, Ordering::Relaxed);
            self.fold_if_due(now);
            return None;
        }
        let mut core = self.folded(now);
        let change = core.settle(now, ticket, outcome);
        self.publish(&core);
        change
    }

    /// Opens it because its endpoint does worse than its peers; see [`seaworthy_core::gate::breaker::Breaker::trip`].
    pub fn trip(&self, now: Instant, cause: Cause, not_slower_than: Option<Duration>) -> Option<Change> {
        let mut core = self.folded(now);
        let change = core.trip(now, cause, not_slower_than);
        self.publish(&core);
        change
    }

    /// Overrides the state, or ends the override.
    pub fn force(&self, now: Instant, force: Option<Force>) -> Option<Change> {
        let mut core = self.folded(now);
        let change = core.force(now, force);
        self.publish(&core);
        change
    }

    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        self.folded(now).snapshot(now)
    }

    /// Takes what was recorded since the last time; nothing if it is not recorded.
    #[must_use]
    pub fn take_recording(&self) -> String {
        lock(&self.core).take()
    }

    /// Whether calls pass without being asked about, for whoever chooses between endpoints.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.published.load(Ordering::Relaxed) & PASS != 0
    }

    /// Whether a success is of a call that passed the closed breaker and was not slow.
    fn is_no_news(&self, now: Instant, ticket: &Ticket) -> bool {
        let published = self.published.load(Ordering::Acquire);
        published == (ticket.generation() << 1 | PASS)
            && now.nanos_since(ticket.admitted()) < self.slow_after.load(Ordering::Relaxed)
    }

    /// Successes belong to the slice of the window in which they happened, so they are folded ten times a second.
    fn fold_if_due(&self, now: Instant) {
        let fold_at = Instant::from_nanos(self.fold_at.load(Ordering::Relaxed));
        let due = now >= fold_at || fold_at.since(now) > FOLD_EVERY;
        if due && let Some(mut core) = try_lock(&self.core) {
            self.fold(now, &mut core);
        }
    }

    fn folded(&self, now: Instant) -> MutexGuard<'_, RecordedBreaker> {
        let mut core = lock(&self.core);
        self.fold(now, &mut core);
        core
    }

    fn fold(&self, now: Instant, core: &mut RecordedBreaker) {
        // What is in the cells happened before the last fold was over for long; after an idle hour it is an hour old.
        let happened = now.min(Instant::from_nanos(self.fold_at.load(Ordering::Relaxed)));
        for cell in self.successes.iter() {
            if cell.load(Ordering::Relaxed) != 0 {
                core.fold(happened, cell.swap(0, Ordering::Relaxed));
            }
        }
        self.fold_at.store(now.plus(FOLD_EVERY).as_nanos(), Ordering::Relaxed);
    }

    fn publish(&self, core: &RecordedBreaker) {
        let pass = core.is_open_to_all() || core.config().mode == Mode::Off;
        self.published.store(core.generation() << 1 | u64::from(pass), Ordering::Release);
    }
}

fn slow_after(config: &Valid<Config>) -> u64 {
    config.slow_after.map_or(u64::MAX, nanos)
}

fn hung_after(config: &Valid<Config>) -> u64 {
    config.hung_after.filter(|_| config.mode != Mode::Off).map_or(u64::MAX, nanos)
}

const PASS: u64 = 1;
/// A sixth of the shortest sensible slice.
const FOLD_EVERY: Duration = Duration::from_millis(100);
