//! From text to a [`Config`]: the process, the defaults, the upstreams that start from them, the routes that start from those.

mod idempotency;
mod overload;
mod topology;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;

use seaworthy_core::{Criticality, Fault, Mode, Rules, Valid};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::address::Host;
use crate::checks::{self, Finding, Scope};
use crate::config::{Config, Route, Upstream};
use crate::degrade::Degrade;
use crate::diagnostic::{Mistakes, Severity};
use crate::effective::{Effective, Origin, Setting};
use crate::nearest::nearest;
use crate::process::Process;
use crate::reader::{At, Level, Marks, Reader};
use crate::secrets;
use crate::settings::{
    ADDRESSES, Addresses, CLIENT, OVERRIDES, POLICIES, PROXY, Policies, Proxy, ROUTING, Routing, SUPERVISED,
};
use crate::shape::{described, listed};
use crate::sources::is_plain;
use crate::table::join;
use crate::text::Text;
use crate::value::Value;

use idempotency::Ground;
use overload::{ClientDraft, Top};
use topology::ProcessDraft;

/// Reads a TOML text. If it is not TOML at all, only that is told: what follows from a broken line would only mislead.
pub(crate) fn text(file: &str, text: &str) -> Result<Config, Mistakes> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut hidden = secrets::in_tables(root.get_ref());
    let places = errors.iter().map(|error| error.span().map_or(0, |span| span.start));
    hidden.extend(places.filter_map(|at| secrets::in_broken_line(text, at)));
    let source = Text::new(file, text).hiding(hidden);
    let mut reader = Reader { source: &source, found: Vec::new() };
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let remedy = match error.message() {
            "duplicate key" => "it was set before; remove one of them, then the rest is checked",
            _ => "this is not TOML (see https://toml.io); mend it first, then the rest is checked",
        };
        reader.error(&span, syntax(error.message()), remedy);
    }
    if !errors.is_empty() {
        return Err(mistakes(reader));
    }
    document(reader, root.get_ref(), false)
}

/// Treats the arguments as the text that they stand for, so that they are checked, and complained about, in the same way.
pub(crate) fn command_line(to: &str, listen: Option<&str>, admin: Option<&str>) -> Result<Config, Mistakes> {
    let mut line = String::new();
    let mut value = |flag: &str, value: &str| {
        let start = line.len() + flag.len() + 1;
        line.push_str(&format!("{flag} {value} "));
        Spanned::new(start..start + value.len(), DeValue::String(Cow::Owned(value.to_owned())))
    };
    let mut app = DeTable::new();
    let mut root = DeTable::new();
    app.insert(key("endpoints"), value("--to", to));
    for (flag, name, given) in [("--listen", "listen", listen), ("--admin", "admin", admin)] {
        if let Some(given) = given {
            root.insert(key(name), value(flag, given));
        }
    }
    let mut upstreams = DeTable::new();
    upstreams.insert(key(COMMAND_LINE_UPSTREAM), Spanned::new(0..0, DeValue::Table(app)));
    root.insert(key("upstream"), Spanned::new(0..0, DeValue::Table(upstreams)));
    let source = Text::new("command line", line.trim_end());
    document(Reader { source: &source, found: Vec::new() }, &root, true)
}

fn key(name: &'static str) -> Spanned<Cow<'static, str>> {
    Spanned::new(0..0, Cow::Borrowed(name))
}

/// The parser's message as one line.
fn syntax(message: &str) -> String {
    message.lines().collect::<Vec<_>>().join("; ")
}

/// What was read, before it is known to be right.
struct Draft {
    proxy: Proxy,
    proxy_marks: Marks,
    clients: Vec<ClientDraft>,
    processes: Vec<ProcessDraft>,
    upstreams: Vec<UpstreamDraft>,
    routes: Vec<RouteDraft>,
}

struct UpstreamDraft {
    name: String,
    header: Range<usize>,
    addresses: Addresses,
    policies: Policies,
    marks: Marks,
    findings: Vec<Finding>,
}

struct RouteDraft {
    header: Range<usize>,
    routing: Routing,
    /// The upstream's, changed.
    policies: Policies,
    marks: Marks,
    upstream: usize,
}

fn document(mut reader: Reader<'_>, root: &DeTable<'_>, is_command_line: bool) -> Result<Config, Mistakes> {
    let known: Vec<&str> =
        PROXY.keys().chain(["defaults", "upstream", "route", "client", "process"]).collect();
    reader.unknown_keys("", root, &known, |key| {
        POLICIES.keys().any(|k| k == key).then(|| "defaults".to_owned()).or_else(|| PROXY.home_of(key))
    });
    let (mut proxy, mut proxy_marks) = (Proxy::default(), Marks::default());
    let at = At { path: "", below: "", level: Level::Here };
    reader.fill(&PROXY, root, &at, &mut proxy, &mut proxy_marks);
    listeners(&mut reader, &proxy, &proxy_marks, root);

    overload::wanted(&mut proxy.gating, &mut proxy.rating, &proxy_marks);
    let top = Top::of(root);
    overload::process(&mut reader, &proxy, &proxy_marks, top);
    idempotency::process(&mut reader, root, &proxy.storing, &proxy_marks, top);

    let clients = overload::clients(&mut reader, root);
    let processes = topology::processes(&mut reader, root);
    let upstreams = upstreams(&mut reader, root);
    topology::loops(&mut reader, &proxy, &upstreams);
    topology::references(&mut reader, &upstreams, &processes);
    let has_store = idempotency::is_written(&proxy_marks);
    let ground = Ground { top, has_store, storing: &proxy.storing };
    let routes = routes(&mut reader, root, &upstreams, ground);
    let draft = Draft { proxy, proxy_marks, clients, processes, upstreams, routes };
    if !reader.is_usable() {
        return Err(mistakes(reader));
    }
    idempotency::unused(&mut reader, &draft);
    let effective = effective(&reader, &draft, is_command_line);
    match config(&mut reader, draft, effective) {
        Some(mut config) => {
            config.warnings = mistakes(reader).warnings;
            Ok(config)
        }
        None => Err(mistakes(reader)),
    }
}

/// Everything found, in the order of the text.
fn mistakes(reader: Reader<'_>) -> Mistakes {
    let mut found = reader.found;
    found.sort_by_key(|diagnostic| (diagnostic.place.line, diagnostic.place.column));
    let (errors, warnings) = found.into_iter().partition(|diagnostic| diagnostic.severity == Severity::Error);
    Mistakes { errors, warnings }
}

/// Checks that the addresses can be listened on together, and that nobody opens the admin port by accident.
fn listeners(reader: &mut Reader<'_>, process: &Proxy, marks: &Marks, root: &DeTable<'_>) {
    let listen_span = marks.own("listen").map_or(0..0, |mark| mark.span.clone());
    for (n, address) in process.listen.iter().enumerate() {
        if let Some(other) = process.listen[..n].iter().find(|other| clash(other, address)) {
            let spans = root.get("listen").and_then(|value| value.get_ref().as_array());
            let span = spans.and_then(|items| items.get(n)).map_or(listen_span.clone(), Spanned::span);
            let message = format!("listen holds {address}, which clashes with {other}");
            reader.error(
                &span,
                message,
                "one address can be listened on once; change the port or remove one",
            );
        }
    }
    let Some(admin) = process.admin else { return };
    let span = marks.own("admin").map_or(listen_span, |mark| mark.span.clone());
    let by_default = if marks.own("admin").is_none() { " (the default)" } else { "" };
    if let Some(other) = process.listen.iter().find(|other| clash(other, &admin)) {
        let message = format!("admin{by_default} is {admin}, which clashes with listen ({other})");
        reader.error(&span, message, "give each a port of its own, or write admin = \"off\"");
    }
    if !admin.ip().is_loopback() && !process.admin_public {
        let message = format!("admin is {admin}, which other machines can reach");
        let remedy = "whoever reaches it can steer the proxy: use \"127.0.0.1:9901\", or consent with admin_public = true";
        reader.error(&span, message, remedy);
    }
}

/// Whether two sockets can't both be bound. Port 0 is any free one.
fn clash(a: &SocketAddr, b: &SocketAddr) -> bool {
    let overlap = a.ip() == b.ip()
        || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() != 0 && a.port() == b.port() && overlap
}

/// Reads `[defaults]` and every `[upstream.NAME]`, in the order of the text.
fn upstreams(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Vec<UpstreamDraft> {
    let (mut defaults, mut marks) = (Policies::default(), Marks::default());
    let mut findings = Vec::new();
    if let Some((key, value)) = root.get_key_value("defaults")
        && let Some(table) = reader.table("defaults", value)
    {
        reader.unknown_keys("defaults", table, &POLICIES.keys().collect::<Vec<_>>(), |key| {
            POLICIES.home_of(key)
        });
        let at = At { path: "defaults", below: "", level: Level::Defaults };
        reader.fill(&POLICIES, table, &at, &mut defaults, &mut marks);
        let header = key.span();
        let mut hurried = defaults.clone();
        topology::hurry(&mut hurried, &marks);
        let scope =
            Scope { path: "defaults", header: &header, policies: &hurried, marks: &marks, endpoints: None };
        findings = checks::policies(reader, &scope, &[]);
    }
    let Some((at, value)) = root.get_key_value("upstream") else {
        let remedy = "write [upstream.app] and below it endpoints = [\"http://127.0.0.1:3000\"]";
        reader.error(&(0..0), "there is no upstream".to_owned(), remedy);
        return Vec::new();
    };
    let table = value.get_ref().as_table();
    let Some(table) = table.filter(|table| !table.is_empty()) else {
        let is = if table.is_some() { "empty".to_owned() } else { described(value.get_ref()) };
        let remedy = "write [upstream.app], or another name for it, and the settings below";
        reader.error(&at.span(), format!("upstream is {is}, and upstreams have names"), remedy);
        return Vec::new();
    };
    let mut named: Vec<_> = table.iter().collect();
    named.sort_by_key(|(key, _)| key.span().start);
    let start = (&defaults, &marks.inherited(), &findings[..]);
    named.into_iter().filter_map(|(key, value)| upstream(reader, key, value, start)).collect()
}

fn upstream(
    reader: &mut Reader<'_>,
    key: &Spanned<Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    (defaults, marks, told): (&Policies, &Marks, &[Finding]),
) -> Option<UpstreamDraft> {
    let (name, header) = (key.get_ref().as_ref(), key.span());
    let path = join("upstream", &quoted(name));
    if !is_plain(name) {
        let message = format!("{path} is not a name that metrics and records can use");
        reader.error(&header, message, "use letters, digits, - and _, at most 64 of them");
    }
    let table = value.get_ref().as_table();
    if table.is_none() && ADDRESSES.keys().chain(POLICIES.keys()).any(|known| known == name) {
        let message = format!("{path} is {}, and upstreams have names", described(value.get_ref()));
        reader.error(
            &header,
            message,
            "write [upstream.app], or another name for it, and the settings below",
        );
        return None;
    }
    let table = reader.table(&path, value)?;
    let known: Vec<&str> = ADDRESSES.keys().chain(POLICIES.keys()).collect();
    reader.unknown_keys(&path, table, &known, |key| POLICIES.home_of(key));
    let at = At { path: &path, below: "", level: Level::Here };
    let (mut addresses, mut policies, mut marks) = (Addresses::default(), defaults.clone(), marks.clone());
    reader.fill(&ADDRESSES, table, &at, &mut addresses, &mut marks);
    reader.fill(&POLICIES, table, &at, &mut policies, &mut marks);
    topology::hurry(&mut policies, &marks);
    if table.get("endpoints").is_none() {
        let remedy = "write where it is, such as endpoints = [\"http://127.0.0.1:3000\"]";
        reader.error(&header, format!("{path} has no endpoints"), remedy);
    }
    let endpoints = topology::instances(&addresses.endpoints);
    let scope = Scope { path: &path, header: &header, policies: &policies, marks: &marks, endpoints };
    let findings = checks::policies(reader, &scope, told);
    Some(UpstreamDraft { name: name.to_owned(), header, addresses, policies, marks, findings })
}

/// Reads every `[[route]]`, or makes the one that is meant if there is none. Sorted, the most specific first.
fn routes(
    reader: &mut Reader<'_>,
    root: &DeTable<'_>,
    upstreams: &[UpstreamDraft],
    ground: Ground<'_>,
) -> Vec<RouteDraft> {
    let Some((key, value)) = root.get_key_value("route") else {
        return only_route(reader, upstreams).into_iter().collect();
    };
    let DeValue::Array(items) = value.get_ref() else {
        let message = format!("route is {}, not a list of tables", described(value.get_ref()));
        reader.error(&key.span(), message, "write [[route]], in two pairs of brackets, once for each");
        return Vec::new();
    };
    let mut routes: Vec<RouteDraft> =
        items.iter().filter_map(|item| route(reader, item, &key.span(), upstreams, ground)).collect();
    duplicates(reader, &routes);
    unused(reader, &routes, upstreams, items.len());
    // A stable sort, so that the first in the file goes before its equals.
    routes.sort_by_key(|route| {
        let Routing { host, path, methods, .. } = &route.routing;
        std::cmp::Reverse((host.specificity(), path.as_str().len(), !methods.is_empty()))
    });
    routes
}

fn only_route(reader: &mut Reader<'_>, upstreams: &[UpstreamDraft]) -> Option<RouteDraft> {
    let [only, rest @ ..] = upstreams else { return None };
    if let Some(second) = rest.first() {
        let message = format!(
            "there are {} upstreams and no route that says which of them takes a call",
            upstreams.len()
        );
        let remedy = format!("write [[route]] and below it upstream = {:?}, and so on", only.name);
        reader.error(&second.header, message, remedy);
        return None;
    }
    let routing = Routing { name: "/".to_owned(), upstream: only.name.clone(), ..Routing::default() };
    let (policies, marks) = (only.policies.clone(), only.marks.inherited());
    Some(RouteDraft { header: only.header.clone(), routing, policies, marks, upstream: 0 })
}

fn route(
    reader: &mut Reader<'_>,
    item: &Spanned<DeValue<'_>>,
    list: &Range<usize>,
    upstreams: &[UpstreamDraft],
    ground: Ground<'_>,
) -> Option<RouteDraft> {
    let Some(table) = item.get_ref().as_table() else {
        let message = format!("route holds {}, not a table", described(item.get_ref()));
        reader.error(&item.span(), message, "write [[route]] on a line of its own, and its settings below");
        return None;
    };
    let header = if item.span().is_empty() { list.clone() } else { item.span() };
    route_keys(reader, table);
    let at = At { path: "route", below: "", level: Level::Here };
    let (mut routing, mut own) = (Routing::default(), Marks::default());
    reader.fill(&ROUTING, table, &at, &mut routing, &mut own);
    let chosen = choose(reader, &routing, &own, &header, upstreams);
    let parent = chosen.map(|at| &upstreams[at]);
    let mut policies = parent.map_or_else(Policies::default, |parent| parent.policies.clone());
    let mut marks = parent.map_or_else(Marks::default, |parent| parent.marks.inherited());
    reader.fill(&OVERRIDES, table, &at, &mut policies, &mut marks);
    marks.extend(own);
    if let Some(parent) = parent {
        routing.upstream.clone_from(&parent.name);
    }
    if marks.own("name").is_none() {
        routing.name = made_up_name(&routing);
    }
    let told = parent.map_or(&[][..], |parent| &parent.findings);
    let endpoints = parent.and_then(|parent| topology::instances(&parent.addresses.endpoints));
    let scope = Scope { path: "route", header: &header, policies: &policies, marks: &marks, endpoints };
    checks::policies(reader, &scope, told);
    overload::wanted(&mut routing.gating, &mut routing.rating, &marks);
    overload::route(reader, ground.top, table, &mut routing, &marks, (chosen, upstreams));
    idempotency::route(reader, ground, &mut routing, &policies, &marks, &header);
    policies.call.fallback = !routing.degrade.is_empty();
    Some(RouteDraft { header, routing, policies, marks, upstream: chosen? })
}

/// Complains about keys that a route does not know, and says of those that an upstream knows that they belong there.
fn route_keys(reader: &mut Reader<'_>, table: &DeTable<'_>) {
    let own: Vec<&str> = ROUTING.keys().chain(OVERRIDES.keys()).collect();
    for key in table.keys() {
        let word = key.get_ref().as_ref();
        if !own.contains(&word) && POLICIES.keys().any(|known| known == word) {
            let remedy = format!("a route can change deadline and retry; {word} belongs to its upstream");
            reader.error(&key.span(), format!("the key {word:?} is not known in route"), remedy);
        }
    }
    let others = POLICIES.keys().filter(|key| table.contains_key(*key));
    let known: Vec<&str> = own.iter().copied().chain(others).collect();
    reader
        .unknown_keys("route", table, &known, |key| ROUTING.home_of(key).or_else(|| OVERRIDES.home_of(key)));
}

/// The upstream that a route names, or the only one.
fn choose(
    reader: &mut Reader<'_>,
    routing: &Routing,
    marks: &Marks,
    header: &Range<usize>,
    upstreams: &[UpstreamDraft],
) -> Option<usize> {
    let names = || upstreams.iter().map(|upstream| upstream.name.as_str());
    let Some(mark) = marks.own("upstream") else {
        if upstreams.len() > 1 {
            let remedy = format!("write upstream = {}", listed(names()));
            reader.error(header, "route names no upstream, and there are several".to_owned(), remedy);
        }
        return (upstreams.len() == 1).then_some(0);
    };
    let wanted = routing.upstream.as_str();
    let found = names().position(|name| name == wanted);
    if found.is_none() && !upstreams.is_empty() {
        let remedy = match nearest(wanted, names()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!(
                "write [upstream.{}] to make one, or use {}",
                quoted(wanted),
                names().collect::<Vec<_>>().join(", ")
            ),
        };
        reader.error(
            &mark.span,
            format!("route.upstream is {wanted:?}, and there is no such upstream"),
            remedy,
        );
    }
    found
}

/// Routes that take the same calls, or have the same name.
fn duplicates(reader: &mut Reader<'_>, routes: &[RouteDraft]) {
    for (n, route) in routes.iter().enumerate() {
        let this = &route.routing;
        let same = |other: &&RouteDraft| {
            let other = &other.routing;
            let common = this.methods.iter().any(|method| other.methods.contains(method));
            let both_all = this.methods.is_empty() && other.methods.is_empty();
            other.host == this.host && other.path == this.path && (common || both_all)
        };
        if let Some(other) = routes[..n].iter().find(same) {
            let line = reader.source.line(other.header.start);
            let message = format!("route takes the same calls as the one in line {line}");
            let remedy = "the first would take them all; change host, path or methods, or remove one";
            reader.error(&route.header, message, remedy);
        } else if let Some(other) = routes[..n].iter().find(|other| other.routing.name == this.name) {
            let line = reader.source.line(other.header.start);
            let message = format!("route.name is {:?}, like that of the one in line {line}", this.name);
            let span = route.marks.own("name").map_or(route.header.clone(), |mark| mark.span.clone());
            reader.error(&span, message, "names tell routes apart in metrics and records; change one");
        }
    }
}

/// Upstreams that no route leads to. Says nothing if a route is wrong, as it may have been meant to lead there.
fn unused(reader: &mut Reader<'_>, routes: &[RouteDraft], upstreams: &[UpstreamDraft], written: usize) {
    if routes.len() < written {
        return;
    }
    for (n, upstream) in upstreams.iter().enumerate() {
        if routes.iter().all(|route| route.upstream != n && !overload::falls_on(route, upstream)) {
            let message = format!("no route leads to upstream.{}", upstream.name);
            let remedy = format!("write a [[route]] with upstream = {:?}, or remove it", upstream.name);
            reader.warn(&upstream.header, message, remedy);
        }
    }
}

/// A name for a route that has none: `GET,HEAD shop.example.com/api`.
fn made_up_name(routing: &Routing) -> String {
    let Routing { host, path, methods, .. } = routing;
    let methods = if methods.is_empty() { String::new() } else { format!("{} ", methods.join(",")) };
    let host = if *host == Host::Any { String::new() } else { host.to_string() };
    format!("{methods}{host}{path}")
}

/// Every setting in force.
fn effective(reader: &Reader<'_>, draft: &Draft, is_command_line: bool) -> Effective {
    let mut settings = Vec::new();
    let origin = |marks: &Marks, path: &str| {
        let Some(mark) = marks.get(path) else { return Origin::Default };
        let (file, line) = (reader.source.file(), reader.source.line(mark.span.start));
        match mark.level {
            _ if is_command_line => Origin::CommandLine,
            Level::Here => Origin::File { file, line },
            Level::Defaults => Origin::Defaults { file, line },
        }
    };
    let mut tell = |below: &str, path: &str, value: Value, marks: &Marks| {
        settings.push(Setting { path: join(below, path), value, origin: origin(marks, path) });
    };
    let Draft { proxy, proxy_marks, clients, processes, upstreams, routes } = draft;
    PROXY.each("", &mut |path, field| {
        let has_keys = path.starts_with("idempotency.") && idempotency::is_in_force(proxy_marks, routes);
        if has_keys || is_there(path, &["limit", "rate", "redis", "idempotency"], proxy_marks) {
            tell("", path, field.slot.show(proxy), proxy_marks);
        }
    });
    for (n, ClientDraft { settings, marks }) in clients.iter().enumerate() {
        let name = if settings.name.is_empty() { (n + 1).to_string() } else { quoted(&settings.name) };
        let below = join("client", &name);
        CLIENT.each("", &mut |path, field| {
            // Whoever knows the key is taken for the client.
            let value = if path == "key" { Value::text("(not shown)") } else { field.slot.show(settings) };
            tell(&below, path, value, marks);
        });
    }
    for ProcessDraft { name, settings, marks, .. } in processes {
        let below = join("process", name);
        SUPERVISED.each("", &mut |path, field| tell(&below, path, field.slot.show(settings), marks));
    }
    for UpstreamDraft { name, addresses, policies, marks, .. } in upstreams {
        let below = join("upstream", name);
        ADDRESSES.each("", &mut |path, field| tell(&below, path, field.slot.show(addresses), marks));
        POLICIES.each("", &mut |path, field| tell(&below, path, field.slot.show(policies), marks));
    }
    for RouteDraft { routing, policies, marks, .. } in routes {
        let below = join("route", &quoted(&routing.name));
        ROUTING.each("", &mut |path, field| {
            if is_there(path, &OPTIONAL, marks) {
                tell(&below, path, field.slot.show(routing), marks);
            }
        });
        OVERRIDES.each("", &mut |path, field| tell(&below, path, field.slot.show(policies), marks));
    }
    Effective { settings }
}

/// Whether the setting at `path` is in none of the `optional` tables, or its table was written.
fn is_there(path: &str, optional: &[&str], marks: &Marks) -> bool {
    path.split_once('.').is_none_or(|(table, _)| !optional.contains(&table) || marks.own(table).is_some())
}

/// Puts together what was found to be right. `None` only if a rule of a policy fails that the checks did not ask, which is then told
/// without its place rather than not at all.
fn config(reader: &mut Reader<'_>, draft: Draft, effective: Effective) -> Option<Config> {
    let Draft { mut proxy, proxy_marks, clients, processes, upstreams, routes } = draft;
    let file = reader.source.file();
    proxy.data = proxy.data.map(|folder| topology::beside(&file, &folder));
    let processes: Vec<Process> =
        processes.into_iter().map(|draft| topology::built(&file, &proxy, draft)).collect();
    let idempotency = idempotency::built(&proxy, &proxy_marks, &routes);
    let upstreams: Vec<Option<Upstream>> =
        upstreams.into_iter().map(|draft| built_upstream(reader, draft, &processes)).collect();
    let names: Vec<String> = upstreams.iter().flatten().map(|upstream| upstream.name.clone()).collect();
    let routes: Vec<Option<Route>> =
        routes.into_iter().map(|draft| built_route(reader, draft, &names)).collect();
    Some(Config {
        listen: proxy.listen,
        admin: proxy.admin,
        drain: proxy.drain,
        workers: proxy.workers,
        log: proxy.log,
        limits: proxy.limits,
        gate: overload::gate(reader, &(0..0), proxy.gating)?,
        rate: overload::rate(reader, &(0..0), proxy.rating)?,
        redis: proxy_marks.own("redis").is_some().then_some(proxy.redis),
        pressure: valid(reader, &(0..0), proxy.pressure)?,
        stale_memory: proxy.stale_memory,
        idempotency,
        clients: clients.into_iter().map(overload::built_client).collect(),
        zone: proxy.zone,
        region: proxy.region,
        data: proxy.data,
        processes,
        upstreams: upstreams.into_iter().collect::<Option<_>>()?,
        routes: routes.into_iter().collect::<Option<_>>()?,
        warnings: Vec::new(),
        effective,
    })
}

fn built_upstream(reader: &mut Reader<'_>, draft: UpstreamDraft, processes: &[Process]) -> Option<Upstream> {
    let UpstreamDraft { name, header, addresses, policies, .. } = draft;
    let sources = topology::sources(&reader.source.file(), addresses.endpoints, processes)?;
    let enforced = policies.limit.mode == Mode::Enforce;
    Some(Upstream {
        name,
        sources,
        check: topology::check(reader, &header, &policies)?,
        discovery: policies.discovery,
        outlier: valid(reader, &header, policies.outlier)?,
        balance: valid(reader, &header, policies.balance)?,
        hash_on: policies.hash_on,
        region_limit: policies.region_limit.filter(|_| enforced),
        protocol: policies.protocol,
        connect_timeout: policies.connect_timeout,
        idle_connections: policies.idle_connections,
        idle_timeout: policies.idle_timeout,
        breaker: valid(reader, &header, policies.breaker)?,
        call: valid(reader, &header, policies.call)?,
        limit: valid(reader, &header, policies.limit)?,
        queue: valid(reader, &header, policies.queue)?,
        throttle: valid(reader, &header, policies.throttle)?,
        bulkhead: valid(reader, &header, policies.bulkhead)?,
    })
}

fn built_route(reader: &mut Reader<'_>, draft: RouteDraft, upstreams: &[String]) -> Option<Route> {
    let RouteDraft { header, routing, policies, marks, upstream } = draft;
    let degrade = overload::degrade(&reader.source.file(), &routing, upstreams)?;
    let fallback = degrade.iter().find_map(|degrade| match degrade {
        Degrade::Static(fallback) => Some(fallback.clone()),
        _ => None,
    });
    Some(Route {
        name: routing.name,
        host: routing.host,
        path: routing.path,
        methods: routing.methods,
        upstream,
        call: valid(reader, &header, policies.call)?,
        repeatable: routing.repeatable,
        criticality: Some(routing.criticality).filter(|level| *level != Criticality::default()),
        trust_criticality: routing.trust_criticality,
        client_key: routing.client_key,
        gate: overload::gate(reader, &header, routing.gating)?,
        rate: overload::rate(reader, &header, routing.rating)?,
        degrade,
        flags: marks.own("flags").is_some().then_some(routing.flags),
        idempotency: marks.own("idempotency").is_some().then_some(routing.keying.rest),
        fallback,
    })
}

fn valid<C: Rules>(reader: &mut Reader<'_>, header: &Range<usize>, config: C) -> Option<Valid<C>> {
    let checked = Valid::new(config);
    let told = |faults: Vec<Fault>| {
        for Fault { field, problem, remedy } in faults {
            reader.error(header, format!("{field} {problem}"), remedy);
        }
    };
    checked.map_err(told).ok()
}

/// A key as TOML takes it in a dotted path: in quotes, unless it is plain and of a length that metrics can bear.
fn quoted(key: &str) -> String {
    if is_plain(key) { key.to_owned() } else { format!("{key:?}") }
}

/// The tables of a route that are in force only if they are there.
const OPTIONAL: [&str; 7] = ["limit", "rate", "stale", "substitute", "fallback", "flags", "idempotency"];
/// What a proxy without a file calls the service behind it.
const COMMAND_LINE_UPSTREAM: &str = "app";
