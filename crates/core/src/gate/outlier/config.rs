//! The numbers of outlier detection, each with its reason.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::valid::fault;
use crate::{Fault, Mode, Rules};

/// The numbers of an [`Outlier`](super::Outlier).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// Whether what it finds is put out, only told, or not looked for.
    pub mode: Mode,
    /// The window. Ten seconds, as for the breaker.
    pub window: Duration,
    /// Fewer failures in the window are nobody's concern. Five, as many as open a breaker in a row.
    pub minimum_failures: u32,
    /// How far its failure rate must lie above the others'. 0.05: what costs its callers less is not worth an endpoint.
    pub error_excess: f64,
    /// How many times the others' latency is too slow; `None` to not compare latencies. Three: machines of one kind differ
    /// by less, and a cold cache by more only for a moment.
    pub slow_factor: Option<f64>,
    /// A difference below this is nobody's concern. 5 ms: three times half a millisecond is still fast.
    pub slow_floor: Duration,
    /// No latency counts below this many calls in the window. Twenty, as for the breaker's rates.
    pub minimum_calls: u32,
    /// The most endpoints that may be out at once, as a share of all: a further one is not put out if that brought the number
    /// above it, rounded down. One of two or more may always be out, and one always stays. A half: when most differ from the
    /// others, it is not clear who is the outlier.
    pub max_ejected: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            window: Duration::from_secs(10),
            minimum_failures: 5,
            error_excess: 0.05,
            slow_factor: Some(3.0),
            slow_floor: Duration::from_millis(5),
            minimum_calls: 20,
            max_ejected: 0.5,
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let factor = self.slow_factor.unwrap_or(2.0);
        [
            fault(self.window.is_zero(), "window", "is empty", "write a time such as \"10s\""),
            fault(
                self.window > LONGEST_WINDOW,
                "window",
                format!("is {:?}, longer than a day", self.window),
                "so long a memory notices nothing; write \"10s\" or so",
            ),
            fault(self.minimum_failures == 0, "minimum_failures", "is 0", "write 1 or more, such as 5"),
            fault(
                !(0.0..1.0).contains(&self.error_excess),
                "error_excess",
                format!("is {:?}", self.error_excess),
                "write a share of the calls from 0 up to 1, such as 0.05",
            ),
            fault(
                !(factor > 1.0 && factor <= 1000.0),
                "slow_factor",
                format!("is {factor:?}"),
                "write a factor above 1, such as 3, or \"off\"",
            ),
            fault(
                self.minimum_calls == 0,
                "minimum_calls",
                "is 0",
                "at least 1 call is needed for a latency; write 20 or so",
            ),
            fault(
                !(self.max_ejected > 0.0 && self.max_ejected <= 1.0),
                "max_ejected",
                format!("is {:?}", self.max_ejected),
                "write a share of the endpoints above 0 and up to 1, such as 0.5; to put out none, set mode to \"off\"",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A day: what is longer is a mistake.
const LONGEST_WINDOW: Duration = Duration::from_secs(86_400);
