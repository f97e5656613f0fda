//! Hedge: when an answer is late, ask another endpoint too and take the faster.
//!
//! # What it is for
//! The tail: a few calls that are slow because of *where* they went. Waiting for the 95th percentile before the second
//! attempt costs at most some 5% more requests and takes most of the tail away (Dean and Barroso, "The Tail at Scale",
//! CACM 2013: p99.9 from 1,800 to 74 ms for 2% more requests).
//!
//! # When not to use it
//! When slowness is everywhere: then a hedge only adds load. The budget stops it, and the learned delay moves up within a
//! window. And for requests that must not run twice, where it is never done.
//!
//! # How
//! The delay is a percentile of the latencies seen of late, never below `floor`. The hedge goes to another endpoint,
//! takes a token of its own budget, and the loser is cancelled. Off by default: it sends requests twice, which its
//! user should have wished for.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use super::budget;
use crate::{Fault, Mode, Rules};

/// The numbers of hedging.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// Off unless asked for: a hedge is a request sent twice.
    pub mode: Mode,
    /// The share of calls that answer without a hedge, 0.5 to 0.9999. At 0.95 at most about 5% more requests.
    pub quantile: f64,
    /// The shortest delay: below it a hedge is only noise. 2 ms, some ten times a round trip within a zone.
    pub floor: Duration,
    /// The most hedges of one call, 1 to 3. One: the second of two independent tails is already rare.
    pub most: u8,
    /// What hedges may add to the traffic, apart from retries.
    pub budget: budget::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            quantile: 0.95,
            floor: Duration::from_millis(2),
            most: 1,
            budget: budget::Config { share: 0.05, per_second: 1.0, burst: 10 },
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = self.budget.faults();
        if self.mode != Mode::Off && self.budget.share == 0.0 && self.budget.per_second == 0.0 {
            faults.push(Fault {
                field: "budget.share",
                problem: "is 0 like per_second, while hedging is on".into(),
                remedy: "raise one of them, or set mode to \"off\"".into(),
            });
        }
        if !(0.5..=0.9999).contains(&self.quantile) {
            faults.push(Fault {
                field: "quantile",
                problem: format!("is {}", self.quantile),
                remedy: "write a share of the calls between 0.5 and 0.9999, such as 0.95".into(),
            });
        }
        if !(1..=3).contains(&self.most) {
            faults.push(Fault {
                field: "most",
                problem: format!("is {}", self.most),
                remedy: "a call can have 1 to 3 hedges; to have none, set mode to \"off\"".into(),
            });
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedging_without_a_budget_is_a_fault_only_if_it_is_on() {
        let budget = budget::Config { share: 0.0, per_second: 0.0, burst: 10 };
        for (mode, expected) in [(Mode::Enforce, &["budget.share"][..]), (Mode::Off, &[])] {
            let faults = Config { mode, budget, ..Config::default() }.faults();
            assert_eq!(faults.iter().map(|f| f.field).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn faults_of_the_budget_are_told_too() {
        let bad = Config {
            quantile: 1.0,
            most: 0,
            budget: budget::Config { burst: 0, ..budget::Config::default() },
            ..Config::default()
        };
        assert_eq!(bad.faults().iter().map(|f| f.field).collect::<Vec<_>>(), ["burst", "quantile", "most"]);
    }
}
