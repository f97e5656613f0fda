//! What the system says of memory.

use std::fs;
use std::io;
use std::path::Path;

use super::Used;

/// The tightest of all limits that this process has. `root` is the file system's; tests have another.
pub(super) fn read(root: &Path) -> Result<Used, String> {
    let file = root.join("proc/self/cgroup");
    let groups = match fs::read_to_string(&file) {
        Ok(text) => text,
        // A kernel without cgroups.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("{} can't be read: {error}", file.display())),
    };
    let mut all = Vec::new();
    for line in groups.lines() {
        // hierarchy:controllers:path
        let mut parts = line.splitn(3, ':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("0"), Some(""), Some(path)) => all.extend(above(root, &V2, path)?),
            (Some(_), Some(controllers), Some(path)) if controllers.split(',').any(|c| c == "memory") => {
                all.extend(above(root, &V1, path)?);
            }
            _ => {}
        }
    }
    all.extend(machine(root)?);
    let tightest = all.into_iter().max_by(|a, b| a.share().total_cmp(&b.share()));
    tightest.ok_or_else(|| "this system tells neither a limit nor what is available".into())
}

/// Where a version of cgroups keeps its numbers.
struct Files {
    folder: &'static str,
    limit: &'static str,
    current: &'static str,
    /// In `memory.stat`: page cache that is dropped first.
    cache: &'static str,
}

const V2: Files =
    Files { folder: "sys/fs/cgroup", limit: "memory.max", current: "memory.current", cache: "inactive_file" };

const V1: Files = Files {
    folder: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    current: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

/// The limits of a group and of those above it, each of which holds as well. In a container the path is often one that only the
/// host sees; the top of what is seen is then the container's own group.
fn above(root: &Path, files: &Files, path: &str) -> Result<Vec<Used>, String> {
    let top = root.join(files.folder);
    let mut found = Vec::new();
    let mut path = Path::new(path.trim_start_matches('/'));
    loop {
        found.extend(group(&top.join(path), files, path)?);
        match path.parent() {
            Some(parent) => path = parent,
            None => return Ok(found),
        }
    }
}

/// The limit of one group; none if it has none.
fn group(folder: &Path, files: &Files, path: &Path) -> Result<Option<Used>, String> {
    let Some(limit) = text(&folder.join(files.limit))? else { return Ok(None) };
    // The word `max` (v2), or the largest number of pages (v1).
    let Some(of) = limit.trim().parse().ok().filter(|limit| *limit < UNLIMITED) else { return Ok(None) };
    let unknown = || format!("{} does not say what is used", folder.display());
    let current = text(&folder.join(files.current))?.and_then(|text| text.trim().parse::<u64>().ok());
    let cache = text(&folder.join("memory.stat"))?.and_then(|text| field(&text, files.cache));
    let used = current.ok_or_else(unknown)?.saturating_sub(cache.unwrap_or(0));
    Ok(Some(Used { used, of, unit: "bytes", whose: format!("cgroup /{}", path.display()) }))
}

/// The machine's memory; none if the system does not tell.
fn machine(root: &Path) -> Result<Option<Used>, String> {
    let Some(text) = text(&root.join("proc/meminfo"))? else { return Ok(None) };
    let (Some(total), Some(available)) = (field(&text, "MemTotal:"), field(&text, "MemAvailable:")) else {
        return Ok(None);
    };
    // It is told in KiB.
    let (of, available) = (total.saturating_mul(1024), available.saturating_mul(1024));
    Ok(Some(Used { used: of.saturating_sub(available), of, unit: "bytes", whose: "the machine".into() }))
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut words| if words.next() == Some(name) { words.next()?.parse().ok() } else { None })
}

/// A file's text; none if there is no such file.
fn text(file: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        // A group that is gone says "no such device".
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(NO_DEVICE) => {
            Ok(None)
        }
        Err(error) => Err(format!("{} can't be read: {error}", file.display())),
    }
}

/// Beyond an exbibyte nobody means a limit: without one, v1 tells the largest number of pages, some eight of them.
const UNLIMITED: u64 = 1 << 60;
/// `ENODEV`
const NO_DEVICE: i32 = 19;

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:  1000 kB\nMemFree:  1 kB\nMemAvailable:  600 kB\n";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn told(files: &[(&str, &str)]) -> (u64, u64, String) {
        let it = read(tree(files).path()).unwrap();
        (it.used, it.of, it.whose)
    }

    #[test]
    fn without_a_limit_it_is_the_machines() {
        let machine = (400 * 1024, 1000 * 1024, "the machine".to_owned());
        assert_eq!(told(&[("proc/meminfo", MEMINFO)]), machine);
        let unlimited = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.current", "999999999\n"),
        ];
        assert_eq!(told(&unlimited), machine);
    }

    #[test]
    fn a_limit_of_version_2_holds_less_what_is_cache() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "900\n"),
            ("sys/fs/cgroup/a/b/memory.stat", "anon 5\nactive_file 7\ninactive_file 100\n"),
        ];
        assert_eq!(told(&files), (800, 1000, "cgroup /a/b".into()));
    }

    #[test]
    fn the_limit_of_a_group_above_counts_if_it_is_tighter() {
        let files = [
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "100\n"),
            ("sys/fs/cgroup/a/memory.max", "2000\n"),
            ("sys/fs/cgroup/a/memory.current", "1900\n"),
        ];
        assert_eq!(told(&files), (1900, 2000, "cgroup /a".into()));
    }

    #[test]
    fn in_a_container_the_top_is_its_own() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/only/the/host/sees/this\n"),
            ("sys/fs/cgroup/memory.max", "1000\n"),
            ("sys/fs/cgroup/memory.current", "990\n"),
        ];
        assert_eq!(told(&files), (990, 1000, "cgroup /".into()));
    }

    #[test]
    fn version_1_is_read_as_well() {
        let v1 = |limit| {
            [
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "12:cpu,cpuacct:/x\n4:memory:/d/c\n0::/x\n"),
                ("sys/fs/cgroup/memory/d/c/memory.limit_in_bytes", limit),
                ("sys/fs/cgroup/memory/d/c/memory.usage_in_bytes", "950\n"),
                ("sys/fs/cgroup/memory/d/c/memory.stat", "inactive_file 900\ntotal_inactive_file 50\n"),
            ]
        };
        assert_eq!(told(&v1("1000\n")), (900, 1000, "cgroup /d/c".into()));
        assert_eq!(told(&v1("9223372036854771712\n")).2, "the machine");
    }

    #[test]
    fn a_system_that_tells_nothing_says_so() {
        let error = read(tree(&[("proc/meminfo", "nonsense\n")]).path()).unwrap_err();
        assert!(error.contains("neither a limit"), "{error}");
        let half = [("proc/self/cgroup", "0::/a\n"), ("sys/fs/cgroup/a/memory.max", "1000\n")];
        let error = read(tree(&half).path()).unwrap_err();
        assert!(error.contains("does not say what is used"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells() {
        let it = read(Path::new("/")).unwrap();
        assert!(it.of > 0 && it.used > 0 && it.used <= it.of, "{it:?}");
    }
}
