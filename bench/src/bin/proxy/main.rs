//! `proxy`: what a request costs through ours with every default policy on, beside HAProxy and nginx on the same machine in the same run.
//!
//! One worker each, pinned to a core of its own; wrk with 64 keep-alive connections and an nginx that answers with 128 bytes stand on the
//! other cores. Rounds alternate between all of them, with and without an access log, so that a slow minute meets them all.
//! CPU per request is user and system time of the proxy's processes from /proc over the requests that wrk counted. Latency
//! is at saturation, where it says how many requests a second there were rather than how long one takes alone.
//!
//! Prints a table and writes bench/out/proxy.json. `--rounds N`, `--seconds N` (per round), `--peers-only`.

mod contestant;
mod load;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use contestant::{Contestant, Log, Place, What};
use seaworthy_bench::report::{median, write_json};
use seaworthy_bench::setup::{ours, with_folder};
use seaworthy_bench::wrk::Load;
use serde_json::{Value, json};

/// Rounds of each contestant. Odd, so that the median is one of them.
const ROUNDS: usize = 7;

/// Seconds of load in a round: 300 of the hundredths in which /proc counts, so within a percent.
const SECONDS: u32 = 3;

fn main() -> ExitCode {
    match settings().and_then(|settings| compare(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("proxy: {fault}");
            ExitCode::FAILURE
        }
    }
}

struct Settings {
    rounds: usize,
    seconds: u32,
    peers_only: bool,
}

fn settings() -> Result<Settings, String> {
    let mut settings = Settings { rounds: ROUNDS, seconds: SECONDS, peers_only: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => settings.rounds = number(words.next())?,
            "--seconds" => settings.seconds = number(words.next())?,
            "--peers-only" => settings.peers_only = true,
            other => {
                return Err(format!("`{other}`? usage: proxy [--rounds N] [--seconds N] [--peers-only]"));
            }
        }
    }
    Ok(settings)
}

fn number<T: std::str::FromStr>(word: Option<String>) -> Result<T, String> {
    word.as_deref().and_then(|word| word.parse().ok()).ok_or_else(|| format!("{word:?} is not a number"))
}

/// What was measured of one contestant, round by round.
struct Row {
    contestant: Contestant,
    rounds: Vec<Round>,
}

/// One round. CPU is in microseconds per request; of the direct way to the upstream there is none.
#[derive(Clone, Copy)]
struct Round {
    user: f64,
    system: f64,
    load: Load,
}

impl Round {
    fn cpu(&self) -> f64 {
        self.user + self.system
    }
}

fn compare(settings: &Settings) -> Result<(), String> {
    // Access logs of millions of lines: gone with the run, whether it succeeded or not.
    let rows = with_folder(|folder| measure(settings, folder))?;
    print_table(&rows);
    write_json("proxy.json", &as_json(&rows))
}

fn measure(settings: &Settings, folder: &Path) -> Result<Vec<Row>, String> {
    let place = Place::of_this_machine(folder);
    let upstream = contestant::upstream(&place)?;
    let mut rows = vec![Row { contestant: Contestant::direct(&upstream), rounds: Vec::new() }];
    let everybody = [What::HaProxy, What::Nginx, What::Seaworthy];
    for log in [Log::Off, Log::On] {
        for what in everybody.into_iter().filter(|what| !settings.peers_only || *what != What::Seaworthy) {
            let contestant = Contestant::start(what, log, &upstream, &place, &ours())?;
            rows.push(Row { contestant, rounds: Vec::new() });
        }
    }
    for row in &rows {
        load::run(&row.contestant.url(), 1, &place)?;
    }
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        for row in &mut rows {
            row.rounds.push(one_round(&row.contestant, settings.seconds, &place)?);
        }
    }
    Ok(rows)
}

fn one_round(contestant: &Contestant, seconds: u32, place: &Place) -> Result<Round, String> {
    let before = contestant.cpu()?;
    let load = load::run(&contestant.url(), seconds, place)?;
    let after = contestant.cpu()?;
    let requests = load.requests as f64;
    Ok(Round {
        user: (after.user - before.user) / requests,
        system: (after.system - before.system) / requests,
        load,
    })
}

/// The median of what each round says.
fn middle(row: &Row, figure: impl Fn(&Round) -> f64) -> f64 {
    median(&row.rounds.iter().map(figure).collect::<Vec<_>>()).unwrap_or(f64::NAN)
}

/// CPU beside HAProxy's with the same log, each round beside the same round of its own.
fn ratio(row: &Row, rows: &[Row]) -> Option<f64> {
    let is_base =
        |base: &&Row| base.contestant.what == What::HaProxy && base.contestant.log == row.contestant.log;
    let base = rows.iter().find(is_base)?;
    let ratios = row.rounds.iter().zip(&base.rounds).map(|(this, base)| this.cpu() / base.cpu());
    median(&ratios.collect::<Vec<_>>()).filter(|_| row.contestant.what != What::Direct)
}

#[expect(clippy::print_stdout, reason = "the table is this program's output")]
fn print_table(rows: &[Row]) {
    let mut table = format!(
        "\n{:<12} {:<11} {:>8} {:>8} {:>8} {:>11} {:>10} {:>9} {:>9}\n",
        "proxy", "access log", "CPU us", "user us", "sys us", "to HAProxy", "req/s", "p50 us", "p99 us"
    );
    for row in rows {
        let ratio = ratio(row, rows).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        // Writing to a String can't fail.
        let _infallible = writeln!(
            table,
            "{:<12} {:<11} {:>8.1} {:>8.1} {:>8.1} {:>11} {:>10.0} {:>9.0} {:>9.0}",
            row.contestant.what.name(),
            row.contestant.log.name(),
            middle(row, Round::cpu),
            middle(row, |round| round.user),
            middle(row, |round| round.system),
            ratio,
            middle(row, |round| round.load.per_second),
            middle(row, |round| round.load.p50),
            middle(row, |round| round.load.p99),
        );
    }
    println!(
        "{table}\nCPU: of the proxy's processes per request; medians of alternating rounds, 64 connections"
    );
}

fn as_json(rows: &[Row]) -> Value {
    let each = rows.iter().map(|row| {
        let rounds = row.rounds.iter().map(|round| {
            json!({ "user_us": round.user, "system_us": round.system, "requests": round.load.requests,
                    "per_second": round.load.per_second, "p50_us": round.load.p50, "p99_us": round.load.p99 })
        });
        json!({
            "proxy": row.contestant.what.name(),
            "access_log": row.contestant.log.name(),
            "cpu_us": middle(row, Round::cpu),
            "cpu_to_haproxy": ratio(row, rows),
            "per_second": middle(row, |round| round.load.per_second),
            "p50_us": middle(row, |round| round.load.p50),
            "p99_us": middle(row, |round| round.load.p99),
            "rounds": rounds.collect::<Vec<_>>(),
        })
    });
    json!({ "connections": load::CONNECTIONS, "answer_bytes": contestant::ANSWER_BYTES, "proxies": each.collect::<Vec<_>>() })
}
