//! Opens the store that the configuration names, and looks after it.

use std::error::Error as StdError;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seaworthy::idempotency::Store;
use seaworthy::idempotency::store::durability::Durability;
use seaworthy::idempotency::store::embedded::{self, Embedded, Notice, Stats};
use seaworthy::idempotency::store::memory::Memory;
use seaworthy::idempotency::store::postgres::{self, Postgres};
use seaworthy::idempotency::store::redis::{self, Redis};
use seaworthy_config::{self as settings, Config, KeyStoreKind, Level};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::time::sleep;

use super::watched::{Tell, Watched};
use crate::journal::Journal;
use crate::proxy::{Error, Stage};

/// Looks after the store, on a thread of its own: what connects it to another server are tasks that belong to no worker, and
/// what is past its retention is to be swept whether anybody calls or not.
pub(crate) struct Clerk {
    runtime: Runtime,
    pub store: KeyStore,
    journal: Journal,
}

/// Where keys are kept: a [`Store`], and what some of them can tell besides.
#[derive(Clone, Debug)]
pub(crate) enum KeyStore {
    Memory(Arc<Watched<Memory>>),
    Embedded {
        store: Arc<Embedded>,
        /// By its notices: it tells of its own troubles.
        up: Arc<AtomicBool>,
    },
    Redis(Arc<Watched<Redis>>),
    Postgres(Arc<Watched<Postgres>>),
}

impl KeyStore {
    /// It, as what all of them are.
    pub(crate) fn shared(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Embedded { store, .. } => store.clone(),
            Self::Redis(store) => store.clone(),
            Self::Postgres(store) => store.clone(),
        }
    }

    /// Whether keys can be looked up and kept, as far as is known.
    pub(crate) fn is_up(&self) -> bool {
        match self {
            Self::Memory(store) => store.is_up(),
            Self::Embedded { up, .. } => up.load(Ordering::Relaxed),
            Self::Redis(store) => store.is_up(),
            Self::Postgres(store) => store.is_up(),
        }
    }

    /// What was done to its file, if it has one.
    pub(crate) fn file(&self) -> Option<Stats> {
        match self {
            Self::Embedded { store, .. } => Some(store.stats()),
            Self::Memory(_) | Self::Redis(_) | Self::Postgres(_) => None,
        }
    }

    /// Asks it something where only its answers tell whether it is there.
    async fn probe(&self) {
        match self {
            Self::Memory(store) => store.probe().await,
            Self::Embedded { .. } => {}
            Self::Redis(store) => store.probe().await,
            Self::Postgres(store) => store.probe().await,
        }
    }

    /// What its server promises, as soon as that answers.
    async fn durability(&self) -> Durability {
        loop {
            let told = match self {
                Self::Memory(_) | Self::Embedded { .. } => return Durability::Durable,
                Self::Redis(server) => server.inner().durability().await,
                Self::Postgres(server) => server.inner().durability().await,
            };
            match told {
                Ok(durability) => return durability,
                // Who needs it notices that it is down.
                Err(_) => sleep(ASK_EVERY).await,
            }
        }
    }
}

impl Clerk {
    /// Works until everything is over.
    pub(crate) fn serve(self, mut stage: watch::Receiver<Stage>) -> Result<(), Error> {
        let Self { runtime, store, journal } = self;
        let shared = store.shared();
        runtime.block_on(async {
            tokio::select! {
                // The sender outlives it.
                _ = stage.wait_for(|stage| *stage == Stage::Over) => {}
                () = sweep(&*shared) => {}
                () = probe(&store) => {}
                () = tell(&store, shared.kind(), &journal) => {}
            }
        });
        Ok(())
    }
}

/// Sweeps what is past its retention, a little at a time.
async fn sweep(store: &dyn Store) {
    loop {
        // That a store is down is noticed elsewhere; what is not swept now is swept later.
        let swept = store.sweep(MOST_SWEPT).await.unwrap_or(0);
        sleep(if swept < MOST_SWEPT { SWEEP_EVERY } else { BREATH }).await;
    }
}

/// Asks now and then whether it is there, so that this is known also while no request has a key.
async fn probe(store: &KeyStore) {
    loop {
        store.probe().await;
        sleep(PROBE_EVERY).await;
    }
}

/// Logs what is promised, unless it is all that could be.
async fn tell(store: &KeyStore, kind: &str, journal: &Journal) {
    match store.durability().await {
        Durability::Durable => {}
        weaker => {
            let notice = weaker.to_string();
            journal.event(Level::Warn, "idempotency", &[("store", kind), ("notice", &notice)]);
        }
    }
    pending().await
}

/// Who looks after the store of `config`, if it has one.
///
/// # Errors
/// It can't be used. A server that is down is no error: it may come up later.
pub(crate) fn open(config: &Config, journal: &Journal) -> Result<Option<Clerk>, Error> {
    let Some(settings) = &config.idempotency else { return Ok(None) };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let store = make(&settings.kind, settings.timeout, runtime.handle(), journal)?;
    Ok(Some(Clerk { runtime, store, journal: journal.clone() }))
}

fn make(
    kind: &KeyStoreKind,
    timeout: Duration,
    runtime: &Handle,
    journal: &Journal,
) -> Result<KeyStore, Error> {
    let tell = || tell_of(kind.name(), journal.clone());
    Ok(match kind {
        KeyStoreKind::Memory { most_records } => {
            let store = Memory::new(*most_records as usize);
            KeyStore::Memory(Arc::new(Watched::new(store, timeout, tell())))
        }
        KeyStoreKind::Redis(at) => {
            let options = redis::Options { prefix: at.prefix.clone(), timeout };
            let store = Redis::new(at.url.as_str(), options, runtime.clone()).map_err(unusable)?;
            KeyStore::Redis(Arc::new(Watched::new(store, timeout, tell())))
        }
        KeyStoreKind::Postgres { url, pool, schema } => {
            let options = postgres::Options { schema: schema.clone(), pool: *pool as usize, timeout };
            let store = Postgres::new(url.as_str(), options, runtime.clone()).map_err(unusable)?;
            KeyStore::Postgres(Arc::new(Watched::new(store, timeout, tell())))
        }
        KeyStoreKind::Embedded { folder, cache_bytes, when_corrupt } => {
            let up = Arc::new(AtomicBool::new(true));
            let options = embedded::Options {
                cache_bytes: usize::try_from(*cache_bytes).unwrap_or(usize::MAX),
                when_corrupt: match when_corrupt {
                    settings::WhenCorrupt::Refuse => embedded::WhenCorrupt::Refuse,
                    settings::WhenCorrupt::BeginAnew => embedded::WhenCorrupt::BeginAnew,
                },
                notice: Some(noticing(up.clone(), journal.clone())),
            };
            let store = Arc::new(Embedded::open(&folder.join(FILE), options).map_err(unusable)?);
            KeyStore::Embedded { store, up }
        }
        other => return Err(Error::Keys(format!("this build knows no store {:?}", other.name()).into())),
    })
}

/// Logs that a store stopped answering, and that it answers again.
fn tell_of(kind: &'static str, journal: Journal) -> Tell {
    Box::new(move |trouble| {
        let (level, notice) = match trouble {
            Some(error) => (Level::Warn, error.to_string()),
            None => (Level::Info, "the store of idempotency keys answers again".to_owned()),
        };
        journal.event(level, "idempotency", &[("store", kind), ("notice", &notice)]);
    })
}

/// Logs what the embedded store has to say, and keeps `up` by it.
fn noticing(up: Arc<AtomicBool>, journal: Journal) -> embedded::Tell {
    Arc::new(move |notice| {
        if let Some(is_up) = means(notice) {
            up.store(is_up, Ordering::Relaxed);
        }
        let level = if matches!(notice, Notice::Reopened { .. }) { Level::Info } else { Level::Error };
        let notice = notice.to_string();
        journal.event(level, "idempotency", &[("store", "embedded"), ("notice", &notice)]);
    })
}

/// Whether the file can be used from now on, if the notice says anything of that.
const fn means(notice: &Notice) -> Option<bool> {
    match notice {
        Notice::Shut { .. } | Notice::Corrupt { begun_anew: false, .. } => Some(false),
        Notice::Reopened { .. } => Some(true),
        // One that is begun anew is open soon, or another notice says why not; of one damaged record the others are none.
        _ => None,
    }
}

fn unusable(error: impl StdError + Send + Sync + 'static) -> Error {
    Error::Keys(Box::new(error))
}

/// The embedded store's file in the folder for what outlives the process.
const FILE: &str = "idempotency.redb";
/// Records that are swept at a time: what a store does in some milliseconds.
const MOST_SWEPT: usize = 1000;
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Between two sweeps while there is more: others have their turn.
const BREATH: Duration = Duration::from_millis(10);
/// As often as metrics are read, or oftener.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_secs(5);
