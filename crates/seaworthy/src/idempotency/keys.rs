//! What becomes of a request with a key.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seaworthy_core::Valid;
use seaworthy_core::idempotency::{Decision, Fingerprint, OnUnknown, Phase, Token, Watch, decide};
use tokio::time::{sleep, timeout};

use super::asking::{Asked, Asking};
use super::config::{Busy, Config};
use super::counts::{COUNTED, Count, Counts};
use super::errands::Errands;
use super::replay::{Pieces, Replay};
use super::running::Running;
use super::store::{Claim, Id, Record, Step, Store, StoreError};
use super::waiting::Waiting;
use crate::clock;

/// Idempotency keys of one kind of operation. Cloning it is cheap and shares everything. See the [module](super).
#[derive(Clone, Debug)]
pub struct Keys {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) config: Config,
    watch: Mutex<Watch<Id>>,
    /// Woken when an operation that runs here is settled.
    waiting: Waiting,
    /// What tells how operations ended.
    pub(super) errands: Errands,
    /// What gives back that nobody has heard of.
    pub(super) undoing: Errands,
    owners: (RandomState, AtomicU64),
    pub(super) counts: Counts,
}

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
    /// It was carried out before, and its result can't be had: it could not be kept, or is damaged.
    Lost,
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
            Self::Lost => f.write_str(
                "a request with this idempotency key was carried out, and its result could not be kept or is damaged",
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
                undoing: Errands::new(),
                owners: (RandomState::new(), AtomicU64::new(0)),
                counts: Counts::default(),
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
        self.shared.counts.read()
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
        let mut asking = Asking::new(self, id, claim);
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

    /// Removes what is past its retention from the store, now and once every `period` (a second at least), until it is dropped: a
    /// program that keeps its keys in memory, in a file or in PostgreSQL spawns it once for each store. Redis forgets by itself.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use seaworthy::idempotency::{Keys, store::memory::Memory};
    /// # async fn start() {
    /// let keys = Keys::of(Memory::new(100_000));
    /// tokio::spawn(keys.sweep_every(Duration::from_secs(60)));
    /// # }
    /// ```
    pub fn sweep_every(&self, period: Duration) -> impl Future<Output = ()> + Send + 'static {
        let store = self.shared.store.clone();
        let period = period.max(LEAST_PERIOD);
        async move {
            loop {
                // What is not swept now, as the store is down, is swept later; whoever needs the store notices that it is.
                let swept = store.sweep(SWEPT_AT_ONCE).await.unwrap_or(0);
                sleep(if swept < SWEPT_AT_ONCE { period } else { BREATH }).await;
            }
        }
    }

    pub(super) fn judge(&self, id: &Id, record: &Record, fingerprint: Fingerprint) -> Decision {
        let shared = &self.shared;
        let token = record.standing.token;
        // Who is dead writes nothing any more, so what it left is unknown at once. But what it has asked others for may still be
        // under way: who would ask for it again waits until it is over, as for any other.
        let abandoned = record.orphaned && shared.config.on_unknown == OnUnknown::Refuse;
        let lease = match record.standing.phase {
            Phase::Running if !abandoned => {
                // The owner's lease, and not one's own: another process may have been given a longer one.
                lock(&shared.watch).left(clock::now(), id, token, record.changed, record.lease)
            }
            _ => None,
        };
        decide(&record.standing, fingerprint, lease, shared.config.on_unknown)
    }

    pub(super) fn replay(&self, id: &Id, record: Record) -> Result<Begun, Refusal> {
        let Some(answer) = record.answer else {
            // It was carried out, so it is not carried out again, whatever was chosen for a store that is down.
            return Err(self.shared.refused(Refusal::Lost));
        };
        self.shared.counts.add(Count::Replayed);
        let pieces = Pieces { keys: self.clone(), id: id.clone(), token: record.standing.token };
        Ok(Begun::Replay(Replay { pieces, changed: record.changed, answer }))
    }
}

impl Shared {
    /// 128 bits that nobody else draws: a keyed hash of a counter, by a key that the operating system drew.
    fn draw(&self) -> u128 {
        let (state, drawn) = &self.owners;
        let n = drawn.fetch_add(1, Ordering::Relaxed);
        (u128::from(state.hash_one((n, 0))) << 64) | u128::from(state.hash_one((n, 1)))
    }

    /// A step, for as long as one may take.
    pub(super) async fn step<T>(&self, step: Step<'_, T>) -> Result<T, StoreError> {
        let most = self.config.store_timeout;
        timeout(most, step)
            .await
            .unwrap_or_else(|_| Err(StoreError::Down(format!("it did not answer within {most:?}"))))
    }

    /// The operation is over, as the store has heard.
    pub(super) fn settled(&self, id: &Id) {
        lock(&self.watch).over(id);
        self.waiting.wake(id);
    }

    pub(super) fn refused(&self, refusal: Refusal) -> Refusal {
        self.counts.add(match &refusal {
            Refusal::Mismatch => Count::Mismatched,
            Refusal::Busy { .. } => Count::Busy,
            Refusal::Unknown { .. } => Count::Unknown,
            Refusal::Lost | Refusal::Down(_) => Count::Down,
        });
        refusal
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
/// The shortest time between two looks for what is past its retention: retentions are hours.
const LEAST_PERIOD: Duration = Duration::from_secs(1);
/// How much is swept at once, and the pause before the next if there is more: so that others have their turn at the store.
const SWEPT_AT_ONCE: usize = 1_000;
const BREATH: Duration = Duration::from_millis(50);
