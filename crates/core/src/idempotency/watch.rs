//! When the lease of an operation that another process runs is over, by this process's own clock.
//!
//! Clocks of two machines can't be compared, and a wall clock jumps. So no store keeps when a lease ends: who finds a running
//! operation remembers since when it has seen it stand still, and holds its owner for dead once it did so for the whole
//! lease. An owner stops working for its caller before its lease is over, so the two never run at once. What it costs: the
//! lease begins for an observer when it first looks, not when the owner died.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use core::time::Duration;

use super::Token;
use crate::Instant;

/// The running operations of others that were seen, by key.
#[derive(Debug)]
pub struct Watch<K> {
    seen: BTreeMap<K, (Token, Instant)>,
    most: usize,
}

impl<K: Ord + Clone> Watch<K> {
    /// Remembers up to `most` of them (one at least). What is forgotten is watched anew, which only makes its observers wait
    /// longer.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { seen: BTreeMap::new(), most: if most == 0 { 1 } else { most } }
    }

    /// `key` was found running under `token` at `now`: what is left of its lease, `None` if it is over.
    pub fn left(&mut self, now: Instant, key: &K, token: Token, lease: Duration) -> Option<Duration> {
        if self.seen.len() >= self.most && !self.seen.contains_key(key) {
            self.forget_the_oldest();
        }
        let since = match self.seen.entry(key.clone()) {
            Entry::Vacant(entry) => entry.insert((token, now)).1,
            Entry::Occupied(mut entry) => {
                if entry.get().0 != token {
                    entry.insert((token, now));
                }
                entry.get().1
            }
        };
        lease.checked_sub(now.since(since)).filter(|left| !left.is_zero())
    }

    /// `key` no longer runs.
    pub fn over(&mut self, key: &K) {
        self.seen.remove(key);
    }

    /// A sixteenth of them at once, so that a full memory isn't searched for each that comes.
    fn forget_the_oldest(&mut self) {
        let mut times: alloc::vec::Vec<Instant> = self.seen.values().map(|(_, since)| *since).collect();
        let nth = times.len() / 16;
        let (_, until, _) = times.select_nth_unstable(nth);
        let until = *until;
        self.seen.retain(|_, (_, since)| *since > until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn a_lease_is_over_once_it_was_seen_to_stand_still_for_that_long() {
        let mut watch = Watch::new(8);
        assert_eq!(watch.left(at(100), &"a", Token(1), LEASE), Some(LEASE));
        assert_eq!(watch.left(at(159), &"a", Token(1), LEASE), Some(Duration::from_secs(1)));
        assert_eq!(watch.left(at(160), &"a", Token(1), LEASE), None);
    }

    #[test]
    fn who_took_it_over_has_a_lease_of_its_own() {
        let mut watch = Watch::new(8);
        watch.left(at(100), &"a", Token(1), LEASE);
        assert_eq!(watch.left(at(200), &"a", Token(2), LEASE), Some(LEASE));
        watch.over(&"a");
        assert_eq!(watch.left(at(300), &"a", Token(2), LEASE), Some(LEASE));
    }

    #[test]
    fn its_memory_is_bounded_and_forgetting_only_prolongs() {
        let mut watch = Watch::new(32);
        for n in 0..1000_u64 {
            assert_eq!(watch.left(at(n), &n, Token(1), LEASE), Some(LEASE));
            assert!(watch.seen.len() <= 32);
        }
        assert_eq!(watch.left(at(1000), &999, Token(1), LEASE), Some(LEASE - Duration::from_secs(1)));
        assert_eq!(
            watch.left(at(1000), &0, Token(1), LEASE),
            Some(LEASE),
            "it was forgotten, so it is watched anew"
        );
    }
}
