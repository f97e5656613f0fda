//! What is simulated.

use std::time::Duration;

use seaworthy_core::call::{self, Repeat};
use seaworthy_core::gate::{breaker, bulkhead, limit, outlier, queue, throttle};
use seaworthy_core::{Instant, Mode, Rules, Valid, balance};

use crate::mix::Mix;
use crate::service::Service;
use crate::spread::Spread;

/// Clients, a service, and the policies between them.
#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    /// What it is called, usually the file it was read from.
    pub name: String,
    /// Where all chance comes from: the same seed, the same run.
    pub seed: u64,
    /// How long calls are made. Those that are under way then are followed to their end.
    pub duration: Duration,
    /// Whether [`Report::recording`](crate::Report::recording) is kept.
    pub record: bool,
    /// Who calls.
    pub clients: Clients,
    /// Who is called.
    pub service: Service,
    /// What stands between them. Every client has its own.
    pub policies: Policies,
}

/// The clients.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Clients {
    /// How many there are.
    pub count: u32,
    /// When each of them calls.
    pub load: Load,
    /// Whether their requests may be repeated.
    pub repeat: Repeat,
    /// How many different keys their calls have, where the same key is to go to the same instance.
    pub keys: u32,
    /// How much their calls matter.
    pub mix: Mix,
}

impl Default for Clients {
    /// One that calls once a second.
    fn default() -> Self {
        Self { count: 1, load: Load::Poisson(1.0), repeat: Repeat::Safe, keys: 1, mix: Mix::default() }
    }
}

/// When a client calls.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Load {
    /// So many times a second at random moments (a Poisson process), whatever becomes of the calls.
    Poisson(f64),
    /// So many times a second at even distances, from a random moment on, whatever becomes of the calls.
    Even(f64),
    /// This long after its last call ended.
    Closed(Spread),
}

/// The policies of one client, in the order in which a call meets them: limit with its queue, bulkhead, the call's own, and around
/// each attempt the throttle, the choice of an instance, its region's limit and its breaker.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Policies {
    /// Deadline, timeout, retries, their budget, hedges, fallback.
    pub call: Valid<call::Config>,
    /// The breaker around each attempt; every instance has its own.
    pub breaker: Valid<breaker::Config>,
    /// When an instance is put out because it differs from the others.
    pub outlier: Valid<outlier::Config>,
    /// Which instance gets an attempt.
    pub balance: Valid<balance::Config>,
    /// The most attempts in flight in one region, if there is a limit.
    pub per_region: Option<Valid<limit::Config>>,
    /// The most calls in flight.
    pub limit: Valid<limit::Config>,
    /// Which calls wait while there are as many.
    pub queue: Valid<queue::Config>,
    /// What is not sent because the service would refuse it.
    pub throttle: Valid<throttle::Config>,
    /// Places for calls, and a queue before them.
    pub bulkhead: Valid<bulkhead::Config>,
}

impl Policies {
    /// The policies of a call alone: no gate refuses anything.
    #[must_use]
    pub fn without_gates(call: Valid<call::Config>) -> Self {
        Self {
            call,
            breaker: off(breaker::Config { mode: Mode::Off, ..breaker::Config::default() }),
            outlier: off(outlier::Config { mode: Mode::Off, ..outlier::Config::default() }),
            balance: Valid::default(),
            per_region: None,
            limit: off(limit::Config { mode: Mode::Off, ..limit::Config::default() }),
            queue: off(queue::Config { mode: Mode::Off, ..queue::Config::default() }),
            throttle: off(throttle::Config { mode: Mode::Off, ..throttle::Config::default() }),
            bulkhead: off(bulkhead::Config { mode: Mode::Off, ..bulkhead::Config::default() }),
        }
    }
}

fn off<C: Rules>(config: C) -> Valid<C> {
    match Valid::new(config) {
        Ok(valid) => valid,
        Err(faults) => unreachable!("defaults that are switched off: {faults:?}"),
    }
}

impl Scenario {
    /// The moments at which something changes, each once: where the [`Report`](crate::Report)'s phases begin. The first
    /// is zero.
    #[must_use]
    pub fn phases(&self) -> Vec<Duration> {
        let changes = self.service.changes.iter();
        let ends = changes.clone().filter_map(|change| change.end());
        let mut starts: Vec<Duration> = changes.map(|change| change.at).chain(ends).collect();
        starts.push(Duration::ZERO);
        starts.retain(|start| start.is_zero() || *start < self.duration);
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    pub(crate) fn end(&self) -> Instant {
        Instant::ZERO.plus(self.duration)
    }
}
