//! What the calls to one upstream share, shared between threads.

use std::time::Duration;

use seaworthy_core::call::{self, Extra, Learned, Sample, Shared, Snapshot};
use seaworthy_core::{Instant, Valid, nanos};

use super::cells::Cells;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, lock, try_lock};

/// [`call::Commons`] for several threads: latencies and deposits are kept in cells and folded ten times a second, what was
/// learned is published, and withdrawals are exact.
#[derive(Debug)]
pub struct Commons {
    cells: Cells<Mutex<Cell>>,
    learned: Published,
    /// When the cells are to be folded next.
    fold_at: AtomicU64,
    core: Mutex<call::Commons>,
}

/// The good news of one thread.
#[derive(Debug)]
struct Cell {
    took: [Duration; CELL],
    len: usize,
    calls: u32,
}

/// A [`Learned`] as words; 0 stands for `None`.
#[derive(Debug, Default)]
struct Published {
    timeout: AtomicU64,
    hedge_after: AtomicU64,
    late: AtomicU64,
    typical: AtomicU64,
}

impl Commons {
    /// Knows nothing yet; the budgets are full.
    #[must_use]
    pub fn new(config: Valid<call::Config>) -> Self {
        let mut core = call::Commons::new(config);
        let learned = Published::default();
        learned.publish(core.refresh(Instant::ZERO));
        Self {
            cells: Cells::new(|| Mutex::new(Cell { took: [Duration::ZERO; CELL], len: 0, calls: 0 })),
            learned,
            fold_at: AtomicU64::new(0),
            core: Mutex::new(core),
        }
    }

    /// Takes new numbers and keeps what was learned.
    pub fn reconfigure(&self, now: Instant, config: Valid<call::Config>) {
        let mut core = self.folded(now);
        core.reconfigure(config);
        self.learned.publish(core.refresh(now));
    }

    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        self.folded(now).snapshot(now)
    }

    /// What is known of the latency at `now`; folds first if it is time.
    pub fn learned(&self, now: Instant) -> Learned {
        let fold_at = Instant::from_nanos(self.fold_at.load(Ordering::Relaxed));
        // Too far ahead is as due: the clock jumped back.
        let due = now >= fold_at || fold_at.since(now) > FOLD_EVERY;
        if due && let Some(mut core) = try_lock(&self.core) {
            self.fold(now, &mut core);
            self.fold_at.store(now.plus(FOLD_EVERY).as_nanos(), Ordering::Relaxed);
            self.learned.publish(core.refresh(now));
        }
        self.learned.read()
    }

    fn observe(&self, now: Instant, sample: Sample) {
        let Sample::Took(took) = sample else {
            // Bad news is exact.
            return self.folded(now).observe(now, sample);
        };
        let mut cell = lock(self.cells.mine());
        if cell.len == CELL {
            drop(cell);
            drop(self.folded(now));
            cell = lock(self.cells.mine());
            if cell.len == CELL {
                // Another thread of the same cell was faster to fill it again; its samples will do.
                return;
            }
        }
        let len = cell.len;
        cell.took[len] = took;
        cell.len += 1;
    }

    fn folded(&self, now: Instant) -> MutexGuard<'_, call::Commons> {
        let mut core = lock(&self.core);
        self.fold(now, &mut core);
        core
    }

    fn fold(&self, now: Instant, core: &mut call::Commons) {
        for cell in self.cells.iter() {
            let mut cell = lock(cell);
            for took in &cell.took[..cell.len] {
                core.observe(now, Sample::Took(*took));
            }
            core.deposit_many(now, cell.calls);
            (cell.len, cell.calls) = (0, 0);
        }
    }
}

/// The questions of a call, asked through a shared reference.
impl Shared for &Commons {
    fn learned(&mut self, now: Instant) -> Learned {
        Commons::learned(self, now)
    }

    fn observe(&mut self, now: Instant, sample: Sample) {
        Commons::observe(self, now, sample);
    }

    fn deposit(&mut self, _now: Instant) {
        let mut cell = lock(self.cells.mine());
        cell.calls = cell.calls.saturating_add(1);
    }

    fn withdraw(&mut self, now: Instant, extra: Extra) -> bool {
        self.folded(now).withdraw(now, extra)
    }

    fn refund(&mut self, now: Instant, extra: Extra) {
        lock(&self.core).refund(now, extra);
    }
}

impl Published {
    fn publish(&self, learned: Learned) {
        let word = |d: Option<Duration>| d.map_or(0, |d| nanos(d).max(1));
        self.timeout.store(word(learned.timeout), Ordering::Relaxed);
        self.hedge_after.store(word(learned.hedge_after), Ordering::Relaxed);
        self.late.store(word(learned.late), Ordering::Relaxed);
        self.typical.store(word(learned.typical), Ordering::Relaxed);
    }

    fn read(&self) -> Learned {
        let duration = |word: &AtomicU64| match word.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        };
        Learned {
            timeout: duration(&self.timeout),
            hedge_after: duration(&self.hedge_after),
            late: duration(&self.late),
            typical: duration(&self.typical),
        }
    }
}

/// Samples that a cell holds before it is folded out of turn.
const CELL: usize = if cfg!(seaworthy_loom) { 2 } else { 64 };
/// Ten times a second, as often as what was learned is computed anew.
const FOLD_EVERY: Duration = Duration::from_millis(100);
