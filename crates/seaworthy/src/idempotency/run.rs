//! An operation of a program's own, carried out once.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use seaworthy_core::idempotency::{Fingerprint, Token};
use tokio::time::timeout;

use super::config::WhenDown;
use super::keys::{Begun, Keys, Refusal};
use super::running::Unsettled;
use super::store::{Answer, Id, Settled};
use crate::clock;

/// A result that can be kept: as bytes, from which it can be had again.
pub trait Recorded: Sized {
    /// What is kept of it.
    fn to_record(&self) -> Bytes;

    /// The result of which that was kept.
    ///
    /// # Errors
    /// What the bytes are not, for people.
    fn from_record(record: Bytes) -> Result<Self, String>;
}

impl Recorded for Bytes {
    fn to_record(&self) -> Bytes {
        self.clone()
    }

    fn from_record(record: Bytes) -> Result<Self, String> {
        Ok(record)
    }
}

impl Recorded for Vec<u8> {
    fn to_record(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }

    fn from_record(record: Bytes) -> Result<Self, String> {
        Ok(record.into())
    }
}

impl Recorded for String {
    fn to_record(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }

    fn from_record(record: Bytes) -> Result<Self, String> {
        Self::from_utf8(record.into()).map_err(|error| error.to_string())
    }
}

impl Recorded for () {
    fn to_record(&self) -> Bytes {
        Bytes::new()
    }

    fn from_record(_: Bytes) -> Result<Self, String> {
        Ok(())
    }
}

/// What came of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ran<T> {
    /// Its result.
    pub result: T,
    /// Whether it was carried out before, and this is the result of then.
    pub replayed: bool,
}

/// Why there is no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The operation failed, without an effect as it says itself, so it may be asked for again.
    Failed(E),
    /// It was not carried out now.
    Refused(Refusal),
    /// It was carried out, and the result may not be kept.
    Unsettled(Unsettled),
    /// It ran for so long, nearly the whole of its lease, and was given up. What it did is unknown.
    TimedOut(Duration),
    /// It was carried out before, and what was kept can't be read.
    Unreadable(String),
}

impl<E: fmt::Display> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unsettled(why) => {
                write!(f, "the operation was carried out, but its result may not be kept: {why}")
            }
            Self::TimedOut(after) => {
                write!(
                    f,
                    "the operation was given up after {after:?}, before its lease is over; what it did is unknown"
                )
            }
            Self::Unreadable(why) => {
                write!(f, "the operation was carried out before; its result can't be read: {why}")
            }
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for RunError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Refused(refusal) => Some(refusal),
            Self::Unsettled(why) => Some(why),
            Self::TimedOut(_) | Self::Unreadable(_) => None,
        }
    }
}

impl Keys {
    /// Carries `operation` out, unless it was carried out before: then its result of then is the result.
    ///
    /// It has nearly the whole of its [lease](super::Config::lease): [`store_timeout`](super::Config::store_timeout) before its end it
    /// is dropped, so that there is time to write down that its outcome is unknown.
    ///
    /// A result that can't be kept, as a piece of it is lost or the store is full, is given to this caller; others hear that it is
    /// [lost](Refusal::Lost).
    ///
    /// With an `Err` the operation says that it had no effect, and its key is free again. Where it can't say so, it should
    /// not return at all, but panic or be dropped: then its outcome is unknown, which is what is told to who asks again
    /// (see [`OnUnknown`](super::OnUnknown)). The same holds if this future is dropped.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run<T, E, F>(
        &self,
        id: &Id,
        fingerprint: Fingerprint,
        operation: impl FnOnce() -> F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        T: Recorded,
        F: Future<Output = Result<T, E>>,
    {
        self.run_fenced(id, fingerprint, |_| operation()).await
    }

    /// As [`run`](Self::run), for an operation that passes its token on to what it changes. While the store is down and it is
    /// carried out nevertheless, that is 0: older than every other.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run_fenced<T, E, F>(
        &self,
        id: &Id,
        fingerprint: Fingerprint,
        operation: impl FnOnce(Token) -> F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        T: Recorded,
        F: Future<Output = Result<T, E>>,
    {
        let running = match self.begin(id, fingerprint).await.map_err(RunError::Refused)? {
            Begun::First(running) => running,
            Begun::Replay(replay) => {
                let record = replay.body().await.map_err(RunError::Refused)?;
                let result = T::from_record(record).map_err(RunError::Unreadable)?;
                return Ok(Ran { result, replayed: true });
            }
            Begun::Unrecorded(_) => {
                let result = operation(Token(0)).await.map_err(RunError::Failed)?;
                return Ok(Ran { result, replayed: false });
            }
        };
        let left = running.stop_at().since(clock::now());
        let Ok(result) = timeout(left, operation(running.token())).await else {
            // As nobody settles it, it is unknown.
            return Err(RunError::TimedOut(left));
        };
        match result {
            Ok(result) => {
                let answer = Answer::default();
                match running.keep(answer, result.to_record()).await {
                    Err(Unsettled::Down(_)) if self.config().when_down == WhenDown::Allow => {}
                    kept => kept.map_err(RunError::Unsettled)?,
                }
                Ok(Ran { result, replayed: false })
            }
            Err(error) => {
                // It failed either way; a store that doesn't hear it now is told later.
                let _unheard = running.settle(Settled::Free).await;
                Err(RunError::Failed(error))
            }
        }
    }
}
