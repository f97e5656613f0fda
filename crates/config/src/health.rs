//! How an instance is asked whether it is well.

use std::fmt;

use regex_lite::Regex;
use seaworthy_core::Valid;
use seaworthy_core::gate::health;

/// One way to ask an instance whether it is well.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Check {
    /// How it is asked.
    pub kind: CheckKind,
    /// The path of the request, with a query if there is one ([`CheckKind::Http`]).
    pub path: String,
    /// The `Host` (or `:authority`) of the request in place of the instance's own ([`CheckKind::Http`], [`CheckKind::Grpc`]).
    pub host: Option<String>,
    /// The port that is asked in place of the instance's own (all but [`CheckKind::Command`]).
    pub port: Option<u16>,
    /// The status codes of a good answer; never empty ([`CheckKind::Http`]).
    pub status: Vec<StatusRange>,
    /// What must be found in the body of a good answer ([`CheckKind::Http`]).
    pub body: Option<Pattern>,
    /// The service that is asked about; empty for the server as a whole ([`CheckKind::Grpc`]).
    pub service: String,
    /// The program and its arguments; never empty for [`CheckKind::Command`].
    pub command: Vec<String>,
    /// When it is asked, and how many answers make an opinion.
    pub timing: Valid<health::Config>,
}

/// How an instance is asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CheckKind {
    /// A GET request, over the same protocol as its traffic, that is answered with a good status and body.
    Http,
    /// A connection that is accepted.
    Tcp,
    /// `grpc.health.v1.Health/Check`, that is answered with `SERVING`.
    Grpc,
    /// A program that ends with status 0.
    Command,
}

impl CheckKind {
    /// The kind's name in configuration, metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Grpc => "grpc",
            Self::Command => "command",
        }
    }
}

/// Some status codes in a row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct StatusRange {
    /// The first.
    pub first: u16,
    /// The last; at least the first.
    pub last: u16,
}

impl StatusRange {
    /// Whether `status` is one of them.
    #[must_use]
    pub const fn contains(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }

    /// The status codes that say that all is well.
    pub(crate) const fn success() -> Self {
        Self { first: 200, last: 299 }
    }

    /// Reads `200` or `200-299`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let code = |digits: &str| {
            let is_code = digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|code| is_code && (100..=599).contains(code))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self { first: code(first.trim())?, last: code(last.trim())? };
        (range.first <= range.last).then_some(range)
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// A regular expression that is known to be one. Two are equal if they are written the same.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Reads one; the error says what is wrong with it, and that is all that [`regex_lite`] tells.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Regex::new(text).map(Self).map_err(|error| error.to_string())
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it matches anywhere in `text`. Takes time linear in the lengths of both.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}
