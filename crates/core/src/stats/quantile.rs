//! Quantiles of latencies over a window of time, in fixed memory.
//!
//! # What it is for
//! The timeout and the hedge delay follow a quantile of the latencies of late. Sorting the last thousand costs some 14 µs a
//! query and remembers for as long as a thousand calls take; here recording is one increment, and what is old leaves.
//!
//! # How
//! Buckets of logarithmic width with 32 linear steps to the octave (the idea of HdrHistogram): a value from 1 µs to 73 minutes is
//! known to within 1.6%. The window is a ring of slices, each with its own counts, so that rolling over is clearing one.
//!
//! A sample may be *censored*: known only to lie above an age, because an attempt was given up. The quantile is that of
//! the Kaplan-Meier estimate ("Nonparametric Estimation from Incomplete Observations", 1958): with `n` samples at risk in a
//! bucket and `d` that end in it, survival is multiplied by `1 - d/n`, and a censored sample leaves the risk without ending.
//! Without censored samples that is the plain quantile.
//!
//! Memory: five slices of two times 1056 counts, 42 kB. One for each upstream, not for each endpoint.
//!
//! ```
//! use core::time::Duration;
//! use seaworthy_core::{Instant, stats::quantile::Quantile};
//! let mut seen = Quantile::new(Duration::from_secs(30));
//! let now = Instant::from_millis(5);
//! for ms in 1..=100 {
//!     seen.record(now, Duration::from_millis(ms));
//! }
//! let p99 = seen.quantile(now, 0.99).unwrap();
//! assert!((97..=101).contains(&p99.value.as_millis()));
//! ```

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use crate::{Instant, nanos};

/// A sliding histogram of latencies. See the [module](self).
#[derive(Clone, Debug)]
pub struct Quantile {
    slice_nanos: u64,
    /// The number of the newest slice since the clock's origin.
    newest: u64,
    slices: [Slice; SLICES],
}

#[derive(Clone, Debug)]
struct Slice {
    number: u64,
    samples: u64,
    /// Samples that ended in each bucket.
    ended: Box<[u32; BUCKETS]>,
    /// Samples given up in each bucket.
    given_up: Box<[u32; BUCKETS]>,
}

/// A quantile as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Estimate {
    /// The quantile; or, if it is `above`, the longest age at which a sample was given up.
    pub value: Duration,
    /// Whether so many samples were given up that all that is known of the quantile is that it lies above `value`.
    pub above: bool,
}

impl Quantile {
    /// An empty histogram of the last `window` (the slice being filled comes on top, up to a quarter of it).
    #[must_use]
    pub fn new(window: Duration) -> Self {
        let slice_nanos = (nanos(window) / (SLICES as u64 - 1)).max(1);
        Self { slice_nanos, newest: 0, slices: core::array::from_fn(|_| Slice::new()) }
    }

    /// Records an attempt that was answered after `latency`.
    pub fn record(&mut self, now: Instant, latency: Duration) {
        let slice = self.slice(now);
        let count = &mut slice.ended[bucket(latency)];
        *count = count.saturating_add(1);
    }

    /// Records an attempt that was given up after `age`: its latency is above that.
    pub fn record_above(&mut self, now: Instant, age: Duration) {
        let slice = self.slice(now);
        let count = &mut slice.given_up[bucket(age)];
        *count = count.saturating_add(1);
    }

    /// The `q` quantile of the samples in the window at `now`, `q` from 0 to 1; `None` if there are none.
    #[must_use]
    pub fn quantile(&self, now: Instant, q: f64) -> Option<Estimate> {
        let live: Vec<&Slice> = self.live(now).collect();
        let mut at_risk: u64 = live.iter().map(|s| s.samples).sum();
        if at_risk == 0 {
            return None;
        }
        let target = 1.0 - q + ROUNDING;
        let mut survival = 1.0;
        let mut longest = 0;
        for n in 0..BUCKETS {
            let ended: u64 = live.iter().map(|s| u64::from(s.ended[n])).sum();
            let given_up: u64 = live.iter().map(|s| u64::from(s.given_up[n])).sum();
            if ended + given_up == 0 {
                continue;
            }
            survival *= at_risk.saturating_sub(ended) as f64 / at_risk as f64;
            if survival <= target {
                return Some(Estimate { value: middle(n), above: false });
            }
            at_risk = at_risk.saturating_sub(ended + given_up);
            longest = n;
            if at_risk == 0 {
                break;
            }
        }
        Some(Estimate { value: middle(longest), above: true })
    }

    /// How many samples there are in the window at `now`.
    #[must_use]
    pub fn count(&self, now: Instant) -> u64 {
        self.live(now).map(|s| s.samples).sum()
    }

    /// The slices that are still in the window. A slice from the future, left there by a clock that jumped back, counts
    /// until the next record clears it.
    fn live(&self, now: Instant) -> impl Iterator<Item = &Slice> {
        let present = self.number(now);
        self.slices.iter().filter(move |s| s.samples > 0 && present.saturating_sub(s.number) < SLICES as u64)
    }

    /// The slice of `now`, cleared if it held an older time.
    fn slice(&mut self, now: Instant) -> &mut Slice {
        let mut number = self.number(now);
        if number < self.newest {
            if self.newest - number >= SLICES as u64 {
                // Not late news, but a clock that jumped back: what was seen belongs to no time that can be told.
                self.slices.iter_mut().for_each(Slice::clear);
                self.newest = number;
            } else {
                number = self.newest;
            }
        }
        self.newest = number;
        let slice = &mut self.slices[(number % SLICES as u64) as usize];
        if slice.number != number {
            slice.clear();
            slice.number = number;
        }
        slice.samples += 1;
        slice
    }

    const fn number(&self, now: Instant) -> u64 {
        now.as_nanos() / self.slice_nanos
    }
}

impl Slice {
    fn new() -> Self {
        Self { number: 0, samples: 0, ended: Box::new([0; BUCKETS]), given_up: Box::new([0; BUCKETS]) }
    }

    fn clear(&mut self) {
        if self.samples > 0 {
            self.ended.fill(0);
            self.given_up.fill(0);
            self.samples = 0;
        }
    }
}

fn bucket(value: Duration) -> usize {
    let units = nanos(value) >> UNIT_BITS;
    let bits = u64::BITS - units.leading_zeros();
    let shift = bits.saturating_sub(STEP_BITS + 1);
    let n = (u64::from(shift) << STEP_BITS) + (units >> shift);
    (n as usize).min(BUCKETS - 1)
}

/// The middle of a bucket, by which no value in it is missed by more than half its width.
fn middle(n: usize) -> Duration {
    let n = n as u64;
    let steps = 1 << STEP_BITS;
    let shift = (n / steps).saturating_sub(1);
    let low = (n - shift * steps) << (shift + u64::from(UNIT_BITS));
    let width = 1 << (shift + u64::from(UNIT_BITS));
    Duration::from_nanos(low + width / 2)
}

/// Four slices make the window, and one is being filled.
const SLICES: usize = 5;
/// 32 steps to the octave: a bucket is at most 1/32 as wide as its values are large, so half its width is 1.6%.
const STEP_BITS: u32 = 5;
/// The finest step is 32 ns, so that 1.6% holds from 1 µs.
const UNIT_BITS: u32 = 5;
/// The highest bucket ends at 2^42 ns, 73 minutes; what is longer counts as that.
const BUCKETS: usize = 1056;
/// What a thousand multiplications of survival may lose to rounding.
const ROUNDING: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Instant = Instant::from_millis(1_000_000);
    const WINDOW: Duration = Duration::from_secs(30);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_older_than_the_window_is_gone() {
        let mut seen = Quantile::new(WINDOW);
        seen.record(NOW, ms(100));
        assert_eq!(seen.count(NOW.plus(WINDOW)), 1, "at the end of the window it still counts");
        assert_eq!(seen.count(NOW.plus(WINDOW + WINDOW / 4)), 0);
        assert_eq!(seen.quantile(NOW.plus(WINDOW * 2), 0.5), None);
    }

    #[test]
    fn reading_changes_nothing() {
        let mut seen = Quantile::new(WINDOW);
        seen.record(NOW, ms(100));
        assert_eq!(seen.count(Instant::FAR), 0);
        assert_eq!(seen.count(NOW), 1);
    }

    #[test]
    fn too_many_given_up_leave_only_a_bound() {
        let mut seen = Quantile::new(WINDOW);
        (0..95).for_each(|_| seen.record(NOW, ms(10)));
        (0..5).for_each(|_| seen.record_above(NOW, ms(50)));
        let p90 = seen.quantile(NOW, 0.90).unwrap();
        assert!(!p90.above && p90.value < ms(11));
        let p99 = seen.quantile(NOW, 0.99).unwrap();
        assert!(p99.above && p99.value >= ms(49) && p99.value <= ms(51), "{p99:?}");
    }

    /// The example of remission times in Kaplan and Meier's manner: 6-MP group of Freireich et al. (1963), whose median is 23.
    #[test]
    fn it_is_the_estimate_of_kaplan_and_meier() {
        let mut seen = Quantile::new(WINDOW);
        for weeks in [6, 6, 6, 7, 10, 13, 16, 22, 23] {
            seen.record(NOW, ms(weeks * 100));
        }
        for weeks in [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35] {
            seen.record_above(NOW, ms(weeks * 100));
        }
        let median = seen.quantile(NOW, 0.5).unwrap();
        assert!(!median.above && (2_260..=2_340).contains(&median.value.as_millis()), "{median:?}");
    }

    #[test]
    fn clocks_that_jump_do_no_harm() {
        let mut seen = Quantile::new(WINDOW);
        seen.record(Instant::FAR, ms(5));
        seen.record(Instant::ZERO, ms(10));
        assert_eq!(seen.count(Instant::ZERO), 1, "what a clock a year ahead recorded is gone");
        seen.record(NOW, ms(10));
        seen.record(Instant::from_millis(999_999), ms(10));
        assert_eq!(seen.count(NOW), 2, "news that is a little late counts");
    }

    #[test]
    fn the_shortest_and_the_longest_have_a_bucket() {
        for value in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let mut seen = Quantile::new(WINDOW);
            seen.record(NOW, value);
            assert!(seen.quantile(NOW, 0.5).is_some());
        }
    }

    proptest! {
        #[test]
        fn within_two_percent_of_the_sorted(
            mut values in proptest::collection::vec(1_000u64..4_000_000_000_000, 1..500), q in 0.01f64..0.999,
        ) {
            let mut seen = Quantile::new(WINDOW);
            values.iter().for_each(|v| seen.record(NOW, Duration::from_nanos(*v)));
            values.sort_unstable();
            let rank = ((q * values.len() as f64 - 1e-6).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1] as f64;
            let estimate = seen.quantile(NOW, q).unwrap();
            prop_assert!(!estimate.above);
            let error = (estimate.value.as_nanos() as f64 - exact).abs() / exact;
            prop_assert!(error <= 0.02, "{error} at {exact}");
        }

        #[test]
        fn every_bucket_s_middle_lies_in_it(value in 0u64..(1 << 42)) {
            let n = bucket(Duration::from_nanos(value));
            prop_assert_eq!(bucket(middle(n)), n);
        }
    }
}
