//! Process pool: work in processes of its own, each of which may fall without taking anything along.
//!
//! # What it is for
//! Work that can't be trusted with a thread: a parser in C, a plug-in, an interpreter, whatever leaks, hangs or crashes. Each
//! call is one exchange with a worker process; a crash, a hang or a leak there loses that one call, with an error that says what
//! happened, and the worker is replaced.
//!
//! # When not to use it
//! For work that behaves: a call costs two copies of its bytes and about a tenth of a millisecond, and a worker is a whole process.
//! Use a [thread pool](super::thread_pool) there. And it is no sandbox: a worker may do all that its user may.
//!
//! # How
//! The workers are this same program, unless [another command](ProcessPool::with_command) is given. Its `main` asks first of all
//! whether it is one:
//!
//! ```no_run
//! use seaworthy::bulkhead::process_pool::{self, Config, ProcessPool};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     if process_pool::is_worker("thumbnails") {
//!         // Runs until the pool has no more to do.
//!         return Ok(process_pool::serve(|image| thumbnail(&image))?);
//!     }
//!     let pool = ProcessPool::new("thumbnails", Config::default())?;
//!     let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
//!     let small = runtime.block_on(pool.call(b"a large image".to_vec()))?;
//!     println!("{} bytes", small.len());
//!     Ok(())
//! }
//!
//! fn thumbnail(image: &[u8]) -> Vec<u8> {
//!     image[..1].to_vec()
//! }
//! ```
//!
//! ```text
//!        starts               greets in start_timeout          a call            answers
//! DOWN ----------> STARTING -------------------------> IDLE ----------> BUSY ------------> IDLE
//!   ^                 | does not                        | ends           | ends, hangs, breaks the format:
//!   |                 v                                 v                v the call is lost
//!   +------ wait, longer each time in a row <-----------+----------------+
//!   +------ at once: calls_per_worker done -------------------------------------------------+
//! ```
//! The first loss after good work is made up for at once; those in a row wait as the core's
//! [retries](crate::core::call::retry::Backoff) do. What a worker does while nobody has called it loses no call.
//!
//! No worker outlives its pool's process: its standard input closes, and on Linux the kernel kills it. When the pool is dropped
//! or shut down it kills what is left. All that a worker started and that stayed in its process group goes with it. A
//! group of its own also keeps the terminal's Ctrl-C away from it: whether work is broken off is for the parent to say.
//!
//! # The format
//! A worker's standard input is a Unix stream socket, which is read and written. All numbers are big-endian.
//!
//! ```text
//! worker, once ready   "seawork1"                                              8 bytes
//! pool, a request      number: u64 | length: u32 | bytes                       then waits
//! worker, its answer   the same number: u64 | kind: u8 | length: u32 | bytes   kind 0: the result; 1: what a panic said
//! pool, at the end     closes; the worker exits
//! ```
//! One request is under way at a time. A worker in another language does the same and looks itself after its memory, for example
//! by `sh -c 'ulimit -v 1000000; exec worker'`.

mod board;
mod error;
mod keeper;
mod wire;
mod worker;

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use seaworthy_core::call::retry;
use seaworthy_core::{Fault, Rng, Rules, Seeded, Valid};

pub use self::error::{Again, Cause, Error};
pub use self::worker::{WORKER, WORKER_MEMORY, is_worker, serve};

use self::board::{LAST_BREATH, Shared};
use self::keeper::Keeper;
use super::{Crew, Door, Refusal, StartError, cores, faults_of_places, places};
use crate::pipeline::arbitrary_seed;

/// The numbers of a [`ProcessPool`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Worker processes, all started at once. As many as the machine has cores: work that computes gains nothing from more.
    pub workers: u32,
    /// How many calls may wait for a worker. 64, as for every bulkhead here.
    pub queue: u32,
    /// How long a call may wait for its turn, and then once more for a worker that is up. A second; longer, and the caller has
    /// less left than it waited.
    pub max_wait: Duration,
    /// How long a call may take before its worker is killed. 30 s, the ceiling of every timeout here: without one, a hang would
    /// cost a worker for good.
    pub timeout: Duration,
    /// How long a worker may take until it greets. 10 s: a program that loads a model may need seconds, one that never greets is
    /// no worker.
    pub start_timeout: Duration,
    /// The most bytes of a request or an answer, below 4 GiB. 16 MiB: a worker gone mad can't fill the caller's memory.
    pub most_bytes: u64,
    /// The most bytes of address space of a worker (`RLIMIT_AS`), set by [`serve`]. None: how much the work needs only its user
    /// knows. It counts what is reserved, not what is used: a program needs some 10 MB before it does anything, and each
    /// further thread 8 to 70 more.
    pub memory: Option<u64>,
    /// After how many calls a worker is replaced, against slow leaks. None: a leak is better found than hidden.
    pub calls_per_worker: Option<u32>,
    /// The wait before the second of two starts in a row that come to nothing; it doubles from there, half of it drawn by lot.
    /// 100 ms: a program that fails at once may try ten times a second.
    pub restart_base: Duration,
    /// The longest such wait. 10 s: no longer than a repaired program should be missed.
    pub restart_cap: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: cores(),
            queue: 64,
            max_wait: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(10),
            most_bytes: 16 * 1024 * 1024,
            memory: None,
            calls_per_worker: None,
            restart_base: Duration::from_millis(100),
            restart_cap: Duration::from_secs(10),
        }
    }
}

impl Config {
    fn backoff(&self) -> retry::Config {
        let (base, cap) = (self.restart_base, self.restart_cap);
        // Half of the wait is certain: a worker that falls at once must not be started without pause by a lucky draw.
        retry::Config { base, cap, jitter: retry::Jitter::Equal, ..retry::Config::default() }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = faults_of_places(&places(self.workers, self.queue, self.max_wait), "workers");
        if self.max_wait.is_zero() && self.queue == 0 {
            faults.push(zero("max_wait", "a call needs a moment to reach its worker; write \"1s\""));
        }
        if self.timeout.is_zero() {
            faults.push(zero("timeout", "every call would be lost; write how long one may take"));
        }
        if self.start_timeout.is_zero() {
            faults.push(zero("start_timeout", "no worker could ever start; write how long one may take"));
        }
        if self.calls_per_worker == Some(0) {
            faults.push(zero("calls_per_worker", "no worker could ever work; write 1 or more, or none"));
        }
        if self.most_bytes > u64::from(u32::MAX) {
            let problem = format!("is {}", self.most_bytes);
            let remedy = "a frame has less than 4 GiB".into();
            faults.push(Fault { field: "most_bytes", problem, remedy });
        }
        if self.restart_cap < self.restart_base {
            let problem = format!("is {:?}, below restart_base ({:?})", self.restart_cap, self.restart_base);
            let remedy = "the longest wait must be at least the first".into();
            faults.push(Fault { field: "restart_cap", problem, remedy });
        }
        faults
    }
}

fn zero(field: &'static str, remedy: &str) -> Fault {
    Fault { field, problem: "is 0".into(), remedy: remedy.into() }
}

/// The state of a [`ProcessPool`] at a moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Calls that have a place.
    pub running: u32,
    /// Calls that wait for one.
    pub waiting: u32,
    /// How many calls were refused since the start.
    pub rejected: u64,
    /// The process ids of the workers that are up.
    pub workers: Vec<u32>,
    /// How many workers were started since the start.
    pub started: u64,
    /// How many calls were lost with their worker since the start.
    pub lost: u64,
    /// What befell the last worker that was lost or could not be started.
    pub last: Option<Cause>,
}

/// Workers that had to be killed, and their calls lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Killed {
    /// How many.
    pub workers: u32,
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} workers did not end in time and were killed", self.workers)
    }
}

impl std::error::Error for Killed {}

/// Worker processes. Cloning it is cheap and shares them; when the last is dropped, they are killed. See the [module](self).
#[derive(Clone, Debug)]
pub struct ProcessPool {
    handle: Arc<Handle>,
}

impl ProcessPool {
    /// Starts workers that are this same program, whose `main` must ask [`is_worker`] first of all.
    ///
    /// What they print goes to this process's standard error. That a worker can't be started is no error here: it is tried
    /// again, and [`Snapshot::last`] says why.
    ///
    /// # Errors
    /// What is wrong with `config`, that the system gives no thread or pipe, or that this process is itself a worker.
    pub fn new(name: &str, config: Config) -> Result<Self, StartError> {
        if std::env::var_os(WORKER).is_some() {
            return Err(StartError::InsideWorker);
        }
        let mut command = this_program().map_err(StartError::System)?;
        let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(StartError::System)?;
        command.stdout(stderr);
        Self::with_command(name, config, command)
    }

    /// Starts workers by `command`, which [serve] or speak the [format](self) themselves. Its standard input, its process group
    /// and the variables [`WORKER`] and [`WORKER_MEMORY`] are the pool's to set, all else is the caller's.
    ///
    /// # Errors
    /// What is wrong with `config`, or that the system gives no thread or pipe.
    pub fn with_command(name: &str, config: Config, mut command: Command) -> Result<Self, StartError> {
        let config = *Valid::new(config).map_err(StartError::Config)?;
        let bulkhead = Valid::new(places(config.workers, config.queue, config.max_wait));
        let door = Door::new(bulkhead.map_err(StartError::Config)?);
        let backoff = Valid::new(config.backoff()).map_err(StartError::Config)?;
        command.env(WORKER, name).process_group(0);
        match config.memory {
            Some(bytes) => command.env(WORKER_MEMORY, bytes.to_string()),
            None => command.env_remove(WORKER_MEMORY),
        };
        let (bells, ears) = bells(config.workers).map_err(StartError::System)?;
        let shared = Arc::new(Shared::new(config, backoff, door, command, bells));
        let handle = Handle { name: name.into(), shared: shared.clone(), crew: Crew::default() };
        // Should one thread fail, dropping the handle ends those before it.
        let mut rng = Seeded::new(arbitrary_seed());
        for (seat, ear) in ears.into_iter().enumerate() {
            let keeper = Keeper::new(shared.clone(), seat, ear, Seeded::new(rng.next_u64()));
            handle.crew.start(format!("{name}-{seat}"), || keeper.run()).map_err(StartError::System)?;
        }
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Has a worker do `request`, and returns its answer. Dropped before the call has begun, it is never made; dropped later, the
    /// worker goes on until it is done or its time is over, and its answer is lost.
    ///
    /// It needs a tokio runtime with time, by which it waits.
    ///
    /// # Errors
    /// A refusal, that no worker is up, or that the call was lost; [`Error::again`] says whether another try is safe.
    pub fn call(&self, request: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, Error>> + Send + use<> {
        let shared = self.handle.shared.clone();
        async move {
            let (length, most) = (request.len() as u64, shared.config.most_bytes);
            if length > most {
                return Err(Error::TooLong { length, most });
            }
            let place = shared.door.enter().await.map_err(|refusal| match refusal {
                Refusal::Rejected(rejection) => Error::Rejected(rejection),
                Refusal::ShutDown => Error::ShutDown,
            })?;
            let (id, mut answer) = shared.submit(place, request);
            let unbegun = Unbegun { shared: &shared, id };
            let answer = match tokio::time::timeout(shared.config.max_wait, &mut answer).await {
                Ok(answer) => answer,
                Err(_) if unbegun.withdraw() => return Err(shared.no_worker()),
                Err(_) => answer.await,
            };
            // Without an answer it was never begun.
            answer.unwrap_or(Err(Error::ShutDown))
        }
    }

    /// Takes no further call, refuses those that wait, and waits until the workers have ended by themselves; those that have not
    /// `within` this time are killed.
    ///
    /// # Errors
    /// How many were killed. Their calls are lost.
    pub async fn shutdown(&self, within: Duration) -> Result<(), Killed> {
        let Handle { shared, crew, .. } = &*self.handle;
        shared.close();
        if crew.ended(within).await.is_ok() {
            return Ok(());
        }
        let workers = shared.kill();
        // What was killed is gone as soon as the kernel has time for it.
        let buried = crew.ended(LAST_BREATH * 5).await.is_ok();
        if buried && workers == 0 { Ok(()) } else { Err(Killed { workers }) }
    }

    /// The name it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.handle.name
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.handle.shared.snapshot()
    }
}

/// What the clones of a pool have in common, and its threads have not.
struct Handle {
    name: Arc<str>,
    shared: Arc<Shared>,
    crew: Crew,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.kill();
    }
}

/// A call that is taken back when its caller leaves, unless it has begun.
struct Unbegun<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Unbegun<'_> {
    fn withdraw(&self) -> bool {
        self.shared.withdraw(self.id)
    }
}

impl Drop for Unbegun<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// What is to be rung, and what hears it.
fn bells(count: u32) -> io::Result<(Vec<UnixStream>, Vec<UnixStream>)> {
    let pairs = (0..count).map(|_| {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        Ok((bell, ear))
    });
    pairs.collect::<io::Result<Vec<_>>>().map(|pairs| pairs.into_iter().unzip())
}

/// A command that starts this program again. Where the system can name the very program that runs, a worker is of the same
/// version even if the file has been replaced since.
fn this_program() -> io::Result<Command> {
    let path = std::env::current_exe()?;
    let running = Path::new("/proc/self/exe");
    let mut command = Command::new(if running.exists() { running } else { &path });
    command.arg0(&path).stdin(Stdio::null());
    Ok(command)
}
