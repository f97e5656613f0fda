//! The store: shards of entries, the longest unused of which leave first.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{self, HeaderMap};
use http::{Method, StatusCode, Uri};

use super::entry::{Entry, Head, Stored};
use super::question::{Moment, Question, Rules, key};
use super::recorder::Recorder;

/// Answers kept, shared by all threads.
#[derive(Debug)]
pub(crate) struct Store {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    /// The most bytes of a shard.
    most: usize,
    /// Bytes of bodies that are being recorded, and the most of them.
    recording: AtomicUsize,
    most_recording: usize,
    tallied: Tallied,
}

/// What the store has for a request, before the upstream is asked.
#[derive(Clone, Debug)]
pub(crate) enum Look {
    /// What may be sent at once.
    Fresh(Stored),
    /// What the upstream may say is still good.
    Stale {
        /// It.
        stored: Stored,
        /// It may be sent at once while it is refreshed.
        while_revalidate: bool,
    },
    /// Nothing.
    Miss,
}

/// What has happened so far, and what is there now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    /// Answers that are kept.
    pub entries: u64,
    /// Bytes that they take, headers and overhead included.
    pub bytes: u64,
    /// Answers that left for others.
    pub evictions: u64,
    /// Requests answered while fresh.
    pub hits: u64,
    /// Requests for which something stale was used, on error or while it was refreshed.
    pub stale: u64,
    /// Requests for which there was nothing.
    pub misses: u64,
    /// Answers that a 304 made good again.
    pub revalidations: u64,
}

#[derive(Debug, Default)]
struct Tallied {
    evictions: AtomicU64,
    hits: AtomicU64,
    stale: AtomicU64,
    misses: AtomicU64,
    revalidations: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Arc<str>, Vec<Slot>>,
    /// Who was used when; the first is the longest unused.
    used: BTreeMap<u64, Arc<str>>,
    tick: u64,
    bytes: usize,
    /// How often something was invalidated.
    epoch: u64,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    size: usize,
    used: u64,
}

impl Store {
    /// A store of `bytes` bytes.
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let shards = (bytes / LEAST_SHARD).clamp(1, MOST_SHARDS);
        Arc::new(Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            most: bytes / shards,
            recording: AtomicUsize::new(0),
            most_recording: bytes / 4,
            tallied: Tallied::default(),
        })
    }

    /// What there is before the upstream is asked.
    pub(crate) fn look(&self, now: Moment, question: &Question, rules: &Rules) -> Look {
        if !question.can_be_answered() {
            return Look::Miss;
        }
        let Some(stored) = self.find(question) else {
            self.tallied.misses.fetch_add(1, Ordering::Relaxed);
            return Look::Miss;
        };
        let head = &stored.0.head;
        if rules.serve_fresh && head.is_fresh(now, question) {
            self.tallied.hits.fetch_add(1, Ordering::Relaxed);
            return Look::Fresh(stored);
        }
        let while_revalidate = rules.serve_fresh && head.may_be_refreshed_behind(now, question);
        if while_revalidate {
            self.tallied.stale.fetch_add(1, Ordering::Relaxed);
        }
        Look::Stale { stored, while_revalidate }
    }

    /// What may be sent as the upstream has no answer.
    pub(crate) fn on_error(&self, now: Moment, question: &Question, rules: &Rules) -> Option<Stored> {
        let found = question.can_be_answered().then(|| self.find(question)).flatten();
        let stored = found.filter(|stored| stored.0.head.may_be_used_on_error(now, question, rules));
        let counted = if stored.is_some() { &self.tallied.stale } else { &self.tallied.misses };
        counted.fetch_add(1, Ordering::Relaxed);
        stored
    }

    /// Takes note of the head of the upstream's answer: a change makes what is stored invalid (RFC 9111, section 4.4), and an
    /// answer that may be kept is recorded.
    pub(crate) fn answered(
        self: &Arc<Self>,
        now: Moment,
        question: &Question,
        rules: &Rules,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<Recorder> {
        if !question.method.is_safe() {
            if status.is_success() || status.is_redirection() {
                self.invalidate(question, headers);
            }
            return None;
        }
        let head = Head::storable(now, question, status, headers)?;
        let length = headers.get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse::<u64>().ok());
        let most = usize::try_from(rules.entry_bytes).unwrap_or(usize::MAX).min(self.most);
        if length.is_some_and(|length| length > most as u64) {
            return None;
        }
        let epoch = lock(self.shard(&question.key)).epoch;
        Some(Recorder::new(self.clone(), question.clone(), head, length, most, epoch))
    }

    /// The upstream said with a 304 that `stored` is still good. What it is now; `None` if the 304 was about
    /// something else or it must not be kept any more: then it is gone, and is to be asked for without conditions.
    pub(crate) fn refreshed(
        &self,
        now: Moment,
        question: &Question,
        stored: &Stored,
        update: &HeaderMap,
    ) -> Option<Stored> {
        let mut as_stored = question.clone();
        // It was asked for with our conditions, in whole.
        as_stored.method = Method::GET;
        as_stored.headers.remove(header::RANGE);
        let epoch = lock(self.shard(&question.key)).epoch;
        let Some(head) = stored.0.head.refreshed(now, &as_stored, update) else {
            lock(self.shard(&question.key)).invalidate(&question.key);
            return None;
        };
        self.tallied.revalidations.fetch_add(1, Ordering::Relaxed);
        self.put(&as_stored, Entry { head, body: stored.0.body.clone() }, epoch)
    }

    /// What has happened so far, and what is there now.
    pub(crate) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut counts = Counts {
            evictions: read(&self.tallied.evictions),
            hits: read(&self.tallied.hits),
            stale: read(&self.tallied.stale),
            misses: read(&self.tallied.misses),
            revalidations: read(&self.tallied.revalidations),
            ..Counts::default()
        };
        for shard in &self.shards {
            let shard = lock(shard);
            counts.entries += shard.used.len() as u64;
            counts.bytes += shard.bytes as u64;
        }
        counts
    }

    /// Puts in an answer, unless something was invalidated since `epoch`: it may be what was there before the change.
    pub(super) fn put(&self, question: &Question, entry: Entry, epoch: u64) -> Option<Stored> {
        let size = entry.head.size() + entry.body.len() + 2 * question.key.len();
        let mut shard = lock(self.shard(&question.key));
        if size > self.most || shard.epoch != epoch {
            return None;
        }
        let entry = Arc::new(entry);
        let evicted = shard.put(&question.key, entry.clone(), size, self.most);
        drop(shard);
        self.tallied.evictions.fetch_add(evicted, Ordering::Relaxed);
        Some(Stored(entry))
    }

    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let before = self.recording.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.most_recording;
        if !fits {
            self.unreserve(bytes);
        }
        fits
    }

    pub(super) fn unreserve(&self, bytes: usize) {
        self.recording.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn find(&self, question: &Question) -> Option<Stored> {
        lock(self.shard(&question.key)).find(question).map(Stored)
    }

    /// Drops the resource and those that the answer names, if they are of the same host.
    fn invalidate(&self, question: &Question, headers: &HeaderMap) {
        lock(self.shard(&question.key)).invalidate(&question.key);
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let target = headers.get(name).and_then(|value| value.to_str().ok()?.parse::<Uri>().ok());
            let Some(target) = target else { continue };
            let host = question.host.as_bytes();
            let same = target.authority().is_none_or(|a| a.as_str().as_bytes().eq_ignore_ascii_case(host));
            if let Some(path) = target.path_and_query().filter(|path| same && path.as_str().starts_with('/'))
            {
                let key = key(host, path.as_str());
                lock(self.shard(&key)).invalidate(&key);
            }
        }
    }

    fn shard(&self, key: &str) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(key) as usize % self.shards.len()]
    }
}

impl Shard {
    /// The answer to `question`, which is then the last used.
    fn find(&mut self, question: &Question) -> Option<Arc<Entry>> {
        let slots = self.entries.get_mut(&question.key)?;
        let slot = slots.iter_mut().rev().find(|slot| slot.entry.head.answers(question))?;
        self.tick += 1;
        let key = self.used.remove(&slot.used)?;
        slot.used = self.tick;
        self.used.insert(self.tick, key);
        Some(slot.entry.clone())
    }

    /// How many left for it.
    fn put(&mut self, key: &Arc<str>, entry: Arc<Entry>, size: usize, most: usize) -> u64 {
        let slots = self.entries.get(key).map(Vec::as_slice).unwrap_or_default();
        let same = slots.iter().find(|slot| slot.entry.head.replaces(&entry.head)).map(|slot| slot.used);
        if let Some(same) = same {
            self.remove(same);
        }
        let mut evicted = 0;
        let slots = self.entries.get(key).map(Vec::as_slice).unwrap_or_default();
        if slots.len() >= MOST_VARIANTS
            && let Some(oldest) = slots.iter().map(|slot| slot.used).min()
        {
            self.remove(oldest);
            evicted += 1;
        }
        while self.bytes + size > most
            && let Some((&oldest, _)) = self.used.first_key_value()
        {
            self.remove(oldest);
            evicted += 1;
        }
        self.tick += 1;
        self.bytes += size;
        self.used.insert(self.tick, key.clone());
        self.entries.entry(key.clone()).or_default().push(Slot { entry, size, used: self.tick });
        evicted
    }

    fn remove(&mut self, used: u64) {
        let Some(key) = self.used.remove(&used) else { return };
        let Some(slots) = self.entries.get_mut(&key) else { return };
        if let Some(at) = slots.iter().position(|slot| slot.used == used) {
            self.bytes -= slots.remove(at).size;
        }
        if slots.is_empty() {
            self.entries.remove(&key);
        }
    }

    fn invalidate(&mut self, key: &str) {
        self.epoch += 1;
        for slot in self.entries.remove(key).unwrap_or_default() {
            self.used.remove(&slot.used);
            self.bytes -= slot.size;
        }
    }
}

/// What is guarded here is whole between any two calls: a panic elsewhere is no reason to stop.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Enough that threads seldom meet.
const MOST_SHARDS: usize = 16;
/// A shard is as large as the largest answer that it can keep: smaller ones would keep no page with pictures.
const LEAST_SHARD: usize = 8 << 20;
/// Of one resource. Who varies by more than languages and encodings varies by its visitors.
const MOST_VARIANTS: usize = 16;
