//! What all workers share: the configuration, and the policies of every upstream.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use seaworthy::shared::{Bulkhead, Commons, Door, Throttle};
use seaworthy_config::{Config, Gate, Level, Route};
use seaworthy_core::call::{self, Plan};
use seaworthy_core::gate::pressure::Pressure;
use seaworthy_core::gate::{breaker, bulkhead, limit, queue, throttle};
use seaworthy_core::{Instant, Mode, Rules, Valid};
use tokio::sync::mpsc;

use crate::flags::FlagRoute;
use crate::fleet::Fleet;
use crate::idempotency::{KeyStore, RouteKeys};
use crate::instead::Since;
use crate::journal::Journal;
use crate::keeper::{Order, hash};
use crate::kept::Shelf;
use crate::rate::{Meter, Settings, Store};
use crate::tally::Tally;

/// What all workers share.
pub(crate) struct Site {
    /// The configuration.
    pub config: Config,
    /// By upstream.
    pub services: Vec<Service>,
    /// The doors of the addresses that clients connect to, where these have one.
    pub listeners: Vec<Option<Door>>,
    /// By route.
    pub routes: Vec<RouteState>,
    /// How many calls pass in a while, whatever their route.
    pub meter: Option<Meter>,
    /// Where rates are counted that proxies share.
    pub redis: Option<Arc<Store>>,
    /// Where idempotency keys are kept, if anywhere.
    pub keys: Option<KeyStore>,
    /// The good answers that are kept.
    pub shelf: Shelf,
    /// How hard it is for the host.
    pressure: Mutex<Pressure>,
    /// What operators may change while it runs.
    tuning: Mutex<Tuning>,
    /// Counts the changes of the plans, so that workers notice.
    pub version: AtomicU64,
    /// Whether new calls are taken: until the proxy drains.
    pub serving: AtomicBool,
    /// Whether every source of endpoints has said something.
    complete: AtomicBool,
    /// Where operators' orders for the keeper go.
    pub orders: mpsc::UnboundedSender<Order>,
    /// Client connections there are.
    pub connections: AtomicU32,
    /// Client connections that were turned away, as there were too many.
    pub turned_away: AtomicU64,
    /// What each worker counts.
    pub tallies: Vec<Arc<Tally>>,
    /// The log.
    pub journal: Journal,
}

/// The policies of one route that its upstream doesn't have.
pub(crate) struct RouteState {
    /// How many calls it takes, if it has a limit of its own.
    pub door: Option<Door>,
    /// How many of its calls pass in a while, if it has a rate.
    pub meter: Option<Meter>,
    /// What it knows of flags, if its upstream is a flag service.
    pub flags: Option<FlagRoute>,
    /// What was asked for under idempotency keys, if it honours them.
    pub keys: Option<Arc<RouteKeys>>,
    /// The body of its own answer.
    pub words: Bytes,
    /// Since when its upstream has had no answer.
    pub degraded: Since,
}

/// The policies of one upstream.
pub(crate) struct Service {
    /// How many calls it takes, and which wait.
    pub door: Door,
    /// Which attempts are spared it while it refuses too many.
    pub throttle: Throttle,
    /// How many attempts run.
    pub bulkhead: Bulkhead,
    /// Its endpoints.
    pub fleet: Fleet,
    /// What its calls learn.
    pub commons: Commons,
}

impl Site {
    pub(crate) fn new(
        config: Config,
        workers: usize,
        redis: Option<Store>,
        keys: Option<KeyStore>,
        words: Vec<Bytes>,
        journal: Journal,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Self {
        let services = config.upstreams.iter().map(|upstream| Service {
            door: Door::new(upstream.limit, upstream.queue),
            throttle: Throttle::new(upstream.throttle),
            bulkhead: Bulkhead::new(upstream.bulkhead),
            fleet: Fleet::new(upstream.balance, upstream.sources.len()),
            commons: Commons::new(upstream.call),
        });
        let listeners = config.listen.iter().map(|_| config.gate.map(door));
        let routes = config.routes.iter().zip(words).map(|(route, words)| RouteState {
            door: route.gate.map(door),
            meter: route.rate.map(|rate| Meter::new(&format!("route:{}", route.name), Settings::from(&rate))),
            flags: flags(&config, route, &journal),
            keys: route_keys(&config, route, keys.as_ref()),
            words,
            degraded: Since::default(),
        });
        Self {
            services: services.collect(),
            listeners: listeners.collect(),
            routes: routes.collect(),
            meter: config.rate.map(|rate| Meter::new("all", Settings::from(&rate))),
            redis: redis.map(Arc::new),
            keys,
            shelf: Shelf::new(config.stale_memory),
            pressure: Mutex::new(Pressure::new(config.pressure)),
            tuning: Mutex::new(Tuning::of(&config)),
            version: AtomicU64::new(0),
            serving: AtomicBool::new(true),
            complete: AtomicBool::new(false),
            orders,
            connections: AtomicU32::new(0),
            turned_away: AtomicU64::new(0),
            tallies: (0..workers).map(|_| Arc::new(Tally::new(&config))).collect(),
            journal,
            config,
        }
    }

    /// Every source of endpoints has said something.
    pub(crate) fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Whether every source of endpoints has said something.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Whether new calls are welcome.
    pub(crate) fn is_ready(&self) -> bool {
        self.serving.load(Ordering::Acquire) && self.is_complete()
    }

    /// Every door there is.
    pub(crate) fn doors(&self) -> impl Iterator<Item = &Door> {
        let upstreams = self.services.iter().map(|service| &service.door);
        let routes = self.routes.iter().filter_map(|route| route.door.as_ref());
        self.listeners.iter().flatten().chain(routes).chain(upstreams)
    }

    /// The numbers of the breakers of an upstream's endpoints.
    pub(crate) fn breaker(&self, upstream: usize) -> Valid<breaker::Config> {
        self.tuning().upstreams[upstream].breaker
    }

    /// How the calls of each route go, by route.
    pub(crate) fn plans(&self) -> Vec<Plan> {
        self.tuning().routes.iter().map(Plan::new).collect()
    }

    /// The modes in force of the calls to an upstream.
    pub(crate) fn modes(&self, upstream: usize) -> Modes {
        let call = self.tuning().upstreams[upstream].call;
        Modes { timeout: call.timeout.mode, retry: call.retry.mode, hedge: call.hedge.mode }
    }

    /// Sets the mode of one policy of an upstream, and of the routes that lead to it.
    ///
    /// # Errors
    /// Why it can't be.
    pub(crate) fn set_mode(
        &self,
        now: Instant,
        upstream: usize,
        policy: &str,
        mode: Mode,
    ) -> Result<(), String> {
        let mut tuning = self.tuning();
        let service = &self.services[upstream];
        let tuned = &mut tuning.upstreams[upstream];
        match policy {
            "breaker" => {
                tuned.breaker = valid(breaker::Config { mode, ..*tuned.breaker })?;
                let roster = service.fleet.roster();
                roster.iter().for_each(|endpoint| endpoint.breaker.reconfigure(now, tuned.breaker));
            }
            "limit" => {
                tuned.limit = valid(limit::Config { mode, ..*tuned.limit })?;
                service.door.reconfigure(now, tuned.limit);
            }
            "queue" => {
                tuned.queue = valid(queue::Config { mode, ..*tuned.queue })?;
                service.door.reconfigure_queue(now, tuned.queue);
            }
            "rate" => {
                let routes = self.config.routes.iter().zip(&self.routes);
                let routes = routes.filter(|(route, _)| route.upstream == upstream);
                routes.filter_map(|(_, state)| state.meter.as_ref()).for_each(|meter| meter.set_mode(mode));
            }
            "throttle" => {
                tuned.throttle = valid(throttle::Config { mode, ..*tuned.throttle })?;
                service.throttle.reconfigure(tuned.throttle);
            }
            "bulkhead" => {
                tuned.bulkhead = valid(bulkhead::Config { mode, ..*tuned.bulkhead })?;
                service.bulkhead.reconfigure(now, tuned.bulkhead);
            }
            "timeout" | "retry" | "hedge" => {
                tuned.call = with_mode(&tuned.call, policy, mode)?;
                service.commons.reconfigure(now, tuned.call);
                let routes = self.config.routes.iter().zip(&mut tuning.routes);
                for (_, call) in routes.filter(|(route, _)| route.upstream == upstream) {
                    *call = with_mode(call, policy, mode)?;
                }
                self.version.fetch_add(1, Ordering::Release);
            }
            other => {
                return Err(format!(
                    "policy is {other:?}; write \"breaker\", \"limit\", \"queue\", \"rate\", \"throttle\", \"bulkhead\", \"timeout\", \"retry\" or \"hedge\""
                ));
            }
        }
        Ok(())
    }

    /// How hard it is for the host.
    pub(crate) fn pressure(&self) -> MutexGuard<'_, Pressure> {
        // As for the tuning.
        self.pressure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tuning(&self) -> MutexGuard<'_, Tuning> {
        // A thread that panicked in between has left each value as it was or as it should be.
        self.tuning.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The numbers in force, where operators may change them.
struct Tuning {
    upstreams: Vec<Tuned>,
    /// By route.
    routes: Vec<Valid<call::Config>>,
}

struct Tuned {
    breaker: Valid<breaker::Config>,
    limit: Valid<limit::Config>,
    queue: Valid<queue::Config>,
    throttle: Valid<throttle::Config>,
    bulkhead: Valid<bulkhead::Config>,
    call: Valid<call::Config>,
}

impl Tuning {
    fn of(config: &Config) -> Self {
        let upstreams = config.upstreams.iter();
        let tuned = upstreams.map(|u| Tuned {
            breaker: u.breaker,
            limit: u.limit,
            queue: u.queue,
            throttle: u.throttle,
            bulkhead: u.bulkhead,
            call: u.call,
        });
        Self { upstreams: tuned.collect(), routes: config.routes.iter().map(call).collect() }
    }
}

/// A route to a flag service always has something to answer with instead.
fn call(route: &Route) -> Valid<call::Config> {
    let fallback = route.call.fallback || route.flags.is_some();
    // Whether there is a fallback is no reason for a fault.
    Valid::new(call::Config { fallback, ..*route.call }).unwrap_or(route.call)
}

/// The modes in force of an upstream's calls.
pub(crate) struct Modes {
    pub timeout: Mode,
    pub retry: Mode,
    pub hedge: Mode,
}

/// What the route knows of flags, if its upstream is a flag service. Each has a file of its own.
fn flags(config: &Config, route: &Route, journal: &Journal) -> Option<FlagRoute> {
    let defaults = route.flags.as_ref()?.defaults.clone();
    let file = format!("flags-{:016x}.json", hash(route.name.as_bytes()));
    let file = config.data.as_ref().map(|folder| folder.join(file));
    let (journal, name) = (journal.clone(), route.name.clone());
    Some(FlagRoute::new(defaults, file, move |notice| {
        journal.event(Level::Warn, "flags", &[("route", &name), ("notice", &notice.to_string())]);
    }))
}

/// What the route keeps under idempotency keys, if it does.
fn route_keys(config: &Config, route: &Route, store: Option<&KeyStore>) -> Option<Arc<RouteKeys>> {
    let (rules, kept_in) = (route.idempotency.as_ref()?, config.idempotency.as_ref()?);
    Some(Arc::new(RouteKeys::new(rules, store?.shared(), kept_in)))
}

fn door(gate: Gate) -> Door {
    Door::new(gate.limit, gate.queue)
}

fn with_mode(call: &Valid<call::Config>, policy: &str, mode: Mode) -> Result<Valid<call::Config>, String> {
    let mut call = **call;
    match policy {
        "timeout" => call.timeout.mode = mode,
        "retry" => call.retry.mode = mode,
        _ => call.hedge.mode = mode,
    }
    valid(call)
}

fn valid<C: Rules>(config: C) -> Result<Valid<C>, String> {
    Valid::new(config).map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}
