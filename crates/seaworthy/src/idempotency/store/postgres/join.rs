//! A key's record in the caller's own transaction.

use std::fmt;
use std::time::Duration;

use seaworthy_core::idempotency::{Fingerprint, Phase, Token};
use tokio_postgres::{Error, Row, Transaction};

use super::pool::DURABLE_COMMIT;
use super::rows::{Found, found, token};
use super::{Postgres, TURNS, millis, names, number};
use crate::idempotency::store::{Answer, CHUNK_BYTES, Id, StoreError};

/// What a transaction that [joins](Postgres::join) a key has found.
#[derive(Debug)]
#[must_use]
pub enum Joined<'t> {
    /// It is the first: have the effect in this transaction, and [keep](First::keep) its result.
    First(First<'t>),
    /// It was done before: this is its result. Have no effect. If an ordinary step left it, it may have
    /// [chunks](crate::idempotency::Store::chunk), or have lost its body: see [`Answer::is_whole`].
    Replay(Answer),
    /// The key belongs to another request. Have no effect.
    Mismatch,
    /// It was begun by the ordinary steps of a store, and is running, or nobody knows how it ended. Have no effect; what follows
    /// is theirs to say.
    Begun(Phase, Token),
}

/// The right to keep a result in the transaction that has the effect. If nothing is kept, the result is an empty [`Answer`]:
/// what is committed was done, and is not done again.
#[must_use = "without a result, what is replayed is empty"]
pub struct First<'t> {
    transaction: &'t Transaction<'t>,
    statement: &'t str,
    id: Id,
    token: Token,
    owner: Vec<u8>,
}

impl Postgres {
    /// Writes the record of `id` in `transaction`, so that it is committed with the effect of the same transaction, or not at all:
    ///
    /// ```text
    /// BEGIN -> join -> First  -> the effect -> keep its result -> COMMIT
    ///               -> Replay -> answer with it                -> ROLLBACK
    /// ```
    ///
    /// Of two transactions that join one key at once, the second waits for the first to end: it replays what that one committed,
    /// or is the first if that one was rolled back or its client died. How long it waits is for its `lock_timeout` or
    /// `statement_timeout` to say, and how long a client may sit in a transaction for `idle_in_transaction_session_timeout`;
    /// none of them is changed here. Its `synchronous_commit` is set on, for this transaction, where it was weaker.
    ///
    /// The transaction is of the same database as this store, and of the isolation level `READ COMMITTED`, PostgreSQL's default.
    /// Under a stricter one the second does not replay but fails, as such transactions do (SQLSTATE 40001), and replays when it
    /// is begun anew.
    ///
    /// **The record.** It is [`Done`](Phase::Done) from the beginning, with an empty result until one is kept; nobody else sees
    /// it before the commit, and there is no moment at which the effect is there and the record is not, so it is never running
    /// or unknown. From then on it is as any other: it is found, listed, replayed, released by operators, and forgotten after
    /// `retention`. A key that is free or past its retention is begun anew, under a higher token or the first.
    ///
    /// **Beside the ordinary steps.** They meet on the same row, so nothing is done twice where a key is used both ways. A step on
    /// a key that a transaction has joined and not ended waits for it, and is [`StoreError::Down`] if its time is over before.
    /// A transaction that finds a key begun by ordinary steps gets [`Joined::Begun`] and never takes it over.
    ///
    /// `transaction` may be of any connection; it need not come from this store's pool. If it was an error, the transaction can
    /// only be rolled back.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn join<'t>(
        &'t self,
        transaction: &'t Transaction<'t>,
        id: &Id,
        fingerprint: Fingerprint,
        retention: Duration,
    ) -> Result<Joined<'t>, JoinError> {
        id.check()?;
        self.within(self.connections.ready()).await?;
        let sql = &self.connections.sql;
        transaction.batch_execute(DURABLE_COMMIT).await?;
        let [place, client, key] = names(id);
        let (prints, retention) = (&fingerprint.0[..], millis(retention));
        // It is settled in this transaction or never was, so nobody needs to tell owners apart.
        let owner: &[u8] = &[];
        // Nor does anybody find it running.
        let lease = 0_i64;
        let first = |token| {
            let (id, owner) = (id.clone(), owner.to_vec());
            Joined::First(First { transaction, statement: &sql.keep, id, token, owner })
        };
        for _ in 0..TURNS {
            let rows = transaction
                .query(&sql.join, &[&place, &client, &key, &prints, &owner, &retention, &lease])
                .await?;
            if let Some(row) = rows.first() {
                return Ok(first(token(row)?));
            }
            let rows = transaction.query(&sql.find, &[&place, &client, &key]).await?;
            let Some(row) = rows.first() else { continue };
            let Found { row: number_of_row, expired, record, .. } = found(row)?;
            let standing = record.standing;
            if expired {
                transaction.execute(&sql.forget, &[&number_of_row]).await?;
                continue;
            }
            if standing.phase != Phase::Free && standing.fingerprint != fingerprint {
                return Ok(Joined::Mismatch);
            }
            match (standing.phase, record.answer) {
                (Phase::Done, Some(answer)) => return Ok(Joined::Replay(answer)),
                (Phase::Free, _) => {
                    let seen = number(standing.token);
                    let rows: Vec<Row> = transaction
                        .query(
                            &sql.join_free,
                            &[&place, &client, &key, &prints, &owner, &retention, &lease, &seen],
                        )
                        .await?;
                    if let Some(row) = rows.first() {
                        return Ok(first(token(row)?));
                    }
                }
                (phase, _) => return Ok(Joined::Begun(phase, standing.token)),
            }
        }
        Err(StoreError::Down(format!("the key changed {TURNS} times while it was looked at")).into())
    }
}

impl First<'_> {
    /// The token of this reservation, to be told to others that the effect reaches.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// Keeps the result, in the transaction. Head and body are at most [`CHUNK_BYTES`] each, and there are no chunks. A head that
    /// begins with a zero byte says that the [body is lost](Answer::is_whole).
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn keep(self, answer: &Answer) -> Result<(), JoinError> {
        if answer.head.len().max(answer.body.len()) > CHUNK_BYTES || answer.chunks > 0 {
            return Err(JoinError::TooLong);
        }
        let [place, client, key] = names(&self.id);
        let (head, body) = (&answer.head[..], &answer.body[..]);
        let token = number(self.token);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
            [&place, &client, &key, &token, &self.owner, &head, &body];
        let rows = self.transaction.query(self.statement, &params).await?;
        if rows.is_empty() {
            // The transaction wrote it and holds it: somebody undid a savepoint, say.
            return Err(StoreError::Corrupt(format!("the record of {} is gone", self.id)).into());
        }
        Ok(())
    }
}

impl fmt::Debug for First<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("First").field("id", &self.id).field("token", &self.token).finish_non_exhaustive()
    }
}

/// Why a key was not joined, or a result not kept. The transaction can only be rolled back, but after
/// [`JoinError::TooLong`].
#[derive(Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// The store's tables could not be made or read.
    Store(StoreError),
    /// A statement of the transaction failed. Whether it can be begun anew says its
    /// [SQLSTATE](tokio_postgres::Error::code).
    Database(Error),
    /// The result is longer than a record holds: it was not kept.
    TooLong,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(_) => f.write_str("the key was not joined"),
            Self::Database(_) => f.write_str("a statement on the key's record failed"),
            Self::TooLong => write!(f, "the result is longer than {CHUNK_BYTES} bytes"),
        }
    }
}

impl std::error::Error for JoinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Database(error) => Some(error),
            Self::TooLong => None,
        }
    }
}

impl From<StoreError> for JoinError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Error> for JoinError {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}
