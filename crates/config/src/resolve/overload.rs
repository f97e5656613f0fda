//! What holds calls back, and what answers instead: clients, gates, rates, and the order of a route's answers.

use std::ops::Range;
use std::path::Path;

use seaworthy_core::{Fault, Mode, Rules};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::topology::beside;
use super::{RouteDraft, UpstreamDraft, quoted, valid};
use crate::checks::idle_queue;
use crate::degrade::{Degrade, Kind, Substitute};
use crate::nearest::nearest;
use crate::overload::{ClientRule, Gate, RateLimit, RateStore};
use crate::reader::{At, Level, Marks, Reader};
use crate::settings::{CLIENT, Client, Fallback, Gating, Proxy, Rating, Routing};
use crate::table::join;

/// What stands at the top that routes may need, right or wrong.
#[derive(Clone, Copy)]
pub(super) struct Top {
    pub has_redis: bool,
    pub has_data: bool,
}

impl Top {
    pub(super) fn of(root: &DeTable<'_>) -> Self {
        let has_data = root.get("data").is_some_and(|data| data.get_ref().as_str() != Some("off"));
        Self { has_redis: root.contains_key("redis"), has_data }
    }
}

/// What is said of one client.
pub(super) struct ClientDraft {
    pub settings: Client,
    pub marks: Marks,
}

/// Reads every `[[client]]`.
pub(super) fn clients(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Vec<ClientDraft> {
    let Some((at, value)) = root.get_key_value("client") else { return Vec::new() };
    let DeValue::Array(items) = value.get_ref() else {
        let message = format!("client is {}, not a list of tables", reader.described(value));
        reader.error(&at.span(), message, "write [[client]], in two pairs of brackets, once for each");
        return Vec::new();
    };
    let mut clients: Vec<ClientDraft> = Vec::new();
    for item in items.iter() {
        let Some(draft) = client(reader, item, &at.span()) else { continue };
        if let Some(mark) = draft.marks.own("key")
            && clients.iter().any(|other| other.settings.key == draft.settings.key)
        {
            let message = "client.key is that of another client as well".to_owned();
            reader.error(&mark.span, message, "the first would hold; remove one of them");
        }
        clients.push(draft);
    }
    clients
}

fn client(reader: &mut Reader<'_>, item: &Spanned<DeValue<'_>>, list: &Range<usize>) -> Option<ClientDraft> {
    let Some(table) = item.get_ref().as_table() else {
        let message = format!("client holds {}, not a table", reader.described(item));
        reader.error(&item.span(), message, "write [[client]] on a line of its own, and its settings below");
        return None;
    };
    let header = if item.span().is_empty() { list.clone() } else { item.span() };
    reader.unknown_keys("client", table, &CLIENT.keys().collect::<Vec<_>>(), |_| None);
    let (mut settings, mut marks) = (Client::default(), Marks::default());
    let at = At { path: "client", below: "", level: Level::Here };
    reader.fill(&CLIENT, table, &at, &mut settings, &mut marks);
    for (key, remedy) in [
        ("key", "write the value of the client key that tells it from others, such as key = \"10.0.0.7\""),
        ("criticality", "say how much its calls matter, such as criticality = \"sheddable\""),
    ] {
        if table.get(key).is_none() {
            reader.error(&header, format!("client has no {key}"), remedy);
        }
    }
    Some(ClientDraft { settings, marks })
}

pub(super) fn built_client(draft: ClientDraft) -> ClientRule {
    let Client { key, criticality, name } = draft.settings;
    ClientRule { name, value: key, criticality }
}

/// Whoever writes the table of a limit or a rate wants it in force.
pub(super) fn wanted(gating: &mut Gating, rating: &mut Rating, marks: &Marks) {
    let is_wanted = |table: &str| marks.own(table).is_some() && marks.own(&join(table, "mode")).is_none();
    if is_wanted("limit") {
        gating.limit.mode = Mode::Enforce;
    }
    if is_wanted("rate") {
        rating.rate.mode = Mode::Enforce;
    }
}

/// Checks what the top of the file says of gates, rates and pressure.
pub(super) fn process(reader: &mut Reader<'_>, proxy: &Proxy, marks: &Marks, top: Top) {
    let Proxy { gating, rating, pressure, .. } = proxy;
    let mut scope = Here { reader, path: "", marks };
    scope.gates(gating, rating, top.has_redis);
    scope.rules("pressure", pressure.faults());
}

/// Checks what a route says of gates, rates and what answers instead, and settles the order of the latter.
pub(super) fn route(
    reader: &mut Reader<'_>,
    top: Top,
    table: &DeTable<'_>,
    routing: &mut Routing,
    marks: &Marks,
    (upstream, upstreams): (Option<usize>, &[UpstreamDraft]),
) {
    let mut scope = Here { reader, path: "route", marks };
    scope.gates(&routing.gating, &routing.rating, top.has_redis);
    scope.order(routing);
    if let Some(substitute) = table.get("substitute").and_then(|value| value.get_ref().as_table()) {
        scope.substitute(substitute, routing, upstream, upstreams);
    }
    let takes_get =
        routing.methods.is_empty() || routing.methods.iter().any(|m| matches!(*m, "GET" | "HEAD"));
    if !takes_get && routing.degrade.contains(&Kind::Stale) {
        let remedy = "only answers to GET and HEAD are stored; remove the table, or add \"GET\"";
        scope.fault(
            &["stale", "degrade"],
            "route answers with what is stored, and methods names neither GET nor HEAD",
            remedy,
        );
    }
    if marks.own("flags").is_some() && !top.has_data {
        let remedy = "what flags last were is kept there; write data = \"/var/lib/seaworthy\" at the top";
        scope.fault(&["flags"], "route.flags is set, and there is no data", remedy);
    }
    if routing.fallback.file.is_some() && !routing.fallback.body.is_empty() {
        let remedy = "one of them is the body; remove the other";
        scope.fault(&["fallback.file"], "route.fallback.file is set, and so is body", remedy);
    }
}

/// Settings that are being checked.
pub(super) struct Here<'a, 's> {
    pub reader: &'a mut Reader<'s>,
    pub path: &'a str,
    pub marks: &'a Marks,
}

impl Here<'_, '_> {
    /// Points at the first of `paths` that was written, else at a setting beside it.
    pub(super) fn span(&self, paths: &[&str]) -> Range<usize> {
        let exact = || paths.iter().find_map(|path| self.marks.own(path));
        let beside = || paths.iter().find_map(|path| self.marks.own_in(path.rsplit_once('.')?.0));
        let above = || paths.iter().find_map(|path| self.marks.own(path.split('.').next()?));
        exact().or_else(beside).or_else(above).map_or(0..0, |mark| mark.span.clone())
    }

    pub(super) fn fault(&mut self, paths: &[&str], message: &str, remedy: &str) {
        let span = self.span(paths);
        self.reader.error(&span, message.to_owned(), remedy);
    }

    /// The faults that the rules of the policy of `table` find.
    fn rules(&mut self, table: &str, faults: Vec<Fault>) {
        for Fault { field, problem, remedy } in faults {
            let path = join(table, field);
            let by_default = if self.marks.own(&path).is_none() { " (the default)" } else { "" };
            let message = format!("{}{by_default} {problem}", join(self.path, &path));
            let span = self.span(&[&path]);
            self.reader.error(&span, message, remedy);
        }
    }

    fn gates(&mut self, gating: &Gating, rating: &Rating, has_redis: bool) {
        let Gating { limit, queue } = gating;
        self.rules("limit", limit.faults());
        self.rules("limit.queue", queue.faults());
        self.rules("rate", rating.rate.faults());
        if let Some(finding) = idle_queue("limit", limit, self.marks) {
            let span = self.span(&["limit.queue"]);
            finding.tell(self.reader, self.path, &span);
        }
        let store = join(self.path, "rate.store");
        if rating.store == RateStore::Redis && !has_redis {
            let message = format!("{store} is \"redis\", and there is no [redis]");
            let remedy = "write [redis] and below it url = \"redis://10.0.0.5:6379\", or store = \"local\"";
            self.fault(&["rate.store"], &message, remedy);
        }
        if let Some(mark) = self.marks.own("rate.when_down").filter(|_| rating.store == RateStore::Local) {
            let message = format!("{} is set, and store is \"local\"", join(self.path, "rate.when_down"));
            self.reader.warn(
                &mark.span,
                message,
                "what is counted here is never down; write store = \"redis\", or remove it",
            );
        }
    }

    /// Without an order, what is there in the order of old; with one, exactly what it names.
    fn order(&mut self, routing: &mut Routing) {
        let marks = self.marks;
        let is_there = |kind: &Kind| marks.own(kind.table()).is_some();
        let Some(order) = marks.own("degrade") else {
            routing.degrade = Kind::ALL.into_iter().filter(is_there).collect();
            return;
        };
        for kind in Kind::ALL {
            let is_named = routing.degrade.contains(&kind);
            let (name, table) = (kind.name(), kind.table());
            if is_named && !is_there(&kind) && kind != Kind::Stale {
                let message = format!("route.degrade holds {name:?}, and there is no [route.{table}]");
                self.reader.error(
                    &order.span,
                    message,
                    format!("write [route.{table}], or leave {name:?} out"),
                );
            }
            if let Some(mark) = marks.own(table).filter(|_| !is_named) {
                let message = format!("route.{table} is set, and degrade does not hold {name:?}");
                self.reader.warn(
                    &mark.span,
                    message,
                    format!("it is never used; add {name:?}, or remove it"),
                );
            }
        }
    }

    /// The other upstream must be there, and be another.
    fn substitute(
        &mut self,
        table: &DeTable<'_>,
        routing: &Routing,
        upstream: Option<usize>,
        upstreams: &[UpstreamDraft],
    ) {
        let names = || upstreams.iter().map(|upstream| upstream.name.as_str());
        let wanted = routing.substitute.upstream.as_str();
        if table.get("upstream").is_none() {
            let remedy =
                "write the name of the upstream that answers instead, such as upstream = \"popular\"";
            self.fault(&["substitute"], "route.substitute names no upstream", remedy);
            return;
        }
        if self.marks.own("substitute.upstream").is_none() {
            return; // It can't be read, which was told.
        }
        let found = names().position(|name| name == wanted);
        if found.is_none() && !upstreams.is_empty() {
            let message = format!("route.substitute.upstream is {wanted:?}, and there is no such upstream");
            let remedy = match nearest(wanted, names()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("write [upstream.{}] to make one", quoted(wanted)),
            };
            self.fault(&["substitute.upstream"], &message, &remedy);
        } else if found.is_some() && found == upstream {
            let message =
                format!("route.substitute.upstream is {wanted:?}, the upstream of the route itself");
            let remedy =
                "it has no answer when it is asked instead of itself; name another, or remove the table";
            self.fault(&["substitute.upstream"], &message, remedy);
        }
    }
}

/// A limit and its queue, if the limit is there.
pub(super) fn gate(reader: &mut Reader<'_>, header: &Range<usize>, gating: Gating) -> Option<Option<Gate>> {
    let Gating { limit, queue } = gating;
    let gate = Gate { limit: valid(reader, header, limit)?, queue: valid(reader, header, queue)? };
    Some((gate.limit.mode != Mode::Off).then_some(gate))
}

/// A rate, if it is there.
pub(super) fn rate(
    reader: &mut Reader<'_>,
    header: &Range<usize>,
    rating: Rating,
) -> Option<Option<RateLimit>> {
    let Rating { rate, by, store, when_down } = rating;
    let rate = valid(reader, header, rate)?;
    Some((rate.mode != Mode::Off).then_some(RateLimit { rate, by, store, when_down }))
}

/// What a route, in a configuration called `file`, answers with instead.
pub(super) fn degrade(file: &str, routing: &Routing, upstreams: &[String]) -> Option<Vec<Degrade>> {
    let degrade = |kind: &Kind| {
        Some(match kind {
            Kind::Stale => Degrade::Stale(routing.stale.clone()),
            Kind::Upstream => {
                let upstream = upstreams.iter().position(|name| *name == routing.substitute.upstream)?;
                Degrade::Upstream(Substitute { upstream, path: routing.substitute.path.clone() })
            }
            Kind::Static => {
                let file = routing.fallback.file.as_ref().map(|path| beside(file, Path::new(path)));
                Degrade::Static(Fallback { file, ..routing.fallback.clone() })
            }
        })
    };
    routing.degrade.iter().map(degrade).collect()
}

/// Whether the route leads to the upstream at `upstream` while its own has no answer.
pub(super) fn falls_on(route: &RouteDraft, upstream: &UpstreamDraft) -> bool {
    route.routing.degrade.contains(&Kind::Upstream) && route.routing.substitute.upstream == upstream.name
}
