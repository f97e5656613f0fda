//! Time as an argument.

use core::fmt;
use core::time::Duration;

/// A moment on the caller's monotonic clock, in nanoseconds since an origin of the caller's choice.
///
/// All arithmetic saturates: a clock that jumps back yields a zero duration and one that runs a century ahead
/// yields the last moment there is (some 584 years), so no clock can make a policy panic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the clock.
    pub const ZERO: Self = Self(0);
    /// A moment that never comes.
    pub const FAR: Self = Self(u64::MAX);

    /// The moment `nanos` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The moment `millis` milliseconds after the origin.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// [`since`](Self::since) in nanoseconds.
    #[must_use]
    pub const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment moved later by `by`.
    #[must_use]
    pub const fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }

    /// This moment moved earlier by `by`; not before the beginning.
    #[must_use]
    pub const fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(by)))
    }

    /// This moment moved later by `by` nanoseconds.
    #[must_use]
    pub const fn plus_nanos(self, by: u64) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

/// `duration` in nanoseconds, at most `u64::MAX`.
#[must_use]
pub const fn nanos(duration: Duration) -> u64 {
    // Not by way of `as_nanos`, whose 128 bits cost more than all the rest of reading a clock.
    match duration.as_secs().checked_mul(1_000_000_000) {
        Some(whole) => whole.saturating_add(duration.subsec_nanos() as u64),
        None => u64::MAX,
    }
}

/// A duration for people: to three digits, but no finer than a microsecond and no coarser than a second; in milliseconds below
/// a second. Nothing but ASCII, as it stands in headers.
pub(crate) struct Readable(pub(crate) Duration);

impl fmt::Display for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = nanos(self.0);
        let mut step = MICRO;
        while step < SECOND && nanos / step >= 1000 {
            step *= 10;
        }
        let rounded = nanos.saturating_add(step / 2) / step * step;
        let (unit, name, mut digits) = if rounded < SECOND { (MILLI, "ms", 6) } else { (SECOND, "s", 9) };
        write!(f, "{}", rounded / unit)?;
        let mut fraction = rounded % unit;
        if fraction > 0 {
            while fraction.is_multiple_of(10) {
                (fraction, digits) = (fraction / 10, digits - 1);
            }
            write!(f, ".{fraction:0digits$}")?;
        }
        f.write_str(name)
    }
}

/// In nanoseconds.
const MICRO: u64 = 1_000;
/// In nanoseconds.
const MILLI: u64 = 1_000_000;
/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_runs_backwards_yields_zero() {
        let (early, late) = (Instant::from_millis(1), Instant::from_millis(2));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.since(early), Duration::from_millis(1));
    }

    #[test]
    fn the_end_of_time_holds() {
        assert_eq!(Instant::FAR.plus(Duration::MAX), Instant::FAR);
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }
    #[test]
    fn people_read_three_digits() {
        use alloc::string::ToString;
        for (nanos, text) in [
            (0, "0ms"),
            (499, "0ms"),
            (500, "0.001ms"),
            (123_456, "0.123ms"),
            (999_999, "1ms"),
            (16_349_000, "16.3ms"),
            (25_000_000, "25ms"),
            (126_560_694, "127ms"),
            (999_499_999, "999ms"),
            (999_500_000, "1s"),
            (1_005_000_000, "1.01s"),
            (59_960_000_000, "60s"),
            (1_234_567_000_000, "1235s"),
            (u64::MAX, "18446744073s"),
        ] {
            assert_eq!(Readable(Duration::from_nanos(nanos)).to_string(), text, "{nanos} ns");
        }
    }
}
