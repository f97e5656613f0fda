//! Seaworthy's policies in virtual time.
//!
//! A [`Scenario`] says who calls whom and what goes wrong; [`run`] plays it and yields a [`Report`]. The driver here does what
//! the library's does: it performs what the core's machines say and tells them what happens. It knows no threads, no clock and
//! no network, and all chance follows from the scenario's seed. How scenarios are written, what a report means, and what
//! published results it arrives at, stands in `docs/simulate.md`.

mod agenda;
mod door;
mod fleet;
mod keeper;
mod mix;
mod parse;
mod report;
mod run;
mod scenario;
mod service;
mod spread;
pub mod tables;

pub use mix::Mix;
pub use report::{EndpointRow, GroupRow, LevelRow, Outing, Report, Row};
pub use run::run;
pub use scenario::{Clients, Load, Policies, Scenario};
pub use service::{Aim, Change, Group, Guard, Service};
pub use spread::Spread;
