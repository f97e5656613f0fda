//! The primitives of the shells, exchanged for loom's when it explores their interleavings.

#[cfg(not(seaworthy_loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(seaworthy_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(seaworthy_loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(seaworthy_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};

/// Locks `mutex`. A thread that panicked while it held the lock left a policy's state behind that is still sound: every
/// method of the core leaves it so at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Locks `mutex` if nobody holds it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}
