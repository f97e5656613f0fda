//! Outlier: the endpoint that does worse than its peers.
//!
//! # What it is for
//! Gray failure: an endpoint that is well in its own eyes and passes every check, but fails one call in five, or takes ten
//! times as long as the others (Huang and others, "Gray Failure: The Achilles' Heel of Cloud-Scale Systems", 2017). No
//! threshold fits every upstream; but its peers do the same work at the same time, so they are the measure.
//!
//! # When not to use it
//! Where endpoints do different work: shards of different size, or a primary among replicas. And it can't tell that all are
//! bad, which is what breakers and checks are for.
//!
//! # How
//! Over a sliding window, for each endpoint that is in:
//!
//! **Errors.** With `k` of its `n` calls failed and `K` of the others' `N`, let `p = (K + 1) / (N + 2)` (Laplace's rule of
//! succession). It is an outlier if `k` is at least `minimum_failures`, its rate exceeds `p` by `error_excess`, and chance
//! explains it less than once in ten million: by Chernoff's bound the probability of `k` or more failures is at most
//! `exp(-n * KL(k/n || p))` with `KL(a || b) = a ln(a/b) + (1-a) ln((1-a)/(1-b))`. So few calls need a great difference, and
//! many a small one; a fixed minimum of calls would be too late for the one and too early for the other.
//!
//! When a whole region fails, the others are no measure, since they fail too. So the same is asked against *the better half*
//! of the endpoints alone. As a half that was chosen for being good flatters itself, `p` is then taken to be a half at
//! least: this finds who fails nearly always while others answer.
//!
//! Both are asked of the whole window and of its latest tenth, fifth and half, so that who was well until a second ago does
//! not live on his reputation.
//!
//! **Latency.** The geometric mean of its latencies against the *median* of the others' (so another slow one moves nothing):
//! it is an outlier at `slow_factor` times that, if the difference is at least `slow_floor`, both with `minimum_calls`. The
//! others are those at the same place: who is far away is slower and not ill.
//!
//! The worst come first, until as many are out as may be. Whoever is found starts with an empty window, as does whoever is
//! out: what counts after the return is what happened after it.
//!
//! It decides; its shell [trips](super::breaker::Breaker::trip) the endpoint's breaker, which brings it back by evidence.
//!
//! ```
//! use seaworthy_core::{Instant, Valid, gate::outlier::{Batch, Cause, Config, Outlier}};
//! let mut outlier = Outlier::new(Valid::new(Config::default()).unwrap());
//! for id in 0..10 {
//!     let failures = if id == 7 { 6 } else { 0 };
//!     outlier.record(Instant::ZERO, id, Batch { successes: 24, failures, ..Batch::default() });
//! }
//! let members: Vec<_> = (0..10).map(|id| (id, false)).collect();
//! let found = outlier.judge(Instant::ZERO, &members);
//! assert_eq!((found.len(), found[0].id, found[0].cause), (1, 7, Cause::Errors));
//! ```

mod config;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

pub use config::Config;

use super::breaker;
use crate::stats::log::{geometric_mean, ln, log2_fixed};
use crate::stats::slices::Slices;
use crate::{Instant, Mode, Valid, nanos};

/// Calls to one endpoint that have ended, summed up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// How many succeeded.
    pub successes: u32,
    /// How many failed.
    pub failures: u32,
    /// Of how many the latency says something: those that were answered, and those that were cut off for being late.
    pub timed: u32,
    /// The sum of these latencies' [`log2_fixed`].
    pub log2_nanos: u64,
}

impl Batch {
    /// Adds a call; `took` is its latency if that says something.
    pub fn add(&mut self, failed: bool, took: Option<Duration>) {
        self.successes = self.successes.saturating_add(u32::from(!failed));
        self.failures = self.failures.saturating_add(u32::from(failed));
        if let Some(took) = took {
            self.timed = self.timed.saturating_add(1);
            self.log2_nanos = self.log2_nanos.saturating_add(u64::from(log2_fixed(nanos(took))));
        }
    }
}

/// In what an endpoint does worse than the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// More of its calls fail.
    Errors,
    /// Its calls take longer.
    Latency,
}

impl Cause {
    /// The cause to trip a breaker with.
    #[must_use]
    pub const fn of_trip(self) -> breaker::Cause {
        match self {
            Self::Errors => breaker::Cause::ErrorOutlier,
            Self::Latency => breaker::Cause::LatencyOutlier,
        }
    }
}

/// An endpoint that should be out.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Verdict {
    /// The endpoint.
    pub id: u32,
    /// Why.
    pub cause: Cause,
    /// What its probes may take at most, if it is slow.
    pub not_slower_than: Option<Duration>,
    /// What was seen of it: the share of its calls that failed, or its typical latency in seconds.
    pub seen: f64,
    /// The same of the others.
    pub others: f64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen, others, .. } = self;
        match self.cause {
            Cause::Errors => {
                write!(f, "{:.1}% of its calls fail, of the others' {:.1}%", seen * 100.0, others * 100.0)
            }
            Cause::Latency => {
                write!(f, "its calls take {:.1}ms, the others' {:.1}ms", seen * 1e3, others * 1e3)
            }
        }
    }
}

/// What is known of one endpoint at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Its calls in the window.
    pub calls: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those whose latency says something.
    pub timed: u64,
    /// The geometric mean of these latencies.
    pub typical: Option<Duration>,
}

/// The endpoints of one upstream compared with each other. See the [module](self).
#[derive(Clone, Debug)]
pub struct Outlier {
    config: Valid<Config>,
    records: BTreeMap<u32, Record>,
}

impl Outlier {
    /// Nothing is known of anybody.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        Self { config, records: BTreeMap::new() }
    }

    /// Takes new numbers; they apply to the old windows unless these have another length.
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        if config.window != self.config.window {
            self.records.clear();
        }
        self.config = config;
    }

    /// Calls to endpoint `id` have ended since the last time. O(1).
    pub fn record(&mut self, now: Instant, id: u32, batch: Batch) {
        if self.config.mode != Mode::Off {
            self.records.entry(id).or_insert_with(|| Record::new(self.config.window)).add(now, &batch);
        }
    }

    /// Endpoint `id` is gone.
    pub fn forget(&mut self, id: u32) {
        self.records.remove(&id);
    }

    /// Who should be out, the worst first. `members` are all endpoints of the upstream, and whether they are out now, for
    /// whatever reason. To be asked about once a second; O(n log n).
    ///
    /// In observe-only mode the verdicts come all the same, to be told and not to be carried out.
    pub fn judge(&mut self, now: Instant, members: &[(u32, bool)]) -> Vec<Verdict> {
        self.judge_by_place(now, members, |_| 0)
    }

    /// The same where endpoints are at several places, of which `place` tells the number: latencies are compared at each place
    /// by itself. Otherwise the region that stands in for one that has failed would be put out for being far away.
    pub fn judge_by_place(
        &mut self,
        now: Instant,
        members: &[(u32, bool)],
        place: impl Fn(u32) -> u32,
    ) -> Vec<Verdict> {
        if self.config.mode == Mode::Off {
            return Vec::new();
        }
        // Their probes are the breaker's to judge; and calls from before that end late would count against the return.
        for (id, _) in members.iter().filter(|(_, out)| *out) {
            self.records.remove(id);
        }
        let peers = Peers::new(self.in_play(now, members, place), self.config.minimum_calls);
        let measures = peers.measures(self.config.minimum_failures);
        let mut found: Vec<(f64, Verdict)> =
            peers.all.iter().filter_map(|peer| self.verdict(peer, &peers, &measures)).collect();
        let worst = |(a, x): &(f64, Verdict), (b, y): &(f64, Verdict)| {
            x.cause.cmp(&y.cause).then(b.total_cmp(a)).then(x.id.cmp(&y.id))
        };
        found.sort_unstable_by(worst);
        found.truncate(self.room(members));
        for (_, verdict) in &found {
            self.records.remove(&verdict.id);
        }
        found.into_iter().map(|(_, verdict)| verdict).collect()
    }

    /// What is known of endpoint `id` at `now`. Reading it changes nothing.
    #[must_use]
    pub fn snapshot(&self, now: Instant, id: u32) -> Snapshot {
        let counts = self.records.get(&id).map(|record| record.counts(now)).unwrap_or_default();
        Snapshot {
            calls: counts.calls(),
            failures: counts.failures,
            timed: counts.timed,
            typical: geometric_mean(counts.log2_nanos, counts.timed),
        }
    }

    /// The numbers in force.
    #[must_use]
    pub const fn config(&self) -> &Valid<Config> {
        &self.config
    }

    // Decisions.

    fn in_play(&self, now: Instant, members: &[(u32, bool)], place: impl Fn(u32) -> u32) -> Vec<Peer> {
        let known = members.iter().filter(|(_, out)| !out).filter_map(|(id, _)| {
            let spans = self.records.get(id)?.spans(now);
            let counts = spans[SPANS.len() - 1];
            let typical = geometric_mean(counts.log2_nanos, counts.timed);
            Some(Peer { id: *id, place: place(*id), typical, spans, counts })
        });
        known.collect()
    }

    fn verdict(&self, peer: &Peer, peers: &Peers, measures: &[Measure]) -> Option<(f64, Verdict)> {
        let spans = peer.spans.iter().zip(measures);
        let by_errors = spans.filter_map(|(counts, measure)| self.by_errors(peer.id, counts, measure)).next();
        by_errors.or_else(|| self.by_latency(peer, peers))
    }

    /// With how far it is worse.
    fn by_errors(&self, id: u32, counts: &Counts, measure: &Measure) -> Option<(f64, Verdict)> {
        let (calls, failures) = (counts.calls(), counts.failures);
        if failures < u64::from(self.config.minimum_failures).max(1) {
            return None;
        }
        let seen = failures as f64 / calls as f64;
        let all = rate(measure.calls - calls, measure.failures - failures);
        let half = measure.half_without(id, counts).map(|half| half.max(FLATTERED));
        let differs = |others: &f64| {
            seen - others >= self.config.error_excess && calls as f64 * divergence(seen, *others) >= CERTAIN
        };
        let others = [all, half].into_iter().flatten().find(differs)?;
        let verdict = Verdict { id, cause: Cause::Errors, not_slower_than: None, seen, others };
        Some((seen - others, verdict))
    }

    /// With how many times slower it is.
    fn by_latency(&self, peer: &Peer, peers: &Peers) -> Option<(f64, Verdict)> {
        let (factor, typical) = (self.config.slow_factor?, peer.typical?);
        if peer.counts.timed < u64::from(self.config.minimum_calls) {
            return None;
        }
        let others = peers.median_without(peer.place, typical)?;
        let bound = others.mul_f64(factor).max(others.saturating_add(self.config.slow_floor));
        let (seen, others) = (typical.as_secs_f64(), others.as_secs_f64());
        let verdict =
            Verdict { id: peer.id, cause: Cause::Latency, not_slower_than: Some(bound), seen, others };
        (typical >= bound).then_some((seen / others.max(1e-9), verdict))
    }

    /// How many more may be out: see [`Config::max_ejected`].
    fn room(&self, members: &[(u32, bool)]) -> usize {
        // A billionth, so that a hundred times 0.29 is 29.
        let share = (members.len() as f64 * self.config.max_ejected + 1e-9) as usize;
        let most = share.max(1).min(members.len().saturating_sub(1));
        most.saturating_sub(members.iter().filter(|(_, out)| *out).count())
    }
}

/// One endpoint that is in.
struct Peer {
    id: u32,
    place: u32,
    /// Over each of the [`SPANS`].
    spans: [Counts; SPANS.len()],
    /// Over the whole window.
    counts: Counts,
    typical: Option<Duration>,
}

/// What failures are measured against, over one span.
#[derive(Default)]
struct Measure {
    /// All calls, and those that failed.
    calls: u64,
    failures: u64,
    /// The better half of the endpoints, sorted, and the same of them.
    half: Vec<u32>,
    half_calls: u64,
    half_failures: u64,
}

impl Measure {
    /// Of the endpoints whose calls are told here by id; each had some.
    fn of(mut all: Vec<(u32, Counts)>) -> Self {
        let mut measure = Self::default();
        for (_, counts) in &all {
            measure.calls += counts.calls();
            measure.failures += counts.failures;
        }
        let half = all.len() / 2;
        if half == 0 {
            return measure;
        }
        let rate = |counts: &Counts| counts.failures as f64 / counts.calls() as f64;
        // Of equals those with more calls, which say more.
        all.select_nth_unstable_by(half - 1, |(a, x), (b, y)| {
            rate(x).total_cmp(&rate(y)).then(y.calls().cmp(&x.calls())).then(a.cmp(b))
        });
        for (id, counts) in all.into_iter().take(half) {
            measure.half.push(id);
            measure.half_calls += counts.calls();
            measure.half_failures += counts.failures;
        }
        measure.half.sort_unstable();
        measure
    }

    /// The failure rate of the better half without `id`; `None` if there is no other.
    fn half_without(&self, id: u32, own: &Counts) -> Option<f64> {
        let is_in = self.half.binary_search(&id).is_ok();
        let own = if is_in { *own } else { Counts::default() };
        rate(self.half_calls - own.calls(), self.half_failures - own.failures)
    }
}

/// The chance of a failure where `failures` of `calls` were; `None` without calls.
fn rate(calls: u64, failures: u64) -> Option<f64> {
    (calls > 0).then(|| (failures + 1) as f64 / (calls + 2) as f64)
}

/// All endpoints that are in.
struct Peers {
    all: Vec<Peer>,
    /// The typical latencies of those with enough calls, by place, sorted.
    typical: BTreeMap<u32, Vec<Duration>>,
}

impl Peers {
    fn new(all: Vec<Peer>, minimum_calls: u32) -> Self {
        let enough = all.iter().filter(|peer| peer.counts.timed >= u64::from(minimum_calls));
        let mut typical: BTreeMap<u32, Vec<Duration>> = BTreeMap::new();
        for (place, latency) in enough.filter_map(|peer| Some((peer.place, peer.typical?))) {
            typical.entry(place).or_default().push(latency);
        }
        typical.values_mut().for_each(|latencies| latencies.sort_unstable());
        Self { typical, all }
    }

    /// What to measure failures against, by span; nothing where nobody has as many as would matter.
    fn measures(&self, minimum_failures: u32) -> Vec<Measure> {
        let bad = |counts: &Counts| counts.failures >= u64::from(minimum_failures).max(1);
        let measure = |span: usize| {
            let called = self.all.iter().map(|peer| (peer.id, peer.spans[span]));
            let called: Vec<_> = called.filter(|(_, counts)| counts.calls() > 0).collect();
            if called.iter().any(|(_, counts)| bad(counts)) {
                Measure::of(called)
            } else {
                Measure::default()
            }
        };
        (0..SPANS.len()).map(measure).collect()
    }

    /// The median of the others at its place of one that has `own` and is among them; `None` if there is no other.
    fn median_without(&self, place: u32, own: Duration) -> Option<Duration> {
        let typical = self.typical.get(&place)?;
        let before = typical.partition_point(|other| *other < own);
        let others = typical.len().checked_sub(1)?;
        let nth = |n: usize| typical.get(if n < before { n } else { n + 1 }).copied();
        let (low, high) = (nth(others.checked_sub(1)? / 2)?, nth(others / 2)?);
        Some(low + (high - low) / 2)
    }
}

/// `KL(a || b)` of two chances, in nats; `b` is neither 0 nor 1.
fn divergence(a: f64, b: f64) -> f64 {
    let part = |a: f64, b: f64| if a > 0.0 { a * ln(a / b) } else { 0.0 };
    part(a, b) + part(1.0 - a, 1.0 - b)
}

/// The window of one endpoint.
#[derive(Clone, Debug)]
struct Record {
    clock: Slices,
    slices: Box<[Counts; SLICES]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    successes: u64,
    failures: u64,
    timed: u64,
    log2_nanos: u64,
}

impl Counts {
    const fn calls(&self) -> u64 {
        self.successes + self.failures
    }

    fn add(&mut self, other: &Self) {
        self.successes += other.successes;
        self.failures += other.failures;
        self.timed += other.timed;
        self.log2_nanos = self.log2_nanos.saturating_add(other.log2_nanos);
    }
}

impl From<&Batch> for Counts {
    fn from(batch: &Batch) -> Self {
        Self {
            successes: u64::from(batch.successes),
            failures: u64::from(batch.failures),
            timed: u64::from(batch.timed),
            log2_nanos: batch.log2_nanos,
        }
    }
}

impl Record {
    fn new(window: Duration) -> Self {
        Self { clock: Slices::new(window, SLICES), slices: Box::default() }
    }

    fn add(&mut self, now: Instant, batch: &Batch) {
        let Self { clock, slices } = self;
        let place = clock.roll(now, |place| slices[place] = Counts::default());
        slices[place].add(&Counts::from(batch));
    }

    fn counts(&self, now: Instant) -> Counts {
        self.spans(now)[SPANS.len() - 1]
    }

    /// Over each of the [`SPANS`], which end now.
    fn spans(&self, now: Instant) -> [Counts; SPANS.len()] {
        let mut spans = [Counts::default(); SPANS.len()];
        for (age, place) in self.clock.latest(now) {
            for (span, counts) in SPANS.iter().zip(&mut spans) {
                if age < *span {
                    counts.add(&self.slices[place]);
                }
            }
        }
        spans
    }
}

/// Ten forget in steps of a tenth, fine enough for what is judged once a second, at 32 bytes each.
const SLICES: usize = 10;
/// How many of the latest slices failures are counted over: each span doubles, up to the whole window.
const SPANS: [usize; 4] = [1, 2, 5, SLICES];
/// What a better half is taken to fail of its calls at least. A half: an endpoint that fails much more than that while half of the others
/// do not is ill, whatever was picked by chance.
const FLATTERED: f64 = 0.5;
/// ln 10,000,000: a million for what is found by chance, and ten for looking at several spans. Of ten endpoints judged over ten
/// seconds each, one is found by chance in eleven days at most, if each stands exactly at the bound; the excess that is asked for
/// besides, and the bound itself, make it far rarer.
const CERTAIN: f64 = 16.118_095_650_958_32;

#[cfg(test)]
mod tests;
