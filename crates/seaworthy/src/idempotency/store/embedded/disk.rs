//! The file: how it is begun, opened and checked, and what becomes of one that is damaged.
//!
//! Beside `<file>` stand two others. `<file>.lock` is locked by the process that has the store open. `<file>.seen` holds how many
//! commits were acknowledged: redb falls back to the commit before the last if the last one is damaged, and a file can be
//! exchanged for an older one or be lost, all of which would forget what was acknowledged. With it, a file that knows less than
//! was acknowledged is a damaged one. It is written after every commit, without a sync of its own, which would double what a
//! commit costs: it outlives the process, and after a loss of power it may lag, but never leads.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _};
use redb::{TableDefinition, WriteTransaction};
use sha2::{Digest as _, Sha256};

use super::clock::{Clocks, StoreClock};
use super::fault::{Fault, guarded};
use super::row::{FileState, Name, Unread};
use super::step::{CHUNKS, EXPIRIES, KEYS, Now, RELEASES, Reading, Writing, read_expiry};

/// The names of all that belongs to a store.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) seen: PathBuf,
    pub(super) lock: PathBuf,
    /// Where a file is begun, until it is whole.
    begun: PathBuf,
}

impl Place {
    pub(super) fn new(file: &Path) -> Self {
        let beside = |suffix: &str| with_suffix(file, suffix);
        Self { file: file.into(), seen: beside(".seen"), lock: beside(".lock"), begun: beside(".new") }
    }

    /// The lock, for as long as the file that is returned lives.
    pub(super) fn lock(&self) -> io::Result<Option<File>> {
        let file = private().open(&self.lock)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Moves a damaged file out of the way, and returns where to. That it is gone is remembered.
    pub(super) fn quarantine(&self, wall_ms: u64) -> Result<PathBuf, Fault> {
        if !exists(&self.seen)? {
            Seen::begin(self)?;
        }
        let seconds = wall_ms / 1000;
        for n in 0..1000_u32 {
            let again = if n == 0 { String::new() } else { format!("-{n}") };
            let to = with_suffix(&self.file, &format!(".corrupt-{seconds}{again}"));
            if !exists(&to)? {
                fs::rename(&self.file, &to)
                    .map_err(|e| Fault::io(&format!("moving the damaged {}", self.file.display()), &e))?;
                return Ok(to);
            }
        }
        Err(Fault::Down(format!("there are too many damaged files beside {}", self.file.display())))
    }

    /// Forgets that there was a file.
    pub(super) fn forget(&self) -> Result<(), Fault> {
        match fs::remove_file(&self.seen) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Fault::io(&format!("removing {}", self.seen.display()), &error))
            }
            _ => Ok(()),
        }
    }

    /// Makes the names in the folder durable.
    fn sync_folder(&self) -> Result<(), Fault> {
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| Fault::io(&format!("syncing {}", folder.display()), &e))
    }
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

/// Whether there is such a file.
pub(super) fn exists(path: &Path) -> Result<bool, Fault> {
    path.try_exists().map_err(|e| Fault::io(&format!("looking for {}", path.display()), &e))
}

/// A file that is open, and was found whole.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) database: Database,
    pub(super) clock: StoreClock,
    pub(super) epoch: u64,
}

/// What the writer keeps beside it.
#[derive(Debug)]
pub(super) struct Log {
    commits: u64,
    seen: Seen,
}

impl Disk {
    /// Opens the file, checks all of it, and makes it the opening `epoch`: a new one, if none is given or the file was
    /// opened by others since. A file that isn't there is begun, unless there should be one.
    pub(super) fn open(
        place: &Place,
        cache_bytes: usize,
        clocks: &Clocks,
        epoch: Option<u64>,
    ) -> Result<(Self, Log), Fault> {
        guarded(|| {
            let acknowledged = Seen::read(place)?;
            if !exists(&place.file)? {
                if acknowledged.is_some() {
                    return Err(Fault::Damaged("it is gone".into()));
                }
                begin(place, cache_bytes, clocks)?;
            }
            check_format(place)?;
            let database = builder(cache_bytes).open(&place.file)?;
            let state = read_state(&database, place)?;
            let acknowledged = acknowledged.flatten().unwrap_or(0);
            if state.commits < acknowledged {
                return Err(Fault::Damaged(format!(
                    "{acknowledged} commits to it were acknowledged, and it knows of {}",
                    state.commits
                )));
            }
            let epoch = epoch.filter(|epoch| *epoch == state.epoch).unwrap_or(state.epoch + 1);
            let clock = StoreClock::after(clocks.clone(), Some(state.moment));
            let disk = Self { database, clock, epoch };
            let mut log = Log { commits: state.commits, seen: Seen::open(place)? };
            // What nobody could write to would be no store; and from here on it is this opening's.
            disk.commit(&mut log, |_| Ok(()))?;
            Ok((disk, log))
        })
    }

    /// One transaction, durable when this returns.
    pub(super) fn commit<T>(
        &self,
        log: &mut Log,
        what: impl FnOnce(&mut Writing<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let transaction = self.database.begin_write()?;
        let moment = self.clock.now();
        let (ms, wall_ms) = (moment.store_ms, moment.wall_ms);
        let now = Now { ms, wall_ms, epoch: self.epoch, commits: log.commits };
        let done = what(&mut Writing::open(&transaction, now)?)?;
        let commits = log.commits + 1;
        write_state(&transaction, FileState { commits, epoch: self.epoch, moment })?;
        transaction.commit()?;
        log.commits = commits;
        // It was done, so it is not to look as if there had been no room for it.
        log.seen.write(commits).map_err(Fault::of_what_was_done)?;
        Ok(done)
    }

    pub(super) fn has_expired(&self) -> Result<bool, Fault> {
        Reading::begin(self)?.has_expired()
    }
}

/// Makes an empty file, all of it or none.
fn begin(place: &Place, cache_bytes: usize, clocks: &Clocks) -> Result<(), Fault> {
    let doing = || format!("making {}", place.begun.display());
    match fs::remove_file(&place.begun) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Fault::io(&doing(), &error)),
        _ => {}
    }
    drop(private().open(&place.begun).map_err(|e| Fault::io(&doing(), &e))?);
    let database = builder(cache_bytes).create(&place.begun)?;
    let transaction = database.begin_write()?;
    let moment = StoreClock::after(clocks.clone(), None).now();
    Writing::open(&transaction, Now { ms: 0, wall_ms: 0, epoch: 0, commits: 0 })?;
    write_state(&transaction, FileState { commits: 0, epoch: 0, moment })?;
    transaction.commit()?;
    database.close()?;
    fs::rename(&place.begun, &place.file).map_err(|e| Fault::io(&doing(), &e))?;
    place.sync_folder()
}

/// Makes a file that is its owner's alone, as answers to clients are: those that are there stay as they are.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn builder(cache_bytes: usize) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
    builder
}

/// Refuses a file of another format, which is not a damaged one. What opens the file would not tell them apart. The places are of
/// redb's "design.md": a magic number, and two commit slots, each of which begins with the format's version; a slot that says
/// otherwise than the other is damaged.
fn check_format(place: &Place) -> Result<(), Fault> {
    let mut head = Vec::new();
    File::open(&place.file)
        .and_then(|file| file.take(SLOTS[1] as u64 + 1).read_to_end(&mut head))
        .map_err(|e| Fault::io(&format!("reading {}", place.file.display()), &e))?;
    match SLOTS.map(|at| head.get(at)) {
        [Some(one), Some(other)] if head.starts_with(MAGIC) && one == other && *one != FORMAT => {
            let age = if *one < FORMAT { "an older" } else { "a newer" };
            Err(other_version(place, &format!("it is of {age} format ({one}; this program knows {FORMAT})")))
        }
        _ => Ok(()),
    }
}

fn other_version(place: &Place, what: &str) -> Fault {
    Fault::Version(format!(
        "{what}: start the version of this program that wrote it; or, to begin with no keys, move {} away and remove {}",
        place.file.display(),
        place.seen.display()
    ))
}

/// What the file says of itself, if the rest bears it out.
fn read_state(database: &Database, place: &Place) -> Result<FileState, Fault> {
    let transaction = database.begin_read()?;
    // This first: another version's tables may be others.
    let state = match transaction.open_table(STATE)?.get(STATE_KEY)? {
        Some(value) => FileState::read(value.value()),
        None => Err(Unread::Damaged),
    };
    let state = state.map_err(|unread| match unread {
        Unread::Damaged => Fault::Damaged("what it says of itself does not match its checksum".into()),
        Unread::Newer(form) => {
            other_version(place, &format!("it was written by a newer version of this program (form {form})"))
        }
    })?;
    let (mut keys, mut expiries) = (Tally::default(), Tally::default());
    for entry in transaction.open_table(KEYS)?.iter()? {
        keys.add(entry?.0.value());
    }
    for entry in transaction.open_table(EXPIRIES)?.iter()? {
        expiries.add(&read_expiry(entry?.0.value()).1);
    }
    transaction.open_table(CHUNKS)?;
    transaction.open_table(RELEASES)?;
    if keys != expiries {
        let (keys, expiries) = (keys.count, expiries.count);
        return Err(Fault::Damaged(format!(
            "it holds {keys} keys, and {expiries} times when keys end, which are not of the same keys"
        )));
    }
    Ok(state)
}

/// Which names there are, in whatever order: names are SHA-256 sums, so two sets that add up to the same are the same.
#[derive(PartialEq, Eq, Default)]
struct Tally {
    count: u64,
    halves: [u128; 2],
}

impl Tally {
    fn add(&mut self, name: &Name) {
        self.count += 1;
        for (sum, half) in self.halves.iter_mut().zip(name.as_chunks().0) {
            *sum = sum.wrapping_add(u128::from_be_bytes(*half));
        }
    }
}

fn write_state(transaction: &WriteTransaction, state: FileState) -> Result<(), Fault> {
    transaction.open_table(STATE)?.insert(STATE_KEY, state.write().as_slice())?;
    Ok(())
}

/// The file that says how many commits were acknowledged.
#[derive(Debug)]
struct Seen {
    file: File,
    path: PathBuf,
}

impl Seen {
    /// `None` if there is no such file, `Some(None)` if it can't be read: then it tells only that there was a store.
    fn read(place: &Place) -> Result<Option<Option<u64>>, Fault> {
        let mut bytes = Vec::new();
        match File::open(&place.seen).and_then(|file| file.take(64).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fault::io(&format!("reading {}", place.seen.display()), &error)),
        }
        let commits = <[u8; 16]>::try_from(bytes).ok().and_then(|bytes| {
            let (commits, sum) = bytes.split_at(8);
            let commits = u64::from_be_bytes(commits.try_into().ok()?);
            (Self::sum(commits) == sum).then_some(commits)
        });
        Ok(Some(commits))
    }

    fn open(place: &Place) -> Result<Self, Fault> {
        let path = place.seen.clone();
        let file = private().open(&path);
        Ok(Self { file: file.map_err(|e| Fault::io(&format!("opening {}", path.display()), &e))?, path })
    }

    /// Says that there was a store.
    fn begin(place: &Place) -> Result<(), Fault> {
        Self::open(place)?.write(0)?;
        place.sync_folder()
    }

    /// In place, so that it needs no room on the disk.
    fn write(&mut self, commits: u64) -> Result<(), Fault> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&commits.to_be_bytes());
        bytes[8..].copy_from_slice(&Self::sum(commits));
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&bytes))
            .map_err(|e| Fault::io(&format!("writing {}", self.path.display()), &e))
    }

    fn sum(commits: u64) -> [u8; 8] {
        let digest = Sha256::new().chain_update(b"seen").chain_update(commits.to_be_bytes()).finalize();
        let mut sum = [0; 8];
        sum.copy_from_slice(&digest[..8]);
        sum
    }
}

pub(super) const STATE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("state");
pub(super) const STATE_KEY: &str = "state";
/// Of redb 4.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
const SLOTS: [usize; 2] = [64, 192];
const FORMAT: u8 = 3;
