//! An operation that is being carried out.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use seaworthy_core::Instant;
use seaworthy_core::idempotency::Token;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::counts::Count;
use super::errands::Turns;
use super::keys::{Keys, Shared};
use super::replay::Pieces;
use super::store::{Answer, CHUNK_BYTES, Hold, Id, Settled, StoreError};
use crate::clock;

/// The right to carry an operation out. Dropped without having been settled, its outcome is unknown.
#[derive(Debug)]
#[must_use = "what is not settled is unknown"]
pub struct Running {
    pub(super) keys: Keys,
    pub(super) id: Id,
    pub(super) hold: Hold,
    pub(super) until: Instant,
    /// Where it began, for the case that it is dropped elsewhere.
    pub(super) runtime: Option<Handle>,
    pub(super) settled: bool,
}

/// Why a result is not known to be kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Unsettled {
    /// Another has taken the operation over, or an operator has released its key.
    Fenced,
    /// The store is down. It is told as soon as it can be, for as long as a lease lasts.
    Down(StoreError),
}

impl fmt::Display for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced => {
                f.write_str("another has taken the operation over, or an operator released its key")
            }
            Self::Down(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Unsettled {}

impl Running {
    /// Which reservation of the key this is: to be passed on to whatever the operation changes.
    #[must_use]
    pub const fn token(&self) -> Token {
        self.hold.token
    }

    /// When its lease is over. The operation has to be over before: see [`stop_at`](Self::stop_at).
    #[must_use]
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// When the operation has to be given up, so that what is left of the lease is enough to write down how it ended: one
    /// [`store_timeout`](super::Config::store_timeout) before.
    #[must_use]
    pub fn stop_at(&self) -> Instant {
        let now = clock::now();
        now.plus(self.until.since(now).saturating_sub(self.keys.config().store_timeout))
    }

    /// The pieces of its body that were put.
    #[must_use]
    pub fn pieces(&self) -> Pieces {
        Pieces { keys: self.keys.clone(), id: self.id.clone(), token: self.hold.token }
    }

    /// Keeps a piece of a long body, before the operation is settled with what says how many there are.
    ///
    /// # Errors
    /// It is not kept.
    pub async fn put_chunk(&self, number: u32, bytes: Bytes) -> Result<(), Unsettled> {
        let shared = &self.keys.shared;
        let retention = shared.config.retention;
        let step = shared.store.put_chunk(&self.id, self.hold, number, bytes, retention);
        heard(shared.step(step).await)
    }

    /// Settles the operation with `answer` and this body, in as many pieces as it takes. The answer's head must not begin with a
    /// zero byte, which notes that its body is lost.
    ///
    /// While the store is down, a piece is put again and again until the lease is nearly over. If a piece can't be kept, it is
    /// kept that the operation was carried out, and that its result is lost: it is neither unknown nor carried out again, and
    /// who asks for it is [told so](super::Refusal::Lost).
    ///
    /// # Errors
    /// As of [`settle`](Self::settle).
    pub async fn keep(self, mut answer: Answer, mut body: Bytes) -> Result<(), Unsettled> {
        answer.body = body.split_to(body.len().min(CHUNK_BYTES));
        answer.chunks = 0;
        while !body.is_empty() {
            let piece = body.split_to(body.len().min(CHUNK_BYTES));
            if self.put_by(self.stop_at(), answer.chunks, piece).await.is_err() {
                // Whether it was fenced, the settling tells.
                answer = answer.without_body();
                break;
            }
            answer.chunks += 1;
        }
        self.settle(Settled::Done(answer)).await
    }

    /// As [`put_chunk`](Self::put_chunk); while the store is down, again and again until `by`.
    ///
    /// # Errors
    /// It is not kept.
    pub async fn put_by(&self, by: Instant, number: u32, piece: Bytes) -> Result<(), Unsettled> {
        let (mut pause, mut last) = (FIRST_PAUSE, "there was no time left for it".to_owned());
        loop {
            let left = by.since(clock::now());
            if left.is_zero() {
                return Err(Unsettled::Down(StoreError::Down(last)));
            }
            // What comes after it needs the time that comes after.
            match timeout(left, self.put_chunk(number, piece.clone())).await {
                // What is full or damaged does not pass as an outage does.
                Ok(Err(Unsettled::Down(StoreError::Down(why)))) => last = why,
                Ok(put) => return put,
                Err(_) => continue,
            }
            sleep(pause.min(by.since(clock::now()))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ends the operation. When this is ready, that is durable. A result for which the store has no room, or of which a piece is
    /// gone, is kept without its body: see [`keep`](Self::keep).
    ///
    /// # Errors
    /// It is not known to be kept. If the store is down, it is told later, behind the caller's back.
    pub async fn settle(mut self, settled: Settled) -> Result<(), Unsettled> {
        self.settled = true;
        let keys = self.keys.clone();
        let shared = &keys.shared;
        let mut later = Later { running: &self, settled, owed: true };
        let mut told = later.tell().await;
        if let Err(Unsettled::Down(StoreError::Full(_) | StoreError::Corrupt(_))) = told
            && let Some(less) = later.settled.without_body()
        {
            later.settled = less;
            told = later.tell().await;
        }
        match told {
            Ok(()) => shared.settled(&self.id),
            Err(Unsettled::Fenced) => shared.counts.add(Count::Fenced),
            Err(Unsettled::Down(_)) => return told,
        }
        later.owed = false;
        told
    }

    /// Tells the store behind the caller's back how it ended.
    fn settle_later(&self, settled: &Settled) {
        let shared = &self.keys.shared;
        let tell = |settled: Settled| {
            let (keys, id, hold) = (self.keys.clone(), self.id.clone(), self.hold);
            let bytes = match &settled {
                Settled::Done(answer) => answer.head.len() + answer.body.len(),
                Settled::Unknown | Settled::Free => 0,
            };
            let bytes = if bytes <= SMALL { 0 } else { bytes };
            shared.errands.run(self.runtime.as_ref(), bytes, shared.config.lease, |turns| async move {
                keys.shared.insist(&id, hold, settled, turns).await;
            })
        };
        // Where there is no room for a result there may be for what it was, or for that it was.
        let told = tell(settled.clone())
            || settled.without_body().is_some_and(tell)
            || (matches!(settled, Settled::Done(_)) && tell(settled.bare()));
        if !told {
            shared.counts.add(Count::Untold);
        }
    }
}

/// A settling that the store may not have heard.
struct Later<'a> {
    running: &'a Running,
    settled: Settled,
    owed: bool,
}

impl Later<'_> {
    async fn tell(&self) -> Result<(), Unsettled> {
        let Running { keys: Keys { shared }, id, hold, .. } = self.running;
        heard(shared.step(shared.store.settle(id, *hold, &self.settled, shared.config.retention)).await)
    }
}

impl Drop for Later<'_> {
    fn drop(&mut self) {
        if self.owed {
            self.running.settle_later(&self.settled);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.settled {
            self.settle_later(&Settled::Unknown);
        }
    }
}

impl Shared {
    /// Settles, again and again until the store has heard it.
    async fn insist(&self, id: &Id, hold: Hold, mut settled: Settled, mut turns: Turns) {
        loop {
            let step = self.store.settle(id, hold, &settled, self.config.retention);
            match turns.take(self.step(step)).await {
                Some(Ok(true)) => return self.settled(id),
                // It is another's, who settles it.
                Some(Ok(false)) => return self.counts.add(Count::Fenced),
                Some(Err(error)) => match settled.without_body() {
                    Some(less) if matches!(error, StoreError::Full(_) | StoreError::Corrupt(_)) => {
                        settled = less
                    }
                    _ => turns.pause().await,
                },
                None => return self.counts.add(Count::Untold),
            }
        }
    }
}

fn heard(step: Result<bool, StoreError>) -> Result<(), Unsettled> {
    match step {
        Ok(true) => Ok(()),
        Ok(false) => Err(Unsettled::Fenced),
        Err(error) => Err(Unsettled::Down(error)),
    }
}

/// The first and the longest pause between two attempts to put a piece.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A result up to this many bytes counts as a part of its errand, as its key does. So there is room for what remains of a result
/// without its body, when there is none for results.
const SMALL: usize = 1024;
