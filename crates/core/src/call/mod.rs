//! Calls: "what next?" for one call, through deadline, timeout, retry, hedge and fallback.
//!
//! ```text
//!             start                 head / ended / timer / refused
//!               |                                |
//!               v                                v
//!  deposit -> [send first] -> in flight -> success? ----------------------> answer, cancel the others
//!               ^               |  ^           | no
//!               |    hedge due, |  |           v
//!               |    token left v  |      others in flight? -- yes --> wait for them
//!               |          [send hedge]        | no
//!               |                              v
//!               +---- wait (backoff) <--- repeatable, attempts, time and budget left?
//!                                              | no
//!                                              v
//!                                 fallback, or the failure as it is
//! ```
//!
//! [`Call`] is the machine of one call, [`Shared`] is what it needs of its neighbours, and [`Commons`] is the plain,
//! sequential form of that. The questions of composition have their answers here, once:
//!
//! * A hedge and a retry are both *extra attempts*, each with a budget of its own, debited when decided (a retry that
//!   is still backing off already counts) and given back if a gate refuses it.
//! * While an attempt is still in flight, another one's failure is not retried; a spent budget never fails a call whose
//!   other attempt may yet win.
//! * The deadline clips every attempt's timeout, and no attempt is sent that it can't fit: with the typical latency
//!   known, a retry that would start with less than that left is not made.
//! * A refusal by our own gate ends the call unless another attempt is in flight; it is never retried.

pub mod budget;
mod commons;
pub mod fallback;
pub mod hedge;
mod machine;
pub mod retry;
pub mod timeout;

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

pub use commons::{Commons, Extra, Learned, Sample, Shared, Snapshot};
pub use machine::{Action, Call, CancelWhy, Event, Finish, Kind, Plan, Start};

use crate::{Fault, Mode, Rules};

/// Whether a request may be sent more than once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Repeat {
    /// It changes nothing, or the same thing however often it arrives (RFC 9110, section 9.2.2).
    Safe,
    /// It carries a key by which the upstream recognises it.
    Keyed,
    /// Only if the upstream certainly did nothing with it.
    #[default]
    Never,
}

/// The numbers of a call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// The longest time for the whole call, all attempts and waits included, where the caller brings no shorter one.
    /// 30 s, the total timeout of Microsoft's standard handler; `None` leaves it to the caller.
    pub deadline: Option<Duration>,
    /// The timeout of one attempt.
    pub timeout: timeout::Config,
    /// Further attempts after failures.
    pub retry: retry::Config,
    /// What retries may add to the traffic.
    pub budget: budget::Config,
    /// Further attempts beside slow ones.
    pub hedge: hedge::Config,
    /// Whether the driver holds a fallback.
    pub fallback: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            deadline: Some(Duration::from_secs(30)),
            timeout: timeout::Config::default(),
            retry: retry::Config::default(),
            budget: budget::Config::default(),
            hedge: hedge::Config::default(),
            fallback: false,
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = self.timeout.faults();
        faults.extend(self.retry.faults());
        faults.extend(self.budget.faults());
        faults.extend(self.hedge.faults());
        if self.deadline == Some(Duration::ZERO) {
            faults.push(Fault {
                field: "deadline",
                problem: "is 0".into(),
                remedy: "write how long a call may take in all, such as \"30s\"".into(),
            });
        }
        if let (Some(deadline), Some(fixed)) = (self.deadline, self.timeout.fixed)
            && fixed > deadline
        {
            faults.push(Fault {
                field: "fixed",
                problem: format!("is {fixed:?}, longer than the deadline ({deadline:?})"),
                remedy: "an attempt can't outlast its call; shorten it or lengthen the deadline".into(),
            });
        }
        if self.retry.mode == Mode::Enforce
            && self.retry.attempts > 1
            && self.budget.share == 0.0
            && self.budget.per_second == 0.0
        {
            faults.push(Fault {
                field: "share",
                problem: "is 0 like per_second, while retries are on".into(),
                remedy: "raise one of them, or set attempts to 1".into(),
            });
        }
        faults
    }
}
