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
//! explains it less than once in a million: by Chernoff's bound the probability of `k` or more failures is at most
//! `exp(-n * KL(k/n || p))` with `KL(a || b) = a ln(a/b) + (1-a) ln((1-a)/(1-b))`. So few calls need a great difference, and
//! many a small one; a fixed minimum of calls would be too late for the one and too early for the other.
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
        let mut found: Vec<(f64, Verdict)> =
            peers.all.iter().filter_map(|peer| self.verdict(peer, &peers)).collect();
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
            let counts = self.records.get(id)?.counts(now);
            Some(Peer {
                id: *id,
                place: place(*id),
                typical: geometric_mean(counts.log2_nanos, counts.timed),
                counts,
            })
        });
        known.collect()
    }

    fn verdict(&self, peer: &Peer, peers: &Peers) -> Option<(f64, Verdict)> {
        self.by_errors(peer, peers).or_else(|| self.by_latency(peer, peers))
    }

    /// With how far it is worse.
    fn by_errors(&self, peer: &Peer, peers: &Peers) -> Option<(f64, Verdict)> {
        let (calls, failures) = (peer.counts.calls(), peer.counts.failures);
        let (of_others, others_failed) = (peers.calls - calls, peers.failures - failures);
        if failures < u64::from(self.config.minimum_failures).max(1) || of_others == 0 {
            return None;
        }
        let seen = failures as f64 / calls as f64;
        let others = (others_failed + 1) as f64 / (of_others + 2) as f64;
        let certain = seen > others && calls as f64 * divergence(seen, others) >= CERTAIN;
        let verdict = Verdict { id: peer.id, cause: Cause::Errors, not_slower_than: None, seen, others };
        (certain && seen - others >= self.config.error_excess).then_some((seen - others, verdict))
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
    counts: Counts,
    typical: Option<Duration>,
}

/// All endpoints that are in.
struct Peers {
    all: Vec<Peer>,
    calls: u64,
    failures: u64,
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
        Self {
            calls: all.iter().map(|peer| peer.counts.calls()).sum(),
            failures: all.iter().map(|peer| peer.counts.failures).sum(),
            typical,
            all,
        }
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
        let mut counts = Counts::default();
        self.clock.live(now).for_each(|place| counts.add(&self.slices[place]));
        counts
    }
}

/// Ten forget in steps of a tenth, fine enough for what is judged once a second, at 32 bytes each.
const SLICES: usize = 10;
/// ln 1,000,000. Of ten endpoints judged over ten seconds each, one is found by chance in eleven days at most, if each
/// stands exactly at the bound; the excess that is asked for besides, and the bound itself, make it far rarer.
const CERTAIN: f64 = 13.815_510_557_964_274;

#[cfg(test)]
mod tests;
