//! The steps, within a transaction.

use std::time::Duration;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase as _, ReadableTable, Table, TableDefinition, WriteTransaction};
use seaworthy_core::idempotency::{Phase, Standing, Token};

use super::clock::ms;
use super::disk::Disk;
use super::fault::Fault;
use super::row::{Kind, Name, Row, Unread, name, read_release, seal, unseal, write_release};
use crate::idempotency::store::{
    Claim, Fingerprint, Hold, Id, Page, Record, Release, Reserved, Settled, StoreError,
};

/// A step that writes.
#[derive(Debug)]
pub(super) enum Op {
    /// Reserves, or takes over from a token.
    Begin {
        id: Id,
        claim: Claim,
        from: Option<Token>,
    },
    Settle {
        id: Id,
        hold: Hold,
        settled: Settled,
        retention: Duration,
    },
    Put {
        id: Id,
        hold: Hold,
        number: u32,
        bytes: Bytes,
        retention: Duration,
    },
    Release(Release),
    Sweep(usize),
    /// Begins with an empty file, if what was there is damaged.
    Anew,
}

/// What a step did.
#[derive(Debug)]
pub(super) enum Done {
    Reserved(Reserved),
    Said(bool),
    Swept(Swept),
}

/// What was swept away.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Swept {
    pub(super) records: usize,
    /// And how much there was to do, pieces of results included.
    pub(super) work: usize,
}

/// A step's own result, and what ends its whole transaction.
type Tried<T> = Result<Result<T, StoreError>, Fault>;

/// What a step needs to know of the moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// By the store's clock.
    pub(super) ms: u64,
    pub(super) wall_ms: u64,
    pub(super) epoch: u64,
    /// How many commits there were before this one.
    pub(super) commits: u64,
}

/// A chunk's key: its record's name, token and number.
type ChunkName = [u8; 44];
/// When, and the record's name.
type Expiry = [u8; 40];

pub(super) const KEYS: TableDefinition<'static, &[u8; 32], &[u8]> = TableDefinition::new("keys");
pub(super) const CHUNKS: TableDefinition<'static, &[u8; 44], &[u8]> = TableDefinition::new("chunks");
pub(super) const EXPIRIES: TableDefinition<'static, &[u8; 40], ()> = TableDefinition::new("expiries");
pub(super) const RELEASES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("releases");

/// The tables of one writing transaction.
pub(super) struct Writing<'t> {
    now: Now,
    keys: Table<'t, &'static [u8; 32], &'static [u8]>,
    chunks: Table<'t, &'static [u8; 44], &'static [u8]>,
    expiries: Table<'t, &'static [u8; 40], ()>,
    releases: Table<'t, u64, &'static [u8]>,
}

impl<'t> Writing<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, now: Now) -> Result<Self, Fault> {
        Ok(Self {
            now,
            keys: transaction.open_table(KEYS)?,
            chunks: transaction.open_table(CHUNKS)?,
            expiries: transaction.open_table(EXPIRIES)?,
            releases: transaction.open_table(RELEASES)?,
        })
    }

    pub(super) fn take(&mut self, op: &Op) -> Tried<Done> {
        match op {
            Op::Begin { id, claim, from } => Ok(self.begin(id, claim, *from)?.map(Done::Reserved)),
            Op::Settle { id, hold, settled, retention } => {
                Ok(self.settle(id, *hold, settled, *retention)?.map(Done::Said))
            }
            Op::Put { id, hold, number, bytes, retention } => {
                Ok(self.put(id, *hold, *number, bytes, *retention)?.map(Done::Said))
            }
            Op::Release(release) => Ok(self.release(release)?.map(Done::Said)),
            Op::Sweep(most) => Ok(Ok(Done::Swept(self.sweep(*most)?))),
            // Nothing is damaged where a transaction could be begun.
            Op::Anew => Ok(Ok(Done::Said(false))),
        }
    }

    fn begin(&mut self, id: &Id, claim: &Claim, from: Option<Token>) -> Tried<Reserved> {
        let name = name(id);
        let old = match self.row(&name, id)? {
            Ok(old) => old,
            Err(error) => return Ok(Err(error)),
        };
        let token = match old.as_ref().filter(|old| old.expires_ms > self.now.ms) {
            None => Token::FIRST,
            Some(old) if old.standing.phase == Phase::Running && old.owner == Some(claim.owner) => {
                return Ok(Ok(Reserved::New(Hold { token: old.standing.token, owner: claim.owner })));
            }
            Some(old) if may_begin(old, from) => old.standing.token.next(),
            Some(old) => return Ok(Ok(Reserved::Found(old.clone().record(self.now.epoch, self.now.ms)))),
        };
        if let Some(old) = &old {
            self.forget_beside(&name, old)?;
        }
        let row = Row {
            id: id.clone(),
            standing: Standing { fingerprint: claim.fingerprint, token, phase: Phase::Running },
            owner: Some(claim.owner),
            epoch: self.now.epoch,
            lease_ms: claim.lease_ms(),
            retention_ms: ms(claim.retention),
            expires_ms: self.now.ms.saturating_add(ms(claim.retention)),
            changed_ms: self.now.wall_ms,
            chunked: false,
            answer: None,
        };
        self.write(&name, &row)?;
        Ok(Ok(Reserved::New(Hold { token, owner: claim.owner })))
    }

    fn settle(&mut self, id: &Id, hold: Hold, settled: &Settled, retention: Duration) -> Tried<bool> {
        let name = name(id);
        let row = match self.held(&name, id, hold)? {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(Ok(false)),
            Err(error) => return Ok(Err(error)),
        };
        if row.standing.phase == settled.phase() {
            let other = matches!(settled, Settled::Done(answer) if row.answer.as_ref() != Some(answer));
            return Ok(Ok(!other));
        }
        if !row.is_open() {
            return Ok(Ok(false));
        }
        // Of what is free there is no result. Of what is unknown there may be one yet, and the pieces of one that is too long to
        // be kept may be on their way to the first who asked.
        let chunked = row.chunked && *settled != Settled::Free;
        if *settled == Settled::Free {
            self.forget_chunks(&name, &row)?;
        }
        self.change(&name, row, retention, |row| {
            row.standing.phase = settled.phase();
            row.answer = match settled {
                Settled::Done(answer) => Some(answer.clone()),
                Settled::Unknown | Settled::Free => None,
            };
            row.chunked = chunked;
        })?;
        Ok(Ok(true))
    }

    fn put(&mut self, id: &Id, hold: Hold, number: u32, bytes: &Bytes, retention: Duration) -> Tried<bool> {
        let name = name(id);
        let row = match self.held(&name, id, hold)? {
            Ok(Some(row)) if row.is_open() => row,
            Ok(_) => return Ok(Ok(false)),
            Err(error) => return Ok(Err(error)),
        };
        let key = chunk_name(&name, hold.token, number);
        self.chunks.insert(&key, seal(Kind::Chunk, &key, bytes).as_slice())?;
        self.change(&name, row, retention, |row| row.chunked = true)?;
        Ok(Ok(true))
    }

    fn release(&mut self, release: &Release) -> Tried<bool> {
        let name = name(&release.id);
        let row = match self.row(&name, &release.id)? {
            Ok(Some(row)) if row.standing.token == release.token && row.expires_ms > self.now.ms => row,
            Ok(_) => return Ok(Ok(false)),
            Err(StoreError::Corrupt(_)) => return Ok(Ok(self.release_unread(&name, release)?)),
            Err(error) => return Ok(Err(error)),
        };
        self.note(release, row.standing.phase)?;
        self.forget_chunks(&name, &row)?;
        let retention = Duration::from_millis(row.retention_ms);
        self.change(&name, row, retention, |row| {
            row.standing.phase = Phase::Free;
            row.owner = None;
            row.answer = None;
            row.chunked = false;
        })?;
        Ok(Ok(true))
    }

    /// Writes over a record that can't be read, for as long as that would have been remembered.
    fn release_unread(&mut self, name: &Name, release: &Release) -> Result<bool, Fault> {
        // All of them are looked through, as only the record itself says when it ends: a second for some millions, and rare.
        let mut expires_ms = None;
        for entry in self.expiries.iter()? {
            let (at, of) = read_expiry(entry?.0.value());
            if of == *name {
                expires_ms = Some(at);
                break;
            }
        }
        let Some(expires_ms) = expires_ms.filter(|at| *at > self.now.ms) else { return Ok(false) };
        self.note(release, Phase::Unknown)?;
        self.forget_all_chunks(name)?;
        // Above every token that it can have had: no commit makes more of them than it has steps.
        let token = Token((self.now.commits + 1).saturating_mul(MOST_STEPS as u64));
        let row = Row {
            id: release.id.clone(),
            standing: Standing { fingerprint: Fingerprint([0; 32]), token, phase: Phase::Free },
            owner: None,
            epoch: self.now.epoch,
            lease_ms: 0,
            retention_ms: expires_ms - self.now.ms,
            expires_ms,
            changed_ms: self.now.wall_ms,
            chunked: false,
            answer: None,
        };
        self.write(name, &row)?;
        Ok(true)
    }

    /// Writes down what an operator released.
    fn note(&mut self, release: &Release, phase: Phase) -> Result<(), Fault> {
        let number = self.releases.last()?.map_or(0, |(last, _)| last.value() + 1);
        let at = Duration::from_millis(self.now.wall_ms);
        let kept = Release { phase, at, ..release.clone() };
        self.releases.insert(number, write_release(number, &kept).as_slice())?;
        while redb::ReadableTableMetadata::len(&self.releases)? > MOST_RELEASES {
            self.releases.pop_first()?;
        }
        Ok(())
    }

    /// Removes what is past its retention: not more than `most` records and pieces of results.
    pub(super) fn sweep(&mut self, most: usize) -> Result<Swept, Fault> {
        let mut swept = Swept::default();
        while swept.work < most {
            let Some(key) = self.expiries.first()?.map(|(key, _)| *key.value()) else { break };
            let (at, name) = read_expiry(&key);
            if at > self.now.ms {
                break;
            }
            let row = self.keys.get(&name)?.map(|value| Row::read(&name, value.value()));
            if let Some(Ok(row)) = &row
                && row.expires_ms > self.now.ms
            {
                // The record itself says when it ends, under its checksum: the other time was damaged.
                self.expiries.remove(&key)?;
                self.expiries.insert(&expiry(row.expires_ms, &name), ())?;
                swept.work += 1;
                continue;
            }
            // A record that can't be read may have pieces; it is past its retention either way.
            if !matches!(&row, Some(Ok(row)) if !row.chunked) {
                swept.work += self.forget_some_chunks(&name, most - swept.work)?;
            }
            // Its pieces go first, so that there are none of nobody's.
            if swept.work < most {
                self.keys.remove(&name)?;
                self.expiries.remove(&key)?;
                swept.work += 1;
                swept.records += 1;
            }
        }
        Ok(swept)
    }

    fn row(&self, name: &Name, id: &Id) -> Tried<Option<Row>> {
        row(&self.keys, name, id)
    }

    /// The row, if it is still the hold's.
    fn held(&self, name: &Name, id: &Id, hold: Hold) -> Tried<Option<Row>> {
        let now = self.now.ms;
        Ok(self.row(name, id)?.map(|row| {
            row.filter(|row| {
                row.expires_ms > now && row.standing.token == hold.token && row.owner == Some(hold.owner)
            })
        }))
    }

    fn change(
        &mut self,
        name: &Name,
        mut row: Row,
        retention: Duration,
        how: impl FnOnce(&mut Row),
    ) -> Result<(), Fault> {
        self.expiries.remove(&expiry(row.expires_ms, name))?;
        how(&mut row);
        row.retention_ms = ms(retention);
        row.expires_ms = self.now.ms.saturating_add(row.retention_ms);
        row.changed_ms = self.now.wall_ms;
        self.write(name, &row)
    }

    fn write(&mut self, name: &Name, row: &Row) -> Result<(), Fault> {
        self.keys.insert(name, row.write(name).as_slice())?;
        self.expiries.insert(&expiry(row.expires_ms, name), ())?;
        Ok(())
    }

    /// Removes what stands beside a row that is about to be written over.
    fn forget_beside(&mut self, name: &Name, row: &Row) -> Result<(), Fault> {
        self.expiries.remove(&expiry(row.expires_ms, name))?;
        self.forget_chunks(name, row)
    }

    fn forget_chunks(&mut self, name: &Name, row: &Row) -> Result<(), Fault> {
        if row.chunked { self.forget_all_chunks(name) } else { Ok(()) }
    }

    fn forget_all_chunks(&mut self, name: &Name) -> Result<(), Fault> {
        let (first, last) = all_chunks(name);
        self.chunks.retain_in::<&ChunkName, _>(&first..=&last, |_, _| false)?;
        Ok(())
    }

    /// How many of a record's pieces were removed: all that there were, unless it is `most`.
    fn forget_some_chunks(&mut self, name: &Name, most: usize) -> Result<usize, Fault> {
        let (first, last) = all_chunks(name);
        let some = self.chunks.range::<&ChunkName>(&first..=&last)?.take(most);
        let some: Vec<ChunkName> = some.map(|entry| Ok(*entry?.0.value())).collect::<Result<_, Fault>>()?;
        for chunk in &some {
            self.chunks.remove(chunk)?;
        }
        Ok(some.len())
    }
}

/// Looks at what was committed.
pub(super) struct Reading<'d> {
    disk: &'d Disk,
    transaction: ReadTransaction,
    now_ms: u64,
}

impl<'d> Reading<'d> {
    pub(super) fn begin(disk: &'d Disk) -> Result<Self, Fault> {
        Ok(Self { transaction: disk.database.begin_read()?, now_ms: disk.clock.now_ms(), disk })
    }

    pub(super) fn find(&self, id: &Id) -> Tried<Option<Record>> {
        Ok(self.live(id)?.map(|row| row.map(|row| row.record(self.disk.epoch, self.now_ms))))
    }

    /// The record that a reservation finds, if it can't be given; `None` if the writer has to see.
    pub(super) fn stands_against(&self, id: &Id, claim: &Claim) -> Tried<Option<Record>> {
        Ok(self.live(id)?.map(|row| {
            row.filter(|row| match row.standing.phase {
                Phase::Done | Phase::Unknown => true,
                Phase::Running => row.owner != Some(claim.owner),
                Phase::Free => false,
            })
            .map(|row| row.record(self.disk.epoch, self.now_ms))
        }))
    }

    pub(super) fn chunk(&self, id: &Id, token: Token, number: u32) -> Tried<Option<Bytes>> {
        match self.live(id)? {
            Ok(Some(row)) if row.standing.token == token => {}
            Ok(_) => return Ok(Ok(None)),
            Err(error) => return Ok(Err(error)),
        }
        let key = chunk_name(&name(id), token, number);
        let Some(value) = self.transaction.open_table(CHUNKS)?.get(&key)? else { return Ok(Ok(None)) };
        Ok(unseal(Kind::Chunk, &key, value.value())
            .map(|bytes| Some(Bytes::copy_from_slice(bytes)))
            .map_err(|unread| unread.error(&format!("piece {number} of the result of {id}"))))
    }

    pub(super) fn list(&self, from: Option<Name>, most: usize) -> Tried<Page> {
        let keys = self.transaction.open_table(KEYS)?;
        let mut page = Page::default();
        // What is past its retention counts too: a page's work is bounded.
        for (seen, entry) in keys.range::<&Name>(from.as_ref().unwrap_or(&[0; 32])..)?.enumerate() {
            let (key, value) = entry?;
            if seen >= most.max(1) {
                page.next = Some(key.value().iter().map(|byte| format!("{byte:02x}")).collect());
                break;
            }
            let mut row = match Row::read(key.value(), value.value()) {
                Ok(row) => row,
                Err(Unread::Damaged | Unread::Newer(_)) => {
                    page.unread += 1;
                    continue;
                }
            };
            if row.expires_ms > self.now_ms {
                if let Some(answer) = &mut row.answer {
                    answer.body = Bytes::new();
                }
                page.records.push((row.id.clone(), row.record(self.disk.epoch, self.now_ms)));
            }
        }
        Ok(Ok(page))
    }

    pub(super) fn releases(&self, most: usize) -> Tried<Vec<Release>> {
        let mut releases = Vec::new();
        for entry in self.transaction.open_table(RELEASES)?.range::<u64>(..)?.rev().take(most) {
            let (number, value) = entry?;
            match read_release(number.value(), value.value()) {
                Ok(release) => releases.push(release),
                Err(unread) => return Ok(Err(unread.error(&format!("release {}", number.value())))),
            }
        }
        Ok(Ok(releases))
    }

    /// Whether there is something to sweep away.
    pub(super) fn has_expired(&self) -> Result<bool, Fault> {
        let expiries = self.transaction.open_table(EXPIRIES)?;
        let first = expiries.first()?;
        Ok(first.is_some_and(|(key, _)| read_expiry(key.value()).0 <= self.now_ms))
    }

    fn live(&self, id: &Id) -> Tried<Option<Row>> {
        let keys = self.transaction.open_table(KEYS)?;
        let found = row(&keys, &name(id), id)?;
        Ok(found.map(|row| row.filter(|row| row.expires_ms > self.now_ms)))
    }
}

/// Where a page begins, as [`Reading::list`] wrote it.
pub(super) fn read_place(text: &str) -> Option<Name> {
    let mut name = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (n, byte) in name.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(name)
}

fn row(
    keys: &impl ReadableTable<&'static [u8; 32], &'static [u8]>,
    name: &Name,
    id: &Id,
) -> Tried<Option<Row>> {
    let Some(value) = keys.get(name)? else { return Ok(Ok(None)) };
    match Row::read(name, value.value()) {
        Ok(row) if row.id == *id => Ok(Ok(Some(row))),
        Ok(_) => Ok(Err(Unread::Damaged.error(&format!("the record of {id}")))),
        Err(unread) => Ok(Err(unread.error(&format!("the record of {id}")))),
    }
}

/// Whether it may be begun anew: if it is free, or, to take it over, if it is open under that token.
fn may_begin(row: &Row, from: Option<Token>) -> bool {
    match from {
        None => row.standing.phase == Phase::Free,
        Some(token) => row.is_open() && row.standing.token == token,
    }
}

fn chunk_name(name: &Name, token: Token, number: u32) -> ChunkName {
    let mut key = [0; 44];
    key[..32].copy_from_slice(name);
    key[32..40].copy_from_slice(&token.0.to_be_bytes());
    key[40..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The first and the last that a record's pieces can have.
fn all_chunks(name: &Name) -> (ChunkName, ChunkName) {
    (chunk_name(name, Token(0), 0), chunk_name(name, Token(u64::MAX), u32::MAX))
}

fn expiry(at_ms: u64, name: &Name) -> Expiry {
    let mut key = [0; 40];
    key[..8].copy_from_slice(&at_ms.to_be_bytes());
    key[8..].copy_from_slice(name);
    key
}

pub(super) fn read_expiry(key: &Expiry) -> (u64, Name) {
    let (mut at, mut name) = ([0; 8], [0; 32]);
    at.copy_from_slice(&key[..8]);
    name.copy_from_slice(&key[8..]);
    (u64::from_be_bytes(at), name)
}

/// In one transaction: more than wait at a time behind a proxy of 1,024 calls in flight.
pub(super) const MOST_STEPS: usize = 4096;
/// As many as every store keeps.
const MOST_RELEASES: u64 = 10_000;
