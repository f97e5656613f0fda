//! Queue: calls that wait before a full limit, and who of them goes next.
//!
//! # What it is for
//! A limit that refuses what exceeds it by a moment's chance wastes capacity: arrivals come in bursts, and a place is free again
//! milliseconds later. A short queue carries them over. Under a lasting overload it decides who is served at all.
//!
//! # When not to use it
//! As a buffer for more work than can be done: it would only make everybody late. Keep it short.
//!
//! # How
//! * **Criticality** first, strictly: nothing waits behind something that matters less.
//! * Within one criticality the clients take turns, so one that asks a thousand times as often gets no more than its share.
//! * Within one client the oldest goes first, until the queue has not been empty for [`Config::overload_after`]. Then it is
//!   overloaded, and the newest goes first: the oldest has waited so long that its caller may have left, and of calls that all
//!   wait too long none would be served in time (Facebook's adaptive LIFO; Maurer, "Fail at Scale", 2015).
//! * Nothing is served past its time: [`Config::max_wait`], or its caller's deadline if that is earlier.
//! * When it is full, the victim is of the least critical that wait, there of the client with the most, and of that client who would
//!   be served last. It may be the one that has just come.
//!
//! Everything is O(log n) of the calls that wait.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::valid::fault;
use crate::{Criticality, Fault, Instant, Mode, Policy, Reason, Rejection, Rules, Valid};

/// The numbers of a [`Queue`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Whether calls wait at all. In observe-only mode they don't: who waits is not in shadow.
    pub mode: Mode,
    /// The most calls that wait; 0 for none. A hundred: with the default wait that is what an upstream of 200 calls a second
    /// works off in time.
    pub size: u32,
    /// The longest wait. Half a second: a caller who waits longer begins to think of trying again.
    pub max_wait: Duration,
    /// After this long without being empty the queue is overloaded, and the newest call goes first. 100 ms, as in Facebook's
    /// queues and CoDel (RFC 8289): long beside a burst, short beside anybody's patience.
    pub overload_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            size: 100,
            max_wait: Duration::from_millis(500),
            overload_after: Duration::from_millis(100),
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        [
            fault(
                self.size > MOST,
                "size",
                format!("is {}, more than {MOST}", self.size),
                "a queue so long makes everybody late; write less",
            ),
            fault(
                self.max_wait.is_zero() && self.size > 0,
                "max_wait",
                "is 0 while calls may wait",
                "write a time, or size = 0 for no queue",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// What the queue is told of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asking {
    /// How much it matters.
    pub criticality: Criticality,
    /// Whose it is: a key, such as a hash, in which calls that share their turns agree.
    pub client: u64,
    /// When it is too late to begin: its caller's deadline less the time that calls typically take. `None` if it never is.
    pub deadline: Option<Instant>,
}

/// A call that waits, or has. No two of a queue have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id(u64);

/// A call has joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joined {
    /// What it is called.
    pub id: Id,
    /// Until when it waits.
    pub until: Instant,
    /// Who had to leave for it, with [`displaced`].
    pub displaced: Option<Id>,
}

/// The state of a [`Queue`] at a moment. What is by criticality is in the order of [`Criticality::ALL`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Whether calls wait at all.
    pub mode: Mode,
    /// The most that may wait.
    pub size: u32,
    /// Calls that wait.
    pub waiting: [u32; LEVELS],
    /// Clients of whom a call waits, counted once for each criticality.
    pub clients: u32,
    /// How long the oldest has waited.
    pub oldest: Option<Duration>,
    /// Whether the newest goes first.
    pub overloaded: bool,
    /// Calls that were served after a wait, so far.
    pub served: [u64; LEVELS],
    /// Calls that found no room, or lost it, so far.
    pub shed: [u64; LEVELS],
    /// Calls that waited in vain until their time was over, so far.
    pub expired: [u64; LEVELS],
}

/// Calls that wait. See the [module](self).
#[derive(Clone, Debug)]
pub struct Queue {
    config: Valid<Config>,
    calls: BTreeMap<Id, Waiting>,
    levels: [Level; LEVELS],
    next_id: u64,
    next_turn: u64,
    /// Since when it has not been empty.
    busy_since: Instant,
    served: [u64; LEVELS],
    shed: [u64; LEVELS],
    expired: [u64; LEVELS],
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    level: usize,
    client: u64,
    joined: Instant,
    until: Instant,
    /// Whether `until` is its caller's deadline.
    is_deadline: bool,
}

impl Queue {
    /// With nobody in it.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        Self {
            config,
            calls: BTreeMap::new(),
            levels: Default::default(),
            next_id: 0,
            next_turn: 0,
            busy_since: Instant::ZERO,
            served: [0; LEVELS],
            shed: [0; LEVELS],
            expired: [0; LEVELS],
        }
    }

    /// Takes new numbers. Who waits goes on waiting as long as it was told.
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        self.config = config;
    }

    /// Whether calls wait at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.config.mode == Mode::Enforce && self.config.size > 0
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether the call still waits.
    #[must_use]
    pub fn has(&self, id: Id) -> bool {
        self.calls.contains_key(&id)
    }

    /// A call would wait.
    ///
    /// # Errors
    /// The refusal, if there is no room for it, or no time.
    pub fn join(&mut self, now: Instant, asking: Asking) -> Result<Joined, Rejection> {
        let level = asking.criticality.rank();
        let longest = now.plus(self.config.max_wait);
        let until = asking.deadline.map_or(longest, |deadline| deadline.min(longest));
        if until <= now {
            self.expired[level] += 1;
            return Err(Rejection::new(Policy::Queue, Reason::DeadlineTooShort));
        }
        if !self.is_on() {
            self.shed[level] += 1;
            return Err(FULL);
        }
        if self.calls.is_empty() {
            self.busy_since = now;
        }
        let id = Id(self.next_id);
        self.next_id += 1;
        let is_deadline = until < longest;
        self.add(id, Waiting { level, client: asking.client, joined: now, until, is_deadline });
        let displaced = (self.calls.len() > self.config.size as usize).then(|| self.displace(now));
        match displaced.flatten() {
            Some(victim) if victim == id => Err(FULL),
            displaced => Ok(Joined { id, until, displaced }),
        }
    }

    /// A place is free: who takes it. Those whose time is over are passed, and don't wait any more.
    pub fn next(&mut self, now: Instant) -> Option<Id> {
        loop {
            let newest = self.is_overloaded(now);
            let id = self.levels.iter().find_map(|level| level.next(newest))?;
            let waiting = self.remove(id)?;
            if now < waiting.until {
                self.levels[waiting.level].turn_over(waiting.client, &mut self.next_turn);
                self.served[waiting.level] += 1;
                return Some(id);
            }
            self.expired[waiting.level] += 1;
        }
    }

    /// The call has given up waiting, or its time may be over. If that is so, or [`next`](Self::next) has found it so, this is its
    /// refusal; otherwise it has just left. One that was served or displaced is not to be asked about.
    pub fn leave(&mut self, now: Instant, id: Id) -> Option<Rejection> {
        let Some(waiting) = self.remove(id) else { return Some(expired(false)) };
        let is_over = now >= waiting.until;
        if is_over {
            self.expired[waiting.level] += 1;
        }
        is_over.then(|| expired(waiting.is_deadline))
    }

    /// Whether it has not been empty for so long that the newest goes first.
    #[must_use]
    pub fn is_overloaded(&self, now: Instant) -> bool {
        !self.calls.is_empty() && now.since(self.busy_since) >= self.config.overload_after
    }

    /// The state at `now`; O(n).
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let mut waiting = [0; LEVELS];
        self.calls.values().for_each(|call| waiting[call.level] += 1);
        Snapshot {
            mode: self.config.mode,
            size: self.config.size,
            waiting,
            clients: self.levels.iter().map(|level| level.clients.len() as u32).sum(),
            oldest: self.calls.values().next().map(|call| now.since(call.joined)),
            overloaded: self.is_overloaded(now),
            served: self.served,
            shed: self.shed,
            expired: self.expired,
        }
    }

    /// Takes away who is to leave when there is one too many.
    fn displace(&mut self, now: Instant) -> Option<Id> {
        // Who would be served last: while the newest goes first, that is the oldest.
        let oldest = self.is_overloaded(now);
        let id = self.levels.iter().rev().find_map(|level| level.last(oldest))?;
        let waiting = self.remove(id)?;
        self.shed[waiting.level] += 1;
        Some(id)
    }

    fn add(&mut self, id: Id, waiting: Waiting) {
        self.levels[waiting.level].add(waiting.client, id, &mut self.next_turn);
        self.calls.insert(id, waiting);
    }

    fn remove(&mut self, id: Id) -> Option<Waiting> {
        let waiting = self.calls.remove(&id)?;
        self.levels[waiting.level].remove(waiting.client, id);
        Some(waiting)
    }
}

/// The calls of one criticality.
#[derive(Clone, Debug, Default)]
struct Level {
    clients: BTreeMap<u64, Client>,
    /// The clients by whose turn it is.
    turns: BTreeSet<(u64, u64)>,
    /// The clients by how many of their calls wait.
    lengths: BTreeSet<(usize, u64)>,
}

#[derive(Clone, Debug)]
struct Client {
    turn: u64,
    calls: BTreeSet<Id>,
}

impl Level {
    fn next(&self, newest: bool) -> Option<Id> {
        let (_, client) = self.turns.first()?;
        let calls = &self.clients.get(client)?.calls;
        if newest { calls.last().copied() } else { calls.first().copied() }
    }

    fn last(&self, oldest: bool) -> Option<Id> {
        let (_, client) = self.lengths.last()?;
        let calls = &self.clients.get(client)?.calls;
        if oldest { calls.first().copied() } else { calls.last().copied() }
    }

    fn add(&mut self, key: u64, id: Id, next_turn: &mut u64) {
        let Self { clients, turns, lengths } = self;
        let client = clients.entry(key).or_insert_with(|| {
            let turn = take(next_turn);
            turns.insert((turn, key));
            Client { turn, calls: BTreeSet::new() }
        });
        lengths.remove(&(client.calls.len(), key));
        client.calls.insert(id);
        lengths.insert((client.calls.len(), key));
    }

    fn remove(&mut self, key: u64, id: Id) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        self.lengths.remove(&(client.calls.len(), key));
        client.calls.remove(&id);
        if client.calls.is_empty() {
            self.turns.remove(&(client.turn, key));
            self.clients.remove(&key);
        } else {
            self.lengths.insert((client.calls.len(), key));
        }
    }

    /// The client was served, and goes to the end of the round.
    fn turn_over(&mut self, key: u64, next_turn: &mut u64) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        self.turns.remove(&(client.turn, key));
        client.turn = take(next_turn);
        self.turns.insert((client.turn, key));
    }
}

fn take(next: &mut u64) -> u64 {
    let taken = *next;
    *next += 1;
    taken
}

/// The refusal of a call that lost its place to another.
#[must_use]
pub const fn displaced() -> Rejection {
    Rejection::new(Policy::Queue, Reason::Shed).after(COME_BACK)
}

/// The refusal of a call whose time was over, because of its caller's deadline or of the queue's patience.
const fn expired(is_deadline: bool) -> Rejection {
    if is_deadline {
        Rejection::new(Policy::Queue, Reason::DeadlineTooShort)
    } else {
        Rejection::new(Policy::Queue, Reason::WaitedTooLong).after(COME_BACK)
    }
}

const FULL: Rejection = Rejection::new(Policy::Queue, Reason::QueueFull).after(COME_BACK);
/// When there will be room nobody knows; a second is the least that Retry-After can say.
const COME_BACK: Duration = Duration::from_secs(1);
const LEVELS: usize = Criticality::ALL.len();
/// A million calls that wait would be some hundreds of megabytes.
const MOST: u32 = 1_000_000;

#[cfg(test)]
mod tests;
