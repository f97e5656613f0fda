//! The head of a request: what it asks for, and what of it goes on to the upstream.
//!
//! What concerns one hop alone is dropped (RFC 9110, section 7.6.1), what tells the upstream where a request came from is
//! added. hyper has parsed the head; what it lets through and an upstream might read differently is refused here.

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Version};
use seaworthy_core::Criticality;
use std::time::Duration;

use crate::client::Client;
use crate::ids;
use crate::names;

/// What a client asks for, ready to go on.
pub(crate) struct Asked {
    pub method: Method,
    /// Path and query.
    pub target: PathAndQuery,
    /// The host, as the client named it.
    pub host: HeaderValue,
    /// What goes to the upstream.
    pub headers: HeaderMap,
    /// The request's id.
    pub id: HeaderValue,
    /// The trace context.
    pub trace: HeaderValue,
    /// How long the client waits, if it said so.
    pub patience: Option<Duration>,
    /// How much it says that it matters.
    pub criticality: Option<Criticality>,
    /// It wants to go on in another protocol.
    pub upgrade: bool,
    /// It is gRPC.
    pub grpc: bool,
    /// It wants to know why.
    pub wants_why: bool,
    /// It is another hop's second or later attempt.
    pub is_repeat: bool,
}

/// Why a request is not served, and how much of it is known for the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub detail: &'static str,
}

impl Refusal {
    const fn new(status: StatusCode, detail: &'static str) -> Self {
        Self { status, detail }
    }

    const fn bad(detail: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl Asked {
    /// Reads `parts`, which came over `client`.
    ///
    /// # Errors
    /// The answer that the client gets instead.
    pub(crate) fn read(client: &Client, parts: Parts) -> Result<Self, Refusal> {
        let Parts { method, uri, version, mut headers, .. } = parts;
        if method == Method::CONNECT {
            return Err(Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                "CONNECT asks for a tunnel, which is not forwarded",
            ));
        }
        let uri = uri.into_parts();
        let target = uri.path_and_query.unwrap_or(PathAndQuery::from_static("/"));
        let whole_server = method == Method::OPTIONS && target.path() == "*";
        if !whole_server && !target.path().starts_with('/') {
            return Err(Refusal::bad("the path must begin with a slash"));
        }
        let seen = Seen::of(&headers)?;
        let host = client.host(seen.host(&headers, uri.authority.as_ref(), version)?)?;
        let upgrade = seen.upgrades(&headers, version);
        let grpc = seen.grpc(&headers);
        let patience = seen.patience(&headers)?;
        let criticality = seen.criticality(&headers)?;
        seen.drop_hop_by_hop(&mut headers, upgrade);
        let mut ids = client.home.ids.borrow_mut();
        let id = match headers.get(names::REQUEST_ID) {
            Some(id) if ids::is_fit(id) => id.clone(),
            _ => {
                let id = ids.request_id();
                headers.insert(names::REQUEST_ID, id.clone());
                id
            }
        };
        let trace = match headers.get(names::TRACEPARENT) {
            Some(trace) if ids::trace_id(trace).is_some() => trace.clone(),
            _ => {
                let trace = ids.traceparent();
                headers.insert(names::TRACEPARENT, trace.clone());
                trace
            }
        };
        drop(ids);
        client.forwarded(&mut headers, &seen, &host);
        Ok(Self {
            method,
            target,
            host,
            headers,
            id,
            trace,
            patience,
            criticality,
            upgrade,
            grpc,
            wants_why: seen.has(Seen::WHY),
            is_repeat: seen.has(Seen::ATTEMPT),
        })
    }

    /// The path alone.
    pub(crate) fn path(&self) -> &str {
        self.target.path()
    }
}

/// Which of the headers that matter are there, found in one pass.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    bits: u32,
    hosts: u8,
}

impl Seen {
    const CONNECTION: u32 = 1;
    const KEEP_ALIVE: u32 = 1 << 1;
    const PROXY_CONNECTION: u32 = 1 << 2;
    const TE: u32 = 1 << 3;
    const UPGRADE: u32 = 1 << 4;
    const EXPECT: u32 = 1 << 5;
    const TRANSFER_ENCODING: u32 = 1 << 6;
    const PROXY_AUTH: u32 = 1 << 7;
    const HTTP2_SETTINGS: u32 = 1 << 8;
    const CONTENT_LENGTH: u32 = 1 << 9;
    const WHY: u32 = 1 << 10;
    const ATTEMPT: u32 = 1 << 11;
    const PATIENCE: u32 = 1 << 12;
    const GRPC_TIMEOUT: u32 = 1 << 13;
    const CONTENT_TYPE: u32 = 1 << 14;
    const CRITICALITY: u32 = 1 << 19;
    /// `X-Forwarded-For`
    pub(crate) const FOR: u32 = 1 << 15;
    /// `Forwarded`
    pub(crate) const FORWARDED: u32 = 1 << 16;
    /// `X-Forwarded-Proto`
    pub(crate) const PROTO: u32 = 1 << 17;
    /// `X-Forwarded-Host`
    pub(crate) const FORWARDED_HOST: u32 = 1 << 18;

    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut seen = Self::default();
        for (name, value) in headers {
            seen.bits |= match name.as_str() {
                "host" => {
                    seen.hosts = seen.hosts.saturating_add(1);
                    0
                }
                "connection" => Self::CONNECTION,
                "keep-alive" => Self::KEEP_ALIVE,
                "proxy-connection" => Self::PROXY_CONNECTION,
                "te" => Self::TE,
                "upgrade" => Self::UPGRADE,
                "expect" if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                    return Err(Refusal::new(
                        StatusCode::EXPECTATION_FAILED,
                        "the only expectation known is 100-continue",
                    ));
                }
                "expect" => Self::EXPECT,
                "transfer-encoding" if !value.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                    return Err(Refusal::bad("the only transfer coding known is chunked, once"));
                }
                "transfer-encoding" if seen.has(Self::TRANSFER_ENCODING) => {
                    return Err(Refusal::bad("Transfer-Encoding is there twice"));
                }
                "transfer-encoding" => Self::TRANSFER_ENCODING,
                "content-length" => Self::CONTENT_LENGTH,
                "proxy-authorization" => Self::PROXY_AUTH,
                "http2-settings" => Self::HTTP2_SETTINGS,
                "x-seaworthy-why" if value.as_bytes() == b"1" => Self::WHY,
                "x-seaworthy-attempt" if value.as_bytes() != b"1" => Self::ATTEMPT,
                "x-seaworthy-timeout-ms" => Self::PATIENCE,
                "x-seaworthy-criticality" => Self::CRITICALITY,
                "grpc-timeout" => Self::GRPC_TIMEOUT,
                "content-type" => Self::CONTENT_TYPE,
                "x-forwarded-for" => Self::FOR,
                "forwarded" => Self::FORWARDED,
                "x-forwarded-proto" => Self::PROTO,
                "x-forwarded-host" => Self::FORWARDED_HOST,
                _ => 0,
            };
        }
        if seen.has(Self::TRANSFER_ENCODING) && seen.has(Self::CONTENT_LENGTH) {
            return Err(Refusal::bad("Transfer-Encoding and Content-Length contradict each other"));
        }
        Ok(seen)
    }

    pub(crate) const fn has(self, bit: u32) -> bool {
        self.bits & bit != 0
    }

    /// The host that the client asks for: that of an absolute target or of HTTP/2's `:authority`, which count for more than
    /// the header (RFC 9112, section 3.2.2).
    pub(crate) fn host(
        self,
        headers: &HeaderMap,
        authority: Option<&Authority>,
        version: Version,
    ) -> Result<HeaderValue, Refusal> {
        if self.hosts > 1 {
            return Err(Refusal::bad("there is more than one Host"));
        }
        if let Some(authority) = authority {
            return HeaderValue::from_str(authority.as_str())
                .map_err(|_| Refusal::bad("the authority is not a host"));
        }
        match headers.get(header::HOST) {
            Some(host) => Ok(host.clone()),
            None if version <= Version::HTTP_10 => Ok(HeaderValue::from_static("")),
            None => Err(Refusal::bad("there is no Host")),
        }
    }

    pub(crate) fn upgrades(self, headers: &HeaderMap, version: Version) -> bool {
        self.has(Self::UPGRADE)
            && version == Version::HTTP_11
            && listed(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
            // An upgrade to HTTP/2 is about this hop, and declining it is to ignore it (RFC 9113, section 3.1).
            && !listed(headers, &header::UPGRADE).any(|token| token.eq_ignore_ascii_case("h2c"))
    }

    fn grpc(self, headers: &HeaderMap) -> bool {
        let is_grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
        self.has(Self::CONTENT_TYPE) && headers.get(header::CONTENT_TYPE).is_some_and(is_grpc)
    }

    /// How long the client waits; the shorter if it says so twice.
    pub(crate) fn patience(self, headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
        let mut patience = None;
        if self.has(Self::PATIENCE) {
            let ms = headers.get(names::TIMEOUT_MS).and_then(|v| v.to_str().ok()?.parse().ok());
            patience = Some(
                ms.map(Duration::from_millis)
                    .ok_or(Refusal::bad("x-seaworthy-timeout-ms is not a number"))?,
            );
        }
        if self.has(Self::GRPC_TIMEOUT) {
            let text = headers.get(names::GRPC_TIMEOUT).and_then(|v| v.to_str().ok());
            let grpc = text.and_then(grpc_timeout).ok_or(Refusal::bad("grpc-timeout is not a time"))?;
            patience = Some(patience.map_or(grpc, |p: Duration| p.min(grpc)));
        }
        Ok(patience)
    }

    /// How much the client says that the call matters; the least if it says so twice.
    pub(crate) fn criticality(self, headers: &HeaderMap) -> Result<Option<Criticality>, Refusal> {
        if !self.has(Self::CRITICALITY) {
            return Ok(None);
        }
        const BAD: Refusal = Refusal::bad(
            "x-seaworthy-criticality is none of critical-plus, critical, sheddable-plus and sheddable",
        );
        let lines = headers.get_all(names::CRITICALITY).into_iter();
        let levels = lines.map(|line| line.to_str().ok().and_then(|text| text.parse().ok()).ok_or(BAD));
        levels.reduce(|a, b| Ok(Criticality::min(a?, b?))).transpose()
    }

    /// Drops what concerns the hop from the client alone, and what the connection's own header lists.
    pub(crate) fn drop_hop_by_hop(self, headers: &mut HeaderMap, upgrade: bool) {
        let te_trailers =
            self.has(Self::TE) && listed(headers, &header::TE).any(|t| t.eq_ignore_ascii_case("trailers"));
        if self.has(Self::CONNECTION) {
            drop_listed(headers);
        }
        let dropped = [
            (Self::KEEP_ALIVE, names::KEEP_ALIVE),
            (Self::PROXY_CONNECTION, names::PROXY_CONNECTION),
            (Self::TE, header::TE),
            (Self::EXPECT, header::EXPECT),
            (Self::TRANSFER_ENCODING, header::TRANSFER_ENCODING),
            (Self::PROXY_AUTH, header::PROXY_AUTHORIZATION),
            (Self::HTTP2_SETTINGS, names::HTTP2_SETTINGS),
            (Self::WHY, names::WHY),
            (Self::ATTEMPT, names::ATTEMPT),
            (Self::PATIENCE, names::TIMEOUT_MS),
            (Self::GRPC_TIMEOUT, names::GRPC_TIMEOUT),
            (Self::CRITICALITY, names::CRITICALITY),
        ];
        if self.bits & HOP_BY_HOP != 0 {
            for (bit, name) in dropped {
                if self.has(bit) {
                    headers.remove(name);
                }
            }
        }
        if te_trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        } else if self.has(Self::UPGRADE) {
            headers.remove(header::UPGRADE);
        }
    }
}

/// Everything that [`Seen::drop_hop_by_hop`] looks up.
const HOP_BY_HOP: u32 = Seen::KEEP_ALIVE
    | Seen::PROXY_CONNECTION
    | Seen::TE
    | Seen::EXPECT
    | Seen::TRANSFER_ENCODING
    | Seen::PROXY_AUTH
    | Seen::HTTP2_SETTINGS
    | Seen::WHY
    | Seen::ATTEMPT
    | Seen::PATIENCE
    | Seen::GRPC_TIMEOUT
    | Seen::CRITICALITY;

/// Drops `Connection` and what it lists, but for what is dealt with elsewhere or must not be lost that way.
fn drop_listed(headers: &mut HeaderMap) {
    let names: Vec<header::HeaderName> = listed(headers, &header::CONNECTION)
        .filter_map(|token| header::HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !matches!(*name, header::HOST | header::UPGRADE | header::TE | header::CONTENT_LENGTH))
        .collect();
    for name in names {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
}

/// The members of a list header, over all its lines.
fn listed<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// A gRPC timeout: up to eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(n * 3600),
        'M' => Duration::from_secs(n * 60),
        'S' => Duration::from_secs(n),
        'm' => Duration::from_millis(n),
        'u' => Duration::from_micros(n),
        'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Drops from an answer what concerns the hop to the upstream alone, and adds our name.
pub(crate) fn clean_answer(headers: &mut HeaderMap, upgraded: bool) {
    if headers.contains_key(header::CONNECTION) {
        drop_listed(headers);
        if upgraded {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
    }
    headers.remove(names::KEEP_ALIVE);
    headers.remove(header::TRANSFER_ENCODING);
    if !upgraded {
        headers.remove(header::UPGRADE);
    }
    headers.append(header::VIA, HeaderValue::from_static(names::VIA));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        assert_eq!(grpc_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "m", "1", "1x", "-1S", "123456789S", "1é", "+1S"] {
            assert_eq!(grpc_timeout(bad), None, "{bad:?}");
        }
    }

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_connection_lists_is_dropped_and_framing_is_not() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "content-length"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("content-length", "3"),
            ("te", "trailers, deflate"),
            ("accept", "*/*"),
        ]);
        let seen = Seen::of(&headers).unwrap();
        seen.drop_hop_by_hop(&mut headers, false);
        let mut left: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["accept: */*", "content-length: 3", "te: trailers"]);
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for lines in [
            &[("transfer-encoding", "chunked"), ("content-length", "3")][..],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(Seen::of(&map(lines)).err().map(|r| r.status), Some(StatusCode::BAD_REQUEST));
        }
    }

    #[test]
    fn two_hosts_or_none_are_refused() {
        let two = map(&[("host", "a"), ("host", "b")]);
        assert!(Seen::of(&two).unwrap().host(&two, None, Version::HTTP_11).is_err());
        let none = map(&[]);
        assert!(Seen::of(&none).unwrap().host(&none, None, Version::HTTP_11).is_err());
        assert!(Seen::of(&none).unwrap().host(&none, None, Version::HTTP_10).is_ok());
    }
}
