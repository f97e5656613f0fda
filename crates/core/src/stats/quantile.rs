//! Quantiles of latency over a sliding time window, with calls that were cut off taken for what they are.
//!
//! # What it is for
//! "How long do the slow ones take, of late?" is what an adaptive timeout and a hedge follow. Sorting the last N
//! samples answers it at the cost of N log N a question, over a window whose age changes with the traffic. Here
//! latencies are counted in buckets that grow with the value, one histogram per slice of the window: recording is one
//! increment, forgetting is emptying the oldest slice.
//!
//! # A call that was cut off is a sample
//! Of a call that timed out, lost to a hedge or was given up by its caller it is known that it needed *more* than its
//! age. Leaving such samples out makes slow times look fast. [`Quantile::record_above`] keeps them, and the quantile is
//! the product-limit estimate (Kaplan and Meier, "Nonparametric Estimation from Incomplete Observations", 1958):
//!
//! ```text
//! S(t) = product over buckets b <= t of (1 - ended(b) / at_risk(b))       quantile(q) = least t with S(t) <= 1 - q
//! ```
//!
//! where a sample that was cut off counts as at risk up to and including the bucket of its age. If `S` never falls
//! that far, the quantile lies above everything seen, and [`Estimate::above`] says so. Without such samples this is the
//! plain quantile (the least value with at least `q` of the samples at or below it).
//!
//! # Figures
//! * Between 1.024 us and 73 min a value is off by at most 1/64 (1.6%): each octave has 32 buckets of equal width and
//!   the middle of a bucket stands for it. What lies outside goes into the first or last bucket.
//! * 5 slices, so the window covers between 4/5 of its span and all of it.
//! * Two counts of 4 bytes in each of 1,024 buckets of each slice: 40 KiB, allocated once.
//! * Recording is O(1); a question reads only the range of buckets in use.
//!
//! # When not to use it
//! For a load balancer's "how fast is this endpoint now?", for which [`ewma`](super::ewma) costs 40 bytes.
//!
//! ```
//! use core::time::Duration;
//! use seaworthy_core::{Instant, stats::quantile::Quantile};
//!
//! let mut latency = Quantile::new(Duration::from_secs(30));
//! let now = Instant::from_millis(5_000);
//! for ms in 1..=98 {
//!     latency.record(now, Duration::from_millis(ms));
//! }
//! latency.record_above(now, Duration::from_millis(200));
//! latency.record_above(now, Duration::from_millis(200));
//!
//! let half = latency.quantile(now, 0.5).unwrap();
//! assert!(half.value.abs_diff(Duration::from_millis(50)) < Duration::from_millis(1) && !half.above);
//! let slow = latency.quantile(now, 0.99).unwrap();
//! assert!(slow.above && slow.value == Duration::from_millis(200));
//! ```

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

use super::slices::Slices;
use crate::{Instant, nanos};

/// What is known about a quantile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Estimate {
    /// The quantile; if `above`, the largest age at which a call was cut off.
    pub value: Duration,
    /// Whether the quantile is only known to lie above `value`.
    pub above: bool,
}

/// Latencies over a sliding time window. See the [module](self).
#[derive(Clone, Debug)]
pub struct Quantile {
    clock: Slices,
    slices: Box<[Slice]>,
}

impl Quantile {
    /// An empty one that looks back over `window`.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { clock: Slices::new(window, SLICES), slices: (0..SLICES).map(|_| Slice::new()).collect() }
    }

    /// A call that ended after `value`.
    pub fn record(&mut self, now: Instant, value: Duration) {
        let bucket = bucket(value);
        let slice = self.slice(now);
        slice.touch(bucket);
        slice.ended[bucket] = slice.ended[bucket].saturating_add(1);
        slice.samples += 1;
    }

    /// A call of which it is only known that it needs more than `age`.
    pub fn record_above(&mut self, now: Instant, age: Duration) {
        let bucket = bucket(age);
        let slice = self.slice(now);
        slice.touch(bucket);
        slice.cut_off[bucket] = slice.cut_off[bucket].saturating_add(1);
        slice.samples += 1;
        slice.longest_cut_off = slice.longest_cut_off.max(age);
    }

    /// The quantile `q` (0 to 1; anything beyond is taken as the nearer end) at `now`; `None` if the window is empty.
    #[must_use]
    pub fn quantile(&self, now: Instant, q: f64) -> Option<Estimate> {
        self.quantiles(now, [q]).map(|[estimate]| estimate)
    }

    /// Several quantiles for the price of one.
    #[must_use]
    pub fn quantiles<const N: usize>(&self, now: Instant, qs: [f64; N]) -> Option<[Estimate; N]> {
        let live =
            || self.clock.live(now).filter_map(|place| self.slices.get(place)).filter(|s| s.samples > 0);
        let first = live().map(|slice| slice.first).min()?;
        let last = live().map(|slice| slice.last).max()?;
        let longest_cut_off = live().map(|slice| slice.longest_cut_off).max()?;

        let mut found = [Estimate { value: longest_cut_off, above: true }; N];
        let mut missing = N;
        let mut at_risk: u64 = live().map(|slice| slice.samples).sum();
        let mut survival = 1.0;
        for bucket in first..=last {
            let ended: u64 = live().map(|slice| u64::from(slice.ended[bucket])).sum();
            let cut_off: u64 = live().map(|slice| u64::from(slice.cut_off[bucket])).sum();
            if ended > 0 {
                survival *= (at_risk - ended) as f64 / at_risk as f64;
                for (estimate, q) in found.iter_mut().zip(qs).filter(|(e, _)| e.above) {
                    if survival <= 1.0 - q.min(1.0) + ROUNDING {
                        *estimate = Estimate { value: middle(bucket), above: false };
                        missing -= 1;
                    }
                }
                if missing == 0 {
                    break;
                }
            }
            at_risk -= ended + cut_off;
        }
        Some(found)
    }

    /// How many samples of both kinds the window holds at `now`.
    #[must_use]
    pub fn count(&self, now: Instant) -> u64 {
        self.clock.live(now).filter_map(|place| self.slices.get(place)).map(|slice| slice.samples).sum()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.slices.iter_mut().for_each(Slice::clear);
    }

    fn slice(&mut self, now: Instant) -> &mut Slice {
        let slices = &mut self.slices;
        let place = self.clock.roll(now, |place| slices[place].clear());
        &mut self.slices[place]
    }
}

#[derive(Clone, Debug)]
struct Slice {
    ended: Box<[u32]>,
    cut_off: Box<[u32]>,
    samples: u64,
    longest_cut_off: Duration,
    /// The range of buckets in use; `first > last` if none is.
    first: usize,
    last: usize,
}

impl Slice {
    fn new() -> Self {
        Self {
            ended: vec![0; BUCKETS].into_boxed_slice(),
            cut_off: vec![0; BUCKETS].into_boxed_slice(),
            samples: 0,
            longest_cut_off: Duration::ZERO,
            first: BUCKETS,
            last: 0,
        }
    }

    fn touch(&mut self, bucket: usize) {
        self.first = self.first.min(bucket);
        self.last = self.last.max(bucket);
    }

    fn clear(&mut self) {
        if self.samples > 0 {
            self.ended[self.first..=self.last].fill(0);
            self.cut_off[self.first..=self.last].fill(0);
        }
        self.samples = 0;
        self.longest_cut_off = Duration::ZERO;
        self.first = BUCKETS;
        self.last = 0;
    }
}

/// The bucket of `value`: its octave, then the five bits that follow its leading one.
fn bucket(value: Duration) -> usize {
    let nanos = nanos(value).clamp(1 << LOWEST, (1 << HIGHEST) - 1);
    let octave = nanos.ilog2() - LOWEST;
    let within = (nanos >> (octave + LOWEST - PRECISION)) as usize & ((1 << PRECISION) - 1);
    ((octave as usize) << PRECISION) + within
}

/// The middle of a bucket: at most 1/64 away from anything in it.
fn middle(bucket: usize) -> Duration {
    let shift = (bucket >> PRECISION) as u32 + LOWEST - PRECISION;
    let low = ((1 << PRECISION) + (bucket as u64 & ((1 << PRECISION) - 1))) << shift;
    Duration::from_nanos(low + (1 << shift) / 2)
}

/// Five forget in steps of a fifth of the window, which no timeout notices, at 8 KiB each.
const SLICES: usize = 5;
/// 32 buckets an octave: the fewest, as a power of two, that keep the error under 2%.
const PRECISION: u32 = 5;
/// 2^10 ns, about a microsecond: nothing over a network is faster.
const LOWEST: u32 = 10;
/// 2^42 ns, 73 minutes: no call is meant to take longer.
const HIGHEST: u32 = 42;
const BUCKETS: usize = ((HIGHEST - LOWEST) as usize) << PRECISION;
/// What a product of a thousand factors may be off by: far below one sample in 2^32, far above f64's rounding.
const ROUNDING: f64 = 1e-11;

#[cfg(test)]
mod tests;
