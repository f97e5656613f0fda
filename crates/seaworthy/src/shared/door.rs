//! A limit and the queue before it, shared between threads.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use seaworthy_core::gate::limit::{self, Change, Permit};
use seaworthy_core::gate::queue::{self, Asking, Gone, Id, Queue};
use seaworthy_core::{Instant, Outcome, Policy, Reason, Rejection, Valid};

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
    Refused(Rejection),
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

    /// Takes new numbers for the queue. Who waits keeps its place if there is room still, and is woken to see what they mean
    /// for it.
    pub fn reconfigure_queue(&self, now: Instant, queue: Valid<queue::Config>) {
        let mut room = lock(&self.room);
        room.queue.reconfigure(now, queue);
        let mut woken = self.serve(now, &mut room);
        while let Some(gone) = room.queue.surplus(now) {
            woken.extend(room.refuse(gone));
        }
        self.publish(&room);
        woken.extend(room.fates.values().filter_map(|fate| match fate {
            Fate::Waits(waker) => Some(waker.clone()),
            Fate::Admitted(_) | Fate::Refused(_) => None,
        }));
        drop(room);
        wake(woken);
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
    ///
    /// Whoever failed to take a place must come here afterwards, even if it is refused: while it tried, it was counted as in
    /// flight, and another who came here just then may have found no place for that alone.
    fn serve(&self, now: Instant, room: &mut MutexGuard<'_, Room>) -> Vec<Waker> {
        let mut woken = room.expire(now);
        while !room.queue.is_empty() {
            let Some(permit) = self.limit.try_admit() else { break };
            let Some(id) = room.queue.next(now) else {
                self.limit.release(permit);
                break;
            };
            woken.extend(room.decide(id, Fate::Admitted(permit)));
        }
        self.publish(room);
        woken
    }

    fn publish(&self, room: &MutexGuard<'_, Room>) {
        self.waiting.store(room.queue.len(), Ordering::Relaxed);
    }
}

impl Room {
    /// Refuses those whose time is over, and returns who is to be woken for it.
    fn expire(&mut self, now: Instant) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(gone) = self.queue.expired(now) {
            woken.extend(self.refuse(gone));
        }
        woken
    }

    fn refuse(&mut self, gone: Gone) -> Option<Waker> {
        self.decide(gone.id, Fate::Refused(gone.rejection))
    }

    /// The waker of one whose fate is decided now.
    fn decide(&mut self, id: Id, fate: Fate) -> Option<Waker> {
        match self.fates.insert(id, fate)? {
            Fate::Waits(waker) => Some(waker),
            Fate::Admitted(_) | Fate::Refused(_) => None,
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

    /// Asks for a place, or waits on for one. What it asks counts the first time.
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
            // Under the lock, so that nobody can have joined meanwhile and miss the place that this tries to take.
            return Poll::Ready(door.limit.admit(now));
        }
        let joined = room.queue.join(now, asking);
        let displaced = joined.ok().and_then(|joined| joined.displaced).and_then(|gone| room.refuse(gone));
        door.publish(&room);
        // See `hand_on`.
        fence(Ordering::SeqCst);
        let mut woken = door.serve(now, &mut room);
        let heard = match joined {
            Ok(joined) => self.hear(&mut room, joined.id, cx),
            Err(rejection) => Poll::Ready(Err(rejection)),
        };
        drop(room);
        woken.extend(displaced);
        wake(woken);
        heard
    }

    fn wait(
        &mut self,
        door: &Door,
        now: Instant,
        id: Id,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Permit, Rejection>> {
        let mut room = lock(&door.room);
        let woken = room.expire(now);
        door.publish(&room);
        let heard = self.hear(&mut room, id, cx);
        drop(room);
        wake(woken);
        heard
    }

    /// What has become of it; it will be woken if that is nothing yet.
    fn hear(
        &mut self,
        room: &mut MutexGuard<'_, Room>,
        id: Id,
        cx: &Context<'_>,
    ) -> Poll<Result<Permit, Rejection>> {
        self.waits = room.queue.until(id).map(|until| (id, until));
        if self.waits.is_some() {
            room.fates.insert(id, Fate::Waits(cx.waker().clone()));
            return Poll::Pending;
        }
        match room.fates.remove(&id) {
            Some(Fate::Admitted(permit)) => Poll::Ready(Ok(permit)),
            Some(Fate::Refused(rejection)) => Poll::Ready(Err(rejection)),
            // It does not wait and nothing was decided, so it never waited here.
            Some(Fate::Waits(_)) | None => Poll::Ready(Err(STRANGER)),
        }
    }

    /// The caller went away; what it was given goes to the next.
    pub fn leave(&mut self, door: &Door, now: Instant) {
        let Some((id, _)) = self.waits.take() else { return };
        let mut room = lock(&door.room);
        let fate = room.fates.remove(&id);
        room.queue.leave(now, id);
        door.publish(&room);
        // Outside of the lock its waker is dropped, too.
        drop(room);
        if let Some(Fate::Admitted(permit)) = fate {
            door.release(now, permit);
        }
    }
}

fn wake(woken: Vec<Waker>) {
    woken.into_iter().for_each(Waker::wake);
}

/// Of one that waited at another door: there is no place for it at this.
const STRANGER: Rejection = Rejection::new(Policy::Queue, Reason::Shed);

#[cfg(test)]
#[cfg(not(seaworthy_loom))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use seaworthy_core::{Criticality, Mode};

    use super::*;

    const NOW: Instant = Instant::from_millis(1_000);

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A call at the door.
    #[derive(Default)]
    struct Call {
        entering: Entering,
        woken: Arc<Woken>,
    }

    impl Call {
        fn poll(
            &mut self,
            door: &Door,
            now: Instant,
            criticality: Criticality,
        ) -> Option<Result<Permit, Reason>> {
            let asking = Asking { criticality, client: 1, deadline: None };
            let waker = self.woken.clone().into();
            match self.entering.poll(door, now, asking, &mut Context::from_waker(&waker)) {
                Poll::Ready(heard) => Some(heard.map_err(|rejection| rejection.reason)),
                Poll::Pending => None,
            }
        }

        fn woken(&self) -> bool {
            self.woken.0.load(Ordering::SeqCst) > 0
        }
    }

    fn limited(max_in_flight: u32, mode: Mode) -> Valid<limit::Config> {
        Valid::new(limit::Config { max_in_flight, mode, ..Default::default() }).unwrap()
    }

    fn queueing(size: u32, mode: Mode) -> Valid<queue::Config> {
        Valid::new(queue::Config { size, mode, ..Default::default() }).unwrap()
    }

    /// A door with one place, which is taken, and calls that wait: a sheddable and two critical ones.
    fn full() -> (Door, Permit, [Call; 3]) {
        let door = Door::new(limited(1, Mode::Enforce), queueing(3, Mode::Enforce));
        let held = Call::default().poll(&door, NOW, Criticality::Critical).unwrap().unwrap();
        let mut calls: [Call; 3] = Default::default();
        for (call, criticality) in calls.iter_mut().zip(LEVELS) {
            assert_eq!(call.poll(&door, NOW, criticality), None);
        }
        (door, held, calls)
    }

    const LEVELS: [Criticality; 3] = [Criticality::Sheddable, Criticality::Critical, Criticality::Critical];

    #[test]
    fn a_place_goes_to_whose_turn_it_is_and_to_no_newcomer() {
        let (door, held, mut calls) = full();
        door.release(NOW, held);
        assert_eq!(calls.each_ref().map(Call::woken), [false, true, false]);
        let (mut newcomer, mut another) = (Call::default(), Call::default());
        assert_eq!(newcomer.poll(&door, NOW, Criticality::CriticalPlus), None);
        assert!(!calls[0].woken(), "there was room still");
        assert_eq!(another.poll(&door, NOW, Criticality::Critical), None);
        assert!(calls[0].woken());
        assert_eq!(calls[0].poll(&door, NOW, Criticality::Sheddable), Some(Err(Reason::Shed)));
        let permit = calls[1].poll(&door, NOW, Criticality::Critical).unwrap().unwrap();
        door.settle(NOW, permit, Outcome::Success, Duration::ZERO);
        assert!(newcomer.woken() && !calls[2].woken());
    }

    #[test]
    fn who_waits_is_told_to_the_nanosecond_when_its_time_is_over() {
        let (door, held, mut calls) = full();
        let until = calls[0].entering.wakes_by();
        assert_eq!(until, NOW.plus(Duration::from_millis(500)));
        let just_before = Instant::from_nanos(until.as_nanos() - 1);
        assert_eq!(calls[0].poll(&door, just_before, LEVELS[0]), None);
        for (call, criticality) in calls.iter_mut().zip(LEVELS) {
            assert_eq!(call.poll(&door, until, criticality), Some(Err(Reason::WaitedTooLong)));
        }
        door.release(until, held);
        assert_eq!(door.snapshot(until).limit.in_flight, 0);
    }

    #[test]
    fn a_raised_limit_wakes_as_many_as_fit_and_one_that_is_off_all() {
        let (door, _held, calls) = full();
        door.reconfigure(NOW, limited(2, Mode::Enforce));
        assert_eq!(calls.each_ref().map(Call::woken), [false, true, false]);
        door.reconfigure(NOW, limited(2, Mode::Off));
        assert_eq!(calls.each_ref().map(Call::woken), [true; 3]);
        assert_eq!(door.snapshot(NOW).limit.in_flight, 4);
        assert!(Call::default().poll(&door, NOW, Criticality::Sheddable).unwrap().is_ok());
    }

    #[test]
    fn a_queue_that_holds_nobody_lets_go_of_those_who_wait() {
        for mode in [Mode::Off, Mode::Observe] {
            let (door, _held, mut calls) = full();
            door.reconfigure_queue(NOW, queueing(3, mode));
            for (call, criticality) in calls.iter_mut().zip(LEVELS) {
                assert!(call.woken());
                assert_eq!(call.poll(&door, NOW, criticality), Some(Err(Reason::Shed)));
            }
            let refused = Call::default().poll(&door, NOW, Criticality::Critical);
            assert_eq!(refused, Some(Err(Reason::Full)), "it is the limit alone that refuses now");
        }
    }
}
