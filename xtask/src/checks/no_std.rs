//! Core stays pure: it can ask no clock, open no socket and roll no die of its own.
//!
//! Four checks, because each alone can be got round:
//! 1. `cargo metadata`: core has no dependency but those of its tests.
//! 2. Its `lib.rs` says `#![no_std]`, unconditionally.
//! 3. The compiler: a program that brings its own panic handler links core. The standard library brings one too, and two
//!    don't go together, so this compiles only if nothing that core links is `std`. (No other target is needed for that,
//!    as a build for a machine without an operating system would.) A control, a library that does link `std`, must be refused.
//! 4. Its source, token by token: no path into `std`, no clock, in whatever is not compiled for tests alone, whatever
//!    features and `cfg`s stand around it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::source::{Token, modules, starts_with, tokens, without_tests};
use super::{deps, report};
use crate::shell::{Failure, cargo, failed, program, read, root, run, say};

const CORE: &str = "seaworthy-core";

/// Runs all four.
pub(crate) fn no_std(_arguments: &[String]) -> Result<(), Failure> {
    let mut faults = deps::faults_of_core(&deps::metadata()?, CORE);
    let sources = sources(&root().join("crates/core/src/lib.rs"))?;
    faults.extend(faults_of_attribute(&sources));
    faults.extend(sources.iter().flat_map(faults_of_file));
    report(&faults)?;
    say(&format!("{} source files of {CORE} name neither std nor a clock", sources.len()));
    links_no_std()
}

/// One file that is compiled outside tests.
struct Source {
    path: PathBuf,
    tokens: Vec<Token>,
}

/// The file and all that it reaches through `mod name;`, tests left out.
fn sources(lib: &Path) -> Result<Vec<Source>, Failure> {
    let mut waiting = vec![(lib.to_path_buf(), lib.parent().unwrap_or(lib).to_path_buf())];
    let mut found = Vec::new();
    while let Some((path, folder)) = waiting.pop() {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure(format!("{} can't be read: {error}", path.display())))?;
        let tokens = without_tests(&tokens(&text));
        if let Some(token) = tokens.iter().find(|token| token.text == "path" || token.text == "include") {
            let is_attribute = tokens.windows(3).any(|w| starts_with(w, &["#", "[", "path"]));
            let is_macro = tokens.windows(2).any(|w| starts_with(w, &["include", "!"]));
            if is_attribute || is_macro {
                return failed(format!(
                    "{}:{}: {} hides code from this check",
                    path.display(),
                    token.line,
                    token.text
                ));
            }
        }
        for name in modules(&tokens) {
            waiting.push(module_file(&folder, &name)?);
        }
        found.push(Source { path, tokens });
    }
    Ok(found)
}

/// A module's file, and the folder that its own modules lie in.
fn module_file(folder: &Path, name: &str) -> Result<(PathBuf, PathBuf), Failure> {
    let inner = folder.join(name);
    let candidates = [folder.join(format!("{name}.rs")), inner.join("mod.rs")];
    match candidates.into_iter().find(|file| file.is_file()) {
        Some(file) => Ok((file, inner)),
        None => failed(format!("no file for `mod {name};` in {}", folder.display())),
    }
}

fn faults_of_attribute(sources: &[Source]) -> Vec<String> {
    let says_so = |source: &Source| {
        source.tokens.windows(5).any(|window| starts_with(window, &["#", "!", "[", "no_std", "]"]))
    };
    match sources.first() {
        Some(lib) if says_so(lib) => Vec::new(),
        _ => vec!["crates/core/src/lib.rs doesn't say #![no_std]".to_owned()],
    }
}

/// Rows of tokens that have no place in core, and why.
const FORBIDDEN: &[(&[&str], &str)] = &[
    (&["std", ":", ":"], "a path into std"),
    (&["extern", "crate", "std"], "links std"),
    (&["use", "std"], "imports std"),
    (&["Instant", ":", ":", "now"], "asks a clock; the time is an argument"),
    (&["SystemTime"], "asks the wall clock; the time is an argument"),
    (&["thread_rng"], "rolls its own die; randomness is an argument"),
    (&["static", "mut"], "hidden shared state"),
];

fn faults_of_file(source: &Source) -> Vec<String> {
    let positions = 0..source.tokens.len();
    let found = positions.flat_map(|at| {
        let rest = &source.tokens[at..];
        FORBIDDEN.iter().filter(|(texts, _)| starts_with(rest, texts)).map(move |(texts, why)| {
            format!("{}:{}: `{}`: {why}", source.path.display(), rest[0].line, texts.concat())
        })
    });
    found.collect()
}

/// The compiler's word for it: see the head of this file.
fn links_no_std() -> Result<(), Failure> {
    let folder = root().join("target/no-std");
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure(format!("{} can't be made: {error}", folder.display())))?;
    let control = folder.join("libcontrol.rlib");
    write(&folder.join("control.rs"), "pub fn touch() -> usize { std::env::args().count() }\n")?;
    run(rustc(&folder, "control.rs").args(["-o"]).arg(&control))?;
    let refused = probe(&folder, "control", &control).output();
    let refused = refused.map_err(|error| Failure(format!("rustc could not be started: {error}")))?;
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    if refused.status.success() || !complaint.contains("panic_impl") {
        return failed(format!(
            "the control links std and was not refused for it; this check proves nothing\n{complaint}"
        ));
    }
    run(&mut probe(&folder, "seaworthy_core", &built_core()?))?;
    say(&format!("{CORE} links no std; the control, which does, was refused"));
    Ok(())
}

/// A library without `std` but with a panic handler, linked with the given one.
fn probe(folder: &Path, name: &str, library: &Path) -> std::process::Command {
    let text = format!(
        "#![no_std]\nextern crate {name};\n#[panic_handler]\nfn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {{ loop {{}} }}\n"
    );
    let source = format!("probe_{name}.rs");
    let mut command = rustc(folder, &source);
    // A file that can't be written makes rustc fail on the missing file, which is the failure to show.
    let _shown_by_rustc = write(&folder.join(&source), &text);
    let mut external = std::ffi::OsString::from(format!("{name}="));
    external.push(library);
    command
        .args(["--emit", "metadata", "-o"])
        .arg(folder.join(format!("{name}.rmeta")))
        .arg("--extern")
        .arg(external);
    command
}

fn rustc(folder: &Path, source: &str) -> std::process::Command {
    let mut command = program("rustc", &["--edition", "2024", "--crate-type", "lib"]);
    command.arg(folder.join(source));
    command
}

/// Builds core as the workspace does and returns where it lies.
fn built_core() -> Result<PathBuf, Failure> {
    let arguments = ["build", "--package", CORE, "--lib", "--locked", "--message-format", "json"];
    let messages = read(&mut cargo(&arguments))?;
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let files = artifacts
        .filter(|message| message["target"]["name"] == "seaworthy_core")
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    let mut libraries = files.filter_map(|file| file.as_str().map(PathBuf::from));
    match libraries.find(|file| file.extension().is_some_and(|extension| extension == "rlib")) {
        Some(file) => Ok(file),
        None => failed(format!("cargo built {CORE} and named no .rlib")),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure(format!("{} can't be written: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> usize {
        let tokens = without_tests(&tokens(text));
        faults_of_file(&Source { path: PathBuf::from("a.rs"), tokens }).len()
    }

    #[test]
    fn a_clock_or_std_is_found_outside_tests_only() {
        assert_eq!(faults("fn a() { std::mem::drop(1) }"), 1);
        assert_eq!(faults("#[cfg(feature = \"x\")] extern crate std;"), 1);
        assert_eq!(faults("let now = Instant\n::now();"), 1);
        assert_eq!(faults("fn at(t: SystemTime) {}"), 1);
        assert_eq!(
            faults("// std::time::Instant::now\n#[cfg(test)] mod tests { use std::time::SystemTime; }"),
            0
        );
        assert_eq!(faults("let s = \"std::fs\"; use core::time::Duration; use alloc::vec::Vec;"), 0);
    }

    #[test]
    fn no_std_must_be_unconditional() {
        let lib = |text| vec![Source { path: PathBuf::from("lib.rs"), tokens: tokens(text) }];
        assert!(faults_of_attribute(&lib("//! Docs.\n#![no_std]\n")).is_empty());
        assert_eq!(faults_of_attribute(&lib("#![cfg_attr(not(test), no_std)]")).len(), 1);
        assert_eq!(faults_of_attribute(&lib("// #![no_std]")).len(), 1);
    }
}
