//! Time for tasks: one clock read a poll, one timer a task.
//!
//! Everything that runs on a worker runs inside [`timed`]. It reads the clock when the task is polled, and whatever the
//! task polls takes that moment from [`Clock::now`]. What must happen by some time says so with [`Clock::wake_by`]; when
//! the poll ends, the earliest of these is what the task's single timer is set to, and only if it isn't set to something
//! earlier already. So a call that is answered at once never touches a timer, and a connection that makes thousands of
//! calls with a deadline of 30 s sets its timer about once in 30 s: when it fires with nothing due, it is just set anew.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use seaworthy::clock;
use seaworthy_core::Instant;
use tokio::time::Sleep;

/// The present moment of a worker, and what its current task waits for.
#[derive(Debug)]
pub(crate) struct Clock {
    now: Cell<Instant>,
    wake: Cell<Instant>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { now: Cell::new(clock::now()), wake: Cell::new(Instant::FAR) }
    }

    /// When the current task began to be polled.
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    /// Asks for the current task to be polled again at `at`, or earlier.
    pub(crate) fn wake_by(&self, at: Instant) {
        self.wake.set(self.wake.get().min(at));
    }

    /// Reads the clock. For the rare place that waits within a poll's life or runs outside a timed task.
    pub(crate) fn refresh(&self) -> Instant {
        let now = clock::now();
        self.now.set(now);
        now
    }
}

/// Something that holds a [`Clock`].
pub(crate) trait HasClock {
    /// The clock.
    fn clock(&self) -> &Clock;
}

/// Runs `future` as a task of its own, with the time that it needs.
pub(crate) async fn timed<F: Future>(home: impl HasClock, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut timer = Timer::default();
    poll_fn(|cx| {
        let clock = home.clock();
        let now = clock.refresh();
        clock.wake.set(Instant::FAR);
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            timer.arm(now, clock.wake.get(), cx);
        }
        polled
    })
    .await
}

#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When it fires; in the past if it has.
    armed: Instant,
}

impl Timer {
    fn arm(&mut self, now: Instant, at: Instant, cx: &mut Context<'_>) {
        let armed = self.armed > now;
        if at == Instant::FAR || (armed && self.armed <= at) {
            return;
        }
        let until = tokio::time::Instant::now() + at.since(now);
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                sleep.as_mut().reset(until);
                sleep
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(until))),
        };
        self.armed = at;
        if let Poll::Ready(()) = sleep.as_mut().poll(cx) {
            self.armed = Instant::ZERO;
            cx.waker().wake_by_ref();
        }
    }
}
