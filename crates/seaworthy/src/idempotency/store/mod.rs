//! Where keys and results are kept.
//!
//! A [`Store`] compares and swaps; what follows from what it finds is decided in [`seaworthy_core::idempotency`], for all of
//! them alike. Every step is durable when its future is ready, as far as the store promises durability at all, and may be
//! repeated: a step whose answer was lost on the way can be asked for again.
//!
//! What every store keeps to:
//!
//! * A key is absent, or has one [`Record`]. [`Store::reserve`] writes `Running` if it is absent or [`Free`](Phase::Free), and
//!   otherwise changes nothing.
//! * A token grows by one with every reservation and every take-over of a key, for as long as the key is remembered.
//! * A step by a [`Hold`] that is no longer the key's does nothing and says so: it was fenced.
//! * A record is remembered for its retention, counted anew at every change, by the store's own sense of time. What is past it
//!   is absent, whether or not it was swept away yet.
//! * What is seen not to be as it was written is never returned: it is [`StoreError::Corrupt`]. The embedded store sees that of
//!   every byte of a value, by a checksum of its own. Redis and PostgreSQL are trusted with what they were given, as far as it
//!   makes sense: a phase that there is not, a result without its body, or a missing piece is noticed, another body is not.

#[cfg(any(feature = "idempotency-redis", feature = "idempotency-postgres"))]
pub mod durability;
#[cfg(feature = "idempotency-embedded")]
pub mod embedded;
pub mod memory;
#[cfg(feature = "idempotency-postgres")]
pub mod postgres;
#[cfg(feature = "idempotency-redis")]
pub mod redis;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use seaworthy_core::idempotency::{Fingerprint, Phase, Standing, Token};

/// The most bytes of a [`Chunk`](Store::put_chunk), and of the part of a body that stands in the record itself: 64 KiB. What a
/// step holds in memory is bounded by it.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The most bytes of each part of an [`Id`]: 255, as long as Stripe lets a key be. All three fit into a row of an index in
/// PostgreSQL, which takes some 2,700 bytes.
pub const LONGEST_NAME: usize = 255;

/// What a step gives once it is done.
pub type Step<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Which operation: a key is unique only among those of one client at one place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id {
    /// Where it was asked for: a route's name, or whatever a program calls the operation. At most [`LONGEST_NAME`] bytes.
    pub place: Arc<str>,
    /// Whose key it is: 32 hexadecimal digits that say nothing of the client (see [`Id::new`]).
    pub client: Arc<str>,
    /// The key, as the client wrote it. At most [`LONGEST_NAME`] bytes.
    pub key: Arc<str>,
}

/// What is to be written by who begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// What was asked for.
    pub fingerprint: Fingerprint,
    /// Random, for this attempt to reserve: who repeats a step whose answer was lost finds its own reservation by it.
    pub owner: u128,
    /// How long the owner may run it: whoever finds it running takes it over, or calls it unknown, after this long and not sooner,
    /// whatever leases it gives itself.
    pub lease: Duration,
    /// How long the record is remembered after its last change.
    pub retention: Duration,
}

impl Claim {
    /// The lease as it is kept: a part of a millisecond counts as a whole one, so that nobody is overtaken before its time.
    fn lease_ms(&self) -> u64 {
        let ms = self.lease.as_nanos().div_ceil(1_000_000).min(LONGEST_LEASE.as_millis());
        u64::try_from(ms).unwrap_or(u64::MAX)
    }
}

/// The right to settle a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// The reservation's token.
    pub token: Token,
    /// [`Claim::owner`].
    pub owner: u128,
}

/// What became of a wish to begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reserved {
    /// It is reserved for the asker, durably.
    New(Hold),
    /// There is a record already.
    Found(Record),
}

/// What is kept of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What was asked for, whose turn it is, and how far it came.
    pub standing: Standing,
    /// [`Claim::lease`] of the last who began, in whole milliseconds and never less than that: what an observer waits for.
    pub lease: Duration,
    /// Whether the store knows that nobody carries it out any more (who did so is dead), whatever its lease.
    pub orphaned: bool,
    /// When it was last changed, by the store's wall clock, since the Unix epoch: to be shown, not to be compared.
    pub changed: Duration,
    /// For how long it is still remembered, if the store can tell.
    pub remembered: Option<Duration>,
    /// The result, of one that is [`Done`](Phase::Done).
    pub answer: Option<Answer>,
}

/// A kept result.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// What stands before the body: whatever the writer needs to read it (of HTTP, status and headers). At most [`CHUNK_BYTES`].
    pub head: Bytes,
    /// The body, or its beginning: at most [`CHUNK_BYTES`].
    pub body: Bytes,
    /// How many [chunks](Store::put_chunk) follow, numbered from 0.
    pub chunks: u32,
}

/// How a reservation ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settled {
    /// With this result. Its chunks were put before.
    Done(Answer),
    /// Nobody knows whether it had an effect.
    Unknown,
    /// It had none.
    Free,
}

impl Settled {
    /// The phase that follows.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Done(_) => Phase::Done,
            Self::Unknown => Phase::Unknown,
            Self::Free => Phase::Free,
        }
    }
}

/// A page of a [listing](Store::list).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Some of the records, in no order that means something. Of their answers, the bodies are left out.
    pub records: Vec<(Id, Record)>,
    /// How many there would be besides, if they could be read.
    pub unread: usize,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// An operator's word that a key is free, which is written down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Release {
    /// What was released.
    pub id: Id,
    /// Its token then.
    pub token: Token,
    /// How far it had come.
    pub phase: Phase,
    /// Why, in the operator's words. At most 1,000 bytes.
    pub reason: String,
    /// When, by the store's wall clock, since the Unix epoch. What a caller writes here is not looked at.
    pub at: Duration,
}

/// A place that keeps keys and results. See the [module](self) for what every one keeps to.
pub trait Store: Send + Sync + fmt::Debug {
    /// What kind of store it is, in logs and metrics: `memory`, `embedded`, `redis`, `postgres`.
    fn kind(&self) -> &'static str;

    /// Reserves a key that is absent or free. A record that is `Running` by the claim's own owner is `New` again.
    fn reserve<'a>(&'a self, id: &'a Id, claim: &'a Claim) -> Step<'a, Reserved>;

    /// Takes a key over whose standing is [`Phase::Running`] or [`Phase::Unknown`] under the token `from`, for `claim`: the token
    /// grows. Anything else is found as it is, but that a record `Running` by the claim's own owner is `New` again.
    fn take_over<'a>(&'a self, id: &'a Id, claim: &'a Claim, from: Token) -> Step<'a, Reserved>;

    /// Ends a reservation; `retention` begins now. `false` if the hold is no longer the key's (another took over, an operator
    /// released it, it was forgotten). To settle again as before is `true` and changes nothing. What is `Unknown` can still be
    /// settled as anything by the hold that it had: late news is news.
    fn settle<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        settled: &'a Settled,
        retention: Duration,
    ) -> Step<'a, bool>;

    /// Keeps the `number`th piece (from 0) of a body that is longer than the record holds: at most [`CHUNK_BYTES`]. `false` as
    /// of [`settle`](Self::settle). It is durable when the settling that follows is; one that is never settled is swept away.
    fn put_chunk<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        number: u32,
        bytes: Bytes,
        retention: Duration,
    ) -> Step<'a, bool>;

    /// The `number`th piece of the body that `token` left; `None` if it is gone.
    fn chunk<'a>(&'a self, id: &'a Id, token: Token, number: u32) -> Step<'a, Option<Bytes>>;

    /// What is known of a key.
    fn find<'a>(&'a self, id: &'a Id) -> Step<'a, Option<Record>>;

    /// Up to about `most` records, from where an earlier page said. Those that change meanwhile may be missed or seen twice;
    /// others are seen once.
    fn list<'a>(&'a self, from: Option<&'a str>, most: usize) -> Step<'a, Page>;

    /// Sets a key free that stands under `release.token`, whatever its phase, and keeps the release for the record (365 days at
    /// least, or the last 10,000). `false` if it no longer stands so; then nothing is written down.
    ///
    /// A damaged record of the embedded store, of which nobody can know the token, is set free whatever token is named, and is
    /// [`Unknown`](Phase::Unknown) in the releases; its tokens go on above all that it can have had.
    fn release<'a>(&'a self, release: &'a Release) -> Step<'a, bool>;

    /// The last releases, newest first, up to `most`.
    fn releases(&self, most: usize) -> Step<'_, Vec<Release>>;

    /// Removes up to `most` records and [pieces](Store::put_chunk) that are past their retention; returns how many there were: if
    /// fewer, there are no more. A store that forgets by itself has nothing to do.
    fn sweep(&self, most: usize) -> Step<'_, usize>;
}

/// Why a step was not taken, or is not known to have been.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The store can't be reached, or can't write now. What was asked for may have been done.
    Down(String),
    /// What it holds is not what was written. Nothing of it is used.
    Corrupt(String),
    /// It has no room: the disk or the memory is full.
    Full(String),
    /// A part of the [`Id`] is longer than [`LONGEST_NAME`]: nothing was done, and never will be. The mistake is the asker's.
    TooLong(String),
}

impl StoreError {
    /// The error's name in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Down(_) => "down",
            Self::Corrupt(_) => "corrupt",
            Self::Full(_) => "full",
            Self::TooLong(_) => "too_long",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(what) => write!(f, "the store of idempotency keys is down: {what}"),
            Self::Corrupt(what) => write!(f, "the store of idempotency keys is damaged: {what}"),
            Self::Full(what) => write!(f, "the store of idempotency keys is full: {what}"),
            Self::TooLong(what) => write!(f, "no store keeps such an idempotency key: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl Id {
    /// The operation `key` of `client` at `place`. Of the client only a hash is kept (the first half of SHA-256), as what tells
    /// clients apart may be a secret.
    #[must_use]
    pub fn new(place: &str, client: &[u8], key: &str) -> Self {
        use sha2::{Digest as _, Sha256};
        let digest = Sha256::digest(client);
        let client: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { place: place.into(), client: client.into(), key: key.into() }
    }

    /// Whether a record may have that name: every store asks before it makes one, so that all of them take the same.
    fn check(&self) -> Result<(), StoreError> {
        for (what, part) in [("place", &self.place), ("client", &self.client), ("key", &self.key)] {
            if part.len() > LONGEST_NAME {
                let long = part.len();
                return Err(StoreError::TooLong(format!(
                    "its {what} has {long} bytes, and {LONGEST_NAME} at most"
                )));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.place, self.client, self.key)
    }
}

/// A century: longer than anybody means, and far from what a store can't count.
const LONGEST_LEASE: Duration = Duration::from_secs(100 * 365 * 86_400);
