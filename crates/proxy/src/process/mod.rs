//! Supervised processes: services that the proxy starts itself, keeps running, and keeps apart.
//!
//! ```text
//!  Supervisor --orders--> Replica --starts--> Child == exec-child ==> the command
//!      |                  (replica.rs,        (child.rs)  (shim.rs)
//!   snapshot              decide.rs)             |
//!                            |                output.rs
//!                            +---- events --------+----> whoever was named at the start
//! ```
//!
//! Everything runs as local tasks on the thread that called [`Supervisor::start`]. **That thread must live as long as the
//! children should**: they ask the kernel for SIGKILL at their parent's death, and to the kernel the parent is the thread that
//! spawned them. It is what makes them die with a supervisor that was killed itself.
//!
//! How a child ends, in order of politeness: [`Supervisor::stop_all`] and [`Supervisor::restart`] send SIGTERM, wait, and send
//! SIGKILL; dropping the runtime sends SIGKILL and reaps; the death of the thread or the whole process lets the kernel send SIGKILL.
//! Signals go to the child's process group, so what it started goes with it, except in the last case: there the kernel ends the child
//! alone.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use seaworthy_proxy::process::{Settings, Shim, State, Supervisor, What};
//! let api = Settings { name: "api".into(), command: vec!["./api".into()], ..Settings::default() };
//! let supervisor = Supervisor::start(vec![api], Shim::ourselves("exec-child"), |event| {
//!     if let What::State(State::Ready { port, .. }) = event.what {
//!         // 127.0.0.1:port serves.
//!     }
//! });
//! supervisor.restart("api").await.map_err(std::io::Error::other)?;
//! supervisor.stop_all().await;
//! # Ok(())
//! # }
//! ```

mod cgroup;
mod child;
mod decide;
mod output;
mod ports;
mod ready;
mod replica;
mod shim;
mod state;

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use seaworthy_core::{Instant, Rng as _, Seeded};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_local};

pub use seaworthy_config::Ready;
pub use shim::{ShimError, exec_child};
pub use state::{Cause, Enforced, Event, Limits, Replica, Snapshot, State, Stream, What};

use cgroup::{Cgroups, Group};
use decide::{Restarts, Rules};
use ports::Ports;
use replica::{Ask, Orders, Seen};

/// What to run and how to look after it.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// The command and its arguments. A name without a slash is looked for in `PATH`.
    pub command: Vec<String>,
    /// Variables on top of the supervisor's own.
    pub env: Vec<(String, String)>,
    /// The folder to run in; the supervisor's if `None`.
    pub dir: Option<PathBuf>,
    /// How many of it.
    pub replicas: u32,
    /// The variable that tells each replica the port on 127.0.0.1 to listen on.
    pub port_variable: String,
    /// What counts as ready.
    pub ready: Ready,
    /// How long it may take to be ready. 30 s: a large runtime that fills its caches, not more.
    pub ready_timeout: Duration,
    /// The most bytes of memory of each replica.
    pub memory: Option<u64>,
    /// The most processor time of each replica, in cores.
    pub cpu: Option<f64>,
    /// The first wait before a restart, half of it left to chance. 100 ms: a crash that chance caused is over quickly.
    pub restart_base: Duration,
    /// The longest wait before a restart. 10 s: a broken dependency that returns is noticed within seconds.
    pub restart_cap: Duration,
    /// The most restarts of a replica within `give_up_window`; one more end and it stays down. Ten: with the default waits, what ends at
    /// once is given up after some 40 s.
    pub give_up: u32,
    /// How long a restart counts.
    pub give_up_window: Duration,
    /// How long it may go on serving what it has, in a rolling restart, after it gets nothing new. As `grace`.
    pub drain: Duration,
    /// The time from SIGTERM to SIGKILL. 10 s as in Docker.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: String::new(),
            command: Vec::new(),
            env: Vec::new(),
            dir: None,
            replicas: 1,
            port_variable: "PORT".into(),
            ready: Ready::Tcp,
            ready_timeout: Duration::from_secs(30),
            memory: None,
            cpu: None,
            restart_base: Duration::from_millis(100),
            restart_cap: Duration::from_secs(10),
            give_up: 10,
            give_up_window: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            grace: Duration::from_secs(10),
        }
    }
}

impl From<&seaworthy_config::Process> for Settings {
    fn from(process: &seaworthy_config::Process) -> Self {
        Self {
            name: process.name.clone(),
            command: process.command.clone(),
            env: process.env.clone(),
            dir: process.dir.clone(),
            replicas: process.replicas,
            port_variable: process.port_variable.clone(),
            ready: process.ready.clone(),
            ready_timeout: process.ready_timeout,
            memory: process.memory,
            cpu: process.cpu,
            restart_base: process.restart.base,
            restart_cap: process.restart.cap,
            give_up: process.restart.give_up,
            give_up_window: process.restart.window,
            drain: process.drain,
            grace: process.grace,
        }
    }
}

/// The program that a child goes through on its way to its command: one that hands the arguments after these to [`exec_child`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shim {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<OsString>,
}

impl Shim {
    /// This very program, as `subcommand`. It is found even after its file was replaced by a newer one.
    #[must_use]
    pub fn ourselves(subcommand: &str) -> Self {
        Self { program: "/proc/self/exe".into(), arguments: vec![subcommand.into()] }
    }
}

/// Starts processes and keeps them running.
///
/// Dropped without [`stop_all`](Self::stop_all) it lets its children be stopped in the background, as long as the runtime runs.
pub struct Supervisor {
    clock: Clock,
    processes: Vec<Process>,
    stop: watch::Sender<bool>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

struct Process {
    name: String,
    replicas: Vec<Handle>,
    /// Whether a rolling restart is under way.
    busy: Cell<bool>,
}

struct Handle {
    seen: Rc<Seen>,
    asks: mpsc::UnboundedSender<Ask>,
}

impl Supervisor {
    /// Starts every replica of `processes`; `tell` hears what becomes of them, and what they write.
    ///
    /// # Panics
    /// Outside of a local task set: the children belong to this thread.
    pub fn start(processes: Vec<Settings>, shim: Shim, tell: impl Fn(Event) + 'static) -> Self {
        let clock = Clock::new();
        let limited = processes.iter().any(|process| process.memory.is_some() || process.cpu.is_some());
        // Looking for cgroups may move this process to another, so only who needs one looks.
        let cgroups = if limited { Cgroups::find() } else { Err(String::new()) };
        // It has to differ from one supervisor to the next, also within one process, or they would look for ports in the same order.
        let mut seeds = Seeded::new(RandomState::new().build_hasher().finish());
        let ports = Ports::new(seeds.next_u64());
        let house = Rc::new(House { shim, ports, cgroups, clock, tell: Box::new(tell) });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        let processes = processes.into_iter().map(Rc::new).enumerate();
        let processes = processes.map(|(process, settings)| {
            let replicas = (1..=settings.replicas).map(|number| {
                let seen = Rc::new(Seen::new(clock.now()));
                let (asks, orders) = mpsc::unbounded_channel();
                let replica = replica::Replica {
                    process,
                    number,
                    settings: Rc::clone(&settings),
                    house: Rc::clone(&house),
                    seen: Rc::clone(&seen),
                    restarts: Restarts::new(rules(&settings), seeds.next_u64()),
                    orders: Orders { asks: orders, stop: stopped.clone() },
                };
                tasks.push(spawn_local(replica.live()));
                Handle { seen, asks }
            });
            Process { replicas: replicas.collect(), name: settings.name.clone(), busy: Cell::new(false) }
        });
        Self { clock, processes: processes.collect(), stop, tasks: RefCell::new(tasks) }
    }

    /// Restarts the replicas of process `name`, one after the other: each drains, is stopped, starts anew and is ready before the next
    /// has its turn. Replicas that are down are started at once, also those that were given up.
    ///
    /// A replica that drains is told as [`State::Draining`] and goes on as soon as [`drained`](Self::drained) says so.
    ///
    /// # Errors
    /// With the first replica that does not become ready it ends, and leaves the others as they are.
    pub async fn restart(&self, name: &str) -> Result<(), Refused> {
        let process = self.processes.iter().find(|process| process.name == name).ok_or_else(|| {
            let known = self.processes.iter().map(|process| process.name.clone()).collect();
            Refused::Unknown { name: name.to_owned(), known }
        })?;
        if process.busy.replace(true) {
            return Err(Refused::Underway { name: name.to_owned() });
        }
        let _busy = Busy(&process.busy);
        for (replica, handle) in (1..).zip(&process.replicas) {
            let (ask, answer) = oneshot::channel();
            handle.asks.send(ask).map_err(|_| Refused::Stopping)?;
            if let Err(cause) = answer.await.map_err(|_| Refused::Stopping)? {
                let left = process.replicas.len() as u32 - replica;
                return Err(Refused::NotReady { name: name.to_owned(), replica, left, cause });
            }
        }
        Ok(())
    }

    /// Says that nothing is under way any more to a replica that drains. Nothing happens if it does not.
    pub fn drained(&self, process: usize, replica: u32) {
        let handle = self.processes.get(process).and_then(|process| {
            let index = replica.checked_sub(1)?;
            process.replicas.get(index as usize)
        });
        if let Some(handle) = handle {
            handle.seen.drained();
        }
    }

    /// Stops every replica, all at the same time: SIGTERM, after its grace SIGKILL. Returns when all are gone; called
    /// a second time meanwhile, at once.
    pub async fn stop_all(&self) {
        self.stop.send_replace(true);
        let tasks = self.tasks.take();
        for task in tasks {
            match task.await {
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Cancelled is what the end of the runtime does to it.
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// All processes now, in the order that they were given in.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Snapshot> {
        let now = self.clock.now();
        let process = |process: &Process| Snapshot {
            name: process.name.clone(),
            replicas: (1..).zip(&process.replicas).map(|(n, handle)| handle.seen.snapshot(n, now)).collect(),
        };
        self.processes.iter().map(process).collect()
    }
}

/// Marks a rolling restart as over, also one that nobody waits for any more.
struct Busy<'a>(&'a Cell<bool>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Why a rolling restart was not done, or not to its end.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Refused {
    /// There is no such process.
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// It is being restarted already.
    Underway {
        /// Its name.
        name: String,
    },
    /// Everything is being stopped.
    Stopping,
    /// A replica did not become ready. It is tried again as after any failed start; those after it were left as they are.
    NotReady {
        /// The process.
        name: String,
        /// Which replica, from 1.
        replica: u32,
        /// How many were left as they are.
        left: u32,
        /// Why it is not ready.
        cause: Cause,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, known } if known.is_empty() => {
                write!(f, "there is no process `{name}`, nor any other")
            }
            Self::Unknown { name, known } => {
                write!(f, "there is no process `{name}`; there is {}", known.join(", "))
            }
            Self::Underway { name } => write!(f, "process `{name}` is being restarted already"),
            Self::Stopping => f.write_str("everything is being stopped"),
            Self::NotReady { name, replica, left, cause } => {
                write!(
                    f,
                    "replica {replica} of process `{name}` did not become ready, so {left} were left as they are: {cause}"
                )
            }
        }
    }
}

impl std::error::Error for Refused {}

/// What all replicas share.
struct House {
    shim: Shim,
    ports: Ports,
    cgroups: Result<Cgroups, String>,
    clock: Clock,
    tell: Box<dyn Fn(Event)>,
}

impl House {
    /// How the limits of a replica are kept, with its cgroup if it has one.
    fn limit(&self, settings: &Settings, replica: u32) -> (Limits, Option<Group>) {
        if settings.memory.is_none() && settings.cpu.is_none() {
            return (Limits::default(), None);
        }
        let (group, why) = match self.group(settings, replica) {
            Ok(group) => (Some(group), None),
            Err(why) => (None, Some(why)),
        };
        let can =
            |controller: fn(&Cgroups) -> bool| group.is_some() && self.cgroups.as_ref().is_ok_and(controller);
        let memory = settings.memory.map(|bytes| {
            let by_group = can(|cgroups| cgroups.memory);
            (bytes, if by_group { Enforced::Cgroup } else { Enforced::AddressSpace })
        });
        let cpu = settings.cpu.map(|cores| {
            let without = why.as_deref().unwrap_or("the cpu controller is not there");
            let not = || Enforced::Not { why: format!("{NO_CPU_LIMIT}, and {without}") };
            (cores, if can(|cgroups| cgroups.cpu) { Enforced::Cgroup } else { not() })
        });
        (Limits { memory, cpu, without_cgroup: why }, group)
    }

    fn group(&self, settings: &Settings, replica: u32) -> Result<Group, String> {
        let cgroups = self.cgroups.as_ref().map_err(String::clone)?;
        let memory = settings.memory.filter(|_| cgroups.memory);
        let cpu = settings.cpu.filter(|_| cgroups.cpu);
        let made = cgroups.make(&format!("{}-{replica}", settings.name), memory, cpu);
        made.map_err(|error| format!("its cgroup can't be made: {error}"))
    }
}

/// The time since the supervisor was started.
#[derive(Clone, Copy)]
struct Clock(tokio::time::Instant);

impl Clock {
    fn new() -> Self {
        Self(tokio::time::Instant::now())
    }

    fn now(self) -> Instant {
        Instant::ZERO.plus(self.0.elapsed())
    }
}

fn rules(settings: &Settings) -> Rules {
    Rules {
        base: settings.restart_base,
        cap: settings.restart_cap,
        most: settings.give_up,
        window: settings.give_up_window,
    }
}

/// Why nothing but a cgroup limits processor time.
const NO_CPU_LIMIT: &str = "only a cgroup limits a share of processor time (RLIMIT_CPU is a total, after which the process is killed)";

#[cfg(test)]
mod tests {
    use super::*;
    use cgroup::tests::Layout;

    fn house(cgroups: Result<Cgroups, String>) -> House {
        let shim = Shim::ourselves("exec-child");
        House { shim, ports: Ports::new(1), cgroups, clock: Clock::new(), tell: Box::new(|_| ()) }
    }

    fn limited() -> Settings {
        Settings { name: "api".into(), memory: Some(1 << 30), cpu: Some(0.5), ..Settings::default() }
    }

    #[test]
    fn a_cgroup_keeps_the_limits_where_there_is_one() {
        let layout = Layout::new("house", "cpu memory", "cpu memory");
        let (limits, group) = house(Ok(layout.cgroups())).limit(&limited(), 1);
        assert!(group.is_some());
        assert_eq!(limits.memory, Some((1 << 30, Enforced::Cgroup)));
        assert_eq!(limits.cpu, Some((0.5, Enforced::Cgroup)));
        assert_eq!(limits.without_cgroup, None);
    }

    #[test]
    fn each_limit_is_kept_by_what_there_is() {
        let layout = Layout::new("house-half", "memory", "memory");
        let (limits, _) = house(Ok(layout.cgroups())).limit(&limited(), 1);
        assert_eq!(limits.memory, Some((1 << 30, Enforced::Cgroup)));
        assert!(
            matches!(&limits.cpu, Some((_, Enforced::Not { why })) if why.ends_with("the cpu controller is not there"))
        );

        let (limits, group) = house(Err("nothing here".into())).limit(&limited(), 1);
        assert!(group.is_none());
        assert_eq!(limits.memory, Some((1 << 30, Enforced::AddressSpace)));
        assert!(matches!(&limits.cpu, Some((_, Enforced::Not { why })) if why.ends_with("nothing here")));
        assert_eq!(limits.without_cgroup.as_deref(), Some("nothing here"));
    }

    #[test]
    fn who_asks_for_no_limit_gets_none() {
        let (limits, group) = house(Err("nothing here".into())).limit(&Settings::default(), 1);
        assert_eq!(limits, Limits::default());
        assert!(group.is_none());
    }

    #[test]
    fn settings_are_what_the_configuration_says() {
        let text = "listen = \"127.0.0.1:0\"\n\
            [upstream.api]\nendpoints = [\"process://api\"]\n[[route]]\nupstream = \"api\"\n\
            [process.api]\ncommand = [\"./api\", \"-v\"]\nreplicas = 3\nmemory = \"64MiB\"\ngrace = \"3s\"\n\
            drain = \"4s\"\nready = { kind = \"http\", path = \"/up\" }\n\
            [process.api.restart]\ngive_up = 7\n";
        let config = seaworthy_config::Config::from_toml("test.toml", text).unwrap();
        let settings = Settings::from(&config.processes[0]);
        assert_eq!((settings.name.as_str(), settings.replicas, settings.give_up), ("api", 3, 7));
        assert_eq!(settings.command, ["./api", "-v"]);
        assert_eq!((settings.memory, settings.cpu), (Some(64 << 20), None));
        assert_eq!((settings.grace, settings.drain), (Duration::from_secs(3), Duration::from_secs(4)));
        assert_eq!(settings.ready, Ready::Http { path: "/up".into() });
    }
}
