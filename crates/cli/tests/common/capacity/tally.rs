//! What became of calls, in numbers.

use std::time::Duration;

use super::load::{Call, End};

/// The calls that were due in a span of time.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    calls: Vec<Call>,
    seconds: f64,
}

impl Tally {
    /// Of the calls that were due from `from` until `until`.
    pub(crate) fn between(calls: &[Call], from: Duration, until: Duration) -> Self {
        let within = |call: &&Call| (from..until).contains(&call.due);
        let calls = calls.iter().filter(within).copied().collect();
        Self { calls, seconds: until.saturating_sub(from).as_secs_f64() }
    }

    /// Those of one class among them.
    pub(crate) fn of_class(&self, class: usize) -> Self {
        let calls = self.calls.iter().filter(|call| call.class == class).copied().collect();
        Self { calls, seconds: self.seconds }
    }

    pub(crate) fn offered(&self) -> usize {
        self.calls.len()
    }

    /// Calls that were due in a second.
    pub(crate) fn offered_per_second(&self) -> f64 {
        self.calls.len() as f64 / self.seconds
    }

    /// Good answers a second.
    pub(crate) fn goodput(&self) -> f64 {
        self.count(|end| end == End::Good) as f64 / self.seconds
    }

    pub(crate) fn good(&self) -> usize {
        self.count(|end| end == End::Good)
    }

    pub(crate) fn refused(&self) -> usize {
        self.count(|end| end == End::Refused)
    }

    /// Those that were answered neither well nor with a refusal.
    pub(crate) fn failed(&self) -> usize {
        self.count(|end| matches!(end, End::Other(_) | End::Broken | End::GaveUp))
    }

    pub(crate) fn gave_up(&self) -> usize {
        self.count(|end| end == End::GaveUp)
    }

    /// The share that ended so; none of none.
    pub(crate) fn share(&self, count: usize) -> f64 {
        if self.calls.is_empty() { 0.0 } else { count as f64 / self.calls.len() as f64 }
    }

    /// The share `q` of the good answers took no longer than this.
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        self.of_those(|end| end == End::Good, q)
    }

    /// The share `q` of the refusals took no longer than this.
    pub(crate) fn refusal_quantile(&self, q: f64) -> Option<Duration> {
        self.of_those(|end| end == End::Refused, q)
    }

    /// The latest that a call was sent: how long the machine stood still.
    pub(crate) fn stood_still(&self) -> Duration {
        self.calls.iter().map(|call| call.late).max().unwrap_or_default()
    }

    fn count(&self, which: impl Fn(End) -> bool) -> usize {
        self.calls.iter().filter(|call| which(call.end)).count()
    }

    fn of_those(&self, which: impl Fn(End) -> bool, q: f64) -> Option<Duration> {
        let mut took: Vec<_> = self.calls.iter().filter(|c| which(c.end)).map(|call| call.took).collect();
        took.sort_unstable();
        took.get((took.len().saturating_sub(1) as f64 * q) as usize).copied()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |q| self.quantile(q).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
        write!(
            f,
            "{:.0}/s offered, {:.0}/s good (p50 {:.0} ms, p99 {:.0} ms), {:.1}% refused, {:.1}% gave up, {:.1}% otherwise failed, \
             machine late by {:.0} ms",
            self.offered_per_second(),
            self.goodput(),
            ms(0.5),
            ms(0.99),
            100.0 * self.share(self.refused()),
            100.0 * self.share(self.gave_up()),
            100.0 * self.share(self.failed() - self.gave_up()),
            self.stood_still().as_secs_f64() * 1e3,
        )
    }
}
