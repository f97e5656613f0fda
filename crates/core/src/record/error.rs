//! What can be wrong with a recording.

use alloc::string::String;
use core::fmt;

/// Why a recording does not replay.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// It does not begin with a header that this version reads.
    Version {
        /// Its first line, cut to 80 characters.
        found: String,
    },
    /// A line is not of the format.
    Malformed {
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The machine decided otherwise than was recorded.
    Mismatch {
        /// The line's number, from 1.
        line: usize,
        /// What the recording says; empty if it ends here.
        recorded: String,
        /// What was decided now; empty if nothing was.
        replayed: String,
    },
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { found } => {
                write!(f, "the recording begins with {found:?}, not with {:?}", super::HEADER)
            }
            Self::Malformed { line, problem } => write!(f, "line {line} {problem}"),
            Self::Mismatch { line, recorded, replayed } => {
                write!(f, "line {line}: recorded was {recorded:?}, replayed is {replayed:?}")
            }
        }
    }
}

impl core::error::Error for ReplayError {}
