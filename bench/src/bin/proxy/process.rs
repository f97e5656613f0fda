//! A process that was started here, what it used, and its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child that ends when it goes out of scope.
pub(crate) struct Process {
    child: Child,
    name: String,
}

/// CPU time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl Process {
    /// Starts it on one core, its output in a file.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn start(
        core: usize,
        program: &Path,
        arguments: &[&str],
        output: &Path,
    ) -> Result<Self, String> {
        let name = program.display().to_string();
        let unusable = |error| format!("{}: {error}", output.display());
        let out = File::create(output).map_err(unusable)?;
        let err = out.try_clone().map_err(unusable)?;
        let mut command = Command::new("taskset");
        // taskset turns into the program: the child's id is the program's own.
        command.args(["-c", &core.to_string()]).arg(program).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.map_err(|error| format!("{name} could not be started: {error}"))?;
        Ok(Self { child, name })
    }

    /// Waits until `is_ready` says yes.
    ///
    /// # Errors
    /// It ended instead, or took longer than ten seconds; with what it printed.
    pub(crate) fn wait_until(&mut self, is_ready: impl Fn() -> bool, output: &Path) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if is_ready() {
                return Ok(());
            }
            let ended = self.child.try_wait().map_err(|error| format!("{}: {error}", self.name))?;
            if ended.is_some() || Instant::now() >= until {
                let printed = std::fs::read_to_string(output).unwrap_or_else(|error| error.to_string());
                let state =
                    ended.map_or("does not answer".to_owned(), |status| format!("ended with {status}"));
                return Err(format!("{} {state}:\n{printed}", self.name));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The CPU time that it and its children used so far.
    ///
    /// # Errors
    /// /proc is not there or says something else than expected.
    pub(crate) fn cpu(&self) -> Result<Cpu, String> {
        let stats = all_stats()?;
        let mut family = vec![self.child.id()];
        let mut sum = Cpu::default();
        let mut found = false;
        while let Some(id) = family.pop() {
            if let Some(stat) = stats.get(&id) {
                found = true;
                sum.user += stat.cpu.user;
                sum.system += stat.cpu.system;
            }
            family.extend(stats.iter().filter(|(_, stat)| stat.parent == id).map(|(child, _)| *child));
        }
        if found { Ok(sum) } else { Err(format!("{} is not running any more", self.name)) }
    }
}

impl Drop for Process {
    /// Asks it to end, which takes its children with it, and makes it after five seconds.
    fn drop(&mut self) {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().is_ok_and(|status| status.success());
        let until = Instant::now() + Duration::from_secs(5);
        while asked && Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("{} (process {id}) could not be ended: {error}", self.name);
        }
    }
}

struct Stat {
    parent: u32,
    cpu: Cpu,
}

/// Every process that there is now.
fn all_stats() -> Result<BTreeMap<u32, Stat>, String> {
    let entries = std::fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    // A process that ended meanwhile has no file any more, and no part in this.
    let stats =
        ids.filter_map(|id| Some((id, read(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?)));
    Ok(stats.collect())
}

/// Linux counts in hundredths of a second towards user space on every architecture (USER_HZ, proc(5)).
const TICK_MICROSECONDS: f64 = 10_000.0;

/// A line of /proc/ID/stat. The name, in parentheses, may hold anything; parent, user and system time are the fields 4, 14 and 15.
fn read(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |field: usize| Some(fields.get(field - 3)?.parse::<f64>().ok()? * TICK_MICROSECONDS);
    Some(Stat { parent: fields.get(1)?.parse().ok()?, cpu: Cpu { user: ticks(14)?, system: ticks(15)? } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_whatever_the_name() {
        let line = "42 (a) b (c)) S 7 42 42 0 -1 4194304 1 0 0 0 250 130 0 0 20 0 1 0 99 1 1 1";
        let stat = read(line).unwrap();
        assert_eq!((stat.parent, stat.cpu), (7, Cpu { user: 2_500_000.0, system: 1_300_000.0 }));
    }

    #[test]
    fn this_process_is_among_all() {
        assert!(all_stats().unwrap().contains_key(&std::process::id()));
    }
}
