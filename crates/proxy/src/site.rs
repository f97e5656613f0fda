//! What all workers share: the configuration, and the policies of every upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use seaworthy::shared::{Breaker, Bulkhead, Commons, Limit};
use seaworthy_config::Config;
use seaworthy_core::call::Plan;

use crate::journal::Journal;
use crate::tally::Tally;

/// What all workers share.
pub(crate) struct Site {
    /// The configuration.
    pub config: Config,
    /// By upstream.
    pub services: Vec<Service>,
    /// By route.
    pub plans: Vec<Plan>,
    /// Whether new calls are welcome.
    pub ready: AtomicBool,
    /// Client connections there are.
    pub connections: AtomicU32,
    /// Client connections that were turned away, as there were too many.
    pub turned_away: AtomicU64,
    /// What each worker counts.
    pub tallies: Vec<Arc<Tally>>,
    /// The log.
    pub journal: Journal,
}

/// The policies of one upstream.
pub(crate) struct Service {
    /// How many calls it takes.
    pub limit: Limit,
    /// How many attempts run.
    pub bulkhead: Bulkhead,
    /// By endpoint.
    pub breakers: Vec<Breaker>,
    /// What its calls learn.
    pub commons: Commons,
}

impl Site {
    pub(crate) fn new(config: Config, workers: usize, journal: Journal, seed: u64) -> Self {
        let services = config.upstreams.iter().map(|upstream| Service {
            limit: Limit::new(upstream.limit),
            bulkhead: Bulkhead::new(upstream.bulkhead),
            breakers: (0..upstream.endpoints.len() as u64)
                .map(|n| Breaker::new(upstream.breaker, seed ^ n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
                .collect(),
            commons: Commons::new(upstream.call),
        });
        Self {
            services: services.collect(),
            plans: config.routes.iter().map(|route| Plan::new(&route.call)).collect(),
            ready: AtomicBool::new(true),
            connections: AtomicU32::new(0),
            turned_away: AtomicU64::new(0),
            tallies: (0..workers).map(|_| Arc::new(Tally::new(&config))).collect(),
            journal,
            config,
        }
    }
}
