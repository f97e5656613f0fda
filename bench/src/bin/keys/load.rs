//! The load: POSTs with a key each that was never used before; and what it found.

use std::path::Path;
use std::process::Command;

use seaworthy_bench::setup::write;
use seaworthy_bench::wrk::{self, Load};

/// Keep-alive connections of the load.
pub(crate) const CONNECTIONS: u32 = 256;

/// The length of a request's body.
pub(crate) const BODY_BYTES: usize = 64;

/// Writes what wrk asks for; returns where.
///
/// # Errors
/// It can't be written.
pub(crate) fn script(folder: &Path) -> Result<String, String> {
    let body = "b".repeat(BODY_BYTES);
    let text = format!(
        "function init(words)\n  run, n = words[1], 0\nend\n\
         local head = 'POST /pay HTTP/1.1\\r\\nHost: shop\\r\\nContent-Type: text/plain\\r\\nX-Api-Key: bench\\r\\nContent-Length: {BODY_BYTES}\\r\\nIdempotency-Key: \"'\n\
         local rest = '\"\\r\\n\\r\\n{body}'\n\
         function request()\n  n = n + 1\n  return head .. run .. '-' .. n .. rest\nend\n"
    );
    write(&folder.join("keys.lua"), &text)
}

/// Loads `url` for so many seconds, with keys that begin with `run`.
///
/// # Errors
/// wrk failed, or a request did: a figure of requests that failed says nothing.
pub(crate) fn run(url: &str, seconds: u32, script: &str, run: &str) -> Result<Load, String> {
    let (connections, duration) = (format!("-c{CONNECTIONS}"), format!("-d{seconds}s"));
    let mut command = Command::new("wrk");
    command.args(["-t1", &connections, &duration, "--latency", "-s", script, url, "--", run]);
    wrk::run(&mut command, url)
}
