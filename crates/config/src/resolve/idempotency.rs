//! What is carried out once, and where that is kept.

mod headers;

use std::ops::Range;
use std::time::Duration;

use seaworthy_core::idempotency::OnUnknown;
use toml::de::DeTable;

use super::overload::{Here, Top};
use super::{Draft, RouteDraft};
use crate::degrade::Kind;
use crate::idempotency::{Busy, KeyStore, KeyStoreKind, RouteIdempotency, StoreWord};
use crate::reader::{Marks, Reader};
use crate::settings::{Policies, Proxy, Repeatable, Routing, Storing};
use crate::sources::HashOn;
use crate::table::join;
use crate::units::show_duration;

/// Checks what the top of the file says of the store, if it says anything.
pub(super) fn process(
    reader: &mut Reader<'_>,
    root: &DeTable<'_>,
    storing: &Storing,
    marks: &Marks,
    top: Top,
) {
    let table = root.get("idempotency").and_then(|value| value.get_ref().as_table());
    let is_there = |key: &str| table.is_some_and(|table| table.contains_key(key));
    let is_unread = is_there("store") && marks.own("idempotency.store").is_none();
    if !is_written(marks) || is_unread {
        return;
    }
    let mut scope = Here { reader, path: "", marks };
    let at = &["idempotency.store", "idempotency"];
    match storing.store {
        StoreWord::Embedded if !top.has_data => {
            let message = format!("{} is \"embedded\", and there is no data", by_default(&scope, at[0]));
            scope.fault(at, &message, NO_DATA_REMEDY);
        }
        StoreWord::Redis if !top.has_redis => {
            let remedy = "write [redis] and below it url = \"redis://10.0.0.5:6379\", or name another store";
            scope.fault(at, "idempotency.store is \"redis\", and there is no [redis]", remedy);
        }
        // One that can't be read was told.
        StoreWord::Postgres
            if storing.url.is_none() && (!is_there("url") || marks.own("idempotency.url").is_some()) =>
        {
            let remedy =
                "write where the server is: url = \"postgres://seaworthy:password@10.0.0.6:5432/keys\"";
            scope.fault(at, "idempotency.store is \"postgres\", and there is no url", remedy);
        }
        _ => {}
    }
    for (key, of) in OWN_SETTINGS {
        let path = join("idempotency", key);
        if let Some(mark) = marks.own(&path).filter(|_| of != storing.store) {
            let message = format!("{path} is set, and store is {:?}", storing.store.name());
            let remedy =
                format!("that store does not look at it; write store = {:?}, or remove it", of.name());
            scope.reader.warn(&mark.span, message, remedy);
        }
    }
}

/// Whether there is a table `[idempotency]`.
pub(super) fn is_written(marks: &Marks) -> bool {
    marks.own("idempotency").is_some()
}

/// What a route's keys rest on.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub top: Top,
    /// Whether there is a table `[idempotency]`, which is then told of its own mistakes.
    pub has_store: bool,
    pub storing: &'a Storing,
}

/// Checks what a route says of keys.
pub(super) fn route(
    reader: &mut Reader<'_>,
    ground: Ground<'_>,
    routing: &mut Routing,
    policies: &Policies,
    marks: &Marks,
    header: &Range<usize>,
) {
    if marks.own("idempotency").is_none() {
        return;
    }
    let mut scope = Here { reader, path: "route", marks };
    if !ground.has_store && !ground.top.has_data {
        let message = "route.idempotency is set, and there is neither data nor [idempotency]";
        scope.fault(&["idempotency"], message, NO_DATA_REMEDY);
    }
    times(&mut scope, &routing.keying.rest, policies, ground.storing.timeout);
    methods(&mut scope, routing);
    headers::check(&mut scope, &routing.keying.rest);
    at_odds(&mut scope, routing, policies);
    if routing.repeatable == Repeatable::Always {
        let message = "route.repeatable is \"always\", and route.idempotency is set";
        let remedy = "what may be sent twice needs no key; remove one of them";
        scope.fault(&["repeatable", "idempotency"], message, remedy);
    }
    identity(&mut scope, routing, header);
    let keys = &mut routing.keying;
    keys.rest.required = keys.required.of(&keys.rest.methods);
}

/// The owner of a key must have stopped before anybody takes it for dead, and nobody may forget it while it runs. An observer may
/// see a reservation as long before its owner hears of it as a step of the store takes.
fn times(scope: &mut Here<'_, '_>, keys: &RouteIdempotency, policies: &Policies, step: Duration) {
    let paths = &["idempotency.lease", "deadline", "idempotency"];
    let lease = by_default(scope, "idempotency.lease");
    match policies.call.deadline {
        None => {
            let message = "route.deadline is \"off\", and route.idempotency is set";
            let remedy = "a key is held for a lease, and a call must be over before: write a deadline, such as \"30s\"";
            scope.fault(&["deadline", "idempotency"], message, remedy);
        }
        Some(deadline) => {
            let least = deadline.saturating_add(step.max(MARGIN));
            if keys.lease < least {
                let (is, deadline) = (show_duration(keys.lease), show_duration(deadline));
                let message =
                    format!("route.{lease} is {is}, too short for the route's deadline ({deadline})");
                let and_a_step = if step > MARGIN {
                    format!(", and a step of the store ({}) with it", show_duration(step))
                } else {
                    String::new()
                };
                let remedy = format!(
                    "a call must be over before its lease is{and_a_step}: write {:?} or more, or shorten the deadline",
                    show_duration(least)
                );
                scope.fault(paths, &message, &remedy);
            }
        }
    }
    if keys.retention < keys.lease.saturating_mul(2) {
        let retention = by_default(scope, "idempotency.retention");
        let (is, lease) = (show_duration(keys.retention), show_duration(keys.lease));
        let message = format!("route.{retention} is {is}, shorter than two leases ({lease} each)");
        let remedy = format!(
            "what runs could be forgotten; write {:?} or more",
            show_duration(keys.lease.saturating_mul(2))
        );
        scope.fault(&["idempotency.retention", "idempotency.lease"], &message, &remedy);
    }
}

fn by_default(scope: &Here<'_, '_>, path: &str) -> String {
    let note = if scope.marks.own(path).is_none() { " (the default)" } else { "" };
    format!("{path}{note}")
}

/// A key must be of use with each method, and each that requires one must honour it.
fn methods(scope: &mut Here<'_, '_>, routing: &Routing) {
    let keys = &routing.keying;
    let honoured = &keys.rest.methods;
    for safe in honoured.iter().filter(|method| SAFE.contains(method)) {
        let message = format!("route.idempotency.methods holds {safe:?}, which changes nothing");
        let remedy = "it can be repeated without a key, and its answer would be an old one; leave it out";
        scope.fault(&["idempotency.methods"], &message, remedy);
    }
    let required = keys.required.of(honoured);
    for other in required.iter().filter(|method| !honoured.contains(method)) {
        let message = format!("route.idempotency.required holds {other:?}, with which a key is not honoured");
        let remedy = if SAFE.contains(other) {
            "it changes nothing and needs no key; leave it out".to_owned()
        } else {
            format!("add {other:?} to methods, or leave it out")
        };
        scope.fault(&["idempotency.required"], &message, &remedy);
    }
    let taken = &routing.methods;
    if taken.is_empty() {
        return;
    }
    if !honoured.iter().any(|method| taken.contains(method)) {
        let note = by_default(scope, "idempotency.methods");
        let message = format!("route.{note} are {}, and the route takes none of them", honoured.join(", "));
        let remedy =
            format!("it takes {}; change one of the two lists, or remove the table", taken.join(", "));
        scope.fault(&["idempotency.methods", "methods", "idempotency"], &message, &remedy);
    } else if let Some(mark) = scope.marks.own("idempotency.methods") {
        for idle in honoured.iter().filter(|method| !taken.contains(method)) {
            let message = format!("route.idempotency.methods holds {idle:?}, which the route does not take");
            scope.reader.warn(&mark.span, message, "leave it out, or add it to the route's methods");
        }
    }
}

/// What can be run, and probably does not do what its writer expects.
fn at_odds(scope: &mut Here<'_, '_>, routing: &Routing, policies: &Policies) {
    let keys = &routing.keying.rest;
    if let (Busy::Wait(wait), Some(deadline)) = (keys.busy, policies.call.deadline)
        && wait > deadline
        && let Some(mark) = scope.marks.own("idempotency.busy")
    {
        let (wait, deadline) = (show_duration(wait), show_duration(deadline));
        let message = format!("route.idempotency.busy is {wait}, longer than the deadline ({deadline})");
        let remedy = "the deadline ends the wait first; shorten the wait or lengthen the deadline";
        scope.reader.warn(&mark.span, message, remedy);
    }
    if keys.unknown == OnUnknown::Retry
        && routing.repeatable == Repeatable::Never
        && let Some(mark) = scope.marks.own("idempotency.unknown")
    {
        let message = "route.idempotency.unknown is \"retry\", and route.repeatable is \"never\"".to_owned();
        let remedy = "the proxy repeats nothing by itself, and what a client repeats is sent again all the same: write unknown = \"refuse\" \
                      if nothing may be sent twice, or remove repeatable";
        scope.reader.warn(&mark.span, message, remedy);
    }
    if routing.degrade.contains(&Kind::Upstream)
        && let Some(mark) = scope.marks.own("substitute")
    {
        let message = "route.substitute is set, and so is route.idempotency".to_owned();
        let remedy = "a request with a key is never sent to another upstream, as its own may have carried it out; only the route's \
                      other requests are";
        scope.reader.warn(&mark.span, message, remedy);
    }
}

/// Whose key it is must be known, and where it was used must fit into a record.
fn identity(scope: &mut Here<'_, '_>, routing: &Routing, header: &Range<usize>) {
    if scope.marks.own("client_key").is_none() && routing.client_key == HashOn::Source {
        let message = "route.idempotency is set, and client_key (the default) is \"source\"".to_owned();
        let remedy = "a client that comes back from another address is another one, and its request is carried out again: \
                      write client_key = \"header:NAME\" of what tells clients apart, or \"source\" to consent";
        let span = scope.span(&["idempotency"]);
        scope.reader.warn(&span, message, remedy);
    }
    match &routing.client_key {
        HashOn::None => {
            let message = "route.client_key is \"none\", and route.idempotency is set".to_owned();
            let remedy = "all clients share their keys, and two that draw the same, or one that guesses another's, get one answer: \
                          write client_key = \"header:NAME\" of what tells clients apart";
            let span = scope.span(&["client_key"]);
            scope.reader.warn(&span, message, remedy);
        }
        HashOn::Header(name) if *name == routing.keying.rest.header => {
            let message = format!("route.idempotency.header is {name:?}, which is the route's client_key");
            let remedy = "each key would be a client of its own; what tells clients apart is the same in all requests of one";
            scope.fault(&["idempotency.header", "client_key"], &message, remedy);
        }
        _ => {}
    }
    if routing.name.len() > MOST_PLACE_BYTES {
        let message = "route.name is longer than 255 bytes, and route.idempotency is set".to_owned();
        let span = scope.marks.own("name").map_or(header.clone(), |mark| mark.span.clone());
        scope.reader.error(&span, message, "the name is a part of every key; write a short one");
    }
}

/// Where keys are kept, if that is said or any route has them.
pub(super) fn built(proxy: &Proxy, marks: &Marks, routes: &[RouteDraft]) -> Option<KeyStore> {
    if !is_in_force(marks, routes) {
        return None;
    }
    let Storing { store, timeout, cache, when_corrupt, records, url, pool, schema } = proxy.storing.clone();
    let kind = match store {
        StoreWord::Embedded => {
            KeyStoreKind::Embedded { folder: proxy.data.clone()?, cache_bytes: cache, when_corrupt }
        }
        StoreWord::Memory => KeyStoreKind::Memory { most_records: records },
        StoreWord::Redis => KeyStoreKind::Redis(proxy.redis.clone()),
        StoreWord::Postgres => KeyStoreKind::Postgres { url: url?, pool, schema },
    };
    Some(KeyStore { kind, timeout })
}

/// Whether there is a store at all.
pub(super) fn is_in_force(marks: &Marks, routes: &[RouteDraft]) -> bool {
    is_written(marks) || routes.iter().any(|route| route.marks.own("idempotency").is_some())
}

/// Tells of a store that nothing is kept in.
pub(super) fn unused(reader: &mut Reader<'_>, draft: &Draft) {
    let mark = draft.proxy_marks.own("idempotency");
    let is_used = draft.routes.iter().any(|route| route.marks.own("idempotency").is_some());
    if let Some(mark) = mark.filter(|_| !is_used) {
        let message = "idempotency is set, and no route has a table [route.idempotency]".to_owned();
        reader.warn(&mark.span, message, "nothing is kept there; write one below a [[route]], or remove it");
    }
}

const NO_DATA_REMEDY: &str = "write data = \"/var/lib/seaworthy\" at the top; or below [idempotency] store = \"redis\" or \"postgres\", \
     or store = \"memory\", which forgets every key when the proxy stops, so that what was done before can be done again";
/// The settings that one kind of store has alone.
const OWN_SETTINGS: [(&str, StoreWord); 6] = [
    ("cache", StoreWord::Embedded),
    ("when_corrupt", StoreWord::Embedded),
    ("records", StoreWord::Memory),
    ("url", StoreWord::Postgres),
    ("pool", StoreWord::Postgres),
    ("schema", StoreWord::Postgres),
];
/// How much longer than a deadline a lease is at least: the time in which an ended call is known to have ended everywhere.
const MARGIN: Duration = Duration::from_secs(1);
/// RFC 9110, section 9.2.1.
const SAFE: [&str; 4] = ["GET", "HEAD", "OPTIONS", "TRACE"];
/// What a record has room for.
const MOST_PLACE_BYTES: usize = 255;
