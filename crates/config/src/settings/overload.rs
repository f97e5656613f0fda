//! The settings that hold calls back when there are too many of them.

use std::time::Duration;

use seaworthy_core::gate::limit::{self, Algorithm};
use seaworthy_core::gate::{queue, rate};
use seaworthy_core::{Criticality, Mode};

use super::{MODE, MODE_DOC, Policies, Proxy, REGION_LIMIT, Routing};
use crate::overload::{RateBy, RateStore, WhenDown};
use crate::shape::{COUNT, KEY_PREFIX, NAME, Number, OneOf, Or, REDIS_URL, Secret, TEXT, Time, TimeWithin};
use crate::table::{Table, fields};

/// A limit and its queue that are off unless their table is there.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Gating {
    pub limit: limit::Config,
    pub queue: queue::Config,
}

impl Default for Gating {
    fn default() -> Self {
        let limit = limit::Config { mode: Mode::Off, ..limit::Config::default() };
        Self { limit, queue: queue::Config::default() }
    }
}

/// A rate that is off unless its table is there.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Rating {
    pub rate: rate::Config,
    pub by: RateBy,
    pub store: RateStore,
    pub when_down: WhenDown,
}

impl Default for Rating {
    fn default() -> Self {
        Self {
            rate: rate::Config { mode: Mode::Off, ..rate::Config::default() },
            by: RateBy::default(),
            store: RateStore::default(),
            when_down: WhenDown::default(),
        }
    }
}

/// What `[[client]]` says.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Client {
    pub key: String,
    pub criticality: Criticality,
    pub name: String,
}

pub(crate) const CRITICALITY: OneOf<Criticality> = OneOf(&[
    ("critical-plus", Criticality::CriticalPlus),
    ("critical", Criticality::Critical),
    ("sheddable-plus", Criticality::SheddablePlus),
    ("sheddable", Criticality::Sheddable),
]);
const ALGORITHM: OneOf<Algorithm> = OneOf(&[
    ("fixed", Algorithm::Fixed),
    ("aimd", Algorithm::Aimd),
    ("gradient2", Algorithm::Gradient2),
    ("vegas", Algorithm::Vegas),
]);
const BY: OneOf<RateBy> = OneOf(&[("client", RateBy::Client), ("all", RateBy::All)]);
const STORE: OneOf<RateStore> = OneOf(&[("local", RateStore::Local), ("redis", RateStore::Redis)]);
const WHEN_DOWN: OneOf<WhenDown> =
    OneOf(&[("local", WhenDown::Local), ("allow", WhenDown::Allow), ("refuse", WhenDown::Refuse)]);
const ABSENT_DOC: &str = "Whether its decisions are carried out, only counted and logged (`observe`), or not made at all. Without the table `off`, \
     with it `enforce`.";
/// Every call waits for the answer, so a second is more than anybody wants.
const STORE_PATIENCE: TimeWithin =
    TimeWithin { least: Duration::from_millis(1), most: Duration::from_secs(1) };

/// The table of a limit that lives in `$place` of a `$of`, with settings of its own after `mode`.
macro_rules! limit_table {
    ($of:ty, $($place:ident).+, $mode_doc:expr, $doc:expr, $queue:expr, { $($more:tt)* }) => {
        Table {
            name: "limit",
            doc: $doc,
            fields: fields!($of {
                mode: MODE => $($place).+.mode, $mode_doc;
                algorithm: ALGORITHM => $($place).+.algorithm,
                    "Whether and how the limit moves: not (`fixed`), by refusals, failures and slowness (`aimd`), by how far latency is above its own average (`gradient2`), or by how many calls seem to wait (`vegas`).";
                max_in_flight: COUNT => $($place).+.max_in_flight,
                    "The most calls in flight; of a limit that moves, the most it may rise to.";
                min_in_flight: COUNT => $($place).+.min_in_flight, "The least that a limit which moves may fall to.";
                initial: COUNT => $($place).+.initial, "What a limit which moves begins with.";
                slow_after: Time => $($place).+.slow_after, "`aimd` gives way if calls typically take longer than this.";
                baseline_window: Time => $($place).+.baseline_window,
                    "For how long `vegas` and `gradient2` trust the least latency that they saw; at least five seconds.";
                $($more)*
            }),
            tables: &[&$queue],
        }
    };
}

macro_rules! queue_table {
    ($of:ty, $($place:ident).+) => {
        Table {
            name: "queue",
            doc: "Calls that wait while the limit is full: the most critical first, clients in turn, and the newest first while calls are lost for long.",
            fields: fields!($of {
                mode: MODE => $($place).+.mode, "Whether calls wait at all; with `observe` they don't either.";
                size: COUNT => $($place).+.size, "The most calls that wait; 0 for none.";
                max_wait: Time => $($place).+.max_wait, "The longest wait.";
                overload_after: Time => $($place).+.overload_after,
                    "When calls of one criticality have been lost for this long and others waited all the time, the newest goes first.";
            }),
            tables: &[],
        }
    };
}

macro_rules! rate_table {
    ($of:ty, $($place:ident).+, $doc:expr) => {
        Table {
            name: "rate",
            doc: $doc,
            fields: fields!($of {
                mode: MODE => $($place).+.rate.mode, ABSENT_DOC;
                calls: COUNT => $($place).+.rate.calls, "How many calls pass in `per`, in the long run.";
                per: Time => $($place).+.rate.per, "The time in which they do, up to a day.";
                burst: COUNT => $($place).+.rate.burst, "How many may come at once after a quiet time.";
                keys: COUNT => $($place).+.rate.keys, "How many clients are told apart at a time.";
                by: BY => $($place).+.by, "Who shares a rate: the calls of one client, as the route's `client_key` tells them apart, or all calls.";
                store: STORE => $($place).+.store, "Where calls are counted: in this process, or in `[redis]` with all proxies that use it.";
                when_down: WHEN_DOWN => $($place).+.when_down,
                    "What happens while Redis can't be asked: this process counts on its own (`local`), all calls pass (`allow`), or none does (`refuse`).";
            }),
            tables: &[],
        }
    };
}

pub(super) static UPSTREAM_LIMIT: Table<Policies> = limit_table!(
    Policies,
    limit,
    MODE_DOC,
    "How many calls an upstream takes at a time; more wait, or are refused.",
    UPSTREAM_QUEUE,
    {
        per_region: Or("off", REGION_LIMIT) => region_limit,
            "The most attempts in flight in one region of it, so that the loss of one does not drown the next. In force where `mode` is `enforce`.";
    }
);
static UPSTREAM_QUEUE: Table<Policies> = queue_table!(Policies, queue);

pub(super) static LISTENER_LIMIT: Table<Proxy> = limit_table!(
    Proxy,
    gating.limit,
    ABSENT_DOC,
    "How many calls each address of `listen` takes at a time; more wait, or are refused. Not in force unless this table is there.",
    LISTENER_QUEUE,
    {}
);
static LISTENER_QUEUE: Table<Proxy> = queue_table!(Proxy, gating.queue);

pub(super) static ROUTE_LIMIT: Table<Routing> = limit_table!(
    Routing,
    gating.limit,
    ABSENT_DOC,
    "How many calls the route takes at a time; more wait, or are refused. Not in force unless this table is there.",
    ROUTE_QUEUE,
    {}
);
static ROUTE_QUEUE: Table<Routing> = queue_table!(Routing, gating.queue);

pub(super) static LISTENER_RATE: Table<Proxy> = rate_table!(
    Proxy,
    rating,
    "How many calls all routes together take in a while; more are refused with 429. Not in force unless this table is there."
);
pub(super) static ROUTE_RATE: Table<Routing> = rate_table!(
    Routing,
    rating,
    "How many calls the route takes in a while; more are refused with 429. Not in force unless this table is there."
);

pub(super) static REDIS: Table<Proxy> = Table {
    name: "redis",
    doc: "A server for what several proxies share: rates with `store = \"redis\"`, and idempotency keys if `[idempotency]` says so.",
    fields: fields!(Proxy {
        url: Secret(REDIS_URL) => redis.url, "Where it is: `redis://user:password@host:port/database`. The password is not shown.";
        timeout: STORE_PATIENCE => redis.timeout, "How long an answer may take before it counts as down.";
        prefix: KEY_PREFIX => redis.prefix, "What the keys begin with; proxies with the same count together.";
    }),
    tables: &[],
};

pub(super) static PRESSURE: Table<Proxy> = Table {
    name: "pressure",
    doc: "How short the host may be of something before every limit is lowered, step by step. What the system doesn't tell counts for nothing.",
    fields: fields!(Proxy {
        mode: MODE => pressure.mode, MODE_DOC;
        cpu: Or("off", Number) => pressure.cpu, "The share of the processors' time that is used, above 0 to 1.";
        cpu_stall: Or("off", Number) => pressure.cpu_stall,
            "The share of time in which something waited for a processor (Linux: PSI), above 0 to 1.";
        memory: Or("off", Number) => pressure.memory, "The share of the memory that is used, above 0 to 1.";
        memory_stall: Or("off", Number) => pressure.memory_stall,
            "The share of time in which something waited for memory (Linux: PSI), above 0 to 1.";
        descriptors: Or("off", Number) => pressure.descriptors, "The share of the file descriptors that is open, above 0 to 1.";
        floor: Number => pressure.floor, "The share of them below which limits are never lowered, above 0 to 1.";
    }),
    tables: &[],
};

pub(super) static THROTTLE: Table<Policies> = Table {
    name: "throttle",
    doc: "Refuses here, in proportion, what the upstream would refuse because it is overloaded; the least critical first.",
    fields: fields!(Policies {
        mode: MODE => throttle.mode, MODE_DOC;
        window: Time => throttle.window, "How far back it looks, 500 ms to 10 minutes.";
        multiplier: Number => throttle.multiplier, "How many times what the upstream accepts is sent, 1 to 100.";
        most: Number => throttle.most, "The greatest share that is refused here, 0 to 1.";
        probes_per_second: Number => throttle.probes_per_second, "Calls that are sent in a second whatever the upstream refuses.";
    }),
    tables: &[],
};

/// How much the calls of one client matter.
pub(crate) static CLIENT: Table<Client> = Table {
    name: "client",
    doc: "How much the calls of one client matter: `[[client]]`, once for each. Goes before what its route says.",
    fields: fields!(Client {
        key: Secret(TEXT) => key, "The value of the route's `client_key` that its calls have. Not shown. Required.";
        criticality: CRITICALITY => criticality, "How much they matter. Required.";
        name: NAME => name, "What it is called.";
    }),
    tables: &[],
};
