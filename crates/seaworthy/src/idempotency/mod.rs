//! Idempotency keys: what is asked for again under its key is answered with the first result, and not carried out again.

pub mod store;

pub use seaworthy_core::idempotency::{BadKey, Fingerprint, Key, OnUnknown, Phase, Standing, Token};
pub use store::{Answer, Id, Store, StoreError};
