//! Idempotency keys: what is asked for again under its key is answered with the first result, and not carried out again.

mod asking;
mod config;
mod counts;
mod errands;
mod fingerprint;
pub mod http;
mod keys;
mod lost;
mod replay;
mod run;
mod running;
pub mod store;
mod waiting;

pub use config::{Busy, Config, WhenDown};
pub use counts::COUNTED;
pub use fingerprint::fingerprint;
pub use keys::{Begun, Keys, Refusal};
pub use replay::{Pieces, Replay};
pub use run::{Ran, Recorded, RunError};
pub use running::{Running, Unsettled};
pub use seaworthy_core::idempotency::{BadKey, Fingerprint, Key, OnUnknown, Phase, Standing, Token};
pub use store::{Answer, Id, Store, StoreError};
