//! How many of the last calls failed or were slow.
//!
//! # What it is for
//! A failure rate is only as good as the window that it is taken over. Counters that are reset now and then forget
//! everything at once; counters that are never reset need a failure for every success there ever was. Here the window
//! really slides, over calls or over time:
//!
//! * over the last N **calls**: exact. Two bits per call; the call that falls out is taken off the totals.
//! * over the last **time** T: 16 slices, so it covers between 15/16 of T and all of it. A slice that falls out is taken
//!   off the totals. Catching up after idle empties at most 16 slices, however long the idle was.
//!
//! Good news may come in batches ([`Window::fold`]), so that many workers can count successes on their own.
//!
//! # When not to use it
//! Over calls, where traffic comes and goes: a hundred calls may be a second or a night. Prefer time.
//!
//! ```
//! use core::time::Duration;
//! use seaworthy_core::{Instant, stats::window::{Sample, Window}};
//!
//! let mut window = Window::over_time(Duration::from_secs(10));
//! window.fold(Instant::ZERO, 98);
//! window.record(Instant::from_millis(5_000), Sample { failed: true, slow: false });
//! window.record(Instant::from_millis(5_000), Sample { failed: false, slow: true });
//!
//! let totals = window.totals(Instant::from_millis(5_000));
//! assert_eq!((totals.successes, totals.failures, totals.slow), (99, 1, 1));
//! assert_eq!(window.totals(Instant::from_millis(10_000)).calls(), 2);
//! ```

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

use super::slices::Slices;
use crate::Instant;

/// What there is to count about one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// It failed.
    pub failed: bool,
    /// It was slow, failed or not.
    pub slow: bool,
}

/// What a window holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Calls that succeeded, slow or not.
    pub successes: u64,
    /// Calls that failed, slow or not.
    pub failures: u64,
    /// Calls that were slow, failed or not.
    pub slow: u64,
}

impl Totals {
    /// All calls.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.successes + self.failures
    }

    /// The share of calls that failed, 0 to 1; 0 if there were none.
    #[must_use]
    pub fn failure_rate(&self) -> f64 {
        self.failures as f64 / self.calls().max(1) as f64
    }

    /// The share of calls that were slow, 0 to 1; 0 if there were none.
    #[must_use]
    pub fn slow_rate(&self) -> f64 {
        self.slow as f64 / self.calls().max(1) as f64
    }

    fn add(&mut self, other: &Self) {
        self.successes += other.successes;
        self.failures += other.failures;
        self.slow += other.slow;
    }

    fn take_off(&mut self, other: &Self) {
        self.successes -= other.successes;
        self.failures -= other.failures;
        self.slow -= other.slow;
    }
}

impl From<Sample> for Totals {
    fn from(sample: Sample) -> Self {
        Self {
            successes: u64::from(!sample.failed),
            failures: u64::from(sample.failed),
            slow: u64::from(sample.slow),
        }
    }
}

/// Counts over the last calls or the last while. See the [module](self).
#[derive(Clone, Debug)]
pub struct Window(Kind);

impl Window {
    /// Over the last `calls` calls (at least 1), at two bits each.
    #[must_use]
    pub fn over_calls(calls: u32) -> Self {
        let calls = calls.max(1);
        let words = calls.div_ceil(u64::BITS) as usize;
        Self(Kind::Calls(Calls {
            length: calls,
            next: 0,
            filled: 0,
            failed: vec![0; words].into_boxed_slice(),
            slow: vec![0; words].into_boxed_slice(),
            totals: Totals::default(),
        }))
    }

    /// Over the last `span` of time.
    #[must_use]
    pub fn over_time(span: Duration) -> Self {
        Self(Kind::Time(Time {
            clock: Slices::new(span, SLICES),
            slices: vec![Totals::default(); SLICES].into_boxed_slice(),
            totals: Totals::default(),
        }))
    }

    /// Counts one call that ended at `now`. O(1).
    pub fn record(&mut self, now: Instant, sample: Sample) {
        match &mut self.0 {
            Kind::Calls(calls) => calls.record(sample),
            Kind::Time(time) => time.add(now, &Totals::from(sample)),
        }
    }

    /// Counts `successes` calls, none of them slow, that ended up to `now`. O(1) over time; over calls one step for 64.
    pub fn fold(&mut self, now: Instant, successes: u32) {
        match &mut self.0 {
            Kind::Calls(calls) => calls.fold(successes),
            Kind::Time(time) => {
                time.add(now, &Totals { successes: u64::from(successes), ..Totals::default() });
            }
        }
    }

    /// What the window holds at `now`.
    #[must_use]
    pub fn totals(&self, now: Instant) -> Totals {
        match &self.0 {
            Kind::Calls(calls) => calls.totals,
            Kind::Time(time) if time.clock.is_current(now) => time.totals,
            Kind::Time(time) => {
                let mut totals = Totals::default();
                time.clock.live(now).for_each(|place| totals.add(&time.slices[place]));
                totals
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        match &mut self.0 {
            Kind::Calls(calls) => {
                calls.failed.fill(0);
                calls.slow.fill(0);
                (calls.next, calls.filled, calls.totals) = (0, 0, Totals::default());
            }
            Kind::Time(time) => {
                time.slices.fill(Totals::default());
                time.totals = Totals::default();
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Kind {
    Calls(Calls),
    Time(Time),
}

#[derive(Clone, Debug)]
struct Time {
    clock: Slices,
    slices: Box<[Totals]>,
    totals: Totals,
}

impl Time {
    fn add(&mut self, now: Instant, what: &Totals) {
        let Self { clock, slices, totals } = self;
        let place = clock.roll(now, |place| totals.take_off(&core::mem::take(&mut slices[place])));
        slices[place].add(what);
        totals.add(what);
    }
}

/// A ring of two bits per call.
#[derive(Clone, Debug)]
struct Calls {
    length: u32,
    next: u32,
    filled: u32,
    failed: Box<[u64]>,
    slow: Box<[u64]>,
    totals: Totals,
}

impl Calls {
    fn record(&mut self, sample: Sample) {
        let (word, bit) = ((self.next / u64::BITS) as usize, self.next % u64::BITS);
        self.replace(word, 1 << bit);
        self.failed[word] |= u64::from(sample.failed) << bit;
        self.slow[word] |= u64::from(sample.slow) << bit;
        self.totals.add(&Totals::from(sample));
        self.advance(1);
    }

    fn fold(&mut self, successes: u32) {
        let mut left = successes.min(self.length);
        while left > 0 {
            let (word, bit) = ((self.next / u64::BITS) as usize, self.next % u64::BITS);
            let count = left.min(u64::BITS - bit).min(self.length - self.next);
            self.replace(word, (u64::MAX >> (u64::BITS - count)) << bit);
            self.totals.successes += u64::from(count);
            self.advance(count);
            left -= count;
        }
    }

    /// Takes the calls in `mask` of `word` off the totals, as far as there are any yet.
    fn replace(&mut self, word: usize, mask: u64) {
        let calls = u64::from(mask.count_ones());
        let unused = u64::from(self.length - self.filled);
        let failures = u64::from((self.failed[word] & mask).count_ones());
        let slow = u64::from((self.slow[word] & mask).count_ones());
        self.totals.failures -= failures;
        self.totals.slow -= slow;
        // While the ring fills, the places written are unused ones; `unused` runs out exactly at the wrap.
        self.totals.successes -= calls.saturating_sub(unused).saturating_sub(failures);
        self.failed[word] &= !mask;
        self.slow[word] &= !mask;
    }

    fn advance(&mut self, count: u32) {
        self.next = (self.next + count) % self.length;
        self.filled = (self.filled + count).min(self.length);
    }
}

/// Sixteen forget in steps of 6%, finer than any rate's noise, at 24 bytes each.
const SLICES: usize = 16;

#[cfg(test)]
mod tests;
