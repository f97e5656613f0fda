//! A throttle shared between threads: one load a call while nothing is refused.

use std::time::Duration;

use seaworthy_core::gate::throttle::{self, Batch, Config, Snapshot};
use seaworthy_core::{Criticality, Instant, Mode, Outcome, Rejection, Valid};

use super::gather::Gather;
use crate::sync::{AtomicU32, Mutex, Ordering, lock, try_lock};

/// [`throttle::Throttle`] for several threads.
///
/// How calls ended is summed up in cells and told to the core ten times a second; which says whether any call is to be asked about.
#[derive(Debug)]
pub struct Throttle {
    /// Whether any call might be refused.
    active: AtomicU32,
    /// How calls ended, if anything is learned of it.
    ended: Gather<Batch>,
    core: Mutex<throttle::Throttle>,
}

impl Throttle {
    /// Of an upstream that has refused nothing yet.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        let throttle = Self {
            active: AtomicU32::new(0),
            ended: Gather::new(FOLD_EVERY),
            core: Mutex::new(throttle::Throttle::new(config)),
        };
        throttle.ended.switch(config.mode != Mode::Off);
        throttle
    }

    /// Takes new numbers; what was seen stays, unless the window has another length.
    pub fn reconfigure(&self, config: Valid<Config>) {
        let mut core = lock(&self.core);
        core.reconfigure(config);
        self.active.store(u32::from(core.is_active()), Ordering::Relaxed);
        self.ended.switch(config.mode != Mode::Off);
    }

    /// May a call be sent? `Ok` with the refusal that there would have been, in observe-only mode.
    ///
    /// # Errors
    /// The refusal.
    pub fn admit(&self, now: Instant, criticality: Criticality) -> Result<Option<Rejection>, Rejection> {
        if self.active.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        let mut core = lock(&self.core);
        let admitted = core.admit(now, criticality);
        self.active.store(u32::from(core.is_active()), Ordering::Relaxed);
        admitted
    }

    /// A call of that criticality ended so.
    pub fn settle(&self, now: Instant, criticality: Criticality, outcome: Outcome) {
        if self.ended.add(now, |batch| batch.add(now, criticality, outcome))
            && let Some(mut core) = try_lock(&self.core)
        {
            self.fold(now, &mut core);
        }
    }

    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        lock(&self.core).snapshot(now)
    }

    fn fold(&self, now: Instant, core: &mut throttle::Throttle) {
        core.learn(now, &self.ended.take(now, Batch::merge));
        self.active.store(u32::from(core.is_active()), Ordering::Relaxed);
    }
}

/// As often as the core looks at its window.
const FOLD_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use seaworthy_core::Pushback;

    use super::*;

    #[test]
    fn what_the_cells_hold_decides_as_in_the_core() {
        let config = Valid::new(Config::default()).unwrap();
        let (shared, mut core) = (Throttle::new(config), throttle::Throttle::new(config));
        let mut now = Instant::from_millis(1_000);
        let mut refused = [0, 0];
        for n in 0..10_000 {
            now = now.plus(Duration::from_millis(1));
            let outcome = if n % 5 == 0 { Outcome::Success } else { Outcome::Overloaded(Pushback::Unsaid) };
            match shared.admit(now, Criticality::Critical) {
                Ok(_) => shared.settle(now, Criticality::Critical, outcome),
                Err(_) => refused[0] += 1,
            }
            match core.admit(now, Criticality::Critical) {
                Ok(_) => core.settle(now, Criticality::Critical, outcome),
                Err(_) => refused[1] += 1,
            }
        }
        assert!(refused[1] > 3_000, "{refused:?}");
        let apart = i32::abs_diff(refused[0], refused[1]);
        assert!(apart < 300, "a fold late at most: {refused:?}");
    }

    #[test]
    fn switched_off_it_asks_nobody() {
        let off = Valid::new(Config { mode: Mode::Off, ..Config::default() }).unwrap();
        let throttle = Throttle::new(off);
        let now = Instant::from_millis(1);
        (0..100)
            .for_each(|_| throttle.settle(now, Criticality::Critical, Outcome::Overloaded(Pushback::Unsaid)));
        assert_eq!(throttle.admit(now.plus(FOLD_EVERY * 2), Criticality::Critical), Ok(None));
    }
}
