//! Seaworthy's policies in virtual time.

mod agenda;
mod parse;
mod report;
mod run;
mod scenario;
mod service;
mod spread;
pub mod tables;

pub use report::{Report, Row};
pub use run::run;
pub use scenario::{Clients, Load, Policies, Scenario};
pub use service::{Change, Service};
pub use spread::Spread;
