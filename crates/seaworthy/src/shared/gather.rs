//! What threads learn side by side, put together now and then.

use std::time::Duration;

use seaworthy_core::Instant;

use super::cells::Cells;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// A batch for each thread, and when they are due to be put together.
#[derive(Debug)]
pub(super) struct Gather<B> {
    cells: Cells<Mutex<B>>,
    every: Duration,
    /// When it is due next; never while nothing is gathered.
    due_at: AtomicU64,
}

impl<B: Default> Gather<B> {
    /// Of batches that are due every so often, once it is [switched on](Self::switch).
    pub(super) fn new(every: Duration) -> Self {
        let cells = Cells::new(|| Mutex::new(B::default()));
        Self { cells, every, due_at: AtomicU64::new(NEVER) }
    }

    /// Gathers from now on, or no more. To be called under the lock that guards what learns, as [`take`](Self::take) is.
    pub(super) fn switch(&self, on: bool) {
        if !on {
            self.due_at.store(NEVER, Ordering::Relaxed);
        } else if !self.is_on() {
            self.due_at.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.due_at.load(Ordering::Relaxed) != NEVER
    }

    /// Adds to the present thread's batch. True if all are due to be put together.
    pub(super) fn add(&self, now: Instant, add: impl FnOnce(&mut B)) -> bool {
        let due_at = self.due_at.load(Ordering::Relaxed);
        if due_at == NEVER {
            return false;
        }
        add(&mut *lock(self.cells.mine()));
        // Too far ahead is as due: the clock was set back.
        let due_at = Instant::from_nanos(due_at);
        now >= due_at || due_at.since(now) > self.every
    }

    /// All batches as one; the next are due later.
    pub(super) fn take(&self, now: Instant, merge: impl Fn(&mut B, &B)) -> B {
        let mut all = B::default();
        for cell in self.cells.iter() {
            merge(&mut all, &std::mem::take(&mut *lock(cell)));
        }
        if self.is_on() {
            self.due_at.store(now.plus(self.every).as_nanos().min(NEVER - 1), Ordering::Relaxed);
        }
        all
    }
}

const NEVER: u64 = u64::MAX;
