//! A limit and the queue before it, as the library's door between threads, in one.

use std::collections::BTreeMap;
use std::time::Duration;

use seaworthy_core::gate::limit::{self, Limit, Permit};
use seaworthy_core::gate::queue::{self, Asking, Gone, Id, Queue};
use seaworthy_core::{Instant, Outcome, Rejection, Valid};

/// A [`Limit`] before which those who want in, each known as a `J`, wait in a [`Queue`].
#[derive(Clone, Debug)]
pub(crate) struct Door<J> {
    limit: Limit,
    queue: Queue,
    waiting: BTreeMap<Id, J>,
    /// Who has waited in vain and was not told yet.
    late: Vec<(J, Rejection)>,
}

/// What becomes of one who wants in.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Asked<J> {
    /// It is in.
    In(Permit),
    /// It waits until then, at the longest. Another may have lost its place to it.
    Waits(Instant, Option<(J, Rejection)>),
    /// It is not let in.
    Refused(Rejection),
}

impl<J: Copy> Door<J> {
    pub(crate) fn new(limit: Valid<limit::Config>, queue: Valid<queue::Config>) -> Self {
        Self {
            limit: Limit::new(limit),
            queue: Queue::new(queue),
            waiting: BTreeMap::new(),
            late: Vec::new(),
        }
    }

    /// One wants in. What it asks is asked for only if it has to wait.
    pub(crate) fn ask(&mut self, now: Instant, asking: impl FnOnce() -> Asking, one: J) -> Asked<J> {
        if !self.queue.is_on() {
            return self.limit.admit().map_or_else(Asked::Refused, Asked::In);
        }
        // Nobody slips in before those who wait.
        if self.queue.is_empty()
            && let Some(permit) = self.limit.try_admit()
        {
            return Asked::In(permit);
        }
        match self.queue.join(now, asking()) {
            Ok(joined) => {
                self.waiting.insert(joined.id, one);
                Asked::Waits(joined.until, joined.displaced.and_then(|gone| self.gone(gone)))
            }
            Err(rejection) => Asked::Refused(rejection),
        }
    }

    /// The next who may come in.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(J, Permit)> {
        while let Some(gone) = self.queue.expired(now) {
            let late = self.gone(gone);
            self.late.extend(late);
        }
        if self.queue.is_empty() {
            return None;
        }
        let permit = self.limit.try_admit()?;
        match self.queue.next(now).and_then(|id| self.waiting.remove(&id)) {
            Some(one) => Some((one, permit)),
            None => {
                self.limit.release(permit);
                None
            }
        }
    }

    /// One who has waited in vain.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(J, Rejection)> {
        self.late.pop().or_else(|| {
            let gone = self.queue.expired(now)?;
            self.gone(gone)
        })
    }

    /// Whether anybody waits.
    pub(crate) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// One who was let in and has not begun leaves again.
    pub(crate) fn release(&mut self, permit: Permit) {
        self.limit.release(permit);
    }

    /// One who was let in has ended.
    pub(crate) fn settle(&mut self, now: Instant, permit: Permit, outcome: Outcome, took: Duration) {
        // Whether that moves the limit shows when the next one asks.
        let _ = self.limit.settle(now, permit, outcome, took);
    }

    fn gone(&mut self, gone: Gone) -> Option<(J, Rejection)> {
        Some((self.waiting.remove(&gone.id)?, gone.rejection))
    }
}

#[cfg(test)]
mod tests {
    use seaworthy_core::{Criticality, Policy, Reason};

    use super::*;

    fn door(size: u32) -> Door<char> {
        let limit = limit::Config { max_in_flight: 1, ..limit::Config::default() };
        let queue = queue::Config { size, ..queue::Config::default() };
        Door::new(Valid::new(limit).unwrap(), Valid::new(queue).unwrap())
    }

    const fn asking(criticality: Criticality) -> Asking {
        Asking { criticality, client: 0, deadline: None }
    }

    #[test]
    fn who_matters_less_makes_room_and_who_matters_more_goes_first() {
        let (mut door, now) = (door(2), Instant::from_millis(1));
        let low = asking(Criticality::Sheddable);
        let high = asking(Criticality::CriticalPlus);
        let Asked::In(permit) = door.ask(now, || low, 'a') else { panic!("the limit is 1") };
        assert!(matches!(door.ask(now, || low, 'b'), Asked::Waits(_, None)));
        assert!(matches!(door.ask(now, || low, 'c'), Asked::Waits(_, None)));
        assert!(
            matches!(door.ask(now, || high, 'd'), Asked::Waits(_, Some(('c', gone))) if gone.reason == Reason::Shed)
        );
        assert!(matches!(door.ask(now, || low, 'e'), Asked::Refused(_)));
        assert_eq!(door.next(now), None);
        door.settle(now, permit, Outcome::Success, Duration::ZERO);
        assert_eq!(door.next(now).map(|(one, _)| one), Some('d'));
    }

    #[test]
    fn who_waits_too_long_is_told_so() {
        let (mut door, now) = (door(2), Instant::from_millis(1));
        let call = asking(Criticality::Critical);
        assert!(matches!(door.ask(now, || call, 'a'), Asked::In(_)));
        let Asked::Waits(until, None) = door.ask(now, || call, 'b') else { panic!("there is room") };
        assert_eq!(door.expired(until.minus(Duration::from_nanos(1))), None);
        let (one, rejection) = door.expired(until).unwrap();
        assert_eq!((one, rejection.reason), ('b', Reason::WaitedTooLong));
        assert_eq!(door.expired(until), None);
    }

    #[test]
    fn without_a_queue_it_is_the_limit_that_refuses() {
        let (mut door, now) = (door(0), Instant::from_millis(1));
        let call = asking(Criticality::Critical);
        assert!(matches!(door.ask(now, || call, 'a'), Asked::In(_)));
        assert!(
            matches!(door.ask(now, || call, 'b'), Asked::Refused(rejection) if rejection.policy == Policy::Limit)
        );
    }
}
