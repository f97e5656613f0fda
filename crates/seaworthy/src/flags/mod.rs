//! Feature flags that fall back safely while the flag service is away.
//!
//! # What it is for
//! A program that asks a flag service what to do must still do something when nobody answers. What it should do then is known
//! beforehand, and in this order:
//!
//! 1. the live value, while the service answers in time;
//! 2. the last-known-good value: what the service last said about this flag *for this evaluation context*, kept on disk so that a
//!    restart in the middle of an outage changes nothing;
//! 3. the declared default, which is written into the program and is the conservative choice;
//! 4. an honest error, and the caller uses its own default.
//!
//! Every answer says which it was. The pieces, from the inside:
//!
//! * [`Keeper`]: the last-known-good values, in memory and in a file. It knows nothing of HTTP and needs no runtime.
//! * [`ofrep`]: the OpenFeature Remote Evaluation Protocol, as text in and values out.
//! * `Flags` (feature `flags`): asks a `Source`, falls back, and is an OpenFeature provider. `OfrepClient` is a source over HTTP.
//!
//! # When not to use it
//! For entitlements and permissions. A flag that must be *off* the moment somebody switches it off can't be answered from memory.

mod answer;
mod context;
mod file;
mod keep;
#[cfg(feature = "flags")]
mod live;
pub mod ofrep;
#[cfg(feature = "flags")]
mod ofrep_client;
#[cfg(feature = "flags")]
mod provider;
#[cfg(feature = "flags")]
mod source;

pub use answer::{Answer, Trouble};
pub use context::Fingerprint;
pub use keep::{Config as KeeperConfig, Good, Keeper, NotWritten, Notice, Snapshot};
#[cfg(feature = "flags")]
pub use live::{Builder, Evaluation, Flags, Origin, State};
#[cfg(feature = "flags")]
pub use ofrep_client::{BadUrl, OfrepClient};
#[cfg(feature = "flags")]
pub use source::{All, Source};
