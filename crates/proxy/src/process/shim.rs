//! The step between the supervisor and a child's command.
//!
//! Some things a child can only do to itself between `fork` and `exec`, and code there must not allocate or lock, which is why it is
//! unsafe in Rust. So there is a program in between: the supervisor starts `seaworthy exec-child`, which arranges all that in peace and
//! then turns into the command. It
//!
//! 1. asks the kernel for SIGKILL at its parent's death (`PR_SET_PDEATHSIG`), which outlasts `exec`, and makes sure that its parent had not
//!    died before that;
//! 2. joins its cgroup, or limits its address space;
//! 3. goes to its folder and becomes the command.
//!
//! Its stdin is a socket that the supervisor reads to its end. It ends without a word when the command has taken over, because the copy
//! that is kept of it closes at `exec`; otherwise the word is what went wrong. An exit code could not tell a command that is not there
//! from one that ended with the same code.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};

/// What the shim is to do, as its command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wish {
    /// The supervisor's process id.
    pub parent: i32,
    /// Bytes of address space.
    pub address_space: Option<u64>,
    /// The `cgroup.procs` of the cgroup to join.
    pub cgroup: Option<PathBuf>,
    /// The folder to run in.
    pub dir: Option<PathBuf>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

impl Wish {
    /// The arguments that [`exec_child`] understands.
    pub(super) fn words(&self) -> Vec<OsString> {
        let path = |path: &Option<PathBuf>| path.clone().map_or_else(OsString::new, PathBuf::into_os_string);
        let bytes = self.address_space.map_or_else(String::new, |bytes| bytes.to_string());
        let mut words =
            vec![self.parent.to_string().into(), bytes.into(), path(&self.cgroup), path(&self.dir)];
        words.extend(self.command.iter().cloned());
        words
    }

    fn read(words: Vec<OsString>) -> Option<Self> {
        let mut words = words.into_iter();
        let parent = words.next()?.to_str()?.parse().ok()?;
        let address_space = match words.next()?.to_str()? {
            "" => None,
            bytes => Some(bytes.parse().ok()?),
        };
        let mut path = || words.next().map(|path| (!path.is_empty()).then(|| PathBuf::from(path)));
        let (cgroup, dir) = (path()?, path()?);
        let command: Vec<OsString> = words.collect();
        (!command.is_empty()).then_some(Self { parent, address_space, cgroup, dir, command })
    }
}

/// Becomes the command that `words` describe; it returns only to say why not.
///
/// For the hidden subcommand that [`Shim`](super::Shim) names, which hands over its arguments. The supervisor is told too, by way of
/// stdin.
pub fn exec_child(words: Vec<OsString>) -> ShimError {
    // A copy closes at `exec`, as every file does that the standard library opens.
    let report = io::stdin().as_fd().try_clone_to_owned();
    let Err(error) = become_child(words);
    if let Ok(report) = report {
        // Nobody is left to be told if the supervisor is gone.
        let _ = write!(File::from(report), "{error}");
    }
    error
}

fn become_child(words: Vec<OsString>) -> Result<Infallible, ShimError> {
    let wish = Wish::read(words).ok_or(ShimError::Words)?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(ShimError::DeathSignal)?;
    if getppid().map(Pid::as_raw_pid) != Some(wish.parent) {
        return Err(ShimError::Orphaned);
    }
    if let Some(procs) = wish.cgroup {
        // 0 is whoever writes it (kernel documentation, "Control Group v2", "Processes").
        std::fs::write(&procs, "0").map_err(|source| ShimError::Cgroup { procs, source })?;
    }
    if let Some(dir) = &wish.dir {
        std::env::set_current_dir(dir).map_err(|source| ShimError::Folder { dir: dir.clone(), source })?;
    }
    let (program, arguments) = wish.command.split_first().ok_or(ShimError::Words)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    if let Some(bytes) = wish.address_space {
        limit_address_space(bytes).map_err(ShimError::AddressSpace)?;
    }
    let source = command.exec();
    Err(ShimError::Command { program: program.clone(), dir: wish.dir, source })
}

fn limit_address_space(bytes: u64) -> Result<(), Errno> {
    // Who may not raise a limit gets the one that there is.
    let bytes = getrlimit(Resource::As).maximum.map_or(bytes, |hard| bytes.min(hard));
    setrlimit(Resource::As, Rlimit { current: Some(bytes), maximum: Some(bytes) })
}

/// Why the shim did not become the command.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShimError {
    /// Its arguments are not those that the supervisor gives.
    Words,
    /// The kernel refused to promise a signal at the parent's death.
    DeathSignal(Errno),
    /// Whoever started it is gone.
    Orphaned,
    /// It could not join its cgroup.
    Cgroup {
        /// The file that it wrote to.
        procs: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its address space could not be limited.
    AddressSpace(Errno),
    /// It could not go to its folder.
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It could not become the command.
    Command {
        /// The command.
        program: OsString,
        /// The folder that it was to run in.
        dir: Option<PathBuf>,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for ShimError {
    /// On one line with its source, because that is how it travels to the supervisor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words => f.write_str("exec-child is for the supervisor to call"),
            Self::DeathSignal(source) => write!(f, "the kernel does not promise to end it with us: {source}"),
            Self::Orphaned => f.write_str("the supervisor ended meanwhile"),
            Self::Cgroup { procs, source } => {
                write!(f, "can't join the cgroup of {}: {source}", procs.display())
            }
            Self::AddressSpace(source) => write!(f, "can't limit its address space: {source}"),
            Self::Folder { dir, source } => write!(f, "can't go to the folder {}: {source}", dir.display()),
            Self::Command { program, dir, source } => {
                let name = Path::new(program);
                write!(f, "can't run `{}`", name.display())?;
                match (program.as_encoded_bytes().contains(&b'/'), dir) {
                    (false, _) => f.write_str(" (looked for in PATH)")?,
                    (true, Some(dir)) if name.is_relative() => {
                        write!(f, " (from the folder {})", dir.display())?
                    }
                    (true, _) => {}
                }
                write!(f, ": {source}")
            }
        }
    }
}

impl std::error::Error for ShimError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_survives_its_command_line() {
        let bare = Wish {
            parent: 7,
            address_space: None,
            cgroup: None,
            dir: None,
            command: vec!["sh".into(), "-c".into(), "".into(), "--parent".into()],
        };
        let full = Wish {
            address_space: Some(1 << 30),
            cgroup: Some("/sys/fs/cgroup/a b/cgroup.procs".into()),
            dir: Some("/tmp/ä".into()),
            ..bare.clone()
        };
        for wish in [bare, full] {
            assert_eq!(Wish::read(wish.words()), Some(wish));
        }
    }

    #[test]
    fn other_words_are_refused() {
        for words in ["", "x", "7", "7  ", "7 many - - sh", "7 1 2 3"] {
            let words = words.split(' ').map(OsString::from).collect();
            assert_eq!(Wish::read(words), None);
        }
    }

    #[test]
    fn it_says_where_it_looked() {
        let error = |program: &str, dir: Option<&str>| {
            let source = io::Error::from_raw_os_error(2);
            ShimError::Command { program: program.into(), dir: dir.map(PathBuf::from), source }.to_string()
        };
        assert!(
            error("serve", Some("/srv")).starts_with("can't run `serve` (looked for in PATH): No such file")
        );
        assert!(
            error("./serve", Some("/srv")).starts_with("can't run `./serve` (from the folder /srv): No such")
        );
        assert!(error("/bin/serve", Some("/srv")).starts_with("can't run `/bin/serve`: No such file"));
    }
}
