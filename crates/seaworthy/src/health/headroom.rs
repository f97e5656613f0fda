//! Headroom: how far this process is from the limits that would end it.
//!
//! # What it is for
//! Memory, open files, disk and the event loop run out slowly, and then all at once. Each of these checks compares what is used
//! with what there is, warns early and fails late. None is critical unless you [say so](super::Check::critical): whoever takes an
//! instance out because its disk is nearly full moves its load to others whose disks are as full.
//!
//! # How
//! | check | what is used | what there is | source |
//! |---|---|---|---|
//! | `memory:utilization` | what can't be given back | the limit of each cgroup above this process, or the machine's memory; the tightest counts | `memory.current`, `memory.max` (v2); `memory.usage_in_bytes`, `memory.limit_in_bytes` (v1); `MemAvailable` |
//! | `fileDescriptors:utilization` | open ones | the soft limit | `/proc/self/fd`, `RLIMIT_NOFILE` |
//! | `disk:utilization` | blocks, or inodes if they are scarcer | what this user may have | `statvfs` |
//! | `eventLoop:lag` | how late a timer fired, at worst in the last five to ten seconds | | a probe that the program spawns |
//!
//! Page cache that can be dropped does not count as used: of a cgroup, `inactive_file` is taken off, as Kubernetes does for its
//! working set. Where the system does not say (Linux says all of it), the finding is a warning that tells so.
//!
//! ```
//! use seaworthy::health::{HealthRegistry, headroom};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let health = HealthRegistry::new("shop", "1.4.2");
//! let probe = headroom::register(&health, headroom::Config::default(), &["/".into()]).unwrap();
//! // The probe measures the loop that it runs on, and ends when nobody asks for it any more.
//! tokio::spawn(probe);
//! # tokio::task::yield_now().await;
//! println!("{}", health.deep().await.to_json());
//! # });
//! ```

mod lag;
mod memory;
mod sampler;
#[cfg(unix)]
mod system;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use seaworthy_core::{Fault, Rules, Valid};

pub use self::sampler::Sampler;
use super::{Check, Finding, HealthRegistry, Status};

/// From where on there is too little left.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// Used share of the memory. 0.85 and 0.95: at 1 the kernel kills, and what is left at 0.95 is one burst's worth.
    pub memory: Share,
    /// Used share of the file descriptors. 0.7 and 0.9, as the alerts that ship with Prometheus' node exporter have it
    /// (`NodeFileDescriptorLimit`): a connection needs one or two, and without any left none is accepted.
    pub descriptors: Share,
    /// Used share of a disk. 0.85 and 0.95, Elasticsearch's low and last watermark: above the one it puts no more there, above
    /// the other it stops writing.
    pub disk: Share,
    /// How late the event loop is. 100 ms and 1 s: at the one, people notice; at the other, a Kubernetes probe with its default
    /// timeout gives up.
    pub lag: Lag,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memory: Share { warn: 0.85, fail: 0.95 },
            descriptors: Share { warn: 0.7, fail: 0.9 },
            disk: Share { warn: 0.85, fail: 0.95 },
            lag: Lag { warn: Duration::from_millis(100), fail: Duration::from_secs(1) },
        }
    }
}

/// Bounds of a used share; what reaches one is past it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share {
    /// From this share on it is worth a look, above 0 and at most 1.
    pub warn: f64,
    /// From this share on it is not well, at least `warn` and at most 1.
    pub fail: f64,
}

impl Share {
    /// How well it is when this share is `used`. A share that is no number is not well.
    #[must_use]
    pub fn judge(self, used: f64) -> Status {
        match used {
            used if used < self.warn => Status::Pass,
            used if used < self.fail => Status::Warn,
            _ => Status::Fail,
        }
    }
}

/// Bounds of a lag; what reaches one is past it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lag {
    /// From here on it is worth a look.
    pub warn: Duration,
    /// From here on it is not well.
    pub fail: Duration,
}

impl Lag {
    /// How well it is when a timer fires so `late`.
    #[must_use]
    pub fn judge(self, late: Duration) -> Status {
        match late {
            late if late < self.warn => Status::Pass,
            late if late < self.fail => Status::Warn,
            _ => Status::Fail,
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let shares = [
            ("memory.warn", "memory.fail", self.memory),
            ("descriptors.warn", "descriptors.fail", self.descriptors),
            ("disk.warn", "disk.fail", self.disk),
        ];
        for (warn, fail, share) in shares {
            if !(share.warn > 0.0 && share.warn <= 1.0) {
                let problem = format!("is {}", share.warn);
                faults.push(Fault {
                    field: warn,
                    problem,
                    remedy: "write a share above 0 and at most 1".into(),
                });
            }
            if !(share.fail >= share.warn && share.fail <= 1.0) {
                let problem = format!("is {}", share.fail);
                faults.push(Fault { field: fail, problem, remedy: "write a share from warn to 1".into() });
            }
        }
        if self.lag.warn.is_zero() {
            let remedy = "every timer is a little late: write \"100ms\"".into();
            faults.push(Fault { field: "lag.warn", problem: "is 0".into(), remedy });
        }
        if self.lag.fail < self.lag.warn {
            let problem = format!("is {:?}, below warn ({:?})", self.lag.fail, self.lag.warn);
            faults.push(Fault {
                field: "lag.fail",
                problem,
                remedy: "write at least as much as warn".into(),
            });
        }
        faults
    }
}

/// Registers all of these checks, that of the disk for each of `folders`, and returns the probe of the event loop, which is to be
/// spawned on it.
///
/// # Errors
/// Everything that is wrong with `config`.
pub fn register(
    registry: &HealthRegistry,
    config: Config,
    folders: &[PathBuf],
) -> Result<impl Future<Output = ()> + Send + use<>, Vec<Fault>> {
    let config = *Valid::new(config)?;
    registry.register(memory(config.memory));
    registry.register(descriptors(config.descriptors));
    for folder in folders {
        registry.register(disk(config.disk, folder));
    }
    let (check, probe) = event_loop(config.lag);
    registry.register(check);
    Ok(probe)
}

/// `memory:utilization`.
#[must_use]
pub fn memory(bounds: Share) -> Check {
    check("memory:utilization", move || used(memory::read(Path::new("/")), bounds))
}

/// `fileDescriptors:utilization`.
#[must_use]
pub fn descriptors(bounds: Share) -> Check {
    check("fileDescriptors:utilization", move || used(read_descriptors(), bounds))
}

/// `disk:utilization` of the file system on which `folder` lies. A network file system that hangs, hangs whoever asks: the
/// check is for disks.
#[must_use]
pub fn disk(bounds: Share, folder: &Path) -> Check {
    let path = folder.to_owned();
    let check = check("disk:utilization", move || used(read_disk(&path), bounds));
    check.id(&folder.display().to_string())
}

/// `eventLoop:lag`, and the probe that measures it on the event loop that it is spawned on. The probe ends when the check is gone.
#[must_use = "a probe that is not spawned measures nothing"]
pub fn event_loop(bounds: Lag) -> (Check, impl Future<Output = ()> + Send + use<>) {
    let (lag, probe) = lag::probe();
    let check = check("eventLoop:lag", move || match lag.worst() {
        None => Finding::warn("nobody measures it: the probe was not spawned, or has ended"),
        Some(late) => {
            let ms = (late.as_secs_f64() * 1e4).round() / 10.0;
            let told = || format!("a timer fired {ms} ms late; {:?} is too much", bounds.warn);
            finding(bounds.judge(late), told).observed(ms, "ms")
        }
    });
    (check, probe)
}

/// What is used of what there is.
#[derive(Clone, PartialEq, Debug)]
struct Used {
    used: u64,
    of: u64,
    unit: &'static str,
    /// Whose limit it is.
    whose: String,
}

impl Used {
    fn share(&self) -> f64 {
        // Of nothing, everything is used.
        if self.of == 0 { 1.0 } else { self.used as f64 / self.of as f64 }
    }
}

fn used(read: Result<Used, String>, bounds: Share) -> Finding {
    match read {
        Err(why) => Finding::warn(format!("it is not known: {why}")),
        Ok(it) => {
            let percent = (it.share() * 1_000.0).round() / 10.0;
            let status = bounds.judge(it.share());
            let bound = if status == Status::Fail { bounds.fail } else { bounds.warn } * 100.0;
            let Used { used, of, unit, whose } = &it;
            let told = || format!("{used} of {of} {unit} are used ({whose}); {bound}% is too much");
            finding(status, told).observed(percent, "percent")
        }
    }
}

/// A finding that explains itself unless all is well.
fn finding(status: Status, told: impl FnOnce() -> String) -> Finding {
    Finding { status, observed: None, output: (status != Status::Pass).then(told) }
}

fn check(name: &str, find: impl Fn() -> Finding + Send + Sync + 'static) -> Check {
    // All of it is read from the kernel's memory, in microseconds.
    Check::new(name, move || std::future::ready(find())).component("system")
}

#[cfg(unix)]
use system::{read_descriptors, read_disk};

#[cfg(not(unix))]
fn read_descriptors() -> Result<Used, String> {
    Err("this system has no limit of file descriptors".into())
}

#[cfg(not(unix))]
fn read_disk(_folder: &Path) -> Result<Used, String> {
    Err("it is looked up on Unix only".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_judged_to_the_last_bit() {
        let share = Share { warn: 0.85, fail: 0.95 };
        let judged = [0.0, 0.85f64.next_down(), 0.85, 0.95f64.next_down(), 0.95, 1.0, 7.0, f64::NAN];
        use Status::{Fail, Pass, Warn};
        assert_eq!(judged.map(|used| share.judge(used)), [Pass, Pass, Warn, Warn, Fail, Fail, Fail, Fail]);
    }

    #[test]
    fn a_lag_is_judged_to_the_nanosecond() {
        let lag = Config::default().lag;
        let nano = Duration::from_nanos(1);
        let judged = [Duration::ZERO, lag.warn - nano, lag.warn, lag.fail - nano, lag.fail, Duration::MAX];
        use Status::{Fail, Pass, Warn};
        assert_eq!(judged.map(|late| lag.judge(late)), [Pass, Pass, Warn, Warn, Fail, Fail]);
    }

    #[test]
    fn what_is_used_up_says_of_what_and_whose() {
        let it = |used| Ok(Used { used, of: 1_000, unit: "bytes", whose: "cgroup /shop".into() });
        let bounds = Config::default().memory;
        assert_eq!(used(it(849), bounds), Finding::pass().observed(84.9, "percent"));
        assert_eq!(
            used(it(850), bounds),
            Finding::warn("850 of 1000 bytes are used (cgroup /shop); 85% is too much")
                .observed(85.0, "percent")
        );
        assert_eq!(
            used(it(950), bounds),
            Finding::fail("950 of 1000 bytes are used (cgroup /shop); 95% is too much")
                .observed(95.0, "percent")
        );
        assert_eq!(used(Err("no file".into()), bounds), Finding::warn("it is not known: no file"));
        let nothing = Used { used: 0, of: 0, unit: "bytes", whose: String::new() };
        assert_eq!(used(Ok(nothing), bounds).status, Status::Fail);
    }

    #[test]
    fn the_defaults_obey_their_rules_and_faults_name_their_field() {
        assert_eq!(Config::default().faults(), []);
        let bad = Config {
            memory: Share { warn: 0.0, fail: 0.5 },
            descriptors: Share { warn: 0.9, fail: 0.8 },
            disk: Share { warn: f64::NAN, fail: 1.1 },
            lag: Lag { warn: Duration::from_secs(2), fail: Duration::from_secs(1) },
        };
        let fields: Vec<_> = bad.faults().iter().map(|fault| fault.field).collect();
        assert_eq!(fields, ["memory.warn", "descriptors.fail", "disk.warn", "disk.fail", "lag.fail"]);
    }
}
