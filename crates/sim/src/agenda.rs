//! What happens next: events by time, and at the same time in the order in which they were entered.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use seaworthy_core::Instant;

/// Events to come. Virtual time is the time of the event taken last; it never goes back.
#[derive(Clone, Debug)]
pub(crate) struct Agenda<E> {
    heap: BinaryHeap<Entry<E>>,
    entered: u64,
    now: Instant,
}

impl<E> Agenda<E> {
    pub(crate) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), entered: 0, now: Instant::ZERO }
    }

    /// Enters `event` for the moment `at`, or for now if that has passed.
    pub(crate) fn enter(&mut self, at: Instant, event: E) {
        self.entered += 1;
        self.heap.push(Entry { at: at.max(self.now), number: self.entered, event });
    }

    /// How many events are to come.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Moves time to the next event and takes it; `None` if nothing will ever happen.
    pub(crate) fn next(&mut self) -> Option<(Instant, E)> {
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some((entry.at, entry.event))
    }
}

#[derive(Clone, Debug)]
struct Entry<E> {
    at: Instant,
    number: u64,
    event: E,
}

/// The heap's greatest is the earliest.
impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_of_entry() {
        let mut agenda = Agenda::new();
        for (at, event) in [(5, "c"), (1, "a"), (5, "d"), (1, "b")] {
            agenda.enter(Instant::from_millis(at), event);
        }
        let order: String = std::iter::from_fn(|| agenda.next()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd");
    }

    #[test]
    fn what_is_entered_for_the_past_happens_now() {
        let mut agenda = Agenda::new();
        agenda.enter(Instant::from_millis(5), ());
        agenda.next();
        agenda.enter(Instant::ZERO, ());
        assert_eq!(agenda.next(), Some((Instant::from_millis(5), ())));
    }
}
