//! Thread pool: blocking work in threads of its own.
//!
//! # What it is for
//! Work that blocks (a driver without async, DNS, compression, hashing) takes a thread for as long as it lasts. On the threads
//! of the async runtime it stops everybody else's tasks; on a pool that all share, the slowest dependency takes every thread.
//! Here each dependency has named threads of its own, and a bounded queue before them.
//!
//! # When not to use it
//! For work that is async anyway: use a [bulkhead](crate::layer::Bulkhead). For work that may hang for good or crash: a thread
//! can't be stopped from outside, a [process](super::process_pool) can.
//!
//! # How
//! ```text
//! run -> a thread is free? -- yes --> work there --> its result, or its panic
//!          | no
//!          room in the queue? -- no --> rejected (queue full)
//!          | yes
//!          wait -- max_wait over --> rejected (waited too long)
//!               -- the caller leaves --> the turn goes to the next
//! ```
//! Who waits, waits in its own task, and hands its work over once a thread is free: a caller that leaves takes its work with it,
//! and nothing lies in a queue that nobody waits for. Work that has begun runs to its end, as nothing can stop a thread.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! use seaworthy::bulkhead::{ThreadPool, thread_pool::Config};
//!
//! let images = ThreadPool::new("images", Config { threads: 2, ..Config::default() }).unwrap();
//! let size = images.run(|| std::fs::read("Cargo.toml").map(|bytes| bytes.len())).await;
//! assert!(size.unwrap().unwrap() > 0);
//! # });
//! ```

use std::any::Any;
use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use seaworthy_core::{Fault, Rejection, Rules, Valid};
use tokio::sync::oneshot;

use super::{Crew, Door, Place, Refusal, StartError, cores, faults_of_places, lock, places};
use crate::panic;

/// The numbers of a [`ThreadPool`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Threads, all started at once. As many as the machine has cores: work that computes gains nothing from more. For work
    /// that waits, write how much of it the other side bears at once.
    pub threads: u32,
    /// How much work may wait. 64, as for every bulkhead here.
    pub queue: u32,
    /// How long it may wait. A second; longer, and the caller has less left than it waited.
    pub max_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { threads: cores(), queue: 64, max_wait: Duration::from_secs(1) }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        faults_of_places(&places(self.threads, self.queue, self.max_wait), "threads")
    }
}

/// Why there is no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The work was not begun: no thread, and no room in the queue or no more time.
    Rejected(Rejection),
    /// The work panicked. How far it came, only it knows. The thread goes on.
    Panicked(Panicked),
    /// The work was not begun: the pool is shut down.
    ShutDown,
}

impl Error {
    /// Whether the work was begun, so that doing it again may do it twice.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        matches!(self, Self::Panicked(_))
    }

    /// How long to wait before it is worth asking again, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(rejection) => rejection.retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rejected(_) => "the thread pool refused the work",
            Self::Panicked(_) => "the work panicked",
            Self::ShutDown => "the thread pool is shut down",
        })
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Panicked(panicked) => Some(panicked),
            Self::ShutDown => None,
        }
    }
}

/// The panic of a piece of work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Panicked {
    /// What it said.
    pub message: String,
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Panicked {}

/// Threads that had not ended in time. They end when their work does, if it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StillRunning {
    /// How many.
    pub threads: u32,
}

impl fmt::Display for StillRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} threads are still at work", self.threads)
    }
}

impl StdError for StillRunning {}

/// The state of a [`ThreadPool`] at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Work that runs.
    pub running: u32,
    /// Work that waits for a thread.
    pub waiting: u32,
    /// How much work was refused since the start.
    pub rejected: u64,
    /// How much work panicked since the start.
    pub panicked: u64,
}

/// Threads for blocking work. Cloning it is cheap and shares them; when the last is dropped, the threads end after the work
/// that they are at. See the [module](self).
#[derive(Clone, Debug)]
pub struct ThreadPool {
    handle: Arc<Handle>,
}

impl ThreadPool {
    /// Starts the threads. They are called `name-0`, `name-1` and so on, of which Linux shows the first 15 bytes.
    ///
    /// # Errors
    /// What is wrong with `config`, or that the system gives no thread.
    pub fn new(name: &str, config: Config) -> Result<Self, StartError> {
        let config = Valid::new(config).map_err(StartError::Config)?;
        let bulkhead = Valid::new(places(config.threads, config.queue, config.max_wait));
        let shared = Arc::new(Shared {
            door: Door::new(bulkhead.map_err(StartError::Config)?),
            work: Mutex::default(),
            bell: Condvar::new(),
            panicked: AtomicU64::new(0),
        });
        let handle = Handle { name: name.into(), shared, crew: Crew::default() };
        // Should one fail, dropping the handle ends those before it.
        for n in 0..config.threads {
            let shared = handle.shared.clone();
            handle.crew.start(format!("{name}-{n}"), move || shared.work()).map_err(StartError::System)?;
        }
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Does `work` in a thread of the pool. Dropped before the work began, it frees its turn or place and the work is never
    /// done; dropped later, the work runs on and its result is lost.
    ///
    /// It needs a tokio runtime with time, by which it waits.
    ///
    /// # Errors
    /// A refusal, the work's panic, or that the pool is shut down.
    pub fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, Error>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let shared = self.handle.shared.clone();
        async move {
            let place = shared.door.enter().await.map_err(|refusal| match refusal {
                Refusal::Rejected(rejection) => Error::Rejected(rejection),
                Refusal::ShutDown => Error::ShutDown,
            })?;
            let (reply, answer) = oneshot::channel();
            shared.hand_over(place, work, reply);
            // Without an answer it was never begun.
            answer.await.unwrap_or(Err(Error::ShutDown))
        }
    }

    /// Takes no further work, refuses what waits, and waits until the threads have ended, but no longer than `within`.
    ///
    /// # Errors
    /// Some were still at work. They end by themselves when that does.
    pub async fn shutdown(&self, within: Duration) -> Result<(), StillRunning> {
        self.handle.shared.close();
        self.handle.crew.ended(within).await.map_err(|threads| StillRunning { threads })
    }

    /// The name it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.handle.name
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let places = self.handle.shared.door.snapshot();
        Snapshot {
            running: places.running,
            waiting: places.waiting,
            rejected: places.rejected,
            panicked: self.handle.shared.panicked.load(Ordering::Relaxed),
        }
    }
}

/// What the clones of a pool have in common, and its threads have not.
#[derive(Debug)]
struct Handle {
    name: Arc<str>,
    shared: Arc<Shared>,
    crew: Crew,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[derive(Debug)]
struct Shared {
    door: Arc<Door>,
    work: Mutex<Work>,
    bell: Condvar,
    panicked: AtomicU64,
}

/// What has a place and is about to begin; never more than there are threads.
#[derive(Default)]
struct Work {
    jobs: VecDeque<Box<dyn FnOnce() + Send>>,
    closed: bool,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("jobs", &self.jobs.len()).field("closed", &self.closed).finish()
    }
}

impl Shared {
    fn hand_over<T, W>(self: &Arc<Self>, place: Place, work: W, reply: oneshot::Sender<Result<T, Error>>)
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let shared = self.clone();
        let job = Box::new(move || {
            if reply.is_closed() {
                return;
            }
            let result = catch_unwind(AssertUnwindSafe(work)).map_err(|payload| shared.panicked(payload));
            // Before the answer: whoever has that finds the place free.
            drop(place);
            // Who is not there any more misses it.
            drop(reply.send(result));
        });
        let mut work = lock(&self.work);
        if !work.closed {
            work.jobs.push_back(job);
            drop(work);
            self.bell.notify_one();
        }
    }

    fn panicked(&self, payload: Box<dyn Any + Send>) -> Error {
        self.panicked.fetch_add(1, Ordering::Relaxed);
        Error::Panicked(Panicked { message: panic::message(&*payload) })
    }

    /// The life of a thread.
    fn work(&self) {
        while let Some(job) = self.next() {
            // What is thrown here comes from dropping a result or a panic's own payload. Nobody waits for either.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                // A payload that throws again when it is dropped would end the thread; it is not worth one.
                std::mem::forget(payload);
            }
        }
    }

    fn next(&self) -> Option<Box<dyn FnOnce() + Send>> {
        let waits = |work: &mut Work| work.jobs.is_empty() && !work.closed;
        let woken = self.bell.wait_while(lock(&self.work), waits);
        woken.unwrap_or_else(PoisonError::into_inner).jobs.pop_front()
    }

    /// What has a place is still done; all else is refused.
    fn close(&self) {
        self.door.close();
        lock(&self.work).closed = true;
        self.bell.notify_all();
    }
}
