//! The instances of the service as one client knows them, and which of them an attempt goes to.
//!
//! What the proxy's workers do: the core's table proposes, the region's limit and the instance's breaker must allow. A service
//! with one instance has nothing to choose, so its breaker alone is asked.

use std::time::Duration;

use seaworthy_core::balance::{Ask, View};
use seaworthy_core::gate::breaker::{self, Change};
use seaworthy_core::gate::limit::{Limit, Permit};
use seaworthy_core::gate::outlier::Batch;
use seaworthy_core::record::RecordedBreaker;
use seaworthy_core::stats::ewma::Ewma;
use seaworthy_core::{Failure, Instant, Outcome, Policy, Reason, Rejection, Rng as _, Seeded};

use crate::keeper::{Chooser, Keeper};
use crate::scenario::Scenario;

/// The instances as one client knows them.
pub(crate) struct Fleet {
    endpoints: Vec<Endpoint>,
    /// By region; empty if regions have no limit.
    limits: Vec<Limit>,
    /// Attempts in flight to all of them.
    in_flight: u32,
    /// Where there is something to choose.
    keeper: Option<Keeper>,
    /// What breakers have become and nobody has yet asked for.
    changes: Vec<(u32, Change)>,
}

/// One instance as one client knows it.
pub(crate) struct Endpoint {
    pub(crate) breaker: RecordedBreaker,
    /// The breaker's generation when its changes were last told.
    generation: u64,
    pub(crate) region: u16,
    pub(crate) tier: u8,
    pub(crate) weight: u32,
    pub(crate) hash: u64,
    latency: Ewma,
    in_flight: u32,
    /// What has ended since the keeper last looked.
    pub(crate) batch: Batch,
}

/// What a call wants of the instances.
pub(crate) struct Wish<'a> {
    /// What calls that belong together have in common.
    pub(crate) key: Option<u64>,
    /// Whether the call survives an attempt that is likely to fail.
    pub(crate) may_probe: bool,
    pub(crate) hedge: bool,
    /// Where its attempts went.
    pub(crate) tried: &'a [u32],
}

/// An instance that an attempt goes to, with what it holds meanwhile.
pub(crate) struct Entry {
    pub(crate) at: u32,
    sent: Instant,
    pub(crate) ticket: breaker::Ticket,
    /// The permit to enter its region, where that has a limit.
    visa: Option<Permit>,
}

impl Fleet {
    /// `first` is the number under which its first breaker is recorded, if it is.
    pub(crate) fn new(scenario: &Scenario, first: Option<u64>, seeds: &mut Seeded) -> Self {
        let regions = regions(scenario);
        let instances = (0..).zip(scenario.service.groups_of_instances());
        let endpoints = instances.map(|(n, (_, group))| Endpoint {
            breaker: RecordedBreaker::new(
                scenario.policies.breaker,
                seeds.next_u64(),
                first.map(|first| first + n),
            ),
            generation: 0,
            region: regions.iter().position(|region| *region == group.region).unwrap_or(0) as u16,
            tier: group.tier,
            weight: group.weight,
            hash: Seeded::new(n).next_u64(),
            latency: Ewma::peak(DECAY),
            in_flight: 0,
            batch: Batch::default(),
        });
        let limit = scenario.policies.per_region.map(Limit::new);
        Self {
            endpoints: endpoints.collect(),
            limits: limit.map(|limit| vec![limit; regions.len()]).unwrap_or_default(),
            in_flight: 0,
            keeper: None,
            changes: Vec::new(),
        }
    }

    /// Spreads calls over the instances, and looks after them from now on.
    pub(crate) fn keep(&mut self, scenario: &Scenario, seed: u64) {
        self.keeper = Some(Keeper::new(&scenario.policies, seed, &self.endpoints));
    }

    /// How they are: what is to be done every [`LOOK_EVERY`](crate::keeper::LOOK_EVERY).
    pub(crate) fn look(&mut self, now: Instant) {
        if let Some(keeper) = &mut self.keeper {
            keeper.look(now, &mut self.endpoints);
            (0..self.endpoints.len()).for_each(|at| self.notice(at));
        }
    }

    /// What breakers have become since the last time.
    pub(crate) fn take_changes(&mut self) -> Vec<(u32, Change)> {
        std::mem::take(&mut self.changes)
    }

    /// What was recorded.
    pub(crate) fn take_recording(&mut self) -> String {
        self.endpoints.iter_mut().map(|endpoint| endpoint.breaker.take()).collect()
    }

    // Attempts.

    /// Where an attempt goes that begins at `now`: to an instance that the call has not tried where there is one, and if it
    /// is a hedge to no other.
    ///
    /// # Errors
    /// The refusal of the only instance, or that none takes it.
    pub(crate) fn choose(&mut self, now: Instant, wish: &Wish<'_>) -> Result<Entry, Rejection> {
        let Some(mut keeper) = self.keeper.take() else { return self.enter(now, 0) };
        let chosen = self.choose_of_many(now, wish, keeper.chooser());
        self.keeper = Some(keeper);
        chosen
    }

    fn choose_of_many(
        &mut self,
        now: Instant,
        wish: &Wish<'_>,
        chooser: Chooser<'_>,
    ) -> Result<Entry, Rejection> {
        // A first attempt alone is spent on finding out whether an instance has recovered: the others have failed once already.
        let first = wish.tried.is_empty() && !wish.hedge;
        let ask = Ask { key: wish.key, may_probe: (wish.may_probe || chooser.impatient) && first };
        let mut avoided =
            Avoided { tried: wish.tried, refused: Vec::new(), regions: self.doubted(wish.tried), full: 0 };
        let mut last_resort = 0..self.endpoints.len().min(LAST_RESORT) as u32;
        let mut refusal: Option<Rejection> = None;
        loop {
            let picked = {
                let options = Options { fleet: self, now, avoided: &avoided };
                chooser.picker.pick(chooser.table, ask, &options)
            };
            let at = match picked {
                Some(at) => at,
                None if std::mem::take(&mut avoided.regions) != 0 => continue,
                None if !wish.hedge && !std::mem::take(&mut avoided.tried).is_empty() => continue,
                // Nobody is left but those that the table knows to be out. Their breakers say so, and since when they don't.
                None => match last_resort.find(|at| avoided.allows(*at)) {
                    Some(at) => at,
                    None => return Err(nobody(refusal)),
                },
            };
            match self.enter(now, at) {
                Ok(entry) => return Ok(entry),
                Err(rejection) => {
                    if rejection.policy == Policy::Limit {
                        avoided.full |= bit(self.endpoints[at as usize].region);
                    }
                    avoided.refused.push(at);
                    refusal = Some(sooner(refusal, rejection));
                }
            }
        }
    }

    /// Whether the region and the breaker of an instance let an attempt in.
    ///
    /// # Errors
    /// Their refusal.
    fn enter(&mut self, now: Instant, at: u32) -> Result<Entry, Rejection> {
        let endpoint = &mut self.endpoints[at as usize];
        let limit = self.limits.get_mut(usize::from(endpoint.region));
        let (visa, limit) = match limit {
            Some(limit) => (Some(limit.admit()?), Some(limit)),
            None => (None, None),
        };
        let admitted = endpoint.breaker.admit(now);
        let entry = match admitted {
            Ok(ticket) => {
                endpoint.in_flight += 1;
                self.in_flight += 1;
                Ok(Entry { at, sent: now, ticket, visa })
            }
            Err(rejection) => {
                if let (Some(visa), Some(limit)) = (visa, limit) {
                    limit.release(visa);
                }
                Err(rejection)
            }
        };
        self.notice(at as usize);
        entry
    }

    /// An attempt has run for long and still does.
    pub(crate) fn overdue(&mut self, now: Instant, entry: &mut Entry) {
        // The change is noticed with all others.
        let _ = self.endpoints[entry.at as usize].breaker.overdue(now, &mut entry.ticket);
        self.notice(entry.at as usize);
    }

    /// An attempt has ended.
    pub(crate) fn settle(&mut self, now: Instant, entry: Entry, outcome: Outcome) {
        let Entry { at, sent, ticket, visa } = entry;
        let endpoint = &mut self.endpoints[at as usize];
        let _ = endpoint.breaker.settle(now, ticket, outcome);
        endpoint.in_flight -= 1;
        self.in_flight -= 1;
        if self.keeper.is_some() && outcome != Outcome::Abandoned {
            endpoint.observe(now, now.since(sent), outcome);
        }
        if let (Some(visa), Some(limit)) = (visa, self.limits.get_mut(usize::from(endpoint.region))) {
            limit.release(visa);
        }
        self.notice(at as usize);
    }

    /// Notes what a breaker has just become, also what time made of it.
    fn notice(&mut self, at: usize) {
        let endpoint = &mut self.endpoints[at];
        if endpoint.generation != endpoint.breaker.generation() {
            endpoint.generation = endpoint.breaker.generation();
            self.changes.extend(endpoint.breaker.last_change().map(|change| (at as u32, change)));
        }
    }

    /// The regions to which two attempts of the call went in vain: it is hardly the instances' fault.
    fn doubted(&self, tried: &[u32]) -> u64 {
        let mut seen = 0;
        tried.iter().map(|at| bit(self.endpoints[*at as usize].region)).fold(0, |doubted, region| {
            let again = seen & region;
            seen |= region;
            doubted | again
        })
    }
}

impl Endpoint {
    /// An attempt was answered, or failed, after `took`.
    fn observe(&mut self, now: Instant, took: Duration, outcome: Outcome) {
        self.latency.record(now, took);
        // Errors are often fast and say nothing about how slow the instance is; what was cut off says that it is.
        let timed = matches!(outcome, Outcome::Success | Outcome::Failure(Failure::Timeout, _));
        match outcome {
            Outcome::Success | Outcome::Failure(..) => {
                self.batch.add(outcome.is_failure(), timed.then_some(took));
            }
            // An instance that is overloaded and says so has not failed.
            _ => {}
        }
    }

    /// What one attempt more would cost: the latency times the calls in flight. An instance that nobody knows yet costs
    /// nothing while idle, so that it is tried.
    fn cost(&self, now: Instant) -> f64 {
        let in_flight = f64::from(self.in_flight);
        match self.latency.value(now) {
            Some(latency) => latency.as_secs_f64() * (in_flight + 1.0),
            None => UNKNOWN.as_secs_f64() * in_flight,
        }
    }
}

/// What is not left to an attempt.
struct Avoided<'a> {
    /// Not these, as long as there are others.
    tried: &'a [u32],
    /// Not these, as they refused.
    refused: Vec<u32>,
    /// Not these regions, as long as there are others.
    regions: u64,
    /// Not these regions, as they are full.
    full: u64,
}

impl Avoided<'_> {
    fn allows(&self, id: u32) -> bool {
        !self.tried.contains(&id) && !self.refused.contains(&id)
    }
}

struct Options<'a> {
    fleet: &'a Fleet,
    now: Instant,
    avoided: &'a Avoided<'a>,
}

impl View for Options<'_> {
    fn cost(&self, id: u32) -> f64 {
        self.fleet.endpoints[id as usize].cost(self.now)
    }

    fn in_flight(&self, id: u32) -> u32 {
        self.fleet.endpoints[id as usize].in_flight
    }

    fn total_in_flight(&self) -> u32 {
        self.fleet.in_flight
    }

    fn allowed(&self, id: u32) -> bool {
        self.avoided.allows(id)
    }

    fn has_room(&self, region: u16) -> bool {
        (self.avoided.regions | self.avoided.full) & bit(region) == 0
    }
}

/// A bit for each region, the last for all from there on.
fn bit(region: u16) -> u64 {
    1 << region.min(63)
}

/// The regions of the service, in order.
fn regions(scenario: &Scenario) -> Vec<&str> {
    let mut regions: Vec<&str> = Vec::new();
    for group in &scenario.service.groups {
        if !regions.contains(&group.region.as_str()) {
            regions.push(&group.region);
        }
    }
    regions
}

/// What to say when no instance takes the attempt.
fn nobody(refusal: Option<Rejection>) -> Rejection {
    Rejection {
        retry_after: refusal.and_then(|rejection| rejection.retry_after),
        ..Rejection::new(Policy::Balancer, Reason::NoEndpoint)
    }
}

/// The refusal that ends sooner.
fn sooner(a: Option<Rejection>, b: Rejection) -> Rejection {
    match a {
        Some(a) if a.retry_after.is_some() && (b.retry_after.is_none() || a.retry_after <= b.retry_after) => {
            a
        }
        _ => b,
    }
}

/// How fast a latency is forgotten: ten seconds, as in the proxy, Finagle and Linkerd.
const DECAY: Duration = Duration::from_secs(10);
/// What each call counts for at an instance that has calls in flight and never answered one: as in the proxy.
const UNKNOWN: Duration = Duration::from_secs(1);
/// How many instances that are known to be out are asked all the same: as in the proxy.
const LAST_RESORT: usize = 8;
