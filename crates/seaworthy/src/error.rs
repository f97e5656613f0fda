//! How a call through the policies can fail.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use seaworthy_core::{Rejection, Why};

/// Why a call has no good answer: our refusal, a timeout, or the service's own error; with the record of what was
/// decided on the way.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error<E> {
    /// A policy refused.
    Rejected {
        /// Who refused, why, and when to come back.
        rejection: Rejection,
        /// What was decided before.
        why: Why,
    },
    /// No answer came in time.
    TimedOut {
        /// What was decided before.
        why: Why,
    },
    /// The service's own error.
    Service {
        /// The error of the last attempt.
        error: E,
        /// What was decided before.
        why: Why,
    },
}

impl<E> Error<E> {
    /// What was decided on the way.
    pub const fn why(&self) -> &Why {
        match self {
            Self::Rejected { why, .. } | Self::TimedOut { why } | Self::Service { why, .. } => why,
        }
    }

    /// How long to wait before it is worth calling again, where a policy can tell.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected { rejection, .. } => rejection.retry_after,
            _ => None,
        }
    }

    /// The rejection, if it was one.
    pub const fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected { rejection, .. } => Some(rejection),
            _ => None,
        }
    }

    /// The service's own error, if it was that.
    pub fn into_service(self) -> Option<E> {
        match self {
            Self::Service { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl<E> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected { .. } => f.write_str("the call was rejected"),
            Self::TimedOut { .. } => f.write_str("the call timed out"),
            Self::Service { .. } => f.write_str("the service failed"),
        }
    }
}

impl<E: StdError + 'static> StdError for Error<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Rejected { rejection, .. } => Some(rejection),
            Self::TimedOut { .. } => None,
            Self::Service { error, .. } => Some(error),
        }
    }
}
