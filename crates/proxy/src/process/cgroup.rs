//! Limits by control groups, version 2: one group for each replica, which holds for all that the replica starts together.
//!
//! The rules are the kernel's (Documentation/admin-guide/cgroup-v2.rst). A group that hands controllers to groups below it may hold no
//! process itself, unless it is the root; so where the supervisor's own group has no controllers handed down yet, the supervisor moves
//! itself one group down. That works where the group is ours to change: in a container of its own, or under systemd with `Delegate=yes`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The group below which replicas get theirs.
pub(super) struct Cgroups {
    base: PathBuf,
    /// Whether replicas can have their memory limited.
    pub memory: bool,
    /// Whether replicas can have their processor time limited.
    pub cpu: bool,
}

impl Cgroups {
    /// Those of this process, or why there are none.
    pub(super) fn find() -> Result<Self, String> {
        let own = fs::read_to_string("/proc/self/cgroup")
            .map_err(|error| format!("/proc/self/cgroup can't be read: {error}"))?;
        // "0::" is the entry of version 2 (cgroups(7), "/proc files").
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or(NO_V2)?;
        let base = MOUNTS
            .iter()
            .map(|mount| Path::new(mount).join(own.trim_start_matches('/')))
            .find(|base| base.join(CONTROLLERS).exists())
            .ok_or(NO_V2)?;
        Self::at(base)
    }

    /// Those below `base`, after handing down what it has.
    fn at(base: PathBuf) -> Result<Self, String> {
        let has = words(&base.join(CONTROLLERS)).map_err(|error| told(&base, &error))?;
        let wanted: Vec<&str> =
            ["memory", "cpu"].into_iter().filter(|name| has.iter().any(|h| h == name)).collect();
        if wanted.is_empty() {
            return Err(format!(
                "cgroup v2 at {} has neither the memory nor the cpu controller",
                base.display()
            ));
        }
        hand_down(&base, &wanted).map_err(|error| told(&base, &error))?;
        Ok(Self { memory: wanted.contains(&"memory"), cpu: wanted.contains(&"cpu"), base })
    }

    /// A group with these limits. Ask for none that the controllers can't keep.
    pub(super) fn make(&self, name: &str, memory: Option<u64>, cpu: Option<f64>) -> io::Result<Group> {
        // Two proxies may have processes of the same name.
        let path = self.base.join(format!("seaworthy-{}-{name}", std::process::id()));
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut group = Group { path, kills_before: 0 };
        if let Some(bytes) = memory {
            fs::write(group.path.join("memory.max"), bytes.to_string())?;
            // Memory beyond the limit must not become swap. A kernel without swap has no such file.
            write_if_there(&group.path.join("memory.swap.max"), "0")?;
            // All or nothing: half a replica serves nobody.
            write_if_there(&group.path.join("memory.oom.group"), "1")?;
        }
        if let Some(cores) = cpu {
            let quota = (cores * f64::from(PERIOD_US)).max(f64::from(LEAST_QUOTA_US)) as u64;
            fs::write(group.path.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
        }
        group.kills_before = group.memory_kills();
        Ok(group)
    }
}

/// One replica's group.
pub(super) struct Group {
    path: PathBuf,
    kills_before: u64,
}

impl Group {
    /// The file that a process joins by.
    pub(super) fn procs(&self) -> PathBuf {
        self.path.join(PROCS)
    }

    /// Whether the kernel killed in it for want of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.memory_kills() > self.kills_before
    }

    fn memory_kills(&self) -> u64 {
        // Without a limit on memory there is no such file, and nothing to count.
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Kills everything in it.
    pub(super) fn kill(&self) {
        // Kernels before 5.14 have no such file; there the process group has to do.
        let _ = write_if_there(&self.path.join("cgroup.kill"), "1");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What was killed may take a moment to leave; then the group stays, empty, and is used again at the next start.
        let _ = fs::remove_dir(&self.path);
    }
}

fn hand_down(base: &Path, wanted: &[&str]) -> io::Result<()> {
    let control = base.join("cgroup.subtree_control");
    let has = words(&control)?;
    let missing: Vec<String> =
        wanted.iter().filter(|name| !has.iter().any(|h| h == *name)).map(|name| format!("+{name}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(" ");
    match fs::write(&control, &missing) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let own = base.join(format!("seaworthy-{}", std::process::id()));
            fs::create_dir_all(&own)?;
            fs::write(own.join(PROCS), std::process::id().to_string())?;
            fs::write(&control, &missing).inspect_err(|_| {
                // Others are in the group too, so it was in vain: back to where we were.
                let _ = fs::write(base.join(PROCS), std::process::id().to_string());
                let _ = fs::remove_dir(&own);
            })
        }
        done => done,
    }
}

fn words(path: &Path) -> io::Result<Vec<String>> {
    Ok(fs::read_to_string(path)?.split_whitespace().map(str::to_owned).collect())
}

fn write_if_there(path: &Path, value: &str) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).open(path) {
        Ok(mut file) => io::Write::write_all(&mut file, value.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn told(base: &Path, error: &io::Error) -> String {
    format!("the cgroup {} is not ours to change: {error}", base.display())
}

/// Where version 2 is mounted: alone, or beside version 1 (systemd's hybrid layout).
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const CONTROLLERS: &str = "cgroup.controllers";
const PROCS: &str = "cgroup.procs";
const NO_V2: &str = "this system has no cgroup v2";
/// The kernel's default period.
const PERIOD_US: u32 = 100_000;
/// The kernel refuses quotas below a millisecond.
const LEAST_QUOTA_US: u32 = 1_000;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A folder laid out like a cgroup. It behaves like files, not like the kernel.
    pub(in crate::process) struct Layout(PathBuf);

    impl Layout {
        pub(in crate::process) fn new(name: &str, controllers: &str, handed_down: &str) -> Self {
            let base = std::env::temp_dir().join(format!("seaworthy-cgroup-{name}-{}", std::process::id()));
            fs::create_dir_all(&base).unwrap();
            fs::write(base.join(CONTROLLERS), controllers).unwrap();
            fs::write(base.join("cgroup.subtree_control"), handed_down).unwrap();
            Self(base)
        }

        pub(in crate::process) fn cgroups(&self) -> Cgroups {
            Cgroups::at(self.0.clone()).unwrap()
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.join(file)).unwrap()
        }
    }

    impl Drop for Layout {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn in_group(file: &str) -> String {
        format!("seaworthy-{}-api-1/{file}", std::process::id())
    }

    #[test]
    fn controllers_are_handed_down_once() {
        let layout = Layout::new("down", "cpuset cpu io memory pids\n", "");
        let cgroups = layout.cgroups();
        assert!(cgroups.memory && cgroups.cpu);
        assert_eq!(layout.read("cgroup.subtree_control"), "+memory +cpu");

        let layout = Layout::new("had", "cpu memory\n", "memory cpu\n");
        layout.cgroups();
        assert_eq!(layout.read("cgroup.subtree_control"), "memory cpu\n");
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let layout = Layout::new("limits", "cpu memory", "cpu memory");
        let cgroups = layout.cgroups();
        let group = cgroups.make("api-1", Some(64 << 20), Some(0.25)).unwrap();
        assert_eq!(layout.read(&in_group("memory.max")), "67108864");
        assert_eq!(layout.read(&in_group("cpu.max")), "25000 100000");
        assert_eq!(group.procs(), layout.0.join(in_group(PROCS)));
    }

    #[test]
    fn a_kill_for_want_of_memory_is_noticed_and_an_old_one_is_not() {
        let layout = Layout::new("oom", "memory", "memory");
        let cgroups = layout.cgroups();
        let events = layout.0.join(in_group("memory.events"));
        let first = cgroups.make("api-1", Some(1), None).unwrap();
        assert!(!first.ran_out_of_memory());
        fs::write(&events, "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 1\n").unwrap();
        assert!(first.ran_out_of_memory());
        let second = cgroups.make("api-1", Some(1), None).unwrap();
        assert!(!second.ran_out_of_memory());
    }

    #[test]
    fn without_controllers_it_says_so() {
        let layout = Layout::new("none", "pids\n", "");
        let why = Cgroups::at(layout.0.clone()).err().unwrap();
        assert!(why.contains("neither the memory nor the cpu controller"), "{why}");
        let why = Cgroups::at(layout.0.join("gone")).err().unwrap();
        assert!(why.contains("not ours to change"), "{why}");
    }
}
