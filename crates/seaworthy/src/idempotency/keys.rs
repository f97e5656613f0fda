//! What becomes of a request with a key.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use seaworthy_core::idempotency::{Decision, Fingerprint, OnUnknown, Phase, Token, Watch, decide};
use seaworthy_core::{Fault, Instant, Rules, Valid};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::store::{Answer, Claim, Hold, Id, Record, Reserved, Settled, Step, Store, StoreError};
use crate::clock;

/// The numbers and choices of a [`Keys`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// How long an operation may run: who holds a key for longer is taken for dead. 60 s, twice the longest call
    /// ([`call::Config::deadline`](seaworthy_core::call::Config::deadline)); whoever runs an operation has to stop before.
    pub lease: Duration,
    /// How long a result is remembered, and with it that there was one. 24 h, the least that Stripe keeps its own.
    pub retention: Duration,
    /// What becomes of an operation of which nobody knows how it ended.
    pub on_unknown: OnUnknown,
    /// What who asks while it runs is told.
    pub busy: Busy,
    /// What happens while the store is down.
    pub when_down: WhenDown,
    /// How long one step of the store may take. 1 s: a durable write to a busy disk takes some milliseconds, and a caller who
    /// waits for longer is better told.
    pub store_timeout: Duration,
}

/// What who asks for an operation that is running is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Busy {
    /// That it is running (409), and to come back.
    #[default]
    Refuse,
    /// Nothing until it is done, for this long at most.
    Wait(Duration),
}

/// What happens to an operation whose key can't be looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenDown {
    /// It is refused (503): it might be the second time. The default, as a key that is not honoured is worse than none.
    #[default]
    Refuse,
    /// It is carried out, and not remembered.
    Allow,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
            retention: Duration::from_secs(24 * 60 * 60),
            on_unknown: OnUnknown::default(),
            busy: Busy::default(),
            when_down: WhenDown::default(),
            store_timeout: Duration::from_secs(1),
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |field, wrong: bool, problem: &str, remedy: &str| {
            if wrong {
                faults.push(Fault { field, problem: problem.into(), remedy: remedy.into() });
            }
        };
        fault(
            "lease",
            self.lease.is_zero(),
            "is nothing",
            "write how long an operation may run, such as 60s",
        );
        fault(
            "retention",
            self.retention < self.lease * 2,
            "is shorter than two leases, so that a running operation could be forgotten",
            "write a longer time, such as 24h",
        );
        fault(
            "store_timeout",
            self.store_timeout.is_zero(),
            "is nothing",
            "write how long to wait, such as 1s",
        );
        faults
    }
}

/// Idempotency keys of one kind of operation. Cloning it is cheap and shares everything. See the [module](super).
#[derive(Clone, Debug)]
pub struct Keys {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    config: Config,
    watch: Mutex<Watch<Id>>,
    /// Woken when an operation that runs here is settled.
    waiting: Mutex<HashMap<Id, Arc<Notify>>>,
    owners: (RandomState, AtomicU64),
    counts: [AtomicU64; COUNTED.len()],
}

/// What [`Keys::counts`] counts, in its order.
pub const COUNTED: [&str; 9] =
    ["begun", "taken_over", "replayed", "mismatched", "busy", "unknown", "down", "unrecorded", "fenced"];

/// How a request with a key goes on.
#[derive(Debug)]
pub enum Begun {
    /// It is the first: carry it out, and [settle](Running::settle) it.
    First(Running),
    /// It was carried out before.
    Replay(Replay),
    /// The store is down, and it was chosen to carry it out nevertheless. Nothing will be remembered.
    Unrecorded(StoreError),
}

/// Why a request with a key is neither carried out nor replayed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The key was used for another request.
    Mismatch,
    /// It is being carried out.
    Busy {
        /// When to look again.
        retry_after: Duration,
    },
    /// It was begun, and nobody knows how it ended.
    Unknown {
        /// The reservation of which that is so.
        token: Token,
    },
    /// The store is down, so nobody knows whether it was carried out before.
    Down(StoreError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch => f.write_str("the idempotency key was used for another request"),
            Self::Busy { .. } => f.write_str("a request with this idempotency key is being carried out"),
            Self::Unknown { .. } => f.write_str(
                "a request with this idempotency key was begun, and nobody knows whether it had an effect",
            ),
            Self::Down(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Down(error) => Some(error),
            _ => None,
        }
    }
}

impl Keys {
    /// Keys that are kept in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, config: Valid<Config>) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                config: *config,
                watch: Mutex::new(Watch::new(MOST_WATCHED)),
                waiting: Mutex::default(),
                owners: (RandomState::new(), AtomicU64::new(0)),
                counts: Default::default(),
            }),
        }
    }

    /// The numbers and choices.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Where they are kept.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// How often each thing has happened, by [`COUNTED`].
    #[must_use]
    pub fn counts(&self) -> [u64; COUNTED.len()] {
        self.shared.counts.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// May the operation `id` begin? With [`Busy::Wait`] it waits for one that runs. Needs a tokio runtime with time.
    ///
    /// Dropping the future gives back what it had reserved.
    ///
    /// # Errors
    /// Why neither it nor an earlier result can be had.
    pub async fn begin(&self, id: &Id, fingerprint: Fingerprint) -> Result<Begun, Refusal> {
        let shared = &self.shared;
        let claim = Claim { fingerprint, owner: shared.draw(), retention: shared.config.retention };
        let mut until = None;
        let mut pause = FIRST_PAUSE;
        let store = &shared.store;
        let mut asking = Asking { keys: self, id, owner: claim.owner, undo: Some(Settled::Free) };
        let mut reserved = shared.step(store.reserve(id, &claim)).await;
        loop {
            let record = match reserved {
                Ok(Reserved::New(hold)) => return Ok(asking.first(hold, "begun")),
                Ok(Reserved::Found(record)) => record,
                Err(error) => return self.without(error),
            };
            reserved = match self.judge(id, &record, fingerprint) {
                Decision::Replay => {
                    asking.undo = None;
                    return Ok(self.replay(id, record));
                }
                Decision::TakeOver(from) => {
                    // What was begun before is as unknown as it was, whatever becomes of this.
                    asking.undo = Some(Settled::Unknown);
                    match shared.step(store.take_over(id, &claim, from)).await {
                        Ok(Reserved::New(hold)) => return Ok(asking.first(hold, "taken_over")),
                        other => other,
                    }
                }
                Decision::Reserve => shared.step(store.reserve(id, &claim)).await,
                Decision::Busy(left) => {
                    let now = clock::now();
                    let until = *until.get_or_insert(match shared.config.busy {
                        Busy::Refuse => now,
                        Busy::Wait(most) => now.plus(most),
                    });
                    if until <= now {
                        return Err(asking.refused(Refusal::Busy { retry_after: left.min(COME_BACK) }));
                    }
                    shared.wait(id, pause.min(left).min(until.since(now))).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    shared.step(store.reserve(id, &claim)).await
                }
                Decision::Mismatch => return Err(asking.refused(Refusal::Mismatch)),
                Decision::Unknown => {
                    return Err(asking.refused(Refusal::Unknown { token: record.standing.token }));
                }
            };
        }
    }

    fn judge(&self, id: &Id, record: &Record, fingerprint: Fingerprint) -> Decision {
        let shared = &self.shared;
        let token = record.standing.token;
        let lease = match record.standing.phase {
            Phase::Running if !record.orphaned => {
                lock(&shared.watch).left(clock::now(), id, token, record.changed, shared.config.lease)
            }
            _ => None,
        };
        decide(&record.standing, fingerprint, lease, shared.config.on_unknown)
    }

    fn replay(&self, id: &Id, record: Record) -> Begun {
        self.shared.count("replayed");
        Begun::Replay(Replay {
            pieces: Pieces { keys: self.clone(), id: id.clone(), token: record.standing.token },
            changed: record.changed,
            answer: record.answer.unwrap_or_default(),
        })
    }

    fn without(&self, error: StoreError) -> Result<Begun, Refusal> {
        match self.shared.config.when_down {
            WhenDown::Allow => {
                self.shared.count("unrecorded");
                Ok(Begun::Unrecorded(error))
            }
            WhenDown::Refuse => {
                self.shared.count("down");
                Err(Refusal::Down(error))
            }
        }
    }

    /// Has `work` done behind the caller's back, if there is a runtime to do it.
    fn behind(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(work));
        }
    }
}

impl Shared {
    fn count(&self, what: &str) {
        if let Some(n) = COUNTED.iter().position(|name| *name == what) {
            self.counts[n].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// 128 bits that nobody else draws: a keyed hash of a counter, by a key that the operating system drew.
    fn draw(&self) -> u128 {
        let (state, drawn) = &self.owners;
        let n = drawn.fetch_add(1, Ordering::Relaxed);
        (u128::from(state.hash_one((n, 0))) << 64) | u128::from(state.hash_one((n, 1)))
    }

    /// A step, for as long as one may take.
    async fn step<T>(&self, step: Step<'_, T>) -> Result<T, StoreError> {
        let most = self.config.store_timeout;
        timeout(most, step)
            .await
            .unwrap_or_else(|_| Err(StoreError::Down(format!("it did not answer within {most:?}"))))
    }

    /// Waits until the operation is settled here, or `most` has passed.
    async fn wait(&self, id: &Id, most: Duration) {
        let notify = lock(&self.waiting).entry(id.clone()).or_default().clone();
        // Whether it was settled here or not, there is a look at the store afterwards.
        let _late = timeout(most, notify.notified()).await;
        let mut waiting = lock(&self.waiting);
        // This one and the map's: nobody else waits.
        if Arc::strong_count(&notify) <= 2 {
            waiting.remove(id);
        }
    }

    fn settled(&self, id: &Id) {
        lock(&self.watch).over(id);
        if let Some(notify) = lock(&self.waiting).get(id) {
            notify.notify_waiters();
        }
    }

    /// Settles, again and again until the store has heard it or the lease is over.
    async fn insist(&self, id: &Id, hold: Hold, settled: &Settled, until: Instant) {
        let mut pause = FIRST_PAUSE;
        loop {
            let step = self.store.settle(id, hold, settled, self.config.retention);
            match self.step(step).await {
                Ok(_) => return self.settled(id),
                Err(_) if clock::now() >= until => return,
                Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// A wish to begin that may have been granted without its asker having heard of it.
struct Asking<'a> {
    keys: &'a Keys,
    id: &'a Id,
    owner: u128,
    /// What it is settled as if nobody is left to begin it.
    undo: Option<Settled>,
}

impl Asking<'_> {
    fn first(mut self, hold: Hold, how: &str) -> Begun {
        self.undo = None;
        self.keys.shared.count(how);
        Begun::First(Running {
            keys: self.keys.clone(),
            id: self.id.clone(),
            hold,
            until: clock::now().plus(self.keys.shared.config.lease),
            settled: false,
        })
    }

    fn refused(mut self, refusal: Refusal) -> Refusal {
        self.undo = None;
        self.keys.shared.count(match &refusal {
            Refusal::Mismatch => "mismatched",
            Refusal::Busy { .. } => "busy",
            Refusal::Unknown { .. } => "unknown",
            Refusal::Down(_) => "down",
        });
        refusal
    }
}

impl Drop for Asking<'_> {
    /// What was reserved after all is given back: nothing was begun.
    fn drop(&mut self) {
        let Some(settled) = self.undo.take() else { return };
        let (keys, id, owner) = (self.keys.clone(), self.id.clone(), self.owner);
        self.keys.behind(async move {
            let shared = &keys.shared;
            let until = clock::now().plus(shared.config.lease);
            let mut pause = FIRST_PAUSE;
            loop {
                match shared.step(shared.store.find(&id)).await {
                    Ok(Some(record)) if record.standing.phase == Phase::Running => {
                        // If it is another's, this does nothing.
                        let hold = Hold { token: record.standing.token, owner };
                        return shared.insist(&id, hold, &settled, until).await;
                    }
                    Ok(_) => return,
                    Err(_) if clock::now() >= until => return,
                    Err(_) => sleep(pause).await,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }
}

/// The right to carry an operation out. Dropped without having been settled, its outcome is unknown.
#[derive(Debug)]
#[must_use = "what is not settled is unknown"]
pub struct Running {
    keys: Keys,
    id: Id,
    hold: Hold,
    until: Instant,
    settled: bool,
}

/// Why a result is not known to be kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Unsettled {
    /// Another has taken the operation over, or an operator has released its key.
    Fenced,
    /// The store is down. It is told as soon as it can be, until the lease is over.
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

    /// When the operation has to be over.
    #[must_use]
    pub const fn until(&self) -> Instant {
        self.until
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

    /// Ends the operation. When this is ready, that is durable.
    ///
    /// # Errors
    /// It is not known to be kept. If the store is down, it is told later, behind the caller's back.
    pub async fn settle(mut self, settled: Settled) -> Result<(), Unsettled> {
        self.settled = true;
        let keys = self.keys.clone();
        let shared = &keys.shared;
        let step = shared.store.settle(&self.id, self.hold, &settled, shared.config.retention);
        let mut later = Later { running: &self, settled: Some(&settled) };
        let told = heard(shared.step(step).await);
        if !matches!(told, Err(Unsettled::Down(_))) {
            later.settled = None;
            shared.settled(&self.id);
        }
        if matches!(told, Err(Unsettled::Fenced)) {
            shared.count("fenced");
        }
        told
    }

    fn settle_later(&self, settled: Settled) {
        let (keys, id, hold, until) = (self.keys.clone(), self.id.clone(), self.hold, self.until);
        self.keys.behind(async move { keys.shared.insist(&id, hold, &settled, until).await });
    }
}

/// A settling that the store may not have heard.
struct Later<'a> {
    running: &'a Running,
    settled: Option<&'a Settled>,
}

impl Drop for Later<'_> {
    fn drop(&mut self) {
        if let Some(settled) = self.settled.take() {
            self.running.settle_later(settled.clone());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.settled {
            self.settle_later(Settled::Unknown);
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

/// An earlier result.
#[derive(Clone, Debug)]
pub struct Replay {
    pieces: Pieces,
    changed: Duration,
    answer: Answer,
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
    /// As of [`Pieces::get`].
    pub async fn body(&self) -> Result<Bytes, StoreError> {
        if self.answer.chunks == 0 {
            return Ok(self.answer.body.clone());
        }
        let mut whole = self.answer.body.to_vec();
        for number in 0..self.answer.chunks {
            whole.extend_from_slice(&self.pieces.get(number).await?);
        }
        Ok(whole.into())
    }
}

/// The pieces of a long body.
#[derive(Clone, Debug)]
pub struct Pieces {
    keys: Keys,
    id: Id,
    token: Token,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Other processes' running operations that are remembered at a time: some 20 MB.
const MOST_WATCHED: usize = 65_536;
/// The first and the longest pause between two looks at an operation that another process runs.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// When to look again at a running operation, if its lease is not over before: most are done by then.
const COME_BACK: Duration = Duration::from_secs(1);
