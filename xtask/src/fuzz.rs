//! What is read of strangers, fed with whatever a fuzzer thinks of. The targets stand in fuzz/, a workspace of its own, so that
//! nobody who only tests has to build a fuzzer.
//!
//! No sanitizer is asked for: our own code is safe Rust, and what is looked for are panics and broken promises. So the stable
//! toolchain does.

use std::path::Path;

use crate::machine::{Need, answers, provide};
use crate::shell::{Failure, cargo, failed, root, run, say};

/// Feeds every target for so many seconds; a minute if none are named.
pub(crate) fn all(arguments: &[String]) -> Result<(), Failure> {
    let seconds = seconds(arguments)?;
    // libFuzzer is C++.
    provide(&[Need { program: "c++", package: "g++" }], "cargo xtask fuzz")?;
    if !answers("fuzz") {
        return failed("`cargo fuzz` is missing here. Run: cargo install --locked cargo-fuzz");
    }
    let targets = targets(&root().join("fuzz/fuzz_targets"))?;
    run(cargo(&["fuzz", "build"]).args(BUILD))?;
    for target in &targets {
        feed(target, seconds)?;
    }
    say(&format!("{} targets survived {seconds} s each: {}", targets.len(), targets.join(", ")));
    Ok(())
}

/// What it finds is left in fuzz/artifacts; fixed, it becomes a seed, which every later run and the proxy's tests begin with.
fn feed(target: &str, seconds: u64) -> Result<(), Failure> {
    let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
    let unmade = |error| Failure(format!("{corpus} can't be made: {error}"));
    std::fs::create_dir_all(root().join(&corpus)).map_err(unmade)?;
    let mut command = cargo(&["fuzz", "run"]);
    command.args(BUILD).args([target, &corpus, &seeds, "--", "-dict=fuzz/http.dict"]);
    run(command.args([LONGEST, &format!("-max_total_time={seconds}"), "-print_final_stats=1"]))
}

fn seconds(arguments: &[String]) -> Result<u64, Failure> {
    match arguments {
        [] => Ok(A_MINUTE),
        [text] => match text.parse() {
            // libFuzzer takes zero for endless.
            Ok(seconds) if seconds > 0 => Ok(seconds),
            _ => failed(format!("{text} is no number of seconds; usage: cargo xtask fuzz [SECONDS]")),
        },
        _ => failed("usage: cargo xtask fuzz [SECONDS]"),
    }
}

/// The names of the targets, in order.
fn targets(folder: &Path) -> Result<Vec<String>, Failure> {
    let unreadable = |error| Failure(format!("{} can't be read: {error}", folder.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    if names.is_empty() { failed("there are no fuzz/fuzz_targets/*.rs") } else { Ok(names) }
}

/// How the targets are built, and where to: not beside what everybody builds.
const BUILD: &[&str] = &["--sanitizer", "none", "--target-dir", "target/fuzz"];

/// Long enough for a whole head; more only repeats.
const LONGEST: &str = "-max_len=4096";

const A_MINUTE: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_unless_somebody_says_otherwise() {
        assert_eq!(seconds(&[]).unwrap(), 60);
        assert_eq!(seconds(&["5".to_owned()]).unwrap(), 5);
        for bad in ["0", "-1", "long"] {
            assert!(seconds(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_target_is_declared_and_has_seeds() {
        let fuzz = root().join("fuzz");
        let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        let targets = targets(&fuzz.join("fuzz_targets")).unwrap();
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
        for target in targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
            assert!(fuzz.join("seeds").join(&target).read_dir().unwrap().next().is_some(), "{target}");
        }
    }
}
