//! Idempotency keys: what is asked for again under its key is answered with the first result, and not carried out again.

mod errands;
pub mod http;
mod keys;
mod run;
pub mod store;
mod waiting;

pub use keys::{Begun, Busy, COUNTED, Config, Keys, Pieces, Refusal, Replay, Running, Unsettled, WhenDown};
pub use run::{Ran, Recorded, RunError};
pub use seaworthy_core::idempotency::{BadKey, Fingerprint, Key, OnUnknown, Phase, Standing, Token};
pub use store::{Answer, Id, Store, StoreError};
