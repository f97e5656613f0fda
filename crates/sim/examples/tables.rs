//! Prints the tables of `docs/simulate.md`: what was published, and what the core's policies do.
//!
//! `cargo run --release -p seaworthy-sim --example tables`, with another seed as its argument if you like.

use std::io::{self, Write};
use std::time::Duration;

use seaworthy_sim::tables::{budgets, jitter, metastable, queue, shift};

fn main() -> io::Result<()> {
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut out = io::stdout().lock();
    writeln!(out, "Seed {seed}.\n")?;
    backoff_and_jitter(&mut out, seed)?;
    retries_and_budgets(&mut out, seed)?;
    timeouts(&mut out, seed)?;
    outages(&mut out, seed)?;
    queues(&mut out, seed)
}

fn backoff_and_jitter(out: &mut impl Write, seed: u64) -> io::Result<()> {
    writeln!(out, "Writes / milliseconds until the last client is through, mean of 100 trials\n")?;
    head(out, "clients", jitter::Column::ALL.map(jitter::Column::name))?;
    for clients in [10, 50, 100, 190] {
        let cells = jitter::Column::ALL.map(|column| {
            let cell = jitter::cell(column, clients, 100, seed);
            format!("{:.0} / {:.0}", cell.calls, cell.finish_ms)
        });
        row(out, &clients.to_string(), cells)?;
    }
    writeln!(out)
}

fn retries_and_budgets(out: &mut impl Write, seed: u64) -> io::Result<()> {
    writeln!(out, "Success / load\n")?;
    head(out, "requests that fail", budgets::Column::ALL.map(budgets::Column::name))?;
    for failures in [0.05, 0.10, 0.20, 0.50, 1.00] {
        let cells = budgets::Column::ALL.map(|column| {
            let cell = budgets::cell(column, failures, seed);
            format!("{:.4} / {:.2}", cell.success, cell.load)
        });
        row(out, &format!("{:.0}%", failures * 100.0), cells)?;
    }
    writeln!(out)
}

fn timeouts(out: &mut impl Write, seed: u64) -> io::Result<()> {
    writeln!(out, "False timeouts after the shift (and for how long most attempts were cut off)\n")?;
    head(out, "timeout", shift::Column::ALL.map(shift::Column::name))?;
    for (name, timeout) in [("250 ms", shift::fixed()), ("adaptive", shift::adaptive())] {
        let cells = shift::Column::ALL.map(|column| {
            let cell = shift::cell(column, timeout, seed);
            let share = cell.timed_out as f64 / cell.attempts.max(1) as f64;
            format!("{:.2}% ({:.1} s)", 100.0 * share, cell.cut_off_for_s)
        });
        row(out, name, cells)?;
    }
    let cells = shift::Column::ALL.map(|column| {
        let naive = shift::naive(column, seed);
        format!("{:.2}% ({:.1} s)", 100.0 * naive.cut_off, naive.locked_for_s)
    });
    row(out, "2 x p99 of successes", cells)?;
    writeln!(out)
}

fn outages(out: &mut impl Write, seed: u64) -> io::Result<()> {
    writeln!(out, "The shortest pause, in seconds, of which an outage remains; load then\n")?;
    head(out, "policies", RATES.map(|rate| format!("{rate} a second")).each_ref().map(String::as_str))?;
    for column in metastable::Column::ALL {
        let cells = RATES.map(|rate| {
            let stuck = PAUSES_MS.into_iter().find_map(|pause| {
                let cell = metastable::cell(column, rate, Duration::from_millis(pause), seed);
                cell.is_stuck().then(|| format!("{:.1} ({:.1}x)", pause as f64 * 1e-3, cell.last.load))
            });
            stuck.unwrap_or_else(|| "never".to_owned())
        });
        row(out, column.name(), cells)?;
    }
    writeln!(out)
}

/// Calls a second.
const RATES: [f64; 8] = [100.0, 140.0, 160.0, 200.0, 240.0, 260.0, 280.0, 290.0];
/// For how long the server pauses.
const PAUSES_MS: [u64; 6] = [1_000, 1_500, 2_000, 3_000, 10_000, 30_000];

fn queues(out: &mut impl Write, seed: u64) -> io::Result<()> {
    writeln!(out, "Goodput / capacity\n")?;
    let loads = [(0.9, 0.0), (1.5, 0.0), (2.0, 0.0), (5.0, 0.0), (10.0, 0.0), (10.0, 0.1)];
    head(out, "queue", ["0.9x", "1.5x", "2x", "5x", "10x", "10x, refusing costs 10%"])?;
    for column in queue::Column::ALL {
        let cells = loads.map(|(load, refusal)| format!("{:.2}", queue::cell(column, load, refusal, seed)));
        row(out, column.name(), cells)?;
    }
    writeln!(out)
}

fn head<const N: usize>(out: &mut impl Write, first: &str, names: [&str; N]) -> io::Result<()> {
    row(out, first, names.map(str::to_owned))?;
    row(out, "---", names.map(|_| "---".to_owned()))
}

fn row<const N: usize>(out: &mut impl Write, first: &str, cells: [String; N]) -> io::Result<()> {
    writeln!(out, "| {first} | {} |", cells.join(" | "))
}
