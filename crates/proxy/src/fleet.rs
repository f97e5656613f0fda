//! The endpoints of one upstream, as all workers share them.
//!
//! Endpoints come and go while calls are under way. Whoever calls one holds it, so one that leaves is drained simply by not
//! being chosen any more. The keeper alone changes a fleet: it makes a new [`Roster`] and counts the version up; workers see
//! that with one load and take the new roster before their next choice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use seaworthy::shared::{Breaker, Limit};
use seaworthy_config::Endpoint as Address;
use seaworthy_core::balance::{self, Table};
use seaworthy_core::gate::health::State;
use seaworthy_core::{Instant, Valid};

use crate::tally::EndpointTally;

/// One endpoint: what is known of it, and what has been learned.
pub(crate) struct Endpoint {
    /// Its place in the roster and the table.
    pub id: u32,
    /// Where it is.
    pub address: Address,
    /// `host:port`, as metrics and logs name it.
    pub authority: String,
    /// The part of the upstream that it belongs to.
    pub region: Arc<Region>,
    /// Whether it is worth calling.
    pub breaker: Breaker,
    /// What active checks found last, if there are any.
    checkup: Mutex<Option<Checkup>>,
    /// By worker.
    tallies: Box<[EndpointTally]>,
}

/// What an active check found.
#[derive(Clone, Debug)]
pub(crate) struct Checkup {
    /// What it makes of the endpoint.
    pub state: State,
    /// What was wrong, if the last check failed.
    pub error: Option<String>,
}

impl Endpoint {
    pub(crate) fn new(
        id: u32,
        address: Address,
        region: Arc<Region>,
        breaker: Breaker,
        workers: usize,
    ) -> Self {
        let tallies = (0..workers).map(|_| EndpointTally::default()).collect();
        Self {
            id,
            authority: address.authority(),
            address,
            region,
            breaker,
            checkup: Mutex::new(None),
            tallies,
        }
    }

    /// Notes what a check found.
    pub(crate) fn checked(&self, checkup: Checkup) {
        *self.checkup.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkup);
    }

    /// What the last check found.
    pub(crate) fn checkup(&self) -> Option<Checkup> {
        self.checkup.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the worker counts; it alone writes.
    pub(crate) fn tally(&self, worker: usize) -> &EndpointTally {
        &self.tallies[worker]
    }

    /// The sum of a count over the workers.
    pub(crate) fn sum(&self, pick: impl Fn(&EndpointTally) -> u64) -> u64 {
        self.tallies.iter().map(pick).sum()
    }

    /// Attempts in flight.
    pub(crate) fn in_flight(&self) -> u64 {
        self.sum(|tally| tally.in_flight.get())
    }
}

/// The endpoints of one upstream in one region.
pub(crate) struct Region {
    /// Its place among the regions of its upstream.
    pub index: u16,
    /// Its name; empty for endpoints whose region nobody told.
    pub name: String,
    /// The most attempts in flight in it, if there is such a limit.
    pub limit: Option<Limit>,
}

/// The endpoints there are, and how calls are spread over them.
#[derive(Clone)]
pub(crate) struct Roster {
    /// By id; an empty place is free.
    pub endpoints: Arc<[Option<Arc<Endpoint>>]>,
    /// How calls are spread.
    pub table: Arc<Table>,
    /// Whether an endpoint waits for a probe for so long that any call must do, not only one that survives its failure.
    pub impatient: bool,
}

impl Roster {
    /// Nobody.
    fn empty(config: Valid<balance::Config>) -> Self {
        let table = Table::build(config, Instant::ZERO, &[]);
        Self { endpoints: Arc::new([]), table: Arc::new(table), impatient: false }
    }

    /// Every endpoint.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().flatten()
    }
}

/// The endpoints of one upstream.
pub(crate) struct Fleet {
    roster: Mutex<Roster>,
    /// By source: what keeps it from saying what there is.
    troubles: Mutex<Vec<Option<String>>>,
    /// Counts what happened to its endpoints that no attempt shows: an order, a check that turned.
    stirred: AtomicU64,
    version: AtomicU64,
}

impl Fleet {
    pub(crate) fn new(config: Valid<balance::Config>, sources: usize) -> Self {
        Self {
            roster: Mutex::new(Roster::empty(config)),
            troubles: Mutex::new(vec![None; sources]),
            stirred: AtomicU64::new(0),
            version: AtomicU64::new(0),
        }
    }

    /// Something happened to its endpoints that no attempt shows.
    pub(crate) fn stir(&self) {
        self.stirred.fetch_add(1, Ordering::Release);
    }

    /// How often something happened that no attempt shows.
    pub(crate) fn stirred(&self) -> u64 {
        self.stirred.load(Ordering::Acquire)
    }

    /// Notes what keeps a source from saying what there is, or that nothing does.
    pub(crate) fn trouble(&self, source: usize, trouble: Option<String>) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)[source] = trouble;
    }

    /// By source: what keeps it from saying what there is.
    pub(crate) fn troubles(&self) -> Vec<Option<String>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts the rosters.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The roster in force.
    pub(crate) fn roster(&self) -> Roster {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another roster in force.
    pub(crate) fn publish(&self, roster: Roster) {
        *self.roster.lock().unwrap_or_else(PoisonError::into_inner) = roster;
        self.version.fetch_add(1, Ordering::Release);
    }
}
