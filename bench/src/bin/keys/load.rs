//! The load: POSTs with a key each that was never used before; and what it found.

use std::path::Path;
use std::process::Command;

use seaworthy_bench::setup::write;

/// Keep-alive connections of the load.
pub(crate) const CONNECTIONS: u32 = 256;

/// The length of a request's body.
pub(crate) const BODY_BYTES: usize = 64;

/// What wrk counted in one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    /// The latency that half of the requests stayed under, in milliseconds.
    pub(crate) p50: f64,
    /// The same for 99 of 100.
    pub(crate) p99: f64,
}

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
    let output = command.output().map_err(|error| format!("wrk could not be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!(
            "wrk {url} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(format!("requests to {url} failed:\n{text}"));
    }
    read(&text).ok_or_else(|| format!("wrk printed something else than expected:\n{text}"))
}

fn read(text: &str) -> Option<Load> {
    let lines = || text.lines().map(str::trim);
    let after = |start: &str| lines().find_map(|line| line.strip_prefix(start).map(str::trim));
    let requests = lines().find_map(|line| line.split_once(" requests in ")?.0.parse().ok())?;
    Some(Load {
        requests,
        per_second: after("Requests/sec:")?.parse().ok()?,
        p50: milliseconds(after("50%")?)?,
        p99: milliseconds(after("99%")?)?,
    })
}

fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
    units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}
