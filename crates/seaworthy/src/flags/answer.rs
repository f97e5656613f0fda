//! What a flag service says about a flag, or why it says nothing.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

/// What the service says about one flag for one evaluation context.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Answer {
    /// The value; `None` if the service leaves it to whoever asks.
    pub value: Option<Value>,
    /// The variant's name, if it has one.
    pub variant: Option<String>,
    /// Why it is this value, as OpenFeature names reasons: `STATIC`, `TARGETING_MATCH`, `SPLIT`, `DISABLED` ...
    pub reason: Option<String>,
    /// Whatever else is told about it: booleans, strings and numbers.
    pub metadata: Map<String, Value>,
}

impl Answer {
    /// A value without any more about it.
    #[must_use]
    pub fn new(value: impl Into<Value>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }
}

/// Why there is no live value.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Trouble {
    /// No connection, or it broke.
    Unreachable(String),
    /// No answer in time.
    TimedOut,
    /// It was not asked: it failed too often lately, or asked to be left alone until later.
    NotAsked(String),
    /// What came is not what the protocol says.
    Malformed(String),
    /// It answered with this HTTP status, which says nothing about the flag.
    Status(u16),
    /// It does not accept our credentials (401, 403).
    Unauthorized(u16),
    /// It was asked too often (429).
    RateLimited {
        /// When to come back, if it said so.
        retry_after: Option<Duration>,
    },
    /// It answers, and can't evaluate this flag.
    Failed {
        /// OpenFeature's error code.
        code: String,
        /// What it said about it.
        details: String,
    },
    /// It answers, and the evaluation context is at fault.
    BadContext {
        /// OpenFeature's error code.
        code: String,
        /// What it said about it.
        details: String,
    },
    /// It answers, and knows no such flag.
    NotFound,
    /// The value is of another type than was asked for.
    OtherType,
    /// The source panicked.
    Panicked(String),
}

impl Trouble {
    /// Whether the service works and this is its answer, which no older value may replace.
    #[must_use]
    pub const fn is_an_answer(&self) -> bool {
        matches!(self, Self::NotFound | Self::BadContext { .. } | Self::OtherType)
    }

    /// A word for it in metrics and headers.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut => "timed-out",
            Self::NotAsked(_) => "not-asked",
            Self::Malformed(_) => "malformed",
            Self::Status(_) => "status",
            Self::Unauthorized(_) => "unauthorized",
            Self::RateLimited { .. } => "rate-limited",
            Self::Failed { .. } => "failed",
            Self::BadContext { .. } => "bad-context",
            Self::NotFound => "not-found",
            Self::OtherType => "other-type",
            Self::Panicked(_) => "panicked",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "the flag service can't be reached: {why}"),
            Self::TimedOut => f.write_str("the flag service did not answer in time"),
            Self::NotAsked(why) => write!(f, "the flag service was not asked: {why}"),
            Self::Malformed(why) => write!(f, "the flag service's answer makes no sense: {why}"),
            Self::Status(status) => write!(f, "the flag service answered with status {status}"),
            Self::Unauthorized(status) => {
                write!(f, "the flag service does not accept the credentials (status {status})")
            }
            Self::RateLimited { retry_after: Some(wait) } => {
                write!(f, "the flag service was asked too often and wants to be left alone for {wait:?}")
            }
            Self::RateLimited { retry_after: None } => f.write_str("the flag service was asked too often"),
            Self::Failed { code, details } => {
                write!(f, "the flag service could not evaluate the flag: {code}: {details}")
            }
            Self::BadContext { code, details } => {
                write!(f, "the flag service could not use the evaluation context: {code}: {details}")
            }
            Self::NotFound => f.write_str("the flag service knows no such flag"),
            Self::OtherType => f.write_str("the flag's value is of another type than was asked for"),
            Self::Panicked(why) => write!(f, "the source of flags panicked: {why}"),
        }
    }
}

impl StdError for Trouble {}
