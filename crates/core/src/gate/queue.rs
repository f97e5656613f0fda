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
//! * Within one client the oldest goes first, until its criticality has lost calls for [`Config::overload_after`] while some waited all the time. Then
//!   it is overloaded, and the newest goes first until none waits: the oldest has waited so long that its caller may have left, and of calls that all
//!   wait too long none would be served in time (Facebook's adaptive LIFO; Maurer, "Fail at Scale", 2015). A call is lost that finds no room, or
//!   waits in vain. That calls wait is not enough, as it is for Facebook: where a call takes 100 ms, a burst is there for longer
//!   although all of it can be served, and to put the newest before it would lose it.
//! * Nothing is served past its time: [`Config::max_wait`], or its caller's deadline if that is earlier.
//! * When it is full, whose time is over makes room. Else the victim is of the least critical that wait, there of the client
//!   with the most (of several the one whose turn is last), and of that client who would be served last. It may be the one that
//!   has just come.
//!
//! Every step is O(log n) of the calls that wait.
//!
//! ```text
//!                                        +--> next: it goes
//! join --> waits ------------------------+--> expired: its time was over
//!   |                                    +--> displaced by one that joined, or by new numbers
//!   +--> refused: no room, or no time    +--> leave: its caller went away
//! ```
//!
//! ```
//! use seaworthy_core::gate::queue::{Asking, Config, Queue};
//! use seaworthy_core::{Criticality, Instant, Valid};
//! let now = Instant::from_millis(1);
//! let mut queue = Queue::new(Valid::new(Config::default()).unwrap());
//! let asking = |criticality| Asking { criticality, client: 7, deadline: None };
//! let report = queue.join(now, asking(Criticality::Sheddable)).unwrap().id;
//! let order = queue.join(now, asking(Criticality::Critical)).unwrap().id;
//! assert_eq!([queue.next(now), queue.next(now)], [Some(order), Some(report)]);
//! ```

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
    /// When calls of one criticality have been lost for this long, and some waited all the time, the newest of them goes first. 100 ms, as
    /// in Facebook's queues and CoDel (RFC 8289): long beside a burst, short beside anybody's patience.
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
    /// Who had to leave for it.
    pub displaced: Option<Gone>,
}

/// A call that waits no more, and was not served: it is to be told so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone {
    /// What it is called.
    pub id: Id,
    /// What it is to be told.
    pub rejection: Rejection,
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
    /// Calls whose callers went away while they waited, so far.
    pub left: [u64; LEVELS],
}

/// Calls that wait. See the [module](self).
#[derive(Clone, Debug)]
pub struct Queue {
    config: Valid<Config>,
    calls: BTreeMap<Id, Waiting>,
    levels: [Level; LEVELS],
    /// The calls by when their time is over.
    ends: BTreeSet<(Instant, Id)>,
    next_id: u64,
    next_turn: u64,
    /// The calls that were lost while some have been waiting.
    losses: [Option<Losses>; LEVELS],
    served: [u64; LEVELS],
    shed: [u64; LEVELS],
    expired: [u64; LEVELS],
    left: [u64; LEVELS],
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

#[derive(Clone, Copy, Debug)]
struct Losses {
    first: Instant,
    last: Instant,
}

impl Queue {
    /// With nobody in it.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        Self {
            config,
            calls: BTreeMap::new(),
            levels: Default::default(),
            ends: BTreeSet::new(),
            next_id: 0,
            next_turn: 0,
            losses: [None; LEVELS],
            served: [0; LEVELS],
            shed: [0; LEVELS],
            expired: [0; LEVELS],
            left: [0; LEVELS],
        }
    }

    /// Takes new numbers. Who waits, waits from now on no longer than the new `max_wait`. There may be too many now: ask
    /// [`surplus`](Self::surplus) until it says `None`.
    pub fn reconfigure(&mut self, now: Instant, config: Valid<Config>) {
        self.config = config;
        self.shorten(now);
    }

    /// Whether calls wait at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.room() > 0
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

    /// Until when the call waits; `None` if it does not wait any more.
    #[must_use]
    pub fn until(&self, id: Id) -> Option<Instant> {
        self.calls.get(&id).map(|call| call.until)
    }

    /// A call would wait.
    ///
    /// # Errors
    /// The refusal, if there is no room for it, or no time.
    pub fn join(&mut self, now: Instant, asking: Asking) -> Result<Joined, Rejection> {
        let level = asking.criticality.rank();
        let longest = now.plus(self.config.max_wait);
        let until = asking.deadline.map_or(longest, |deadline| deadline.min(longest));
        self.shorten(now);
        if !self.is_on() {
            self.shed[level] += 1;
            return Err(FULL);
        }
        if until <= now {
            self.expired[level] += 1;
            return Err(TOO_LATE);
        }
        if self.levels[level].waiting == 0 {
            self.losses[level] = None;
        }
        let id = Id(take(&mut self.next_id));
        let is_deadline = until < longest;
        self.add(id, Waiting { level, client: asking.client, joined: now, until, is_deadline });
        match self.surplus(now) {
            Some(gone) if gone.id == id => Err(FULL),
            displaced => Ok(Joined { id, until, displaced }),
        }
    }

    /// A place is free: who takes it. Those whose time is over are passed and wait no more; to tell them, ask
    /// [`expired`](Self::expired) first.
    pub fn next(&mut self, now: Instant) -> Option<Id> {
        while self.expired(now).is_some() {}
        let id = (0..LEVELS).find_map(|n| self.levels[n].next(self.is_backed_up(n)))?;
        let call = self.remove(id)?;
        self.levels[call.level].turn_over(call.client, &mut self.next_turn);
        self.served[call.level] += 1;
        Some(id)
    }

    /// One whose time is over. It waits no more.
    pub fn expired(&mut self, now: Instant) -> Option<Gone> {
        self.shorten(now);
        let (until, id) = *self.ends.first()?;
        if now < until {
            return None;
        }
        let call = self.remove(id)?;
        self.expired[call.level] += 1;
        self.note_loss(now, call.level);
        Some(Gone { id, rejection: if call.is_deadline { TOO_LATE } else { TOO_LONG } })
    }

    /// One who is to go because more wait than may. It waits no more.
    pub fn surplus(&mut self, now: Instant) -> Option<Gone> {
        if self.calls.len() <= self.room() {
            return None;
        }
        let expired = self.expired(now);
        if expired.is_some() {
            return expired;
        }
        // Who would be served last: while the newest goes first, that is the oldest.
        let id = (0..LEVELS).rev().find_map(|n| self.levels[n].last(self.is_backed_up(n)))?;
        let call = self.remove(id)?;
        self.shed[call.level] += 1;
        self.note_loss(now, call.level);
        Some(Gone { id, rejection: SHED })
    }

    /// The caller went away. Whether the call waited still.
    pub fn leave(&mut self, now: Instant, id: Id) -> bool {
        let call = self.remove(id);
        if let Some(call) = call {
            self.left[call.level] += 1;
            self.note_loss(now, call.level);
        }
        call.is_some()
    }

    /// Whether calls of any criticality have been lost for so long that the newest of them goes first.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        (0..LEVELS).any(|level| self.is_backed_up(level))
    }

    /// Whether that is so of the calls of one criticality. Each is judged alone: while the sheddable pile up, the critical are served
    /// nearly at once, and need no other order than that in which they came.
    fn is_backed_up(&self, level: usize) -> bool {
        let losses = self.losses[level].filter(|_| self.levels[level].waiting > 0);
        losses.is_some_and(|losses| losses.last.since(losses.first) >= self.config.overload_after)
    }

    fn note_loss(&mut self, now: Instant, level: usize) {
        let losses = self.losses[level].get_or_insert(Losses { first: now, last: now });
        // Earlier than it began: the clock was set back.
        *losses = Losses { first: losses.first.min(now), last: now };
    }

    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            mode: self.config.mode,
            size: self.config.size,
            waiting: core::array::from_fn(|level| self.levels[level].waiting),
            clients: self.levels.iter().map(|level| level.clients.len() as u32).sum(),
            oldest: self.calls.values().next().map(|call| now.since(call.joined)),
            overloaded: self.is_overloaded(),
            served: self.served,
            shed: self.shed,
            expired: self.expired,
            left: self.left,
        }
    }

    /// How many may wait.
    fn room(&self) -> usize {
        if self.config.mode == Mode::Enforce { self.config.size as usize } else { 0 }
    }

    /// Nobody has longer left than the longest wait, unless that was shortened or the clock was set back.
    fn shorten(&mut self, now: Instant) {
        let latest = now.plus(self.config.max_wait);
        while let Some((until, id)) = self.ends.last().copied()
            && until > latest
        {
            self.ends.remove(&(until, id));
            self.ends.insert((latest, id));
            if let Some(call) = self.calls.get_mut(&id) {
                (call.until, call.is_deadline) = (latest, false);
            }
        }
    }

    fn add(&mut self, id: Id, call: Waiting) {
        self.levels[call.level].add(call.client, id, &mut self.next_turn);
        self.ends.insert((call.until, id));
        self.calls.insert(id, call);
    }

    fn remove(&mut self, id: Id) -> Option<Waiting> {
        let call = self.calls.remove(&id)?;
        self.ends.remove(&(call.until, id));
        self.levels[call.level].remove(call.client, id);
        Some(call)
    }
}

/// The calls of one criticality.
#[derive(Clone, Debug, Default)]
struct Level {
    waiting: u32,
    clients: BTreeMap<u64, Client>,
    /// The clients by whose turn it is.
    turns: BTreeSet<(u64, u64)>,
    /// The clients by how many of their calls wait, and then by turn. By key it would always be the same who yields.
    lengths: BTreeSet<(usize, u64, u64)>,
}

#[derive(Clone, Debug)]
struct Client {
    turn: u64,
    calls: BTreeSet<Id>,
}

impl Level {
    fn next(&self, newest: bool) -> Option<Id> {
        let (_, key) = self.turns.first()?;
        let calls = &self.clients.get(key)?.calls;
        if newest { calls.last().copied() } else { calls.first().copied() }
    }

    fn last(&self, oldest: bool) -> Option<Id> {
        let (_, _, key) = self.lengths.last()?;
        let calls = &self.clients.get(key)?.calls;
        if oldest { calls.first().copied() } else { calls.last().copied() }
    }

    fn add(&mut self, key: u64, id: Id, next_turn: &mut u64) {
        self.waiting += 1;
        self.change(key, next_turn, |client, _| {
            client.calls.insert(id);
        });
    }

    fn remove(&mut self, key: u64, id: Id) {
        self.waiting -= 1;
        self.change(key, &mut 0, |client, _| {
            client.calls.remove(&id);
        });
    }

    /// The client was served, and goes to the end of the round.
    fn turn_over(&mut self, key: u64, next_turn: &mut u64) {
        if self.clients.contains_key(&key) {
            self.change(key, next_turn, |client, next_turn| client.turn = take(next_turn));
        }
    }

    /// Changes a client, and where it stands among the others. One of whom nothing waits is not kept; it comes back at the end of
    /// the round.
    fn change(&mut self, key: u64, next_turn: &mut u64, change: impl FnOnce(&mut Client, &mut u64)) {
        let mut client = match self.clients.remove(&key) {
            Some(client) => {
                self.turns.remove(&(client.turn, key));
                self.lengths.remove(&(client.calls.len(), client.turn, key));
                client
            }
            None => Client { turn: take(next_turn), calls: BTreeSet::new() },
        };
        change(&mut client, next_turn);
        if !client.calls.is_empty() {
            self.turns.insert((client.turn, key));
            self.lengths.insert((client.calls.len(), client.turn, key));
            self.clients.insert(key, client);
        }
    }
}

fn take(next: &mut u64) -> u64 {
    let taken = *next;
    *next += 1;
    taken
}

/// No room for a call that has just come.
const FULL: Rejection = Rejection::new(Policy::Queue, Reason::QueueFull).after(COME_BACK);
/// It lost its place to another.
const SHED: Rejection = Rejection::new(Policy::Queue, Reason::Shed).after(COME_BACK);
/// The queue's patience is over.
const TOO_LONG: Rejection = Rejection::new(Policy::Queue, Reason::WaitedTooLong).after(COME_BACK);
/// Its caller's deadline is. To come back is useless.
const TOO_LATE: Rejection = Rejection::new(Policy::Queue, Reason::DeadlineTooShort);
/// When there will be room nobody knows; a second is the least that Retry-After can say.
const COME_BACK: Duration = Duration::from_secs(1);
const LEVELS: usize = Criticality::ALL.len();
/// A million calls that wait would be some hundreds of megabytes.
const MOST: u32 = 1_000_000;

#[cfg(test)]
mod tests;
