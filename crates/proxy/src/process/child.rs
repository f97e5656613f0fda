//! One child process, from its spawning to its last breath.
//!
//! It has a process group of its own, which signals go to: what it started ends with it. Its group is told to end before its process is
//! waited for, while its number can't be anybody else's.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child as StdChild, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::Clock;
use super::cgroup::Group;
use super::output::{self, Heard};
use super::shim::Wish;
use super::state::{Cause, Stream};
use super::{Settings, Shim};

/// A process that was started and is ours to end.
pub(super) struct Child {
    process: StdChild,
    group: Pid,
    /// Word that some child of ours ended.
    ends: Signals,
    /// What the shim has to say, until it was read.
    report: Option<StdStream>,
    readers: Vec<JoinHandle<()>>,
    /// The last lines of stderr.
    last: Rc<RefCell<VecDeque<String>>>,
    cgroup: Option<Group>,
    memory: Option<u64>,
    /// How it ended, once it was waited for; from then on its number may be another's.
    status: Option<Result<ExitStatus, String>>,
}

/// What a child is started with.
pub(super) struct Plan<'a> {
    pub settings: &'a Settings,
    pub shim: &'a Shim,
    pub port: u16,
    pub address_space: Option<u64>,
    pub cgroup: Option<Group>,
    pub clock: Clock,
}

impl Child {
    /// Starts it. `tell` hears what it writes.
    pub(super) fn start(plan: Plan<'_>, tell: impl Fn(Stream, Heard) + Clone + 'static) -> io::Result<Self> {
        // Listened for before there is anything to hear. This also undoes an inherited SIG_IGN, under which nobody could be waited for.
        let ends = signal(SignalKind::child())?;
        let (report, words_back) = StdStream::pair()?;
        // The kernel kills a child when the *thread* that spawned it ends (prctl(2), PR_SET_PDEATHSIG), so this must be the thread that the
        // supervisor lives on, and no helper thread.
        let mut process = command(&plan).stdin(Stdio::from(OwnedFd::from(words_back))).spawn()?;
        let group = Pid::from_child(&process);
        let pipes = (process.stdout.take().map(OwnedFd::from), process.stderr.take().map(OwnedFd::from));
        let mut child = Self {
            process,
            group,
            ends,
            report: Some(report),
            readers: Vec::new(),
            last: Rc::default(),
            cgroup: plan.cgroup,
            memory: plan.settings.memory,
            status: None,
        };
        // From here on, dropping it kills it.
        child.listen(Stream::Out, pipes.0, plan.clock, tell.clone())?;
        child.listen(Stream::Err, pipes.1, plan.clock, tell)?;
        Ok(child)
    }

    fn listen(
        &mut self,
        stream: Stream,
        pipe: Option<OwnedFd>,
        clock: Clock,
        tell: impl Fn(Stream, Heard) + 'static,
    ) -> io::Result<()> {
        let pipe = pipe.ok_or(io::ErrorKind::BrokenPipe)?;
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let last = Rc::clone(&self.last);
        let heard = move |heard| {
            if let (Stream::Err, Heard::Line(line, _)) = (stream, &heard) {
                let mut last = last.borrow_mut();
                last.truncate(LAST_LINES - 1);
                last.push_front(line.chars().take(LONGEST_LAST_LINE).collect());
            }
            tell(stream, heard);
        };
        self.readers.push(spawn_local(output::read(pipe, move || clock.now(), heard)));
        Ok(())
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the shim has turned into the command, or has said why it can't.
    pub(super) async fn becomes_command(&mut self) -> Result<(), String> {
        let Some(report) = self.report.take() else { return Ok(()) };
        let read = async {
            report.set_nonblocking(true)?;
            let mut words = String::new();
            UnixStream::from_std(report)?.take(LONGEST_REPORT).read_to_string(&mut words).await?;
            io::Result::Ok(words)
        };
        match read.await {
            Ok(words) if words.is_empty() => Ok(()),
            Ok(words) => Err(words),
            Err(error) => Err(format!("no word of how its start went: {error}")),
        }
    }

    /// Waits until it has ended; says how. What it left behind is killed, and its last words have been heard.
    ///
    /// May be dropped and called again at any point.
    pub(super) async fn ended(&mut self) -> Cause {
        while !self.has_ended() {
            // `None` never comes: the listening goes on as long as the runtime does.
            self.ends.recv().await;
        }
        self.hear_out().await;
        self.cause()
    }

    /// Asks it to end, and no longer asks when `grace` is over.
    pub(super) async fn stop(&mut self, grace: Duration) {
        self.signal(Signal::TERM);
        // A stopped process would notice only then.
        self.signal(Signal::CONT);
        if timeout(grace, self.ended()).await.is_err() {
            self.kill().await;
        }
    }

    /// Ends it.
    pub(super) async fn kill(&mut self) -> Cause {
        self.signal(Signal::KILL);
        self.ended().await
    }

    /// The last lines of its stderr so far.
    pub(super) fn last_lines(&self) -> String {
        self.last.borrow().iter().rev().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// To its whole process group, as long as the number is its own.
    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // The group can be gone only together with the process; then there is nobody to signal.
            let _ = kill_process_group(self.group, signal);
        }
    }

    /// Whether it has ended; if it has, it is waited for.
    fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            // Left as it is: what it left behind is killed while its number is still its own.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            match waitid(WaitId::Pid(self.group), look) {
                Ok(None) | Err(Errno::INTR) => {}
                Ok(Some(_)) => self.bury(),
                Err(error) => self.status = Some(Err(format!("it can't be waited for: {error}"))),
            }
        }
        self.status.is_some()
    }

    /// Kills it if it lives, and what it left behind; reaps it.
    fn bury(&mut self) {
        self.signal(Signal::KILL);
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        self.status = Some(self.process.wait().map_err(|error| error.to_string()));
    }

    /// Waits until all that it wrote was read. A process that it left in another process group can hold its streams open for ever.
    async fn hear_out(&mut self) {
        let all = async {
            while let Some(reader) = self.readers.last_mut() {
                let done = reader.await;
                self.readers.pop();
                if let Err(error) = done
                    && error.is_panic()
                {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        };
        let _ = timeout(LAST_WORDS_WITHIN, all).await;
        self.readers.iter().for_each(JoinHandle::abort);
        self.readers.clear();
    }

    fn cause(&self) -> Cause {
        let status = match &self.status {
            Some(Ok(status)) => status,
            Some(Err(why)) => return Cause::Lost { why: why.clone() },
            None => return Cause::Lost { why: "it was not waited for".into() },
        };
        if let (Some(cgroup), Some(limit)) = (&self.cgroup, self.memory)
            && cgroup.ran_out_of_memory()
        {
            return Cause::OutOfMemory { limit };
        }
        let last = self.last_lines();
        match (status.code(), status.signal()) {
            (Some(code), _) => Cause::Exited { code, last },
            (None, Some(signal)) => Cause::Signalled { signal, last },
            (None, None) => Cause::Lost { why: status.to_string() },
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
        if self.status.is_none() {
            self.bury();
        }
    }
}

fn command(plan: &Plan<'_>) -> Command {
    let settings = plan.settings;
    let wish = Wish {
        parent: rustix::process::getpid().as_raw_pid(),
        address_space: plan.address_space,
        cgroup: plan.cgroup.as_ref().map(Group::procs),
        dir: settings.dir.clone(),
        command: settings.command.iter().map(Into::into).collect(),
    };
    let mut command = Command::new(&plan.shim.program);
    command
        .args(&plan.shim.arguments)
        .args(wish.words())
        .envs(settings.env.iter().map(|(name, value)| (name, value)))
        .env(&settings.port_variable, plan.port.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Set before the shim runs, so that the group is there as soon as the process is.
        .process_group(0);
    command
}

/// Lines of stderr that are told as last words. Programs often end with one that helps nobody, and say why before it.
const LAST_LINES: usize = 3;
/// Characters of each of them.
const LONGEST_LAST_LINE: usize = 200;
/// Words of the shim that are read: a path can have 4096 bytes.
const LONGEST_REPORT: u64 = 16 * 1024;
/// How long after its end a child is listened to. What is in its pipes is read in a few milliseconds.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(100);
