//! Running other programs and talking to the person who waits.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Why a task failed, for a person to read: what was wrong and what to do.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A failure with this text.
pub(crate) fn failed<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(text.into()))
}

/// Prints one line (or several) at once, so that it doesn't mix with what a child prints.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe (`| head`) must not fail the task: its exit code is what counts.
    let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// The repository's root, wherever the task was started from.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// Cargo itself, in the repository's root: the very one that runs this task.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// Any other program, in the repository's root.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs it with its output shown as it comes.
///
/// # Errors
/// It could not be started, or it ended with anything but success.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    say(&format!("$ {}", spelled(command)));
    let status = command.status().map_err(|error| unstarted(command, &error))?;
    if status.success() { Ok(()) } else { failed(format!("`{}` ended with {status}", spelled(command))) }
}

/// Runs it and returns what it printed; its errors are shown as they come.
///
/// # Errors
/// It could not be started, ended with anything but success, or printed something that is not UTF-8.
pub(crate) fn read(command: &mut Command) -> Result<String, Failure> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| unstarted(command, &error))?;
    if !output.status.success() {
        return failed(format!("`{}` ended with {}", spelled(command), output.status));
    }
    String::from_utf8(output.stdout)
        .map_err(|error| Failure(format!("`{}` printed what is not UTF-8: {error}", spelled(command))))
}

/// Runs it with its output shown as it comes, and returns that output too.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_and_read(command: &mut Command) -> Result<String, Failure> {
    say(&format!("$ {}", spelled(command)));
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| unstarted(command, &error))?;
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(|error| Failure(format!("`{}`: {error}", spelled(command))))?;
            say(&line);
            text.push_str(&line);
            text.push('\n');
        }
    }
    let status = child.wait().map_err(|error| unstarted(command, &error))?;
    if status.success() { Ok(text) } else { failed(format!("`{}` ended with {status}", spelled(command))) }
}

/// Whether a program of this name can be started.
pub(crate) fn is_on_path(name: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    // Debian keeps daemons in sbin, which is not always on a user's path.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder: PathBuf| folder.join(name)).any(|file| file.is_file())
}

fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    let settings: String = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={:?} ", name.to_string_lossy(), value?)))
        .collect();
    settings + &line
}

fn unstarted(command: &Command, error: &std::io::Error) -> Failure {
    Failure(format!("`{}` could not be started: {error}", spelled(command)))
}
