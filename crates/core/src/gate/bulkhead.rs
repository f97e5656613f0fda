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
pub struct Ticket {
    /// It was given out in observe-only mode, beyond places and queue.
    beyond: bool,
}

impl Ticket {
    const PLACE: Self = Self { beyond: false };

    /// What would have been refused, in observe-only mode.
    #[must_use]
    pub const fn shadow(&self) -> Option<Rejection> {
        if self.beyond { Some(Rejection::new(Policy::Bulkhead, Reason::QueueFull)) } else { None }
    }
}

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

    /// Takes new numbers. Who waits keeps its turn, and from now on waits no longer than the new `max_wait`. Places may have been
    /// won: [`call_next`](Self::call_next) until it says `None`.
    pub fn reconfigure(&mut self, now: Instant, config: Valid<Config>) {
        self.config = config;
        self.expire(now);
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
            return Ok(Admission::Start(Ticket::PLACE));
        }
        if self.config.mode == Mode::Observe {
            // It counts what would have been refused at once; who would have waited, nobody knows.
            let beyond = self.running >= self.config.concurrency.saturating_add(self.config.queue);
            self.rejected += u64::from(beyond);
            self.running += 1;
            return Ok(Admission::Start(Ticket { beyond }));
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
            return Some(Ok(Ticket::PLACE));
        }
        self.expire(now);
        let waits = self.queue.iter().any(|(waiting, _)| *waiting == turn);
        let late = Rejection::new(Policy::Bulkhead, Reason::WaitedTooLong).after(self.config.max_wait);
        (!waits).then_some(Err(late))
    }

    /// A call ended. If somebody waits, their turn has come: wake them to [claim](Self::claim) it.
    pub fn settle(&mut self, now: Instant, ticket: Ticket) -> Option<Turn> {
        let Ticket { .. } = ticket;
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

    /// Calls whoever waits first, if there is a place; they are to be woken.
    pub fn call_next(&mut self, now: Instant) -> Option<Turn> {
        self.expire(now);
        let held_back = self.config.mode == Mode::Enforce && self.running >= self.config.concurrency;
        if held_back {
            return None;
        }
        let (turn, _) = self.queue.pop_front()?;
        self.running += 1;
        self.called.push_back(turn);
        Some(turn)
    }

    /// When a turn that has not come expires. New numbers may have moved it.
    #[must_use]
    pub fn expiry(&self, turn: Turn) -> Option<Instant> {
        self.queue.iter().find(|(waiting, _)| *waiting == turn).map(|(_, until)| *until)
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

    fn expire(&mut self, now: Instant) {
        // Nobody has longer left than the longest wait, unless the clock was set back or the wait was shortened. The last to
        // come has the longest left.
        let latest = now.plus(self.config.max_wait);
        if self.queue.back().is_some_and(|(_, until)| *until > latest) {
            self.queue.iter_mut().for_each(|(_, until)| *until = latest.min(*until));
        }
        // None waits longer than those behind it, so the first to come is the first to expire.
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

    fn reconfigured(b: &Bulkhead, set: impl FnOnce(&mut Config)) -> Valid<Config> {
        let mut config = *b.config;
        set(&mut config);
        Valid::new(config).unwrap()
    }

    #[test]
    fn new_places_go_to_those_who_wait() {
        let mut b = bulkhead(1, 3);
        let _held = start(&mut b);
        let turns = [(); 3].map(|()| wait(&mut b));
        b.reconfigure(NOW, reconfigured(&b, |c| c.concurrency = 3));
        assert_eq!([(); 3].map(|()| b.call_next(NOW)), [Some(turns[0]), Some(turns[1]), None]);
        b.reconfigure(NOW, reconfigured(&b, |c| c.mode = Mode::Off));
        assert_eq!(b.call_next(NOW), Some(turns[2]));
        assert!(turns.iter().all(|turn| matches!(b.claim(NOW, *turn), Some(Ok(_)))));
        assert_eq!((b.snapshot(NOW).running, b.snapshot(NOW).waiting), (4, 0));
    }

    #[test]
    fn a_shorter_wait_holds_for_those_who_wait_already() {
        let mut b = bulkhead(1, 3);
        let _held = start(&mut b);
        let first = wait(&mut b);
        let later = NOW.plus(Duration::from_millis(90));
        let Ok(Admission::Wait(second, _)) = b.admit(later) else { panic!("it starts") };
        b.reconfigure(later, reconfigured(&b, |c| c.max_wait = Duration::from_millis(20)));
        assert_eq!(b.expiry(first), Some(NOW.plus(Duration::from_millis(100))));
        assert_eq!(b.expiry(second), Some(later.plus(Duration::from_millis(20))));
        assert_eq!(b.next_expiry(), b.expiry(first));
    }

    #[test]
    fn observing_it_tells_whom_it_would_refuse() {
        let mut b = bulkhead(1, 1);
        b.reconfigure(NOW, reconfigured(&b, |c| c.mode = Mode::Observe));
        let told = [(); 3].map(|()| start(&mut b).shadow().is_some());
        assert_eq!(told, [false, false, true]);
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
