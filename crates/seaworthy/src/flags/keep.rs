//! What a flag service last said, kept for when it says nothing.
//!
//! Everything is in memory; the file is a copy of it for the next start. A thread of its own writes it, at most once in a while,
//! so that nobody who evaluates a flag waits for a disk, and a disk that fails or hangs takes nothing away but the copy.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::answer::Answer;
use super::context::Fingerprint;
use super::file::{self, Contents, Found, Values};

/// How much is kept, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The file; without one, a restart forgets everything.
    pub file: Option<PathBuf>,
    /// The most values, counted by flag and context. Ten thousand: a hundred flags for a hundred kinds of users, or a few
    /// for some thousand users. What was learned longest ago goes first, a context at a time.
    pub most: usize,
    /// The most bytes of keys and values together, about. 8 MiB, a large page of JSON for each of a hundred contexts, and
    /// little enough to be written in a fraction of a second.
    pub most_bytes: usize,
    /// A value older than this is not given any more. `None`: an old value that was right once is a better guess than a
    /// default, which was never chosen for this user.
    pub oldest: Option<Duration>,
    /// How much time lies between two writes of the file if values change. A second: what a crash loses is no older.
    pub gather: Duration,
    /// The same if nothing changes but when the values were last confirmed. A minute: only the age that is told depends on it.
    pub confirm: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: None,
            most: 10_000,
            most_bytes: 8 << 20,
            oldest: None,
            gather: Duration::from_secs(1),
            confirm: Duration::from_secs(60),
        }
    }
}

/// A value that was good.
#[derive(Clone, PartialEq, Debug)]
pub struct Good {
    /// The value.
    pub value: Value,
    /// The variant's name, if it has one.
    pub variant: Option<String>,
    /// Whatever else was told about it.
    pub metadata: Map<String, Value>,
    /// When the service last said so, since 1970.
    pub at: Duration,
}

impl Good {
    /// How old it is at `now`, since 1970; zero for what a clock that was set back makes younger than that.
    #[must_use]
    pub const fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.at)
    }

    fn is_confirmed_by(&self, answer: &Answer) -> bool {
        answer.value.as_ref() == Some(&self.value)
            && answer.variant == self.variant
            && answer.metadata == self.metadata
    }
}

/// Something that happened to the file. Nothing of it keeps a flag from being evaluated.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The file was not what had been written. It was set aside, and nothing in it was believed.
    SetAside {
        /// The file.
        file: PathBuf,
        /// Where it is now; `None` if it could not be moved, and stays until it is written over.
        to: Option<PathBuf>,
        /// What is wrong with it.
        why: String,
    },
    /// The file is there and can't be read. It is left alone, so nothing is kept on disk.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The file can't be written; this is tried again, ever more rarely. Told once.
    NotWritten {
        /// The file.
        file: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The file is written again, after it could not be.
    WrittenAgain {
        /// The file.
        file: PathBuf,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetAside { file, to: Some(to), why } => {
                let (file, to) = (file.display(), to.display());
                write!(f, "the last-known-good flags in {file} are damaged and were set aside as {to}: {why}")
            }
            Self::SetAside { file, to: None, why } => {
                write!(f, "the last-known-good flags in {} are damaged and not used: {why}", file.display())
            }
            Self::Unreadable { file, why } => {
                let file = file.display();
                write!(
                    f,
                    "the last-known-good flags in {file} can't be read, so that none are kept on disk: {why}"
                )
            }
            Self::NotWritten { file, why } => {
                write!(f, "the last-known-good flags can't be written to {}: {why}", file.display())
            }
            Self::WrittenAgain { file } => {
                write!(f, "the last-known-good flags are written to {} again", file.display())
            }
        }
    }
}

/// The file does not hold what is known.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NotWritten {
    /// What the system said.
    Failed(String),
    /// It has not been written in the time that there was.
    TimedOut,
}

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => write!(f, "the last-known-good flags can't be written: {why}"),
            Self::TimedOut => f.write_str("the last-known-good flags were not written in time"),
        }
    }
}

impl StdError for NotWritten {}

/// The state of a [`Keeper`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// Values kept, counted by flag and context.
    pub values: usize,
    /// Contexts they are for.
    pub contexts: usize,
    /// Their bytes, about.
    pub bytes: usize,
    /// Values forgotten, or never kept, for want of room.
    pub evicted: u64,
    /// How often the file was written.
    pub writes: u64,
    /// How often it could not be.
    pub failed_writes: u64,
    /// What is wrong with the file, if anything is.
    pub trouble: Option<String>,
}

/// The last-known-good values. See the [module](super).
///
/// Moments are told as durations since 1970, because they outlive the process. No method blocks for longer than it takes to
/// copy a value, except [`flush`](Self::flush).
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
}

impl Keeper {
    /// Reads the file, if there is one, and tells `tell` what happens to it, now and later. It is told from a thread of the
    /// keeper's and should not take long.
    ///
    /// This reads a file, so it belongs to the start of a program. It can't fail: what can't be read is told and done without.
    #[must_use]
    pub fn open(config: Config, tell: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        let mut disk = Disk::default();
        let mut memory = Memory::default();
        if let Some(path) = &config.file {
            disk.writable = true;
            // Names and numbers of the file itself may take as much again, and escapes more.
            let most = (config.most_bytes as u64).saturating_mul(8).saturating_add(1 << 20);
            match file::read(path, most) {
                Found::Nothing => {}
                Found::Contents(contents) => memory.restore(contents, &config),
                Found::Unreadable(error) => {
                    disk.writable = false;
                    disk.troubled(&Notice::Unreadable { file: path.clone(), why: error.to_string() }, &tell);
                }
                Found::Damaged(why) => {
                    let to = file::set_aside(path).ok();
                    tell(&Notice::SetAside { file: path.clone(), to, why });
                }
            }
        }
        let state = Mutex::new(State { memory, disk });
        let shared =
            Shared { config, state, changed: Condvar::new(), written: Condvar::new(), tell: Box::new(tell) };
        let keeper = Self { shared: Arc::new(shared) };
        keeper.start_writer();
        keeper
    }

    /// The service has said `answer` about `flag` at `now`. An answer without a value forgets what was known.
    pub fn learn(&self, now: Duration, flag: &str, context: Fingerprint, answer: &Answer) {
        let mut state = self.shared.lock();
        let change = state.memory.learn(now, flag, context, answer, &self.shared.config);
        self.shared.changed(state, change);
    }

    /// The service has said at `now` what all flags are for this context. Flags that it did not mention are gone, unless `keep`
    /// says that they stay (because it failed to evaluate them, say).
    pub fn learn_all(
        &self,
        now: Duration,
        context: Fingerprint,
        answers: &[(String, Answer)],
        keep: impl Fn(&str) -> bool,
    ) {
        let mut state = self.shared.lock();
        let mut change =
            state.memory.retain(context, |flag| keep(flag) || answers.iter().any(|(key, _)| key == flag));
        for (flag, answer) in answers {
            change = change.max(state.memory.learn(now, flag, context, answer, &self.shared.config));
        }
        self.shared.changed(state, change);
    }

    /// The service has said at `now` that nothing has changed for this context.
    pub fn confirm(&self, now: Duration, context: Fingerprint) {
        let mut state = self.shared.lock();
        let change = state.memory.confirm(now, context);
        self.shared.changed(state, change);
    }

    /// The service no longer knows `flag`.
    pub fn forget(&self, flag: &str, context: Fingerprint) {
        let mut state = self.shared.lock();
        let change = state.memory.retain(context, |key| key != flag);
        self.shared.changed(state, change);
    }

    /// What the service last said about `flag` for this context, unless that is too old at `now`.
    #[must_use]
    pub fn last(&self, now: Duration, flag: &str, context: Fingerprint) -> Option<Arc<Good>> {
        let state = self.shared.lock();
        state.memory.contexts.get(&context)?.flags.get(flag).filter(|good| self.is_young(now, good)).cloned()
    }

    /// What the service last said about all flags for this context, in the order of their keys, unless that is too old at `now`.
    #[must_use]
    pub fn last_of_all(&self, now: Duration, context: Fingerprint) -> Vec<(Arc<str>, Arc<Good>)> {
        let state = self.shared.lock();
        let flags = state.memory.contexts.get(&context).into_iter().flat_map(|kept| &kept.flags);
        flags
            .filter(|(_, good)| self.is_young(now, good))
            .map(|(key, good)| (key.clone(), good.clone()))
            .collect()
    }

    /// Has the file written now if it is not up to date, and blocks until it is, for at most `within`. Does nothing without a file.
    ///
    /// # Errors
    /// Why the file does not hold what is known.
    pub fn flush(&self, within: Duration) -> Result<(), NotWritten> {
        let until = Instant::now() + within;
        let mut state = self.shared.lock();
        if self.shared.config.file.is_none() {
            return Ok(());
        }
        if !state.disk.writable {
            return Err(NotWritten::Failed(state.disk.trouble.clone().unwrap_or_default()));
        }
        let (wanted, tried) = (state.memory.version, state.disk.failed);
        state.disk.urgent = true;
        self.shared.changed.notify_all();
        loop {
            if state.disk.written >= wanted {
                return Ok(());
            }
            if state.disk.failed > tried {
                return Err(NotWritten::Failed(state.disk.trouble.clone().unwrap_or_default()));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NotWritten::TimedOut);
            }
            state = wait(&self.shared.written, state, left);
        }
    }

    /// The state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.shared.lock();
        Snapshot {
            values: state.memory.values,
            contexts: state.memory.contexts.len(),
            bytes: state.memory.bytes,
            evicted: state.memory.evicted,
            writes: state.disk.writes,
            failed_writes: state.disk.failed,
            trouble: state.disk.trouble.clone(),
        }
    }

    fn is_young(&self, now: Duration, good: &Good) -> bool {
        self.shared.config.oldest.is_none_or(|oldest| good.age(now) <= oldest)
    }

    fn start_writer(&self) {
        let Some(path) = self.shared.config.file.clone().filter(|_| self.shared.lock().disk.writable) else {
            return;
        };
        let shared = self.shared.clone();
        let own = path.clone();
        let started = thread::Builder::new().name("flags".into()).spawn(move || shared.keep_written(&own));
        if let Err(error) = started {
            let mut state = self.shared.lock();
            state.disk.writable = false;
            let notice = Notice::NotWritten { file: path, why: error.to_string() };
            state.disk.trouble = Some(notice.to_string());
            drop(state);
            (self.shared.tell)(&notice);
        }
    }
}

impl Drop for Keeper {
    /// Has what is new written, and waits a little for it: a disk that hangs must not keep a program from ending.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.disk.closing = true;
        let there_is_more = state.disk.writable && state.disk.written < state.memory.version;
        drop(state);
        self.shared.changed.notify_all();
        if there_is_more {
            // Whoever needs to know has called it before; the notice was told anyway.
            let _ = self.flush(LAST_WRITE);
        }
    }
}

struct Shared {
    config: Config,
    state: Mutex<State>,
    /// Signalled when there may be something to write.
    changed: Condvar,
    /// Signalled after each attempt to write.
    written: Condvar,
    tell: Box<dyn Fn(&Notice) + Send + Sync>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Shared {
    /// Every change under the lock is made by steps that each leave it whole, so a panic elsewhere leaves nothing broken behind.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, mut state: MutexGuard<'_, State>, change: Change) {
        if change == Change::None {
            return;
        }
        state.memory.version += 1;
        state.disk.pending = state.disk.pending.max(change);
        drop(state);
        self.changed.notify_all();
    }

    /// The writer's life: wait until there is something to write and time to write it, write it, and again.
    fn keep_written(&self, path: &std::path::Path) {
        let mut last: Option<Instant> = None;
        let mut failures = 0;
        loop {
            let Some((version, contents)) = self.next_to_write(last, failures) else { return };
            let result = file::write(path, &contents);
            last = Some(Instant::now());
            failures = if result.is_ok() { 0 } else { failures + 1 };
            let notice = self.lock().disk.tried(path, version, result.map_err(|error| error.to_string()));
            self.written.notify_all();
            if let Some(notice) = notice {
                (self.tell)(&notice);
            }
        }
    }

    /// Waits for something to write. `None` at the end.
    fn next_to_write(&self, last: Option<Instant>, failures: u32) -> Option<(u64, Contents)> {
        let mut state = self.lock();
        loop {
            let is_new = state.memory.version > state.disk.written;
            let gap = match (failures, state.disk.pending) {
                (0, Change::Values) => self.config.gather,
                (0, _) => self.config.confirm,
                // Ever more rarely, up to a minute: a full disk does not empty sooner.
                (failures, _) => self.config.gather.saturating_mul(1 << failures.min(10)).min(RARELY),
            };
            let due = last.map_or(Duration::ZERO, |last| gap.saturating_sub(last.elapsed()));
            let hurries = state.disk.urgent || state.disk.closing;
            if is_new && (hurries || due.is_zero()) && !state.disk.closed {
                state.disk.urgent = false;
                // The last one is tried once.
                state.disk.closed = state.disk.closing;
                state.disk.pending = Change::None;
                return Some((state.memory.version, state.memory.contents()));
            }
            if state.disk.closing {
                state.disk.closed = true;
                self.written.notify_all();
                return None;
            }
            state.disk.urgent = false;
            state = wait(&self.changed, state, if is_new { due } else { Duration::MAX });
        }
    }
}

/// Waits, at most for so long.
fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
    // Longer waits are too long for some clocks; who is woken looks again anyway.
    condition.wait_timeout(state, most.min(RARELY)).unwrap_or_else(PoisonError::into_inner).0
}

#[derive(Debug, Default)]
struct State {
    memory: Memory,
    disk: Disk,
}

/// How the file stands.
#[derive(Debug, Default)]
struct Disk {
    /// There is a file, and it may be written over.
    writable: bool,
    /// The version of the memory that the file holds.
    written: u64,
    /// What has changed since that was taken.
    pending: Change,
    /// Somebody waits for it.
    urgent: bool,
    /// The keeper is gone.
    closing: bool,
    /// Nothing more will be written.
    closed: bool,
    writes: u64,
    failed: u64,
    trouble: Option<String>,
}

impl Disk {
    /// The file was tried to be written; what there is to tell.
    fn tried(&mut self, path: &std::path::Path, version: u64, result: Result<(), String>) -> Option<Notice> {
        let file = path.to_owned();
        match result {
            Ok(()) => {
                self.writes += 1;
                self.written = version;
                self.trouble.take().map(|_| Notice::WrittenAgain { file })
            }
            Err(why) => {
                self.failed += 1;
                // Whatever it was, it has waited long enough.
                self.pending = Change::Values;
                let notice = Notice::NotWritten { file, why };
                self.trouble.replace(notice.to_string()).is_none().then_some(notice)
            }
        }
    }

    fn troubled(&mut self, notice: &Notice, tell: &impl Fn(&Notice)) {
        self.trouble = Some(notice.to_string());
        tell(notice);
    }
}

/// How much a call of the keeper has changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Change {
    #[default]
    None,
    /// Only when something was last said.
    Times,
    Values,
}

#[derive(Debug, Default)]
struct Memory {
    contexts: HashMap<Fingerprint, Kept>,
    /// The contexts by when they were last learned about.
    order: BTreeMap<u64, Fingerprint>,
    /// Counts what is learned.
    turn: u64,
    /// Counts the changes.
    version: u64,
    values: usize,
    bytes: usize,
    evicted: u64,
}

/// What is kept of a context.
#[derive(Debug, Default)]
struct Kept {
    flags: Values,
    turn: u64,
}

impl Memory {
    fn learn(
        &mut self,
        now: Duration,
        flag: &str,
        context: Fingerprint,
        answer: &Answer,
        config: &Config,
    ) -> Change {
        let Some(value) = &answer.value else { return self.retain(context, |key| key != flag) };
        let known = self.contexts.get(&context).and_then(|kept| kept.flags.get(flag));
        let change = match known {
            Some(good) if good.is_confirmed_by(answer) && good.at == now => return Change::None,
            Some(good) if good.is_confirmed_by(answer) => Change::Times,
            _ => Change::Values,
        };
        let good = Good {
            value: value.clone(),
            variant: answer.variant.clone(),
            metadata: answer.metadata.clone(),
            at: now,
        };
        self.put(context, flag.into(), Arc::new(good), config);
        change
    }

    fn put(&mut self, context: Fingerprint, flag: Arc<str>, good: Arc<Good>, config: &Config) {
        self.turn += 1;
        let (added, turn) = (weight(&flag, &good), self.turn);
        let kept = self.contexts.entry(context).or_default();
        self.order.remove(&kept.turn);
        self.order.insert(turn, context);
        kept.turn = turn;
        match kept.flags.insert(flag.clone(), good) {
            Some(old) => self.bytes -= weight(&flag, &old),
            None => self.values += 1,
        }
        self.bytes += added;
        while self.values > config.most || self.bytes > config.most_bytes {
            let Some((_, &oldest)) = self.order.first_key_value() else { break };
            if oldest == context {
                // This one context is more than there is room for: what is newest of it stays out.
                self.evicted += 1;
                self.retain(context, |key| *key != *flag);
                break;
            }
            self.evicted += self.contexts.get(&oldest).map_or(0, |kept| kept.flags.len() as u64);
            self.retain(oldest, |_| false);
        }
    }

    /// Keeps of a context only the flags that are wanted.
    fn retain(&mut self, context: Fingerprint, wanted: impl Fn(&str) -> bool) -> Change {
        let Some(kept) = self.contexts.get_mut(&context) else { return Change::None };
        let before = self.values;
        kept.flags.retain(|key, good| {
            let stays = wanted(key);
            if !stays {
                self.values -= 1;
                self.bytes -= weight(key, good);
            }
            stays
        });
        if kept.flags.is_empty() {
            self.order.remove(&kept.turn);
            self.contexts.remove(&context);
        }
        if self.values < before { Change::Values } else { Change::None }
    }

    fn confirm(&mut self, now: Duration, context: Fingerprint) -> Change {
        let Some(kept) = self.contexts.get_mut(&context) else { return Change::None };
        for good in kept.flags.values_mut() {
            Arc::make_mut(good).at = now;
        }
        self.turn += 1;
        self.order.remove(&kept.turn);
        kept.turn = self.turn;
        self.order.insert(self.turn, context);
        Change::Times
    }

    fn contents(&self) -> Contents {
        let contexts = self.order.values().filter_map(|context| self.contexts.get_key_value(context));
        contexts.map(|(context, kept)| (*context, kept.flags.clone())).collect()
    }

    fn restore(&mut self, contents: Contents, config: &Config) {
        for (context, flags) in contents {
            for (flag, good) in flags {
                self.put(context, flag, good, config);
            }
        }
    }
}

/// The bytes that a value takes, about.
fn weight(flag: &str, good: &Good) -> usize {
    let metadata: usize = good.metadata.iter().map(|(key, value)| key.len() + size(value)).sum();
    OVERHEAD + flag.len() + size(&good.value) + good.variant.as_ref().map_or(0, String::len) + metadata
}

fn size(value: &Value) -> usize {
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(members) => members.iter().map(|(key, value)| key.len() + size(value)).sum(),
        _ => 0,
    };
    size_of::<Value>() + inner
}

/// What a value takes beside its text: nodes, counts, the moment.
const OVERHEAD: usize = 160;
/// The longest wait before a file that can't be written is tried again.
const RARELY: Duration = Duration::from_secs(60);
/// How long the end of a program waits for the last write.
const LAST_WRITE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
