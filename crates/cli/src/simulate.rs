//! `seaworthy simulate`: the policies in virtual time.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use seaworthy_sim::{Report, Scenario};

use crate::failure::Failure;
use crate::{check, out};

/// Try the policies in virtual time
///
/// Reads a scenario (clients, a service and its troubles, and the policies as the proxy's file has them) and shows what
/// would happen. The policies are the proxy's own code. The same seed gives the same result.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  seaworthy simulate retries.scenario.toml
  seaworthy simulate retries.scenario.toml --seed 7 --json | jq .total.success")]
pub(crate) struct Args {
    /// The scenario
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where all chance comes from, in place of the scenario's own seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// Write every event and decision to this file
    #[arg(long, value_name = "PATH")]
    record: Option<PathBuf>,
}

/// Runs the scenario and says what came of it.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let name = args.file.display().to_string();
    let mut scenario = Scenario::parse(&check::read(&args.file)?, &name)
        .map_err(|mistakes| Failure::new(format!("the scenario has mistakes\n\n{mistakes}")))?;
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    scenario.record |= args.record.is_some();
    let report = run(&name, &scenario);
    if let (Some(path), Some(recording)) = (&args.record, &report.recording) {
        std::fs::write(path, recording)
            .map_err(|error| Failure::because(format!("could not write to {}", path.display()), error))?;
    }
    if args.json { out::json(&report) } else { out::line(report.to_string().trim_end()) }
}

/// Runs `scenario`, and tells whoever watches that it is at it if it takes a while.
fn run(name: &str, scenario: &Scenario) -> Report {
    std::thread::scope(|scope| {
        let (done, waiting) = mpsc::channel::<()>();
        if io::stderr().is_terminal() {
            scope.spawn(move || {
                if waiting.recv_timeout(A_WHILE) == Err(RecvTimeoutError::Timeout) {
                    // Nothing is lost if it can't be said.
                    let _ = out::aside(&format!("simulating {name} ..."));
                }
            });
        }
        let report = seaworthy_sim::run(scenario);
        drop(done);
        report
    })
}

/// Less needs no word.
const A_WHILE: Duration = Duration::from_secs(1);
