//! `keys`: what idempotency keys cost, through ours with each store, beside ours without keys and beside what is commonly written with
//! Redis and PostgreSQL, all before the same upstream and on the same servers, in the same run.
//!
//! wrk with 256 keep-alive connections sends POSTs, each with a key that was never used before: the dearest there is, two durable writes
//! a request. Rounds alternate between all of them, so that a slow minute meets them all. Then one proxy with the embedded store is
//! asked for a million keys, and what memory it has is read on the way. How long the disk takes to flush is measured before and after.
//!
//! Prints tables and writes bench/out/keys.json. `--rounds N`, `--seconds N` (per round), `--keys N` (0 for none).

mod contestant;
mod load;
#[path = "../../../../crates/seaworthy/tests/servers/mod.rs"]
#[expect(
    clippy::unwrap_used,
    reason = "servers of tests: what they can't do ends the program, and says what"
)]
mod servers;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use contestant::{Contestant, EVERYBODY, Place, What};
use seaworthy_bench::report::{median, write_json};
use seaworthy_bench::setup::with_folder;
use seaworthy_bench::wrk::Load;
use serde_json::{Value, json};

/// Rounds of each contestant. Odd, so that the median is one of them.
const ROUNDS: usize = 5;

/// Seconds of load in a round.
const SECONDS: u32 = 5;

/// How many keys the last part writes.
const KEYS: u64 = 1_000_000;

/// When memory is read first.
const FEW_KEYS: u64 = 10_000;

/// How often the disk is flushed to know how long that takes.
const FLUSHES: usize = 200;

fn main() -> ExitCode {
    match settings().and_then(|settings| with_folder(|folder| compare(&settings, folder))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("keys: {fault}");
            ExitCode::FAILURE
        }
    }
}

struct Settings {
    rounds: usize,
    seconds: u32,
    keys: u64,
}

fn settings() -> Result<Settings, String> {
    let mut settings = Settings { rounds: ROUNDS, seconds: SECONDS, keys: KEYS };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => settings.rounds = number(words.next())?,
            "--seconds" => settings.seconds = number(words.next())?,
            "--keys" => settings.keys = number(words.next())?,
            other => return Err(format!("`{other}`? usage: keys [--rounds N] [--seconds N] [--keys N]")),
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

/// One round. CPU is in microseconds per request, of the contestant alone: not of a server that it uses.
struct Round {
    load: Load,
    cpu: f64,
}

fn compare(settings: &Settings, folder: &Path) -> Result<(), String> {
    let script = load::script(folder)?;
    let (upstream, _upstream) = contestant::upstream(folder)?;
    let (redis, postgres) = (servers::Redis::durable(), servers::Postgres::start());
    let place = Place { folder, upstream, redis: redis.url(), postgres: postgres.url() };
    let before = flushes(folder)?;
    let rows = measure(settings, &place, &script)?;
    let after = flushes(folder)?;
    print_table(&rows, &[before, after]);
    let rows_json = as_json(&rows);
    drop(rows);
    let memory = if settings.keys > 0 { many_keys(settings.keys, &place, &script)? } else { Value::Null };
    write_json(
        "keys.json",
        &json!({
            "connections": load::CONNECTIONS, "body_bytes": load::BODY_BYTES, "answer_bytes": contestant::ANSWER_BYTES,
            "fdatasync_ms": { "p50": [before.p50, after.p50], "p99": [before.p99, after.p99] },
            "contestants": rows_json, "memory": memory,
        }),
    )
}

fn measure(settings: &Settings, place: &Place<'_>, script: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for what in EVERYBODY {
        let contestant = Contestant::start(what, place)?;
        load::run(&contestant.url(), 1, script, &format!("warm-{}", rows.len()))?;
        rows.push(Row { contestant, rounds: Vec::new() });
    }
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        for (number, row) in rows.iter_mut().enumerate() {
            let before = row.contestant.cpu()?;
            // Contestants share servers: no two use a key of the same name.
            let keys = format!("{number}-{round}");
            let load = load::run(&row.contestant.url(), settings.seconds, script, &keys)?;
            let after = row.contestant.cpu()?;
            let used = after.user + after.system - before.user - before.system;
            row.rounds.push(Round { load, cpu: used / load.requests as f64 });
        }
    }
    Ok(rows)
}

/// The memory of a proxy while so many keys come in.
#[expect(clippy::print_stdout, reason = "the table is this program's output")]
fn many_keys(keys: u64, place: &Place<'_>, script: &str) -> Result<Value, String> {
    let folder = seaworthy_bench::setup::folder(place.folder, "many")?;
    let place =
        Place { folder: &folder, redis: place.redis.clone(), postgres: place.postgres.clone(), ..*place };
    let contestant = Contestant::start(What::Embedded, &place)?;
    let mut points = Vec::new();
    let (mut written, mut next) = (0, FEW_KEYS);
    println!("\n{:>10} {:>14} {:>14} {:>10} {:>10}", "keys", "resident MiB", "file MiB", "req/s", "p99 ms");
    for run in 0.. {
        let load = load::run(&contestant.url(), 1, script, &format!("many-{run}"))?;
        written += load.requests;
        if written >= next.min(keys) {
            let (resident, file) = (contestant.resident()?, size(&folder)?);
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            println!(
                "{written:>10} {:>14.1} {:>14.1} {:>10.0} {:>10.1}",
                mib(resident),
                mib(file),
                load.per_second,
                load.p99_ms()
            );
            points.push(json!({ "keys": written, "resident": resident, "file": file, "per_second": load.per_second, "p99_ms": load.p99_ms() }));
            next = if next == FEW_KEYS { 100_000 } else { next + 100_000 };
        }
        if written >= keys {
            break;
        }
    }
    Ok(points.into())
}

/// The bytes of all files in a folder.
fn size(folder: &Path) -> Result<u64, String> {
    let unreadable = |error| format!("{}: {error}", folder.display());
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let about = entry.metadata().map_err(unreadable)?;
        sum += if about.is_dir() { size(&entry.path())? } else { about.len() };
    }
    Ok(sum)
}

/// How long a flush of the disk takes, in milliseconds.
#[derive(Clone, Copy)]
struct Flush {
    p50: f64,
    p99: f64,
}

/// Appends 4 KiB and flushes them with fdatasync, again and again.
fn flushes(folder: &Path) -> Result<Flush, String> {
    let mut file = std::fs::File::create(folder.join("flushed")).map_err(|error| error.to_string())?;
    let mut times = Vec::new();
    for _ in 0..FLUSHES {
        let begun = Instant::now();
        file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).map_err(|error| error.to_string())?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(Flush { p50: times[FLUSHES / 2], p99: times[FLUSHES * 99 / 100] })
}

/// The median of what each round says.
fn middle(row: &Row, figure: impl Fn(&Round) -> f64) -> f64 {
    median(&row.rounds.iter().map(figure).collect::<Vec<_>>()).unwrap_or(f64::NAN)
}

/// Requests a second beside those of another, each round beside the same round of its own.
fn ratio(row: &Row, rows: &[Row], to: What) -> Option<f64> {
    let base = rows.iter().find(|base| base.contestant.what == to)?;
    let ratios =
        row.rounds.iter().zip(&base.rounds).map(|(this, base)| this.load.per_second / base.load.per_second);
    median(&ratios.collect::<Vec<_>>())
}

/// Whom one compares it with who would write it themselves.
fn peer(what: What) -> Option<What> {
    match what {
        What::Redis => Some(What::PlainRedis),
        What::Postgres => Some(What::PlainPostgres),
        _ => None,
    }
}

#[expect(clippy::print_stdout, reason = "the table is this program's output")]
fn print_table(rows: &[Row], flushes: &[Flush; 2]) {
    let mut table = format!(
        "\n{:<24} {:>8} {:>9} {:>14} {:>8} {:>8} {:>8}\n",
        "", "req/s", "to none", "to middleware", "p50 ms", "p99 ms", "CPU us"
    );
    for row in rows {
        let what = row.contestant.what;
        let to = |to: Option<What>| {
            to.and_then(|to| ratio(row, rows, to)).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        // Writing to a String can't fail.
        let _infallible = writeln!(
            table,
            "{:<24} {:>8.0} {:>9} {:>14} {:>8.1} {:>8.1} {:>8.1}",
            what.name(),
            middle(row, |round| round.load.per_second),
            to(Some(What::Without)),
            to(peer(what)),
            middle(row, |round| round.load.p50_ms()),
            middle(row, |round| round.load.p99_ms()),
            middle(row, |round| round.cpu),
        );
    }
    let [before, after] = flushes;
    println!(
        "{table}\nMedians of alternating rounds, {} connections; CPU of the contestant alone, per request. fdatasync of 4 KiB, p50 / p99: \
         {:.2} / {:.2} ms before, {:.2} / {:.2} ms after",
        load::CONNECTIONS,
        before.p50,
        before.p99,
        after.p50,
        after.p99
    );
}

fn as_json(rows: &[Row]) -> Value {
    let each = rows.iter().map(|row| {
        let what = row.contestant.what;
        let rounds = row.rounds.iter().map(|round| {
            json!({ "requests": round.load.requests, "per_second": round.load.per_second, "p50_ms": round.load.p50_ms(),
                    "p99_ms": round.load.p99_ms(), "cpu_us": round.cpu })
        });
        json!({
            "contestant": what.name(),
            "per_second": middle(row, |round| round.load.per_second),
            "to_without": ratio(row, rows, What::Without),
            "to_middleware": peer(what).and_then(|peer| ratio(row, rows, peer)),
            "p50_ms": middle(row, |round| round.load.p50_ms()),
            "p99_ms": middle(row, |round| round.load.p99_ms()),
            "cpu_us": middle(row, |round| round.cpu),
            "rounds": rounds.collect::<Vec<_>>(),
        })
    });
    each.collect::<Vec<_>>().into()
}
