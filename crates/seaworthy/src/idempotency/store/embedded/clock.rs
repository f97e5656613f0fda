//! The store's own clock: how long it has existed, as nearly as can be told.
//!
//! It runs on over a restart, and no setting of the wall clock moves it while the machine runs:
//!
//! ```text
//! now = what it showed at the last commit
//!     + what CLOCK_BOOTTIME has run since, if the machine was not booted since (/proc/sys/kernel/random/boot_id);
//!       otherwise what the wall clock has run since, and nothing if that ran backwards
//! ```
//!
//! So only a wall clock that is wrong at one of two boots makes what is remembered last longer or less long.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;

/// The clocks of the machine; a test brings others.
#[derive(Clone)]
pub(super) struct Clocks {
    /// Which boot this is; 0 if that can't be told.
    pub(super) boot: u128,
    /// Time since the boot: it never jumps.
    pub(super) up: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Time since the Unix epoch.
    pub(super) wall: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Clocks {
    pub(super) fn of_the_machine() -> Self {
        Self { boot: boot(), up: up(), wall: Arc::new(clock::wall) }
    }

    pub(super) fn wall_ms(&self) -> u64 {
        ms((self.wall)())
    }
}

impl fmt::Debug for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clocks").field("boot", &self.boot).finish_non_exhaustive()
    }
}

/// What all clocks showed at one moment. It is written with every commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moment {
    pub(super) store_ms: u64,
    pub(super) boot: u128,
    pub(super) up_ms: u64,
    pub(super) wall_ms: u64,
}

/// The store's clock, from one opening of the file to the next.
#[derive(Clone, Debug)]
pub(super) struct StoreClock {
    clocks: Clocks,
    since: Moment,
}

impl StoreClock {
    /// Goes on from what was last written, or begins.
    pub(super) fn after(clocks: Clocks, last: Option<Moment>) -> Self {
        let mut since =
            Moment { store_ms: 0, boot: clocks.boot, up_ms: ms((clocks.up)()), wall_ms: clocks.wall_ms() };
        if let Some(last) = last {
            let same_boot = last.boot != 0 && last.boot == since.boot && last.up_ms <= since.up_ms;
            let passed =
                if same_boot { since.up_ms - last.up_ms } else { since.wall_ms.saturating_sub(last.wall_ms) };
            since.store_ms = last.store_ms.saturating_add(passed);
        }
        Self { clocks, since }
    }

    /// In milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        self.now().store_ms
    }

    pub(super) fn now(&self) -> Moment {
        let up_ms = ms((self.clocks.up)()).max(self.since.up_ms);
        let store_ms = self.since.store_ms.saturating_add(up_ms - self.since.up_ms);
        Moment { store_ms, boot: self.clocks.boot, up_ms, wall_ms: self.clocks.wall_ms() }
    }
}

/// As many milliseconds as fit.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn boot() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    // Without it every start counts as a boot, and the wall clock tells what has passed.
    u128::from_str_radix(&digits, 16).unwrap_or(0)
}

#[cfg(target_os = "linux")]
fn up() -> Arc<dyn Fn() -> Duration + Send + Sync> {
    // Unlike CLOCK_MONOTONIC it goes on while the machine sleeps.
    Arc::new(|| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
    })
}

#[cfg(not(target_os = "linux"))]
fn up() -> Arc<dyn Fn() -> Duration + Send + Sync> {
    let start = std::time::Instant::now();
    Arc::new(move || start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn clocks(boot: u128, up_ms: u64, wall_ms: u64) -> Clocks {
        let up = move || Duration::from_millis(up_ms);
        Clocks { boot, up: Arc::new(up), wall: Arc::new(move || Duration::from_millis(wall_ms)) }
    }

    fn after(last: Moment, clocks: Clocks) -> u64 {
        StoreClock::after(clocks, Some(last)).now_ms() - last.store_ms
    }

    #[test]
    fn the_wall_clock_moves_nothing_while_the_machine_runs() {
        let last = Moment { store_ms: 7, boot: 1, up_ms: 5_000, wall_ms: 100 * HOUR };
        for wall in [0, 99 * HOUR, 101 * HOUR, u64::MAX] {
            assert_eq!(after(last, clocks(1, 6_500, wall)), 1_500);
        }
    }

    #[test]
    fn over_a_boot_the_wall_clock_tells_and_never_backwards() {
        let last = Moment { store_ms: 7, boot: 1, up_ms: 5_000, wall_ms: 100 * HOUR };
        assert_eq!(after(last, clocks(2, 6_500, 103 * HOUR)), 3 * HOUR);
        assert_eq!(after(last, clocks(2, 6_500, 99 * HOUR)), 0);
        assert_eq!(after(last, clocks(0, 6_500, 101 * HOUR)), HOUR, "which boot it is can't be told");
        assert_eq!(after(last, clocks(1, 4_000, 101 * HOUR)), HOUR, "it can't be the same boot");
    }

    #[test]
    fn the_machine_tells_its_clocks() {
        let clock = StoreClock::after(Clocks::of_the_machine(), None);
        let (first, then) = (clock.now(), clock.now());
        assert!(first.store_ms <= then.store_ms && first.up_ms <= then.up_ms);
        #[cfg(target_os = "linux")]
        assert_ne!(first.boot, 0);
    }
}
