//! Every setting there is.
//!
//! The structs hold what is read; the tables say how each setting is spelt, written and explained. A default is whatever the
//! struct's `Default` holds, for the policies that of the core, where its reason stands.

mod degrade;
mod idempotency;
mod overload;
mod process;
mod topology;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use seaworthy_core::call::retry::Jitter;
use seaworthy_core::gate::{breaker, bulkhead, health, limit, outlier, pressure, queue, throttle};
use seaworthy_core::{Criticality, Mode, balance, call};

use crate::address::{Host, Prefix};
use crate::degrade::{Flags, Kind, Stale};
use crate::health::CheckKind;
use crate::overload::Redis;
use crate::shape::{
    ADDRESS, COUNT, Count, DATA, FIELD_VALUE, Flag, HASH_ON, HOST, ListOf, NAME, Number, OneOf, Or, PLACE,
    PREFIX, Size, Sliding, SourceOf, TEXT, Time, TimeWithin, judged, within,
};
use crate::sources::{Discovery, HashOn, Written};
use crate::table::{Table, fields};

use degrade::{DEGRADE, FALLBACK, FLAGS, Replacing, STALE, STALE_MEMORY, SUBSTITUTE};
use idempotency::{IDEMPOTENCY, ROUTE_IDEMPOTENCY};
pub(crate) use idempotency::{Keying, Storing};
pub(crate) use overload::{CLIENT, Client, Gating, Rating};
use overload::{
    CRITICALITY, LISTENER_LIMIT, LISTENER_RATE, PRESSURE, REDIS, ROUTE_LIMIT, ROUTE_RATE, THROTTLE,
    UPSTREAM_LIMIT,
};
pub(crate) use process::{SUPERVISED, Supervised};
pub(crate) use topology::Question;
use topology::{BALANCE, CHECK, DISCOVERY, OUTLIER};

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
    pub gating: Gating,
    pub rating: Rating,
    pub redis: Redis,
    pub pressure: pressure::Config,
    pub stale_memory: u64,
    pub storing: Storing,
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
            gating: Gating::default(),
            rating: Rating::default(),
            redis: Redis::default(),
            pressure: pressure::Config::default(),
            stale_memory: 64 << 20,
            storing: Storing::default(),
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
    /// The most bytes of a request's body, if there is a limit.
    pub body_bytes: Option<u64>,
    /// The fewest bytes a second that a body must bring, taken over [`body_progress_timeout`](Self::body_progress_timeout), in
    /// either direction, if there is a limit.
    pub body_least_rate: Option<u64>,
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
            body_bytes: None,
            body_least_rate: None,
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
    pub queue: queue::Config,
    pub throttle: throttle::Config,
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
            queue: queue::Config::default(),
            throttle: throttle::Config::default(),
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

/// What a route says itself. Its deadline and retries are [`Policies`].
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Routing {
    pub name: String,
    pub host: Host,
    pub path: Prefix,
    pub methods: Vec<&'static str>,
    pub upstream: String,
    pub repeatable: Repeatable,
    pub criticality: Criticality,
    pub trust_criticality: bool,
    pub client_key: HashOn,
    pub gating: Gating,
    pub rating: Rating,
    pub degrade: Vec<Kind>,
    pub stale: Stale,
    pub substitute: Replacing,
    pub fallback: Fallback,
    pub flags: Flags,
    pub keying: Keying,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            name: String::new(),
            host: Host::default(),
            path: Prefix::default(),
            methods: Vec::new(),
            upstream: String::new(),
            repeatable: Repeatable::default(),
            criticality: Criticality::default(),
            trust_criticality: false,
            client_key: HashOn::Source,
            gating: Gating::default(),
            rating: Rating::default(),
            degrade: Vec::new(),
            stale: Stale::default(),
            substitute: Replacing::default(),
            fallback: Fallback::default(),
            flags: Flags::default(),
            keying: Keying::default(),
        }
    }
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
    /// The file that holds the body instead, if one does. Relative to the working folder; what the configuration wrote relative to
    /// itself was made so. Nobody has looked whether it is there: it is read when the proxy starts.
    pub file: Option<PathBuf>,
}

impl Default for Fallback {
    fn default() -> Self {
        Self {
            status: 200,
            content_type: "text/plain; charset=utf-8".to_owned(),
            body: String::new(),
            file: None,
        }
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
const REGION_LIMIT: Count<u32> = within(1, 10_000_000);
const WORKERS: Count<u16> = within(1, 1024);
const STATUS: Count<u16> = within(200, 599);
/// Waits on a socket: a millisecond is the resolution of the timer, and past an hour a bound bounds nothing.
const PATIENCE: TimeWithin = TimeWithin { least: Duration::from_millis(1), most: Duration::from_secs(3600) };
/// How long the process may go on after it was told to stop: at once, or up to an hour.
const DRAIN: TimeWithin = TimeWithin { least: Duration::ZERO, most: Duration::from_secs(3600) };
/// 8 KiB is the least that RFC 9112, section 3, asks to be taken for a request line alone (8000 bytes).
const HEADER_BYTES: Size = Size { least: 8 << 10, most: 1 << 20 };
/// Up to 64 MiB; a body is kept once for each call in flight.
const REPLAY_BYTES: Size = Size { least: 0, most: 64 << 20 };
/// Nothing at all, to a tebibyte, which is no limit any more.
const BODY_BYTES: Size = Size { least: 0, most: 1 << 40 };
/// In a second.
const BODY_RATE: Size = Size { least: 1, most: 1 << 30 };

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
        data: Or("off", DATA) => data, "The folder for what must outlive the process, relative to that of this file. It is made at the first use if only it is missing.";
    }),
    tables: &[&LOG, &LIMITS, &LISTENER_LIMIT, &LISTENER_RATE, &REDIS, &PRESSURE, &STALE_STORE, &IDEMPOTENCY],
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
        body_bytes: Or("off", BODY_BYTES) => limits.body_bytes, "The most bytes of a request's body; more is answered with 413.";
        body_least_rate: Or("off", BODY_RATE) => limits.body_least_rate,
            "The fewest bytes that a body must bring in each second, taken over `body_progress_timeout`; what is slower is cut off. Leave it off where streams rest.";
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
        &TIMEOUT,
        &BREAKER,
        &RETRY,
        &BUDGET,
        &HEDGE,
        &UPSTREAM_LIMIT,
        &THROTTLE,
        &BULKHEAD,
        &BALANCE,
        &CHECK,
        &OUTLIER,
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

static STALE_STORE: Table<Proxy> = Table {
    name: "stale",
    doc: "The store of answers that `[route.stale]` uses.",
    fields: fields!(Proxy {
        memory: STALE_MEMORY => stale_memory, "The most memory of all of them together; the longest unused leave first.";
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
            "Which requests may be sent more than once: idempotent methods and those with an `Idempotency-Key` (`auto`), all, or none. Where the route honours keys, a request with one goes by `idempotency.unknown`, and any other POST or PATCH is sent once.";
        criticality: CRITICALITY => criticality,
            "How much its calls matter when not all can be served. A client may say less with `x-seaworthy-criticality`.";
        trust_criticality: Flag => trust_criticality, "Whether a client may also say more.";
        client_key: HASH_ON => client_key,
            "What tells clients apart, for fair turns, rates and `[[client]]`: `source` (the client's address), `header:NAME`, `cookie:NAME`, or `none`. A header is worth as much as whoever sets it.";
        degrade: DEGRADE => degrade,
            "What answers calls that would otherwise fail, in this order. The tables `stale`, `substitute` (`upstream`) and `fallback` (`static`), as far as they are there, if left out.";
    }),
    tables: &[&ROUTE_LIMIT, &ROUTE_RATE, &STALE, &SUBSTITUTE, &FALLBACK, &FLAGS, &ROUTE_IDEMPOTENCY],
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
mod tests;
