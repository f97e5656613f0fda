//! The numbers of a limit, each with its reason.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::valid::fault;
use crate::{Fault, Mode, Rules};

/// The numbers of a [`Limit`](super::Limit).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Whether it refuses, only tells what it would refuse, or is not there.
    pub mode: Mode,
    /// Whether and how the limit moves. Fixed: a limit that moves needs somebody who knows that it does.
    pub algorithm: Algorithm,
    /// The most calls in flight; of a limit that moves, the most it may rise to. 1024, Envoy's default for one upstream: by
    /// Little's law that is 10,000 calls a second at 100 ms.
    pub max_in_flight: u32,
    /// The least that a limit which moves may fall to. Four: Envoy's adaptive concurrency measures with 3, and fewer than
    /// that tell nothing of what more would do.
    pub min_in_flight: u32,
    /// What a limit which moves begins with. Twenty, as in Netflix's concurrency-limits.
    pub initial: u32,
    /// AIMD gives way if calls typically take longer than this. A second: longer, and a user's thoughts wander (Nielsen,
    /// "Usability Engineering", 1993).
    pub slow_after: Duration,
    /// For how long Vegas and Gradient2 trust the least latency that they saw. Thirty seconds: three times what BBR allows a
    /// network path, because what a service does changes less often than a route.
    pub baseline_window: Duration,
}

/// How the limit finds out how many calls an upstream carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Algorithm {
    /// Not at all: it stays where it is put.
    #[default]
    Fixed,
    /// One more at a time while all goes well, a tenth less when the upstream refuses, times out or is slow. For upstreams
    /// that say when they have too much to do (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms", 1989).
    Aimd,
    /// By how far latency is above its own long average, within a tolerance. For upstreams whose latency varies.
    Gradient2,
    /// By how many calls must be waiting in the upstream if its latency is above its least (Brakmo, O'Malley and Peterson,
    /// "TCP Vegas", 1994). For upstreams whose latency is even.
    Vegas,
}

impl Algorithm {
    /// Its name in configuration and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Aimd => "aimd",
            Self::Gradient2 => "gradient2",
            Self::Vegas => "vegas",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            algorithm: Algorithm::Fixed,
            max_in_flight: 1024,
            min_in_flight: 4,
            initial: 20,
            slow_after: Duration::from_secs(1),
            baseline_window: Duration::from_secs(30),
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let moves = self.algorithm != Algorithm::Fixed;
        let measures = matches!(self.algorithm, Algorithm::Gradient2 | Algorithm::Vegas);
        let (least, most) = (self.min_in_flight, self.max_in_flight);
        [
            fault(
                most == 0,
                "max_in_flight",
                "is 0",
                "no call could ever start; write 1 or more, or set mode to \"off\"",
            ),
            fault(moves && least == 0, "min_in_flight", "is 0", "no call could ever start; write 1 or more"),
            fault(
                moves && most > 0 && least > most,
                "min_in_flight",
                format!("is {least}, above max_in_flight ({most})"),
                "lower it, or raise max_in_flight",
            ),
            fault(moves && self.initial == 0, "initial", "is 0", "write 1 or more, such as 20"),
            fault(
                self.algorithm == Algorithm::Aimd && self.slow_after.is_zero(),
                "slow_after",
                "is 0",
                "every call takes longer; write what is slow for this upstream, such as \"1s\"",
            ),
            fault(
                measures && self.baseline_window < LEAST_BASELINE,
                "baseline_window",
                format!("is {:?}", self.baseline_window),
                "the least latency would be forgotten before it is used; write 5s or more",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Of the probes, of which there are three in a window, each takes up to a second.
const LEAST_BASELINE: Duration = Duration::from_secs(5);
