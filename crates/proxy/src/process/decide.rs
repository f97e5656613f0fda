//! When a replica that ended is started again, and when no longer.
//!
//! # The rule
//! Every end that nobody asked for is answered with a restart after a wait, the wait doubling from `base` to `cap` with half of
//! it left to chance, so that replicas that fell together do not come back together and none comes back at once
//! ([`Jitter::Equal`]). The wait begins anew at `base` once a replica was ready for as long as `cap`: what lives longer than the
//! longest wait restarts no oftener than the longest wait would let it.
//!
//! An end that `most` restarts were decided before within `window` is one too many: the replica is given up, until somebody
//! [renews](Restarts::renew) it. A restart counts until, and not at, the moment that is `window` later.
//!
//! Told the time and the seed; asks neither.

use std::collections::VecDeque;
use std::time::Duration;

use seaworthy_core::call::retry::{Backoff, Config, Jitter};
use seaworthy_core::{Instant, Seeded, Valid};

/// The numbers of the rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// The first wait, before chance.
    pub base: Duration,
    /// The longest wait, before chance; below `base` it counts as `base`.
    pub cap: Duration,
    /// The most restarts within `window`.
    pub most: u32,
    /// How long a restart counts.
    pub window: Duration,
}

/// What is to be done about an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Start again after this wait.
    Again(Duration),
    /// Don't.
    GiveUp,
}

/// The restarts of one replica.
#[derive(Debug)]
pub(super) struct Restarts {
    rules: Rules,
    first: Backoff,
    next: Backoff,
    rng: Seeded,
    /// When restarts were decided, the oldest first; never more than `rules.most`.
    recent: VecDeque<Instant>,
    ready: Option<Instant>,
    total: u64,
}

impl Restarts {
    /// A replica that was never started.
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        let waits = Config {
            base: rules.base,
            cap: rules.cap.max(rules.base),
            jitter: Jitter::Equal,
            ..Config::default()
        };
        let first = Backoff::new(&Valid::new(waits).expect("the cap was made to fit"));
        let rng = Seeded::new(seed);
        Self { rules, first, next: first, rng, recent: VecDeque::new(), ready: None, total: 0 }
    }

    /// It serves since `now`.
    pub(super) fn ready(&mut self, now: Instant) {
        self.ready = Some(now);
    }

    /// It ended, or could not be started, and nobody had asked for that.
    pub(super) fn ended(&mut self, now: Instant) -> Verdict {
        if self.ready.take().is_some_and(|since| now.since(since) >= self.rules.cap) {
            self.next = self.first;
        }
        while self.recent.front().is_some_and(|restart| now.since(*restart) >= self.rules.window) {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.rules.most as usize {
            return Verdict::GiveUp;
        }
        self.recent.push_back(now);
        self.total += 1;
        Verdict::Again(self.next.next(&mut self.rng))
    }

    /// Forgives what was: somebody asked for a start, and knows more than the past does.
    pub(super) fn renew(&mut self) {
        self.next = self.first;
        self.recent.clear();
        self.ready = None;
    }

    /// Restarts decided so far.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const RULES: Rules =
        Rules { base: MS, cap: Duration::from_millis(8), most: 3, window: Duration::from_secs(1) };
    const START: Instant = Instant::from_millis(5);

    fn wait(restarts: &mut Restarts, now: Instant) -> Duration {
        match restarts.ended(now) {
            Verdict::Again(wait) => wait,
            Verdict::GiveUp => panic!("given up at {now}"),
        }
    }

    #[test]
    fn waits_double_up_to_the_cap_with_half_left_to_chance() {
        let mut seen = Vec::new();
        for seed in 0..200 {
            let mut restarts = Restarts::new(Rules { most: 10, ..RULES }, seed);
            for v in [1, 2, 4, 8, 8, 8] {
                let wait = wait(&mut restarts, START);
                assert!((MS * v / 2..=MS * v).contains(&wait), "{wait:?} for {v} ms");
                seen.push(wait);
            }
        }
        let first: Vec<Duration> = seen.iter().step_by(6).copied().collect();
        assert!(first.iter().any(|wait| *wait != first[0]), "nothing was left to chance");
    }

    #[test]
    fn one_restart_too_many_within_the_window_is_the_end() {
        let mut restarts = Restarts::new(RULES, 1);
        for n in 0..3 {
            wait(&mut restarts, START.plus(MS * n));
        }
        let freed = START.plus(RULES.window);
        assert_eq!(restarts.ended(Instant::from_nanos(freed.as_nanos() - 1)), Verdict::GiveUp);
        wait(&mut restarts, freed);
        assert_eq!(restarts.ended(freed), Verdict::GiveUp);
        assert_eq!(restarts.total(), 4);
    }

    #[test]
    fn the_wait_begins_anew_after_health_as_long_as_the_cap() {
        for (health, grown) in [(RULES.cap - Duration::from_nanos(1), true), (RULES.cap, false)] {
            let mut restarts = Restarts::new(Rules { most: 10, ..RULES }, 7);
            for _ in 0..5 {
                wait(&mut restarts, START);
            }
            restarts.ready(START);
            let wait = wait(&mut restarts, START.plus(health));
            assert_eq!(wait >= RULES.cap / 2, grown, "{wait:?} after {health:?}");
        }
    }

    #[test]
    fn health_before_a_failed_start_is_not_counted_twice() {
        let mut restarts = Restarts::new(Rules { most: 10, ..RULES }, 7);
        restarts.ready(START);
        let later = START.plus(RULES.cap);
        assert!(wait(&mut restarts, later) <= MS);
        // It never became ready again, however long ago it once was.
        assert!(wait(&mut restarts, later.plus(RULES.cap)) >= MS);
    }

    #[test]
    fn no_restarts_allowed_means_none() {
        let mut restarts = Restarts::new(Rules { most: 0, ..RULES }, 1);
        assert_eq!(restarts.ended(START), Verdict::GiveUp);
    }

    #[test]
    fn renewing_forgives() {
        let mut restarts = Restarts::new(RULES, 1);
        while restarts.ended(START) != Verdict::GiveUp {}
        restarts.renew();
        assert!(wait(&mut restarts, START) <= MS);
    }

    #[test]
    fn a_clock_that_lies_does_no_harm() {
        let mut restarts = Restarts::new(Rules { cap: Duration::ZERO, ..RULES }, 1);
        for now in [Instant::FAR, Instant::ZERO, START, Instant::FAR, Instant::ZERO] {
            restarts.ready(now);
            restarts.ended(now);
        }
        assert!(restarts.total() >= 3);
    }
}
