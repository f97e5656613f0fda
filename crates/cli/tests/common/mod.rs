//! What the tests of the command share.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[allow(unused, reason = "each test file takes what it needs")]
pub(crate) mod capacity;
pub(crate) mod shop;

use std::path::PathBuf;
use std::process::{Command, Output};

/// The command under test.
pub(crate) fn seaworthy() -> Command {
    Command::new(env!("CARGO_BIN_EXE_seaworthy"))
}

/// Runs the command to its end.
#[allow(dead_code, reason = "each test file takes what it needs")]
pub(crate) fn run(arguments: &[&str]) -> Output {
    seaworthy().args(arguments).output().unwrap()
}

/// Writes a file of that name for one test; names must differ between tests.
#[allow(dead_code, reason = "each test file takes what it needs")]
pub(crate) fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// What was printed to stdout.
#[allow(dead_code, reason = "each test file takes what it needs")]
pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// What was printed to stderr.
#[allow(dead_code, reason = "each test file takes what it needs")]
pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}
