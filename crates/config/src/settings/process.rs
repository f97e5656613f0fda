//! The settings of a process that the proxy runs.

use std::path::PathBuf;
use std::time::Duration;

use super::{DRAIN, PATIENCE};
use crate::process::Restart;
use crate::shape::{
    Command, Environment, FOLDER, NumberWithin, OneOf, Or, PLACE, REQUEST_PATH, Secret, Size, VARIABLE,
    WEIGHT, within,
};
use crate::sources::Labels;
use crate::table::{Table, fields};

/// What `[process.NAME]` says.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Supervised {
    pub command: Vec<String>,
    pub env: Vec<(String, String)>,
    pub dir: Option<PathBuf>,
    pub replicas: u32,
    pub port_variable: String,
    pub ready_is_http: bool,
    pub ready_path: String,
    pub ready_timeout: Duration,
    pub memory: Option<u64>,
    pub cpu: Option<f64>,
    pub restart: Restart,
    pub drain: Duration,
    pub grace: Duration,
    pub labels: Labels,
}

impl Default for Supervised {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            env: Vec::new(),
            dir: None,
            replicas: 1,
            port_variable: "PORT".to_owned(),
            ready_is_http: false,
            ready_path: "/".to_owned(),
            ready_timeout: Duration::from_secs(30),
            memory: None,
            cpu: None,
            restart: Restart::default(),
            drain: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            labels: Labels::default(),
        }
    }
}

/// No program starts in less than a mebibyte; a tebibyte is no limit any more.
const MEMORY: Size = Size { least: 1 << 20, most: 1 << 40 };
/// Of its period of 100 ms the kernel takes a quota of 1 ms as the least (cgroup v2, cpu.max): a hundredth of a core.
const CORES: NumberWithin = NumberWithin { least: 0.01, most: 1024.0 };

/// A program that the proxy runs.
pub(crate) static SUPERVISED: Table<Supervised> = Table {
    name: "process",
    doc: "A program that the proxy runs and looks after, by its name: `[process.NAME]`. An upstream finds its replicas at \
          `process://NAME`; they join when they are ready, and leave before they are stopped.",
    fields: fields!(Supervised {
        command: Command { is_optional: false } => command,
            "The program and its arguments. Looked for in `PATH` unless it has a slash; no shell has a part in it. Required.";
        env: Secret(Environment) => env, "What is added to the environment that it takes over from the proxy. Values are not shown.";
        dir: Or("proxy", FOLDER) => dir,
            "The folder that it runs in, relative to that of this file; where the proxy was started by default.";
        replicas: within(1, 1000) => replicas, "How many of it run at a time.";
        port_variable: VARIABLE => port_variable, "The variable that tells each replica the port to listen on, on 127.0.0.1.";
        ready_timeout: PATIENCE => ready_timeout, "How long a replica may take to be ready before it is started anew.";
        memory: Or("off", MEMORY) => memory, "The most memory of one replica. Past that it is killed (cgroup v2) or refused more (rlimits), whichever the system offers.";
        cpu: Or("off", CORES) => cpu, "The most cores of one replica, such as 0.5.";
        drain: DRAIN => drain,
            "How long a replica may go on with the calls that it has, when it is replaced, after it gets no new ones.";
        grace: DRAIN => grace, "How long a replica may take to end once it was told to (SIGTERM), before it is killed.";
        zone: PLACE => labels.zone, "The zone of its replicas; the proxy's if left out.";
        region: PLACE => labels.region, "The region of its replicas; the proxy's if left out.";
        weight: WEIGHT => labels.weight, "The weight of each replica.";
    }),
    tables: &[&READY, &RESTART],
};

static READY: Table<Supervised> = Table {
    name: "ready",
    doc: "What counts as ready for calls. A replica that was started gets none before.",
    fields: fields!(Supervised {
        kind: OneOf(&[("tcp", false), ("http", true)]) => ready_is_http,
            "Its port accepts a connection (`tcp`), or a GET request is answered with a status from 200 to 299 (`http`).";
        path: REQUEST_PATH => ready_path, "What the request asks for.";
    }),
    tables: &[],
};

static RESTART: Table<Supervised> = Table {
    name: "restart",
    doc: "When a replica that ended is started again.",
    fields: fields!(Supervised {
        base: PATIENCE => restart.base,
            "The first wait, half of it left to chance; it doubles with each further end until a replica has stayed.";
        cap: PATIENCE => restart.cap, "The longest wait.";
        give_up: within(1, 10_000) => restart.give_up,
            "The most restarts of one replica within `window`; one more end, and it stays down until an operator starts it.";
        window: PATIENCE => restart.window, "How far back restarts count.";
    }),
    tables: &[],
};
