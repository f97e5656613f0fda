//! A cell for each thread, so that threads do not write each other's lines.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Sixteen cells: two threads share one only past sixteen threads, and then they are merely slower.
pub(crate) const CELLS: usize = if cfg!(loom) { 2 } else { 16 };

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

fn slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::thread_local! {
        static SLOT: usize = NEXT.fetch_add(1, Ordering::Relaxed) % CELLS;
    }
    // A thread that is being torn down has lost its number; any cell will do.
    SLOT.try_with(|slot| *slot).unwrap_or(0)
}
