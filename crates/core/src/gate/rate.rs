//! Rate: at most so many calls of one key in a while.
//!
//! # What it is for
//! One client, tenant or token shall not take more than its share, whatever the others do; and what is sold as "100 calls a
//! second" has to be enforced as that.
//!
//! # When not to use it
//! Against overload: a rate knows nothing of what is going on behind it. Use a [limit](super::limit) for that, and the
//! [queue](super::queue) for fairness while there is too much to do.
//!
//! # How
//! The generic cell rate algorithm (ITU-T I.371, annex A; the "virtual scheduling" form), which is a token bucket in a single
//! number. That number is the theoretical arrival time `tat`: when the next call would come if calls came evenly.
//!
//! ```text
//! interval = per / calls      tolerance = interval * (burst - 1)
//! admitted if now >= tat - tolerance; then tat := max(tat, now) + interval
//! ```
//! A number in the past says the same as none, so a key that has been quiet for `interval * burst` need not be remembered at
//! all. [`Quota::decide`] is the whole decision, so that a shell can make it by one compare-and-swap, or on a server elsewhere.
//!
//! [`Rate`] keeps the numbers of up to [`Config::keys`] keys. When there are more, those are forgotten of which there is nothing
//! to remember, then those with the most left of their burst; never one that is over its rate. If all are, a new key gets what
//! all new keys share, so that no flood of invented keys is admitted beyond one quota.
//!
//! ```
//! use core::time::Duration;
//! use seaworthy_core::{Instant, Valid, gate::rate::{Config, Rate}};
//! let config = Config { calls: 10, per: Duration::from_secs(1), burst: 2, ..Config::default() };
//! let (mut rate, now) = (Rate::new(Valid::new(config).unwrap()), Instant::from_millis(5));
//! assert!(rate.admit(now, 7).is_ok() && rate.admit(now, 7).is_ok());
//! let refused = rate.admit(now, 7).unwrap_err();
//! assert_eq!(refused.retry_after, Some(Duration::from_millis(100)));
//! assert!(rate.admit(now, 8).is_ok(), "another key has its own");
//! assert!(rate.admit(now.plus(Duration::from_millis(100)), 7).is_ok());
//! ```

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::valid::fault;
use crate::{Fault, Instant, Mode, Policy, Reason, Rejection, Rules, Valid, nanos};

/// The numbers of a [`Rate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Whether it refuses, only tells what it would refuse, or is not there.
    pub mode: Mode,
    /// How many calls of a key are admitted per [`per`](Self::per), in the long run. A hundred, which no person reaches and few
    /// programs need; what is right only the service knows.
    pub calls: u32,
    /// The time in which they are. A second. The interval between two calls is rounded up to whole nanoseconds.
    pub per: Duration,
    /// How many may come at once after a quiet time, at least 1. A hundred, a second's worth: a page with all its parts.
    pub burst: u32,
    /// How many keys are told apart at a time. Ten thousand, which take about a megabyte.
    pub keys: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { mode: Mode::Enforce, calls: 100, per: Duration::from_secs(1), burst: 100, keys: 10_000 }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let per = nanos(self.per);
        let too_fast = self.calls > 0 && per < u64::from(self.calls);
        [
            fault(self.calls == 0, "calls", "is 0", "no call would ever pass; write 1 or more"),
            fault(
                too_fast,
                "per",
                format!("is {:?}, less than a nanosecond for each of {} calls", self.per, self.calls),
                "write a longer time, such as \"1s\"",
            ),
            fault(self.burst == 0, "burst", "is 0", "no call would ever pass; write 1 or more"),
            fault(self.keys == 0, "keys", "is 0", "no key could be told from another; write 1 or more"),
            fault(
                self.per > LONGEST,
                "per",
                format!("is {:?}", self.per),
                "what is counted in memory is not counted for longer than a day; write 24h or less",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A rate as two numbers, for deciding about a key of which only `tat` is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Quota {
    /// The time between two calls that come evenly, in nanoseconds.
    pub interval_ns: u64,
    /// How much earlier than that a call may come, in nanoseconds.
    pub tolerance_ns: u64,
}

/// What [`Quota::decide`] says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Decision {
    /// The call is admitted, and this is to be kept as the key's theoretical arrival time.
    Admit(u64),
    /// It is not, and will be after this time if no other comes before; what is kept stays.
    Refuse(Duration),
}

impl Quota {
    /// The quota of a configuration.
    #[must_use]
    pub fn new(config: &Valid<Config>) -> Self {
        let interval_ns = nanos(config.per).div_ceil(u64::from(config.calls));
        let burst = u64::from(config.burst - 1);
        Self { interval_ns, tolerance_ns: interval_ns.saturating_mul(burst) }
    }

    /// Whether a call of the key with the theoretical arrival time `tat` (0 if there is none) may start. O(1), and pure.
    #[must_use]
    pub fn decide(&self, tat: u64, now: Instant) -> Decision {
        let now = now.as_nanos();
        let tat = self.within(tat, now);
        let earliest = tat.saturating_sub(self.tolerance_ns);
        if now < earliest {
            Decision::Refuse(Duration::from_nanos(earliest - now))
        } else {
            Decision::Admit(tat.max(now).saturating_add(self.interval_ns))
        }
    }

    /// Whether a call of that key would be refused.
    #[must_use]
    pub fn is_over(&self, tat: u64, now: Instant) -> bool {
        matches!(self.decide(tat, now), Decision::Refuse(_))
    }

    /// No call leaves a time further ahead than `interval + tolerance`, give or take what the clocks of two threads differ by. One
    /// that is was kept under a clock that has been set back since, or under a lower rate: the burst counts as spent, and the
    /// next call as due.
    const fn within(&self, tat: u64, now: u64) -> u64 {
        let spent = now.saturating_add(self.tolerance_ns);
        if tat > spent.saturating_add(self.interval_ns).saturating_add(SKEW) { spent } else { tat }
    }
}

/// The state of a [`Rate`] at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Keys that are remembered.
    pub keys: u32,
    /// Of these, keys that are over their rate.
    pub over: u32,
    /// Whether it refuses or only observes.
    pub mode: Mode,
    /// How many calls it has refused, or would have in observe-only mode.
    pub rejected: u64,
    /// How many keys were forgotten that had used a part of their burst.
    pub evicted: u64,
    /// How many calls had to share what is left for keys that found no room.
    pub crowded: u64,
}

/// A rate for each key. See the [module](self).
#[derive(Clone, Debug)]
pub struct Rate {
    config: Valid<Config>,
    quota: Quota,
    keys: BTreeMap<u64, u64>,
    /// The same by time, the one with the least to remember first.
    times: BTreeSet<(u64, u64)>,
    /// The theoretical arrival time of all keys without room.
    shared: u64,
    rejected: u64,
    evicted: u64,
    crowded: u64,
}

impl Rate {
    /// No key has called yet.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        Self {
            quota: Quota::new(&config),
            config,
            keys: BTreeMap::new(),
            times: BTreeSet::new(),
            shared: 0,
            rejected: 0,
            evicted: 0,
            crowded: 0,
        }
    }

    /// Takes new numbers. What a key has used stays used.
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        self.quota = Quota::new(&config);
        self.config = config;
    }

    /// The quota of each key.
    #[must_use]
    pub const fn quota(&self) -> Quota {
        self.quota
    }

    /// May a call of `key` start? `Ok` with the refusal that there would have been, in observe-only mode. O(log n) of the keys.
    ///
    /// # Errors
    /// The refusal, with how long until the next call of the key is admitted.
    pub fn admit(&mut self, now: Instant, key: u64) -> Result<Option<Rejection>, Rejection> {
        if self.config.mode == Mode::Off {
            return Ok(None);
        }
        let wait = match self.take(now, key) {
            Ok(()) => return Ok(None),
            Err(wait) => wait,
        };
        self.rejected += 1;
        let rejection = exceeded(wait);
        if self.config.mode == Mode::Observe { Ok(Some(rejection)) } else { Err(rejection) }
    }

    /// The state at `now`; O(n) of the keys.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            keys: self.keys.len() as u32,
            over: self.keys.values().filter(|tat| self.quota.is_over(**tat, now)).count() as u32,
            mode: self.config.mode,
            rejected: self.rejected,
            evicted: self.evicted,
            crowded: self.crowded,
        }
    }

    fn take(&mut self, now: Instant, key: u64) -> Result<(), Duration> {
        let kept = self.keys.get(&key).copied();
        if kept.is_none() && !self.make_room(now) {
            self.crowded += 1;
            return match self.quota.decide(self.shared, now) {
                Decision::Admit(tat) => {
                    self.shared = tat;
                    Ok(())
                }
                Decision::Refuse(wait) => Err(wait),
            };
        }
        match self.quota.decide(kept.unwrap_or(0), now) {
            Decision::Admit(tat) => {
                if let Some(kept) = self.keys.insert(key, tat) {
                    self.times.remove(&(kept, key));
                }
                self.times.insert((tat, key));
                Ok(())
            }
            Decision::Refuse(wait) => Err(wait),
        }
    }

    /// Whether there is room for another key, if need be by forgetting one that is not over its rate.
    fn make_room(&mut self, now: Instant) -> bool {
        // Two at a time while there is nothing to remember of them: so the table shrinks with the traffic, at no cost that grows.
        for _ in 0..2 {
            match self.times.first() {
                Some(&(tat, key)) if tat <= now.as_nanos() => self.forget(tat, key),
                _ => break,
            }
        }
        while self.keys.len() >= self.config.keys as usize {
            let Some(&(tat, key)) = self.times.first() else { return false };
            if self.quota.is_over(tat, now) {
                return false;
            }
            self.forget(tat, key);
            self.evicted += 1;
        }
        true
    }

    fn forget(&mut self, tat: u64, key: u64) {
        self.times.remove(&(tat, key));
        self.keys.remove(&key);
    }
}

/// The refusal of a call that will be admitted after `wait`: for shells that [decide](Quota::decide) by themselves.
#[must_use]
pub const fn exceeded(wait: Duration) -> Rejection {
    Rejection::new(Policy::Rate, Reason::RateExceeded).after(wait)
}

/// Far more than two readings of one clock differ by, far less than anybody sets it back.
const SKEW: u64 = 1_000_000_000;
/// Who counts over days wants it to outlive a restart.
const LONGEST: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests;
