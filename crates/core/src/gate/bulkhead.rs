//! Bulkhead: a bounded number of places, and a bounded queue before them.
//!
//! # What it is for
//! One slow dependency must not take every thread, connection or megabyte there is. Each gets places of its own; a burst may
//! wait for one, in order, not long, and never in a crowd.
//!
//! # When not to use it
//! Where waiting can't help: if calls come faster than places fall free for good, a queue only makes everybody late. Then
//! use a [limit](super::limit) alone.
//!
//! # How
//! ```text
//! admit -> a place is free? ---------> start
//!            | no
//!            v
//!          room in the queue? -- no --> rejected (queue full)
//!            | yes
//!            v
//!          wait -- a place falls free, first come first served --> start
//!            +---- max_wait over --> rejected (waited too long)
//! ```
//! Places and queue are allocated once.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use crate::{Fault, Instant, Mode, Policy, Reason, Rejection, Rules, Valid};

/// The numbers of a [`Bulkhead`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Whether it holds calls back, only tells what it would refuse, or is not there.
    pub mode: Mode,
    /// How many run at once. 64: by Little's law, 640 calls a second at 100 ms.
    pub concurrency: u32,
    /// How many may wait. As many again: a queue longer than what runs means waiting longer than being served.
    pub queue: u32,
    /// How long one may wait. A second; longer, and the caller has less left than it waited.
    pub max_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { mode: Mode::Enforce, concurrency: 64, queue: 64, max_wait: Duration::from_secs(1) }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.concurrency == 0 {
            faults.push(Fault {
                field: "concurrency",
                problem: "is 0".into(),
                remedy: "no call could ever start; write 1 or more, or set mode to \"off\"".into(),
            });
        }
        if self.queue > 0 && self.max_wait.is_zero() {
            faults.push(Fault {
                field: "max_wait",
                problem: "is 0 while queue is not".into(),
                remedy: "write how long a call may wait, such as \"1s\", or set queue to 0".into(),
            });
        }
        faults
    }
}

/// A place; to be [settled](Bulkhead::settle).
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a place that is not given back is lost"]
pub struct Ticket(());

/// A turn in the queue. It ends by being [called](Bulkhead::claim), expired or [left](Bulkhead::leave).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Turn(u64);

/// What [`Bulkhead::admit`] grants.
#[derive(PartialEq, Eq, Debug)]
pub enum Admission {
    /// A place.
    Start(Ticket),
    /// A turn in the queue, and when it expires.
    Wait(Turn, Instant),
}

/// The state of a [`Bulkhead`] at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Calls that run.
    pub running: u32,
    /// Calls that wait.
    pub waiting: u32,
    /// Whether it holds calls back or only observes.
    pub mode: Mode,
    /// How many calls it has refused, or would have in observe-only mode.
    pub rejected: u64,
}

/// Places with a queue. See the [module](self).
#[derive(Clone, Debug)]
pub struct Bulkhead {
    config: Valid<Config>,
    running: u32,
    /// Who waits, first come first, and until when.
    queue: VecDeque<(Turn, Instant)>,
    /// Whose turn has come and who has not claimed the place yet; such places count as running.
    called: VecDeque<Turn>,
    next_turn: u64,
    rejected: u64,
}

impl Bulkhead {
    /// With all places free.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        let (queue, places) = (config.queue as usize, config.concurrency as usize);
        Self {
            config,
            running: 0,
            queue: VecDeque::with_capacity(queue.min(MOST_RESERVED)),
            called: VecDeque::with_capacity(places.min(MOST_RESERVED)),
            next_turn: 0,
            rejected: 0,
        }
    }

    /// May a call start?
    ///
    /// # Errors
    /// The queue is full.
    pub fn admit(&mut self, now: Instant) -> Result<Admission, Rejection> {
        self.expire(now);
        let free = self.running < self.config.concurrency && self.queue.is_empty();
        if free || self.config.mode == Mode::Off {
            self.running += 1;
            return Ok(Admission::Start(Ticket(())));
        }
        if self.config.mode == Mode::Observe {
            // It counts what would have been refused at once; who would have waited, nobody knows.
            self.rejected +=
                u64::from(self.running >= self.config.concurrency.saturating_add(self.config.queue));
            self.running += 1;
            return Ok(Admission::Start(Ticket(())));
        }
        if self.queue.len() >= self.config.queue as usize {
            self.rejected += 1;
            return Err(Rejection::new(Policy::Bulkhead, Reason::QueueFull).after(self.config.max_wait));
        }
        let (turn, until) = (Turn(self.next_turn), now.plus(self.config.max_wait));
        self.next_turn += 1;
        self.queue.push_back((turn, until));
        Ok(Admission::Wait(turn, until))
    }

    /// Asks whether a turn has come; `None` if it has not.
    ///
    /// # Errors
    /// It waited too long.
    pub fn claim(&mut self, now: Instant, turn: Turn) -> Option<Result<Ticket, Rejection>> {
        if let Some(n) = self.called.iter().position(|called| *called == turn) {
            self.called.remove(n);
            return Some(Ok(Ticket(())));
        }
        self.expire(now);
        let waits = self.queue.iter().any(|(waiting, _)| *waiting == turn);
        (!waits).then_some(Err(Rejection::new(Policy::Bulkhead, Reason::WaitedTooLong)))
    }

    /// A call ended. If somebody waits, their turn has come: wake them to [claim](Self::claim) it.
    pub fn settle(&mut self, now: Instant, ticket: Ticket) -> Option<Turn> {
        let Ticket(()) = ticket;
        self.running -= 1;
        self.call_next(now)
    }

    /// Somebody who waited went away. If their turn had come already, it goes to the next, who is to be woken.
    pub fn leave(&mut self, now: Instant, turn: Turn) -> Option<Turn> {
        if let Some(n) = self.called.iter().position(|called| *called == turn) {
            self.called.remove(n);
            self.running -= 1;
            return self.call_next(now);
        }
        self.queue.retain(|(waiting, _)| *waiting != turn);
        None
    }

    /// When the first of those who wait has waited too long.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.queue.front().map(|(_, until)| *until)
    }

    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            running: self.running,
            waiting: self.queue.iter().filter(|(_, until)| *until > now).count() as u32,
            mode: self.config.mode,
            rejected: self.rejected,
        }
    }

    fn call_next(&mut self, now: Instant) -> Option<Turn> {
        self.expire(now);
        if self.running >= self.config.concurrency {
            return None;
        }
        let (turn, _) = self.queue.pop_front()?;
        self.running += 1;
        self.called.push_back(turn);
        Some(turn)
    }

    fn expire(&mut self, now: Instant) {
        // Nobody has longer left than the longest wait, unless the clock was set back.
        let latest = now.plus(self.config.max_wait);
        if self.queue.front().is_some_and(|(_, until)| *until > latest) {
            self.queue.iter_mut().for_each(|(_, until)| *until = latest.min(*until));
        }
        // All wait equally long, so the first to come is the first to expire.
        while self.queue.front().is_some_and(|(_, until)| *until <= now) {
            self.queue.pop_front();
            self.rejected += 1;
        }
    }
}

/// A queue longer than this grows as it is used instead of being reserved.
const MOST_RESERVED: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Instant = Instant::from_millis(1_000);

    fn bulkhead(concurrency: u32, queue: u32) -> Bulkhead {
        let config = Config { concurrency, queue, max_wait: Duration::from_millis(100), ..Config::default() };
        Bulkhead::new(Valid::new(config).unwrap())
    }

    fn start(bulkhead: &mut Bulkhead) -> Ticket {
        match bulkhead.admit(NOW).unwrap() {
            Admission::Start(ticket) => ticket,
            Admission::Wait(..) => panic!("it waits"),
        }
    }

    fn wait(bulkhead: &mut Bulkhead) -> Turn {
        match bulkhead.admit(NOW).unwrap() {
            Admission::Start(_) => panic!("it starts"),
            Admission::Wait(turn, _) => turn,
        }
    }

    #[test]
    fn who_came_first_is_served_first() {
        let mut b = bulkhead(1, 2);
        let ticket = start(&mut b);
        let (first, second) = (wait(&mut b), wait(&mut b));
        assert_eq!(b.admit(NOW).unwrap_err().reason, Reason::QueueFull);
        assert_eq!(b.claim(NOW, first), None);
        assert_eq!(b.settle(NOW, ticket), Some(first));
        let ticket = b.claim(NOW, first).unwrap().unwrap();
        assert_eq!(b.settle(NOW, ticket), Some(second));
    }

    #[test]
    fn the_wait_ends_to_the_nanosecond() {
        let mut b = bulkhead(1, 1);
        let _ticket = start(&mut b);
        let turn = wait(&mut b);
        let end = NOW.plus(Duration::from_millis(100));
        assert_eq!(b.claim(Instant::from_nanos(end.as_nanos() - 1), turn), None);
        assert_eq!(b.claim(end, turn).unwrap().unwrap_err().reason, Reason::WaitedTooLong);
    }

    #[test]
    fn a_place_whose_taker_left_goes_to_the_next() {
        let mut b = bulkhead(1, 2);
        let ticket = start(&mut b);
        let (first, second) = (wait(&mut b), wait(&mut b));
        b.settle(NOW, ticket);
        assert_eq!(b.leave(NOW, first), Some(second));
        assert!(b.claim(NOW, second).unwrap().is_ok());
    }

    #[test]
    fn a_clock_set_back_makes_nobody_wait_longer_than_the_longest_wait() {
        let mut b = bulkhead(1, 2);
        let _ticket = start(&mut b);
        let far = NOW.plus(Duration::from_secs(31_536_000));
        let early = [b.admit(far), b.admit(far)].map(|admission| match admission.unwrap() {
            Admission::Wait(turn, _) => turn,
            Admission::Start(_) => panic!("it starts"),
        });
        assert_eq!(b.claim(NOW, early[0]), None);
        let end = NOW.plus(Duration::from_millis(100));
        for turn in early {
            assert_eq!(b.claim(end, turn).unwrap().unwrap_err().reason, Reason::WaitedTooLong);
        }
        assert!(matches!(b.admit(end), Ok(Admission::Wait(..))), "the queue is free again");
    }

    proptest! {
        #[test]
        fn no_place_is_lost_and_none_given_twice(
            concurrency in 1u32..4, queue in 0u32..4,
            steps in proptest::collection::vec((0u8..4, 0usize..8, 0u64..60), 0..200),
        ) {
            let mut b = bulkhead(concurrency, queue);
            let mut now = NOW;
            let (mut running, mut waiting) = (Vec::new(), Vec::new());
            for (what, which, pass) in steps {
                now = now.plus(Duration::from_millis(pass));
                match what {
                    0 | 1 => match b.admit(now) {
                        Ok(Admission::Start(ticket)) => running.push(ticket),
                        Ok(Admission::Wait(turn, _)) => waiting.push(turn),
                        Err(_) => {}
                    },
                    2 if !running.is_empty() => {
                        let ticket = running.swap_remove(which % running.len());
                        b.settle(now, ticket);
                    }
                    3 if !waiting.is_empty() => {
                        let turn = waiting.swap_remove(which % waiting.len());
                        b.leave(now, turn);
                    }
                    _ => {}
                }
                waiting.retain(|turn| match b.claim(now, *turn) {
                    None => true,
                    Some(Ok(ticket)) => {
                        running.push(ticket);
                        false
                    }
                    Some(Err(_)) => false,
                });
                prop_assert!(running.len() <= concurrency as usize);
                prop_assert_eq!(b.snapshot(now).running as usize, running.len());
                prop_assert_eq!(b.snapshot(now).waiting as usize, waiting.len());
                prop_assert!(waiting.is_empty() || running.len() == concurrency as usize, "somebody waits beside a free place");
            }
        }
    }
}
