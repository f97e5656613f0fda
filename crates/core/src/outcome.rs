//! How an attempt ended, as far as the policies care.

use core::fmt;
use core::time::Duration;

/// How one attempt ended.
///
/// The transport's own result (a response, an error) stays with the driver; a classifier turns it into this.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The upstream did what was asked, or refused it for a reason that is the caller's (most 4xx).
    Success,
    /// The attempt failed.
    Failure(Failure, Pushback),
    /// The upstream said that it has too much to do (429, 503 with Retry-After, `RESOURCE_EXHAUSTED`).
    Overloaded(Pushback),
    /// Neither good nor bad news; no policy learns from it.
    Ignored,
    /// The caller went away before there was an answer. Neutral, but it did take as long as it took.
    Abandoned,
}

impl Outcome {
    /// A failure without a word from the upstream about when to come back.
    #[must_use]
    pub const fn failed(failure: Failure) -> Self {
        Self::Failure(failure, Pushback::Unsaid)
    }

    /// Whether this is worth another attempt, if the call may be repeated.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Failure(..) | Self::Overloaded(_))
    }

    /// What the upstream said about coming back.
    #[must_use]
    pub const fn pushback(&self) -> Pushback {
        match self {
            Self::Failure(_, pushback) | Self::Overloaded(pushback) => *pushback,
            _ => Pushback::Unsaid,
        }
    }
}

/// What went wrong with an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Failure {
    /// No connection could be made, so nothing was sent: repeating is safe whatever the request.
    Connect,
    /// The upstream refused the request before processing it (HTTP/2 `REFUSED_STREAM`, GOAWAY): as safe as `Connect`.
    Unprocessed,
    /// No answer came within the attempt's timeout.
    Timeout,
    /// The connection broke, or what came over it was not the protocol.
    Broken,
    /// The upstream answered that it failed (5xx, gRPC `UNAVAILABLE` and its like).
    Error,
}

impl Failure {
    /// Whether the upstream certainly did nothing with the request.
    #[must_use]
    pub const fn is_unsent(self) -> bool {
        matches!(self, Self::Connect | Self::Unprocessed)
    }

    /// The failure's name in metrics, logs and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Unprocessed => "unprocessed",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "could not connect",
            Self::Unprocessed => "was refused before it was processed",
            Self::Timeout => "timed out",
            Self::Broken => "broke off",
            Self::Error => "was answered with an error",
        })
    }
}

/// What an upstream said about coming back (`Retry-After`, `grpc-retry-pushback-ms`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Pushback {
    /// Nothing.
    #[default]
    Unsaid,
    /// Not before this much time has passed.
    After(Duration),
    /// Not at all.
    Never,
}
