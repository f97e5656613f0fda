//! What the system says of file descriptors and disks.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::Used;

pub(super) fn read_descriptors() -> Result<Used, String> {
    // Newer kernels tell the number as the folder's size (Linux 6.2), which with a million of them is much faster than counting.
    let folder = if Path::new("/proc/self/fd").exists() { "/proc/self/fd" } else { "/dev/fd" };
    let unreadable = |error| format!("{folder} can't be read: {error}");
    let used = match fs::metadata(folder).map_err(unreadable)?.len() {
        size if folder.starts_with("/proc") && size > 0 => size,
        // The one that reads the folder is among them.
        _ => (fs::read_dir(folder).map_err(unreadable)?.count() as u64).saturating_sub(1),
    };
    let of = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Ok(Used { used, of, unit: "file descriptors", whose: "the soft limit".into() })
}

pub(super) fn read_disk(folder: &Path) -> Result<Used, String> {
    let shown = folder.display();
    let disk = rustix::fs::statvfs(folder).map_err(|error| format!("{shown} can't be looked up: {error}"))?;
    // As df does: what only root may use counts neither as used nor as there.
    let used = disk.f_blocks.saturating_sub(disk.f_bfree).saturating_mul(disk.f_frsize);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let blocks = Used { used, of: used.saturating_add(free), unit: "bytes", whose: shown.to_string() };
    let used = disk.f_files.saturating_sub(disk.f_ffree);
    let inodes =
        Used { used, of: used.saturating_add(disk.f_favail), unit: "inodes", whose: shown.to_string() };
    // A file system without inodes of its own, such as btrfs, says it has none.
    let inodes_are_scarcer = disk.f_files > 0 && inodes.share() > blocks.share();
    Ok(if inodes_are_scarcer { inodes } else { blocks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_counts() {
        // Other tests open and close files meanwhile, but not thousands.
        let before = read_descriptors().unwrap();
        let files: Vec<_> = (0..300).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let with = read_descriptors().unwrap();
        assert!(with.used >= before.used + 200, "{before:?} {with:?}");
        assert!(with.used < with.of);
        drop(files);
    }

    #[test]
    fn a_disk_has_a_size_and_a_folder_that_is_not_there_has_none() {
        let disk = read_disk(Path::new("/")).unwrap();
        assert!(disk.of > 0 && disk.used <= disk.of, "{disk:?}");
        let error = read_disk(Path::new("/does/not/exist")).unwrap_err();
        assert!(error.starts_with("/does/not/exist can't be looked up"), "{error}");
    }
}
