//! `policies`: a table of what one call costs under each policy of each library, and bench/out/policies.json.
//!
//! - ns per call, by one thread and by two threads that share one policy: the median of rounds that alternate between all cases, so
//!   that a slow minute of the machine meets them all.
//! - instructions per call, by valgrind: the difference of two run lengths, so that what happens once cancels out.
//! - allocations per call, by an allocator that counts, likewise.
//!
//! `policies --rounds N` changes the number of rounds; `policies --calls CASE N` only makes N calls (for valgrind).

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use seaworthy_bench::policies::{self, Case, Shared};
use seaworthy_bench::report::{median, write_json};
use serde_json::json;

/// Rounds of each case and number of threads. Odd, so that the median is one of them.
const ROUNDS: usize = 11;

/// How long a thread calls in one round: long beside a time slice of the scheduler, short beside the machine's moods.
const ROUND: Duration = Duration::from_millis(40);

/// The two run lengths whose difference counts instructions and allocations.
const SHORT: u64 = 2_000;
const LONG: u64 = 12_000;

/// What the pipeline is meant to cost: one thread, two threads (ns), allocations.
const TARGET: (f64, f64, f64) = (130.0, 300.0, 0.0);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [] => compare(ROUNDS),
        ["--rounds", rounds] => rounds.parse().map_err(|error| format!("rounds: {error}")).and_then(compare),
        ["--calls", name, calls] => only_call(name, calls),
        _ => Err("usage: policies [--rounds N]".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("policies: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// What was measured of one case.
struct Row {
    case: Case,
    /// One round's ns per call each, by number of threads (one, two).
    rounds: [Vec<f64>; 2],
    instructions: f64,
    allocations: f64,
}

fn compare(rounds: usize) -> Result<(), String> {
    let mut rows = Vec::new();
    for case in policies::cases() {
        eprintln!("counting {}", case.name());
        let instructions = per_call(&case, instructions)?;
        let allocations = per_call(&case, allocations)?;
        rows.push(Row { case, rounds: [Vec::new(), Vec::new()], instructions, allocations });
    }
    let runtime = policies::runtime().map_err(|error| format!("no runtime: {error}"))?;
    let _entered = runtime.enter();
    let prepared: Vec<(Shared, u64)> = rows.iter().map(|row| prepare(&row.case)).collect::<Result<_, _>>()?;
    for round in 1..=rounds {
        eprintln!("timing, round {round} of {rounds}");
        for (row, (shared, calls)) in rows.iter_mut().zip(&prepared) {
            for threads in 1..=row.case.most_threads.min(2) {
                let taken = time(shared, threads, *calls)
                    .ok_or_else(|| format!("a call of {} failed", row.case.name()))?;
                row.rounds[threads - 1].push(taken);
            }
        }
    }
    print_table(&rows);
    write_json("policies.json", &as_json(&rows))
}

/// Builds a case, warms it up, and finds how many calls fill a round.
fn prepare(case: &Case) -> Result<(Shared, u64), String> {
    let shared = (case.build)();
    let mut calls = 1_000;
    loop {
        let taken = time(&shared, 1, calls).ok_or_else(|| format!("a call of {} failed", case.name()))?;
        let round = taken * calls as f64;
        if round >= ROUND.as_nanos() as f64 / 4.0 {
            return Ok((shared, (ROUND.as_nanos() as f64 / taken) as u64));
        }
        calls *= 4;
    }
}

/// Nanoseconds per call of a thread, when so many call at once; none if a call failed.
fn time(shared: &Shared, threads: usize, calls: u64) -> Option<f64> {
    let barrier = Barrier::new(threads);
    let one = || {
        let runtime = policies::runtime().ok()?;
        let _entered = runtime.enter();
        let mut worker = shared();
        let warm = runtime.block_on(worker(calls / 10));
        barrier.wait();
        let started = Instant::now();
        let succeeded = runtime.block_on(worker(calls));
        let taken = started.elapsed();
        (warm && succeeded).then(|| taken.as_nanos() as f64 / calls as f64)
    };
    let each: Vec<f64> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        handles.into_iter().map(|handle| handle.join().ok().flatten()).collect::<Option<_>>()
    })?;
    Some(each.iter().sum::<f64>() / each.len() as f64)
}

/// The difference of two run lengths, per call.
fn per_call(case: &Case, count: fn(&str, u64) -> Result<u64, String>) -> Result<f64, String> {
    let (short, long) = (count(&case.name(), SHORT)?, count(&case.name(), LONG)?);
    Ok((long as f64 - short as f64) / (LONG - SHORT) as f64)
}

fn instructions(name: &str, calls: u64) -> Result<u64, String> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(this_program()?);
    let output = command.args(["--calls", name, &calls.to_string()]).output();
    let output = output.map_err(|error| format!("valgrind could not be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let count =
        text.lines().find_map(|line| line.split_once("Collected :")).and_then(|(_, n)| n.trim().parse().ok());
    count
        .filter(|_| output.status.success())
        .ok_or_else(|| format!("valgrind counted nothing for {name}:\n{text}"))
}

fn allocations(name: &str, calls: u64) -> Result<u64, String> {
    let program = this_program()?.with_file_name("count");
    let output = Command::new(&program).args([name, &calls.to_string()]).output();
    let output = output.map_err(|error| format!("{} could not be started: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim()
        .parse()
        .map_err(|_| format!("count {name}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn this_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("where is this program? {error}"))
}

fn only_call(name: &str, calls: &str) -> Result<(), String> {
    let calls = calls.parse().map_err(|error| format!("`{calls}` calls: {error}"))?;
    let case = policies::cases().into_iter().find(|case| case.name() == name);
    let case = case.ok_or_else(|| format!("no case is called {name}"))?;
    let runtime = policies::runtime().map_err(|error| format!("no runtime: {error}"))?;
    let _entered = runtime.enter();
    let mut worker = (case.build)()();
    if runtime.block_on(worker(calls)) { Ok(()) } else { Err(format!("a call of {name} failed")) }
}

#[expect(clippy::print_stdout, reason = "the table is this program's output")]
fn print_table(rows: &[Row]) {
    let mut table = format!(
        "\n{:<26} {:<30} {:>9} {:>9} {:>9} {:>8}\n",
        "policy", "library", "1T ns", "2T ns", "instr.", "allocs"
    );
    for row in rows {
        let [one, two] = times(row);
        let two = two.map_or("-".to_owned(), |ns| format!("{ns:.1}"));
        let one = one.map_or("-".to_owned(), |ns| format!("{ns:.1}"));
        let (policy, library) = (row.case.policy, row.case.library);
        let (instructions, allocations) = (row.instructions, row.allocations);
        // Writing to a String can't fail.
        let _infallible = writeln!(
            table,
            "{policy:<26} {library:<30} {one:>9} {two:>9} {instructions:>9.0} {allocations:>8.2}"
        );
    }
    let (one, two, allocations) = TARGET;
    println!(
        "{table}\ntarget for the pipeline: at most {one:.0} ns, {two:.0} ns, {allocations:.0} allocations"
    );
    println!("1T, 2T: ns per call of a thread, with one and with two threads on one shared policy; medians");
}

fn times(row: &Row) -> [Option<f64>; 2] {
    [median(&row.rounds[0]), median(&row.rounds[1])]
}

fn as_json(rows: &[Row]) -> serde_json::Value {
    let cases = rows.iter().map(|row| {
        let [one, two] = times(row);
        json!({
            "policy": row.case.policy,
            "library": row.case.library,
            "ns_one_thread": one,
            "ns_two_threads": two,
            "ns_one_thread_rounds": row.rounds[0],
            "ns_two_threads_rounds": row.rounds[1],
            "instructions": row.instructions,
            "allocations": row.allocations,
        })
    });
    let (one, two, allocations) = TARGET;
    json!({
        "cases": cases.collect::<Vec<_>>(),
        "target_of_the_pipeline": { "ns_one_thread": one, "ns_two_threads": two, "allocations": allocations },
    })
}
