//! Bulkheads that do the work themselves: in threads or processes of their own.
//!
//! [`shared::Bulkhead`](crate::shared::Bulkhead) bounds how much runs at once, wherever that is. A [`ThreadPool`] also says
//! where: in named threads for work that blocks, so that it can't take the threads of anything else.
//!
//! Who may begin, who waits and who is refused is decided by [`core::gate::bulkhead`](crate::core::gate::bulkhead) in both.

pub mod thread_pool;

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use seaworthy_core::gate::bulkhead::{Config, Snapshot, Ticket};
use seaworthy_core::{Fault, Rejection, Rules, Valid};

use crate::clock;
use crate::shared::Bulkhead;
use crate::shared::bulkhead::Acquire;

pub use thread_pool::ThreadPool;

/// Why a pool could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// Everything that is wrong with its numbers.
    Config(Vec<Fault>),
    /// The system gives no further thread, or no pipe.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(faults) => {
                f.write_str("the pool's numbers break their rules")?;
                faults.iter().try_for_each(|fault| write!(f, "; {fault}"))
            }
            Self::System(_) => f.write_str("the system gives the pool no thread or pipe"),
        }
    }
}

impl StdError for StartError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::System(error) => Some(error),
            Self::Config(_) => None,
        }
    }
}

/// A pool's places and the queue before them, until it shuts down.
#[derive(Debug)]
struct Door {
    config: Valid<Config>,
    bulkhead: Bulkhead,
    closed: AtomicBool,
}

impl Door {
    fn new(config: Valid<Config>) -> Arc<Self> {
        Arc::new(Self { config, bulkhead: Bulkhead::new(config), closed: AtomicBool::new(false) })
    }

    /// Asks for a place; who drops this while it waits gives up its turn.
    fn enter(self: &Arc<Self>) -> Entering {
        Entering { door: self.clone(), acquire: Some(Acquire::new()) }
    }

    /// Nobody enters any more, and who waits is told.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // New numbers, even if they are the old ones, wake everybody who waits.
        self.bulkhead.reconfigure(clock::now(), self.config);
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn snapshot(&self) -> Snapshot {
        self.bulkhead.snapshot(clock::now())
    }
}

/// Why nobody enters.
enum Refusal {
    Rejected(Rejection),
    ShutDown,
}

struct Entering {
    door: Arc<Door>,
    /// Taken when it is over.
    acquire: Option<Acquire>,
}

impl Future for Entering {
    type Output = Result<Place, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { door, acquire } = &mut *self;
        let polled = match acquire {
            Some(acquire) => acquire.poll(&door.bulkhead, clock::now(), cx),
            None => return Poll::Ready(Err(Refusal::ShutDown)),
        };
        if let Poll::Ready(answer) = polled {
            *acquire = None;
            let place = answer.map(|ticket| Place { door: door.clone(), ticket: Some(ticket) });
            let closed = door.is_closed();
            return Poll::Ready(match place {
                Ok(_) if closed => Err(Refusal::ShutDown),
                Ok(place) => Ok(place),
                Err(rejection) => Err(Refusal::Rejected(rejection)),
            });
        }
        // Asked after the waker was left behind: whoever closes the door from now on wakes us.
        if door.is_closed() {
            self.leave();
            return Poll::Ready(Err(Refusal::ShutDown));
        }
        Poll::Pending
    }
}

impl Entering {
    fn leave(&mut self) {
        if let Some(acquire) = self.acquire.take() {
            acquire.leave(&self.door.bulkhead, clock::now());
        }
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A place in a pool; dropping it gives it to the next.
#[derive(Debug)]
struct Place {
    door: Arc<Door>,
    ticket: Option<Ticket>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.door.bulkhead.settle(clock::now(), ticket);
        }
    }
}

/// The places of a pool of `size`, whose field of that is called `field`.
fn places(size: u32, queue: u32, max_wait: std::time::Duration) -> Config {
    Config { concurrency: size, queue, max_wait, ..Config::default() }
}

/// What is wrong with a pool's places, in its own words: `size` is what it calls the number of them.
fn faults_of_places(places: &Config, size: &'static str) -> Vec<Fault> {
    let mut faults = places.faults();
    for fault in faults.iter_mut().filter(|fault| fault.field == "concurrency") {
        fault.field = size;
        fault.remedy = "nothing could ever be done; write 1 or more".into();
    }
    faults
}

/// What a panic said.
fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "it said nothing".to_owned(),
    }
}

/// As many as the machine has cores, or four where it does not say.
fn cores() -> u32 {
    let cores = std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok());
    cores.unwrap_or(4)
}
