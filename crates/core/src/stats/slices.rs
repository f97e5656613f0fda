//! Which slice of a sliding time window a moment falls into.
//!
//! Shared by everything here that forgets by time. Catching up after idle costs at most one step per slice, however
//! long the idle was.
//!
//! The clock may lie. A moment that lies a little before the newest slice (another thread's reading) belongs to that
//! slice. One that lies a whole window or more before it means that the clock was set back: the slices keep their
//! contents and their order, and age from there. So no jump can freeze a window.

use core::time::Duration;

use crate::{Instant, nanos};

/// The time line of a window cut into `count` slices; the contents are the owner's.
#[derive(Clone, Debug)]
pub(crate) struct Slices {
    /// Length of a slice in nanoseconds, at least 1.
    width: u64,
    count: usize,
    /// The number of the newest slice since the clock's origin.
    newest: u64,
    /// Where the owner keeps the newest slice.
    head: usize,
}

impl Slices {
    /// `span` cut into `count` slices (at least 1 each).
    pub(crate) fn new(span: Duration, count: usize) -> Self {
        let count = count.max(1);
        Self { width: (nanos(span) / count as u64).max(1), count, newest: 0, head: 0 }
    }

    /// Moves on to `now`, calling `empty` with the place of each slice that begins anew, and returns the place of the
    /// slice that `now` falls into.
    pub(crate) fn roll(&mut self, now: Instant, mut empty: impl FnMut(usize)) -> usize {
        let target = now.as_nanos() / self.width;
        if target > self.newest {
            let steps = (target - self.newest).min(self.count as u64);
            for _ in 0..steps {
                self.head = (self.head + 1) % self.count;
                empty(self.head);
            }
            self.newest = target;
        } else if self.newest - target >= self.count as u64 {
            self.newest = target;
        }
        self.head
    }

    /// The places of the slices that still count at `now`, newest first.
    pub(crate) fn live(&self, now: Instant) -> impl Iterator<Item = usize> + Clone + use<> {
        self.latest(now).map(|(_, place)| place)
    }

    /// The same, each with its age: how many slices lie between it and the one that `now` falls into.
    pub(crate) fn latest(&self, now: Instant) -> impl Iterator<Item = (usize, usize)> + Clone + use<> {
        let gone = (now.as_nanos() / self.width).saturating_sub(self.newest).min(self.count as u64) as usize;
        let (head, count) = (self.head, self.count);
        (0..count - gone).map(move |back| (gone + back, (head + count - back) % count))
    }

    /// Whether every slice still counts at `now`.
    pub(crate) const fn is_current(&self, now: Instant) -> bool {
        now.as_nanos() / self.width <= self.newest
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn emptied(slices: &mut Slices, nanos: u64) -> Vec<usize> {
        let mut places = Vec::new();
        slices.roll(Instant::from_nanos(nanos), |place| places.push(place));
        places
    }

    #[test]
    fn a_year_of_idle_costs_one_step_per_slice() {
        let mut slices = Slices::new(Duration::from_nanos(40), 4);
        assert_eq!(emptied(&mut slices, 9), []);
        assert_eq!(emptied(&mut slices, 10), [1]);
        assert_eq!(emptied(&mut slices, u64::MAX), [2, 3, 0, 1]);
    }

    #[test]
    fn a_clock_set_back_does_not_freeze_the_window() {
        let mut slices = Slices::new(Duration::from_nanos(40), 4);
        emptied(&mut slices, u64::MAX);
        assert_eq!(emptied(&mut slices, 5), [], "contents are kept");
        assert_eq!(emptied(&mut slices, 15).len(), 1, "and age from there");
    }

    #[test]
    fn a_reading_slightly_in_the_past_belongs_to_the_newest() {
        let mut slices = Slices::new(Duration::from_nanos(40), 4);
        emptied(&mut slices, 100);
        assert_eq!(emptied(&mut slices, 95), []);
        assert_eq!(emptied(&mut slices, 109), []);
        assert_eq!(emptied(&mut slices, 110).len(), 1);
    }

    #[test]
    fn what_is_live_shrinks_with_age() {
        let mut slices = Slices::new(Duration::from_nanos(40), 4);
        emptied(&mut slices, 100);
        let live = |at| slices.live(Instant::from_nanos(at)).count();
        assert_eq!([live(0), live(109), live(110), live(139), live(140), live(u64::MAX)], [4, 4, 3, 1, 0, 0]);
    }
}
