//! A rate shared between threads: a short lock a call, on a part of the keys.

use std::fmt;

use seaworthy_core::gate::rate::{self, Config, Snapshot};
use seaworthy_core::{Instant, Mode, Rejection, Rules, Valid};

use super::cells::Padded;
use crate::sync::{AtomicU32, Mutex, Ordering, lock};

/// [`rate::Rate`] for several threads.
///
/// The keys are divided between shards, each a core's rate of its own behind a lock; what is said of a key is what the core says.
/// Only when a shard has no room left for another key does the division show: of what late keys share there is one quota a
/// shard, and so at most [`SHARDS`] of them.
pub struct Rate {
    /// The first bits of a key's hash that choose its shard.
    bits: u32,
    shards: Box<[Padded<Mutex<rate::Rate>>]>,
    /// Whether nothing is counted at all.
    off: AtomicU32,
}

impl Rate {
    /// No key has called yet.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        let wanted = (config.keys / LEAST_KEYS).clamp(1, SHARDS);
        let bits = wanted.ilog2();
        let part = part(config, 1 << bits);
        Self {
            bits,
            shards: (0..1 << bits).map(|_| Padded(Mutex::new(rate::Rate::new(part)))).collect(),
            off: AtomicU32::new(u32::from(config.mode == Mode::Off)),
        }
    }

    /// Takes new numbers. What a key has used stays used.
    pub fn reconfigure(&self, config: Valid<Config>) {
        let part = part(config, self.shards.len() as u32);
        for shard in &self.shards {
            lock(&shard.0).reconfigure(part);
        }
        self.off.store(u32::from(config.mode == Mode::Off), Ordering::Relaxed);
    }

    /// May a call of `key` start? `Ok` with the refusal that there would have been, in observe-only mode.
    ///
    /// A key is a hash of whatever is told apart. If clients choose what is hashed, it is to be seeded: else some of them could
    /// share one key on purpose.
    ///
    /// # Errors
    /// The refusal, with how long until the next call of the key is admitted.
    pub fn admit(&self, now: Instant, key: u64) -> Result<Option<Rejection>, Rejection> {
        if self.off.load(Ordering::Relaxed) != 0 {
            return Ok(None);
        }
        lock(self.shard(key)).admit(now, key)
    }

    /// The state at `now`; O(n) of the keys, a shard at a time.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let mut shards = self.shards.iter().map(|shard| lock(&shard.0).snapshot(now));
        // There is always one.
        let first = shards.next().unwrap_or_else(|| rate::Rate::new(Valid::default()).snapshot(now));
        shards.fold(first, |sum, shard| Snapshot {
            keys: sum.keys.saturating_add(shard.keys),
            over: sum.over.saturating_add(shard.over),
            mode: shard.mode,
            rejected: sum.rejected.saturating_add(shard.rejected),
            evicted: sum.evicted.saturating_add(shard.evicted),
            crowded: sum.crowded.saturating_add(shard.crowded),
        })
    }

    fn shard(&self, key: u64) -> &Mutex<rate::Rate> {
        // Once more, for a key may be a small number. A shift by all bits would be none.
        let hash = key.wrapping_mul(GOLDEN);
        let place = hash.checked_shr(u64::BITS - self.bits).unwrap_or(0);
        &self.shards[place as usize].0
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rate").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

/// What one of so many shards is told: to keep its part of the keys, together no more than are allowed.
fn part(config: Valid<Config>, shards: u32) -> Valid<Config> {
    let part = Config { keys: (config.keys / shards).max(1), ..*config };
    debug_assert!(part.faults().is_empty(), "the rules of the keys hold of any number above 0");
    Valid::new(part).unwrap_or(config)
}

/// Sixteen, as there are cells: two threads are seldom in one.
pub const SHARDS: u32 = if cfg!(seaworthy_loom) { 2 } else { 16 };
/// A shard has room for so many keys at least, for hashes do not divide a few evenly.
const LEAST_KEYS: u32 = 64;
/// 2^64 by the golden ratio: multiplied by it, numbers in a row are far apart in their first bits (Knuth, "The Art of Computer
/// Programming", volume 3, section 6.4).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
#[cfg(not(seaworthy_loom))]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: Instant = Instant::from_millis(1_000);

    fn config(calls: u32, burst: u32, keys: u32) -> Valid<Config> {
        Valid::new(Config { calls, burst, keys, ..Config::default() }).unwrap()
    }

    #[test]
    fn a_few_keys_are_not_divided_and_many_are() {
        let shards = |keys| Rate::new(config(1, 1, keys)).shards.len();
        assert_eq!([1, 127, 128, 10_000, u32::MAX].map(shards), [1, 1, 2, 16, 16]);
    }

    #[test]
    fn each_shard_gets_its_part_of_small_numbers() {
        let rate = Rate::new(config(1, 1, 10_000));
        (0..1_600).for_each(|key| assert_eq!(rate.admit(NOW, key), Ok(None)));
        for shard in &rate.shards {
            let keys = lock(&shard.0).snapshot(NOW).keys;
            assert!((50..=200).contains(&keys), "{keys} of 1600 in one of 16");
        }
        let snapshot = rate.snapshot(NOW);
        assert_eq!((snapshot.keys, snapshot.over, snapshot.rejected), (1_600, 1_600, 0));
    }

    #[test]
    fn threads_together_get_the_burst_and_no_call_more() {
        let rate = Rate::new(config(1, 100, 10_000));
        let admitted = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mine = (0..1_000).filter(|_| rate.admit(NOW, 7).is_ok()).count();
                    admitted.fetch_add(mine as u64, Ordering::Relaxed);
                });
            }
        });
        assert_eq!((admitted.into_inner(), rate.snapshot(NOW).rejected), (100, 3_900));
    }

    #[test]
    fn no_more_keys_are_kept_than_are_allowed() {
        let rate = Rate::new(config(1, 1, 1_000));
        let admitted = (0..100_000).filter(|key| rate.admit(NOW, *key).is_ok()).count();
        assert!(rate.snapshot(NOW).keys <= 1_000);
        assert!(admitted <= 1_000 + SHARDS as usize, "{admitted}: one more for each shard's late keys");
    }

    #[test]
    fn observing_it_tells_and_off_it_does_not() {
        let numbers = |mode| Valid::new(Config { mode, calls: 1, burst: 1, ..Config::default() }).unwrap();
        let rate = Rate::new(numbers(Mode::Observe));
        assert_eq!(rate.admit(NOW, 1), Ok(None));
        assert_eq!(rate.admit(NOW, 1), Ok(Some(rate::exceeded(Duration::from_secs(1)))));
        rate.reconfigure(numbers(Mode::Enforce));
        assert!(rate.admit(NOW, 1).is_err(), "what was used stays used");
        rate.reconfigure(numbers(Mode::Off));
        assert_eq!(rate.admit(NOW, 1), Ok(None));
        assert_eq!(rate.snapshot(NOW).mode, Mode::Off);
    }

    proptest! {
        /// While there is room, it says call by call what one core's rate with all the keys says.
        #[test]
        fn it_decides_as_the_core_does(
            calls in 1u32..50, burst in 1u32..20,
            steps in prop::collection::vec((0u64..200_000_000, 0u64..64), 1..300),
        ) {
            let config = config(calls, burst, 10_000);
            let (shared, mut core) = (Rate::new(config), rate::Rate::new(config));
            let mut now = NOW;
            for (pass, key) in steps {
                now = now.plus_nanos(pass);
                prop_assert_eq!(shared.admit(now, key), core.admit(now, key));
            }
            prop_assert_eq!(shared.snapshot(now).rejected, core.snapshot(now).rejected);
        }
    }
}
