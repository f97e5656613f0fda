//! One upstream's book: which endpoints there are, how they are, and how calls are spread over them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use seaworthy::clock;
use seaworthy::shared::{Breaker, Limit};
use seaworthy_config::{Config, Endpoint as Address, Labels, Level, Upstream, Where};
use seaworthy_core::balance::{Member, Table};
use seaworthy_core::evacuate::Region as Load;
use seaworthy_core::gate::breaker::State;
use seaworthy_core::gate::health::Health;
use seaworthy_core::gate::limit;
use seaworthy_core::gate::outlier::{Batch, Outlier, Verdict};
use seaworthy_core::{Instant, Mode, Rng as _, Seeded, Valid};

use super::patient::Patient;
use crate::discovery::Target;
use crate::fleet::{Endpoint, Region, Roster};
use crate::site::Site;
use crate::tally::EndpointTally;

/// The book of one upstream.
pub(super) struct Book {
    pub(super) upstream: usize,
    site: Arc<Site>,
    seeds: Seeded,
    /// What each source said last; `None` before it has said anything.
    sources: Vec<Option<Vec<Target>>>,
    /// By id; an empty place is free.
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    ids: HashMap<Address, u32>,
    regions: Vec<Arc<Region>>,
    /// By region: the share of its traffic that it keeps.
    kept: Vec<f64>,
    outlier: Outlier,
    /// What the table in force was built of.
    members: Vec<Member>,
    /// Until when the table in force says how calls are spread.
    holds_until: Instant,
    /// [`Book::life`] at the last look.
    life: u64,
    impatient: bool,
    panics: bool,
}

/// One endpoint.
struct Entry {
    endpoint: Arc<Endpoint>,
    labels: Labels,
    tier: u8,
    /// When it joined, or when its checks found it well again.
    since: Instant,
    patient: Option<Patient>,
    /// Whether its checks had found it well at the last look.
    up: bool,
    /// Since when its breaker waits for a probe.
    waits_since: Option<Instant>,
    /// What had been counted at the last look.
    seen: Seen,
}

impl Book {
    pub(super) fn new(site: Arc<Site>, upstream: usize, seed: u64) -> Self {
        let config = &site.config.upstreams[upstream];
        Self {
            sources: vec![None; config.sources.len()],
            outlier: Outlier::new(config.outlier),
            upstream,
            seeds: Seeded::new(seed),
            entries: Vec::new(),
            free: Vec::new(),
            ids: HashMap::new(),
            regions: Vec::new(),
            kept: Vec::new(),
            members: Vec::new(),
            holds_until: Instant::FAR,
            life: 0,
            impatient: false,
            panics: false,
            site,
        }
    }

    pub(super) fn config(&self) -> &Upstream {
        &self.site.config.upstreams[self.upstream]
    }

    /// Whether every source has said something.
    pub(super) fn is_complete(&self) -> bool {
        self.sources.iter().all(Option::is_some)
    }

    /// Every endpoint.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.entries.iter().flatten().map(|entry| &entry.endpoint)
    }

    /// What each region carries, and what share of its traffic it keeps, by name.
    pub(super) fn loads(&self, kept: impl Fn(&str) -> f64) -> Vec<(String, Load)> {
        let load = |region: &Arc<Region>| {
            let its =
                || self.entries.iter().flatten().filter(|entry| entry.endpoint.region.index == region.index);
            let ready = its().filter(|entry| entry.up && entry.endpoint.breaker.is_closed());
            let in_flight = its().map(|entry| entry.endpoint.in_flight()).sum::<u64>();
            let load = Load {
                ready: ready.map(|entry| f64::from(entry.labels.weight)).sum(),
                in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
                limit: self.config().region_limit,
                kept: kept(&region.name),
            };
            (region.name.clone(), load)
        };
        // One that is left from endpoints that have gone is no region of this upstream.
        self.regions.iter().filter(|region| Arc::strong_count(region) > 1).map(load).collect()
    }

    // Who is there.

    /// A source can't say anything for now; what it said before holds.
    pub(super) fn trouble(&mut self, source: usize, trouble: String) {
        let at = self.site.config.spelt(&self.config().sources[source].at);
        let fields = [("upstream", self.config().name.as_str()), ("source", &at), ("error", &trouble)];
        self.site.journal.event(Level::Warn, "discovery", &fields);
        self.sources[source].get_or_insert_default();
        self.site.services[self.upstream].fleet.trouble(source, Some(trouble));
    }

    /// The places of the sources that are this one.
    pub(super) fn sources_at(&self, at: &Where) -> Vec<usize> {
        let sources = self.config().sources.iter().enumerate();
        sources.filter(|(_, source)| source.at == *at).map(|(n, _)| n).collect()
    }

    /// The endpoint at `address`.
    pub(super) fn find(&self, address: &Address) -> Option<Arc<Endpoint>> {
        let id = self.ids.get(address)?;
        self.entries[*id as usize].as_ref().map(|entry| entry.endpoint.clone())
    }

    /// A source says what there is. Endpoints that stay keep all that was learned of them.
    pub(super) fn told(&mut self, now: Instant, source: usize, targets: Vec<Target>) {
        // Who is there from the beginning is no newer than the others and needs no slow start.
        let since = if self.is_complete() { now } else { Instant::ZERO };
        self.sources[source] = Some(targets);
        self.site.services[self.upstream].fleet.trouble(source, None);
        // An endpoint that several sources name is as the first of them says.
        let mut wanted: HashMap<Address, Labels> = HashMap::new();
        let mut order = Vec::new();
        for target in self.sources.iter().flatten().flatten() {
            wanted.entry(target.address()).or_insert_with(|| {
                order.push(target.address());
                target.labels.clone()
            });
        }
        let is_gone = |endpoint: &Endpoint| {
            wanted.get(&endpoint.address).is_none_or(|labels| labels.region != endpoint.region.name)
        };
        let gone: Vec<u32> = self.endpoints().filter(|e| is_gone(e)).map(|e| e.id).collect();
        gone.into_iter().for_each(|id| self.remove(id));
        for address in order {
            let Some(labels) = wanted.remove(&address) else { continue };
            match self.ids.get(&address) {
                Some(id) => self.relabel(*id, labels),
                None => self.add(since, address, labels),
            }
        }
        self.enlist(now);
    }

    fn add(&mut self, since: Instant, address: Address, labels: Labels) {
        let id = self.free.pop().unwrap_or(self.entries.len() as u32);
        let breaker = Breaker::new(self.site.breaker(self.upstream), self.seeds.next_u64());
        let region = self.region(&labels.region);
        let workers = self.site.tallies.len();
        let endpoint = Arc::new(Endpoint::new(id, address.clone(), region, breaker, workers));
        self.tell(
            Level::Info,
            "endpoint_joined",
            &endpoint,
            &[("zone", &labels.zone), ("region", &labels.region)],
        );
        let timing = self.config().check.as_ref().map(|check| check.timing);
        let patient = timing.map(|timing| {
            let health = Health::new(timing, self.seeds.next_u64(), clock::now());
            Patient::admit(self.site.clone(), self.upstream, endpoint.clone(), health)
        });
        let entry = Entry {
            endpoint,
            tier: tier(&self.site.config, &labels),
            labels,
            since,
            patient,
            up: true,
            waits_since: None,
            seen: Seen::default(),
        };
        if id as usize == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[id as usize] = Some(entry);
        self.ids.insert(address, id);
    }

    fn remove(&mut self, id: u32) {
        let Some(entry) = self.entries[id as usize].take() else { return };
        self.free.push(id);
        self.ids.remove(&entry.endpoint.address);
        self.outlier.forget(id);
        self.tell(Level::Info, "endpoint_left", &entry.endpoint, &[]);
    }

    fn relabel(&mut self, id: u32, labels: Labels) {
        if let Some(entry) = &mut self.entries[id as usize] {
            entry.tier = tier(&self.site.config, &labels);
            entry.labels = labels;
        }
    }

    fn region(&mut self, name: &str) -> Arc<Region> {
        if let Some(region) = self.regions.iter().find(|region| region.name == name) {
            return region.clone();
        }
        let limit = self.config().region_limit.and_then(|max_in_flight| {
            // A limit that the configuration has checked.
            Valid::new(limit::Config { max_in_flight, ..limit::Config::default() }).ok().map(Limit::new)
        });
        // The place of a region that is nobody's any more, so that names that come and go don't add up.
        let free = self.regions.iter().position(|region| Arc::strong_count(region) == 1);
        let index = free.unwrap_or(self.regions.len());
        let region = Arc::new(Region { index: index as u16, name: name.to_owned(), limit });
        match free {
            Some(index) => self.regions[index] = region.clone(),
            None => self.regions.push(region.clone()),
        }
        region
    }

    // How they are.

    /// Looks at every endpoint, compares them, and spreads calls anew if something has changed. `share` is what a region keeps of its
    /// traffic.
    pub(super) fn look(&mut self, now: Instant, share: impl Fn(&str) -> f64) {
        let life = self.life();
        let same = std::mem::replace(&mut self.life, life) == life;
        if same && self.is_settled(&share) && now < self.holds_until {
            return;
        }
        self.count(now);
        for verdict in self.judge(now) {
            self.eject(now, verdict);
        }
        self.kept = self.regions.iter().map(|region| share(&region.name)).collect();
        let members = self.members(now);
        let impatient = self.is_impatient(now);
        if members != self.members || impatient != self.impatient || now >= self.holds_until {
            self.impatient = impatient;
            self.members = members;
            self.publish(now, None);
        }
    }

    /// What moves whenever something happens to an endpoint.
    fn life(&self) -> u64 {
        let settled = self.site.tallies.iter().map(|tally| tally.settled[self.upstream].get());
        self.site.services[self.upstream].fleet.stirred().wrapping_add(settled.sum())
    }

    /// Whether time alone changes nothing: nobody is out or on the way back, and no region on its way.
    fn is_settled(&self, share: impl Fn(&str) -> f64) -> bool {
        let as_before = |member: &Member| {
            let kept = self.regions.get(usize::from(member.region)).map(|region| share(&region.name));
            !member.out && member.share == 1.0 && Some(member.kept) == kept
        };
        self.members.iter().all(as_before)
    }

    /// Takes in what the workers have counted since the last look.
    fn count(&mut self, now: Instant) {
        for entry in self.entries.iter_mut().flatten() {
            let seen = Seen::of(&entry.endpoint);
            let batch = seen.since(&std::mem::replace(&mut entry.seen, seen));
            if batch != Batch::default() {
                self.outlier.record(now, entry.endpoint.id, batch);
            }
        }
    }

    fn judge(&mut self, now: Instant) -> Vec<Verdict> {
        let out = |entry: &Entry| !entry.endpoint.breaker.is_closed() || !entry.up;
        let members: Vec<_> = self.entries.iter().flatten().map(|e| (e.endpoint.id, out(e))).collect();
        let region =
            |id: u32| self.entries[id as usize].as_ref().map_or(0, |e| u32::from(e.endpoint.region.index));
        self.outlier.judge_by_place(now, &members, region)
    }

    /// An endpoint that differs from the others is left alone until it proves that it no longer does.
    fn eject(&self, now: Instant, verdict: Verdict) {
        let Some(entry) = &self.entries[verdict.id as usize] else { return };
        let endpoint = &entry.endpoint;
        let enforced = self.outlier.config().mode == Mode::Enforce;
        if enforced {
            let cause = verdict.cause.of_trip();
            let Some(change) = endpoint.breaker.trip(now, cause, verdict.not_slower_than) else { return };
            self.site.journal.breaker(&self.config().name, endpoint, &change);
        }
        let event = if enforced { "ejected" } else { "would_eject" };
        self.tell(Level::Warn, event, endpoint, &[("why", &verdict.to_string())]);
    }

    fn members(&mut self, now: Instant) -> Vec<Member> {
        let kept = |region: &Region| self.kept.get(usize::from(region.index)).copied().unwrap_or(1.0);
        self.entries.iter_mut().flatten().map(|entry| entry.member(now, kept)).collect()
    }

    /// Whether an endpoint waits in vain for a call that may be repeated.
    fn is_impatient(&self, now: Instant) -> bool {
        let waits = |entry: &Entry| entry.waits_since.is_some_and(|since| now.since(since) >= PROBE_WAITS);
        self.entries.iter().flatten().any(waits)
    }

    /// Puts a new table in force, and new endpoints if there are.
    fn publish(&mut self, now: Instant, endpoints: Option<Arc<[Option<Arc<Endpoint>>]>>) {
        let table = Table::build(self.config().balance, now, &self.members);
        self.holds_until = table.settles_at();
        let panics = table.panics();
        if std::mem::replace(&mut self.panics, panics) != panics {
            let event = if panics { "panic_begins" } else { "panic_ends" };
            let config = &self.site.config.upstreams[self.upstream];
            self.site.journal.event(Level::Warn, event, &[("upstream", &config.name)]);
        }
        let fleet = &self.site.services[self.upstream].fleet;
        let endpoints = endpoints.unwrap_or_else(|| fleet.roster().endpoints);
        fleet.publish(Roster { endpoints, table: Arc::new(table), impatient: self.impatient });
    }

    /// Puts the endpoints there are in force.
    fn enlist(&mut self, now: Instant) {
        let endpoints = self.entries.iter().map(|entry| entry.as_ref().map(|e| e.endpoint.clone())).collect();
        self.members = self.members(now);
        self.publish(now, Some(endpoints));
    }

    fn tell(&self, level: Level, event: &str, endpoint: &Endpoint, more: &[(&str, &str)]) {
        let mut fields = vec![("upstream", self.config().name.as_str()), ("endpoint", &endpoint.authority)];
        fields.extend_from_slice(more);
        self.site.journal.event(level, event, &fields);
    }
}

impl Entry {
    fn member(&mut self, now: Instant, kept: impl Fn(&Region) -> f64) -> Member {
        let up = self.patient.as_ref().is_none_or(Patient::is_up);
        if up && !std::mem::replace(&mut self.up, up) {
            self.since = now;
        }
        self.up = up;
        let breaker = &self.endpoint.breaker;
        let (mut admitted, mut waits) = (1.0, false);
        let seen = (!breaker.is_closed()).then(|| breaker.snapshot(now));
        // One that only observes keeps nobody out.
        if let Some(seen) = seen.filter(|seen| seen.mode == Mode::Enforce) {
            admitted = seen.share;
            waits = seen.forced.is_none()
                && match seen.state {
                    State::Open => seen.wait.is_none_or(|wait| wait.is_zero()),
                    state => state == State::HalfOpen,
                };
        }
        self.waits_since = waits.then(|| self.waits_since.unwrap_or(now));
        Member {
            id: self.endpoint.id,
            tier: self.tier,
            region: self.endpoint.region.index,
            weight: self.labels.weight,
            up,
            out: admitted == 0.0,
            probe: waits,
            since: self.since,
            share: admitted,
            kept: kept(&self.endpoint.region),
            hash: hash(self.endpoint.authority.as_bytes()),
        }
    }
}

/// What the workers have counted of an endpoint.
#[derive(Clone, Copy, Default)]
struct Seen {
    successes: u64,
    failures: u64,
    timed: u64,
    logs: u64,
}

impl Seen {
    fn of(endpoint: &Endpoint) -> Self {
        Self {
            successes: endpoint.sum(EndpointTally::successes),
            failures: endpoint.sum(EndpointTally::failures),
            timed: endpoint.sum(|tally| tally.timed.get()),
            logs: endpoint.sum(|tally| tally.logs.get()),
        }
    }

    fn since(&self, before: &Self) -> Batch {
        let few = |now: u64, before: u64| u32::try_from(now.wrapping_sub(before)).unwrap_or(u32::MAX);
        Batch {
            successes: few(self.successes, before.successes),
            failures: few(self.failures, before.failures),
            timed: few(self.timed, before.timed),
            log2_nanos: self.logs.wrapping_sub(before.logs),
        }
    }
}

/// How long an endpoint waits for a call that survives its failure. Where most calls are such, one comes at once.
const PROBE_WAITS: Duration = Duration::from_secs(1);

/// How near an endpoint is: 0 in the proxy's own zone, 1 in its region, 2 elsewhere. A proxy that doesn't know where it is
/// finds everything equally near.
fn tier(config: &Config, labels: &Labels) -> u8 {
    let is_here = |mine: &str, its: &str| !mine.is_empty() && mine == its;
    if config.region.is_empty() && config.zone.is_empty() {
        0
    } else if !config.region.is_empty() && config.region != labels.region {
        2
    } else {
        u8::from(!is_here(&config.zone, &labels.zone))
    }
}

/// The same for every proxy and every run, so that what is chosen by hash is chosen alike everywhere: FNV-1a (Fowler, Noll,
/// Vo), and a last mixing, as its high bits alone are weak.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    Seeded::new(hash).next_u64()
}
