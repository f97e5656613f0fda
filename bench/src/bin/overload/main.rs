//! `overload`: what is still answered in time when more is asked than an upstream can do, through ours beside nginx, HAProxy and no proxy
//! at all, on the same machine in the same run, one after the other.
//!
//! The upstream, with its capacity, and the callers are those of the command's tests. Each proxy and each rate meets a fresh upstream, so
//! that nobody inherits the queue of another. The settings of everybody stand in `contestant.rs`, and with their reasons in bench/README.md.
//!
//! Prints a table, and writes bench/out/overload.json and bench/out/overload.svg. `--only NAME` runs one contestant, and writes nothing.

#[path = "../../../../crates/cli/tests/common/capacity/mod.rs"]
mod capacity;
mod contestant;
mod figures;
mod plot;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use capacity::load::{ALIKE, Arrivals, Load, Plan};
use capacity::server::{Capacity, Server};
use capacity::tally::Tally;
use contestant::{Contestant, EVERYBODY, What};
use figures::{Figure, Snapshot};
use seaworthy_bench::report::{write_json, write_text};
use seaworthy_bench::setup::{folder, with_folder};

/// 400 calls a second: ten times that is what the callers, a proxy and the upstream can carry together on two cores.
pub(crate) const CAPACITY: Capacity = Capacity { workers: 20, service: Duration::from_millis(50) };

/// What is asked, as a multiple of the capacity.
const TIMES: [f64; 5] = [0.9, 1.5, 2.0, 5.0, 10.0];

/// How long a caller waits: six times as long as a call takes.
pub(crate) const DEADLINE: Duration = Duration::from_millis(300);

/// Not counted: the time in which a proxy must have settled.
const SETTLES: Duration = Duration::from_secs(1);

/// Eight seconds are 3,200 calls at the capacity: 32 above their p99.
const LASTS: Duration = Duration::from_secs(9);

fn main() -> ExitCode {
    match only().and_then(compare) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("overload: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// The one that is asked for, if any.
fn only() -> Result<Option<What>, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words[..] {
        [] => Ok(None),
        [flag, name] if flag == "--only" => {
            let found = EVERYBODY.into_iter().find(|what| what.name() == name);
            found.map(Some).ok_or_else(|| format!("`{name}` is none of the contestants"))
        }
        _ => Err("usage: overload [--only NAME]".to_owned()),
    }
}

#[expect(clippy::print_stdout, reason = "the table is this program's output")]
fn compare(only: Option<What>) -> Result<(), String> {
    let mut measured = Vec::new();
    with_folder(|place| {
        for what in EVERYBODY.into_iter().filter(|what| only.is_none_or(|only| only == *what)) {
            for times in TIMES {
                measured.push(run(what, times, place)?);
            }
        }
        Ok(())
    })?;
    println!("\n{}", figures::table(&measured));
    println!("{}", figures::refusals(&measured));
    if only.is_some() {
        return Ok(());
    }
    write_json("overload.json", &figures::as_json(&measured))?;
    write_text("overload.svg", &plot::svg(&measured))
}

/// One contestant under one load.
fn run(what: What, times: f64, place: &Path) -> Result<Figure, String> {
    eprintln!("{}: {times} times the capacity, {} s", what.name(), LASTS.as_secs());
    let place = folder(place, &format!("{}-{times}", what.name().replace(' ', "-")))?;
    let server =
        Server::start(CAPACITY).map_err(|error| format!("the upstream can't be started: {error}"))?;
    let mut contestant = Contestant::start(what, server.address().port(), &place)?;
    let snapshot = |contestant: &Contestant| {
        Ok::<_, String>(Snapshot { cpu: contestant.cpu()?, upstream: server.counts() })
    };
    let load = Load::start(Plan {
        to: SocketAddr::from((Ipv4Addr::LOCALHOST, contestant.port())),
        per_second: times * CAPACITY.per_second(),
        lasts: LASTS,
        deadline: DEADLINE,
        arrivals: Arrivals::Poisson,
        classes: vec![ALIKE],
        seed: 7,
    });
    let load = load.map_err(|error| format!("the load can't be started: {error}"))?;
    load.wait_until(SETTLES);
    let before = snapshot(&contestant)?;
    load.wait_until(LASTS);
    let after = snapshot(&contestant)?;
    let calls = load.finish();
    contestant.check_that_it_runs()?;
    Ok(Figure { what, times, tally: Tally::between(&calls, SETTLES, LASTS), before, after })
}
