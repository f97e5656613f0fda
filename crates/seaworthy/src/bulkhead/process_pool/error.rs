//! How a call to a pool of processes can fail.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use seaworthy_core::Rejection;

/// Why there is no answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The call was not begun: no place, and no room in the queue or no more time.
    Rejected(Rejection),
    /// The call was not begun: no worker was up within `max_wait`.
    NoWorker {
        /// What befell the last one, if one was lost.
        last: Option<Cause>,
        /// When the next one is started, where that is known.
        retry_after: Option<Duration>,
    },
    /// The call was not begun: the request is longer than the pool allows.
    TooLong {
        /// Its length in bytes.
        length: u64,
        /// The most that is allowed.
        most: u64,
    },
    /// The call was begun, and its worker was lost with it. How far it came, nobody knows.
    Lost {
        /// The worker's process id.
        pid: u32,
        /// What befell it.
        cause: Cause,
    },
    /// The call was not begun: the pool is shut down.
    ShutDown,
}

/// What speaks for another try.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Again {
    /// The work was not begun: whatever it does, it may be tried again.
    Safe,
    /// The work may have been done, in whole or in part: it may be tried again if it may be done twice.
    IfIdempotent,
    /// It would end the same way.
    Useless,
}

impl Error {
    /// Whether another try is safe, and whether it can help.
    #[must_use]
    pub const fn again(&self) -> Again {
        match self {
            Self::Rejected(_) | Self::NoWorker { .. } => Again::Safe,
            Self::TooLong { .. } | Self::ShutDown | Self::Lost { cause: Cause::TooLong { .. }, .. } => {
                Again::Useless
            }
            Self::Lost { .. } => Again::IfIdempotent,
        }
    }

    /// How long to wait before it is worth asking again, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(rejection) => rejection.retry_after,
            Self::NoWorker { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(_) => f.write_str("the process pool refused the call"),
            Self::NoWorker { .. } => f.write_str("no worker process was up in time"),
            Self::TooLong { length, most } => {
                write!(f, "the request has {length} bytes, and {most} are allowed")
            }
            Self::Lost { pid, .. } => write!(f, "the call was lost with its worker process {pid}"),
            Self::ShutDown => f.write_str("the process pool is shut down"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::NoWorker { last: Some(cause), .. } | Self::Lost { cause, .. } => Some(cause),
            Self::NoWorker { last: None, .. } | Self::TooLong { .. } | Self::ShutDown => None,
        }
    }
}

/// What befell a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The system could not start it.
    NotStarted(Arc<io::Error>),
    /// It did not greet in time, and was killed.
    StartedTooSlowly(Duration),
    /// A signal ended it: 6 is an abort, as when memory runs out; 9 a kill, also the kernel's when memory does.
    Signal(i32),
    /// It exited by itself.
    Exit(i32),
    /// It did not answer in time, and was killed.
    TimedOut(Duration),
    /// The work panicked, and said this.
    Panicked(String),
    /// It sent what the format does not allow, and was killed.
    Broken(&'static str),
    /// Its answer is longer than the pool allows; it was killed.
    TooLong {
        /// The answer's length in bytes.
        length: u64,
        /// The most that is allowed.
        most: u64,
    },
    /// It closed the pipe and lived on, until it was killed.
    HungUp,
    /// The pipe failed.
    Pipe(Arc<io::Error>),
    /// The pool was shut down or dropped, and killed it.
    Stopped,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(_) => f.write_str("it could not be started"),
            Self::StartedTooSlowly(limit) => write!(f, "it was not ready within {limit:?}"),
            Self::Signal(signal) => write!(f, "signal {signal} ended it"),
            Self::Exit(code) => write!(f, "it exited with {code}"),
            Self::TimedOut(limit) => write!(f, "it did not answer within {limit:?} and was killed"),
            Self::Panicked(message) => write!(f, "the work panicked: {message}"),
            Self::Broken(how) => write!(f, "it broke the format: {how}"),
            Self::TooLong { length, most } => {
                write!(f, "its answer has {length} bytes, and {most} are allowed")
            }
            Self::HungUp => f.write_str("it closed the pipe"),
            Self::Pipe(_) => f.write_str("the pipe failed"),
            Self::Stopped => f.write_str("the pool was shut down"),
        }
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NotStarted(error) | Self::Pipe(error) => Some(&**error),
            _ => None,
        }
    }
}
