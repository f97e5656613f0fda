//! What must hold between settings, beyond what each of them says alone.

use std::ops::Range;
use std::time::Duration;

use seaworthy_core::balance::Algorithm;
use seaworthy_core::gate::limit;
use seaworthy_core::{Fault, Mode, Rules, call};

use crate::diagnostic::Severity;
use crate::health::CheckKind;
use crate::reader::{Marks, Reader};
use crate::settings::{POLICIES, Policies, Protocol};
use crate::sources::HashOn;
use crate::table::join;
use crate::units::show_duration;

/// One thing that does not fit.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Finding {
    severity: Severity,
    /// The setting, within what it belongs to.
    path: String,
    problem: String,
    remedy: String,
    /// Settings that may be to blame as well.
    related: &'static [&'static str],
}

impl Finding {
    /// Tells it of the settings at `path`, pointing at `span`.
    pub(crate) fn tell(&self, reader: &mut Reader<'_>, path: &str, span: &Range<usize>) {
        let message = format!("{} {}", join(path, &self.path), self.problem);
        reader.diagnose(self.severity, span, message, self.remedy.clone());
    }
}

/// What the policies are of.
pub(crate) struct Scope<'a> {
    /// Its path, for messages.
    pub path: &'a str,
    /// Where its own text begins.
    pub header: &'a Range<usize>,
    pub policies: &'a Policies,
    pub marks: &'a Marks,
    /// How many endpoints there are, if that is known here.
    pub endpoints: Option<usize>,
}

/// Everything that does not fit together in `scope`. What its parent had wrong already (`told`) is left out.
pub(crate) fn policies(reader: &mut Reader<'_>, scope: &Scope<'_>, told: &[Finding]) -> Vec<Finding> {
    let mut findings = core_findings(scope.policies);
    findings.extend(impossible(scope.policies));
    findings.extend(questionable(scope));
    for finding in findings.iter().filter(|finding| !told.contains(finding)) {
        let subject = join(scope.path, &finding.path);
        let by_default = if scope.marks.get(&finding.path).is_none() { " (the default)" } else { "" };
        let message = format!("{subject}{by_default} {}", finding.problem);
        reader.diagnose(finding.severity, &place(scope, finding), message, finding.remedy.clone());
    }
    findings
}

/// Where to point: at what was written here before what was written elsewhere, and at the setting itself before its neighbours.
fn place(scope: &Scope<'_>, finding: &Finding) -> Range<usize> {
    let marks = scope.marks;
    let related = || finding.related.iter().find_map(|path| marks.own(path));
    let neighbour = || finding.path.rsplit_once('.').and_then(|(table, _)| marks.own_in(table));
    let own = marks.own(&finding.path).or_else(related).or_else(neighbour);
    own.or_else(|| marks.get(&finding.path)).map_or(scope.header.clone(), |mark| mark.span.clone())
}

/// The faults that the policies' own rules find, each with its setting's path.
fn core_findings(p: &Policies) -> Vec<Finding> {
    let hedge = without(p.call.hedge.faults(), &p.call.hedge.budget.faults());
    let parts: [(&str, Vec<Fault>); 5] = [
        ("timeout", p.call.timeout.faults()),
        ("retry", p.call.retry.faults()),
        ("budget", p.call.budget.faults()),
        ("hedge.budget", p.call.hedge.budget.faults()),
        ("hedge", hedge),
    ];
    let told: Vec<Fault> = parts.iter().flat_map(|(_, faults)| faults.iter().cloned()).collect();
    let between = without(p.call.faults(), &told);
    let gates = [
        ("breaker", p.breaker.faults()),
        ("limit", p.limit.faults()),
        ("limit.queue", p.queue.faults()),
        ("throttle", p.throttle.faults()),
        ("bulkhead", p.bulkhead.faults()),
        ("balance", p.balance.faults()),
        ("check", p.timing.faults()),
        ("outlier", p.outlier.faults()),
    ];
    let alone = parts.into_iter().chain(gates).flat_map(|(table, faults)| {
        faults.into_iter().map(move |fault| {
            let path = join(table, fault.field);
            let related = related(&path);
            error(path, fault, related)
        })
    });
    let between = between.into_iter().map(|fault| error(home(fault.field), fault, CALL));
    alone.chain(between).collect()
}

/// The settings that a rule of a policy weighs against the one that it names.
fn related(path: &str) -> &'static [&'static str] {
    match path {
        "timeout.ceiling" => &["timeout.floor"],
        "retry.cap" => &["retry.base"],
        "hedge.budget.share" => &["hedge.budget.per_second", "hedge.mode"],
        "breaker.consecutive_failures" => &["breaker.failure_rate"],
        "breaker.minimum_calls" => &["breaker.window"],
        "breaker.open_at_most" => &["breaker.open_for"],
        "limit.min_in_flight" => &["limit.max_in_flight"],
        "limit.queue.max_wait" => &["limit.queue.size"],
        "throttle.probes_per_second" => &["throttle.most"],
        "bulkhead.max_wait" => &["bulkhead.queue"],
        "check.unsure_interval" => &["check.interval"],
        _ => &[],
    }
}

fn error(path: String, fault: Fault, related: &'static [&'static str]) -> Finding {
    Finding { severity: Severity::Error, path, problem: fault.problem, remedy: fault.remedy, related }
}

/// The path of a setting that the rules of a whole call name by its field alone.
fn home(field: &str) -> String {
    if POLICIES.keys().any(|key| key == field) {
        return field.to_owned();
    }
    POLICIES.home_of(field).map_or_else(|| field.to_owned(), |table| join(&table, field))
}

/// `all` without one of each in `some`.
fn without(mut all: Vec<Fault>, some: &[Fault]) -> Vec<Fault> {
    for fault in some {
        if let Some(at) = all.iter().position(|other| other == fault) {
            all.remove(at);
        }
    }
    all
}

/// What can't be done, and no policy alone could tell.
fn impossible(p: &Policies) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut fault = |path: &str, problem: String, remedy: &str, related| {
        let (path, remedy) = (path.to_owned(), remedy.to_owned());
        found.push(Finding { severity: Severity::Error, path, problem, remedy, related });
    };
    if p.check_kind == Some(CheckKind::Command) && p.check.command.is_empty() {
        let problem = "names no program, and kind is \"command\"".to_owned();
        fault("check.command", problem, "write command = [\"./is-well\"], or another kind", &["check.kind"]);
    }
    if p.balance.algorithm == Algorithm::ConsistentHash && p.hash_on == HashOn::None {
        let problem = "is \"none\", and algorithm is \"consistent_hash\"".to_owned();
        let remedy = "say what calls stick to: \"header:x-user\", \"cookie:session\" or \"source\"";
        fault("balance.hash_on", problem, remedy, &["balance.algorithm"]);
    }
    let (floor, ceiling) = (p.discovery.ttl_floor, p.discovery.ttl_ceiling);
    if ceiling < floor {
        let problem = format!("is {}, below ttl_floor ({})", show_duration(ceiling), show_duration(floor));
        fault(
            "discovery.ttl_ceiling",
            problem,
            "the longest time is at least the shortest",
            &["discovery.ttl_floor"],
        );
    }
    found
}

/// What can be run and is probably not what its writer expects. Nothing is said of what nobody wrote.
fn questionable(scope: &Scope<'_>) -> Vec<Finding> {
    let mut found = deadline(scope);
    found.extend(cut_off(scope));
    found.extend(crowded(scope));
    found.extend(unheard(scope));
    found.into_iter().filter(|finding| written(scope, finding)).collect()
}

fn written(scope: &Scope<'_>, finding: &Finding) -> bool {
    scope.marks.get(&finding.path).is_some()
        || finding.related.iter().any(|path| scope.marks.get(path).is_some())
}

/// Times that a call's deadline leaves no room for.
fn deadline(scope: &Scope<'_>) -> Vec<Finding> {
    let call::Config { deadline: Some(deadline), timeout, retry, .. } = &scope.policies.call else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if timeout.mode != Mode::Off && timeout.fixed.is_none() {
        if timeout.floor > *deadline {
            let remedy = "no attempt can have that long; shorten the floor or lengthen the deadline";
            found.push(longer("timeout.floor", timeout.floor, "the deadline", *deadline, remedy, CALL));
        }
        // The default of the ceiling is longer than many a deadline, and that is fine: the deadline cuts first.
        if timeout.ceiling > *deadline && scope.marks.get("timeout.ceiling").is_some() {
            let remedy = "the deadline cuts attempts off first; shorten the ceiling or lengthen the deadline";
            found.push(longer("timeout.ceiling", timeout.ceiling, "the deadline", *deadline, remedy, CALL));
        }
    }
    if retry.mode != Mode::Off && retry.attempts > 1 && retry.base > *deadline {
        let remedy = "there may be no time left for a retry; shorten the wait or lengthen the deadline";
        found.push(longer("retry.base", retry.base, "the deadline", *deadline, remedy, CALL));
    }
    let bulkhead = &scope.policies.bulkhead;
    if bulkhead.mode != Mode::Off
        && bulkhead.max_wait > *deadline
        && scope.marks.get("bulkhead.max_wait").is_some()
    {
        let remedy = "the deadline ends the wait first; shorten the wait or lengthen the deadline";
        found.push(longer("bulkhead.max_wait", bulkhead.max_wait, "the deadline", *deadline, remedy, CALL));
    }
    let Policies { limit, queue, .. } = scope.policies;
    let is_used = limit.mode == Mode::Enforce && queue.mode == Mode::Enforce && queue.size > 0;
    if is_used && queue.max_wait > *deadline && scope.marks.get("limit.queue.max_wait").is_some() {
        let remedy = "the deadline ends the wait first; shorten the wait or lengthen the deadline";
        found.push(longer("limit.queue.max_wait", queue.max_wait, "the deadline", *deadline, remedy, CALL));
    }
    found
}

/// What the breaker waits for and the timeout prevents.
fn cut_off(scope: &Scope<'_>) -> Vec<Finding> {
    let Policies { breaker, call: call::Config { timeout, .. }, .. } = scope.policies;
    let mut found = Vec::new();
    if breaker.mode == Mode::Off || timeout.mode != Mode::Enforce {
        return found;
    }
    let (limit, name) = match timeout.fixed {
        Some(fixed) => (fixed, "timeout.fixed"),
        None => (timeout.ceiling, "timeout.ceiling"),
    };
    for (path, after) in
        [("breaker.hung_after", breaker.hung_after), ("breaker.slow_after", breaker.slow_after)]
    {
        let Some(after) = after.filter(|after| *after > limit) else { continue };
        if scope.marks.get(path).is_some() {
            let remedy = "an attempt is cut off before it comes to that; shorten it, or write \"off\"";
            found.push(longer(path, after, name, limit, remedy, &[]));
        }
    }
    found
}

/// Numbers of calls that can't come together.
fn crowded(scope: &Scope<'_>) -> Vec<Finding> {
    let Policies { limit, bulkhead, call, .. } = scope.policies;
    let mut found = Vec::new();
    if limit.mode == Mode::Enforce
        && bulkhead.mode == Mode::Enforce
        && limit.max_in_flight < bulkhead.concurrency
    {
        let (most, concurrency) = (limit.max_in_flight, bulkhead.concurrency);
        found.push(Finding {
            severity: Severity::Warning,
            path: "limit.max_in_flight".to_owned(),
            problem: format!("is {most}, below bulkhead.concurrency ({concurrency})"),
            remedy: "the bulkhead can never fill; raise the limit, or set bulkhead.mode to \"off\""
                .to_owned(),
            related: &["bulkhead.concurrency"],
        });
    }
    if let Some(most) = scope.policies.region_limit.filter(|most| *most > limit.max_in_flight)
        && limit.mode == Mode::Enforce
    {
        found.push(warning(
            "limit.per_region",
            format!("is {most}, above max_in_flight ({})", limit.max_in_flight),
            "no region can ever have so many; lower it, or raise max_in_flight",
            &["limit.max_in_flight"],
        ));
    }
    if call.hedge.mode != Mode::Off && scope.endpoints == Some(1) {
        found.push(Finding {
            severity: Severity::Warning,
            path: "hedge.mode".to_owned(),
            problem: format!("is {:?}, and there is only one endpoint", call.hedge.mode.name()),
            remedy: "a hedge goes to another endpoint; add one, or leave hedging off".to_owned(),
            related: &[],
        });
    }
    found
}

/// Settings that nobody looks at.
fn unheard(scope: &Scope<'_>) -> Vec<Finding> {
    let p = scope.policies;
    let mut found: Vec<Finding> = idle_queue("limit", &p.limit, scope.marks).into_iter().collect();
    if p.hash_on != HashOn::None && p.balance.algorithm != Algorithm::ConsistentHash {
        let problem = format!("is set, and algorithm is {:?}", p.balance.algorithm.name());
        let remedy = "calls stick to nothing; write algorithm = \"consistent_hash\", or remove it";
        found.push(warning("balance.hash_on", problem, remedy, &["balance.algorithm"]));
    }
    let Some(kind) = p.check_kind else { return found };
    for key in unasked(kind) {
        let path = join("check", key);
        if scope.marks.own(&path).is_some() {
            let problem = format!("is set, and a check of kind {:?} does not look at it", kind.name());
            found.push(warning(&path, problem, "remove it, or change kind", &[]));
        }
    }
    if kind == CheckKind::Grpc && p.protocol == Protocol::Http1 && p.check.port.is_none() {
        let problem = "is \"grpc\", and protocol is \"http1\"".to_owned();
        let remedy = "gRPC needs HTTP/2: write protocol = \"http2\", or name the check's own port";
        found.push(warning("check.kind", problem, remedy, &["protocol"]));
    }
    found
}

/// A queue before a limit that never fills: that of the table `limit`, or of the same table elsewhere.
pub(crate) fn idle_queue(path: &str, limit: &limit::Config, marks: &Marks) -> Option<Finding> {
    let table = join(path, "queue");
    let is_said = marks.own_in(&table).is_some() && marks.get(&join(&table, "mode")).is_none();
    (is_said && limit.mode != Mode::Enforce).then(|| {
        let problem = format!("is set, and {path}.mode is {:?}", limit.mode.name());
        let remedy = "nothing ever waits before a limit that refuses nothing; write mode = \"enforce\" there, or remove it";
        warning(&table, problem, remedy, &[])
    })
}

/// The settings of a check that one of this kind does not look at.
fn unasked(kind: CheckKind) -> &'static [&'static str] {
    match kind {
        CheckKind::Http => &["service", "command"],
        CheckKind::Tcp => &["path", "host", "status", "body", "service", "command"],
        CheckKind::Grpc => &["path", "status", "body", "command"],
        CheckKind::Command => &["path", "host", "port", "status", "body", "service"],
    }
}

fn warning(path: &str, problem: String, remedy: &str, related: &'static [&'static str]) -> Finding {
    let (path, remedy) = (path.to_owned(), remedy.to_owned());
    Finding { severity: Severity::Warning, path, problem, remedy, related }
}

fn longer(
    path: &str,
    this: Duration,
    than: &str,
    that: Duration,
    remedy: &str,
    related: &'static [&'static str],
) -> Finding {
    let problem = format!("is {}, longer than {than} ({})", show_duration(this), show_duration(that));
    Finding {
        severity: Severity::Warning,
        path: path.to_owned(),
        problem,
        remedy: remedy.to_owned(),
        related,
    }
}

/// The settings that the rules of a whole call weigh against each other.
const CALL: &[&str] = &["deadline", "retry.attempts"];
