//! Opens the store that the configuration names.

use std::error::Error as StdError;
use std::sync::Arc;

use seaworthy::idempotency::Store;
use seaworthy::idempotency::store::memory::Memory;
use seaworthy::idempotency::store::redis::{self, Redis};
use seaworthy_config::{Config, KeyStoreKind};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::journal::Journal;
use crate::proxy::{Error, Stage};

/// Does the work of a store that is another server: its connections are tasks, and belong to no worker.
pub(crate) struct Clerk {
    runtime: Runtime,
}

impl Clerk {
    fn new() -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
        Ok(Self { runtime })
    }

    fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Works until everything is over.
    pub(crate) fn serve(self, mut stage: watch::Receiver<Stage>) -> Result<(), Error> {
        // The sender outlives it.
        let _ = self.runtime.block_on(stage.wait_for(|stage| *stage == Stage::Over));
        Ok(())
    }
}

/// The store of `config`, if it has one, and who does its work, if it has any.
///
/// # Errors
/// It can't be used. A server that is down is no error: it may come up later.
pub(crate) fn open(
    config: &Config,
    journal: &Journal,
) -> Result<(Option<Arc<dyn Store>>, Option<Clerk>), Error> {
    let Some(settings) = &config.idempotency else { return Ok((None, None)) };
    let timeout = settings.timeout;
    Ok(match &settings.kind {
        KeyStoreKind::Memory { most_records } => (Some(Arc::new(Memory::new(*most_records as usize))), None),
        KeyStoreKind::Redis(at) => {
            let clerk = Clerk::new()?;
            let options = redis::Options { prefix: at.prefix.clone(), timeout, ..redis::Options::default() };
            let store = Redis::new(at.url.as_str(), options, clerk.handle()).map_err(unusable)?;
            (Some(Arc::new(store)), Some(clerk))
        }
        other => return Err(Error::Keys(format!("the store {:?} is not there yet", other.name()).into())),
    })
}

fn unusable(error: impl StdError + Send + Sync + 'static) -> Error {
    Error::Keys(Box::new(error))
}
