//! Idempotency keys: an operation that is asked for again under its key is not carried out again.
//!
//! A store keeps one [`Standing`] for each key, and can do no more than compare and swap it. What follows from one is decided
//! here, for every store:
//!
//! ```text
//!          reserve (token 1)            done
//! (none) ------------------> Running ----------> Done   is replayed until its retention is over
//!                              |   |
//!          nothing happened    |   |   nobody knows what happened, or the lease ran out
//!   Free <---------------------+   +-----------> Unknown
//!    |  reserve (token + 1)                        |  take over (token + 1), or refuse: by choice
//!    +-------> Running                             +-------> Running
//! ```
//!
//! The token is what fences: it grows with every reservation of a key, who was overtaken can no longer settle, and an
//! upstream that is told of it can refuse what is older than it has seen.
//!
//! Reference: IETF draft-ietf-httpapi-idempotency-key-header-07 (October 2025, expired).

mod key;
mod standing;
mod watch;

pub use key::{BadKey, Key, MOST_KEY_BYTES};
pub use standing::{Decision, Fingerprint, OnUnknown, Phase, Standing, Token, decide};
pub use watch::Watch;
