//! A bulkhead shared between tasks, whose queue is asynchronous.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use seaworthy_core::gate::bulkhead::{self, Admission, Config, Snapshot, Ticket, Turn};
use seaworthy_core::{Instant, Rejection, Valid};
use tokio::time::Sleep;

use crate::clock;
use crate::sync::{Mutex, lock};

/// [`bulkhead::Bulkhead`] for several tasks.
#[derive(Debug)]
pub struct Bulkhead {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    core: bulkhead::Bulkhead,
    /// Who waits, to be woken when the turn has come.
    wakers: Vec<(Turn, Waker)>,
}

impl Bulkhead {
    /// With all places free.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        Self { state: Mutex::new(State { core: bulkhead::Bulkhead::new(config), wakers: Vec::new() }) }
    }

    /// Takes new numbers. Who waits keeps its turn, and is woken to see what they mean for it.
    pub fn reconfigure(&self, now: Instant, config: Valid<Config>) {
        let mut state = lock(&self.state);
        state.core.reconfigure(now, config);
        while state.core.call_next(now).is_some() {}
        let woken = std::mem::take(&mut state.wakers);
        drop(state);
        woken.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// A call ended; whoever is next is woken.
    pub fn settle(&self, now: Instant, ticket: Ticket) {
        self.wake(|core| core.settle(now, ticket));
    }

    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        lock(&self.state).core.snapshot(now)
    }

    fn wake(&self, change: impl FnOnce(&mut bulkhead::Bulkhead) -> Option<Turn>) {
        let mut state = lock(&self.state);
        let waker = change(&mut state.core).and_then(|turn| state.take_waker(turn));
        drop(state);
        // Outside of the lock: a waker may do anything.
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    fn take_waker(&mut self, turn: Turn) -> Option<Waker> {
        let n = self.wakers.iter().position(|(waiting, _)| *waiting == turn)?;
        Some(self.wakers.swap_remove(n).1)
    }
}

/// One call's way to a place. Before it is dropped while it waits, it must [leave](Self::leave).
#[derive(Debug, Default)]
pub struct Acquire {
    waiting: Option<(Turn, Pin<Box<Sleep>>)>,
}

impl Acquire {
    /// A call that has not asked yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a place, or waits on for one.
    pub fn poll(
        &mut self,
        bulkhead: &Bulkhead,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Ticket, Rejection>> {
        let (turn, sleep) = match &mut self.waiting {
            Some(waiting) => waiting,
            None => match lock(&bulkhead.state).core.admit(now) {
                Err(rejection) => return Poll::Ready(Err(rejection)),
                Ok(Admission::Start(ticket)) => return Poll::Ready(Ok(ticket)),
                Ok(Admission::Wait(turn, until)) => {
                    let sleep = Box::pin(tokio::time::sleep_until(clock::to_tokio(until)));
                    self.waiting.insert((turn, sleep))
                }
            },
        };
        loop {
            // The timer only wakes; whether the wait is over is the core's to say.
            let now = if sleep.as_mut().poll(cx).is_ready() { clock::now() } else { now };
            let mut state = lock(&bulkhead.state);
            state.take_waker(*turn);
            if let Some(claimed) = state.core.claim(now, *turn) {
                self.waiting = None;
                return Poll::Ready(claimed);
            }
            let until = state.core.expiry(*turn).map_or(sleep.deadline(), clock::to_tokio);
            state.wakers.push((*turn, cx.waker().clone()));
            drop(state);
            if sleep.deadline() == until {
                return Poll::Pending;
            }
            // New numbers, or a clock set back, have moved the end of the wait.
            sleep.as_mut().reset(until);
        }
    }

    /// The caller went away; the turn goes to the next.
    pub fn leave(self, bulkhead: &Bulkhead, now: Instant) {
        if let Some((turn, _)) = self.waiting {
            lock(&bulkhead.state).take_waker(turn);
            bulkhead.wake(|core| core.leave(now, turn));
        }
    }
}
