//! The repository's own tasks: `cargo xtask TASK`.
//!
//! A task either does all that its name says or fails and says what to do: nothing is skipped silently. What a task
//! needs from the machine it installs when it may (Debian packages as root, rustup components), and names exactly
//! when it may not.

mod bench;
mod checks;
mod fuzz;
mod machine;
mod shell;
mod test;

use std::process::ExitCode;
use std::time::Instant;

use shell::{Failure, say};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(task) = TASKS.iter().find(|task| words.starts_with(task.words)) else {
        say(&help());
        let asked_for_help = matches!(words.first(), None | Some(&"help" | &"--help" | &"-h"));
        return if asked_for_help { ExitCode::SUCCESS } else { ExitCode::from(2) };
    };
    let started = Instant::now();
    match (task.run)(&arguments[task.words.len()..]) {
        Ok(()) => {
            say(&format!("{}: done in {:.1} s", task.words.join(" "), started.elapsed().as_secs_f64()));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            say(&format!("{}: FAILED: {failure}", task.words.join(" ")));
            ExitCode::FAILURE
        }
    }
}

/// One thing that can be asked for.
struct Task {
    /// What is typed after `cargo xtask`.
    words: &'static [&'static str],
    /// What the help says.
    about: &'static str,
    /// Does it; told the arguments that follow its words.
    run: fn(&[String]) -> Result<(), Failure>,
}

const TASKS: &[Task] = &[
    Task {
        words: &["test"],
        about: "every test: unit, end to end, docs, loom, examples, schema",
        run: test::all,
    },
    Task {
        words: &["fuzz"],
        about: "whatever a fuzzer thinks of, for [SECONDS] each: what is read of strangers",
        run: fuzz::all,
    },
    Task { words: &["fmt"], about: "formatting is rustfmt's", run: checks::fmt },
    Task { words: &["clippy"], about: "no lint fires, in any target", run: checks::clippy },
    Task { words: &["docs"], about: "the documentation builds without a warning", run: checks::docs },
    Task {
        words: &["no-std"],
        about: "core asks no clock, opens no socket, links no std",
        run: checks::no_std,
    },
    Task { words: &["deps"], about: "dependency direction, licences, sources, words", run: checks::deps },
    Task {
        words: &["bench", "policies"],
        about: "policies beside their peers: ns, instructions, allocations",
        run: bench::policies,
    },
    Task {
        words: &["bench", "proxy"],
        about: "the proxy beside nginx and HAProxy: CPU per request, latency",
        run: bench::proxy,
    },
    Task {
        words: &["bench", "failover"],
        about: "the same while an instance dies and another freezes: errors, latency",
        run: bench::failover,
    },
    Task {
        words: &["bench", "overload"],
        about: "the same under overload: goodput, latency, CPU per refusal",
        run: bench::overload,
    },
    Task {
        words: &["bench", "keys"],
        about: "idempotency keys in each store beside a plain middleware: rates, memory",
        run: bench::keys,
    },
];

fn help() -> String {
    let mut text = String::from("usage: cargo xtask TASK\n\n");
    for task in TASKS {
        text.push_str(&format!("  {:<16} {}\n", task.words.join(" "), task.about));
    }
    text.push_str("\nexample: cargo xtask test");
    text
}
