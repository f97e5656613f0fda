//! The `seaworthy` command.
//!
//! This file reads the command line and hands over; each subcommand has a file of its own. What they share is how
//! they end: 0 when all went well, 1 when it did not (and why stands on stderr), 2 when the command line itself was
//! wrong, 130 when Ctrl-C ended it early.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod check;
mod client;
mod demo;
mod exec_child;
mod failure;
mod keys;
mod length;
mod out;
mod run;
mod simulate;
mod steer;

/// Keeps a system answering while the things that it depends on fail.
#[derive(Parser)]
#[command(name = "seaworthy", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Run(run::Args),
    Check(check::Args),
    Simulate(simulate::Args),
    Evacuate(steer::Evacuate),
    Restore(steer::Restore),
    Restart(steer::Restart),
    Keys(keys::Args),
    #[command(hide = true)]
    DemoService(demo::service::Args),
    #[command(hide = true)]
    ExecChild(exec_child::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(args) => demo::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Check(args) => check::main(&args),
        Command::Simulate(args) => simulate::main(&args),
        Command::Evacuate(args) => steer::evacuate(&args),
        Command::Restore(args) => steer::restore(&args),
        Command::Restart(args) => steer::restart(&args),
        Command::Keys(args) => keys::main(&args),
        Command::DemoService(args) => demo::service::main(&args),
        Command::ExecChild(args) => exec_child::main(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            failure.code()
        }
    }
}
