//! An answer, and what it says.

use std::fmt;

use hyper::body::Bytes;
use hyper::{HeaderMap, StatusCode};

use crate::upstream::{Operation, Receipt};

/// An answer, read to its end.
pub(crate) struct Told {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What an answer says of its operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Says {
    /// The receipt of its first effect.
    Done { replayed: bool },
    /// That it is being carried out.
    Busy,
    /// That nobody knows how it ended.
    Unknown,
    /// That it was carried out, and that its answer was not kept: it took longer than the call may, or the store was down when a piece
    /// of it was to be kept.
    NotKept,
    /// That it failed, or can't be looked up now.
    Failed(u16),
    /// What no operation may be told.
    Wrong,
}

impl Says {
    pub(crate) const fn is_end(self) -> bool {
        matches!(self, Self::Unknown | Self::NotKept | Self::Done { .. })
    }

    pub(crate) const fn is_done(self) -> bool {
        matches!(self, Self::Done { .. })
    }

    pub(crate) const fn is_replay(self) -> bool {
        matches!(self, Self::Done { replayed: true })
    }

    /// Whether this may be told after that end by a proxy that has only begun to look, or can't, and is to be asked again.
    pub(crate) const fn may_follow(self, end: Self) -> bool {
        matches!((end, self), (_, Self::Failed(_)) | (Self::Unknown, Self::Busy))
    }
}

impl Told {
    /// What it says of its operation.
    pub(crate) fn says(&self, operation: &Operation) -> Says {
        let expected = Receipt::of(operation, 1);
        let header = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        let same_head = expected.headers.iter().all(|(name, value)| header(name) == Some(value.as_str()));
        match self.status.as_u16() {
            200..300 if same_head && self.status == expected.status && self.body == expected.body => {
                Says::Done { replayed: header("idempotent-replayed") == Some("true") }
            }
            409 if header("retry-after").is_some() => Says::Busy,
            409 if self.text().contains("nobody knows") => Says::Unknown,
            409 if self.text().contains("was carried out before") => Says::NotKept,
            status @ (500 | 502..=504) => Says::Failed(status),
            _ => Says::Wrong,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(300).collect()
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, self.text())
    }
}
