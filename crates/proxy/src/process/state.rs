//! What there is to tell about a replica.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// Where a replica stands.
///
/// ```text
///             +--------------------- restart: order, or the wait is over ------------------+
///             v                                                                            |
///  start -> Starting -> Ready -> Draining -> Stopping -> (Starting, if it was to restart)  |
///             |           |         a rolling restart            +-> Stopped               |
///             +-----------+--> Restarting -------------------------------------------------+
///              ended, or      +> GivenUp ---------------- order only ----------------------+
///              never ready
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum State {
    /// Its process was or is just being started; it is not ready yet.
    Starting,
    /// It serves.
    Ready {
        /// Where, on 127.0.0.1.
        port: u16,
        /// Its process.
        pid: u32,
    },
    /// It serves still and is about to be stopped: nothing new should be sent to it.
    Draining {
        /// Where, on 127.0.0.1.
        port: u16,
        /// Its process.
        pid: u32,
    },
    /// It was asked to end.
    Stopping,
    /// It ended by itself, or failed to start, and is started again later.
    Restarting {
        /// How much later, counted from the change to this state.
        after: Duration,
        /// Why it ended.
        cause: Cause,
    },
    /// It failed too often and stays down until it is restarted by order.
    GivenUp {
        /// Why it ended the last time.
        cause: Cause,
        /// How many restarts were tried ...
        restarts: u32,
        /// ... within this time.
        within: Duration,
    },
    /// It was stopped for good.
    Stopped,
}

impl State {
    /// The name in logs and answers.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready { .. } => "ready",
            Self::Draining { .. } => "draining",
            Self::Stopping => "stopping",
            Self::Restarting { .. } => "restarting",
            Self::GivenUp { .. } => "given up",
            Self::Stopped => "stopped",
        }
    }

    /// Why it is down, if it went down by itself.
    #[must_use]
    pub const fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Restarting { cause, .. } | Self::GivenUp { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { port, pid } => write!(f, "ready on port {port} as process {pid}"),
            Self::Restarting { after, cause } => write!(f, "restarting in {after:.1?}: {cause}"),
            Self::GivenUp { cause, restarts, within } => {
                write!(f, "given up after {restarts} restarts within {within:?}: {cause}")
            }
            other => f.write_str(other.name()),
        }
    }
}

/// Why a replica ended, or never began.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// There was no process, or it never became the command: no such command, no such folder, no free port.
    NotStarted {
        /// What was in the way.
        why: String,
    },
    /// It ran and did not become ready in time.
    NotReady {
        /// The time that it had.
        within: Duration,
        /// The last lines that it wrote to stderr, three at most and without what is long in them.
        last: String,
    },
    /// It ended itself.
    Exited {
        /// With this code.
        code: i32,
        /// The last lines that it wrote to stderr, three at most and without what is long in them.
        last: String,
    },
    /// A signal ended it that the supervisor had not sent.
    Signalled {
        /// Its number.
        signal: i32,
        /// The last lines that it wrote to stderr, three at most and without what is long in them.
        last: String,
    },
    /// The kernel killed it at its memory limit. Told only where a cgroup limits it: at an address-space limit an allocation
    /// fails, and how a program ends then is its own choice.
    OutOfMemory {
        /// The limit, in bytes.
        limit: u64,
    },
    /// It is gone and nobody knows how: somebody else waited for it.
    Lost {
        /// What the system said.
        why: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = match self {
            Self::NotStarted { why } => return write!(f, "could not be started: {why}"),
            Self::OutOfMemory { limit } => return write!(f, "killed at its memory limit of {limit} bytes"),
            Self::Lost { why } => return write!(f, "disappeared: {why}"),
            Self::NotReady { within, last } => {
                write!(f, "not ready within {within:?}")?;
                last
            }
            Self::Exited { code, last } => {
                write!(f, "ended with code {code}")?;
                last
            }
            Self::Signalled { signal, last } => {
                // The standard library knows the signals' names.
                write!(f, "ended by {}", ExitStatus::from_raw(*signal))?;
                last
            }
        };
        if last.is_empty() { Ok(()) } else { write!(f, "; its last lines: {last:?}") }
    }
}

/// Which of the standard streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// The name in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

/// What happened to a replica.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Which process: the index among those that the supervisor was started with.
    pub process: usize,
    /// Which of its replicas, from 1.
    pub replica: u32,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum What {
    /// It changed to this state.
    State(State),
    /// It wrote a line.
    Line {
        /// To this stream.
        stream: Stream,
        /// The line without its end. Bytes that are not UTF-8 are shown as U+FFFD.
        text: String,
        /// Whether the line was longer and lost its rest.
        cut: bool,
    },
    /// It wrote so much that some of it was dropped.
    Dropped {
        /// To this stream.
        stream: Stream,
        /// So many lines, since it was told last.
        lines: u64,
    },
}

/// What keeps a replica within its limit.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Enforced {
    /// A cgroup (version 2) of its own, which holds for all that it starts together.
    Cgroup,
    /// `RLIMIT_AS`: each of its processes has so much address space at most.
    AddressSpace,
    /// Nothing.
    Not {
        /// Why not.
        why: String,
    },
}

impl Enforced {
    /// The name in logs and answers.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::AddressSpace => "address space",
            Self::Not { .. } => "not",
        }
    }
}

/// The limits of a replica and how they are enforced; `None` where none was asked for.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<(u64, Enforced)>,
    /// Cores' worth of processor time: 0.5 is half of one core.
    pub cpu: Option<(f64, Enforced)>,
    /// Why there is no cgroup, if a limit that is asked for has to do without.
    pub without_cgroup: Option<String>,
}

/// A replica at a moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Replica {
    /// Which one, from 1.
    pub replica: u32,
    /// Where it stands ...
    pub state: State,
    /// ... and for how long it has.
    pub for_time: Duration,
    /// The port on 127.0.0.1 that it was given last.
    pub port: Option<u16>,
    /// Its process, if there is one.
    pub pid: Option<u32>,
    /// How often it was started again because it ended by itself or failed to start.
    pub restarts: u64,
    /// The limits that are in force, or will be.
    pub limits: Limits,
}

/// A process at a moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Its replicas, in order.
    pub replicas: Vec<Replica>,
}
