//! Disks that are full, and files that may not be written. These tests mount a small disk and change their user: they need root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use seaworthy::idempotency::Phase;
use seaworthy::idempotency::store::Store as _;
use seaworthy::idempotency::store::embedded::{Embedded, Options};

use crate::stores::{HOUR, answer, claim, id, new, record, until};

/// A disk of 16 MiB.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"])
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(mounted.status.success(), "no disk could be mounted (is this root?): {mounted:?}");
        Self { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("keys.redb")
    }

    fn fill(&self) -> PathBuf {
        let ballast = self.folder.path().join("ballast");
        let mut size = 16 << 20;
        while size > 1024 {
            let mut more = fs::read(&ballast).unwrap_or_default();
            more.extend(vec![7; size]);
            if fs::write(&ballast, &more).is_err() {
                size /= 2;
            }
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, as a test that fails still has the file open.
        let unmounted = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Reserves and settles keys until the store is full; returns how many were settled, and how many reserved.
async fn until_full(store: &Embedded, from: u32) -> (u32, u32) {
    let body = "x".repeat(2000);
    for n in from.. {
        let key = id(&n.to_string());
        let hold = match store.reserve(&key, &claim(1)).await {
            Ok(reserved) => new(reserved),
            Err(error) => {
                assert_eq!(error.name(), "full", "{error}");
                return (n, n);
            }
        };
        match store.settle(&key, hold, &answer(&body), HOUR).await {
            Ok(settled) => assert!(settled),
            Err(error) => {
                assert_eq!(error.name(), "full", "{error}");
                return (n, n + 1);
            }
        }
    }
    unreachable!("the disk is endless")
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_is_over_when_there_is_room() {
    let disk = SmallDisk::mount();
    let store = Embedded::open(&disk.file(), Options::default()).unwrap();
    let mut from = 0;
    for round in 0..3_u32 {
        let ballast = if round == 0 { disk.folder.path().join("none") } else { disk.fill() };
        let (settled, reserved) = until_full(&store, from).await;
        // Room is made: by somebody else, or by exchanging the disk for a larger one.
        if round == 0 {
            grow(disk.folder.path());
        } else {
            fs::remove_file(ballast).unwrap();
        }
        until("it works again", || async { store.find(&id("0")).await.is_ok() }).await;
        for n in from..settled {
            assert_eq!(
                record(&store, &id(&n.to_string())).await.standing.phase,
                Phase::Done,
                "{n} was settled"
            );
        }
        for n in settled..reserved {
            let record = record(&store, &id(&n.to_string())).await;
            assert!(!record.orphaned, "its owner lives");
        }
        from = reserved + 1;
    }
    drop(store);
    let store = Embedded::open(&disk.file(), Options::default()).unwrap();
    assert_eq!(record(&store, &id("0")).await.standing.phase, Phase::Done);
}

fn grow(folder: &Path) {
    let grown = Command::new("mount").args(["-o", "remount,size=48m"]).arg(folder).status().unwrap();
    assert!(grown.success());
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_is_no_reason_not_to_start() {
    let disk = SmallDisk::mount();
    let store = Embedded::open(&disk.file(), Options::default()).unwrap();
    new(store.reserve(&id("before"), &claim(1)).await.unwrap());
    drop(store);
    fs::remove_file(disk.file()).unwrap();
    fs::remove_file(disk.folder.path().join("keys.redb.seen")).unwrap();
    let ballast = disk.fill();
    let store = Embedded::open(&disk.file(), Options::default()).unwrap();
    assert_eq!(store.reserve(&id("a"), &claim(1)).await.unwrap_err().name(), "full");
    fs::remove_file(ballast).unwrap();
    until("it works", || async { store.reserve(&id("a"), &claim(1)).await.is_ok() }).await;
}

/// What the parent runs as a user who may not write.
#[test]
#[ignore = "run by `who_may_not_write_is_told_so`"]
fn opens_as_nobody() {
    let Ok(file) = std::env::var("SEAWORTHY_KEYS_FILE") else { return };
    match Embedded::open(Path::new(&file), Options::default()) {
        Ok(_) => println!("it was opened"),
        Err(error) => println!("told: {error}"),
    }
}

#[test]
fn who_may_not_write_is_told_so() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    // Where anybody may run it.
    let exe = folder.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(folder.path(), 0o755);
    let inner = folder.path().join("data");
    fs::create_dir(&inner).unwrap();
    let file = inner.join("keys.redb");
    let as_nobody = || {
        let out = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&exe)
            .args(["trouble::opens_as_nobody", "--exact", "--ignored", "--nocapture"])
            .env("SEAWORTHY_KEYS_FILE", &file)
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let denied = |said: &str, what: &str| {
        assert!(
            said.contains("told:") && said.contains(what) && said.contains("Permission denied"),
            "{said}"
        );
    };
    mode(&inner, 0o555);
    denied(&as_nobody(), "keys.redb.lock");
    // A file of somebody else's.
    mode(&inner, 0o777);
    drop(Arc::new(Embedded::open(&file, Options::default()).unwrap()));
    fs::remove_file(inner.join("keys.redb.lock")).unwrap();
    mode(&file, 0o600);
    denied(&as_nobody(), "keys.redb");
    mode(&file, 0o666);
    mode(&inner.join("keys.redb.seen"), 0o444);
    fs::remove_file(inner.join("keys.redb.lock")).unwrap();
    denied(&as_nobody(), "keys.redb.seen");
    mode(&inner.join("keys.redb.seen"), 0o666);
    assert!(as_nobody().contains("it was opened"));
}
