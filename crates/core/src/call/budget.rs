//! A budget for extra attempts: retries and hedges may add only a share to the traffic.
//!
//! # Why a budget and not only a number of attempts?
//! Three attempts a call are harmless while failures are rare and triple the load exactly when the upstream can bear it
//! least; through three such layers one call becomes 27. A budget bounds the *whole*: with a share of 0.2 the
//! upstream sees at most 1.2 times the traffic however much of it fails, whatever the attempts allowed to one call.
//!
//! # When not to use it
//! For a client that makes a handful of calls an hour a share is meaningless; there `per_second` is what counts.
//!
//! # How
//! A token bucket (Brooker, "Fixing retries with token buckets and circuit breakers", 2022): every call deposits
//! `share` of a token, time deposits `per_second`, an extra attempt takes a whole one, and at most `burst` are kept. In
//! any stretch of time
//!
//! ```text
//! extra attempts < burst + 1 + share * calls + per_second * seconds
//! ```
//!
//! where the one is what a fraction of a token, kept beside whole ones, may have come to. Tokens are counted in whole billionths, so that a share of 0.3 is 0.3 and not a third.
//!
//! ```
//! use seaworthy_core::{Instant, Valid, call::budget::{Budget, Config}};
//! let config = Config { share: 0.5, per_second: 0.0, burst: 1 };
//! let mut budget = Budget::new(Valid::new(config).unwrap());
//! let now = Instant::ZERO;
//! assert!(budget.withdraw(now)); // the bucket starts full
//! assert!(!budget.withdraw(now));
//! budget.deposit(now, 1);
//! assert!(!budget.withdraw(now)); // half a token
//! budget.deposit(now, 1);
//! assert!(budget.withdraw(now));
//! ```

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::{Fault, Instant, Rules, Valid};

/// The numbers of a [`Budget`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// Extra attempts per call, 0 to 1. 0.2 is the default of Finagle, Linkerd, Envoy's retry budget and tower.
    pub share: f64,
    /// Extra attempts per second whatever the traffic, so that a quiet client may retry at all. Finagle, Linkerd and tower
    /// allow 10.
    pub per_second: f64,
    /// The most extra attempts that can be saved up: with the default share, what 500 calls deposit.
    pub burst: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { share: 0.2, per_second: 10.0, burst: 100 }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !(0.0..=1.0).contains(&self.share) {
            faults.push(Fault {
                field: "share",
                problem: format!("is {}", self.share),
                remedy: "a share of the calls lies between 0 and 1, such as 0.2".into(),
            });
        }
        if !(0.0..=1e6).contains(&self.per_second) {
            faults.push(Fault {
                field: "per_second",
                problem: format!("is {}", self.per_second),
                remedy: "write how many extra attempts a second are always allowed, from 0 to 1000000".into(),
            });
        }
        if self.burst == 0 {
            faults.push(Fault {
                field: "burst",
                problem: "is 0".into(),
                remedy:
                    "an extra attempt takes a whole token, so at least 1 must fit; to forbid retries set \
                         attempts to 1"
                        .into(),
            });
        }
        faults
    }
}

/// A bucket of tokens for extra attempts. See the [module](self).
#[derive(Clone, Debug)]
pub struct Budget {
    config: Valid<Config>,
    /// Billionths of a token that a call deposits.
    per_call: u64,
    /// Billionths of a token that a second deposits, which is tokens per nanosecond in units of 1e-18.
    per_second: u64,
    balance: u64,
    /// What time has deposited short of a billionth, in units of 1e-18 of a token.
    crumbs: u64,
    seen: Instant,
}

impl Budget {
    /// A full bucket.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        let mut budget =
            Self { config, per_call: 0, per_second: 0, balance: 0, crumbs: 0, seen: Instant::ZERO };
        budget.reconfigure(config);
        budget.balance = u64::from(config.burst) * TOKEN;
        budget
    }

    /// Takes new numbers and keeps what was saved up, as far as it still fits.
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        self.config = config;
        self.per_call = (config.share * TOKEN as f64 + 0.5) as u64;
        self.per_second = (config.per_second * TOKEN as f64 + 0.5) as u64;
        self.balance = self.balance.min(self.most());
    }

    /// Notes that `calls` calls were made.
    pub fn deposit(&mut self, now: Instant, calls: u32) {
        self.catch_up(now);
        let more = self.per_call.saturating_mul(u64::from(calls));
        self.balance = self.balance.saturating_add(more).min(self.most());
    }

    /// Takes a token for one extra attempt; false if there is none.
    #[must_use]
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.catch_up(now);
        let granted = self.balance >= TOKEN;
        if granted {
            self.balance -= TOKEN;
        }
        granted
    }

    /// Gives a token back that was taken for an attempt which never started.
    pub fn refund(&mut self) {
        self.balance = self.balance.saturating_add(TOKEN).min(self.most());
    }

    /// The tokens there are at `now`.
    #[must_use]
    pub fn tokens(&self, now: Instant) -> f64 {
        let mut then = self.clone();
        then.catch_up(now);
        then.balance as f64 / TOKEN as f64
    }

    /// The numbers in force.
    #[must_use]
    pub const fn config(&self) -> &Valid<Config> {
        &self.config
    }

    fn catch_up(&mut self, now: Instant) {
        let elapsed = now.nanos_since(self.seen);
        if elapsed == 0 {
            if self.seen.since(now) > LATE {
                self.seen = now;
            }
            return;
        }
        self.seen = now;
        let earned = u128::from(elapsed) * u128::from(self.per_second) + u128::from(self.crumbs);
        let whole = u64::try_from(earned / u128::from(TOKEN)).unwrap_or(u64::MAX);
        self.crumbs = (earned % u128::from(TOKEN)) as u64;
        let full = u64::from(self.config.burst) * TOKEN;
        self.balance = self.balance.saturating_add(whole).min(full.max(self.balance));
    }

    /// Beside `burst` whole tokens there is room for a fraction, which would otherwise be cut off and the share with it.
    fn most(&self) -> u64 {
        (u64::from(self.config.burst) + 1) * TOKEN - 1
    }
}

/// One token in the unit of the balance. A billionth resolves a share of 0.0001 to five digits and leaves room for
/// four billion tokens.
const TOKEN: u64 = 1_000_000_000;
/// How late news from another thread may be. Beyond it the clock has jumped back, and waiting for it to catch up would
/// stop the deposits of time.
const LATE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget(share: f64, per_second: f64, burst: u32) -> Budget {
        Budget::new(Valid::new(Config { share, per_second, burst }).unwrap())
    }

    fn drain(budget: &mut Budget, now: Instant) -> u32 {
        (0..).take_while(|_| budget.withdraw(now)).count() as u32
    }

    #[test]
    fn time_deposits_to_the_nanosecond() {
        let mut b = budget(0.0, 10.0, 5);
        let start = Instant::from_millis(1_000);
        assert_eq!(drain(&mut b, start), 5);
        assert!(!b.withdraw(start.plus_nanos(99_999_999)));
        assert!(b.withdraw(start.plus_nanos(100_000_000)));
    }

    #[test]
    fn a_long_idle_time_fills_the_bucket_and_no_more() {
        let mut b = budget(0.2, 10.0, 7);
        drain(&mut b, Instant::ZERO);
        assert_eq!(drain(&mut b, Instant::FAR), 7);
    }

    #[test]
    fn news_that_is_a_little_late_earns_nothing_twice() {
        let mut b = budget(0.0, 10.0, 10);
        let late = Instant::from_millis(100_000);
        drain(&mut b, late);
        for _ in 0..1_000 {
            b.deposit(Instant::from_millis(99_500), 1);
            b.deposit(late, 1);
        }
        assert!(!b.withdraw(late));
    }

    #[test]
    fn a_clock_that_was_a_year_ahead_does_not_stop_the_deposits() {
        let mut b = budget(0.0, 10.0, 10);
        drain(&mut b, Instant::from_millis(365 * 86_400_000));
        b.deposit(Instant::from_millis(1_000), 1);
        assert!(!b.withdraw(Instant::from_millis(1_000)));
        assert!(b.withdraw(Instant::from_millis(1_100)));
    }

    #[test]
    fn every_fault_is_told() {
        let faults = Config { share: f64::NAN, per_second: -1.0, burst: 0 }.faults();
        assert_eq!(faults.iter().map(|f| f.field).collect::<Vec<_>>(), ["share", "per_second", "burst"]);
    }

    proptest! {
        #[test]
        fn the_share_is_exact_within_one_token(ten_thousandths in 1u32..10_000, calls in 1u32..30_000) {
            let share = f64::from(ten_thousandths) / 10_000.0;
            let mut b = budget(share, 0.0, 1);
            drain(&mut b, Instant::ZERO);
            let granted = (0..calls)
                .filter(|_| {
                    b.deposit(Instant::ZERO, 1);
                    b.withdraw(Instant::ZERO)
                })
                .count() as f64;
            let due = share * f64::from(calls);
            prop_assert!(granted <= due + 1e-6, "granted {granted} of {due}");
            prop_assert!(granted > due - 1.0 - 1e-6, "granted {granted} of {due}");
        }

        #[test]
        fn it_is_never_overdrawn(
            share in 0.0001f64..0.9999, per_second in 0.0f64..1000.0, burst in 1u32..50,
            steps in proptest::collection::vec((0u64..50_000_000, 0u32..4, 0u32..4), 1..300),
        ) {
            let mut b = budget(share, per_second, burst);
            let mut now = Instant::ZERO;
            let (mut calls, mut taken) = (0u64, 0u64);
            for (wait, deposits, tries) in steps {
                now = now.plus_nanos(wait);
                b.deposit(now, deposits);
                calls += u64::from(deposits);
                taken += (0..tries).filter(|_| b.withdraw(now)).count() as u64;
                let earned = f64::from(burst) + share * calls as f64 + per_second * now.as_nanos() as f64 / 1e9;
                prop_assert!(taken as f64 <= earned + 1e-3, "{taken} taken of {earned}");
            }
        }
    }
}
