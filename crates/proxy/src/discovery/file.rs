//! A file of targets, looked at again and again.
//!
//! Looking is dearer than being notified and always right. A notification belongs to an inode, and the ways in which such files
//! are replaced change the inode: a rename over it, Kubernetes' `..data` link that is switched to another folder, a volume
//! mounted over a folder, a network file system that notifies nobody. One `stat` a second costs microseconds; the content is read
//! only when that shows a change.

use std::convert::Infallible;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use seaworthy_config::Labels;

use super::targets::parse;
use super::tell::Teller;
use super::{News, Target};

/// Tells the targets of the file at `path`, and every change to them; `labels` are those of targets that have none of their own.
/// Looks every `poll`. Runs for ever.
pub(crate) async fn file(
    path: &Path,
    labels: &Labels,
    poll: Duration,
    mut tell: impl FnMut(News),
) -> Infallible {
    let mut teller = Teller::new(&mut tell);
    let mut known = None;
    let mut looking = Looking { path: path.to_owned(), labels: labels.clone(), seen: None };
    loop {
        // On a thread that may block, as a file system may hang.
        let looked = tokio::task::spawn_blocking(move || {
            let found = looking.look();
            (looking, found)
        });
        match looked.await {
            Ok((again, found)) => {
                looking = again;
                match found {
                    Found::Same => {}
                    Found::Targets(targets) => {
                        known = Some(targets);
                        teller.asked(known.clone(), None);
                    }
                    Found::Trouble(text) => teller.asked(known.clone(), Some(text)),
                }
            }
            Err(error) => {
                teller.asked(known.clone(), Some(format!("{}: reading it failed: {error}", path.display())));
                looking = Looking { path: path.to_owned(), labels: labels.clone(), seen: None };
            }
        }
        tokio::time::sleep(poll).await;
    }
}

enum Found {
    /// Nothing has changed since it was last read.
    Same,
    Targets(Vec<Target>),
    /// What is wrong, where, and what to do.
    Trouble(String),
}

struct Looking {
    path: PathBuf,
    labels: Labels,
    /// What was read last, and how often since it had changed.
    seen: Option<(Stamp, u8)>,
}

impl Looking {
    fn look(&mut self) -> Found {
        match self.read() {
            Ok(found) => found,
            Err(trouble) => {
                // What can't be read now may be the old file again later.
                self.seen = None;
                Found::Trouble(format!("{}: {trouble}", self.path.display()))
            }
        }
    }

    fn read(&mut self) -> Result<Found, String> {
        let stamp = Stamp::of(&self.path)?;
        let reads = match self.seen {
            Some((seen, reads)) if seen == stamp => reads,
            _ => 0,
        };
        if reads >= READS {
            return Ok(Found::Same);
        }
        let text = read(&self.path)?;
        self.seen = Some((stamp, reads + 1));
        // A fault stays the same fault until the file changes, so `seen` holds for it as well.
        Ok(match parse(&text, &self.labels) {
            Ok(targets) => Found::Targets(targets),
            Err(fault) => Found::Trouble(format!(
                "{}:{}:{}: {}",
                self.path.display(),
                fault.line,
                fault.column,
                fault.text
            )),
        })
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Result<Self, String> {
        let found = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
        // Opening a pipe would wait for somebody to write.
        if !found.is_file() {
            return Err("is not a regular file; name the file with the targets".to_owned());
        }
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
    file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(|error| unreadable(&error))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(format!(
            "is larger than {} MiB; spread the targets over several files",
            MOST_BYTES >> 20
        ));
    }
    Ok(text)
}

fn unreadable(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "write it, or correct its path",
        io::ErrorKind::PermissionDenied => "let the proxy's user read it, and enter the folders above it",
        io::ErrorKind::InvalidData => "write it in UTF-8",
        _ => "check the file and its disk",
    };
    format!("can't be read: {error}; {remedy}")
}

/// How often a changed file is read before its stamp is trusted: file systems keep times in ticks of up to two seconds, and a
/// second change within the same tick that keeps the size shows in the content alone.
const READS: u8 = 3;

/// Some thirty thousand targets with labels of their own: what is larger is another file.
const MOST_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::mpsc;

    use super::super::dns_server::{told, trouble};
    use super::*;

    /// A folder that is gone after the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("seaworthy-file-{}-{number}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        /// Replaces a file in one step, as one should.
        fn write(&self, name: &str, text: &str) {
            fs::write(self.path("new"), text).unwrap();
            fs::rename(self.path("new"), self.path(name)).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    async fn watching(path: &Path, test: impl AsyncFnOnce(&mut mpsc::UnboundedReceiver<News>)) {
        let (sender, mut news) = mpsc::unbounded_channel();
        let labels = Labels::default();
        let source = file(path, &labels, Duration::from_millis(5), |news| sender.send(news).unwrap());
        tokio::select! {
            never = source => match never {},
            () = test(&mut news) => {}
        }
    }

    const FIRST: &str = r#"[{"targets": ["10.0.0.2:80", "10.0.0.1:80"]}]"#;
    const SECOND: &str = r#"[{"targets": ["10.0.0.2:80", "10.0.0.3:80"]}]"#;

    #[tokio::test]
    async fn a_change_is_told_however_it_is_made() {
        let folder = Folder::new();
        folder.write("targets.json", FIRST);
        let path = folder.path("targets.json");
        watching(&path, async |news| {
            assert_eq!(told(news).await, ["10.0.0.1:80", "10.0.0.2:80"]);
            folder.write("targets.json", SECOND);
            assert_eq!(told(news).await, ["10.0.0.2:80", "10.0.0.3:80"], "renamed over it");
            fs::write(&path, FIRST).unwrap();
            assert_eq!(
                told(news).await,
                ["10.0.0.1:80", "10.0.0.2:80"],
                "written in place, of the same size"
            );
            folder.write("targets.json", "[]");
            assert_eq!(told(news).await, [""; 0], "whoever writes an empty list means it");
        })
        .await;
    }

    /// How the files of a ConfigMap are mounted: name -> ..data/name, ..data -> a folder; an update switches `..data`.
    #[tokio::test]
    async fn a_switched_link_is_a_change() {
        let folder = Folder::new();
        for (name, text) in [("one", FIRST), ("two", SECOND)] {
            fs::create_dir(folder.path(name)).unwrap();
            fs::write(folder.path(name).join("targets.json"), text).unwrap();
        }
        std::os::unix::fs::symlink("one", folder.path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/targets.json", folder.path("targets.json")).unwrap();
        watching(&folder.path("targets.json"), async |news| {
            assert_eq!(told(news).await, ["10.0.0.1:80", "10.0.0.2:80"]);
            std::os::unix::fs::symlink("two", folder.path("..data_tmp")).unwrap();
            fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
            assert_eq!(told(news).await, ["10.0.0.2:80", "10.0.0.3:80"]);
        })
        .await;
    }

    #[tokio::test]
    async fn nonsense_is_trouble_with_its_place_and_changes_nothing() {
        let folder = Folder::new();
        folder.write("targets.json", FIRST);
        let path = folder.path("targets.json");
        watching(&path, async |news| {
            assert_eq!(told(news).await.len(), 2);
            folder.write("targets.json", "[{\"targets\":\n  [\"10.0.0.1\"]}]");
            let text = trouble(news).await;
            let place = format!("{}:2:4: the target \"10.0.0.1\" has no port; write", path.display());
            assert!(text.starts_with(&place), "{text}");
            folder.write("targets.json", FIRST);
            assert_eq!(told(news).await.len(), 2, "the trouble is over");
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_that_vanishes_is_trouble_and_its_return_is_news() {
        let folder = Folder::new();
        let path = folder.path("targets.json");
        watching(&path, async |news| {
            let text = trouble(news).await;
            assert!(text.contains("targets.json: can't be read: No such file"), "{text}");
            assert!(text.ends_with("write it, or correct its path"), "{text}");
            folder.write("targets.json", FIRST);
            assert_eq!(told(news).await.len(), 2);
            fs::rename(&path, folder.path("away")).unwrap();
            trouble(news).await;
            fs::rename(folder.path("away"), &path).unwrap();
            assert_eq!(told(news).await.len(), 2);
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_no_file_of_targets_is_trouble() {
        let folder = Folder::new();
        fs::write(folder.path("large"), vec![b' '; MOST_BYTES as usize + 1]).unwrap();
        fs::write(folder.path("bytes"), [0xff, 0xfe]).unwrap();
        for (name, expected) in
            [("", "is not a regular file"), ("large", "larger than 4 MiB"), ("bytes", "write it in UTF-8")]
        {
            watching(&folder.path(name), async |news| {
                let text = trouble(news).await;
                assert!(text.contains(expected), "{text}");
            })
            .await;
        }
    }
}
