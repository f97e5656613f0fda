//! Whether the other side of a body keeps up: by the time since anything moved, and by how much moves while we wait.

use std::cell::Cell;
use std::time::Duration;

use seaworthy_config::Limits;
use seaworthy_core::Instant;

/// How one side of a body gets on. Only the time in which we wait for it counts.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Since when we wait; [`Instant::FAR`] if we don't.
    since: Cell<Instant>,
    /// From when on the wait is not in `waited` yet.
    uncounted: Cell<Instant>,
    /// How long we have waited since the rate was looked at.
    waited: Cell<Duration>,
    /// The bytes that moved since then.
    moved: Cell<u64>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            since: Cell::new(Instant::FAR),
            uncounted: Cell::new(Instant::FAR),
            waited: Cell::new(Duration::ZERO),
            moved: Cell::new(0),
        }
    }
}

impl Pace {
    /// Whether we wait.
    pub(crate) fn is_waiting(&self) -> bool {
        self.since.get() != Instant::FAR
    }

    /// Nothing moves, and it is the other side's turn.
    pub(crate) fn wait(&self, now: Instant) {
        if !self.is_waiting() {
            self.since.set(now);
            self.uncounted.set(now);
        }
    }

    /// Something has moved.
    pub(crate) fn moved(&self, now: Instant, bytes: u64) {
        if self.is_waiting() {
            self.count(now);
            self.since.set(Instant::FAR);
        }
        self.moved.set(self.moved.get().saturating_add(bytes));
    }

    /// When the other side is late, if nothing moves until then; `now` if it is late already, and [`Instant::FAR`] if we don't wait.
    pub(crate) fn due(&self, now: Instant, limits: &Limits) -> Instant {
        if !self.is_waiting() {
            return Instant::FAR;
        }
        let patience = limits.body_progress_timeout;
        let stalls = self.since.get().plus(patience);
        let Some(least) = limits.body_least_rate else { return stalls };
        self.count(now);
        if self.waited.get() >= patience {
            let enough = least as f64 * self.waited.get().as_secs_f64();
            if (self.moved.get() as f64) < enough {
                return now;
            }
            self.waited.set(Duration::ZERO);
            self.moved.set(0);
        }
        stalls.min(now.plus(patience - self.waited.get()))
    }

    fn count(&self, now: Instant) {
        self.waited.set(self.waited.get() + now.since(self.uncounted.get()));
        self.uncounted.set(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_millis(1_000);

    fn limits(least: Option<u64>) -> Limits {
        let least = least.map_or(String::new(), |least| format!("body_least_rate = \"{least}B\""));
        let text = format!(
            "[limits]\nbody_progress_timeout = \"10s\"\n{least}\n[upstream.a]\nendpoints = \"http://a\""
        );
        seaworthy_config::Config::from_toml("t", &text).unwrap().limits
    }

    fn at(seconds: u64) -> Instant {
        START.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn who_moves_nothing_is_late() {
        let (pace, limits) = (Pace::default(), limits(None));
        assert_eq!(pace.due(START, &limits), Instant::FAR, "nobody waits");
        pace.wait(START);
        pace.wait(at(5));
        assert_eq!(pace.due(at(5), &limits), at(10));
        pace.moved(at(9), 1);
        assert_eq!(pace.due(at(9), &limits), Instant::FAR);
    }

    #[test]
    fn who_trickles_is_late_where_a_rate_is_asked_for() {
        let (pace, limits) = (Pace::default(), limits(Some(100)));
        for second in 0..10 {
            pace.wait(at(second));
            assert!(pace.due(at(second), &limits) > at(second), "not before its time");
            pace.moved(at(second + 1), 1);
        }
        pace.wait(at(10));
        assert_eq!(pace.due(at(10), &limits), at(10));
    }

    #[test]
    fn who_keeps_up_is_never_late() {
        let (pace, limits) = (Pace::default(), limits(Some(100)));
        for second in 0..100 {
            pace.wait(at(second));
            assert!(pace.due(at(second), &limits) > at(second));
            pace.moved(at(second + 1), 101);
        }
    }

    #[test]
    fn our_own_pauses_count_for_nobody() {
        let (pace, limits) = (Pace::default(), limits(Some(100)));
        pace.wait(START);
        pace.moved(at(1), 200);
        // We don't ask for more for an hour.
        pace.wait(at(3_600));
        assert!(pace.due(at(3_601), &limits) > at(3_601));
    }
}
