//! Every decision of Seaworthy, and nothing else.
//!
//! This crate is `no_std`: it can ask no clock, open no socket and roll no die of its own. Time arrives as an
//! argument ([`Instant`]), randomness as a seed ([`Seeded`]), and what was decided goes back as a value. The
//! library, the proxy and the simulator drive the same code, which is why what the simulator shows is what the
//! proxy does.
//!
//! A few shapes cover everything:
//!
//! * a **gate** answers *may this start?* for what many calls share: [`gate::breaker`], [`gate::limit`],
//!   [`gate::bulkhead`], [`gate::queue`], [`gate::rate`], [`gate::throttle`];
//! * a **call** answers *what next?* for one call through timeout, retry, hedge, fallback and deadline:
//!   [`call::Call`];
//! * an **opinion** is formed of endpoints: by checks ([`gate::health`]), by comparison ([`gate::outlier`]), by an operator
//!   ([`evacuate`]);
//! * **idempotency** answers *was this done before?*, of a key: [`idempotency`];
//! * **balance** answers *where to?*, from these opinions: [`balance::Picker`].
#![no_std]

extern crate alloc;

pub mod balance;
pub mod call;
mod criticality;
pub mod evacuate;
pub mod gate;
pub mod idempotency;
mod outcome;
pub mod record;
mod rejection;
mod rng;
pub mod stats;
mod time;
mod valid;
mod why;

pub use criticality::{Criticality, UnknownCriticality};
pub use outcome::{Failure, Outcome, Pushback};
pub use rejection::{Policy, Reason, Rejection};
pub use rng::{Rng, Seeded};
pub use time::{Instant, nanos};
pub use valid::{Fault, Mode, Rules, Valid};
pub use why::{Note, What, Why};
