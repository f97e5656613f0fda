//! How the host is, read a few times a second.

use std::fs;
use std::path::{Path, PathBuf};

use seaworthy_core::gate::pressure::Reading;

/// Reads how the host is, for [`seaworthy_core::gate::pressure`]. A read opens some ten small files, none of them on a disk.
#[derive(Debug)]
pub struct Sampler {
    root: PathBuf,
    before: Option<Times>,
}

/// Processors' time so far.
#[derive(Clone, Debug)]
struct Times {
    /// What was used, in ticks.
    used: u64,
    /// All there was, in ticks.
    all: u64,
    group: Option<Group>,
}

/// A control group that may use only so much of it.
#[derive(Clone, Debug)]
struct Group {
    folder: PathBuf,
    /// How many processors' time it may use (`cpu.max`).
    processors: f64,
    /// What it has used, in microseconds (`cpu.stat`).
    usage: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Sampler {
    /// Of this host.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Path::new("/"))
    }

    /// Of the host whose file system begins at `root`.
    fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), before: None }
    }

    /// How the host is. What it doesn't tell is `None`: outside of Linux that is nearly everything, and processors' time at the
    /// first look, as there is nothing yet to compare it with.
    pub fn read(&mut self) -> Reading {
        Reading {
            cpu: self.cpu(),
            cpu_stall: self.stall("cpu"),
            memory: super::memory::read(&self.root).ok().map(|used| used.share()),
            memory_stall: self.stall("memory"),
            descriptors: descriptors(),
        }
    }

    /// The share of the processors' time that was used since the last look (proc(5), `/proc/stat`); or of what the control group
    /// may use of it, if that is the tighter.
    fn cpu(&mut self) -> Option<f64> {
        let text = fs::read_to_string(self.root.join("proc/stat")).ok()?;
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        // user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user's already.
        let ticks: Vec<u64> = line.split_ascii_whitespace().take(8).map_while(|n| n.parse().ok()).collect();
        let [_, _, _, idle, iowait, ..] = ticks[..] else { return None };
        let all: u64 = ticks.iter().sum();
        let processors = text.lines().skip(1).take_while(|line| line.starts_with("cpu")).count().max(1);
        let now = Times { used: all.saturating_sub(idle).saturating_sub(iowait), all, group: self.group() };
        let before = self.before.replace(now.clone())?;
        let passed = all.checked_sub(before.all).filter(|passed| *passed > 0)?;
        let machine = now.used.saturating_sub(before.used) as f64 / passed as f64;
        let seconds = passed as f64 / processors as f64 / TICKS_PER_SECOND;
        let group = now.group.zip(before.group).filter(|(now, before)| now.folder == before.folder);
        let group = group.map(|(now, before)| {
            now.usage.saturating_sub(before.usage) as f64 / 1e6 / (seconds * now.processors)
        });
        Some(machine.max(group.unwrap_or(0.0)).min(1.0))
    }

    /// The control group with the tightest bound, among this process' own and those above it (version 2); none if there is none.
    fn group(&self) -> Option<Group> {
        let groups = fs::read_to_string(self.root.join("proc/self/cgroup")).ok()?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let top = self.root.join("sys/fs/cgroup");
        // In a container the path can be one that only the host sees; the top is then its own group.
        let folders = Path::new(path).ancestors().map(|path| top.join(path));
        let bounded = folders.filter_map(|folder| {
            let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            let processors = quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?;
            (processors.is_finite() && processors > 0.0).then_some((folder, processors))
        });
        let (folder, processors) = bounded.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let stat = fs::read_to_string(folder.join("cpu.stat")).ok()?;
        let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()?;
        Some(Group { folder, processors, usage })
    }

    /// The share of the last ten seconds in which something waited for it (Linux, `Documentation/accounting/psi.rst`).
    fn stall(&self, what: &str) -> Option<f64> {
        let text = fs::read_to_string(self.root.join("proc/pressure").join(what)).ok()?;
        let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
        let average = some.split(' ').find_map(|field| field.strip_prefix("avg10="))?;
        let percent: f64 = average.parse().ok()?;
        (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
    }
}

#[cfg(unix)]
fn descriptors() -> Option<f64> {
    super::system::read_descriptors().ok().map(|used| used.share())
}

#[cfg(not(unix))]
fn descriptors() -> Option<f64> {
    None
}

/// What `/proc/stat` counts in; since Linux 2.6 it is that whatever the kernel's own tick (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of files.
    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn processors_time_is_compared_with_the_last_look() {
        let root = host(&[("proc/stat", "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n")]);
        let mut sampler = Sampler::at(root.path());
        assert_eq!(sampler.read().cpu, None);
        fs::write(root.path().join("proc/stat"), "cpu  160 0 60 820 60 0 0 0 0 0\n").unwrap();
        assert_eq!(sampler.read().cpu, Some(0.7));
        assert_eq!(sampler.read().cpu, None, "no time has passed");
    }

    #[test]
    fn a_group_that_may_use_less_than_the_machine_is_the_measure() {
        let root = host(&[
            ("proc/stat", "cpu 100 0 0 900 0 0 0 0 0 0\ncpu0 1\ncpu1 1\nintr 5\n"),
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/a/cpu.stat", "usage_usec 1000000\nuser_usec 5\n"),
        ]);
        let mut sampler = Sampler::at(root.path());
        assert_eq!(sampler.read().cpu, None);
        // A second of two processors has passed, of which a fifth was used: 0.4 s, of the half second that the group may use.
        fs::write(root.path().join("proc/stat"), "cpu 140 0 0 1060 0 0 0 0 0 0\ncpu0 1\ncpu1 1\n").unwrap();
        fs::write(root.path().join("sys/fs/cgroup/a/cpu.stat"), "usage_usec 1400000\n").unwrap();
        assert_eq!(sampler.read().cpu, Some(0.8));
    }

    #[test]
    fn stalls_are_what_the_kernel_says() {
        let text =
            "some avg10=37.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=1.00 avg60=0 avg300=0 total=0\n";
        let root = host(&[("proc/pressure/memory", text), ("proc/pressure/cpu", "some avg10=lots\n")]);
        let reading = Sampler::at(root.path()).read();
        assert_eq!((reading.memory_stall, reading.cpu_stall), (Some(0.375), None));
    }

    #[test]
    fn a_host_that_tells_nothing_is_no_trouble() {
        let root = host(&[]);
        let reading = Sampler::at(root.path()).read();
        assert_eq!(
            (reading.cpu, reading.cpu_stall, reading.memory, reading.memory_stall),
            (None, None, None, None)
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_host_tells() {
        let reading = Sampler::new().read();
        assert!(reading.memory.is_some_and(|share| share > 0.0 && share <= 1.0), "{reading:?}");
        assert!(reading.descriptors.is_some_and(|share| share > 0.0 && share < 1.0), "{reading:?}");
    }
}
