//! `cargo xtask test`: everything that shows the product right, in the order of what fails fastest.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::machine::{Need, answers, provide};
use crate::shell::{Failure, cargo, failed, read, root, run, run_and_read, say};

/// Runs every test there is, or fails.
pub(crate) fn all(_arguments: &[String]) -> Result<(), Failure> {
    provide(&[Need { program: "cc", package: "gcc" }], "building")?;
    workspace()?;
    run(&mut cargo(&["test", "--workspace", "--doc", "--locked"]))?;
    loom()?;
    examples()?;
    schema()
}

/// Unit and integration tests of the whole workspace.
fn workspace() -> Result<(), Failure> {
    if answers("nextest") {
        return run(&mut cargo(&["nextest", "run", "--workspace", "--locked"]));
    }
    say("cargo-nextest is not installed: the same tests run with cargo test");
    run(&mut cargo(&["test", "--workspace", "--lib", "--bins", "--tests", "--locked"]))
}

/// The shared state of the library under every interleaving that loom can think of. Another `cfg` means another build
/// of everything it touches, so it has a folder of its own and leaves the other one's work alone.
fn loom() -> Result<(), Failure> {
    let target = root().join("target/loom");
    let mut command =
        cargo(&["test", "--package", "seaworthy", "--lib", "--locked", "--target-dir"]);
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
    for (package, name) in programs()? {
        run(&mut cargo(&["run", "--quiet", "--locked", "--package", &package, "--example", &name]))?;
    }
    for file in files(&root().join("examples"))? {
        let path = file.display().to_string();
        match read_by(&file)? {
            Reader::Check => run(&mut seaworthy(&["check", &path]))?,
            Reader::Simulate => run(&mut seaworthy(&["simulate", &path]))?,
        }
    }
    Ok(())
}

/// The example programs of the workspace: package and name.
fn programs() -> Result<Vec<(String, String)>, Failure> {
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
                found.push((package.to_owned(), name.to_owned()));
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
}

/// Simulator scenarios lie in a folder of that name; every other file configures the proxy.
fn read_by(file: &Path) -> Result<Reader, Failure> {
    let folder = file.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    match folder {
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

/// The published schema is the one that the code describes.
fn schema() -> Result<(), Failure> {
    let fresh = read(&mut seaworthy(&["schema"]))?;
    let path = root().join("seaworthy.schema.json");
    let kept = std::fs::read_to_string(&path)
        .map_err(|error| Failure(format!("{} can't be read: {error}", path.display())))?;
    if fresh.trim_end() == kept.trim_end() {
        say("seaworthy.schema.json is fresh");
        return Ok(());
    }
    let differing = fresh.lines().zip(kept.lines()).position(|(fresh, kept)| fresh != kept);
    let line = differing.unwrap_or_else(|| fresh.lines().count().min(kept.lines().count())) + 1;
    failed(format!(
        "seaworthy.schema.json is stale from line {line}: cargo run -- schema > seaworthy.schema.json"
    ))
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
        assert!(read_by(Path::new("/r/examples/unknown/a.toml")).is_err());
    }
}
