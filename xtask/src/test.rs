//! `cargo xtask test`: everything that shows the product right, in the order of what fails fastest.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::machine::{Need, answers, provide};
use crate::shell::{Failure, cargo, failed, read, root, run, run_and_read, say};

/// Runs every test there is, or fails.
pub(crate) fn all(_arguments: &[String]) -> Result<(), Failure> {
    provide(&[Need { program: "cc", package: "gcc" }], "building")?;
    // Discovery is tested against a real DNS server.
    provide(&[Need { program: "dnsmasq", package: "dnsmasq-base" }], "testing")?;
    // A region that vanishes is a network namespace whose interface goes down.
    provide(&[Need { program: "ip", package: "iproute2" }], "testing")?;
    // Rates that proxies share are counted in a Redis.
    provide(&[Need { program: "redis-server", package: "redis-server" }], "testing")?;
    // Idempotency keys are kept in one.
    provide(&[Need { program: "pg_ctlcluster", package: "postgresql" }], "testing")?;
    // Wall clocks jump under the proxy's feet.
    provide(&[Need { program: "faketime", package: "faketime" }], "testing")?;
    workspace()?;
    run(&mut cargo(&["test", "--workspace", "--all-features", "--doc", "--locked"]))?;
    loom()?;
    examples()
}

/// Unit and integration tests of the whole workspace; among them that the schema and the reference of the settings are
/// what the code says now. With every feature: what asks for one is left out without a word otherwise.
fn workspace() -> Result<(), Failure> {
    let mut command = if answers("nextest") {
        cargo(&["nextest", "run", "--workspace", "--all-features", "--locked"])
    } else {
        say("cargo-nextest is not installed: the same tests run with cargo test");
        cargo(&["test", "--workspace", "--all-features", "--lib", "--bins", "--tests", "--locked"])
    };
    // Whatever the caller's shell says: a test that mends what it should compare compares nothing.
    run(command.env_remove("SEAWORTHY_UPDATE").env("INSTA_UPDATE", "no"))
}

/// The shared state of the library under every interleaving that loom can think of. Another `cfg` means another build
/// of everything it touches, so it has a folder of its own and leaves the other one's work alone.
fn loom() -> Result<(), Failure> {
    let target = root().join("target/loom");
    let mut command = cargo(&["test", "--package", "seaworthy", "--lib", "--locked", "--target-dir"]);
    // Loom explores thousands of interleavings; unoptimised, that is what takes the time.
    command
        .arg(&target)
        .args(["--", "loom"])
        .env("RUSTFLAGS", "--cfg seaworthy_loom")
        .env("CARGO_PROFILE_TEST_OPT_LEVEL", "1");
    let printed = run_and_read(&mut command)?;
    match passed(&printed) {
        0 => failed("no loom test ran: their names must contain `loom`"),
        count => {
            say(&format!("{count} loom tests passed"));
            Ok(())
        }
    }
}

/// How many tests passed, over all the `test result: ok. N passed; ..` lines.
fn passed(printed: &str) -> usize {
    let counts = printed.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
    counts.filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok()).sum()
}

/// Every example runs to its end: Rust programs, and the files that the commands read.
fn examples() -> Result<(), Failure> {
    for Program { package, name, features } in programs()? {
        let mut command = cargo(&["run", "--quiet", "--locked", "--package", &package, "--example", &name]);
        run(command.args(["--features", &features]))?;
    }
    let files = files(&root().join("examples"))?;
    for file in &files {
        let path = file.display().to_string();
        match read_by(file)? {
            Reader::Check => run(&mut seaworthy(&["check", &path]))?,
            Reader::Simulate => run(&mut seaworthy(&["simulate", &path]))?,
            Reader::Refuse => refused(&mut seaworthy(&["check", &path]))?,
        }
    }
    if files.is_empty() { failed("there are no examples/*.toml") } else { Ok(()) }
}

/// Runs it and expects it to find fault, which it says with the code 1.
fn refused(command: &mut std::process::Command) -> Result<(), Failure> {
    let output =
        command.output().map_err(|error| Failure(format!("seaworthy could not be started: {error}")))?;
    let told = [output.stdout, output.stderr].concat();
    match output.status.code() {
        Some(1) if !told.is_empty() => Ok(()),
        code => {
            failed(format!("a file full of mistakes ended with {code:?}: {}", String::from_utf8_lossy(&told)))
        }
    }
}

/// An example program of the workspace, and the features it asks for, comma-separated.
struct Program {
    package: String,
    name: String,
    features: String,
}

fn programs() -> Result<Vec<Program>, Failure> {
    let text = read(&mut cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text)
        .map_err(|error| Failure(format!("cargo metadata is not JSON: {error}")))?;
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default() {
        for target in package["targets"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let is_example =
                target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "example"));
            if let (true, Some(package), Some(name)) =
                (is_example, package["name"].as_str(), target["name"].as_str())
            {
                let asked = target["required-features"].as_array().map(Vec::as_slice).unwrap_or_default();
                let features = asked.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
                found.push(Program { package: package.to_owned(), name: name.to_owned(), features });
            }
        }
    }
    Ok(found)
}

/// Which command reads an example file.
#[derive(Debug, PartialEq, Eq)]
enum Reader {
    Check,
    Simulate,
    /// `seaworthy check`, which must find fault.
    Refuse,
}

/// Simulator scenarios say so in their name or lie in a folder of that name; every other file configures the proxy, and one
/// shows mistakes.
fn read_by(file: &Path) -> Result<Reader, Failure> {
    let folder = file.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match folder {
        _ if name.ends_with(".scenario.toml") => Ok(Reader::Simulate),
        "examples" if name.ends_with("mistakes.toml") => Ok(Reader::Refuse),
        "scenarios" | "simulate" => Ok(Reader::Simulate),
        "examples" | "proxy" => Ok(Reader::Check),
        other => failed(format!("{}: say in xtask/src/test.rs what reads examples/{other}", file.display())),
    }
}

/// The TOML files of a folder and of those in it, in the order of their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        let unreadable = |error| Failure(format!("{} can't be read: {error}", folder.display()));
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The `seaworthy` command, as the workspace builds it.
fn seaworthy(arguments: &[&str]) -> std::process::Command {
    let mut command =
        cargo(&["run", "--quiet", "--locked", "--package", "seaworthy-cli", "--bin", "seaworthy", "--"]);
    command.args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_summed_over_binaries() {
        let printed = "running 3 tests\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\
                       test result: ok. 4 passed; 0 failed\n";
        assert_eq!(passed(printed), 7);
        assert_eq!(passed("test result: FAILED. 3 passed; 1 failed"), 0);
    }

    #[test]
    fn a_folder_says_who_reads_its_files() {
        assert_eq!(read_by(Path::new("/r/examples/shop.toml")).unwrap(), Reader::Check);
        assert_eq!(read_by(Path::new("/r/examples/scenarios/storm.toml")).unwrap(), Reader::Simulate);
        assert_eq!(read_by(Path::new("/r/examples/mistakes.toml")).unwrap(), Reader::Refuse);
        assert_eq!(read_by(Path::new("/r/examples/storm.scenario.toml")).unwrap(), Reader::Simulate);
        assert!(read_by(Path::new("/r/examples/unknown/a.toml")).is_err());
    }
}
