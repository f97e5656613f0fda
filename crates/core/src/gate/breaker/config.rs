//! The numbers of a breaker, each with its reason.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::stats::window;
use crate::valid::fault;
use crate::{Fault, Mode, Rules};

/// The numbers of a [`Breaker`](super::Breaker).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// Whether it refuses, only tells what it would refuse, or is not there.
    pub mode: Mode,
    /// Open after this many failures in a row. Five, as in Envoy and Finagle: a dead endpoint is out after five requests, and
    /// at 1% errors five in a row happen once in ten thousand million calls. Failures are in a row if each began after the one
    /// before was known: what one hiccup cuts off together is one of them.
    pub consecutive_failures: Option<u32>,
    /// Open at this share of failures in the window. A half, as in Hystrix and resilience4j.
    pub failure_rate: Option<f64>,
    /// A call that takes this long counts as slow; by default none does.
    pub slow_after: Option<Duration>,
    /// Open at this share of slow calls in the window. All of them, as in resilience4j.
    pub slow_rate: f64,
    /// The window for both rates. Ten seconds, as in Hystrix.
    pub window: Window,
    /// No rate counts below this many calls in the window. Twenty, as in Hystrix: below it a rate is an anecdote.
    pub minimum_calls: u32,
    /// A call that has run this long counts as a failure although it has not ended; `None` waits for ever. Ten seconds,
    /// longer than a caller waits.
    pub hung_after: Option<Duration>,
    /// The first wait. Five seconds, as in Hystrix and Polly.
    pub open_for: Duration,
    /// How much longer each further wait is, until it has stayed closed for as long as the last one.
    pub open_growth: f64,
    /// The longest wait. A minute: longer than that, a repaired endpoint would be missed.
    pub open_at_most: Duration,
    /// The share of the wait that is drawn by lot. Half of it spreads the probes of many clients (equal jitter, as in Finagle).
    pub jitter: f64,
    /// The most probes in flight at once. One: what is down needs no more to be found out.
    pub probes: u32,
    /// How many probes must succeed in a row. Three: one may have been luck.
    pub successes_to_close: u32,
    /// How long the admitted share takes from 10% to all after the probes succeeded; zero for no ramp. Ten seconds: caches
    /// and pools that are cold again get the time to warm.
    pub ramp: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            consecutive_failures: Some(5),
            failure_rate: Some(0.5),
            slow_after: None,
            slow_rate: 1.0,
            window: Window::Time(Duration::from_secs(10)),
            minimum_calls: 20,
            hung_after: Some(Duration::from_secs(10)),
            open_for: Duration::from_secs(5),
            open_growth: 2.0,
            open_at_most: Duration::from_secs(60),
            jitter: 0.5,
            probes: 1,
            successes_to_close: 3,
            ramp: Duration::from_secs(10),
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        self.threshold_faults().chain(self.recovery_faults()).collect()
    }
}

impl Config {
    fn threshold_faults(&self) -> impl Iterator<Item = Fault> {
        let rate = self.failure_rate.unwrap_or(1.0);
        let (empty, longest) = match self.window {
            Window::Time(span) => (span.is_zero(), u32::MAX),
            Window::Count(calls) => (calls == 0, calls),
        };
        let blind =
            [self.consecutive_failures.is_some(), self.failure_rate.is_some(), self.slow_after.is_some()];
        [
            fault(
                self.consecutive_failures == Some(0),
                "consecutive_failures",
                "is 0",
                "write 1 or more, or \"off\" to not count them",
            ),
            fault(
                self.mode != Mode::Off && blind == [false; 3],
                "consecutive_failures",
                "is off, as are failure_rate and slow_after, so nothing could open it",
                "set one of them, or mode to \"off\"",
            ),
            fault(
                !is_share(rate),
                "failure_rate",
                format!("is {rate:?}"),
                "a share of the calls lies above 0 and up to 1, such as 0.5",
            ),
            fault(
                !is_share(self.slow_rate),
                "slow_rate",
                format!("is {:?}", self.slow_rate),
                "a share of the calls lies above 0 and up to 1, such as 1.0",
            ),
            fault(
                empty,
                "window",
                "is empty",
                "write a time such as \"10s\", or a number of calls such as 100",
            ),
            fault(
                longest > MOST_CALLS && matches!(self.window, Window::Count(_)),
                "window",
                format!("is {longest} calls, more than {MOST_CALLS}"),
                "so long a memory notices nothing; write a time such as \"10s\"",
            ),
            fault(self.minimum_calls == 0, "minimum_calls", "is 0", "at least 1 call is needed for a rate"),
            fault(
                !empty && self.minimum_calls > longest,
                "minimum_calls",
                format!("is {}, more than the window of {longest} calls holds", self.minimum_calls),
                "no rate could ever count; write at most the window's length",
            ),
        ]
        .into_iter()
        .flatten()
    }

    fn recovery_faults(&self) -> impl Iterator<Item = Fault> {
        let at_once = Some(Duration::ZERO);
        [
            fault(
                self.hung_after == at_once,
                "hung_after",
                "is 0",
                "every call would count as hung; write \"10s\" or so",
            ),
            fault(
                self.slow_after == at_once,
                "slow_after",
                "is 0",
                "every call would count as slow; write \"1s\" or so",
            ),
            fault(
                self.open_for.is_zero(),
                "open_for",
                "is 0",
                "it would never be open; to switch it off, set mode to \"off\"",
            ),
            fault(
                !(1.0..=10.0).contains(&self.open_growth),
                "open_growth",
                format!("is {:?}", self.open_growth),
                "write a factor from 1 to 10, such as 2",
            ),
            fault(
                self.open_at_most < self.open_for,
                "open_at_most",
                format!("is {:?}, below open_for ({:?})", self.open_at_most, self.open_for),
                "the longest wait is at least the first",
            ),
            fault(
                self.open_at_most > LONGEST_WAIT,
                "open_at_most",
                format!("is {:?}, longer than a day", self.open_at_most),
                "to keep it open for good, force it; write \"60s\" or so",
            ),
            fault(
                !(0.0..=1.0).contains(&self.jitter),
                "jitter",
                format!("is {:?}", self.jitter),
                "write a share of the wait from 0 to 1, such as 0.5",
            ),
            fault(
                self.probes == 0,
                "probes",
                "is 0",
                "without a probe it would stay open for ever; write 1 or more",
            ),
            fault(self.successes_to_close == 0, "successes_to_close", "is 0", "write 1 or more"),
        ]
        .into_iter()
        .flatten()
    }
}

fn is_share(rate: f64) -> bool {
    rate > 0.0 && rate <= 1.0
}

/// The length of a breaker's window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Window {
    /// The calls of the last this much time.
    Time(Duration),
    /// The last this many calls.
    Count(u32),
}

impl Window {
    pub(super) fn sliding(self) -> window::Window {
        match self {
            Self::Time(span) => window::Window::over_time(span),
            Self::Count(calls) => window::Window::over_calls(calls),
        }
    }
}

/// The longest window over calls, 250 kB: at a thousand calls a second it is a quarter of an hour.
const MOST_CALLS: u32 = 1_000_000;
/// The longest wait: a day. Also keeps the growth of waits far from overflowing.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);
