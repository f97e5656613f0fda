//! How records are written, and how they are checked when they are read.
//!
//! A value is one byte that names the form, eight bytes of a SHA-256 over the form, the table, the key and what follows, and what
//! follows. So a value that was flipped, torn or put under another key is never taken for what was written. Every form to come
//! keeps to that, so that one that is not known yet is not taken for damage either.

use std::time::Duration;

use bytes::Bytes;
use seaworthy_core::idempotency::{Fingerprint, Phase, Standing, Token};
use sha2::{Digest as _, Sha256};

use super::clock::Moment;
use crate::idempotency::store::{Answer, Id, Record, Release, StoreError};

/// The key of a record.
pub(super) type Name = [u8; 32];

/// The key under which a record of `id` stands: all of one length, and no two ids in one.
pub(super) fn name(id: &Id) -> Name {
    let mut hash = Sha256::new();
    for part in [&id.place, &id.client, &id.key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

/// Which table a value belongs to.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Record = 1,
    Chunk = 2,
    Release = 3,
    State = 4,
}

/// Writes a value.
pub(super) fn seal(kind: Kind, key: &[u8], content: &[u8]) -> Vec<u8> {
    seal_as(FORM, kind, key, content)
}

/// Writes a value of some form.
pub(super) fn seal_as(form: u8, kind: Kind, key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD + content.len());
    value.push(form);
    value.extend_from_slice(&sum(form, kind, key, content));
    value.extend_from_slice(content);
    value
}

/// Why a value can't be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unread {
    /// It isn't what was written.
    Damaged,
    /// It is what was written, by a program that knows more than this one.
    Newer(u8),
}

impl Unread {
    /// What is wrong with `what`.
    pub(super) fn error(self, what: &str) -> StoreError {
        match self {
            Self::Damaged => {
                let told = "does not match its checksum; it is not used, and forgotten in its time";
                StoreError::Corrupt(format!("{what} {told}"))
            }
            Self::Newer(form) => StoreError::Down(format!(
                "{what} was written by a newer version of this program (form {form}; this one knows {FORM}): \
                 start that version again"
            )),
        }
    }
}

/// What a value holds.
pub(super) fn unseal<'a>(kind: Kind, key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Unread> {
    let (head, content) = value.split_at_checked(HEAD).ok_or(Unread::Damaged)?;
    match head[0] {
        form if head[1..] != sum(form, kind, key, content) => Err(Unread::Damaged),
        FORM => Ok(content),
        form => Err(Unread::Newer(form)),
    }
}

fn sum(form: u8, kind: Kind, key: &[u8], content: &[u8]) -> [u8; SUM] {
    let mut hash = Sha256::new();
    hash.update([form, kind as u8]);
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(content);
    let mut sum = [0; SUM];
    sum.copy_from_slice(&hash.finalize()[..SUM]);
    sum
}

/// A record, with what only this store knows of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) id: Id,
    pub(super) standing: Standing,
    /// `None` once it was released: then nobody holds it.
    pub(super) owner: Option<u128>,
    /// Which opening of the file reserved it.
    pub(super) epoch: u64,
    pub(super) lease_ms: u64,
    pub(super) retention_ms: u64,
    /// By the store's clock.
    pub(super) expires_ms: u64,
    /// By the wall clock.
    pub(super) changed_ms: u64,
    /// Whether there may be chunks of it.
    pub(super) chunked: bool,
    pub(super) answer: Option<Answer>,
}

impl Row {
    pub(super) fn write(&self, name: &Name) -> Vec<u8> {
        let mut to = Vec::with_capacity(256);
        let phase = PHASES.iter().position(|phase| *phase == self.standing.phase).unwrap_or_default();
        to.push(phase as u8);
        let flags = [self.owner.is_some(), self.chunked, self.answer.is_some()];
        to.push(flags.iter().enumerate().map(|(bit, set)| u8::from(*set) << bit).sum());
        to.extend_from_slice(&self.owner.unwrap_or_default().to_be_bytes());
        to.extend_from_slice(&self.standing.fingerprint.0);
        let token = self.standing.token.0;
        for number in [token, self.epoch, self.lease_ms, self.retention_ms, self.expires_ms, self.changed_ms]
        {
            to.extend_from_slice(&number.to_be_bytes());
        }
        write_id(&mut to, &self.id);
        if let Some(answer) = &self.answer {
            to.extend_from_slice(&answer.chunks.to_be_bytes());
            write_bytes(&mut to, &answer.head);
            write_bytes(&mut to, &answer.body);
        }
        seal(Kind::Record, name, &to)
    }

    pub(super) fn read(name: &Name, value: &[u8]) -> Result<Self, Unread> {
        Self::parse(unseal(Kind::Record, name, value)?).ok_or(Unread::Damaged)
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let mut from = Cut(content);
        let phase = *PHASES.get(usize::from(from.byte()?))?;
        let flags = from.byte()?;
        let owner = u128::from_be_bytes(from.array()?);
        let fingerprint = Fingerprint(from.array()?);
        let token = Token(from.number()?);
        let (epoch, lease_ms, retention_ms) = (from.number()?, from.number()?, from.number()?);
        let (expires_ms, changed_ms) = (from.number()?, from.number()?);
        let id = from.id()?;
        let answer = if flags & 4 == 0 {
            None
        } else {
            let chunks = u32::from_be_bytes(from.array()?);
            let (head, body) = (from.bytes()?, from.bytes()?);
            Some(Answer { head: Bytes::copy_from_slice(head), body: Bytes::copy_from_slice(body), chunks })
        };
        from.0.is_empty().then_some(Self {
            id,
            standing: Standing { fingerprint, token, phase },
            owner: (flags & 1 != 0).then_some(owner),
            epoch,
            lease_ms,
            retention_ms,
            expires_ms,
            changed_ms,
            chunked: flags & 2 != 0,
            answer,
        })
    }

    /// What others are told, by an opening of the file at a moment of its clock.
    pub(super) fn record(self, epoch: u64, now_ms: u64) -> Record {
        Record {
            standing: self.standing,
            lease: Duration::from_millis(self.lease_ms),
            // Whoever had the file open before has let go of its lock, so it is dead.
            orphaned: self.standing.phase == Phase::Running && self.epoch != epoch,
            changed: Duration::from_millis(self.changed_ms),
            remembered: Some(Duration::from_millis(self.expires_ms.saturating_sub(now_ms))),
            answer: self.answer,
        }
    }

    /// Whether its hold may still settle it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.standing.phase, Phase::Running | Phase::Unknown)
    }
}

pub(super) fn write_release(number: u64, release: &Release) -> Vec<u8> {
    let mut to = Vec::with_capacity(256);
    to.push(PHASES.iter().position(|phase| *phase == release.phase).unwrap_or_default() as u8);
    to.extend_from_slice(&release.token.0.to_be_bytes());
    to.extend_from_slice(&super::clock::ms(release.at).to_be_bytes());
    write_id(&mut to, &release.id);
    write_bytes(&mut to, release.reason.as_bytes());
    seal(Kind::Release, &number.to_be_bytes(), &to)
}

pub(super) fn read_release(number: u64, value: &[u8]) -> Result<Release, Unread> {
    parse_release(unseal(Kind::Release, &number.to_be_bytes(), value)?).ok_or(Unread::Damaged)
}

fn parse_release(content: &[u8]) -> Option<Release> {
    let mut from = Cut(content);
    let phase = *PHASES.get(usize::from(from.byte()?))?;
    let token = Token(from.number()?);
    let at = Duration::from_millis(from.number()?);
    let id = from.id()?;
    let reason = std::str::from_utf8(from.bytes()?).ok()?.to_owned();
    from.0.is_empty().then_some(Release { id, token, phase, reason, at })
}

/// What the file says of itself; written anew with every commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileState {
    /// How often it was committed to.
    pub(super) commits: u64,
    /// How often it was opened.
    pub(super) epoch: u64,
    pub(super) moment: Moment,
}

impl FileState {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(64);
        for number in [self.commits, self.epoch, self.moment.store_ms, self.moment.up_ms, self.moment.wall_ms]
        {
            to.extend_from_slice(&number.to_be_bytes());
        }
        to.extend_from_slice(&self.moment.boot.to_be_bytes());
        seal(Kind::State, b"", &to)
    }

    pub(super) fn read(value: &[u8]) -> Result<Self, Unread> {
        Self::parse(unseal(Kind::State, b"", value)?).ok_or(Unread::Damaged)
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let mut from = Cut(content);
        let (commits, epoch) = (from.number()?, from.number()?);
        let (store_ms, up_ms, wall_ms) = (from.number()?, from.number()?, from.number()?);
        let boot = u128::from_be_bytes(from.array()?);
        let moment = Moment { store_ms, boot, up_ms, wall_ms };
        from.0.is_empty().then_some(Self { commits, epoch, moment })
    }
}

fn write_id(to: &mut Vec<u8>, id: &Id) {
    for part in [&id.place, &id.client, &id.key] {
        write_bytes(to, part.as_bytes());
    }
}

fn write_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    to.extend_from_slice(bytes);
}

/// What is left to be read.
struct Cut<'a>(&'a [u8]);

impl<'a> Cut<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn id(&mut self) -> Option<Id> {
        let mut text = || Some(std::str::from_utf8(self.bytes()?).ok()?.into());
        Some(Id { place: text()?, client: text()?, key: text()? })
    }
}

/// The form that is written now.
const FORM: u8 = 1;
/// Eight bytes: one in 2^64 of damaged values would be taken for whole.
const SUM: usize = 8;
const HEAD: usize = 1 + SUM;
/// As they are numbered on disk.
const PHASES: [Phase; 4] = [Phase::Running, Phase::Unknown, Phase::Free, Phase::Done];

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let answer =
            Answer { head: Bytes::from_static(b"head"), body: Bytes::from_static(b"\0\xff"), chunks: 3 };
        let row = |phase, answer: Option<Answer>, owner| Row {
            id: Id::new("place", b"client", "key"),
            standing: Standing { fingerprint: Fingerprint([9; 32]), token: Token(u64::MAX), phase },
            owner,
            epoch: 7,
            lease_ms: 60_000,
            retention_ms: u64::MAX,
            expires_ms: 1,
            changed_ms: 2,
            chunked: answer.is_some(),
            answer,
        };
        vec![
            row(Phase::Running, None, Some(u128::MAX)),
            row(Phase::Unknown, None, Some(0)),
            row(Phase::Free, None, None),
            row(Phase::Done, Some(answer), Some(1)),
            row(Phase::Done, Some(Answer::default()), Some(1)),
        ]
    }

    #[test]
    fn rows_are_read_as_written() {
        for row in rows() {
            let name = name(&row.id);
            assert_eq!(Row::read(&name, &row.write(&name)), Ok(row));
        }
    }

    #[test]
    fn no_flipped_or_torn_value_is_taken_for_what_was_written() {
        for row in rows() {
            let name = name(&row.id);
            let value = row.write(&name);
            for at in 0..value.len() {
                assert_eq!(Row::read(&name, &value[..at]), Err(Unread::Damaged));
                for bit in 0..8 {
                    let mut flipped = value.clone();
                    flipped[at] ^= 1 << bit;
                    assert_eq!(Row::read(&name, &flipped), Err(Unread::Damaged));
                }
            }
            assert_eq!(Row::read(&[0; 32], &value), Err(Unread::Damaged), "under another key");
            assert_eq!(unseal(Kind::Chunk, &name, &value), Err(Unread::Damaged), "in another table");
        }
    }

    #[test]
    fn releases_and_the_files_state_are_read_as_written() {
        let release = Release {
            id: Id::new("place", b"client", "key"),
            token: Token(3),
            phase: Phase::Unknown,
            reason: "w\u{e4}s".into(),
            at: Duration::from_millis(12),
        };
        let value = write_release(5, &release);
        assert_eq!(read_release(5, &value), Ok(release));
        assert_eq!(read_release(6, &value), Err(Unread::Damaged));
        let moment = Moment { store_ms: 1, boot: 2, up_ms: 3, wall_ms: 4 };
        let state = FileState { commits: 5, epoch: 6, moment };
        assert_eq!(FileState::read(&state.write()), Ok(state));
        assert_eq!(FileState::read(&state.write()[1..]), Err(Unread::Damaged));
    }

    #[test]
    fn a_form_that_is_not_known_yet_is_no_damage() {
        let newer = seal_as(FORM + 1, Kind::Chunk, b"key", b"content");
        let mut flipped = seal(Kind::Chunk, b"key", b"content");
        flipped[0] = FORM + 1;
        assert_eq!(unseal(Kind::Chunk, b"key", &newer), Err(Unread::Newer(FORM + 1)));
        assert_eq!(unseal(Kind::Chunk, b"key", &flipped), Err(Unread::Damaged));
        assert_eq!(Unread::Newer(FORM + 1).error("x").name(), "down");
    }
}
