//! Keys in a file of one process: the default, which needs no server.
//!
//! The file is a [redb](https://docs.rs/redb) database: a copy-on-write B-tree that is whole after a crash at any moment.
//!
//! **Durability.** A step is answered once its commit was synced to the disk (`fdatasync`). One thread writes; it commits all
//! steps at once that came while the commit before was under way, so many callers share one sync.
//!
//! **Death.** Only one process has the file open, by a lock on `<file>.lock`. So at every opening, whoever ran what is still
//! [`Running`](seaworthy_core::idempotency::Phase::Running) is dead, and its record says [`orphaned`](super::Record::orphaned).
//!
//! **Damage.** Every opening, and so every recovery, checks the whole file (about a second for each GB that the
//! system has in memory, and otherwise as long as the disk takes to read it), that every key in it has a
//! time at which it ends, and that it knows of every commit that was acknowledged; every value that is read is checked against a
//! checksum of its own. A damaged file is moved to `<file>.corrupt-<seconds>`, and what follows is [`Options::when_corrupt`]. What
//! no checksum of a value shows while the process runs is a damaged name of a key, or a damaged inner page: what is behind it
//! reads as absent, and can be carried out a second time, until the next opening finds it. A file of another version's format is
//! not damaged: it is refused, and left where it is.
//!
//! **Trouble.** When the disk is full or fails, steps are answered with an error, none that was acknowledged is lost, and the
//! file is opened again by itself, 50 ms to 5 s later.
//!
//! **Time.** Retention is counted by a clock of the store's own that no setting of the wall clock moves (see
//! `embedded/clock.rs`).
//!
//! When not to use it: where several processes serve the same keys. Redis or PostgreSQL is the answer there.

mod clock;
mod disk;
mod fault;
mod row;
mod step;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use seaworthy_core::idempotency::Token;
use tokio::sync::{Semaphore, oneshot};

use self::clock::Clocks;
use self::disk::{Disk, Place};
use self::fault::{Fault, guarded};
use self::step::{Done, Op, Reading, read_place};
use self::writer::{Asked, Message, Writer};
use super::{Claim, Hold, Id, Page, Record, Release, Reserved, Settled, Step, Store, StoreError};

/// A store in a file. See the [module](self).
///
/// Dropping it waits until what was being written is, and lets go of the file.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    inbox: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

/// Who is told of what an operator should know.
pub type Tell = Arc<dyn Fn(&Notice) + Send + Sync>;

/// How a file is kept.
#[derive(Clone)]
pub struct Options {
    /// Memory for pages of the file. By default 16 MiB: the inner pages of some million keys, so that a look-up reads one
    /// page at most.
    pub cache_bytes: usize,
    /// What follows when the file is found damaged.
    pub when_corrupt: WhenCorrupt,
    /// Is told what an operator should know of; on the store's own thread or a caller's, so it should return soon.
    pub notice: Option<Tell>,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 16 * 1024 * 1024, when_corrupt: WhenCorrupt::Refuse, notice: None }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("cache_bytes", &self.cache_bytes)
            .field("when_corrupt", &self.when_corrupt)
            .finish_non_exhaustive()
    }
}

/// What follows when the file is found damaged or gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WhenCorrupt {
    /// Every step is [`StoreError::Corrupt`], until the file was put back, [`begin_anew`](Embedded::begin_anew) was called or
    /// `<file>.seen` removed. The default: with no keys known, a retry would be carried out a second time.
    #[default]
    Refuse,
    /// It goes on with no keys. What was remembered can be carried out a second time.
    BeginAnew,
}

/// What an operator should know of.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The file was found damaged, or gone.
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where it was moved to; `None` if it is gone.
        to: Option<PathBuf>,
        /// What is wrong with it.
        why: String,
        /// Whether it goes on with no keys.
        begun_anew: bool,
    },
    /// One record does not match its checksum. The others can be used.
    Damaged {
        /// Which.
        what: String,
    },
    /// The file can't be used for now.
    Shut {
        /// What is wrong.
        error: String,
    },
    /// It can be used again.
    Reopened {
        /// The file.
        file: PathBuf,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt { file, to, why, begun_anew } => {
                write!(f, "the keys in {} are damaged ({why})", file.display())?;
                if let Some(to) = to {
                    write!(f, "; the file was moved to {}", to.display())?;
                }
                f.write_str(if *begun_anew { "; going on with no keys" } else { "; keys are refused" })
            }
            Self::Damaged { what } | Self::Shut { error: what } => f.write_str(what),
            Self::Reopened { file } => write!(f, "the keys in {} can be used again", file.display()),
        }
    }
}

/// Why a file could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    Locked {
        /// The file.
        file: PathBuf,
    },
    /// The file, or one beside it, can't be made, read or written.
    Io {
        /// The file.
        file: PathBuf,
        /// What was refused.
        what: String,
    },
    /// The file is whole, and of a format that this version of the program does not know. Nothing was done to it.
    Version {
        /// The file.
        file: PathBuf,
        /// Of which it is, and what can be done.
        what: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { file } => write!(
                f,
                "{} is open in another process; several processes share keys in Redis or PostgreSQL",
                file.display()
            ),
            Self::Io { file, what } => write!(f, "the keys can't be kept in {}: {what}", file.display()),
            Self::Version { file, what } => write!(f, "the keys in {} can't be read: {what}", file.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// What a store did since it was opened, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Transactions that were committed.
    pub commits: u64,
    /// Steps in them. Divided by the commits it is how many shared one.
    pub steps: u64,
    /// Records that were swept away by the store itself.
    pub swept: u64,
    /// Records that did not match their checksums, each time that one was met.
    pub damaged: u64,
    /// How often the file was damaged or gone.
    pub quarantined: u64,
    /// How often it was opened again.
    pub reopened: u64,
    /// The file's length in bytes; 0 if that can't be told.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counts {
    commits: AtomicU64,
    steps: AtomicU64,
    swept: AtomicU64,
    damaged: AtomicU64,
    quarantined: AtomicU64,
    reopened: AtomicU64,
}

/// What the thread and the callers have in common.
struct Shared {
    place: Place,
    state: RwLock<Result<Arc<Disk>, StoreError>>,
    counts: Counts,
    notice: Option<Tell>,
    /// Held all along, also while the file is shut.
    _lock: std::fs::File,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("place", &self.place)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn disk(&self) -> Result<Arc<Disk>, StoreError> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, notice: &Notice) {
        if let Some(tell) = &self.notice {
            tell(notice);
        }
    }

    fn damaged(&self, what: &str) {
        self.counts.damaged.fetch_add(1, Ordering::Relaxed);
        self.tell(&Notice::Damaged { what: what.into() });
    }
}

impl Embedded {
    /// Opens the store in `file`, or begins one there; its folder must exist. It blocks while the file is checked.
    ///
    /// A full disk is no error: its steps are, until there is room. Nor is a damaged file: see [`WhenCorrupt`].
    ///
    /// # Errors
    /// Another process has it open, it is of another version, or the file can't be made, read or written.
    pub fn open(file: &Path, options: Options) -> Result<Self, OpenError> {
        Self::open_by(file, options, Clocks::of_the_machine())
    }

    fn open_by(file: &Path, options: Options, clocks: Clocks) -> Result<Self, OpenError> {
        let place = Place::new(file);
        let refused = |what: String| OpenError::Io { file: file.into(), what };
        let locked = || OpenError::Locked { file: file.into() };
        let lock = place.lock().map_err(|e| refused(format!("locking {}: {e}", place.lock.display())))?;
        let shared = Arc::new(Shared {
            place,
            state: RwLock::new(Err(StoreError::Down("it is being opened".into()))),
            counts: Counts::default(),
            notice: options.notice.clone(),
            _lock: lock.ok_or_else(locked)?,
        });
        let mut writer = Writer::new(shared.clone(), options, clocks);
        writer.start().map_err(|fault| match fault {
            Fault::Locked(_) => locked(),
            Fault::Version(what) => OpenError::Version { file: file.into(), what },
            Fault::Damaged(what) | Fault::Full(what) | Fault::Down(what) => refused(what),
        })?;
        let (inbox, messages) = channel();
        let thread = std::thread::Builder::new()
            .name("seaworthy-keys".into())
            .spawn(move || writer.run(&messages))
            .map_err(|e| refused(format!("starting its thread: {e}")))?;
        let room = Arc::new(Semaphore::new(QUEUE_KIB as usize));
        Ok(Self { shared, room, inbox, thread: Some(thread) })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.shared.place.file
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counts = &self.shared.counts;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Stats {
            commits: of(&counts.commits),
            steps: of(&counts.steps),
            swept: of(&counts.swept),
            damaged: of(&counts.damaged),
            quarantined: of(&counts.quarantined),
            reopened: of(&counts.reopened),
            bytes: std::fs::metadata(self.file()).map_or(0, |file| file.len()),
        }
    }

    /// Begins with no keys if the file was found damaged and keys are refused since; otherwise does nothing and gives `false`.
    /// What was remembered can be carried out a second time.
    ///
    /// # Errors
    /// There can't be a new file.
    pub async fn begin_anew(&self) -> Result<bool, StoreError> {
        self.say(Op::Anew, 0).await
    }

    /// Looks at what was committed, on the caller's thread: the pages are in memory, or one read away.
    fn look<T>(
        &self,
        what: impl FnOnce(&Reading<'_>) -> Result<Result<T, StoreError>, Fault>,
    ) -> Result<T, StoreError> {
        let disk = self.shared.disk()?;
        let found = guarded(|| what(&Reading::begin(&disk)?));
        drop(disk);
        match found {
            Ok(found) => {
                if let Err(StoreError::Corrupt(what)) = &found {
                    self.shared.damaged(what);
                }
                found
            }
            Err(fault) => {
                // The writer has the file checked. If it is gone, so is the store.
                drop(self.inbox.send(Message::Suspect(fault.clone())));
                Err(fault.into_error())
            }
        }
    }

    async fn ask(&self, op: Op, bytes: usize) -> Result<Done, StoreError> {
        let closed = || StoreError::Down("it was closed".into());
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).saturating_add(1).min(QUEUE_KIB);
        let room = self.room.clone().acquire_many_owned(kib).await.map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Message::Ask(Asked { op, answer, room })).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    async fn say(&self, op: Op, bytes: usize) -> Result<bool, StoreError> {
        Ok(matches!(self.ask(op, bytes).await?, Done::Said(true)))
    }

    async fn begin(&self, id: &Id, claim: &Claim, from: Option<Token>) -> Result<Reserved, StoreError> {
        id.check()?;
        let op = Op::Begin { id: id.clone(), claim: claim.clone(), from };
        match self.ask(op, 0).await? {
            Done::Reserved(reserved) => Ok(reserved),
            Done::Said(_) | Done::Swept(_) => Err(StoreError::Down("another step was answered".into())),
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // It is gone already if its thread is.
        drop(self.inbox.send(Message::Stop));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Store for Embedded {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    fn reserve<'a>(&'a self, id: &'a Id, claim: &'a Claim) -> Step<'a, Reserved> {
        Box::pin(async move {
            // What was committed and stands against it needs no commit.
            match self.look(|reading| reading.stands_against(id, claim))? {
                Some(record) => Ok(Reserved::Found(record)),
                None => self.begin(id, claim, None).await,
            }
        })
    }

    fn take_over<'a>(&'a self, id: &'a Id, claim: &'a Claim, from: Token) -> Step<'a, Reserved> {
        Box::pin(self.begin(id, claim, Some(from)))
    }

    fn settle<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        settled: &'a Settled,
        retention: Duration,
    ) -> Step<'a, bool> {
        let bytes = match settled {
            Settled::Done(answer) => answer.head.len() + answer.body.len(),
            Settled::Unknown | Settled::Free => 0,
        };
        Box::pin(async move {
            let op = Op::Settle { id: id.clone(), hold, settled: settled.clone(), retention };
            self.say(op, bytes).await
        })
    }

    fn put_chunk<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        number: u32,
        bytes: Bytes,
        retention: Duration,
    ) -> Step<'a, bool> {
        Box::pin(async move {
            let length = bytes.len();
            self.say(Op::Put { id: id.clone(), hold, number, bytes, retention }, length).await
        })
    }

    fn chunk<'a>(&'a self, id: &'a Id, token: Token, number: u32) -> Step<'a, Option<Bytes>> {
        Box::pin(async move { self.look(|reading| reading.chunk(id, token, number)) })
    }

    fn find<'a>(&'a self, id: &'a Id) -> Step<'a, Option<Record>> {
        Box::pin(async move { self.look(|reading| reading.find(id)) })
    }

    fn list<'a>(&'a self, from: Option<&'a str>, most: usize) -> Step<'a, Page> {
        Box::pin(async move {
            let no_page = || StoreError::Down(format!("`{}` is no page of its listing", from.unwrap_or("")));
            let from = from.map(|from| read_place(from).ok_or_else(no_page)).transpose()?;
            self.look(|reading| reading.list(from, most))
        })
    }

    fn release<'a>(&'a self, release: &'a Release) -> Step<'a, bool> {
        Box::pin(self.say(Op::Release(release.clone()), release.reason.len()))
    }

    fn releases(&self, most: usize) -> Step<'_, Vec<Release>> {
        Box::pin(async move { self.look(|reading| reading.releases(most)) })
    }

    fn sweep(&self, most: usize) -> Step<'_, usize> {
        Box::pin(async move {
            match self.ask(Op::Sweep(most), 0).await? {
                Done::Swept(swept) => Ok(swept.work),
                Done::Reserved(_) | Done::Said(_) => {
                    Err(StoreError::Down("another step was answered".into()))
                }
            }
        })
    }
}

/// What waits to be written, in KiB, each step counted as one at least: 16 MiB. Who comes when it is full waits for room.
const QUEUE_KIB: u32 = 16 * 1024;
