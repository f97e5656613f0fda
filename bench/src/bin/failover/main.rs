//! `failover`: what callers notice when one of three instances dies, and later another freezes, through ours beside nginx and
//! HAProxy on the same machine in the same run, one after the other.
//!
//! Three instances of a small service are real processes; 500 GETs a second are due at even moments whatever became of the
//! earlier ones, and a latency counts from the moment at which the call was due (so that a stall is not left out because nothing
//! was sent meanwhile). One instance is killed with SIGKILL and later started again; then another is stopped with SIGSTOP and
//! later continued with SIGCONT. The settings of everybody stand in `contestant.rs`, and with their reasons in bench/README.md.
//!
//! Prints a table and writes bench/out/failover.json. `--only NAME` runs one contestant, and writes nothing.

mod contestant;
mod figures;
mod load;
mod shop;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use contestant::{Contestant, EVERYBODY, What};
use figures::{Event, Run};
use load::Load;
use seaworthy_bench::report::write_json;
use seaworthy_bench::setup::{folder, with_folder};
use serde_json::json;
use shop::Shop;

fn main() -> ExitCode {
    match only().and_then(compare) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("failover: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Whom to run; everybody for none.
fn only() -> Result<Option<What>, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let names = EVERYBODY.map(What::name).join("`, `");
    match &words[..] {
        [] => Ok(None),
        [flag, name] if flag == "--only" => match EVERYBODY.into_iter().find(|what| what.name() == name) {
            Some(what) => Ok(Some(what)),
            None => Err(format!("`{name}` is none of `{names}`")),
        },
        _ => Err(format!("usage: failover [--only NAME], where NAME is one of `{names}`")),
    }
}

#[expect(clippy::print_stdout, reason = "the table is this program's output")]
fn compare(only: Option<What>) -> Result<(), String> {
    let chosen = || EVERYBODY.into_iter().filter(|what| only.is_none_or(|only| only == *what));
    for what in chosen() {
        what.check_that_it_is_there()?;
    }
    let runs = with_folder(|place| chosen().map(|what| run(what, place)).collect::<Result<Vec<_>, _>>())?;
    println!("\n{}", figures::table(&runs));
    if only.is_some() {
        return Ok(());
    }
    let runs: Vec<_> = runs.iter().map(Run::as_json).collect();
    write_json("failover.json", &json!({ "calls_per_second": load::PER_SECOND, "runs": runs }))
}

/// Everything that befalls one contestant, and what its callers saw.
fn run(what: What, place: &Path) -> Result<Run, String> {
    eprintln!("{}: {} s", what.name(), END.as_secs());
    // A space would end the path in the configurations.
    let place = folder(place, &what.name().replace(' ', "-"))?;
    let mut shop = Shop::open(&place)?;
    let mut contestant = Contestant::start(what, &shop.ports(), &place)?;
    let began = Instant::now();
    let load = Load::start(contestant.port(), began, END)?;
    let mut events = Vec::new();
    for (at, step) in STEPS {
        // The load keeps its own time: this one only has to be noted as it was.
        std::thread::sleep((began + at).saturating_duration_since(Instant::now()));
        let before = began.elapsed();
        step.take(&mut shop)?;
        // Who is killed or stopped is so from the first moment on; who is started counts once it answers.
        let at = if step == Step::Restart { began.elapsed() } else { before };
        events.push(Event { name: step.name(), at });
    }
    let calls = load.finish()?;
    contestant.check_that_it_runs()?;
    shop.check_that_all_run()?;
    Ok(Run::new(what.name(), calls, &events, STEADY_FROM, END))
}

/// What happens to the instances.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Kill,
    Restart,
    Freeze,
    Thaw,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Restart => "started again",
            Self::Freeze => "SIGSTOP",
            Self::Thaw => "SIGCONT",
        }
    }

    /// The second instance dies, and the third, which was there all the time, freezes.
    fn take(self, shop: &mut Shop) -> Result<(), String> {
        match self {
            Self::Kill => shop.kill(1),
            Self::Restart => shop.restart(1),
            Self::Freeze => shop.signal(2, "STOP"),
            Self::Thaw => shop.signal(2, "CONT"),
        }
    }
}

/// The first seconds are not counted: connections are made, latencies learned.
const STEADY_FROM: Duration = Duration::from_secs(5);

/// The steady figures come from ten seconds, which is 5,000 calls: fifty above their p99. Ten to see the loss and its
/// after-effects (nginx tries an instance again after ten), fifteen for everybody's return to the normal state, twenty for the freeze, since
/// the calls that hang until a timeout of five seconds and the repeated trials of ten come late.
const STEPS: [(Duration, Step); 4] = [
    (Duration::from_secs(15), Step::Kill),
    (Duration::from_secs(30), Step::Restart),
    (Duration::from_secs(45), Step::Freeze),
    (Duration::from_secs(65), Step::Thaw),
];

/// When the load ends.
const END: Duration = Duration::from_secs(75);
