//! A process that was started here, what it used, and its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child that ends when it goes out of scope.
pub struct Process {
    child: Child,
    name: String,
    output: PathBuf,
}

/// What is started, and how.
pub struct Start<'a> {
    /// A path, or a name to look for on the path.
    pub program: &'a Path,
    /// What it is told.
    pub arguments: &'a [&'a str],
    /// The file that takes what it prints.
    pub output: &'a Path,
    /// The one core that it may use; every core for none.
    pub core: Option<usize>,
    /// Whether its stdin stays open until it is ended, for programs that end with their stdin.
    pub leashed: bool,
}

/// CPU time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// Of its own instructions.
    pub user: f64,
    /// Of the kernel's on its behalf.
    pub system: f64,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// It could not be started, or its output file could not be made.
    pub fn start(start: &Start<'_>) -> Result<Self, String> {
        let name = start.program.display().to_string();
        let unusable = |error| format!("{}: {error}", start.output.display());
        let out = File::create(start.output).map_err(unusable)?;
        let err = out.try_clone().map_err(unusable)?;
        // taskset turns into the program: the child's id is the program's own.
        let mut command = Command::new(start.core.map_or(start.program, |_| Path::new("taskset")));
        if let Some(core) = start.core {
            command.args(["-c", &core.to_string()]).arg(start.program);
        }
        let stdin = if start.leashed { Stdio::piped() } else { Stdio::null() };
        let child = command.args(start.arguments).stdin(stdin).stdout(out).stderr(err).spawn();
        let child = child.map_err(|error| format!("{name} could not be started: {error}"))?;
        Ok(Self { child, name, output: start.output.to_path_buf() })
    }

    /// Waits until `look` finds something.
    ///
    /// # Errors
    /// It ended instead, or took longer than ten seconds; with what it printed.
    pub fn wait_for<T>(&mut self, look: impl Fn() -> Option<T>) -> Result<T, String> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            let ended = self.child.try_wait().map_err(|error| format!("{}: {error}", self.name))?;
            if ended.is_some() || Instant::now() >= until {
                let state =
                    ended.map_or("does not answer".to_owned(), |status| format!("ended with {status}"));
                return Err(format!("{} {state}:\n{}", self.name, self.printed()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes sure that it still runs: figures of one that ended meanwhile say nothing.
    ///
    /// # Errors
    /// It ended; with how, and with what it printed.
    pub fn check_that_it_runs(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(format!("{} ended meanwhile with {status}:\n{}", self.name, self.printed()))
            }
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// What it printed so far, or why that can't be told.
    fn printed(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_else(|error| error.to_string())
    }

    /// Sends it the signal of this name, as in `STOP`.
    ///
    /// # Errors
    /// `kill` could not be started, or was refused.
    pub fn signal(&self, name: &str) -> Result<(), String> {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        match sent {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("kill -{name} for {} ended with {status}", self.name)),
            Err(error) => Err(format!("kill could not be started: {error}")),
        }
    }

    /// Ends it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// It could not be killed.
    pub fn kill(&mut self) -> Result<(), String> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| format!("{} could not be killed: {error}", self.name))
    }

    /// The CPU time that it and its children used so far.
    ///
    /// # Errors
    /// /proc is not there or says something else than expected.
    pub fn cpu(&self) -> Result<Cpu, String> {
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

    /// The memory that it has now, in bytes (`VmRSS` in /proc), its children's not included.
    ///
    /// # Errors
    /// /proc is not there or says something else than expected.
    pub fn resident(&self) -> Result<u64, String> {
        let file = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map(|kib: u64| kib << 10)
            .ok_or_else(|| format!("{file} does not tell the memory of {}", self.name))
    }
}

impl Drop for Process {
    /// Asks it to end, which takes its children with it, and makes it after five seconds.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let asked = self.signal("TERM").is_ok();
        let until = Instant::now() + Duration::from_secs(5);
        while asked && Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("{} (process {}) could not be ended: {error}", self.name, self.child.id());
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
