//! What is read from rows. What does not read as it was written is named.

use std::time::Duration;

use bytes::Bytes;
use seaworthy_core::idempotency::{Fingerprint, Phase, Standing, Token};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::idempotency::store::{Answer, CHUNK_BYTES, Id, Record, Release, StoreError};

/// A row of the table of keys.
pub(super) struct Found {
    pub(super) row: i64,
    pub(super) id: Id,
    pub(super) owner: Option<Vec<u8>>,
    pub(super) expired: bool,
    pub(super) record: Record,
}

pub(super) fn found(row: &Row) -> Result<Found, StoreError> {
    let phase = phase(row)?;
    let fingerprint: Vec<u8> = column(row, "fingerprint")?;
    let left: i64 = column(row, "left_ms")?;
    let record = Record {
        standing: Standing {
            fingerprint: Fingerprint(fingerprint.try_into().map_err(|_| bad("fingerprint"))?),
            token: token(row)?,
            phase,
        },
        lease: millis(row, "lease_ms")?,
        orphaned: false,
        changed: millis(row, "changed_ms")?,
        remembered: Some(Duration::from_millis(u64::try_from(left).unwrap_or(0))),
        answer: answer(row, phase)?,
    };
    Ok(Found {
        row: column(row, "id")?,
        id: id(row)?,
        owner: column(row, "owner")?,
        expired: column(row, "expired")?,
        record,
    })
}

pub(super) fn release(row: &Row) -> Result<Release, StoreError> {
    Ok(Release {
        id: id(row)?,
        token: token(row)?,
        phase: phase(row)?,
        reason: column(row, "reason")?,
        at: millis(row, "at_ms")?,
    })
}

pub(super) fn token(row: &Row) -> Result<Token, StoreError> {
    let token: i64 = column(row, "token")?;
    u64::try_from(token).ok().filter(|token| *token > 0).map(Token).ok_or_else(|| bad("token"))
}

pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, StoreError> {
    row.try_get(name).map_err(|_| bad(name))
}

fn answer(row: &Row, phase: Phase) -> Result<Option<Answer>, StoreError> {
    let head: Option<Vec<u8>> = column(row, "head")?;
    let body: Option<Vec<u8>> = column(row, "body")?;
    let chunks: Option<i64> = column(row, "chunks")?;
    match (phase, head, body, chunks) {
        (Phase::Done, Some(head), Some(body), Some(chunks)) => {
            let chunks = u32::try_from(chunks).map_err(|_| bad("number of chunks"))?;
            if head.len() > CHUNK_BYTES || body.len() > CHUNK_BYTES {
                return Err(bad("length of a result"));
            }
            Ok(Some(Answer { head: head.into(), body: body.into(), chunks }))
        }
        (Phase::Running | Phase::Unknown | Phase::Free, None, None, None) => Ok(None),
        _ => Err(bad("result")),
    }
}

fn id(row: &Row) -> Result<Id, StoreError> {
    let part = |name: &str| {
        let bytes: Vec<u8> = column(row, name)?;
        String::from_utf8(bytes).map(Into::into).map_err(|_| bad(name))
    };
    Ok(Id { place: part("place")?, client: part("client")?, key: part("key")? })
}

fn phase(row: &Row) -> Result<Phase, StoreError> {
    let name: String = column(row, "phase")?;
    Phase::of(&name).ok_or_else(|| bad("phase"))
}

fn millis(row: &Row, name: &str) -> Result<Duration, StoreError> {
    let millis: i64 = column(row, name)?;
    u64::try_from(millis).map(Duration::from_millis).map_err(|_| bad(name))
}

pub(super) fn bytes(row: &Row, name: &str) -> Result<Bytes, StoreError> {
    let bytes: Vec<u8> = column(row, name)?;
    if bytes.len() > CHUNK_BYTES { Err(bad(name)) } else { Ok(bytes.into()) }
}

fn bad(what: &str) -> StoreError {
    StoreError::Corrupt(format!("the {what} of a row in PostgreSQL is not what was written"))
}
