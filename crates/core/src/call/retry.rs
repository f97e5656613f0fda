//! Retry: another attempt, later, elsewhere.
//!
//! # What it is for
//! Failures that pass: a lost connection, a restarted instance, one bad endpoint among several.
//!
//! # When not to use it
//! For what fails again however often it is asked, for requests that must not run twice, and above another layer that
//! retries already. A retry never helps an overloaded upstream: that is what the [budget](super::budget) is for.
//!
//! # The wait
//! Attempt `n` (counted from 0) waits at most `v = min(cap, base * 2^n)`, and jitter decides how much of it (Brooker,
//! "Exponential Backoff And Jitter", AWS, 2015):
//!
//! ```text
//! none         v
//! full         U(0, v)
//! equal        v/2 + U(0, v/2)
//! decorrelated min(cap, U(base, 3 * previous))
//! ```
//!
//! Without jitter, clients that failed together come back together. Backoff spreads load and does not bound it: an
//! open stream of callers does not slow down because each of them waits.
//!
//! ```
//! use core::time::Duration;
//! use seaworthy_core::{Seeded, Valid, call::retry::{Backoff, Config, Jitter}};
//! let config = Config { jitter: Jitter::None, ..Config::default() };
//! let mut backoff = Backoff::new(&Valid::new(config).unwrap());
//! let mut rng = Seeded::new(1);
//! assert_eq!(backoff.next(&mut rng), Duration::from_millis(25));
//! assert_eq!(backoff.next(&mut rng), Duration::from_millis(50));
//! ```

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::{Fault, Mode, Rng, Rules, Valid, nanos};

/// The numbers of retrying.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// Whether retries are made, only noted in the record (`observe`), or left out.
    pub mode: Mode,
    /// The most attempts of one call, the first included and hedges not, 1 to 10. Three, as in the SDKs of AWS and at
    /// Google (SRE book, ch. 21): a third failure in a row says that the trouble is not one endpoint's.
    pub attempts: u8,
    /// The first wait, before jitter. 25 ms as in Envoy and Linkerd: longer than a connection takes to fail over, shorter
    /// than a person notices.
    pub base: Duration,
    /// The longest wait, before jitter. A second: a caller with a deadline rarely has more to spare.
    pub cap: Duration,
    /// How the wait is drawn. Full jitter needs the least work of all variants while many clients contend.
    pub jitter: Jitter,
    /// How much later than its own wait an upstream may ask a retry to come (`Retry-After`, gRPC push-back); what asks
    /// for more is clamped to it. Five seconds as in the AWS SDKs, so that no upstream can park a caller for an hour.
    pub most_pushback: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            attempts: 3,
            base: Duration::from_millis(25),
            cap: Duration::from_secs(1),
            jitter: Jitter::Full,
            most_pushback: Duration::from_secs(5),
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !(1..=10).contains(&self.attempts) {
            faults.push(Fault {
                field: "attempts",
                problem: format!("is {}", self.attempts),
                remedy: "it counts the first attempt too: write 1 for no retries, at most 10".into(),
            });
        }
        if self.cap < self.base {
            faults.push(Fault {
                field: "cap",
                problem: format!("is {:?}, below base ({:?})", self.cap, self.base),
                remedy: "the longest wait must be at least the first".into(),
            });
        }
        faults
    }
}

/// How much of the wait is left to chance. The formulas are in the [module](self).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Jitter {
    /// Nothing: clients that failed together return together. For tests and comparisons.
    None,
    /// All of it.
    #[default]
    Full,
    /// Half of it.
    Equal,
    /// All of it, growing from the last draw instead of the attempt number.
    Decorrelated,
}

impl Jitter {
    /// The name in configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Full => "full",
            Self::Equal => "equal",
            Self::Decorrelated => "decorrelated",
        }
    }
}

/// The waits of one call, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    base: u64,
    cap: u64,
    jitter: Jitter,
    /// `base * 2^n` capped, or the last draw of decorrelated jitter.
    next: u64,
}

impl Backoff {
    /// The waits that `config` describes, from the first.
    #[must_use]
    pub fn new(config: &Valid<Config>) -> Self {
        let (base, cap) = (nanos(config.base), nanos(config.cap));
        Self { base, cap, jitter: config.jitter, next: base }
    }

    /// The next wait. Never longer than the cap, however often it is asked.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let v = self.next;
        let wait = match self.jitter {
            Jitter::None => v,
            Jitter::Full => draw(rng, 0, v),
            Jitter::Equal => draw(rng, v / 2, v),
            Jitter::Decorrelated => draw(rng, self.base, v.saturating_mul(3)).min(self.cap),
        };
        self.next = match self.jitter {
            Jitter::Decorrelated => wait,
            _ => v.saturating_mul(2).min(self.cap),
        };
        Duration::from_nanos(wait)
    }
}

fn draw(rng: &mut impl Rng, low: u64, high: u64) -> u64 {
    low + rng.below(high.saturating_sub(low).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Seeded;

    fn config(jitter: Jitter, base_ms: u64, cap_ms: u64) -> Valid<Config> {
        let (base, cap) = (Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
        Valid::new(Config { jitter, base, cap, ..Config::default() }).unwrap()
    }

    #[test]
    fn without_jitter_the_wait_doubles_up_to_the_cap() {
        let mut backoff = Backoff::new(&config(Jitter::None, 5, 30));
        let waits: Vec<u128> = (0..5).map(|_| backoff.next(&mut Seeded::new(0)).as_millis()).collect();
        assert_eq!(waits, [5, 10, 20, 30, 30]);
    }

    /// Polly#2163: a naive power overflowed at attempt 1024.
    #[test]
    fn the_ten_thousandth_wait_is_still_the_cap() {
        let mut backoff = Backoff::new(&config(Jitter::None, 5, 2_000));
        let mut rng = Seeded::new(0);
        let last = (0..10_000).map(|_| backoff.next(&mut rng)).last();
        assert_eq!(last, Some(Duration::from_secs(2)));
    }

    #[test]
    fn faults_name_the_field() {
        let bad = Config { attempts: 0, cap: Duration::ZERO, ..Config::default() };
        assert_eq!(bad.faults().iter().map(|f| f.field).collect::<Vec<_>>(), ["attempts", "cap"]);
    }

    proptest! {
        #[test]
        fn every_wait_lies_within_its_formula(seed: u64, base in 1u64..100, more in 0u64..5_000, n in 0usize..40) {
            let cap = base + more;
            for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
                let mut backoff = Backoff::new(&config(jitter, base, cap));
                let mut rng = Seeded::new(seed);
                let mut previous = Duration::from_millis(base);
                for _ in 0..n {
                    backoff.next(&mut rng);
                }
                if jitter == Jitter::Decorrelated {
                    previous = Duration::from_nanos(backoff.next);
                }
                let v = Duration::from_millis(base.saturating_mul(1 << n.min(20)).min(cap));
                let wait = backoff.next(&mut rng);
                let (low, high) = match jitter {
                    Jitter::Equal => (v / 2, v),
                    Jitter::Decorrelated => (
                        Duration::from_millis(base).min(Duration::from_millis(cap)),
                        (previous * 3).min(Duration::from_millis(cap)),
                    ),
                    _ => (Duration::ZERO, v),
                };
                prop_assert!((low..=high).contains(&wait), "{jitter:?}: {wait:?} not in {low:?}..={high:?}");
            }
        }
    }
}
