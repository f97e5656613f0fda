//! The settings that say which of an upstream's instances are asked.

use std::time::Duration;

use seaworthy_core::Valid;
use seaworthy_core::balance::Algorithm;
use seaworthy_core::gate::health;

use super::{MODE, MODE_DOC, Policies};
use crate::health::{Check, CheckKind, Pattern, StatusRange};
use crate::shape::{
    AUTHORITY, COUNT, Command, Count, Flag, HASH_ON, ListOf, Number, OneOf, Or, OrEmpty, PATTERN,
    REQUEST_PATH, RESOLVER, SERVICE, Statuses, Time, TimeWithin, within,
};
use crate::table::{Table, fields};

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

const KIND: OneOf<CheckKind> = OneOf(&[
    ("http", CheckKind::Http),
    ("tcp", CheckKind::Tcp),
    ("grpc", CheckKind::Grpc),
    ("command", CheckKind::Command),
]);
const PORT: Count<u16> = within(1, 65_535);
/// A TTL of a day is as good as for ever, and one of 0 would ask for each call.
const TTL: TimeWithin = TimeWithin { least: Duration::from_millis(100), most: Duration::from_secs(86_400) };
/// A look costs a system call, so ten a second are cheap and more are no use.
const FILE_POLL: TimeWithin =
    TimeWithin { least: Duration::from_millis(100), most: Duration::from_secs(3600) };
/// How long a start may be slow: not at all, or up to a day.
const START: TimeWithin = TimeWithin { least: Duration::ZERO, most: Duration::from_secs(86_400) };

pub(super) static OUTLIER: Table<Policies> = Table {
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

pub(super) static BALANCE: Table<Policies> = Table {
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

pub(super) static CHECK: Table<Policies> = Table {
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

pub(super) static DISCOVERY: Table<Policies> = Table {
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
