//! Seaworthy's configuration: TOML text in, validated policies out, or everything that is wrong with it at once.
//!
//! This crate does no I/O. It is given a text and what the text is called ([`Config::from_toml`]), or the arguments of a command
//! ([`Config::from_command_line`]), and answers with a [`Config`] that can't be wrong, or with [`Mistakes`], each with its place,
//! the line, a caret and the remedy.
//!
//! Each setting is defined once (`settings.rs`). How it is read, its default, its line in [`Config::effective`], the JSON
//! [`schema`] and the [`reference`](reference()) follow from that definition.
//!
//! ```
//! use seaworthy_config::Config;
//!
//! let mistakes = Config::from_toml("seaworthy.toml", r#"
//! [upstream.shop]
//! endpoints = "http://127.0.0.1:3000"
//! timout.fixed = "2s"
//! "#).unwrap_err();
//! assert_eq!(mistakes.errors[0].message, "the key \"timout\" is not known in upstream.shop");
//! assert_eq!(mistakes.errors[0].remedy, "did you mean \"timeout\"?");
//! assert_eq!(mistakes.errors[0].place.line, 4);
//! ```

mod address;
mod checks;
mod config;
mod degrade;
mod diagnostic;
mod effective;
mod health;
mod idempotency;
mod nearest;
mod overload;
mod process;
mod reader;
mod reference;
mod resolve;
mod schema;
mod secrets;
mod settings;
mod shape;
mod sources;
mod table;
mod text;
pub mod units;
mod value;

pub use address::{Endpoint, Host, Prefix};
pub use config::{Config, Route, Upstream};
pub use degrade::{Degrade, Flags, Stale, Substitute};
pub use diagnostic::{Diagnostic, Mistakes, Severity};
pub use effective::{Effective, Origin, Setting};
pub use health::{Check, CheckKind, Pattern, StatusRange};
pub use idempotency::{
    Busy, Keep, KeyStore, KeyStoreKind, PostgresUrl, RouteIdempotency, WhenCorrupt, WhenStoreDown,
};
pub use overload::{ClientRule, Gate, RateBy, RateLimit, RateStore, Redis, RedisUrl, WhenDown};
pub use process::{Process, Ready, Restart};
pub use reference::reference;
pub use schema::schema;
pub use settings::{Fallback, Format, Level, Limits, Log, Protocol, Repeatable};
pub use sources::{Discovery, HashOn, Labels, Source, Where};
pub use text::Place;
pub use value::Value;
