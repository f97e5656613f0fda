//! What can be wrong with the file as a whole.

use std::any::Any;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::idempotency::store::StoreError;

/// Why the file can't be used as it is.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// It may not be what was written. A full check tells.
    Damaged(String),
    Full(String),
    Down(String),
    /// Another process has it open.
    Locked(String),
    /// It is of another version's format.
    Version(String),
}

impl Fault {
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Damaged(what) => StoreError::Corrupt(what),
            Self::Full(what) => StoreError::Full(what),
            Self::Down(what) | Self::Locked(what) | Self::Version(what) => StoreError::Down(what),
        }
    }

    /// As of something that may have been done.
    pub(super) fn of_what_was_done(self) -> Self {
        match self {
            Self::Full(what) => Self::Down(what),
            other => other,
        }
    }

    /// What `doing` met.
    pub(super) fn io(doing: &str, error: &io::Error) -> Self {
        let what = format!("{doing}: {error}");
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Self::Full(what),
            // What is shorter than it says, and what is no such file at all.
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData => Self::Damaged(what),
            _ => Self::Down(what),
        }
    }
}

impl Fault {
    fn of(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => Self::io("using the file", &error),
            error @ redb::Error::PreviousIo => Self::Down(error.to_string()),
            error @ redb::Error::DatabaseAlreadyOpen => Self::Locked(error.to_string()),
            error @ (redb::Error::DatabaseClosed | redb::Error::TransactionInProgress) => {
                Self::Down(error.to_string())
            }
            // Tables that are missing or of other types, pages that don't add up, locks that a panic poisoned.
            error => Self::Damaged(error.to_string()),
        }
    }
}

macro_rules! faults {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::of(error.into())
            }
        }
    )*};
}

faults!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, redb::DatabaseError);

/// Carries `what` out; a panic in it means that the file was not what its reader expected.
pub(super) fn guarded<T>(what: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    // Whatever a panic left behind is dropped by who gets the fault.
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|panic| Err(Fault::Damaged(said(&*panic))))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("nothing said");
    format!("reading it panicked: {text}")
}
