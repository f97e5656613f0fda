//! Resilience for the calls that a program makes: adaptive timeouts, breakers, retries and hedges with budgets, limits with
//! queues, rates, throttles and bulkheads, as [Tower layers](layer) or a [plain call](Pipeline::call).
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! use seaworthy::Pipeline;
//!
//! // One pipeline for each service that is called; every default policy is on.
//! let prices = Pipeline::new("prices");
//!
//! let price = prices.call(|_attempt| async { Ok::<_, std::io::Error>(42) }).await;
//! match price {
//!     Ok(price) => println!("it costs {price}"),
//!     Err(error) => println!("no price: {error}, because {}", error.why()),
//! }
//! # });
//! ```
//!
//! What is decided, and why, is written down in `seaworthy_core`, whose modules are re-exported here as [`core`].

pub mod bulkhead;
pub mod caller;
pub mod classify;
pub mod clock;
#[cfg(doctest)]
mod docs;
mod drive;
mod entering;
mod error;
mod event;
#[cfg(feature = "flags-store")]
pub mod flags;
#[cfg(feature = "health")]
pub mod health;
#[cfg(feature = "idempotency")]
pub mod idempotency;
pub mod keyed;
pub mod layer;
mod panic;
mod pipeline;
mod recorder;
pub mod shared;
mod sync;

pub use caller::Caller;
pub use drive::{Attempt, Attempts, Drive};
pub use error::Error;
pub use event::{Event, Happening};
pub use pipeline::{Config, Pipeline, Snapshot};
pub use seaworthy_core as core;
pub use seaworthy_core::call::Repeat;
pub use seaworthy_core::{
    Criticality, Failure, Instant, Mode, Outcome, Policy, Pushback, Reason, Rejection, Why,
};
