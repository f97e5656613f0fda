//! Which headers can carry a key, make a request the same, and be replayed.

use crate::idempotency::RouteIdempotency;
use crate::resolve::overload::Here;
use crate::shape::IDEMPOTENCY_KEY_REMEDY;
use crate::table::join;

/// Headers must be the request's or the answer's own, and not those of a connection or of the proxy.
pub(super) fn check(scope: &mut Here<'_, '_>, keys: &RouteIdempotency) {
    let lists = [
        ("header", std::slice::from_ref(&keys.header)),
        ("fingerprint_headers", &keys.fingerprint_headers),
        ("replay_headers", &keys.replay_headers),
    ];
    for (setting, names) in lists {
        let path = join("idempotency", setting);
        let verb = if setting == "header" { "is" } else { "holds" };
        for name in names {
            if let Some((why, remedy)) = unfit(setting, name, keys) {
                let message = format!("route.{path} {verb} {name:?}, {why}");
                scope.fault(&[&path], &message, remedy);
            }
        }
    }
    let remedy =
        "it tends to be another with each repetition, and then every one is refused with 422; leave it out";
    doubtful(scope, "idempotency.fingerprint_headers", &keys.fingerprint_headers, is_changing, remedy);
    let remedy = "it tells of the first answer's way and not of the replay's; leave it out";
    let is_of_one = |name: &str| OF_ONE_ANSWER.contains(&name);
    doubtful(scope, "idempotency.replay_headers", &keys.replay_headers, is_of_one, remedy);
}

/// Warns of those of `names` that are probably not meant.
fn doubtful(
    scope: &mut Here<'_, '_>,
    path: &str,
    names: &[String],
    is_one: impl Fn(&str) -> bool,
    remedy: &str,
) {
    let Some(mark) = scope.marks.own(path) else { return };
    for name in names.iter().filter(|name| is_one(name)) {
        scope.reader.warn(&mark.span, format!("route.{path} holds {name:?}"), remedy);
    }
}

/// Why a header can't be there, and what to do instead.
fn unfit(setting: &str, name: &str, keys: &RouteIdempotency) -> Option<(&'static str, &'static str)> {
    let is_key = setting == "header";
    if CONNECTION.contains(&name) {
        let remedy = if is_key { IDEMPOTENCY_KEY_REMEDY } else { "name a header that the proxy passes on" };
        return Some(("which is about how a message travels and not about what it says", remedy));
    }
    match setting {
        "header" if MEANT_OTHERWISE.contains(&name) => {
            Some(("which says something else of a request", IDEMPOTENCY_KEY_REMEDY))
        }
        "header" if is_ours(name) => Some(("which the proxy writes itself", IDEMPOTENCY_KEY_REMEDY)),
        "fingerprint_headers" if *name == keys.header => {
            Some(("which carries the key", "it is the same already; leave it out"))
        }
        "replay_headers" if name == "set-cookie" => Some((
            "and a kept cookie would hand a session to whoever repeats the request",
            "leave it out; a client whose first answer was lost has to sign in again",
        )),
        "replay_headers" if is_ours(name) => Some(("which the proxy writes itself", "leave it out")),
        _ => None,
    }
}

/// Whether the proxy writes it, into requests or answers.
fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || name.starts_with("x-seaworthy-")
}

/// Whether it tends to differ between two sendings of one request.
fn is_changing(name: &str) -> bool {
    CHANGING.contains(&name) || is_ours(name) || name.starts_with("x-b3-")
}

/// RFC 9110, section 7.6.1, and what frames or addresses a message.
const CONNECTION: [&str; 13] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What a request has for another purpose, and with the same value for different operations (RFC 9110, sections 8, 10 and 12;
/// RFC 6265).
const MEANT_OTHERWISE: [&str; 17] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-language",
    "content-type",
    "cookie",
    "date",
    "expect",
    "origin",
    "range",
    "referer",
    "set-cookie",
    "user-agent",
];
/// What the proxy writes, besides what begins with `x-seaworthy-`. Those of them that requests have, all have, whether their
/// clients sent any or not.
const OURS: [&str; 8] = [
    "forwarded",
    "idempotent-replayed",
    "traceparent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];
/// What names one sending of a request, or the way that it came, and not the request.
const CHANGING: [&str; 10] = [
    "b3",
    "baggage",
    "date",
    "grpc-timeout",
    "sentry-trace",
    "tracestate",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-real-ip",
];
/// What is true of an answer when it is given, and not later (RFC 9110, section 6.6.1; RFC 9111, section 5.1).
const OF_ONE_ANSWER: [&str; 3] = ["age", "date", "server-timing"];
