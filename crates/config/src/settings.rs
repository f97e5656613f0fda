//! Every setting there is.
//!
//! The structs hold what is read; the tables say how each setting is spelt, written and explained. A default is whatever the
//! struct's `Default` holds, for the policies that of the core, where its reason stands.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use seaworthy_core::balance::{self, Algorithm};
use seaworthy_core::call::retry::Jitter;
use seaworthy_core::call::{self};
use seaworthy_core::gate::{breaker, bulkhead, health, limit, outlier};
use seaworthy_core::{Mode, Valid};

use crate::address::{Host, Prefix};
use crate::health::{Check, CheckKind, Pattern, StatusRange};
use crate::process::Restart;
use crate::shape::{
    ADDRESS, AUTHORITY, COUNT, Command, Count, DATA, Environment, FIELD_VALUE, FOLDER, Flag, HASH_ON, HOST,
    ListOf, NAME, Number, NumberWithin, OneOf, Or, OrEmpty, PATTERN, PLACE, PREFIX, REQUEST_PATH, RESOLVER,
    SERVICE, Size, Sliding, SourceOf, Statuses, TEXT, Time, TimeWithin, VARIABLE, WEIGHT, judged, within,
};
use crate::sources::{Discovery, HashOn, Labels, Written};
use crate::table::{Table, fields};

/// The settings of the process.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Proxy {
    pub listen: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub admin_public: bool,
    pub drain: Duration,
    pub workers: Option<u16>,
    pub zone: String,
    pub region: String,
    pub data: Option<PathBuf>,
    pub log: Log,
    pub limits: Limits,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            admin: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9901))),
            admin_public: false,
            drain: Duration::from_secs(10),
            workers: None,
            zone: String::new(),
            region: String::new(),
            data: None,
            log: Log::default(),
            limits: Limits::default(),
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Log {
    /// Whether each call leaves a line.
    pub access: bool,
    /// How a line is written.
    pub format: Format,
    /// The least severe lines that are written.
    pub level: Level,
}

impl Default for Log {
    fn default() -> Self {
        Self { access: true, format: Format::Json, level: Level::Info }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// One JSON object a line, for machines.
    Json,
    /// Plain text, for people.
    Text,
}

/// The severity of log lines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something may soon not work.
    Warn,
    /// Something changed.
    Info,
    /// What a developer of the proxied service wants to know.
    Debug,
    /// What a developer of the proxy wants to know.
    Trace,
}

impl Level {
    /// The level's name in configuration and log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Bounds on what clients may ask of the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The most bytes of a request's head.
    pub header_bytes: u64,
    /// The most header fields of a request.
    pub headers: u32,
    /// The most bytes of a request's body that are kept for another attempt.
    pub body_replay_bytes: u64,
    /// The longest time from the first byte of a request's head to its last.
    pub client_header_timeout: Duration,
    /// How long a client's connection may stay without a request.
    pub client_idle: Duration,
    /// The longest time between two pieces of a body, in either direction.
    pub body_progress_timeout: Duration,
    /// The most connections of clients at a time.
    pub max_connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            headers: 100,
            body_replay_bytes: 64 * 1024,
            client_header_timeout: Duration::from_secs(10),
            client_idle: Duration::from_secs(60),
            body_progress_timeout: Duration::from_secs(30),
            max_connections: 10_000,
        }
    }
}

/// What upstreams have in common, and what `[defaults]` can set.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Policies {
    pub protocol: Protocol,
    pub connect_timeout: Duration,
    pub idle_connections: u32,
    pub idle_timeout: Duration,
    pub call: call::Config,
    pub breaker: breaker::Config,
    pub limit: limit::Config,
    pub region_limit: Option<u32>,
    pub bulkhead: bulkhead::Config,
    pub outlier: outlier::Config,
    pub balance: balance::Config,
    pub hash_on: HashOn,
    pub check_kind: Option<CheckKind>,
    pub check: Question,
    pub timing: health::Config,
    pub discovery: Discovery,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            protocol: Protocol::Http1,
            connect_timeout: Duration::from_secs(1),
            idle_connections: 64,
            idle_timeout: Duration::from_secs(30),
            call: call::Config::default(),
            breaker: breaker::Config::default(),
            limit: limit::Config::default(),
            region_limit: None,
            bulkhead: bulkhead::Config::default(),
            outlier: outlier::Config::default(),
            balance: balance::Config::default(),
            hash_on: HashOn::None,
            check_kind: None,
            check: Question::default(),
            timing: health::Config::default(),
            discovery: Discovery::default(),
        }
    }
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2 without TLS, from the first byte ("prior knowledge"), as gRPC needs it.
    Http2,
}

impl Protocol {
    /// The protocol's name in configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

/// What an upstream has alone.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Addresses {
    pub endpoints: Vec<Written>,
}

/// What an instance is asked, whatever the way.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Question {
    pub path: String,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub status: Vec<StatusRange>,
    pub body: Option<Pattern>,
    pub service: String,
    pub command: Vec<String>,
}

impl Default for Question {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            host: None,
            port: None,
            status: vec![StatusRange::success()],
            body: None,
            service: String::new(),
            command: Vec::new(),
        }
    }
}

impl Question {
    /// The check that asks it in this way.
    pub(crate) fn check(self, kind: CheckKind, timing: Valid<health::Config>) -> Check {
        let Self { path, host, port, status, body, service, command } = self;
        Check { kind, path, host, port, status, body, service, command, timing }
    }
}

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

/// What a route says itself. Its deadline and retries are [`Policies`].
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Routing {
    pub name: String,
    pub host: Host,
    pub path: Prefix,
    pub methods: Vec<&'static str>,
    pub upstream: String,
    pub repeatable: Repeatable,
    pub fallback: Fallback,
}

/// Which requests of a route may be sent more than once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Repeatable {
    /// Those whose method is idempotent (RFC 9110, section 9.2.2), and those with an `Idempotency-Key`.
    #[default]
    Auto,
    /// All of them.
    Always,
    /// None of them.
    Never,
}

/// A static answer in place of one from the upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Fallback {
    /// The status code, 200 to 599.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: String,
    /// The body.
    pub body: String,
}

impl Default for Fallback {
    fn default() -> Self {
        Self { status: 200, content_type: "text/plain; charset=utf-8".to_owned(), body: String::new() }
    }
}

const MODE: OneOf<Mode> =
    OneOf(&[("enforce", Mode::Enforce), ("observe", Mode::Observe), ("off", Mode::Off)]);
const MODE_DOC: &str =
    "Whether its decisions are carried out, only counted and logged (`observe`), or not made at all.";
const JITTER: OneOf<Jitter> = OneOf(&[
    ("none", Jitter::None),
    ("full", Jitter::Full),
    ("equal", Jitter::Equal),
    ("decorrelated", Jitter::Decorrelated),
]);
const FORMAT: OneOf<Format> = OneOf(&[("json", Format::Json), ("text", Format::Text)]);
const LEVEL: OneOf<Level> = OneOf(&[
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("debug", Level::Debug),
    ("trace", Level::Trace),
]);
const PROTOCOL: OneOf<Protocol> = OneOf(&[("http1", Protocol::Http1), ("http2", Protocol::Http2)]);
const REPEATABLE: OneOf<Repeatable> =
    OneOf(&[("auto", Repeatable::Auto), ("always", Repeatable::Always), ("never", Repeatable::Never)]);
/// The methods of RFC 9110 and PATCH (RFC 5789), but for CONNECT, which asks for a tunnel and is not forwarded.
const METHOD: OneOf<&str> = OneOf(&[
    ("GET", "GET"),
    ("HEAD", "HEAD"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("PATCH", "PATCH"),
    ("DELETE", "DELETE"),
    ("OPTIONS", "OPTIONS"),
    ("TRACE", "TRACE"),
]);
const KIND: OneOf<CheckKind> = OneOf(&[
    ("http", CheckKind::Http),
    ("tcp", CheckKind::Tcp),
    ("grpc", CheckKind::Grpc),
    ("command", CheckKind::Command),
]);
const PORT: Count<u16> = within(1, 65_535);
const REGION_LIMIT: Count<u32> = within(1, 10_000_000);
/// A TTL of a day is as good as for ever, and one of 0 would ask for each call.
const TTL: TimeWithin = TimeWithin { least: Duration::from_millis(100), most: Duration::from_secs(86_400) };
/// A look costs a system call, so ten a second are cheap and more are no use.
const FILE_POLL: TimeWithin =
    TimeWithin { least: Duration::from_millis(100), most: Duration::from_secs(3600) };
/// No program starts in less than a mebibyte; a tebibyte is no limit any more.
const MEMORY: Size = Size { least: 1 << 20, most: 1 << 40 };
/// Of its period of 100 ms the kernel takes a quota of 1 ms as the least (cgroup v2, cpu.max): a hundredth of a core.
const CORES: NumberWithin = NumberWithin { least: 0.01, most: 1024.0 };
const WORKERS: Count<u16> = within(1, 1024);
const STATUS: Count<u16> = within(200, 599);
/// Waits on a socket: a millisecond is the resolution of the timer, and past an hour a bound bounds nothing.
const PATIENCE: TimeWithin = TimeWithin { least: Duration::from_millis(1), most: Duration::from_secs(3600) };
/// How long the process may go on after it was told to stop: at once, or up to an hour.
const DRAIN: TimeWithin = TimeWithin { least: Duration::ZERO, most: Duration::from_secs(3600) };
/// How long a start may be slow: not at all, or up to a day.
const START: TimeWithin = TimeWithin { least: Duration::ZERO, most: Duration::from_secs(86_400) };
/// 8 KiB is the least that RFC 9112, section 3, asks to be taken for a request line alone (8000 bytes).
const HEADER_BYTES: Size = Size { least: 8 << 10, most: 1 << 20 };
/// Up to 64 MiB; a body is kept once for each call in flight.
const REPLAY_BYTES: Size = Size { least: 0, most: 64 << 20 };

/// What stands at the top of the file, outside of upstreams and routes.
pub(crate) static PROXY: Table<Proxy> = Table {
    name: "",
    doc: "What the process is and where it listens.",
    fields: fields!(Proxy {
        listen: ListOf(ADDRESS) => listen, "Where clients connect: an IP address and a port, or a list of them.";
        admin: Or("off", ADDRESS) => admin,
            "Where operators connect: metrics, health, the console. Loopback by default, because whoever reaches it can steer the proxy.";
        admin_public: Flag => admin_public, "Consent to an `admin` address that other machines can reach.";
        drain: DRAIN => drain, "How long calls in flight may take to finish once the process was told to stop.";
        workers: Or("cores", WORKERS) => workers, "How many threads serve calls; one for each core by default.";
        zone: PLACE => zone, "The zone that the proxy runs in. Instances of the same zone are asked first.";
        region: PLACE => region,
            "The region that the proxy runs in. Instances of the same region are asked before those of others.";
        data: Or("off", DATA) => data, "The folder for what must outlive the process, as an absolute path.";
    }),
    tables: &[&LOG, &LIMITS],
};

static LOG: Table<Proxy> = Table {
    name: "log",
    doc: "What is logged, and how. Log lines go to standard error.",
    fields: fields!(Proxy {
        access: Flag => log.access, "Whether each call leaves a line.";
        format: FORMAT => log.format, "JSON for machines, text for people.";
        level: LEVEL => log.level, "The least severe lines that are written.";
    }),
    tables: &[],
};

static LIMITS: Table<Proxy> = Table {
    name: "limits",
    doc: "Bounds on what clients may ask of the proxy, so that no client can take it away from the others.",
    fields: fields!(Proxy {
        header_bytes: HEADER_BYTES => limits.header_bytes,
            "The most bytes of a request's head; more is answered with 431. Envoy takes 60 KiB.";
        headers: within(1, 10_000) => limits.headers, "The most header fields of a request, as Envoy and hyper take.";
        body_replay_bytes: REPLAY_BYTES => limits.body_replay_bytes,
            "The most bytes of a request's body that are kept for another attempt; what is larger is sent on, and not repeated. Linkerd keeps 64 KiB.";
        client_header_timeout: PATIENCE => limits.client_header_timeout,
            "The longest time from the first byte of a request's head to its last. Stops clients that trickle.";
        client_idle: PATIENCE => limits.client_idle, "How long a client's connection may stay without a request.";
        body_progress_timeout: PATIENCE => limits.body_progress_timeout,
            "The longest time between two pieces of a body, in either direction.";
        max_connections: within(1, 10_000_000) => limits.max_connections,
            "The most connections of clients at a time. An idle one costs some 15 kB, so 10,000 cost 150 MB.";
    }),
    tables: &[],
};

/// What an upstream has alone.
pub(crate) static ADDRESSES: Table<Addresses> = Table {
    name: "upstream",
    doc: "A service behind the proxy, by its name: `[upstream.NAME]`.",
    fields: fields!(Addresses {
        endpoints: ListOf(SourceOf) => endpoints,
            "Where its instances are: a URL, a table such as `{ url = \"http://10.0.0.1:80\", zone = \"a\", region = \"eu\", weight = 2 }`, or a list of these. Required.";
    }),
    tables: &[],
};

/// What upstreams have in common, and what `[defaults]` can set.
pub(crate) static POLICIES: Table<Policies> = Table {
    name: "defaults",
    doc: "What every upstream starts from. Takes the same settings as an upstream, but for `endpoints`.",
    fields: fields!(Policies {
        protocol: PROTOCOL => protocol, "What is spoken to it. `http2` is HTTP/2 without TLS, as gRPC needs it.";
        connect_timeout: PATIENCE => connect_timeout,
            "The longest time to make a connection. A second, as in Linkerd: within a region it takes milliseconds.";
        idle_connections: within(0, 65_535) => idle_connections,
            "The most idle connections that each worker keeps to each endpoint.";
        idle_timeout: PATIENCE => idle_timeout,
            "How long a connection is kept without a call. Shorter than the 60 s after which many servers and load balancers close it, so that they rarely do so under a request.";
        deadline: Or("off", Time) => call.deadline,
            "The longest time for a whole call, all attempts and waits included, where the caller brings no shorter one.";
    }),
    tables: &[
        &TIMEOUT, &BREAKER, &RETRY, &BUDGET, &HEDGE, &LIMIT, &BULKHEAD, &BALANCE, &CHECK, &OUTLIER,
        &DISCOVERY,
    ],
};

static TIMEOUT: Table<Policies> = Table {
    name: "timeout",
    doc: "How long one attempt may take to answer: `multiplier` times the `quantile` of late, within `floor` and `ceiling`.",
    fields: fields!(Policies {
        mode: MODE => call.timeout.mode, MODE_DOC;
        fixed: Or("adaptive", Time) => call.timeout.fixed,
            "A timeout that does not adapt; the settings below are then without effect.";
        quantile: Number => call.timeout.quantile, "The quantile of the latencies that is followed, 0.5 to 0.9999.";
        multiplier: Number => call.timeout.multiplier, "Times the quantile, 1 to 100.";
        floor: Time => call.timeout.floor, "Never shorter than this.";
        ceiling: Time => call.timeout.ceiling, "Never longer than this.";
        initial: Time => call.timeout.initial, "The timeout before enough was seen.";
        minimum_samples: COUNT => call.timeout.minimum_samples, "How many attempts are enough to follow.";
        window: Time => call.timeout.window, "How far back \"of late\" reaches; at least a second.";
    }),
    tables: &[],
};

static BREAKER: Table<Policies> = Table {
    name: "breaker",
    doc: "When an endpoint is left alone because it fails, and how it is taken back.",
    fields: fields!(Policies {
        mode: MODE => breaker.mode, MODE_DOC;
        consecutive_failures: Or("off", COUNT) => breaker.consecutive_failures, "Opens after this many failures in a row.";
        failure_rate: Or("off", Number) => breaker.failure_rate,
            "Opens when this share of the calls in the window failed, above 0 to 1.";
        slow_after: Or("off", Time) => breaker.slow_after, "A call that takes longer counts as slow.";
        slow_rate: Number => breaker.slow_rate, "Opens when this share of the calls in the window was slow, above 0 to 1.";
        window: Sliding => breaker.window, "How far back the rates look: a duration, or a number of calls.";
        minimum_calls: COUNT => breaker.minimum_calls, "The rates say nothing before this many calls are in the window.";
        hung_after: Or("off", Time) => breaker.hung_after, "A call that is still out after this long counts as failed before it ends.";
        open_for: Time => breaker.open_for, "The first wait before an open breaker lets a probe through.";
        open_growth: Number => breaker.open_growth, "How much longer each further wait is while probes fail.";
        open_at_most: Time => breaker.open_at_most, "The longest such wait.";
        jitter: Number => breaker.jitter,
            "How much of the wait is left to chance, 0 to 1: it is drawn between `wait * (1 - jitter)` and `wait`.";
        probes: COUNT => breaker.probes, "How many probes may be out at a time.";
        successes_to_close: COUNT => breaker.successes_to_close, "How many probes must succeed before it closes.";
        ramp: Time => breaker.ramp, "How long after closing the share of admitted calls grows to all; \"0s\" for at once.";
    }),
    tables: &[],
};

/// Also what a route can change.
static RETRY: Table<Policies> = Table {
    name: "retry",
    doc: "Further attempts after failures, at another endpoint where there is one.",
    fields: fields!(Policies {
        mode: MODE => call.retry.mode, MODE_DOC;
        attempts: judged(1, 10) => call.retry.attempts, "The most attempts of one call, the first included, 1 to 10.";
        base: Time => call.retry.base, "The first wait before another attempt, before jitter; it doubles each time.";
        cap: Time => call.retry.cap, "The longest wait, before jitter.";
        jitter: JITTER => call.retry.jitter, "How the wait is drawn.";
        most_pushback: Time => call.retry.most_pushback,
            "How much later than its own wait an upstream may ask a retry to come (`Retry-After`).";
    }),
    tables: &[],
};

static BUDGET: Table<Policies> = Table {
    name: "budget",
    doc: "What retries may add to the traffic of an upstream, whatever fails.",
    fields: fields!(Policies {
        share: Number => call.budget.share, "Retries per call, 0 to 1.";
        per_second: Number => call.budget.per_second, "Retries per second whatever the traffic.";
        burst: COUNT => call.budget.burst, "The most retries that can be saved up.";
    }),
    tables: &[],
};

static HEDGE: Table<Policies> = Table {
    name: "hedge",
    doc: "A second attempt at another endpoint beside a slow one; the faster answer wins. Sends requests twice, so it is off unless asked for.",
    fields: fields!(Policies {
        mode: MODE => call.hedge.mode, MODE_DOC;
        quantile: Number => call.hedge.quantile, "The share of calls that answer without a hedge, 0.5 to 0.9999.";
        floor: Time => call.hedge.floor, "The shortest wait before a hedge.";
        most: judged(1, 3) => call.hedge.most, "The most hedges of one call, 1 to 3.";
    }),
    tables: &[&HEDGE_BUDGET],
};

static HEDGE_BUDGET: Table<Policies> = Table {
    name: "budget",
    doc: "What hedges may add to the traffic, apart from retries.",
    fields: fields!(Policies {
        share: Number => call.hedge.budget.share, "Hedges per call, 0 to 1.";
        per_second: Number => call.hedge.budget.per_second, "Hedges per second whatever the traffic.";
        burst: COUNT => call.hedge.budget.burst, "The most hedges that can be saved up.";
    }),
    tables: &[],
};

static LIMIT: Table<Policies> = Table {
    name: "limit",
    doc: "How many calls an upstream takes at a time; more are refused at once.",
    fields: fields!(Policies {
        mode: MODE => limit.mode, MODE_DOC;
        max_in_flight: COUNT => limit.max_in_flight, "The most calls in flight, waiting ones included.";
        per_region: Or("off", REGION_LIMIT) => region_limit,
            "The most attempts in flight in one region of it, so that the loss of one does not drown the next. In force where `mode` is `enforce`.";
    }),
    tables: &[],
};

static BULKHEAD: Table<Policies> = Table {
    name: "bulkhead",
    doc: "How many attempts run at a time, and how many may wait how long for their turn.",
    fields: fields!(Policies {
        mode: MODE => bulkhead.mode, MODE_DOC;
        concurrency: COUNT => bulkhead.concurrency, "The most attempts at a time.";
        queue: COUNT => bulkhead.queue, "How many more may wait.";
        max_wait: Time => bulkhead.max_wait, "The longest wait.";
    }),
    tables: &[],
};

static OUTLIER: Table<Policies> = Table {
    name: "outlier",
    doc: "When an instance is put out because it fails more, or is slower, than the upstream's others. Its breaker opens, so it returns as from any opening: by probes.",
    fields: fields!(Policies {
        mode: MODE => outlier.mode, MODE_DOC;
        window: Time => outlier.window, "How far back the comparison looks.";
        minimum_failures: COUNT => outlier.minimum_failures, "Fewer failures in the window are nobody's concern.";
        error_excess: Number => outlier.error_excess,
            "How far its failure rate must lie above that of the others, 0 up to 1. That it does by chance must be less likely than one in a million as well.";
        slow_factor: Or("off", Number) => outlier.slow_factor,
            "How many times the others' latency is too slow, above 1.";
        slow_floor: Time => outlier.slow_floor, "A difference in latency below this is nobody's concern.";
        minimum_calls: COUNT => outlier.minimum_calls, "No latency counts below this many calls in the window.";
        max_ejected: Number => outlier.max_ejected,
            "The most instances that may be out at once, for whatever reason, as a share of all, rounded down: a further one stays in. One of two or more may always be out.";
    }),
    tables: &[],
};

const ALGORITHM: OneOf<Algorithm> = OneOf(&[
    ("peak_ewma", Algorithm::PeakEwma),
    ("least_requests", Algorithm::LeastRequests),
    ("round_robin", Algorithm::RoundRobin),
    ("consistent_hash", Algorithm::ConsistentHash),
]);

static BALANCE: Table<Policies> = Table {
    name: "balance",
    doc: "Which of its instances gets an attempt: those of the proxy's zone first, then of its region, then elsewhere, each as far as \
          those that are well can carry the traffic.",
    fields: fields!(Policies {
        algorithm: ALGORITHM => balance.algorithm,
            "Of two drawn by lot the one with less latency times calls in flight (`peak_ewma`) or with fewer calls in flight (`least_requests`); each in turn (`round_robin`); or always the same for what `hash_on` names (`consistent_hash`).";
        hash_on: HASH_ON => hash_on,
            "What calls stick to with `consistent_hash`: `header:NAME`, `cookie:NAME`, `source` (the client's address), or `none`.";
        load_bound: Number => balance.load_bound,
            "With `consistent_hash`, how many times its share of the calls in flight an instance may have, from 1; what is beyond goes to the next one.";
        locality: Flag => balance.locality, "Whether the nearer instances are asked first.";
        overprovision: Number => balance.overprovision,
            "How much more than its share of the traffic an instance can carry, 1 to 10: nothing spills over to the next zone until fewer than one in so many is well.";
        panic_threshold: Number => balance.panic_threshold,
            "When a smaller share than this is well, 0 to 1, and can't carry the traffic, the checks are not believed (0 for never).";
        slow_start: START => balance.slow_start,
            "How long an instance that joined or returned takes to its full share; \"0s\" for at once.";
    }),
    tables: &[],
};

static CHECK: Table<Policies> = Table {
    name: "check",
    doc: "How each instance is asked, apart from its traffic, whether it is well. Off unless a `kind` is named.",
    fields: fields!(Policies {
        kind: Or("off", KIND) => check_kind,
            "A GET request (`http`), a connection (`tcp`), `grpc.health.v1` (`grpc`), or a program that ends with 0 (`command`).";
        path: REQUEST_PATH => check.path, "What an `http` check asks for.";
        host: Or("endpoint", AUTHORITY) => check.host, "The `Host` that is asked for; by default that of the instance.";
        port: Or("endpoint", PORT) => check.port, "The port that is asked; by default that of the instance.";
        status: ListOf(Statuses) => check.status, "The status codes of a good answer: one, a range, or a list of these.";
        body: Or("off", PATTERN) => check.body,
            "A regular expression that is found somewhere in the body of a good answer.";
        service: SERVICE => check.service, "The service that a `grpc` check asks about; the server as a whole if left out.";
        command: Command { is_optional: true } => check.command,
            "The program of a `command` check, and its arguments. The variable `SEAWORTHY_ENDPOINT` tells it the `host:port` to ask.";
        interval: Time => timing.interval, "From the end of one check to the start of the next.";
        unsure_interval: Time => timing.unsure_interval,
            "The same while an opinion is forming or changing; at most `interval`, which it is by default if that is shorter.";
        jitter: Number => timing.jitter, "How far an interval may be from its length, as a share of it, 0 to 1.";
        timeout: Time => timing.timeout, "A check that takes this long has failed.";
        up: COUNT => timing.up, "How many good answers in a row bring it back.";
        down: COUNT => timing.down, "How many bad ones in a row take it out.";
    }),
    tables: &[],
};

static DISCOVERY: Table<Policies> = Table {
    name: "discovery",
    doc: "How names (`dns://`, `srv://`) and files (`file:`) among its endpoints are watched. What was found last holds while nothing new can be.",
    fields: fields!(Policies {
        resolvers: OrEmpty("system", ListOf(RESOLVER)) => discovery.resolvers,
            "The DNS servers that are asked, by address and port; those of the system by default.";
        ttl_floor: TTL => discovery.ttl_floor, "The shortest time between two questions for a name, however short its TTL.";
        ttl_ceiling: TTL => discovery.ttl_ceiling, "The longest time between two questions for a name, however long its TTL.";
        file_poll: FILE_POLL => discovery.file_poll, "The time between two looks at a file.";
    }),
    tables: &[],
};

/// A program that the proxy runs.
pub(crate) static SUPERVISED: Table<Supervised> = Table {
    name: "process",
    doc: "A program that the proxy runs and looks after, by its name: `[process.NAME]`. An upstream finds its replicas at \
          `process://NAME`; they join when they are ready, and leave before they are stopped.",
    fields: fields!(Supervised {
        command: Command { is_optional: false } => command,
            "The program and its arguments. Looked for in `PATH` unless it has a slash; no shell has a part in it. Required.";
        env: Environment => env, "What is added to the environment that it takes over from the proxy. Values are not shown.";
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

/// What a route says itself.
pub(crate) static ROUTING: Table<Routing> = Table {
    name: "route",
    doc: "Which calls go where: `[[route]]`, once for each. The most specific one takes a call: an exact host before a pattern before \
          any, then the longer path, then one that names methods, then the first in the file. Without any, and with one upstream, \
          everything goes there.",
    fields: fields!(Routing {
        name: NAME => name, "Its name in metrics and records. Made of methods, host and path if left out.";
        host: HOST => host, "The host that was asked for: a name, `*.` and a name for every host below it, or `*` for any.";
        path: PREFIX => path, "The beginning of the path, in whole segments: `/shop` takes `/shop/cart` and not `/shopping`.";
        methods: ListOf(METHOD) => methods, "The methods; all of them if left out.";
        upstream: TEXT => upstream, "The name of the upstream that answers. Can be left out if there is only one.";
        repeatable: REPEATABLE => repeatable,
            "Which requests may be sent more than once: idempotent methods and those with an `Idempotency-Key` (`auto`), all, or none.";
    }),
    tables: &[&FALLBACK],
};

static FALLBACK: Table<Routing> = Table {
    name: "fallback",
    doc: "A static answer for calls that would otherwise fail. It is marked as degraded.",
    fields: fields!(Routing {
        status: STATUS => fallback.status, "The status code.";
        content_type: FIELD_VALUE => fallback.content_type, "The `Content-Type`.";
        body: TEXT => fallback.body, "The body.";
    }),
    tables: &[],
};

/// What a route can change of its upstream's policies.
pub(crate) static OVERRIDES: Table<Policies> = Table {
    name: "route",
    doc: "",
    fields: fields!(Policies {
        deadline: Or("off", Time) => call.deadline,
            "The longest time for a whole call; the upstream's if left out.";
    }),
    tables: &[&RETRY],
};

#[cfg(test)]
mod tests {
    use seaworthy_core::call::{budget, hedge, retry, timeout};

    use super::*;

    /// Does not compile once the core has a field that is not listed here, and then it wants a line in a table above too.
    #[test]
    fn every_field_of_the_core_has_a_setting() {
        let Policies { call, breaker, limit, bulkhead, outlier, balance, timing, .. } = Policies::default();
        let call::Config { deadline: _, timeout, retry, budget, hedge, fallback: _ } = call;
        let timeout::Config {
            mode: _,
            fixed: _,
            quantile: _,
            multiplier: _,
            floor: _,
            ceiling: _,
            initial: _,
            minimum_samples: _,
            window: _,
        } = timeout;
        let retry::Config { mode: _, attempts: _, base: _, cap: _, jitter: _, most_pushback: _ } = retry;
        let budget::Config { share: _, per_second: _, burst: _ } = budget;
        let hedge::Config { mode: _, quantile: _, floor: _, most: _, budget: _ } = hedge;
        let breaker::Config {
            mode: _,
            consecutive_failures: _,
            failure_rate: _,
            slow_after: _,
            slow_rate: _,
            window: _,
            minimum_calls: _,
            hung_after: _,
            open_for: _,
            open_growth: _,
            open_at_most: _,
            jitter: _,
            probes: _,
            successes_to_close: _,
            ramp: _,
        } = breaker;
        let limit::Config { mode: _, max_in_flight: _ } = limit;
        let bulkhead::Config { mode: _, concurrency: _, queue: _, max_wait: _ } = bulkhead;
        let outlier::Config {
            mode: _,
            window: _,
            minimum_failures: _,
            error_excess: _,
            slow_factor: _,
            slow_floor: _,
            minimum_calls: _,
            max_ejected: _,
        } = outlier;
        let balance::Config {
            algorithm: _,
            panic_threshold: _,
            overprovision: _,
            slow_start: _,
            locality: _,
            load_bound: _,
        } = balance;
        let health::Config { interval: _, unsure_interval: _, jitter: _, timeout: _, up: _, down: _ } =
            timing;
        let fields: Vec<usize> = POLICIES.tables.iter().map(|table| table.fields.len()).collect();
        let names =
            "timeout, breaker, retry, budget, hedge, limit, bulkhead, balance, check, outlier, discovery";
        assert_eq!(fields, [9, 15, 6, 3, 4, 3, 4, 7, 14, 8, 4], "{names}");
    }

    /// For each shape one that is not its default.
    const VALUES: [&str; 16] = [
        "7",
        "207",
        "0.77",
        "\"77ms\"",
        "\"observe\"",
        "\"equal\"",
        "\"http2\"",
        "\"127.0.0.1:7\"",
        "\"least_requests\"",
        "\"grpc\"",
        "\"header:seven\"",
        "false",
        "\"/seven\"",
        "\"seven.example.com\"",
        "[\"seven\"]",
        "\"3s\"",
    ];

    #[test]
    fn every_setting_lives_in_a_place_of_its_own() {
        let mut paths = Vec::new();
        POLICIES.each("", &mut |path, field| paths.push((path.to_owned(), field.slot)));
        // Reading any value but its own into one setting leaves all others as they were.
        for (path, slot) in &paths {
            let mut policies = Policies::default();
            let before: Vec<_> = paths.iter().map(|(_, slot)| slot.show(&policies)).collect();
            let written = VALUES.iter().any(|text| {
                let text = format!("v = {text}");
                let toml = toml::de::DeTable::parse(&text).unwrap();
                slot.read(&mut policies, &toml.get_ref()["v"], &mut Vec::new())
            });
            assert!(written, "{path} takes none of the values");
            let after: Vec<_> = paths.iter().map(|(_, slot)| slot.show(&policies)).collect();
            let changed: Vec<&str> = paths
                .iter()
                .zip(before.iter().zip(&after))
                .filter(|(_, (b, a))| b != a)
                .map(|((p, _), _)| p.as_str())
                .collect();
            assert_eq!(changed, [path.as_str()]);
        }
    }
}
