//! The load, and what it found.

use std::process::Command;

use seaworthy_bench::wrk::{self, Load};

use crate::contestant::Place;

/// Keep-alive connections of the load.
pub(crate) const CONNECTIONS: u32 = 64;

/// Loads `url` for so many seconds.
///
/// # Errors
/// wrk failed, or a request did: a figure of requests that failed says nothing.
pub(crate) fn run(url: &str, seconds: u32, place: &Place) -> Result<Load, String> {
    let (connections, duration) = (format!("-c{CONNECTIONS}"), format!("-d{seconds}s"));
    let mut command = Command::new("taskset");
    command.args([
        "-c",
        &place.load_core.to_string(),
        "wrk",
        "-t1",
        &connections,
        &duration,
        "--latency",
        url,
    ]);
    wrk::run(&mut command, url)
}
