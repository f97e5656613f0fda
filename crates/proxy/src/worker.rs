//! One thread's share of the proxy.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use seaworthy_core::call::Plan;

use crate::ids::Ids;
use crate::node::{Crew, Node};
use crate::rate::Remote;
use crate::site::{Service, Site};
use crate::tally::Tally;
use crate::task::{Clock, HasClock};

/// One thread's share of the proxy. Everything in it is touched by that thread alone, but for what [`Site`] shares.
pub(crate) struct Worker {
    clock: Clock,
    /// Its connection to where rates are counted, if anywhere.
    pub remote: Option<Remote>,
    /// Ids and draws.
    pub ids: RefCell<Ids>,
    /// What all workers share.
    pub site: Arc<Site>,
    /// By upstream.
    pub crews: Vec<RefCell<Crew>>,
    /// What this worker counts.
    pub tally: Arc<Tally>,
    /// How the calls of each route go, and the site's version of that.
    plans: RefCell<(u64, Vec<Plan>)>,
    /// Whether connections are to end after the call they carry.
    draining: Cell<bool>,
    /// Buffers for headers that no call needs now.
    pub spare_lists: RefCell<Vec<Vec<(http::HeaderName, http::HeaderValue)>>>,
    clients: RefCell<HashMap<u64, Waker>>,
    next_client: Cell<u64>,
    /// Notified when the last connection has ended.
    emptied: tokio::sync::Notify,
}

impl Worker {
    pub(crate) fn new(site: Arc<Site>, number: usize, seed: u64) -> Rc<Self> {
        let mut ids = Ids::new(seed);
        let crews = (0..site.services.len()).map(|n| RefCell::new(Crew::new(&site, n, number, ids.draw())));
        Rc::new(Self {
            clock: Clock::new(),
            remote: site.redis.clone().map(Remote::new),
            crews: crews.collect(),
            ids: RefCell::new(ids),
            tally: site.tallies[number].clone(),
            plans: RefCell::new((site.version.load(Ordering::Acquire), site.plans())),
            site,
            draining: Cell::new(false),
            spare_lists: RefCell::default(),
            clients: RefCell::default(),
            next_client: Cell::new(0),
            emptied: tokio::sync::Notify::new(),
        })
    }

    /// The policies of the upstream.
    pub(crate) fn service(&self, upstream: usize) -> &Service {
        &self.site.services[upstream]
    }

    /// How the calls of `route` go.
    pub(crate) fn plan(&self, route: usize) -> Plan {
        let version = self.site.version.load(Ordering::Acquire);
        let mut plans = self.plans.borrow_mut();
        if plans.0 != version {
            *plans = (version, self.site.plans());
        }
        plans.1[route]
    }

    /// Whether connections are to end.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Has every connection end after the call that it carries.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for waker in self.clients.borrow().values() {
            waker.wake_by_ref();
        }
    }

    /// Notes a connection, to be woken when the worker drains; returns its number.
    pub(crate) fn enter(&self, waker: Waker) -> u64 {
        let number = self.next_client.get();
        self.next_client.set(number + 1);
        self.clients.borrow_mut().insert(number, waker);
        number
    }

    /// Forgets a connection.
    pub(crate) fn leave(&self, number: u64) {
        self.clients.borrow_mut().remove(&number);
        if self.draining.get() {
            self.emptied.notify_one();
        }
    }

    /// Waits until there is no connection.
    pub(crate) async fn emptied(&self) {
        while !self.clients.borrow().is_empty() {
            self.emptied.notified().await;
        }
    }

    /// Once a second: closes connections that nobody needs, and lets go of endpoints that have left.
    pub(crate) fn sweep(&self) {
        let now = self.clock.refresh();
        self.tally.pulse.set(now.as_nanos());
        for (crew, service) in self.crews.iter().zip(&self.site.services) {
            let mut crew = crew.borrow_mut();
            crew.muster(&service.fleet);
            crew.nodes().for_each(|node: &Rc<Node>| node.sweep(now));
        }
    }
}

impl HasClock for Worker {
    fn clock(&self) -> &Clock {
        &self.clock
    }
}

impl HasClock for Rc<Worker> {
    fn clock(&self) -> &Clock {
        &self.clock
    }
}
