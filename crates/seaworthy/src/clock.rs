//! The clock that the library's decisions are told.

use std::sync::OnceLock;
use std::time::Duration;

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
