//! The record of what was decided about one call.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::time::Readable;
use crate::{Failure, Reason, Rejection};

/// What was decided about one call, in order: the same record in errors, logs, traces and response headers.
///
/// A call that simply succeeds leaves it empty, so the good path allocates nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Why {
    notes: Vec<Note>,
    dropped: u32,
}

/// One decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// How long after the call's start.
    pub after: Duration,
    /// The attempt it is about, counted from 1; 0 if it is about the whole call.
    pub attempt: u8,
    /// The decision.
    pub what: What,
}

/// What a [`Note`] can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum What {
    /// The attempt failed.
    Failed(Failure),
    /// The upstream said it was overloaded.
    Overloaded,
    /// The attempt got no answer within its timeout.
    TimedOut {
        /// The timeout it was given.
        timeout: Duration,
    },
    /// The attempt would have been cut off, had its timeout not been in observe-only mode.
    WouldTimeOut {
        /// The timeout it was given.
        timeout: Duration,
    },
    /// A policy refused.
    Rejected(Rejection),
    /// A policy in observe-only mode would have refused.
    WouldReject(Rejection),
    /// Another attempt follows.
    Retrying {
        /// After this wait.
        delay: Duration,
    },
    /// Another attempt would follow, were retries not in observe-only mode.
    WouldRetry {
        /// After this wait.
        delay: Duration,
    },
    /// There is no further attempt.
    NotRetried(Reason),
    /// The attempt is a hedge: the one before it is slow.
    Hedged,
    /// A hedge would be sent, were hedges not in observe-only mode.
    WouldHedge,
    /// There is no hedge.
    NotHedged(Reason),
    /// A faster attempt won.
    LostTheRace,
    /// The call's deadline passed.
    DeadlinePassed,
    /// The caller went away.
    CallerGone,
    /// The fallback answers.
    FellBack,
    /// The kept result of an earlier call with the same idempotency key answers.
    Replayed,
}

impl Why {
    /// The most notes that are kept: three attempts with a hedge each leave about a dozen.
    pub const MOST: usize = 32;

    /// An empty record.
    #[must_use]
    pub const fn new() -> Self {
        Self { notes: Vec::new(), dropped: 0 }
    }

    /// Adds a note; past [`MOST`](Self::MOST) it is only counted.
    pub fn note(&mut self, after: Duration, attempt: u8, what: What) {
        if self.notes.len() < Self::MOST {
            self.notes.push(Note { after, attempt, what });
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Adds what was decided later.
    pub fn extend(&mut self, later: Self) {
        if self.notes.is_empty() && self.dropped == 0 {
            *self = later;
            return;
        }
        for note in later.notes {
            self.note(note.after, note.attempt, note.what);
        }
        self.dropped = self.dropped.saturating_add(later.dropped);
    }

    /// The notes, oldest first.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// How many notes did not fit.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.dropped
    }

    /// Whether nothing worth a note was decided.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, note) in self.notes.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{note}")?;
        }
        match self.dropped {
            0 => Ok(()),
            n => write!(f, "; and {n} more"),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{} ", Readable(self.after))?;
        if self.attempt > 0 {
            write!(f, "attempt {} ", self.attempt)?;
        }
        write!(f, "{}", self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => write!(f, "{failure}"),
            Self::Overloaded => f.write_str("found the upstream overloaded"),
            Self::TimedOut { timeout } => write!(f, "timed out after {}", Readable(*timeout)),
            Self::WouldTimeOut { timeout } => {
                write!(f, "would time out after {}", Readable(*timeout))
            }
            Self::Rejected(rejection) => write!(f, "rejected by {rejection}"),
            Self::WouldReject(rejection) => write!(f, "would be rejected by {rejection}"),
            Self::Retrying { delay } => write!(f, "is retried in {}", Readable(*delay)),
            Self::WouldRetry { delay } => write!(f, "would be retried in {}", Readable(*delay)),
            Self::NotRetried(reason) => write!(f, "is not retried: {reason}"),
            Self::Hedged => f.write_str("is a hedge"),
            Self::WouldHedge => f.write_str("would be hedged"),
            Self::NotHedged(reason) => write!(f, "is not hedged: {reason}"),
            Self::LostTheRace => f.write_str("lost the race"),
            Self::DeadlinePassed => f.write_str("the deadline passed"),
            Self::CallerGone => f.write_str("the caller went away"),
            Self::FellBack => f.write_str("the fallback answered"),
            Self::Replayed => f.write_str("the kept result of its idempotency key answered"),
        }
    }
}
