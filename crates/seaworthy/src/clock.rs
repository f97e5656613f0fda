//! The clock that the library's decisions are told, and the one on the wall, which people and other programs are told.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use seaworthy_core::Instant;
use tokio::time::Instant as TokioInstant;

/// The present moment on tokio's clock, which is the monotonic clock unless a test has paused it.
///
/// One read costs some 25 ns, so a call reads it once a poll and shares it between all its policies.
#[must_use]
pub fn now() -> Instant {
    // The origin first: the first moment of all is not before it.
    let origin = origin();
    since(TokioInstant::now(), origin)
}

/// A moment of tokio's clock as the core counts it.
#[must_use]
pub fn to_core(moment: TokioInstant) -> Instant {
    since(moment, origin())
}

fn since(moment: TokioInstant, origin: TokioInstant) -> Instant {
    let start = Instant::ZERO.plus(HEAD_START);
    match moment.checked_duration_since(origin) {
        Some(after) => start.plus(after),
        // A paused clock may have stopped before the origin was taken.
        None => Instant::from_nanos(start.nanos_since(Instant::ZERO.plus(origin.duration_since(moment)))),
    }
}

/// A moment of the core on tokio's clock; a moment beyond all clocks is a far one.
pub(crate) fn to_tokio(moment: Instant) -> TokioInstant {
    let after = moment.since(Instant::ZERO.plus(HEAD_START)).min(FAR);
    origin() + after
}

/// The time since 1970 by the clock on the wall, for what people read, what is stored and what others date. It jumps, so no policy
/// decides by it.
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
#[must_use]
pub fn wall() -> Duration {
    // Before 1970 it is wrong anyway.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A time since 1970 as RFC 3339 writes it, to the millisecond. The date by Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms", `civil_from_days`.
#[must_use]
pub fn rfc3339(since_1970: Duration) -> String {
    let (seconds, ms) = (since_1970.as_secs(), since_1970.subsec_millis());
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

fn origin() -> TokioInstant {
    static ORIGIN: OnceLock<TokioInstant> = OnceLock::new();
    *ORIGIN.get_or_init(TokioInstant::now)
}

/// How far from zero the first moment lies, so that clocks which were paused earlier still fit before it.
const HEAD_START: Duration = Duration::from_secs(86_400);
/// Thirty years, as far as tokio's own timers look.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        assert_eq!(rfc3339(Duration::ZERO), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Duration::from_millis(951_782_400_123)), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(Duration::from_secs(4_102_444_799)), "2099-12-31T23:59:59.000Z");
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_paused_clock() {
        let before = now();
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(now().since(before), Duration::from_secs(3_600));
    }

    #[test]
    fn a_moment_goes_there_and_back() {
        let moment = now();
        assert_eq!(to_core(to_tokio(moment)), moment);
        assert!(to_tokio(Instant::FAR) > TokioInstant::now());
    }
}
