//! Bulkheads that do the work themselves: in threads or processes of their own.
//!
//! [`shared::Bulkhead`](crate::shared::Bulkhead) bounds how much runs at once, wherever that is. These two also say where:
//!
//! * [`ThreadPool`]: named threads for work that blocks, so that it can't take the threads of anything else;
//! * `ProcessPool` (Unix, feature `process-pool`): worker processes, so that a crash, a leak or a hang of the work loses that
//!   one call.
//!
//! Who may begin, who waits and who is refused is decided by [`core::gate::bulkhead`](crate::core::gate::bulkhead) in all
//! of them.

#[cfg(all(unix, feature = "process-pool"))]
pub mod process_pool;
pub mod thread_pool;

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use seaworthy_core::gate::bulkhead::{Config, Snapshot, Ticket};
use seaworthy_core::{Fault, Rejection, Rules, Valid};
use tokio::sync::watch;

use crate::clock;
use crate::shared::Bulkhead;
use crate::shared::bulkhead::Acquire;

#[cfg(all(unix, feature = "process-pool"))]
pub use process_pool::ProcessPool;
pub use thread_pool::ThreadPool;

/// Why a pool could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// Everything that is wrong with its numbers.
    Config(Vec<Fault>),
    /// The system gives no further thread, or no pipe.
    System(io::Error),
    /// This process is itself a worker of a pool, and the pool would start this same program again: whose workers would
    /// start theirs, without end. A program that can be a worker asks whether it is one first of all.
    InsideWorker,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(faults) => {
                f.write_str("the pool's numbers break their rules")?;
                faults.iter().try_for_each(|fault| write!(f, "; {fault}"))
            }
            Self::System(_) => f.write_str("the system gives the pool no thread or pipe"),
            Self::InsideWorker => f.write_str(
                "a worker process may not start its own program as a pool: ask process_pool::is_worker first in main",
            ),
        }
    }
}

impl StdError for StartError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::System(error) => Some(error),
            Self::Config(_) | Self::InsideWorker => None,
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

/// A pool's threads, and how many have not ended.
#[derive(Debug)]
struct Crew {
    alive: watch::Sender<u32>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Default for Crew {
    fn default() -> Self {
        Self { alive: watch::Sender::new(0), threads: Mutex::default() }
    }
}

impl Crew {
    fn start(&self, name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.alive.send_modify(|alive| *alive += 1);
        let alive = Alive(self.alive.clone());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            work();
            drop(alive);
        })?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Waits until all have ended; fails with how many have not `within` this time.
    async fn ended(&self, within: Duration) -> Result<(), u32> {
        let mut alive = self.alive.subscribe();
        let ended = tokio::time::timeout(within, alive.wait_for(|alive| *alive == 0)).await.is_ok();
        if !ended {
            return Err(*self.alive.borrow());
        }
        // They have said that they are done, so this takes no longer than a thread's own end.
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // Who panicked has said so on standard error, and there is nothing else that it could tell.
            drop(thread.join());
        }
        Ok(())
    }
}

/// Counts a thread that has not ended.
struct Alive(watch::Sender<u32>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_modify(|alive| *alive -= 1);
    }
}

/// Locks `mutex`. Each change under these locks is one step, so what a panic leaves behind is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The places of a pool of `size`.
fn places(size: u32, queue: u32, max_wait: Duration) -> Config {
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

/// As many as the machine has cores, or four where it does not say.
fn cores() -> u32 {
    let cores = std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok());
    cores.unwrap_or(4)
}
