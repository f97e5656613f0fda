//! An earlier result.

use std::time::Duration;

use bytes::Bytes;
use seaworthy_core::idempotency::Token;

use super::keys::{Keys, Refusal};
use super::store::{Answer, Id, StoreError};

/// An earlier result.
#[derive(Clone, Debug)]
pub struct Replay {
    pub(super) pieces: Pieces,
    pub(super) changed: Duration,
    pub(super) answer: Answer,
}

impl Replay {
    /// What is kept of it: its head, and its body or the beginning of that.
    #[must_use]
    pub const fn answer(&self) -> &Answer {
        &self.answer
    }

    /// Which reservation of the key left it.
    #[must_use]
    pub const fn token(&self) -> Token {
        self.pieces.token
    }

    /// When it was kept, by the store's wall clock, since the Unix epoch.
    #[must_use]
    pub const fn kept_at(&self) -> Duration {
        self.changed
    }

    /// What follows the beginning of the body.
    #[must_use]
    pub const fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Refusal::Lost`] if it is not [whole](Answer::is_whole), or not any more, and [`Refusal::Down`] if it can't be read now.
    pub async fn body(&self) -> Result<Bytes, Refusal> {
        if !self.answer.is_whole() {
            return Err(Refusal::Lost);
        }
        if self.answer.chunks == 0 {
            return Ok(self.answer.body.clone());
        }
        let mut whole = self.answer.body.to_vec();
        for number in 0..self.answer.chunks {
            match self.pieces.get(number).await {
                Ok(piece) => whole.extend_from_slice(&piece),
                Err(StoreError::Corrupt(_)) => return Err(Refusal::Lost),
                Err(error) => return Err(Refusal::Down(error)),
            }
        }
        Ok(whole.into())
    }
}

/// The pieces of a long body.
#[derive(Clone, Debug)]
pub struct Pieces {
    pub(super) keys: Keys,
    pub(super) id: Id,
    pub(super) token: Token,
}

impl Pieces {
    /// The `number`th of them, from 0.
    ///
    /// # Errors
    /// The store is down, or the piece is gone.
    pub async fn get(&self, number: u32) -> Result<Bytes, StoreError> {
        let shared = &self.keys.shared;
        match shared.step(shared.store.chunk(&self.id, self.token, number)).await? {
            Some(bytes) => Ok(bytes),
            None => Err(StoreError::Corrupt(format!("piece {number} of the result of {} is gone", self.id))),
        }
    }
}
