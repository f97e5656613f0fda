//! What must hold of the code before any test runs.

mod deps;
mod licences;
mod no_std;
mod source;
mod words;

use crate::machine::provide_component;
use crate::shell::{Failure, cargo, failed, run};

pub(crate) use no_std::no_std;

/// The formatting is rustfmt's, in all workspaces.
pub(crate) fn fmt(_arguments: &[String]) -> Result<(), Failure> {
    provide_component("fmt", "rustfmt")?;
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    for manifest in ["bench/Cargo.toml", "fuzz/Cargo.toml"] {
        run(&mut cargo(&["fmt", "--manifest-path", manifest, "--check"]))?;
    }
    Ok(())
}

/// No lint fires in any target of the workspace.
pub(crate) fn clippy(_arguments: &[String]) -> Result<(), Failure> {
    provide_component("clippy", "clippy")?;
    run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))
}

/// The documentation builds without a warning: no broken link, no undocumented public item.
pub(crate) fn docs(_arguments: &[String]) -> Result<(), Failure> {
    run(cargo(&["doc", "--workspace", "--all-features", "--no-deps", "--locked"])
        .env("RUSTDOCFLAGS", "-D warnings"))
}

/// Who may depend on whom, under which licences, from where; and the words of the project.
pub(crate) fn deps(_arguments: &[String]) -> Result<(), Failure> {
    let metadata = deps::metadata()?;
    let mut faults = deps::faults(&metadata)?;
    faults.extend(licences::faults(&metadata));
    faults.extend(words::faults()?);
    report(&faults)
}

fn report(faults: &[String]) -> Result<(), Failure> {
    match faults {
        [] => Ok(()),
        faults => failed(format!("{} found\n  {}", faults.len(), faults.join("\n  "))),
    }
}
