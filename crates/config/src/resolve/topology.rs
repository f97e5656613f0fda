//! Supervised processes, and the upstreams that take their instances from them.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{UpstreamDraft, quoted, valid};
use crate::address::Endpoint;
use crate::health::Check;
use crate::nearest::nearest;
use crate::process::{Process, Ready};
use crate::reader::{At, Level, Marks, Reader};
use crate::settings::{Policies, Proxy, SUPERVISED, Supervised};
use crate::shape::described;
use crate::sources::{Labels, Source, Spelt, Where, Written, is_plain};
use crate::table::join;
use crate::units::show_duration;

/// What is said of one process.
pub(super) struct ProcessDraft {
    pub name: String,
    pub header: Range<usize>,
    pub settings: Supervised,
    pub marks: Marks,
}

/// Reads every `[process.NAME]`, in the order of the text.
pub(super) fn processes(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Vec<ProcessDraft> {
    let Some((at, value)) = root.get_key_value("process") else { return Vec::new() };
    let table = value.get_ref().as_table();
    let Some(table) = table.filter(|table| !table.is_empty()) else {
        let is = if table.is_some() { "empty".to_owned() } else { described(value.get_ref()) };
        reader.error(&at.span(), format!("process is {is}, and processes have names"), NAMED_REMEDY);
        return Vec::new();
    };
    let mut named: Vec<_> = table.iter().collect();
    named.sort_by_key(|(key, _)| key.span().start);
    named.into_iter().filter_map(|(key, value)| process(reader, key, value)).collect()
}

fn process(
    reader: &mut Reader<'_>,
    key: &Spanned<Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
) -> Option<ProcessDraft> {
    let (name, header) = (key.get_ref().as_ref(), key.span());
    let path = join("process", &quoted(name));
    if value.get_ref().as_table().is_none() && SUPERVISED.keys().any(|known| known == name) {
        let message = format!("{path} is {}, and processes have names", reader.described(value));
        reader.error(&header, message, NAMED_REMEDY);
        return None;
    }
    if !is_plain(name) {
        let message = format!("{path} is not a name that metrics and records can use");
        reader.error(&header, message, "use letters, digits, - and _, at most 64 of them");
    }
    let table = reader.table(&path, value)?;
    reader.unknown_keys(&path, table, &SUPERVISED.keys().collect::<Vec<_>>(), |key| SUPERVISED.home_of(key));
    let (mut settings, mut marks) = (Supervised::default(), Marks::default());
    let at = At { path: &path, below: "", level: Level::Here };
    reader.fill(&SUPERVISED, table, &at, &mut settings, &mut marks);
    if table.get("command").is_none() {
        let remedy = "write the program and its arguments, such as command = [\"./api\", \"--verbose\"]";
        reader.error(&header, format!("{path} has no command"), remedy);
    }
    let draft = ProcessDraft { name: name.to_owned(), header, settings, marks };
    consistent(reader, &path, &draft);
    Some(draft)
}

/// Checks what must hold between the settings of a process.
fn consistent(reader: &mut Reader<'_>, path: &str, draft: &ProcessDraft) {
    let ProcessDraft { header, settings, marks, .. } = draft;
    let place = |paths: &[&str]| {
        let mark = paths.iter().find_map(|path| marks.own(path));
        mark.map_or(header.clone(), |mark| mark.span.clone())
    };
    let restart = settings.restart;
    if restart.cap < restart.base {
        let (cap, base) = (show_duration(restart.cap), show_duration(restart.base));
        let message = format!("{path}.restart.cap is {cap}, below base ({base})");
        reader.error(
            &place(&["restart.cap", "restart.base"]),
            message,
            "the longest wait is at least the first",
        );
    }
    let port = &settings.port_variable;
    if settings.env.iter().any(|(name, _)| name == port) {
        let message = format!("{path}.env holds {port}, which tells each replica its port");
        let remedy = "remove it, or let port_variable name another";
        reader.error(&place(&["env"]), message, remedy);
    }
    if let Some(mark) = marks.own("ready.path").filter(|_| !settings.ready_is_http) {
        let message = format!("{path}.ready.path is set, and ready.kind is \"tcp\"");
        reader.warn(&mark.span, message, "nothing is asked for; write kind = \"http\", or remove it");
    }
}

/// Endpoints that are this proxy: each call would go in a circle until every permit is taken.
pub(super) fn loops(reader: &mut Reader<'_>, proxy: &Proxy, upstreams: &[UpstreamDraft]) {
    for UpstreamDraft { name, header, addresses, marks, .. } in upstreams {
        let is_itself = |at: &&Endpoint| proxy.listen.iter().any(|listen| at.is_at(listen));
        let here = |written: &&Written| match &written.at {
            Spelt::Address(at) | Spelt::Dns(at) => is_itself(&at),
            Spelt::Srv(_) | Spelt::File(_) | Spelt::Process(_) => false,
        };
        let Some(Written { at, .. }) = addresses.endpoints.iter().find(here) else { continue };
        let span = marks.own("endpoints").map_or(header.clone(), |mark| mark.span.clone());
        let message = format!("upstream.{name}.endpoints holds {at}, where this proxy itself listens");
        let remedy = "calls would go in a circle; write where the service is, or change listen";
        reader.error(&span, message, remedy);
    }
}

/// Checks that each process that is named is there, and that each that is there is named.
pub(super) fn references(reader: &mut Reader<'_>, upstreams: &[UpstreamDraft], processes: &[ProcessDraft]) {
    let names = || processes.iter().map(|process| process.name.as_str());
    let mut used = vec![false; processes.len()];
    // What could not be read, or leads nowhere, may have been meant for the one that nobody names.
    let mut unknown = upstreams.iter().any(|upstream| upstream.addresses.endpoints.is_empty());
    for upstream in upstreams {
        for written in &upstream.addresses.endpoints {
            if matches!(written.at, Spelt::Srv(_)) && written.weight.is_some() {
                let message =
                    format!("upstream.{}.endpoints holds {} with a weight", upstream.name, written.at);
                reader.warn(&written.span, message, "SRV records bring weights of their own; leave it out");
            }
            let Spelt::Process(wanted) = &written.at else { continue };
            if let Some(at) = names().position(|name| name == wanted) {
                used[at] = true;
                continue;
            }
            unknown = true;
            let message = format!(
                "upstream.{}.endpoints holds {}, and there is no such process",
                upstream.name, written.at
            );
            let remedy = match nearest(wanted, names()) {
                Some(near) => format!("did you mean \"process://{near}\"?"),
                None => format!("write [process.{wanted}] and below it the command that starts it"),
            };
            reader.error(&written.span, message, remedy);
        }
    }
    for (process, _) in processes.iter().zip(used).filter(|(_, used)| !used && !unknown) {
        let name = &process.name;
        if !is_plain(name) {
            continue;
        }
        let message = format!("no upstream takes its instances from process.{name}");
        let remedy = format!("write endpoints = \"process://{name}\" in an upstream, or remove it");
        reader.warn(&process.header, message, remedy);
    }
}

/// How many instances an upstream has, if that is known before it runs.
pub(super) fn instances(written: &[Written]) -> Option<usize> {
    written.iter().all(|source| matches!(source.at, Spelt::Address(_))).then_some(written.len())
}

/// The sources of an upstream, in a configuration called `file`. `None` if a process is not there, which was told.
pub(super) fn sources(file: &str, written: Vec<Written>, processes: &[Process]) -> Option<Vec<Source>> {
    let source = |Written { at, zone, region, weight, .. }| {
        let mut labels = Labels::default();
        let at = match at {
            Spelt::Address(endpoint) => Where::Address(endpoint),
            Spelt::Dns(endpoint) => Where::Dns(endpoint),
            Spelt::Srv(name) => Where::Srv(name),
            Spelt::File(path) => Where::File(beside(file, Path::new(&path))),
            Spelt::Process(name) => {
                let at = processes.iter().position(|process| process.name == name)?;
                labels.clone_from(&processes[at].labels);
                Where::Process(at)
            }
        };
        let labels = Labels {
            zone: zone.unwrap_or(labels.zone),
            region: region.unwrap_or(labels.region),
            weight: weight.unwrap_or(labels.weight),
        };
        Some(Source { at, labels })
    };
    written.into_iter().map(source).collect()
}

/// A process as it is run. What is not said of its place is as for the proxy, which runs on the same machine.
pub(super) fn built(file: &str, proxy: &Proxy, draft: ProcessDraft) -> Process {
    let ProcessDraft { name, settings, .. } = draft;
    let Labels { zone, region, weight } = settings.labels;
    let or = |place: String, default: &String| if place.is_empty() { default.clone() } else { place };
    Process {
        name,
        command: settings.command,
        env: settings.env,
        dir: settings.dir.map(|dir| beside(file, &dir)),
        replicas: settings.replicas,
        port_variable: settings.port_variable,
        ready: if settings.ready_is_http { Ready::Http { path: settings.ready_path } } else { Ready::Tcp },
        ready_timeout: settings.ready_timeout,
        memory: settings.memory,
        cpu: settings.cpu,
        restart: settings.restart,
        drain: settings.drain,
        grace: settings.grace,
        labels: Labels { zone: or(zone, &proxy.zone), region: or(region, &proxy.region), weight },
    }
}

/// Whoever wants checks often and says nothing of the unsure ones wants those no less often.
pub(super) fn hurry(policies: &mut Policies, marks: &Marks) {
    let timing = &mut policies.timing;
    if marks.get("check.unsure_interval").is_none() {
        timing.unsure_interval = timing.unsure_interval.min(timing.interval);
    }
}

/// The check of an upstream, if it has one.
pub(super) fn check(
    reader: &mut Reader<'_>,
    header: &Range<usize>,
    policies: &Policies,
) -> Option<Option<Check>> {
    let timing = valid(reader, header, policies.timing)?;
    Some(policies.check_kind.map(|kind| policies.check.clone().check(kind, timing)))
}

/// `path` as seen from where `file` is.
pub(super) fn beside(file: &str, path: &Path) -> PathBuf {
    Path::new(file).parent().map_or_else(|| path.to_owned(), |folder| folder.join(path))
}

const NAMED_REMEDY: &str = "write [process.api], or another name for it, and the settings below";
