//! What the proxy's keeper does, in virtual time: ten times a second it looks at how the instances are, compares them with
//! each other, and spreads calls anew if something has changed.

use std::time::Duration;

use seaworthy_core::balance::{Config, Member, Picker, Table};
use seaworthy_core::gate::breaker::State;
use seaworthy_core::gate::outlier::{Batch, Outlier};
use seaworthy_core::{Instant, Mode, Rng as _, Seeded, Valid};

use crate::fleet::Endpoint;
use crate::scenario::Policies;

/// Looks after the instances of one client.
pub(crate) struct Keeper {
    balance: Valid<Config>,
    outlier: Outlier,
    picker: Picker,
    table: Table,
    /// What the table was built of.
    members: Vec<Member>,
    /// By instance: since when its breaker waits for a probe.
    waits_since: Vec<Option<Instant>>,
    /// An instance waits for a probe for so long that any call must do.
    impatient: bool,
}

/// What is needed to choose an instance.
pub(crate) struct Chooser<'a> {
    pub(crate) table: &'a Table,
    pub(crate) picker: &'a mut Picker,
    pub(crate) impatient: bool,
}

impl Keeper {
    pub(crate) fn new(policies: &Policies, seed: u64, endpoints: &[Endpoint]) -> Self {
        let mut waits_since = vec![None; endpoints.len()];
        let members = members(Instant::ZERO, endpoints, &mut waits_since);
        Self {
            balance: policies.balance,
            outlier: Outlier::new(policies.outlier),
            picker: Picker::new(seed),
            table: Table::build(policies.balance, Instant::ZERO, &members),
            members,
            waits_since,
            impatient: false,
        }
    }

    pub(crate) fn chooser(&mut self) -> Chooser<'_> {
        Chooser { table: &self.table, picker: &mut self.picker, impatient: self.impatient }
    }

    pub(crate) fn look(&mut self, now: Instant, endpoints: &mut [Endpoint]) {
        self.judge(now, endpoints);
        let members = members(now, endpoints, &mut self.waits_since);
        self.impatient = self.waits_since.iter().flatten().any(|since| now.since(*since) >= PROBE_WAITS);
        if members != self.members || now >= self.table.settles_at() {
            self.table = Table::build(self.balance, now, &members);
            self.members = members;
        }
    }

    /// Puts out whoever does worse than the others, until it proves that it no longer does.
    fn judge(&mut self, now: Instant, endpoints: &mut [Endpoint]) {
        for (id, endpoint) in (0..).zip(&mut *endpoints) {
            let batch = std::mem::take(&mut endpoint.batch);
            if batch != Batch::default() {
                self.outlier.record(now, id, batch);
            }
        }
        let is_out = |endpoint: &Endpoint| !endpoint.breaker.is_open_to_all();
        let known: Vec<_> = (0..).zip(&*endpoints).map(|(id, endpoint)| (id, is_out(endpoint))).collect();
        let place = |id: u32| u32::from(endpoints[id as usize].region);
        for verdict in self.outlier.judge_by_place(now, &known, place) {
            if self.outlier.config().mode == Mode::Enforce {
                let breaker = &mut endpoints[verdict.id as usize].breaker;
                // Whoever keeps the instances notices what it has become.
                let _ = breaker.trip(now, verdict.cause.of_trip(), verdict.not_slower_than);
            }
        }
    }
}

/// When a client's keeper looks first: not all at the same moment.
pub(crate) fn first_look(seed: u64) -> Instant {
    Instant::ZERO.plus(Seeded::new(seed).between(Duration::ZERO, LOOK_EVERY))
}

fn members(now: Instant, endpoints: &[Endpoint], waits_since: &mut [Option<Instant>]) -> Vec<Member> {
    let numbered = (0..).zip(endpoints).zip(waits_since);
    numbered.map(|((id, endpoint), since)| member(now, id, endpoint, since)).collect()
}

fn member(now: Instant, id: u32, endpoint: &Endpoint, waits_since: &mut Option<Instant>) -> Member {
    let (mut admitted, mut waits) = (1.0, false);
    // One that only observes keeps nobody out, whatever it has become.
    if endpoint.breaker.config().mode == Mode::Enforce && !endpoint.breaker.is_open_to_all() {
        let seen = endpoint.breaker.snapshot(now);
        admitted = seen.share;
        waits = match seen.state {
            State::Open => seen.wait.is_none_or(|wait| wait.is_zero()),
            state => state == State::HalfOpen,
        };
    }
    *waits_since = waits.then(|| waits_since.unwrap_or(now));
    Member {
        id,
        tier: endpoint.tier,
        region: endpoint.region,
        weight: endpoint.weight,
        out: admitted == 0.0,
        probe: waits,
        share: admitted,
        hash: endpoint.hash,
        ..Member::default()
    }
}

/// How often: as the proxy's keeper does.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an instance waits for a call that survives its failure: as in the proxy.
const PROBE_WAITS: Duration = Duration::from_secs(1);
