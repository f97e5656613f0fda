//! What becomes of a request with a key.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use seaworthy_core::idempotency::{Decision, Fingerprint, OnUnknown, Phase, Token, Watch, decide};
use seaworthy_core::{Fault, Instant, Rules, Valid};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::errands::{Errands, Turns};
use super::store::{Answer, Claim, Hold, Id, Record, Reserved, Settled, Step, Store, StoreError};
use super::waiting::Waiting;
use crate::clock;

/// The numbers and choices of a [`Keys`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// How long an operation may run: who holds a key for longer is taken for dead. It is written into the key's record, so
    /// that others go by the owner's, whatever theirs is. 60 s, twice the longest call
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
    waiting: Waiting,
    errands: Errands,
    owners: (RandomState, AtomicU64),
    counts: [AtomicU64; COUNTED.len()],
}

/// What [`Keys::counts`] counts, in its order. `untold` are the ends of operations that the store was not told, as it was down
/// for too long: they are unknown.
pub const COUNTED: [&str; 10] = [
    "begun",
    "taken_over",
    "replayed",
    "mismatched",
    "busy",
    "unknown",
    "down",
    "unrecorded",
    "fenced",
    "untold",
];

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
                waiting: Waiting::default(),
                errands: Errands::new(),
                owners: (RandomState::new(), AtomicU64::new(0)),
                counts: Default::default(),
            }),
        }
    }

    /// Keys with the default [`Config`] that are kept in `store`.
    #[must_use]
    pub fn of(store: impl Store + 'static) -> Self {
        Self::new(Arc::new(store), Valid::default())
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
        let Config { lease, retention, .. } = shared.config;
        let claim = Claim { fingerprint, owner: shared.draw(), lease, retention };
        let mut asking = Asking { keys: self, id, claim, undo: None };
        let mut left = match asking.ask().await {
            Asked::Over(result) => return result,
            Asked::Busy(left) => left,
        };
        if let Busy::Wait(most) = shared.config.busy {
            let until = clock::now().plus(most);
            let mut pause = FIRST_PAUSE;
            let waiter = shared.waiting.enter(id);
            loop {
                let mut woken = pin!(waiter.woken());
                woken.as_mut().enable();
                left = match asking.ask().await {
                    Asked::Over(result) => return result,
                    Asked::Busy(left) => left,
                };
                let now = clock::now();
                if until <= now {
                    break;
                }
                // Woken or not, there is another look at the store: another process may have settled it.
                let _late = timeout(pause.min(left).min(until.since(now)), woken).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        Err(shared.refused(Refusal::Busy { retry_after: left.min(COME_BACK) }))
    }

    fn judge(&self, id: &Id, record: &Record, fingerprint: Fingerprint) -> Decision {
        let shared = &self.shared;
        let token = record.standing.token;
        let lease = match record.standing.phase {
            Phase::Running if !record.orphaned => {
                // The owner's lease, and not one's own: another process may have been given a longer one.
                lock(&shared.watch).left(clock::now(), id, token, record.changed, record.lease)
            }
            _ => None,
        };
        decide(&record.standing, fingerprint, lease, shared.config.on_unknown)
    }

    fn replay(&self, id: &Id, record: Record) -> Result<Begun, Refusal> {
        let Some(answer) = record.answer else {
            let what = format!("{id} is done, and its result is gone");
            // It was carried out, so it is not carried out again, whatever was chosen for a store that is down.
            return Err(self.shared.refused(Refusal::Down(StoreError::Corrupt(what))));
        };
        self.shared.count("replayed");
        let pieces = Pieces { keys: self.clone(), id: id.clone(), token: record.standing.token };
        Ok(Begun::Replay(Replay { pieces, changed: record.changed, answer }))
    }

    fn without(&self, error: StoreError) -> Result<Begun, Refusal> {
        match self.shared.config.when_down {
            WhenDown::Allow => {
                self.shared.count("unrecorded");
                Ok(Begun::Unrecorded(error))
            }
            WhenDown::Refuse => Err(self.shared.refused(Refusal::Down(error))),
        }
    }

    /// Tells the store behind the caller's back how an operation ended.
    fn tell(&self, id: &Id, hold: Hold, settled: Settled, runtime: Option<&Handle>) {
        let shared = &self.shared;
        let lease = shared.config.lease;
        let tell = |settled: Settled| {
            let (keys, id) = (self.clone(), id.clone());
            let bytes = match &settled {
                Settled::Done(answer) => answer.head.len() + answer.body.len(),
                Settled::Unknown | Settled::Free => 0,
            };
            shared.errands.run(runtime, bytes, lease, |turns| async move {
                keys.shared.insist(&id, hold, &settled, turns).await;
            })
        };
        let done = matches!(settled, Settled::Done(_));
        // Where there is no room for a result there may be for that nobody has it.
        let told = tell(settled) || (done && tell(Settled::Unknown));
        if !told {
            shared.count("untold");
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

    /// The operation is over, as the store has heard.
    fn settled(&self, id: &Id) {
        lock(&self.watch).over(id);
        self.waiting.wake(id);
    }

    fn refused(&self, refusal: Refusal) -> Refusal {
        self.count(match &refusal {
            Refusal::Mismatch => "mismatched",
            Refusal::Busy { .. } => "busy",
            Refusal::Unknown { .. } => "unknown",
            Refusal::Down(_) => "down",
        });
        refusal
    }

    /// Settles, again and again until the store has heard it.
    async fn insist(&self, id: &Id, hold: Hold, settled: &Settled, mut turns: Turns) {
        loop {
            let step = self.store.settle(id, hold, settled, self.config.retention);
            match turns.take(self.step(step)).await {
                Some(Ok(true)) => return self.settled(id),
                // It is another's, who settles it.
                Some(Ok(false)) => return self.count("fenced"),
                Some(Err(_)) => turns.pause().await,
                None => return self.count("untold"),
            }
        }
    }

    /// Settles what a step may have reserved for `owner` without anybody having heard of it. The step may still be on its way,
    /// so one look does not do.
    async fn undo(&self, id: &Id, owner: u128, settled: &Settled, mut turns: Turns) {
        let mut looks = 0;
        while looks < UNDO_LOOKS {
            let found = match turns.take(self.step(self.store.find(id))).await {
                Some(Ok(found)) => found,
                Some(Err(_)) => {
                    turns.pause().await;
                    continue;
                }
                None => return,
            };
            if let Some(Record { standing, .. }) = found
                && standing.phase == Phase::Running
            {
                // If it is another's, this does nothing.
                let hold = Hold { token: standing.token, owner };
                let step = self.store.settle(id, hold, settled, self.config.retention);
                match turns.take(self.step(step)).await {
                    Some(Ok(true)) => return self.settled(id),
                    Some(Ok(false)) => {}
                    Some(Err(_)) => {
                        turns.pause().await;
                        continue;
                    }
                    None => return,
                }
            }
            looks += 1;
            sleep(self.config.store_timeout).await;
        }
    }
}

/// Somebody who asks to begin, and may have been granted it without having heard of it.
struct Asking<'a> {
    keys: &'a Keys,
    id: &'a Id,
    claim: Claim,
    /// What is to be settled, if a step was begun and nobody knows whether it was taken.
    undo: Option<Settled>,
}

enum Asked {
    Over(Result<Begun, Refusal>),
    /// Its lease ends in this much time at the latest.
    Busy(Duration),
}

impl Asking<'_> {
    async fn ask(&mut self) -> Asked {
        let keys = self.keys;
        let mut from = None;
        Asked::Over(loop {
            // Others may see the reservation from the moment on that the step begins, so its lease begins then.
            let until = clock::now().plus(keys.shared.config.lease);
            let how = if from.is_some() { "taken_over" } else { "begun" };
            let record = match self.step(from.take()).await {
                Ok(Reserved::New(hold)) => break Ok(self.first(hold, until, how)),
                Ok(Reserved::Found(record)) => record,
                Err(error) => {
                    if self.undo.is_some() && keys.shared.config.when_down == WhenDown::Allow {
                        // It will be carried out, and nobody will write down how it ends.
                        self.undo = Some(Settled::Unknown);
                    }
                    break keys.without(error);
                }
            };
            match keys.judge(self.id, &record, self.claim.fingerprint) {
                Decision::Replay => break keys.replay(self.id, record),
                Decision::TakeOver(token) => from = Some(token),
                Decision::Reserve => {}
                Decision::Busy(left) => return Asked::Busy(left),
                Decision::Mismatch => break Err(keys.shared.refused(Refusal::Mismatch)),
                Decision::Unknown => {
                    let token = record.standing.token;
                    break Err(keys.shared.refused(Refusal::Unknown { token }));
                }
            }
        })
    }

    /// Reserves, or takes over what stands under `from`.
    async fn step(&mut self, from: Option<Token>) -> Result<Reserved, StoreError> {
        let Keys { shared } = self.keys;
        let (step, undo) = match from {
            None => (shared.store.reserve(self.id, &self.claim), Settled::Free),
            // What was begun before is as unknown as it was, whatever becomes of this.
            Some(token) => (shared.store.take_over(self.id, &self.claim, token), Settled::Unknown),
        };
        self.undo = Some(undo);
        let reserved = shared.step(step).await;
        if !matches!(reserved, Err(StoreError::Down(_))) {
            self.undo = None;
        }
        reserved
    }

    fn first(&self, hold: Hold, until: Instant, how: &str) -> Begun {
        self.keys.shared.count(how);
        Begun::First(Running {
            keys: self.keys.clone(),
            id: self.id.clone(),
            hold,
            until,
            runtime: Handle::try_current().ok(),
            settled: false,
        })
    }
}

impl Drop for Asking<'_> {
    /// What was reserved after all is given back: nothing was begun.
    fn drop(&mut self) {
        let Some(settled) = self.undo.take() else { return };
        let (keys, id, owner) = (self.keys.clone(), self.id.clone(), self.claim.owner);
        let lease = keys.shared.config.lease;
        let told = self.keys.shared.errands.run(None, 0, lease, |turns| async move {
            keys.shared.undo(&id, owner, &settled, turns).await;
        });
        if !told {
            self.keys.shared.count("untold");
        }
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
    /// Where it began, for the case that it is dropped elsewhere.
    runtime: Option<Handle>,
    settled: bool,
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
        match told {
            Ok(()) => shared.settled(&self.id),
            Err(Unsettled::Fenced) => shared.count("fenced"),
            Err(Unsettled::Down(_)) => return told,
        }
        later.settled = None;
        told
    }

    fn settle_later(&self, settled: Settled) {
        self.keys.tell(&self.id, self.hold, settled, self.runtime.as_ref());
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
/// How often it is looked whether a step was taken after all that nobody heard of, at intervals of the store's timeout.
const UNDO_LOOKS: u32 = 3;
