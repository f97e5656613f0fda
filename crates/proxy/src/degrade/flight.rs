//! One asks, the others wait: whoever wants what is being fetched already gets it from the store a moment later.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::question::Question;

/// What is being fetched. Shared by all threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flights(Arc<Mutex<HashMap<Arc<str>, Arc<Flight>>>>);

/// What somebody who wants something does.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Fetches it.
    Leader(Leader),
    /// Waits for who does.
    Follower(Follower),
}

/// Fetches it for all. Dropped, it has given up.
#[derive(Debug)]
pub(crate) struct Leader {
    flights: Flights,
    key: Arc<str>,
    flight: Arc<Flight>,
    stored: bool,
}

/// Waits until the leader has stored an answer or given up. Runs on any runtime.
#[derive(Debug)]
pub(crate) struct Follower {
    flight: Arc<Flight>,
    id: Option<u64>,
}

/// How a flight ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Landed {
    /// An answer is in the store.
    Stored,
    /// There is none: what came may not be stored, or nothing came.
    Gone,
}

#[derive(Debug, Default)]
struct Flight(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    landed: Option<Landed>,
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Flights {
    /// Takes part in fetching what `question` asks for.
    pub(crate) fn join(&self, question: &Question) -> Turn {
        let mut flights = lock(&self.0);
        if let Some(flight) = flights.get(&question.key) {
            return Turn::Follower(Follower { flight: flight.clone(), id: None });
        }
        let (key, flight) = (question.key.clone(), Arc::<Flight>::default());
        flights.insert(key.clone(), flight.clone());
        drop(flights);
        Turn::Leader(Leader { flights: self.clone(), key, flight, stored: false })
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

impl Leader {
    /// An answer is in the store.
    pub(crate) fn stored(mut self) {
        self.stored = true;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // First out of the map: who comes from now on leads, and who found it before sees that it has landed.
        lock(&self.flights.0).remove(&self.key);
        let mut waiting = lock(&self.flight.0);
        waiting.landed = Some(if self.stored { Landed::Stored } else { Landed::Gone });
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

impl Future for Follower {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landed> {
        let flight = self.flight.clone();
        let mut waiting = lock(&flight.0);
        if let Some(landed) = waiting.landed {
            return Poll::Ready(landed);
        }
        let id = *self.id.get_or_insert_with(|| {
            waiting.next += 1;
            waiting.next
        });
        waiting.wakers.insert(id, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            lock(&self.flight.0).wakers.remove(&id);
        }
    }
}

/// What is guarded here is whole between any two statements: a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
