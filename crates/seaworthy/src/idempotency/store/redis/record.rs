//! Names of keys, and what is read from them. What does not read as it was written is named, with the key that holds it.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use seaworthy_core::idempotency::{Fingerprint, Phase, Standing, Token};
use sha2::{Digest as _, Sha256};

use crate::idempotency::store::{Answer, CHUNK_BYTES, Id, Record, Release, StoreError};

/// The keys of what is remembered under one [`Id`]: all have the same hash tag.
pub(super) struct Names {
    /// The tag.
    pub(super) digest: String,
    pub(super) record: String,
    pub(super) releases: String,
}

impl Names {
    pub(super) fn new(prefix: &str, id: &Id) -> Self {
        let mut hash = Sha256::new();
        // Each with its length before it, so that no two differ only in where one ends and the next begins.
        for part in [&id.place, &id.client, &id.key] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let digest: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self::of(prefix, &digest)
    }

    pub(super) fn of(prefix: &str, digest: &str) -> Self {
        let record = format!("{prefix}:idem:{{{digest}}}");
        Self { digest: digest.to_owned(), releases: format!("{record}:releases"), record }
    }

    pub(super) fn chunk(&self, token: Token, number: u32) -> String {
        format!("{}:{token}:{number}", self.record)
    }
}

/// Reads what stands at a key.
#[derive(Clone, Copy)]
pub(super) struct Read<'a> {
    key: &'a str,
}

impl<'a> Read<'a> {
    pub(super) fn new(key: &'a str) -> Self {
        Self { key }
    }

    /// What is wrong.
    pub(super) fn bad(self, what: &str) -> StoreError {
        StoreError::Corrupt(format!("the {what} at `{}` in Redis is not what was written", self.key))
    }

    pub(super) fn array(self, value: Value) -> Result<Vec<Value>, StoreError> {
        match value {
            Value::Array(values) => Ok(values),
            _ => Err(self.bad("answer")),
        }
    }

    pub(super) fn text(self, value: Value, what: &str) -> Result<String, StoreError> {
        match value {
            Value::BulkString(bytes) => String::from_utf8(bytes).map_err(|_| self.bad(what)),
            Value::SimpleString(text) => Ok(text),
            _ => Err(self.bad(what)),
        }
    }

    pub(super) fn token(self, value: Value) -> Result<Token, StoreError> {
        match self.number(value, "token")? {
            0 => Err(self.bad("token")),
            token => Ok(Token(token)),
        }
    }

    /// What `found` of `common.lua` gives.
    pub(super) fn record(self, value: Value) -> Result<(Id, Record), StoreError> {
        let values = <[Value; 13]>::try_from(self.array(value)?).map_err(|_| self.bad("record"))?;
        let [
            place,
            client,
            key,
            fingerprint,
            token,
            phase,
            changed,
            head,
            body,
            chunks,
            retention,
            lease,
            left,
        ] = values;
        let id = Id {
            place: self.text(place, "place")?.into(),
            client: self.text(client, "client")?.into(),
            key: self.text(key, "key")?.into(),
        };
        let Value::BulkString(fingerprint) = fingerprint else { return Err(self.bad("fingerprint")) };
        let fingerprint = <[u8; 32]>::try_from(fingerprint).map_err(|_| self.bad("fingerprint"))?;
        let phase = Phase::of(&self.text(phase, "phase")?).ok_or_else(|| self.bad("phase"))?;
        self.number(retention, "retention")?;
        let answer = if phase == Phase::Done {
            let chunks = self.number(chunks, "number of chunks")?;
            Some(Answer {
                head: self.piece(head, "head")?,
                body: self.piece(body, "body")?,
                chunks: u32::try_from(chunks).map_err(|_| self.bad("number of chunks"))?,
            })
        } else if [head, body, chunks].iter().any(|value| *value != Value::Nil) {
            return Err(self.bad("result of what is not done"));
        } else {
            None
        };
        let record = Record {
            standing: Standing { fingerprint: Fingerprint(fingerprint), token: self.token(token)?, phase },
            lease: Duration::from_millis(self.number(lease, "lease")?),
            orphaned: false,
            changed: Duration::from_millis(self.number(changed, "time")?),
            // Negative if it lasts for ever, which somebody else must have said.
            remembered: integer(left).and_then(|left| u64::try_from(left).ok()).map(Duration::from_millis),
            answer,
        };
        Ok((id, record))
    }

    /// Whether it is what was looked for.
    pub(super) fn is_of(self, found: &Id, id: &Id) -> Result<(), StoreError> {
        if found == id { Ok(()) } else { Err(self.bad("name")) }
    }

    /// An entry of the stream of releases: its own name, and fields with their values.
    pub(super) fn release(self, value: Value) -> Result<Release, StoreError> {
        let entry = <[Value; 2]>::try_from(self.array(value)?).map_err(|_| self.bad("release"))?;
        let [_, fields] = entry;
        let fields = <[Value; 14]>::try_from(self.array(fields)?).map_err(|_| self.bad("release"))?;
        let [_, place, _, client, _, key, _, token, _, phase, _, reason, _, at] = fields;
        let id = Id {
            place: self.text(place, "place")?.into(),
            client: self.text(client, "client")?.into(),
            key: self.text(key, "key")?.into(),
        };
        Ok(Release {
            id,
            token: self.token(token)?,
            phase: Phase::of(&self.text(phase, "phase")?).ok_or_else(|| self.bad("phase"))?,
            reason: self.text(reason, "reason")?,
            at: Duration::from_millis(self.number(at, "time")?),
        })
    }

    pub(super) fn number(self, value: Value, what: &str) -> Result<u64, StoreError> {
        self.text(value, what)?.parse().map_err(|_| self.bad(what))
    }

    fn piece(self, value: Value, what: &str) -> Result<Bytes, StoreError> {
        match value {
            Value::BulkString(bytes) if bytes.len() <= CHUNK_BYTES => Ok(bytes.into()),
            _ => Err(self.bad(what)),
        }
    }
}

pub(super) fn integer(value: Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(number),
        _ => None,
    }
}

/// A list of texts; also one of pairs, as newer protocols give it, flattened.
pub(super) fn texts(value: Value) -> Result<Vec<String>, StoreError> {
    let read = Read::new("a list");
    match value {
        Value::Array(values) => values.into_iter().map(|value| read.text(value, "answer")).collect(),
        Value::Map(pairs) => {
            let flat = pairs.into_iter().flat_map(|(name, value)| [name, value]);
            flat.map(|value| read.text(value, "answer")).collect()
        }
        _ => Err(read.bad("answer")),
    }
}
