//! Which endpoint an attempt goes to.
//!
//! Of two endpoints drawn by lot the one with less load takes it (Mitzenmacher, "The Power of Two Choices in Randomized
//! Load Balancing", 2001), load being the calls in flight times a latency that rises at once and falls slowly (peak EWMA,
//! as in Finagle). Two draws spread better than one and, unlike taking the best of all, don't send everybody to the
//! endpoint that was just found idle.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use seaworthy_core::Instant;
use seaworthy_core::stats::ewma::Ewma;

/// How busy and how slow an endpoint is, as one worker sees it.
#[derive(Debug)]
pub(crate) struct Load {
    in_flight: Cell<u32>,
    latency: RefCell<Ewma>,
}

impl Default for Load {
    fn default() -> Self {
        Self { in_flight: Cell::new(0), latency: RefCell::new(Ewma::peak(DECAY)) }
    }
}

impl Load {
    /// An attempt begins.
    pub(crate) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// An attempt ends.
    pub(crate) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// An attempt was answered, or failed, after `took`.
    pub(crate) fn observe(&self, now: Instant, took: Duration) {
        self.latency.borrow_mut().record(now, took);
    }

    /// Attempts in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// What one attempt more would cost. An endpoint nobody knows yet costs nothing while idle, so that it is tried.
    pub(crate) fn cost(&self, now: Instant) -> f64 {
        let in_flight = f64::from(self.in_flight.get());
        match self.latency.borrow().value(now) {
            Some(latency) => latency.as_secs_f64() * (in_flight + 1.0),
            None => UNKNOWN.as_secs_f64() * in_flight,
        }
    }
}

/// The places to try, best first: the cheaper of two drawn by lot, then the rest in turn from there. `tried` tells which were
/// tried already; they come last.
pub(crate) fn order(
    count: usize,
    mut draw: impl FnMut(usize) -> usize,
    cost: impl Fn(usize) -> f64,
    tried: impl Fn(usize) -> bool + Copy,
) -> impl Iterator<Item = usize> {
    let fresh = (0..count).filter(|n| !tried(*n)).count();
    let first = match fresh {
        0 => 0,
        1 => (0..count).find(|n| !tried(*n)).unwrap_or(0),
        _ => {
            let nth = |k: usize| (0..count).filter(|n| !tried(*n)).nth(k).unwrap_or(0);
            let a = draw(fresh);
            let b = (a + 1 + draw(fresh - 1)) % fresh;
            let (a, b) = (nth(a), nth(b));
            if cost(b) < cost(a) { b } else { a }
        }
    };
    let others = move || (1..count).map(move |n| (first + n) % count);
    std::iter::once(first)
        .take(count)
        .chain(others().filter(move |n| !tried(*n)).chain(others().filter(move |n| tried(*n))))
}

/// How fast a latency is forgotten: ten seconds, as in Finagle and Linkerd.
const DECAY: Duration = Duration::from_secs(10);
/// What each call counts for at an endpoint that has calls in flight and never answered one: a second, more than most take.
const UNKNOWN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_of_two_is_first_and_all_are_listed_once() {
        let costs = [5.0, 1.0, 3.0];
        let mut draws = [0, 0].into_iter(); // places 0 and 1
        let order: Vec<_> = order(3, |_| draws.next().unwrap(), |n| costs[n], |_| false).collect();
        assert_eq!(order[0], 1);
        assert_eq!(
            {
                let mut o = order.clone();
                o.sort_unstable();
                o
            },
            [0, 1, 2]
        );
    }

    #[test]
    fn what_was_tried_comes_last() {
        let order: Vec<_> = order(3, |_| 0, |_| 1.0, |n| n == 0).collect();
        assert_eq!(order.last(), Some(&0));
    }

    #[test]
    fn a_single_endpoint_is_tried_again() {
        assert_eq!(order(1, |_| 0, |_| 1.0, |_| true).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn an_endpoint_that_never_answered_is_tried_once_and_then_avoided() {
        let (load, now) = (Load::default(), Instant::from_millis(1));
        assert_eq!(load.cost(now), 0.0);
        load.begin();
        assert_eq!(load.cost(now), 1.0);
        load.observe(now, Duration::from_millis(10));
        load.end();
        assert!(load.cost(now) < 0.02);
    }
}
