//! How late the event loop is.

use std::future::Future;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use seaworthy_core::Instant;

use crate::clock;
use crate::health::lock;

/// What the probe has measured.
#[derive(Debug)]
pub(super) struct Measured(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the probe's timer fires next; none while there is no probe.
    due: Option<Instant>,
    /// The worst of the window that began then, and of the one before.
    began: Instant,
    worst: [Duration; 2],
}

impl Measured {
    /// The worst lag of the last one to two windows, or that of now if the loop stands still. None if nobody measures.
    pub(super) fn worst(&self) -> Option<Duration> {
        lock(&self.0).worst(clock::now())
    }
}

impl State {
    fn worst(&self, now: Instant) -> Option<Duration> {
        let overdue = now.since(self.due?);
        let past = match now.since(self.began) {
            age if age < WINDOW => self.worst[0].max(self.worst[1]),
            age if age < 2 * WINDOW => self.worst[0],
            _ => Duration::ZERO,
        };
        Some(past.max(overdue))
    }

    /// The timer fired at `now`, and will again at `next`.
    fn fired(&mut self, now: Instant, next: Instant) {
        let late = self.due.map_or(Duration::ZERO, |due| now.since(due));
        let age = now.since(self.began);
        if age >= WINDOW {
            let before = if age < 2 * WINDOW { self.worst[0] } else { Duration::ZERO };
            self.worst = [Duration::ZERO, before];
            self.began = now;
        }
        self.worst[0] = self.worst[0].max(late);
        self.due = Some(next);
    }
}

/// What is measured, and the probe that measures as long as somebody holds that.
pub(super) fn probe() -> (Arc<Measured>, impl Future<Output = ()> + Send + use<>) {
    let measured = Arc::new(Measured(Mutex::default()));
    let probe = Probe(Arc::downgrade(&measured));
    (measured, async move {
        while let Some(next) = probe.fired(clock::now()) {
            tokio::time::sleep_until(clock::to_tokio(next)).await;
        }
    })
}

struct Probe(Weak<Measured>);

impl Probe {
    /// When to fire next; none if nobody wants to know.
    fn fired(&self, now: Instant) -> Option<Instant> {
        let measured = self.0.upgrade()?;
        let next = now.plus(EVERY);
        lock(&measured.0).fired(now, next);
        Some(next)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(measured) = self.0.upgrade() {
            lock(&measured.0).due = None;
        }
    }
}

/// Ten times a second: a stall of a tenth of a second is seen by about one timer, and it costs nothing that could be measured.
const EVERY: Duration = Duration::from_millis(100);
/// Long enough that whoever asks every ten seconds, as Kubernetes does, sees about every stall.
const WINDOW: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Instant {
        Instant::from_millis(1_000_000 + ms)
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_stall_is_seen_while_it_lasts_and_after_it() {
        let mut state = State::default();
        assert_eq!(state.worst(at(0)), None);
        state.fired(at(0), at(100));
        assert_eq!(state.worst(at(100)), Some(Duration::ZERO));
        assert_eq!(state.worst(at(350)), Some(ms(250)), "it stands still now");
        state.fired(at(400), at(500));
        state.fired(at(500), at(600));
        assert_eq!(state.worst(at(500)), Some(ms(300)));
    }

    #[test]
    fn a_stall_is_forgotten_after_one_to_two_windows() {
        let mut state = State::default();
        state.fired(at(0), at(100));
        for fired in (400..20_000).step_by(100) {
            state.fired(at(fired), at(fired + 100));
            let seen = state.worst(at(fired));
            match fired {
                ..5_400 => assert_eq!(seen, Some(ms(300)), "{fired}"),
                10_400.. => assert_eq!(seen, Some(Duration::ZERO), "{fired}"),
                _ => {}
            }
        }
    }

    #[test]
    fn a_lag_of_long_ago_does_not_count_after_a_long_sleep() {
        let mut state = State::default();
        state.fired(at(0), at(100));
        state.fired(at(1_100), at(1_200));
        // The machine slept, and with it the probe: what is late is this.
        assert_eq!(state.worst(at(3_601_200)), Some(ms(3_600_000)));
        state.fired(at(3_601_200), at(3_601_300));
        assert_eq!(state.worst(at(3_601_200)), Some(ms(3_600_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_has_ended_measures_nothing() {
        let (measured, probe) = probe();
        assert_eq!(measured.worst(), None);
        let task = tokio::spawn(probe);
        tokio::time::sleep(ms(250)).await;
        assert!(measured.worst().is_some());
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(measured.worst(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_nobody_asks_ends() {
        let (measured, probe) = probe();
        let task = tokio::spawn(probe);
        tokio::time::sleep(ms(250)).await;
        drop(measured);
        task.await.unwrap();
    }
}
