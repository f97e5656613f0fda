//! A limit and the queue before it, shared between threads.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use seaworthy_core::gate::limit::{self, Change, Permit};
use seaworthy_core::gate::queue::{self, Asking, Id, Queue};
use seaworthy_core::{Instant, Outcome, Rejection, Valid};

use super::limit::Limit;
use crate::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, fence, lock};

/// A [`Limit`] before which calls wait for a place.
///
/// While nobody waits, passing is the limit's one atomic step and one load. A place that becomes free while calls wait is
/// handed to the one whose turn it is; nobody slips in before it.
#[derive(Debug)]
pub struct Door {
    limit: Limit,
    /// How many wait, written under the lock.
    waiting: AtomicUsize,
    room: Mutex<Room>,
}

#[derive(Debug)]
struct Room {
    queue: Queue,
    /// What has become of those who have not heard of it yet, and how to tell the others.
    fates: BTreeMap<Id, Fate>,
}

#[derive(Debug)]
enum Fate {
    Waits(Waker),
    Admitted(Permit),
    Displaced,
}

/// The state of a [`Door`] at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Of its limit.
    pub limit: limit::Snapshot,
    /// Of its queue.
    pub queue: queue::Snapshot,
}

impl Door {
    /// With nothing in flight, and nobody waiting.
    #[must_use]
    pub fn new(limit: Valid<limit::Config>, queue: Valid<queue::Config>) -> Self {
        let room = Room { queue: Queue::new(queue), fates: BTreeMap::new() };
        Self { limit: Limit::new(limit), waiting: AtomicUsize::new(0), room: Mutex::new(room) }
    }

    /// A call ended, and nothing is to be learned from it.
    pub fn release(&self, now: Instant, permit: Permit) {
        self.limit.release(permit);
        self.hand_on(now);
    }

    /// A call ended with `outcome`, `took` after it was admitted. If that moved the limit, says so.
    pub fn settle(&self, now: Instant, permit: Permit, outcome: Outcome, took: Duration) -> Option<Change> {
        let change = self.limit.settle(now, permit, outcome, took);
        self.hand_on(now);
        change
    }

    /// Lowers the limit to a share of what it would be; see [`limit::Learner::press`].
    pub fn press(&self, now: Instant, share: f64) -> Option<Change> {
        let change = self.limit.press(share);
        self.hand_on(now);
        change
    }

    /// Takes new numbers for the limit; what is in flight and what waits stays.
    pub fn reconfigure(&self, now: Instant, limit: Valid<limit::Config>) {
        self.limit.reconfigure(limit);
        self.hand_on(now);
    }

    /// Takes new numbers for the queue; what waits goes on waiting.
    pub fn reconfigure_queue(&self, queue: Valid<queue::Config>) {
        lock(&self.room).queue.reconfigure(queue);
    }

    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot { limit: self.limit.snapshot(), queue: lock(&self.room).queue.snapshot(now) }
    }

    /// Hands what places are free to those who wait.
    fn hand_on(&self, now: Instant) {
        // Who joins counts itself first and looks for a place then; who leaves a place gives it back first and looks for those who
        // wait then. So one of the two sees the other.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            let mut room = lock(&self.room);
            let woken = self.serve(now, &mut room);
            drop(room);
            wake(woken);
        }
    }

    /// Admits who may go, and returns who is to be woken for it; outside of the lock, as a waker may do anything.
    fn serve(&self, now: Instant, room: &mut MutexGuard<'_, Room>) -> Vec<Waker> {
        let mut woken = Vec::new();
        while !room.queue.is_empty() {
            let Some(permit) = self.limit.try_admit() else { break };
            let Some(id) = room.queue.next(now) else {
                self.limit.release(permit);
                break;
            };
            woken.extend(room.decide(id, Fate::Admitted(permit)));
        }
        self.waiting.store(room.queue.len(), Ordering::Relaxed);
        woken
    }
}

impl Room {
    /// The waker of one whose fate is decided now.
    fn decide(&mut self, id: Id, fate: Fate) -> Option<Waker> {
        match self.fates.insert(id, fate)? {
            Fate::Waits(waker) => Some(waker),
            Fate::Admitted(_) | Fate::Displaced => None,
        }
    }
}

/// One call's way through a [`Door`]. Before it is dropped while it waits, it must [leave](Self::leave).
#[derive(Debug, Default)]
pub struct Entering {
    waits: Option<(Id, Instant)>,
}

impl Entering {
    /// A call that has not asked yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { waits: None }
    }

    /// Until when it waits, at the latest: whoever polls it must do so again by then. [`Instant::FAR`] if it doesn't wait.
    #[must_use]
    pub fn wakes_by(&self) -> Instant {
        self.waits.map_or(Instant::FAR, |(_, until)| until)
    }

    /// Asks for a place, or waits on for one.
    pub fn poll(
        &mut self,
        door: &Door,
        now: Instant,
        asking: Asking,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Permit, Rejection>> {
        match self.waits {
            Some((id, _)) => self.wait(door, now, id, cx),
            None => self.ask(door, now, asking, cx),
        }
    }

    fn ask(
        &mut self,
        door: &Door,
        now: Instant,
        asking: Asking,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Permit, Rejection>> {
        if door.waiting.load(Ordering::Relaxed) == 0
            && let Some(permit) = door.limit.try_admit()
        {
            return Poll::Ready(Ok(permit));
        }
        let mut room = lock(&door.room);
        if !room.queue.is_on() {
            drop(room);
            return Poll::Ready(door.limit.admit(now));
        }
        let joined = match room.queue.join(now, asking) {
            Ok(joined) => joined,
            Err(rejection) => return Poll::Ready(Err(rejection)),
        };
        room.fates.insert(joined.id, Fate::Waits(cx.waker().clone()));
        let displaced = joined.displaced.and_then(|id| room.decide(id, Fate::Displaced));
        door.waiting.store(room.queue.len(), Ordering::Relaxed);
        // See `hand_on`.
        fence(Ordering::SeqCst);
        let mut woken = door.serve(now, &mut room);
        self.waits = Some((joined.id, joined.until));
        let fate = self.hear(&mut room, joined.id);
        drop(room);
        woken.extend(displaced);
        wake(woken);
        fate.map_or(Poll::Pending, Poll::Ready)
    }

    fn wait(
        &mut self,
        door: &Door,
        now: Instant,
        id: Id,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Permit, Rejection>> {
        let mut room = lock(&door.room);
        if let Some(fate) = self.hear(&mut room, id) {
            return Poll::Ready(fate);
        }
        if now < self.wakes_by() && room.queue.has(id) {
            room.fates.insert(id, Fate::Waits(cx.waker().clone()));
            return Poll::Pending;
        }
        room.fates.remove(&id);
        self.waits = None;
        let rejection = room.queue.leave(now, id);
        door.waiting.store(room.queue.len(), Ordering::Relaxed);
        Poll::Ready(Err(rejection.unwrap_or_else(queue::displaced)))
    }

    /// What has become of it, if that is decided.
    fn hear(&mut self, room: &mut MutexGuard<'_, Room>, id: Id) -> Option<Result<Permit, Rejection>> {
        let decided = room.fates.get(&id).is_none_or(|fate| !matches!(fate, Fate::Waits(_)));
        if !decided {
            return None;
        }
        self.waits = None;
        match room.fates.remove(&id) {
            Some(Fate::Admitted(permit)) => Some(Ok(permit)),
            _ => Some(Err(queue::displaced())),
        }
    }

    /// The caller went away; what it was given goes to the next.
    pub fn leave(&mut self, door: &Door, now: Instant) {
        let Some((id, _)) = self.waits.take() else { return };
        let mut room = lock(&door.room);
        let fate = room.fates.remove(&id);
        if let Some(Fate::Waits(_)) = fate {
            // Whether its time was over as well is of no interest to anybody.
            let _ = room.queue.leave(now, id);
            door.waiting.store(room.queue.len(), Ordering::Relaxed);
        }
        drop(room);
        if let Some(Fate::Admitted(permit)) = fate {
            door.release(now, permit);
        }
    }
}

fn wake(woken: Vec<Waker>) {
    woken.into_iter().for_each(Waker::wake);
}
