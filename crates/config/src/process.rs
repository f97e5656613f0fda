//! Programs that the proxy runs and looks after.

use std::path::PathBuf;
use std::time::Duration;

use crate::health::Check;
use crate::sources::Labels;

/// A program that the proxy runs and looks after.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Process {
    /// Its name.
    pub name: String,
    /// The program and its arguments; never empty, and no text in it holds a NUL.
    pub command: Vec<String>,
    /// What is added to the environment that it takes over from the proxy, by name; no name twice.
    pub env: Vec<(String, String)>,
    /// The folder that it runs in; the proxy's own if `None`.
    pub dir: Option<PathBuf>,
    /// How many of it run at a time; at least 1.
    pub replicas: u32,
    /// The variable that tells each replica the port to listen on, on loopback. Not in `env`.
    pub port_variable: String,
    /// How a replica is asked whether it is ready for calls: every [`Config::interval`](seaworthy_core::gate::health::Config), until
    /// it says so once.
    pub ready: Check,
    /// How long a replica may take to be ready, before it is stopped and counts as failed.
    pub ready_timeout: Duration,
    /// The most bytes of memory of one replica, if there is a limit.
    pub memory: Option<u64>,
    /// The most cores of one replica, if there is a limit.
    pub cpu: Option<f64>,
    /// When a replica that ended is started again.
    pub restart: Restart,
    /// How long a replica may take to end once it was told to (SIGTERM), before it is killed.
    pub grace: Duration,
    /// What is known about its replicas.
    pub labels: Labels,
}

/// When a replica that ended is started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Restart {
    /// The first wait, before jitter; it doubles with each further end until a replica has stayed.
    pub base: Duration,
    /// The longest wait, before jitter; at least `base`.
    pub cap: Duration,
    /// How many restarts of one replica within `window` are enough to give up; at least 1.
    pub give_up: u32,
    /// How far back restarts count.
    pub window: Duration,
}

impl Default for Restart {
    /// A first restart that nobody notices, and a crash loop that costs no more than a start each ten seconds until it is given up.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(10),
            give_up: 10,
            window: Duration::from_secs(60),
        }
    }
}
