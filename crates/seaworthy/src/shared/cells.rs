//! A cell for each thread, so that threads do not write each other's lines.

/// Sixteen cells: two threads share one only past sixteen threads, and then they are merely slower.
pub(crate) const CELLS: usize = if cfg!(seaworthy_loom) { 2 } else { 16 };

/// A value on cache lines of its own. 128 bytes, because processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// One cell a thread.
#[derive(Debug)]
pub(crate) struct Cells<T>([Padded<T>; CELLS]);

impl<T> Cells<T> {
    pub(crate) fn new(make: impl Fn() -> T) -> Self {
        Self(std::array::from_fn(|_| Padded(make())))
    }

    /// The present thread's.
    pub(crate) fn mine(&self) -> &T {
        &self.0[slot()].0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }
}

#[cfg(not(seaworthy_loom))]
fn slot() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::thread_local! {
        static SLOT: usize = NEXT.fetch_add(1, Ordering::Relaxed) % CELLS;
    }
    // A thread that is being torn down has lost its number; any cell will do.
    SLOT.try_with(|slot| *slot).unwrap_or(0)
}

/// Under loom each run must be the same, so a test says which thread has which cell.
#[cfg(seaworthy_loom)]
fn slot() -> usize {
    LOOM_SLOT.with(std::cell::Cell::get)
}

#[cfg(seaworthy_loom)]
loom::thread_local! {
    pub(crate) static LOOM_SLOT: std::cell::Cell<usize> = std::cell::Cell::new(0);
}
