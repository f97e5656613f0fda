//! Outlier: the endpoint that does worse than its peers.

mod config;

pub use config::Config;
