//! The settings of what is carried out once, and of where that is kept.

use std::time::Duration;

use seaworthy_core::idempotency::OnUnknown;

use super::{METHOD, Proxy, Routing};
use crate::idempotency::{
    Keep, PostgresUrl, Required, RouteIdempotency, StoreWord, WhenCorrupt, WhenStoreDown,
};
use crate::shape::{
    Count, FIELD_NAME, KEY_FIELD, ListOf, OneOf, Or, OrEmpty, OrUnsaid, POSTGRES_URL, RequiredOf, SCHEMA,
    Secret, Size, TimeWithin, Waiting, within,
};
use crate::table::{Table, fields};

/// What `[idempotency]` says.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Storing {
    pub store: StoreWord,
    pub timeout: Duration,
    pub cache: u64,
    pub when_corrupt: WhenCorrupt,
    pub records: u32,
    pub url: Option<PostgresUrl>,
    pub pool: u32,
    pub schema: String,
}

impl Default for Storing {
    /// A durable write to a busy disk takes some milliseconds, and one to a server in the same region too: a caller who waits
    /// for a second is better told. redb's own cache is 1 GiB; 16 MiB hold the pages of what is asked for again of late. Eight
    /// connections write some thousand records a second to a disk that syncs in a millisecond, and are few among the hundred
    /// that PostgreSQL takes.
    fn default() -> Self {
        Self {
            store: StoreWord::Embedded,
            timeout: Duration::from_secs(1),
            cache: 16 << 20,
            when_corrupt: WhenCorrupt::default(),
            records: 10_000,
            url: None,
            pool: 8,
            schema: "seaworthy".to_owned(),
        }
    }
}

/// What `[route.idempotency]` says.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Keying {
    pub required: Required,
    /// The rest; what is required follows once it is known to be right.
    pub rest: RouteIdempotency,
}

impl Default for Keying {
    fn default() -> Self {
        Self { required: Required::All(false), rest: RouteIdempotency::default() }
    }
}

const STORE: OneOf<StoreWord> = OneOf(&[
    (StoreWord::Embedded.name(), StoreWord::Embedded),
    (StoreWord::Memory.name(), StoreWord::Memory),
    (StoreWord::Redis.name(), StoreWord::Redis),
    (StoreWord::Postgres.name(), StoreWord::Postgres),
]);
const WHEN_CORRUPT: OneOf<WhenCorrupt> =
    OneOf(&[("refuse", WhenCorrupt::Refuse), ("begin-anew", WhenCorrupt::BeginAnew)]);
const KEEP: OneOf<Keep> =
    OneOf(&[("definite", Keep::Definite), ("no-server-errors", Keep::NoServerErrors), ("all", Keep::All)]);
const UNKNOWN: OneOf<OnUnknown> = OneOf(&[("refuse", OnUnknown::Refuse), ("retry", OnUnknown::Retry)]);
const BUSY: Waiting = Waiting(TimeWithin { least: Duration::from_millis(1), most: Duration::from_secs(600) });
const WHEN_DOWN: OneOf<WhenStoreDown> =
    OneOf(&[("refuse", WhenStoreDown::Refuse), ("allow", WhenStoreDown::Allow)]);
/// Every call with a key waits for two steps, so half a minute is more than anybody wants.
const STEP: TimeWithin = TimeWithin { least: Duration::from_millis(1), most: Duration::from_secs(30) };
/// An operation of a day is a job, and wants to be asked for as one.
const LEASE: TimeWithin =
    TimeWithin { least: Duration::from_millis(10), most: Duration::from_secs(24 * 3600) };
/// From a second, for trials, to the longest duration that is read.
const RETENTION: TimeWithin = TimeWithin { least: Duration::from_secs(1), most: crate::units::LONGEST };
/// Enough for the upper levels of the tree, to as much as a machine has.
const CACHE: Size = Size { least: 1 << 20, most: 1 << 40 };
const RECORDS: Count<u32> = within(1, 100_000_000);
const POOL: Count<u32> = within(1, 1000);
/// What is longer is a file, and is better sent by a protocol for files.
const BODY: Size = Size { least: 1 << 10, most: 64 << 20 };

pub(super) static IDEMPOTENCY: Table<Proxy> = Table {
    name: "idempotency",
    doc: "Where idempotency keys and results are kept, for the routes with a table `[route.idempotency]`. Each kind of store looks \
          at its own settings alone.",
    fields: fields!(Proxy {
        store: STORE => storing.store,
            "A file in `data` that belongs to this proxy alone (`embedded`); the proxy's memory, which forgets everything when it stops (`memory`); `[redis]` or PostgreSQL, for several proxies.";
        timeout: STEP => storing.timeout,
            "How long one step of the store may take before it counts as down; `timeout` of `[redis]` does not count here.";
        cache: CACHE => storing.cache, "`embedded`: the most memory for what was read of the file.";
        when_corrupt: WHEN_CORRUPT => storing.when_corrupt,
            "`embedded`: what happens once the file turns out to be damaged, and was put aside. Keys can't be looked up until somebody has decided (`refuse`), or an empty file takes its place (`begin-anew`): then what was done before can be done again.";
        records: RECORDS => storing.records,
            "`memory`: the most records, of some 500 bytes and their results; all results together may take 256 MiB. What comes beyond is handled as if the store were down.";
        url: Secret(OrUnsaid(Or("none", POSTGRES_URL))) => storing.url,
            "`postgres`: where it is, `postgres://user:password@host:port/database`. The password is not shown. Required there.";
        pool: POOL => storing.pool, "`postgres`: the most connections.";
        schema: SCHEMA => storing.schema,
            "`postgres`: the schema in which its tables stand, and are made if they are not there. Proxies with the same share their keys; with Redis it is `redis.prefix` that they share.";
    }),
    tables: &[],
};

pub(super) static ROUTE_IDEMPOTENCY: Table<Routing> = Table {
    name: "idempotency",
    doc: "Carries a request with an idempotency key out once, and answers its repetitions with the kept result. A key is one \
          client's at this route: `client_key` tells clients apart, and the route's `name` is a part of it. Not in force unless \
          this table is there.",
    fields: fields!(Routing {
        methods: ListOf(METHOD) => keying.rest.methods,
            "The methods with which a key is honoured. Those that change nothing (GET, HEAD, OPTIONS, TRACE) need none.";
        required: RequiredOf(ListOf(METHOD)) => keying.required,
            "Whether a request without a key is refused with 400: with all of `methods`, with none, or with those listed.";
        header: KEY_FIELD => keying.rest.header, "The header that carries the key: one that says nothing else, and that the proxy doesn't write.";
        fingerprint_headers: OrEmpty("none", ListOf(FIELD_NAME)) => keying.rest.fingerprint_headers,
            "Headers that have to be the same when a request is repeated, besides method, host, path, query and body. Another request with the same key is refused with 422.";
        keep: KEEP => keying.rest.keep,
            "Which answers are kept: 2xx, 3xx and 4xx but for 401, 407, 408, 409, 421, 423, 425 and 429 (`definite`), all but 5xx (`no-server-errors`), or all (`all`). Any other says that nothing has happened, and sets its key free: whoever can't promise that of errors writes `all`.";
        replay_headers: OrEmpty("none", ListOf(FIELD_NAME)) => keying.rest.replay_headers,
            "The headers of an answer that are kept and replayed. `Set-Cookie` can't be: it would hand a session to whoever repeats the request. Nor can what the proxy writes itself.";
        lease: LEASE => keying.rest.lease,
            "How long an operation may run before whoever carries it out is taken for dead. Longer than the route's deadline, by a second and by the store's `timeout` at least.";
        retention: RETENTION => keying.rest.retention,
            "How long a result is remembered after the last change; at least twice the lease. What is repeated later is carried out again.";
        unknown: UNKNOWN => keying.rest.unknown,
            "What becomes of an operation that was begun and of which nobody knows how it ended: repetitions get 409 until an operator releases it (`refuse`), or it is sent again under the same key and a higher fencing token (`retry`). The proxy's own retries and hedges follow it: without `retry` only what was certainly not sent is sent again. `retry` is right only where the upstream knows keys or tokens itself.";
        busy: BUSY => keying.rest.busy,
            "What a request gets while another with its key runs: 409 with `Retry-After` (`refuse`), or the other's answer, if that comes within this time, and within the route's deadline.";
        answer_bytes: BODY => keying.rest.answer_bytes,
            "The longest body of an answer that is kept. Of a longer one only the head is: repetitions get 409 with its status, and nothing is carried out again.";
        request_bytes: BODY => keying.rest.request_bytes,
            "The longest body of a request with a key; more is answered with 413. It is read whole before anything is sent.";
        when_down: WHEN_DOWN => keying.rest.when_down,
            "What a request with a key gets while the store can't be asked: 503 (`refuse`), or it is carried out and not remembered (`allow`).";
    }),
    tables: &[],
};
