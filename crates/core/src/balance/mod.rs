//! Balance: where an attempt goes.
//!
//! # What it is for
//! One upstream, many endpoints: near and far, strong and weak, warm and cold, well and ill. The next attempt goes to one
//! that answers soon, and no endpoint gets more than it can carry because others are gone.
//!
//! # When not to use it
//! For one endpoint there is nothing to choose. And no choice mends an upstream that is too small for its load.
//!
//! # How
//! A [`Table`] is what is known about the endpoints, weighed up: built by one keeper whenever something changes, never
//! changed, shared. A [`Picker`] is one worker's: it draws from the table with its own generator. Picking allocates
//! nothing, and 10,000 endpoints cost it no more than ten.
//!
//! **First the tier**, by lot: same zone, same region, elsewhere. A tier carries `min(1, overprovision * ready / total)` of
//! the traffic, by weight, as far as nearer tiers leave something; if all together can't carry everything, everything is
//! divided in proportion (Envoy, "Priority levels"). So a half-dead zone is not overrun, and traffic returns as it heals.
//!
//! **Then the endpoint** within the tier, by the [`Algorithm`]. Weights take part in the lot; what is compared is cost.
//!
//! **Panic.** If the tiers can't carry everything and less than `panic_threshold` of all weight is healthy, the checks are
//! more likely to be wrong than nearly everything to be down: what they say is ignored. What the breakers say is not, since
//! they judge by calls.
//!
//! **Slow start.** Who has joined or returned gets a tenth of its weight, growing to all of it over `slow_start` (linear
//! with a minimum of 10%, as in Envoy). It is relative to the endpoint that has been there longest: when all are new,
//! none is held back.
//!
//! **Probes.** An endpoint that is out and whose breaker waits for a probe is asked first by a call that survives its
//! failure, and by others only if there is nobody else.
//!
//! **Evacuation.** A region that is being drained keeps the share [`Member::kept`] of the traffic that it would have: in
//! that share of the draws it is there, in the others it does not exist.
//!
//! ```
//! use seaworthy_core::balance::{Ask, Config, Member, Picker, Table, View};
//! use seaworthy_core::{Instant, Valid};
//!
//! struct Idle;
//! impl View for Idle {
//!     fn cost(&self, _: u32) -> f64 { 0.0 }
//!     fn in_flight(&self, _: u32) -> u32 { 0 }
//!     fn total_in_flight(&self) -> u32 { 0 }
//!     fn allowed(&self, id: u32) -> bool { id != 1 }
//! }
//!
//! let members = [1, 2].map(|id| Member { id, ..Member::default() });
//! let table = Table::build(Valid::new(Config::default()).unwrap(), Instant::ZERO, &members);
//! assert_eq!(Picker::new(42).pick(&table, Ask::default(), &Idle), Some(2));
//! ```

mod alias;
mod config;
mod picker;
mod ring;
mod table;
mod turns;

pub use config::{Algorithm, Config};
pub use picker::Picker;
pub use table::{Share, Table};

use crate::Instant;

/// How many tiers there are.
pub const TIERS: usize = 3;

/// One endpoint, as its keeper knows it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Member {
    /// What [`Picker::pick`] answers; unique within the table.
    pub id: u32,
    /// How far away: 0 in the same zone, 1 in the same region, 2 and above elsewhere.
    pub tier: u8,
    /// Its region's number, of the keeper's choice.
    pub region: u16,
    /// How much of the traffic it should get, in proportion to the others'. With 0 it gets none.
    pub weight: u32,
    /// The checks don't say that it is down.
    pub up: bool,
    /// Its breaker is open or half-open.
    pub out: bool,
    /// It is out, and its breaker would admit a probe.
    pub probe: bool,
    /// Since when it has been there, or back.
    pub since: Instant,
    /// A further factor to its weight, 0 to 1, such as its breaker's ramp.
    pub share: f64,
    /// The share of its traffic that its region keeps, 0 to 1: below 1 while it is evacuated. Read to the hundredth.
    pub kept: f64,
    /// A hash of its address: where it stands on the ring, whoever else there is.
    pub hash: u64,
}

impl Default for Member {
    /// A sound, near one that has been there for ever.
    fn default() -> Self {
        Self {
            id: 0,
            tier: 0,
            region: 0,
            weight: 1,
            up: true,
            out: false,
            probe: false,
            since: Instant::ZERO,
            share: 1.0,
            kept: 1.0,
            hash: 0,
        }
    }
}

/// What a call asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ask {
    /// A hash of what calls with the same endpoint have in common; only consistent hashing asks.
    pub key: Option<u64>,
    /// The call may be repeated, so that it survives a probe that fails.
    pub may_probe: bool,
}

/// What a worker sees of the endpoints at the moment of the call.
pub trait View {
    /// What one more call to it would cost, in any unit: latency times the calls in flight and this one.
    fn cost(&self, id: u32) -> f64;
    /// Its calls in flight.
    fn in_flight(&self, id: u32) -> u32;
    /// The calls in flight to all endpoints of the table together.
    fn total_in_flight(&self) -> u32;
    /// Whether this call may go there: not if it was tried or refused in this call.
    fn allowed(&self, id: u32) -> bool;
    /// Whether one more call may go to this region. Asked before [`allowed`](Self::allowed), for whole groups of endpoints.
    fn has_room(&self, region: u16) -> bool {
        let _ = region;
        true
    }
}

#[cfg(test)]
mod tests;
