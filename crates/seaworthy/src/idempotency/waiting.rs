//! Who waits for an operation that runs in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::store::Id;

/// Those who wait, by operation. One for whom nobody waits takes no memory.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_id: Mutex<HashMap<Id, (usize, Arc<Notify>)>>,
}

/// One who waits. Its place is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    waiting: &'a Waiting,
    id: &'a Id,
    notify: Arc<Notify>,
}

impl Waiting {
    pub(super) fn enter<'a>(&'a self, id: &'a Id) -> Waiter<'a> {
        let mut by_id = self.lock();
        let (count, notify) = by_id.entry(id.clone()).or_default();
        *count += 1;
        Waiter { waiting: self, id, notify: notify.clone() }
    }

    /// Wakes all who wait for it.
    pub(super) fn wake(&self, id: &Id) {
        if let Some((_, notify)) = self.lock().get(id) {
            notify.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, (usize, Arc<Notify>)>> {
        // Nothing that is done under it can be left half done.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter<'_> {
    /// Ready when it is woken. Enabled before a look at the store, it misses nothing that happens after the look.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut by_id = self.waiting.lock();
        let Some((count, _)) = by_id.get_mut(self.id) else { return };
        *count -= 1;
        if *count == 0 {
            by_id.remove(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn who_is_enabled_is_woken_and_others_are_not() {
        let waiting = Waiting::default();
        let (a, b) = (Id::new("place", b"", "a"), Id::new("place", b"", "b"));
        let (first, second) = (waiting.enter(&a), waiting.enter(&b));
        let (mut first, mut second) = (pin!(first.woken()), pin!(second.woken()));
        assert!(!first.as_mut().enable() && !second.as_mut().enable());
        waiting.wake(&a);
        first.await;
        assert!(!second.as_mut().enable());
    }

    #[test]
    fn nobody_leaves_anything_behind() {
        let waiting = Waiting::default();
        let id = Id::new("place", b"", "a");
        let (first, second) = (waiting.enter(&id), waiting.enter(&id));
        drop(first);
        assert_eq!(waiting.lock().len(), 1);
        drop(second);
        assert!(waiting.lock().is_empty());
    }
}
