//! When the lease of an operation that another process runs is over, by this process's own clock.
//!
//! Clocks of two machines can't be compared, and a wall clock jumps. So no store keeps when a lease ends: who finds a running
//! operation remembers since when it has seen it stand still, and holds its owner for dead once it did so for the whole
//! lease. An owner stops working for its caller before its lease is over, so the two never run at once. What it costs: the
//! lease begins for an observer when it first looks, not when the owner died.

use alloc::collections::BTreeMap;
use core::time::Duration;

use super::Token;
use crate::Instant;

/// The running operations of others that were seen, by key.
#[derive(Debug)]
pub struct Watch<K> {
    seen: BTreeMap<K, Seen>,
    most: usize,
}

/// Which change of a record was seen, and since when.
#[derive(Clone, Copy, Debug)]
struct Seen {
    change: (Token, Duration),
    since: Instant,
}

impl<K: Ord + Clone> Watch<K> {
    /// Remembers up to `most` of them (one at least). What is forgotten is watched anew, which only makes its observers wait
    /// longer.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { seen: BTreeMap::new(), most: if most == 0 { 1 } else { most } }
    }

    /// `key` was found running under `token`, last `changed` then by its store's clock, at `now`: what is left of its lease,
    /// `None` if it is over.
    ///
    /// The token alone would not do: once a key was forgotten, its tokens begin anew, and what runs under the first is not what
    /// ran under the first a day ago. Of the store's time it matters only whether it is another; so its clock may jump.
    pub fn left(
        &mut self,
        now: Instant,
        key: &K,
        token: Token,
        changed: Duration,
        lease: Duration,
    ) -> Option<Duration> {
        if self.seen.len() >= self.most && !self.seen.contains_key(key) {
            self.forget_the_oldest();
        }
        let new = Seen { change: (token, changed), since: now };
        let seen = self.seen.entry(key.clone()).or_insert(new);
        if seen.change != new.change {
            *seen = new;
        }
        lease.checked_sub(now.since(seen.since)).filter(|left| !left.is_zero())
    }

    /// `key` no longer runs.
    pub fn over(&mut self, key: &K) {
        self.seen.remove(key);
    }

    /// A sixteenth of them at once, so that a full memory isn't searched for each that comes.
    fn forget_the_oldest(&mut self) {
        let mut times: alloc::vec::Vec<Instant> = self.seen.values().map(|seen| seen.since).collect();
        let nth = times.len() / 16;
        let (_, until, _) = times.select_nth_unstable(nth);
        let until = *until;
        self.seen.retain(|_, seen| seen.since > until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);
    /// When the record was changed, as the store says.
    const AT: Duration = Duration::from_secs(1_000_000);

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn a_lease_is_over_once_it_was_seen_to_stand_still_for_that_long() {
        let mut watch = Watch::new(8);
        assert_eq!(watch.left(at(100), &"a", Token(1), AT, LEASE), Some(LEASE));
        assert_eq!(watch.left(at(159), &"a", Token(1), AT, LEASE), Some(Duration::from_secs(1)));
        assert_eq!(watch.left(at(160), &"a", Token(1), AT, LEASE), None);
    }

    #[test]
    fn who_took_it_over_has_a_lease_of_its_own() {
        let mut watch = Watch::new(8);
        watch.left(at(100), &"a", Token(1), AT, LEASE);
        assert_eq!(watch.left(at(200), &"a", Token(2), AT, LEASE), Some(LEASE));
        watch.over(&"a");
        assert_eq!(watch.left(at(300), &"a", Token(2), AT, LEASE), Some(LEASE));
    }

    #[test]
    fn a_forgotten_key_that_begins_anew_under_the_same_token_has_a_lease_of_its_own() {
        let mut watch = Watch::new(8);
        watch.left(at(100), &"a", Token(1), AT, LEASE);
        for changed in [AT + Duration::from_secs(86_400), AT - Duration::from_secs(3_600)] {
            assert_eq!(watch.left(at(90_000), &"a", Token(1), changed, LEASE), Some(LEASE));
        }
    }

    #[test]
    fn its_memory_is_bounded_and_forgetting_only_prolongs() {
        let mut watch = Watch::new(32);
        for n in 0..1000_u64 {
            assert_eq!(watch.left(at(n), &n, Token(1), AT, LEASE), Some(LEASE));
            assert!(watch.seen.len() <= 32);
        }
        assert_eq!(watch.left(at(1000), &999, Token(1), AT, LEASE), Some(LEASE - Duration::from_secs(1)));
        assert_eq!(
            watch.left(at(1000), &0, Token(1), AT, LEASE),
            Some(LEASE),
            "it was forgotten, so it is watched anew"
        );
    }
}
