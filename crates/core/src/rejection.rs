//! Our own refusals.

use core::fmt;
use core::time::Duration;

use crate::time::Readable;

/// A refusal by a policy: who refused, why, and when to come back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rejection {
    /// The policy that refused.
    pub policy: Policy,
    /// Its reason.
    pub reason: Reason,
    /// How long from now until it is worth asking again, where the policy can tell.
    pub retry_after: Option<Duration>,
}

impl Rejection {
    /// A refusal that can't tell when to come back.
    #[must_use]
    pub const fn new(policy: Policy, reason: Reason) -> Self {
        Self { policy, reason, retry_after: None }
    }

    /// The same refusal, with when to come back.
    #[must_use]
    pub const fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.policy.name(), self.reason)?;
        match self.retry_after {
            Some(wait) => write!(f, " (try again in {})", Readable(wait)),
            None => Ok(()),
        }
    }
}

impl core::error::Error for Rejection {}

/// The policies by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Policy {
    /// [`gate::breaker`](crate::gate::breaker)
    Breaker,
    /// [`gate::limit`](crate::gate::limit)
    Limit,
    /// [`gate::bulkhead`](crate::gate::bulkhead)
    Bulkhead,
    /// [`call::timeout`](crate::call::timeout)
    Timeout,
    /// [`call::retry`](crate::call::retry)
    Retry,
    /// [`call::hedge`](crate::call::hedge)
    Hedge,
    /// [`call::fallback`](crate::call::fallback)
    Fallback,
    /// The call's deadline.
    Deadline,
    /// The choice of an endpoint.
    Balancer,
    /// [`gate::queue`](crate::gate::queue)
    Queue,
    /// [`gate::rate`](crate::gate::rate)
    Rate,
    /// [`gate::throttle`](crate::gate::throttle)
    Throttle,
}

impl Policy {
    /// The policy's name in configuration, metrics, logs and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Breaker => "breaker",
            Self::Limit => "limit",
            Self::Bulkhead => "bulkhead",
            Self::Timeout => "timeout",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
            Self::Fallback => "fallback",
            Self::Deadline => "deadline",
            Self::Balancer => "balancer",
            Self::Queue => "queue",
            Self::Rate => "rate",
            Self::Throttle => "throttle",
        }
    }
}

/// Why a policy refused, or did not do what it might have done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The breaker is open.
    Open,
    /// The breaker is half-open and every probe it allows is out.
    Probing,
    /// The breaker is ramping up, and this call is not in the admitted share.
    Ramping,
    /// An operator forced the breaker open.
    Forced,
    /// As many calls are in flight as may be.
    Full,
    /// The waiting room is full as well.
    QueueFull,
    /// The wait was longer than allowed.
    WaitedTooLong,
    /// The deadline has passed.
    DeadlinePassed,
    /// What is left of the deadline is too short for this.
    DeadlineTooShort,
    /// The budget for extra attempts is spent.
    BudgetSpent,
    /// All attempts allowed were made.
    AttemptsSpent,
    /// Repeating this request might do its work twice.
    NotRepeatable,
    /// The request's body was too large to keep for another attempt.
    BodyTooLarge,
    /// The upstream asked not to be asked again.
    ToldNotTo,
    /// The outcome is not one that another attempt could mend.
    NotRetryable,
    /// Every endpoint was refused by its own policies.
    NoEndpoint,
    /// Another call, more critical or of a less greedy client, took its place in the queue.
    Shed,
    /// Its key has used up its rate.
    RateExceeded,
    /// The upstream refuses so much that a share of the calls is not sent at all.
    Throttled,
    /// What the policy shares with others could not be asked.
    StoreDown,
}

impl Reason {
    /// The reason's name in metrics, logs and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Probing => "probing",
            Self::Ramping => "ramping",
            Self::Forced => "forced",
            Self::Full => "full",
            Self::QueueFull => "queue_full",
            Self::WaitedTooLong => "waited_too_long",
            Self::DeadlinePassed => "deadline_passed",
            Self::DeadlineTooShort => "deadline_too_short",
            Self::BudgetSpent => "budget_spent",
            Self::AttemptsSpent => "attempts_spent",
            Self::NotRepeatable => "not_repeatable",
            Self::BodyTooLarge => "body_too_large",
            Self::ToldNotTo => "told_not_to",
            Self::NotRetryable => "not_retryable",
            Self::NoEndpoint => "no_endpoint",
            Self::Shed => "shed",
            Self::RateExceeded => "rate_exceeded",
            Self::Throttled => "throttled",
            Self::StoreDown => "store_down",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "it is open after too many failures",
            Self::Probing => "it is half-open and its probes are all out",
            Self::Ramping => "it is recovering and admits only a share",
            Self::Forced => "it was forced open",
            Self::Full => "as many calls are in flight as may be",
            Self::QueueFull => "the queue is full",
            Self::WaitedTooLong => "the wait in the queue was too long",
            Self::DeadlinePassed => "the deadline has passed",
            Self::DeadlineTooShort => "what is left of the deadline is too short",
            Self::BudgetSpent => "the budget for extra attempts is spent",
            Self::AttemptsSpent => "all attempts were made",
            Self::NotRepeatable => "the request is not safe to repeat",
            Self::BodyTooLarge => "the request's body was too large to keep",
            Self::ToldNotTo => "the upstream asked not to be asked again",
            Self::NotRetryable => "another attempt could not mend it",
            Self::NoEndpoint => "no endpoint would take it",
            Self::Shed => "another call took its place in the queue",
            Self::RateExceeded => "more calls came than the rate allows",
            Self::Throttled => "the upstream refuses so many calls that a share is not sent",
            Self::StoreDown => "the store that it shares with others can't be asked",
        })
    }
}
