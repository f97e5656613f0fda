//! The endpoints of one upstream, as one worker knows them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use seaworthy_core::balance::{Picker, Table};
use seaworthy_core::gate::breaker::Change;
use seaworthy_core::stats::ewma::Ewma;
use seaworthy_core::stats::log::log2_fixed;
use seaworthy_core::{Failure, Instant, Outcome, nanos};

use crate::fleet::{Endpoint, Fleet, Roster};
use crate::pool::Pool;
use crate::site::Site;
use crate::tally::EndpointTally;

/// One endpoint, as one worker knows it.
pub(crate) struct Node {
    /// What all workers know of it.
    pub endpoint: Arc<Endpoint>,
    /// The upstream that it belongs to.
    pub upstream: usize,
    /// Connections to it.
    pub pool: Pool,
    worker: usize,
    latency: RefCell<Ewma>,
    /// Attempts of this worker in flight to the whole upstream.
    total: Rc<Cell<u32>>,
}

impl Node {
    /// What this worker counts of it.
    pub(crate) fn counts(&self) -> &EndpointTally {
        self.endpoint.tally(self.worker)
    }

    /// An attempt begins.
    pub(crate) fn begin(&self) {
        self.counts().in_flight.add(1);
        self.total.set(self.total.get() + 1);
    }

    /// An attempt ends.
    pub(crate) fn end(&self) {
        let in_flight = &self.counts().in_flight;
        in_flight.set(in_flight.get().saturating_sub(1));
        self.total.set(self.total.get().saturating_sub(1));
    }

    /// An attempt was answered, or failed, after `took`.
    pub(crate) fn observe(&self, now: Instant, took: Duration, outcome: Outcome) {
        self.latency.borrow_mut().record(now, took);
        // Errors are often fast and say nothing about how slow the endpoint is; what was cut off says that it is.
        if matches!(outcome, Outcome::Success | Outcome::Failure(Failure::Timeout, _)) {
            let counts = self.counts();
            counts.timed.add(1);
            counts.logs.add(u64::from(log2_fixed(nanos(took))));
        }
    }

    /// Tells the log of a change of its breaker, if there was one.
    pub(crate) fn changed(&self, site: &Site, change: Option<Change>) {
        if let Some(change) = change {
            site.journal.breaker(&site.config.upstreams[self.upstream].name, &self.endpoint, &change);
        }
    }

    /// Attempts of this worker in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        u32::try_from(self.counts().in_flight.get()).unwrap_or(u32::MAX)
    }

    /// What one attempt more would cost: the latency times the calls in flight. An endpoint that nobody knows yet costs
    /// nothing while idle, so that it is tried.
    pub(crate) fn cost(&self, now: Instant) -> f64 {
        let in_flight = f64::from(self.in_flight());
        match self.latency.borrow().value(now) {
            Some(latency) => latency.as_secs_f64() * (in_flight + 1.0),
            None => UNKNOWN.as_secs_f64() * in_flight,
        }
    }

    /// Closes connections that nobody needs.
    pub(crate) fn sweep(&self, now: Instant) {
        self.pool.sweep(now);
        self.counts().idle.set(self.pool.idle() as u64);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.counts().idle.set(0);
    }
}

/// The endpoints of one upstream, as one worker knows them, and how it chooses.
pub(crate) struct Crew {
    upstream: usize,
    worker: usize,
    most_idle: usize,
    idle_timeout: Duration,
    version: u64,
    roster: Roster,
    nodes: Vec<Option<Rc<Node>>>,
    total: Rc<Cell<u32>>,
    picker: Picker,
}

impl Crew {
    pub(crate) fn new(site: &Site, upstream: usize, worker: usize, seed: u64) -> Self {
        let (config, fleet) = (&site.config.upstreams[upstream], &site.services[upstream].fleet);
        let mut crew = Self {
            upstream,
            worker,
            most_idle: config.idle_connections as usize,
            idle_timeout: config.idle_timeout,
            version: fleet.version(),
            roster: fleet.roster(),
            nodes: Vec::new(),
            total: Rc::default(),
            picker: Picker::new(seed),
        };
        crew.enlist();
        crew
    }

    /// Takes the roster that is in force now. One load if it is the one that is known.
    pub(crate) fn muster(&mut self, fleet: &Fleet) {
        let version = fleet.version();
        if self.version == version {
            return;
        }
        let roster = fleet.roster();
        let same = Arc::ptr_eq(&roster.endpoints, &self.roster.endpoints);
        (self.version, self.roster) = (version, roster);
        if !same {
            self.enlist();
        }
    }

    /// Whether an endpoint waits for a probe for so long that any call must do.
    pub(crate) fn is_impatient(&self) -> bool {
        self.roster.impatient
    }

    /// How calls are spread, what chooses, and the endpoints by id.
    pub(crate) fn parts(&mut self) -> (&Table, &mut Picker, &[Option<Rc<Node>>]) {
        (&self.roster.table, &mut self.picker, &self.nodes)
    }

    /// Attempts of this worker in flight to all endpoints.
    pub(crate) fn in_flight(&self) -> u32 {
        self.total.get()
    }

    /// Every endpoint.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Rc<Node>> {
        self.nodes.iter().flatten()
    }

    /// Makes nodes of the endpoints; those that stay keep theirs, with connections and latencies.
    fn enlist(&mut self) {
        let mut known = std::mem::take(&mut self.nodes).into_iter();
        let endpoints = self.roster.endpoints.clone();
        self.nodes =
            endpoints.iter().map(|endpoint| self.node(known.next().flatten(), endpoint.as_ref()?)).collect();
    }

    fn node(&self, known: Option<Rc<Node>>, endpoint: &Arc<Endpoint>) -> Option<Rc<Node>> {
        Some(known.filter(|node| Arc::ptr_eq(&node.endpoint, endpoint)).unwrap_or_else(|| {
            Rc::new(Node {
                endpoint: endpoint.clone(),
                upstream: self.upstream,
                pool: Pool::new(self.most_idle, self.idle_timeout),
                worker: self.worker,
                latency: RefCell::new(Ewma::peak(DECAY)),
                total: self.total.clone(),
            })
        }))
    }
}

/// How fast a latency is forgotten: ten seconds, as in Finagle and Linkerd.
const DECAY: Duration = Duration::from_secs(10);
/// What each call counts for at an endpoint that has calls in flight and never answered one: a second, more than most take.
const UNKNOWN: Duration = Duration::from_secs(1);
