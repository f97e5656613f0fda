//! Programs that the proxy runs and looks after.

use std::path::PathBuf;
use std::time::Duration;

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
    /// What counts as ready for calls.
    pub ready: Ready,
    /// How long a replica may take to be ready, before it is stopped and counts as failed.
    pub ready_timeout: Duration,
    /// The most bytes of memory of one replica, if there is a limit.
    pub memory: Option<u64>,
    /// The most cores of one replica, if there is a limit.
    pub cpu: Option<f64>,
    /// When a replica that ended is started again.
    pub restart: Restart,
    /// How long a replica may go on with the calls that it has, when it is replaced, after it gets no new ones.
    pub drain: Duration,
    /// How long a replica may take to end once it was told to (SIGTERM), before it is killed.
    pub grace: Duration,
    /// What is known about its replicas.
    pub labels: Labels,
}

/// What counts as ready for calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ready {
    /// Its port accepts a connection.
    Tcp,
    /// A GET request for this path is answered with a status from 200 to 299.
    Http {
        /// From its `/` on, with a query if there is one.
        path: String,
    },
}

/// When a replica that ended is started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Restart {
    /// The first wait, before half of it is left to chance; it doubles with each further end until a replica has stayed.
    pub base: Duration,
    /// The longest wait; at least `base`.
    pub cap: Duration,
    /// The most restarts of one replica within `window`: one more end, and it stays down. At least 1.
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
