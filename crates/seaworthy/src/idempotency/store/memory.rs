//! Keys in the memory of one process: for tests, and for whom it is enough that retries are safe while the process lives.
//!
//! Nothing outlives the process, so after a restart every key is new: where that could carry an operation out twice, the
//! embedded store is the answer. Time is the monotonic clock; no step waits for anything.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use seaworthy_core::Instant;
use seaworthy_core::idempotency::{Phase, Standing, Token};

use super::{Answer, Claim, Hold, Id, Page, Record, Release, Reserved, Settled, Step, Store, StoreError};
use crate::clock;

/// A store in memory. See the [module](self).
#[derive(Debug)]
pub struct Memory {
    most_records: usize,
    most_bytes: usize,
    state: Mutex<State>,
}

impl Memory {
    /// Keeps up to `most_records` keys, and results of 256 MiB in all (see [`with_most_bytes`](Self::with_most_bytes)). A key or
    /// a result beyond that is [`StoreError::Full`], until others are past their retention.
    #[must_use]
    pub fn new(most_records: usize) -> Self {
        Self { most_records, most_bytes: MOST_BYTES, state: Mutex::default() }
    }

    /// Keeps results of `most_bytes` in all. What a key itself takes, some 500 bytes, is not counted.
    #[must_use]
    pub fn with_most_bytes(self, most_bytes: usize) -> Self {
        Self { most_bytes, ..self }
    }

    /// How many keys it remembers, those past their retention that were not swept away yet among them.
    #[must_use]
    pub fn records(&self) -> usize {
        self.state().entries.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step panics in the middle of a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve_now(&self, id: &Id, claim: &Claim, from: Option<Token>) -> Result<Reserved, StoreError> {
        id.check()?;
        let now = clock::now();
        let mut state = self.state();
        let token = match state.live(id, now) {
            None => Token::FIRST,
            Some(entry) if entry.standing.phase == Phase::Running && entry.owner == Some(claim.owner) => {
                return Ok(Reserved::New(Hold { token: entry.standing.token, owner: claim.owner }));
            }
            Some(entry) if entry.may_begin(from) => entry.standing.token.next(),
            Some(entry) => return Ok(Reserved::Found(entry.record(now))),
        };
        if !state.entries.contains_key(id) && state.entries.len() >= self.most_records {
            // Whoever asks makes room, so that nobody is refused for what is past its retention.
            state.sweep(now, SWEPT_FOR_ROOM);
            if state.entries.len() >= self.most_records {
                return Err(StoreError::Full(format!(
                    "it holds {} keys, all that it may",
                    self.most_records
                )));
            }
        }
        state.remove(id);
        state.insert(id.clone(), Entry::new(claim, token, now));
        Ok(Reserved::New(Hold { token, owner: claim.owner }))
    }

    fn settle_now(
        &self,
        id: &Id,
        hold: Hold,
        settled: &Settled,
        retention: Duration,
    ) -> Result<bool, StoreError> {
        let now = clock::now();
        let mut state = self.state();
        let Some(entry) = state.held(id, hold, now) else { return Ok(false) };
        if entry.standing.phase == settled.phase() {
            return Ok(!matches!(settled, Settled::Done(answer) if entry.answer.as_ref() != Some(answer)));
        }
        if !entry.is_open() {
            return Ok(false);
        }
        let answer = match settled {
            Settled::Done(answer) => Some(copied(answer)),
            Settled::Unknown | Settled::Free => None,
        };
        let more = answer.as_ref().map_or(0, |answer| answer.head.len() + answer.body.len());
        self.make_room(&mut state, now, more)?;
        state.change(id, now, retention, |entry| {
            entry.standing.phase = settled.phase();
            entry.answer = answer;
            if *settled == Settled::Free {
                entry.chunks.clear();
            }
        });
        Ok(true)
    }

    fn put_now(
        &self,
        id: &Id,
        hold: Hold,
        number: u32,
        bytes: Bytes,
        retention: Duration,
    ) -> Result<bool, StoreError> {
        let now = clock::now();
        let mut state = self.state();
        if !state.held(id, hold, now).is_some_and(|entry| entry.is_open()) {
            return Ok(false);
        }
        self.make_room(&mut state, now, bytes.len())?;
        state.change(id, now, retention, |entry| {
            entry.chunks.insert(number, alone(&bytes));
        });
        Ok(true)
    }

    /// Sees to it that there is room for `more` bytes, if what is past its retention takes it.
    fn make_room(&self, state: &mut State, now: Instant, more: usize) -> Result<(), StoreError> {
        let mut left = SWEPT_FOR_BYTES;
        loop {
            if state.bytes.saturating_add(more) <= self.most_bytes {
                return Ok(());
            }
            if left == 0 || state.sweep(now, 1) == 0 {
                break;
            }
            left -= 1;
        }
        Err(StoreError::Full(format!(
            "it holds results of {} bytes of the {} it may",
            state.bytes, self.most_bytes
        )))
    }

    fn list_now(&self, from: Option<&str>, most: usize) -> Result<Page, StoreError> {
        let start = match from {
            None => Bound::Unbounded,
            Some(from) => Bound::Excluded(
                read_place(from)
                    .ok_or_else(|| StoreError::Down(format!("`{from}` is no page of its listing")))?,
            ),
        };
        let now = clock::now();
        let state = self.state();
        let mut entries = state.entries.range((start, Bound::Unbounded)).peekable();
        let mut page = Page::default();
        let mut last = None;
        while page.records.len() < most.max(1) {
            let Some((id, entry)) = entries.next() else { break };
            last = Some(id);
            if entry.expires > now {
                let mut record = entry.record(now);
                if let Some(answer) = &mut record.answer {
                    answer.body = Bytes::new();
                }
                page.records.push((id.clone(), record));
            }
        }
        page.next = entries.peek().and(last).map(write_place);
        Ok(page)
    }

    fn release_now(&self, release: &Release) -> bool {
        let now = clock::now();
        let mut state = self.state();
        let Some(entry) = state.live(&release.id, now).filter(|entry| entry.standing.token == release.token)
        else {
            return false;
        };
        let (phase, retention) = (entry.standing.phase, entry.retention);
        if state.releases.len() >= MOST_RELEASES {
            state.releases.pop_front();
        }
        state.releases.push_back(Release { phase, at: clock::wall(), ..release.clone() });
        state.change(&release.id, now, retention, |entry| {
            entry.standing.phase = Phase::Free;
            entry.owner = None;
            entry.answer = None;
            entry.chunks.clear();
        });
        true
    }
}

impl Store for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn reserve<'a>(&'a self, id: &'a Id, claim: &'a Claim) -> Step<'a, Reserved> {
        Box::pin(async move { self.reserve_now(id, claim, None) })
    }

    fn take_over<'a>(&'a self, id: &'a Id, claim: &'a Claim, from: Token) -> Step<'a, Reserved> {
        Box::pin(async move { self.reserve_now(id, claim, Some(from)) })
    }

    fn settle<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        settled: &'a Settled,
        retention: Duration,
    ) -> Step<'a, bool> {
        Box::pin(async move { self.settle_now(id, hold, settled, retention) })
    }

    fn put_chunk<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        number: u32,
        bytes: Bytes,
        retention: Duration,
    ) -> Step<'a, bool> {
        Box::pin(async move { self.put_now(id, hold, number, bytes, retention) })
    }

    fn chunk<'a>(&'a self, id: &'a Id, token: Token, number: u32) -> Step<'a, Option<Bytes>> {
        Box::pin(async move {
            let state = self.state();
            let entry = state.live(id, clock::now()).filter(|entry| entry.standing.token == token);
            Ok(entry.and_then(|entry| entry.chunks.get(&number).cloned()))
        })
    }

    fn find<'a>(&'a self, id: &'a Id) -> Step<'a, Option<Record>> {
        Box::pin(async move {
            let now = clock::now();
            Ok(self.state().live(id, now).map(|entry| entry.record(now)))
        })
    }

    fn list<'a>(&'a self, from: Option<&'a str>, most: usize) -> Step<'a, Page> {
        Box::pin(async move { self.list_now(from, most) })
    }

    fn release<'a>(&'a self, release: &'a Release) -> Step<'a, bool> {
        Box::pin(async move { Ok(self.release_now(release)) })
    }

    fn releases(&self, most: usize) -> Step<'_, Vec<Release>> {
        Box::pin(async move { Ok(self.state().releases.iter().rev().take(most).cloned().collect()) })
    }

    fn sweep(&self, most: usize) -> Step<'_, usize> {
        Box::pin(async move { Ok(self.state().sweep(clock::now(), most)) })
    }
}

/// All that is remembered. `expiries` and `bytes` follow from `entries`, and are changed along with them.
#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Id, Entry>,
    expiries: BTreeSet<(Instant, Id)>,
    /// Of all results.
    bytes: usize,
    /// Oldest first.
    releases: VecDeque<Release>,
}

impl State {
    /// The entry of a key that is not past its retention.
    fn live(&self, id: &Id, now: Instant) -> Option<&Entry> {
        self.entries.get(id).filter(|entry| entry.expires > now)
    }

    /// The entry, if it is still the hold's.
    fn held(&self, id: &Id, hold: Hold, now: Instant) -> Option<&Entry> {
        self.live(id, now)
            .filter(|entry| entry.standing.token == hold.token && entry.owner == Some(hold.owner))
    }

    fn insert(&mut self, id: Id, entry: Entry) {
        self.bytes += entry.bytes();
        self.expiries.insert((entry.expires, id.clone()));
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: &Id) {
        if let Some(entry) = self.entries.remove(id) {
            self.bytes -= entry.bytes();
            self.expiries.remove(&(entry.expires, id.clone()));
        }
    }

    fn change(&mut self, id: &Id, now: Instant, retention: Duration, how: impl FnOnce(&mut Entry)) {
        let Slot::Occupied(mut slot) = self.entries.entry(id.clone()) else { return };
        let entry = slot.get_mut();
        self.expiries.remove(&(entry.expires, id.clone()));
        self.bytes -= entry.bytes();
        how(entry);
        entry.retention = retention;
        entry.changed = clock::wall();
        entry.expires = now.plus(retention);
        self.bytes += entry.bytes();
        self.expiries.insert((entry.expires, id.clone()));
    }

    fn sweep(&mut self, now: Instant, most: usize) -> usize {
        let mut swept = 0;
        while swept < most {
            let Some((expires, id)) = self.expiries.first().cloned() else { break };
            if expires > now {
                break;
            }
            self.remove(&id);
            swept += 1;
        }
        swept
    }
}

#[derive(Debug)]
struct Entry {
    standing: Standing,
    /// `None` once it was released: then nobody holds it.
    owner: Option<u128>,
    lease: Duration,
    retention: Duration,
    changed: Duration,
    expires: Instant,
    answer: Option<Answer>,
    chunks: BTreeMap<u32, Bytes>,
}

impl Entry {
    fn new(claim: &Claim, token: Token, now: Instant) -> Self {
        Self {
            standing: Standing { fingerprint: claim.fingerprint, token, phase: Phase::Running },
            owner: Some(claim.owner),
            lease: Duration::from_millis(claim.lease_ms()),
            retention: claim.retention,
            changed: clock::wall(),
            expires: now.plus(claim.retention),
            answer: None,
            chunks: BTreeMap::new(),
        }
    }

    /// Whether its hold may still settle it.
    fn is_open(&self) -> bool {
        matches!(self.standing.phase, Phase::Running | Phase::Unknown)
    }

    /// Whether it may be begun anew: if it is free, or, to take it over, if it is open under that token.
    fn may_begin(&self, from: Option<Token>) -> bool {
        match from {
            None => self.standing.phase == Phase::Free,
            Some(token) => self.is_open() && self.standing.token == token,
        }
    }

    fn bytes(&self) -> usize {
        let answer = self.answer.as_ref().map_or(0, |answer| answer.head.len() + answer.body.len());
        answer + self.chunks.values().map(Bytes::len).sum::<usize>()
    }

    fn record(&self, now: Instant) -> Record {
        Record {
            standing: self.standing,
            lease: self.lease,
            orphaned: false,
            changed: self.changed,
            remembered: Some(self.expires.since(now)),
            answer: self.answer.clone(),
        }
    }
}

fn copied(answer: &Answer) -> Answer {
    Answer { head: alone(&answer.head), body: alone(&answer.body), chunks: answer.chunks }
}

/// A copy of its own: a slice would keep the whole buffer that it is a part of.
fn alone(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// Where a page ends: the lengths of an id's first two parts, and all of it.
fn write_place(id: &Id) -> String {
    format!("{}.{}.{}{}{}", id.place.len(), id.client.len(), id.place, id.client, id.key)
}

fn read_place(text: &str) -> Option<Id> {
    let (place, rest) = text.split_once('.')?;
    let (client, rest) = rest.split_once('.')?;
    let (place, rest) = rest.split_at_checked(place.parse().ok()?)?;
    let (client, key) = rest.split_at_checked(client.parse().ok()?)?;
    Some(Id { place: place.into(), client: client.into(), key: key.into() })
}

/// Enough for 20,000 results of 13 KB, and little beside what a proxy's buffers take.
const MOST_BYTES: usize = 256 * 1024 * 1024;
/// What one reservation sweeps away at most when there is no room: some 10 microseconds of work.
const SWEPT_FOR_ROOM: usize = 16;
/// And when there is no room for a result, which may need that of many small ones: some hundred microseconds.
const SWEPT_FOR_BYTES: usize = 1024;
/// As many as every store keeps.
const MOST_RELEASES: usize = 10_000;

#[cfg(test)]
mod tests {
    use seaworthy_core::idempotency::Fingerprint;

    use super::*;

    const RETENTION: Duration = Duration::from_secs(60);

    fn id(key: &str) -> Id {
        Id::new("place", b"client", key)
    }

    fn claim(owner: u128) -> Claim {
        Claim { fingerprint: Fingerprint([7; 32]), owner, lease: RETENTION, retention: RETENTION }
    }

    async fn begun(store: &Memory, key: &str) -> Hold {
        match store.reserve(&id(key), &claim(1)).await.unwrap() {
            Reserved::New(hold) => hold,
            Reserved::Found(record) => panic!("{record:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_forgotten_at_the_moment_and_not_before() {
        let store = Memory::new(8);
        begun(&store, "a").await;
        tokio::time::advance(RETENTION - Duration::from_millis(1)).await;
        assert!(store.find(&id("a")).await.unwrap().is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(store.find(&id("a")).await.unwrap().is_none());
        assert_eq!(store.sweep(8).await.unwrap(), 1);
        assert_eq!(store.records(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_full_until_others_are_past_their_retention() {
        let store = Memory::new(2);
        begun(&store, "a").await;
        begun(&store, "b").await;
        let error = store.reserve(&id("c"), &claim(1)).await.unwrap_err();
        assert_eq!(error.name(), "full");
        // What is known already needs no room.
        begun(&store, "a").await;
        tokio::time::advance(RETENTION).await;
        begun(&store, "c").await;
        assert!(store.records() <= 2);
    }

    #[tokio::test]
    async fn results_are_bounded_in_bytes_and_give_their_room_back() {
        let store = Memory::new(8).with_most_bytes(10);
        let hold = begun(&store, "a").await;
        let put = |number, bytes: &'static [u8]| {
            let store = &store;
            async move { store.put_chunk(&id("a"), hold, number, Bytes::from_static(bytes), RETENTION).await }
        };
        assert!(put(0, b"12345678").await.unwrap());
        assert_eq!(put(1, b"12345678").await.unwrap_err().name(), "full");
        let token = hold.token;
        let release =
            Release { id: id("a"), token, phase: Phase::Running, reason: "test".into(), at: Duration::ZERO };
        assert!(store.release(&release).await.unwrap());
        assert_eq!(store.state().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn results_past_their_retention_make_room_for_others() {
        let store = Memory::new(100).with_most_bytes(10);
        let done = |body: &'static [u8]| {
            Settled::Done(Answer { body: Bytes::from_static(body), ..Answer::default() })
        };
        for n in 0..5 {
            let (key, hold) = (n.to_string(), begun(&store, &n.to_string()).await);
            assert!(store.settle(&id(&key), hold, &done(b"12"), RETENTION).await.unwrap());
        }
        tokio::time::advance(RETENTION - Duration::from_millis(1)).await;
        let hold = begun(&store, "new").await;
        let full = store.settle(&id("new"), hold, &done(b"12345678"), RETENTION).await.unwrap_err();
        assert_eq!(full.name(), "full");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(store.settle(&id("new"), hold, &done(b"12345678"), RETENTION).await.unwrap());
        assert_eq!(store.records(), 2, "no more than were in the way were swept");
    }

    #[tokio::test]
    async fn a_result_does_not_keep_the_buffer_that_it_was_cut_from() {
        let store = Memory::new(8);
        let (hold, buffer) = (begun(&store, "a").await, Bytes::from(vec![7; 1000]));
        let answer = Answer { head: buffer.slice(..10), body: buffer.slice(10..20), chunks: 0 };
        assert!(store.settle(&id("a"), hold, &Settled::Done(answer), RETENTION).await.unwrap());
        assert!(buffer.is_unique(), "the store holds a part of it");
    }

    #[test]
    fn a_place_in_a_listing_is_read_as_written() {
        for (place, client, key) in [("", "", ""), ("a.b", "1.2", "..."), ("\u{1f600}", "\u{e4}", "\0")] {
            let id = Id { place: place.into(), client: client.into(), key: key.into() };
            assert_eq!(read_place(&write_place(&id)), Some(id));
        }
        for bad in ["", "1", "1.1", "9.9.abc", "x.1.abc", "1.0.\u{e4}"] {
            assert_eq!(read_place(bad), None, "{bad:?}");
        }
    }
}
