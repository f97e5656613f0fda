//! What idempotency keys mean in HTTP: the same for the layer and the proxy.
//!
//! The draft (draft-ietf-httpapi-idempotency-key-header-07, expired) leaves open which headers are replayed, how long a body
//! may be and what a crash does; what is chosen here stands on the page of the policy.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use seaworthy_core::idempotency::{BadKey, Fingerprint, Key, Phase};

use super::fingerprint::Parts;
use super::keys::Refusal;
use super::lost;
use super::running::Unsettled;
use super::store::{CHUNK_BYTES, StoreError};

/// The header that carries the key.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `true` in an answer that was given before.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Tells an upstream which reservation of the key a request belongs to. What is lower than one that it has seen for that key
/// comes from somebody who was overtaken.
pub const FENCING_TOKEN: HeaderName = HeaderName::from_static("x-seaworthy-fencing-token");

/// The key in the header `name`, if there is one.
///
/// # Errors
/// What is there is no key.
pub fn key(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Key>, BadKey> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Key::parse(value.as_bytes()).map(Some),
        (Some(_), Some(_)) => Err(BadKey::Several),
    }
}

/// Takes the fingerprint of a request as it is read: SHA-256 of its method, host, target, chosen headers and body.
///
/// Of the host only the name counts, in lower case: a client that turns from one port of a service to another, as to another
/// proxy before it, asks for the same.
#[derive(Clone, Debug)]
pub struct Print {
    parts: Parts,
}

impl Print {
    /// Of what stands before the body. `host` may have a port, `target` is path and query; of the headers only `chosen` count.
    #[must_use]
    pub fn new(
        method: &Method,
        host: &[u8],
        target: &str,
        headers: &HeaderMap,
        chosen: &[HeaderName],
    ) -> Self {
        let mut parts = Parts::default();
        parts.part(method.as_str().as_bytes());
        parts.part(&without_port(host).to_ascii_lowercase());
        parts.part(target.as_bytes());
        for name in chosen {
            parts.part(name.as_str().as_bytes());
            let values = headers.get_all(name);
            parts.number(values.iter().count());
            values.iter().for_each(|value| parts.part(value.as_bytes()));
        }
        Self { parts }
    }

    /// The body goes on with this.
    pub fn body(&mut self, piece: &[u8]) {
        self.parts.bare(piece);
    }

    /// The body is over.
    #[must_use]
    pub fn finish(self) -> Fingerprint {
        self.parts.finish()
    }
}

/// The name or address of a host, in brackets if it is one of IPv6 (RFC 3986, section 3.2.2).
fn without_port(host: &[u8]) -> &[u8] {
    let Some(colon) = host.iter().rposition(|byte| *byte == b':') else { return host };
    let (name, port) = (&host[..colon], &host[colon + 1..]);
    // The last colon of an address in brackets may be inside them.
    let is_inside = name.starts_with(b"[") && !name.ends_with(b"]");
    if is_inside || !port.iter().all(u8::is_ascii_digit) { host } else { name }
}

/// Which answers are kept and replayed. What is answered and not kept sets its key free: by its answer the upstream says
/// that nothing has happened. Who can't promise that of errors keeps all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Keep {
    /// Successes, redirects and definite errors of the client: 2xx, 3xx, and 4xx but for those that ask to come again, with
    /// other credentials or later (401, 407, 408, 409, 421, 423, 425, 429). The default.
    #[default]
    Definite,
    /// All but 5xx.
    NoServerErrors,
    /// All, as version 1 of Stripe's interface does.
    All,
}

impl Keep {
    /// Whether an answer with this status is kept.
    #[must_use]
    pub fn keeps(self, status: StatusCode) -> bool {
        match self {
            Self::All => true,
            Self::NoServerErrors => !status.is_server_error(),
            Self::Definite => {
                !status.is_server_error()
                    && !matches!(status.as_u16(), 401 | 407 | 408 | 409 | 421 | 423 | 425 | 429)
            }
        }
    }

    /// How an answer with this status settles its key. What is not kept sets it free, but for what a gateway on the way says of
    /// an upstream that it did not hear (502, 504): of that nobody knows how it ended.
    #[must_use]
    pub fn settles(self, status: StatusCode) -> Phase {
        match status {
            _ if self.keeps(status) => Phase::Done,
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Phase::Unknown,
            _ => Phase::Free,
        }
    }
}

/// What is kept of an answer but for its body.
#[derive(Clone, PartialEq, Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Of its headers, those that are replayed.
    pub headers: HeaderMap,
    /// How long its body is, in bytes.
    pub length: u64,
    /// Whether the body is kept: it was not longer than what is.
    pub whole: bool,
}

impl Head {
    /// Of an answer, with those of its headers that are `chosen`. `Set-Cookie` is none of them, whatever was chosen: a kept one
    /// would hand a session to whoever repeats the request.
    #[must_use]
    pub fn of(status: StatusCode, headers: &HeaderMap, chosen: &[HeaderName]) -> Self {
        let mut kept = HeaderMap::new();
        for name in chosen.iter().filter(|name| **name != header::SET_COOKIE) {
            for value in headers.get_all(name) {
                kept.append(name, value.clone());
            }
        }
        Self { status, headers: kept, length: 0, whole: true }
    }

    /// As bytes; `None` if that is more than a record takes.
    #[must_use]
    pub fn encode(&self) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(FORMAT);
        out.put_u8(u8::from(self.whole));
        out.put_u16_le(self.status.as_u16());
        out.put_u64_le(self.length);
        for (name, value) in &self.headers {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            out.put_u16_le(u16::try_from(name.len()).ok()?);
            out.put_slice(name);
            out.put_u32_le(u32::try_from(value.len()).ok()?);
            out.put_slice(value);
        }
        // If its body is lost, that is noted before it.
        (out.len() < CHUNK_BYTES).then(|| out.freeze())
    }

    /// From bytes; `None` if they are no head. One whose body could not be kept is not [whole](Self::whole).
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (lost, mut bytes) = lost::read(bytes);
        let from = &mut bytes;
        let (format, whole) = (take(from, 1)?[0], take(from, 1)?[0] == 1);
        if format != FORMAT {
            return None;
        }
        let status = StatusCode::from_u16(number(from, 2)?.try_into().ok()?).ok()?;
        let length = number(from, 8)?;
        let mut headers = HeaderMap::new();
        while !from.is_empty() {
            let name = number(from, 2)?;
            let name = HeaderName::from_bytes(take(from, name.try_into().ok()?)?).ok()?;
            let value = number(from, 4)?;
            let value = HeaderValue::from_bytes(take(from, value.try_into().ok()?)?).ok()?;
            headers.try_append(name, value).ok()?;
        }
        Some(Self { status, headers, length, whole: whole && !lost })
    }

    /// Of its headers those that say where the result is: they are told even where the rest of it is not.
    pub fn pointers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.headers.iter().filter(|(name, _)| [header::LOCATION, header::LINK].contains(name))
    }
}

fn take<'a>(from: &mut &'a [u8], most: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(most)?;
    *from = rest;
    Some(taken)
}

/// Little-endian, of so many bytes.
fn number(from: &mut &[u8], bytes: usize) -> Option<u64> {
    Some(take(from, bytes)?.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
}

/// How a request is answered that is neither carried out nor replayed. Every one becomes a problem document (RFC 9457).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// 400, 409, 413, 422 or 503.
    pub status: StatusCode,
    /// What went wrong, for the client.
    pub detail: String,
    /// When to come again, where that makes sense.
    pub retry_after: Option<Duration>,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), retry_after: None }
    }

    /// Its document: `application/problem+json` (RFC 9457).
    #[must_use]
    pub fn document(&self) -> String {
        let status = self.status.as_u16();
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut detail = String::with_capacity(self.detail.len());
        for c in self.detail.chars() {
            match c {
                '"' | '\\' => detail.extend(['\\', c]),
                // No detail has one; a document stays one whatever somebody writes into it.
                c if c.is_control() => detail.push(' '),
                c => detail.push(c),
            }
        }
        format!(
            "{{\"type\":\"https://www.rfc-editor.org/rfc/rfc9110#status.{status}\",\"title\":\"{title}\",\"status\":{status},\"detail\":\"{detail}\"}}\n"
        )
    }

    /// There has to be a key and is none.
    #[must_use]
    pub fn missing(name: &HeaderName) -> Self {
        let detail = format!(
            "this request needs the header {name}, with a value that is the same when it is repeated"
        );
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The key is none.
    #[must_use]
    pub fn malformed(error: BadKey) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }

    /// The request is longer than one with a key may be.
    #[must_use]
    pub fn too_long(most: u64) -> Self {
        let detail = format!("a request with an idempotency key may be {most} bytes long at most");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// It was carried out, and its answer was too long to be kept, or the store did not take it.
    #[must_use]
    pub fn not_kept(head: &Head) -> Self {
        let (status, length) = (head.status.as_u16(), head.length);
        let detail = format!(
            "the request was carried out before and answered with {status}; the answer of {length} bytes was not kept"
        );
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// It was carried out, and whether the answer is kept is not known.
    #[must_use]
    pub fn unsettled() -> Self {
        Self {
            retry_after: Some(COME_BACK),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the request was carried out, but its answer could not be kept: ask again with the same idempotency key",
            )
        }
    }

    /// It was carried out, and the answer is not kept, as the key was taken from it meanwhile. Who asks again may have it carried
    /// out a second time, so nothing says that it should.
    #[must_use]
    pub fn fenced() -> Self {
        let detail = "the request was carried out, but its idempotency key was released or taken over meanwhile, so its answer \
                      is not kept: asked again, it may be carried out again";
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// It was carried out, and this is why its answer is not known to be kept.
    #[must_use]
    pub fn of_unsettled(why: &Unsettled) -> Self {
        match why {
            Unsettled::Fenced => Self::fenced(),
            Unsettled::Down(_) => Self::unsettled(),
        }
    }

    /// It was carried out, and what was kept can't be replayed now.
    #[must_use]
    pub fn unreadable(error: &StoreError) -> Self {
        match error {
            StoreError::Corrupt(_) => Self::of(&Refusal::Lost),
            _ => Self {
                retry_after: Some(COME_BACK),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the request was carried out before; its answer can't be read now",
                )
            },
        }
    }

    /// Of a refusal.
    #[must_use]
    pub fn of(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Mismatch => Self::new(StatusCode::UNPROCESSABLE_ENTITY, refusal.to_string()),
            Refusal::Busy { retry_after } => Self {
                retry_after: Some(*retry_after),
                ..Self::new(StatusCode::CONFLICT, refusal.to_string())
            },
            Refusal::Unknown { .. } | Refusal::Lost => Self::new(StatusCode::CONFLICT, refusal.to_string()),
            // What is wrong with the store is for operators, not for clients.
            Refusal::Down(_) => Self {
                retry_after: Some(COME_BACK),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "whether this request was carried out before can't be told now, so it is not carried out",
                )
            },
        }
    }
}

/// The headers that are replayed where nobody chose: what describes the body, and where the result is.
pub const REPLAYED_HEADERS: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_DISPOSITION,
    header::LOCATION,
    header::ETAG,
    header::LAST_MODIFIED,
    header::LINK,
];

/// The version of how heads are written. None is 0, which notes that a body is lost.
const FORMAT: u8 = 1;
/// When to ask a store again that is down: most outages that end by themselves do so within seconds.
const COME_BACK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::super::store::Answer;
    use super::*;

    fn print(headers: &[(&str, &str)], body: &[&str]) -> Fingerprint {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let chosen = [HeaderName::from_static("x-tenant"), HeaderName::from_static("x-unit")];
        let mut print = Print::new(&Method::POST, b"shop", "/pay?x=1", &map, &chosen);
        body.iter().for_each(|piece| print.body(piece.as_bytes()));
        print.finish()
    }

    #[test]
    fn a_fingerprint_is_of_the_content_and_not_of_its_pieces() {
        assert_eq!(print(&[], &["ab", "c"]), print(&[], &["a", "bc"]));
        assert_ne!(print(&[], &["abc"]), print(&[], &["abd"]));
    }

    #[test]
    fn only_chosen_headers_count_and_they_do_not_run_together() {
        assert_eq!(print(&[("x-other", "1")], &[]), print(&[], &[]));
        assert_ne!(print(&[("x-tenant", "1")], &[]), print(&[], &[]));
        assert_ne!(print(&[("x-tenant", "1")], &[]), print(&[("x-unit", "1")], &[]));
        assert_ne!(print(&[("x-tenant", "a"), ("x-tenant", "b")], &[]), print(&[("x-tenant", "ab")], &[]));
    }

    #[test]
    fn the_port_and_the_case_of_the_host_make_no_other_request() {
        let at = |host: &str| {
            let map = HeaderMap::new();
            Print::new(&Method::POST, host.as_bytes(), "/pay", &map, &[]).finish()
        };
        for same in ["shop.example", "SHOP.example", "shop.example:8080", "shop.example:443", "shop.example:"]
        {
            assert_eq!(at(same), at("shop.example"), "{same}");
        }
        for same in ["[2001:DB8::1]", "[2001:db8::1]:8080"] {
            assert_eq!(at(same), at("[2001:db8::1]"), "{same}");
        }
        for other in ["shop.example:x", "other.example:8080", "[2001:db8::2]", "2001", "", ":80"] {
            assert_ne!(at(other), at("shop.example"), "{other}");
            assert_ne!(at(other), at("[2001:db8::1]"), "{other}");
        }
        assert_ne!(at("[2001:db8::1]"), at("[2001:db8:]"), "what is in brackets is no port");
    }

    #[test]
    fn a_cookie_is_not_kept_whatever_was_chosen() {
        let mut headers = HeaderMap::new();
        headers.append(header::SET_COOKIE, HeaderValue::from_static("s=1"));
        headers.append(header::ETAG, HeaderValue::from_static("1"));
        let head = Head::of(StatusCode::CREATED, &headers, &[header::SET_COOKIE, header::ETAG]);
        assert_eq!(head.headers.keys().collect::<Vec<_>>(), [header::ETAG]);
    }

    #[test]
    fn a_head_whose_body_is_lost_says_so() {
        let head = Head::of(StatusCode::CREATED, &HeaderMap::new(), &[]);
        let answer = Answer { head: head.encode().unwrap(), body: Bytes::from_static(b"7"), chunks: 0 };
        let lost = answer.without_body();
        assert!(answer.is_whole() && !lost.is_whole());
        assert_eq!(Head::decode(&lost.head), Some(Head { whole: false, ..head }));
    }

    #[test]
    fn nobody_is_told_to_ask_again_for_what_would_be_carried_out_again() {
        let fenced = Problem::of_unsettled(&Unsettled::Fenced);
        assert!(fenced.retry_after.is_none() && fenced.status == StatusCode::CONFLICT, "{fenced:?}");
        let down = Problem::of_unsettled(&Unsettled::Down(StoreError::Down(String::new())));
        assert!(down.retry_after.is_some() && down.status == StatusCode::SERVICE_UNAVAILABLE, "{down:?}");
        let gone = Problem::unreadable(&StoreError::Corrupt(String::new()));
        assert!(gone.detail.contains("was carried out") && gone.retry_after.is_none(), "{gone:?}");
    }

    #[test]
    fn a_head_comes_back_as_it_was() {
        let mut headers = HeaderMap::new();
        headers.append(header::LOCATION, HeaderValue::from_static("/orders/7"));
        headers.append(header::LINK, HeaderValue::from_static("<a>"));
        headers.append(header::LINK, HeaderValue::from_static("<b>"));
        headers.append(header::SET_COOKIE, HeaderValue::from_static("s=1"));
        let mut head = Head::of(StatusCode::CREATED, &headers, &REPLAYED_HEADERS);
        assert!(!head.headers.contains_key(header::SET_COOKIE));
        head.length = 1 << 40;
        head.whole = false;
        let bytes = head.encode().unwrap();
        assert_eq!(Head::decode(&bytes), Some(head));
        for end in 1..bytes.len() {
            // A cut is found, unless it falls between two headers: lengths and checksums are the store's.
            let cut = Head::decode(&bytes[..end]);
            assert!(cut.is_none_or(|cut| cut.headers.len() < 3), "{end}");
        }
    }

    #[test]
    fn a_head_that_is_too_long_is_not_kept() {
        let mut headers = HeaderMap::new();
        headers.append(header::LOCATION, HeaderValue::from_str(&"x".repeat(CHUNK_BYTES)).unwrap());
        assert_eq!(Head::of(StatusCode::CREATED, &headers, &REPLAYED_HEADERS).encode(), None);
    }

    #[test]
    fn what_is_kept_is_what_was_chosen() {
        let kept = |keep: Keep| {
            [200, 201, 303, 400, 401, 404, 408, 409, 422, 425, 429, 500, 503]
                .into_iter()
                .filter(|status| keep.keeps(StatusCode::from_u16(*status).unwrap()))
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(Keep::Definite), [200, 201, 303, 400, 404, 422]);
        assert_eq!(kept(Keep::NoServerErrors), [200, 201, 303, 400, 401, 404, 408, 409, 422, 425, 429]);
        assert_eq!(kept(Keep::All).len(), 13);
    }

    #[test]
    fn what_a_gateway_did_not_hear_is_unknown() {
        let settles = |status: u16| Keep::Definite.settles(StatusCode::from_u16(status).unwrap());
        assert_eq!([201, 404].map(settles), [Phase::Done; 2]);
        assert_eq!([429, 500, 503].map(settles), [Phase::Free; 3]);
        assert_eq!([502, 504].map(settles), [Phase::Unknown; 2]);
        assert_eq!(Keep::All.settles(StatusCode::BAD_GATEWAY), Phase::Done);
    }

    #[test]
    fn a_problem_is_a_document_whatever_its_detail() {
        let problem = Problem::new(StatusCode::CONFLICT, "a \"b\" \\ c\n\u{1}d \u{e4}");
        let read: serde_json::Value = serde_json::from_str(&problem.document()).unwrap();
        assert_eq!(read["detail"], "a \"b\" \\ c  d \u{e4}");
        assert_eq!((&read["status"], &read["title"]), (&409.into(), &"Conflict".into()));
    }

    #[test]
    fn two_keys_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(key(&headers, &IDEMPOTENCY_KEY), Ok(None));
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
        assert_eq!(key(&headers, &IDEMPOTENCY_KEY).unwrap().unwrap().as_str(), "a");
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
        assert_eq!(key(&headers, &IDEMPOTENCY_KEY), Err(BadKey::Several));
    }
}
