//! wrk, and what it found.

use std::process::Command;

/// What wrk counted in one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Requests in all.
    pub requests: u64,
    /// And in a second.
    pub per_second: f64,
    /// The latency that half of the requests stayed under, in microseconds.
    pub p50: f64,
    /// The same for 99 of 100.
    pub p99: f64,
}

impl Load {
    /// [`p50`](Self::p50) in milliseconds.
    #[must_use]
    pub fn p50_ms(&self) -> f64 {
        self.p50 / 1e3
    }

    /// [`p99`](Self::p99) in milliseconds.
    #[must_use]
    pub fn p99_ms(&self) -> f64 {
        self.p99 / 1e3
    }
}

/// Runs `command`, which has wrk load `url`, with `--latency`.
///
/// # Errors
/// wrk failed, or a request did: a figure of requests that failed says nothing.
pub fn run(command: &mut Command, url: &str) -> Result<Load, String> {
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
        p50: microseconds(after("50%")?)?,
        p99: microseconds(after("99%")?)?,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_read() {
        let text = "Running 3s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  Thread Stats   Avg      Stdev\n    \
                    Latency     1.50ms\n  Latency Distribution\n     50%    1.40ms\n     75%    1.50ms\n     90%  900.00us\n     \
                    99%    2.00s \n  135234 requests in 3.00s, 36.63MB read\nRequests/sec:  45077.52\nTransfer/sec:     12.21MB\n";
        let load = Load { requests: 135_234, per_second: 45_077.52, p50: 1_400.0, p99: 2e6 };
        assert_eq!(read(text), Some(load));
        assert_eq!(read("wrk: no"), None);
    }
}
