//! A stored answer, as a client asked for it.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Method, Response, StatusCode};
use seaworthy::clock::rfc3339;
use serde_json::{Map, Value};

use super::entry::{Stored, single_date};
use super::question::{Moment, Question};
use crate::names;

/// How a stored answer came to be used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How<'a> {
    /// It is fresh, or it is being refreshed.
    Kept,
    /// The upstream said that it is still good.
    Revalidated,
    /// The upstream has no answer, for this reason.
    Degraded(&'a str),
}

/// What a stored answer tells of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    /// How it came to be used.
    pub how: How<'a>,
    /// The field that tells when it was last updated.
    pub header: Option<&'a str>,
    /// The member of a JSON object that does.
    pub field: Option<&'a str>,
}

impl Stored {
    /// Replaces the conditions of a request to the upstream by those that refresh this answer. A 304 is then for
    /// [`Store::refreshed`](super::Store::refreshed), anything else is a whole answer. False, and nothing is changed, if there
    /// is nothing to ask by.
    pub(crate) fn ask_whether_good(&self, headers: &mut HeaderMap) -> bool {
        let of = &self.0.head.headers;
        let tag = of.get(header::ETAG);
        let modified = of.get(header::LAST_MODIFIED);
        if tag.is_none() && modified.is_none() {
            return false;
        }
        drop_conditions(headers);
        if let Some(tag) = tag {
            headers.insert(header::IF_NONE_MATCH, tag.clone());
        }
        if let Some(modified) = modified {
            headers.insert(header::IF_MODIFIED_SINCE, modified.clone());
        }
        true
    }

    /// The answer to `question`.
    pub(crate) fn response(&self, now: Moment, question: &Question, shown: &Shown<'_>) -> Response<Bytes> {
        let head = &self.0.head;
        let mut headers = head.headers.clone();
        let good_at = rfc3339(head.good_at().duration_since(UNIX_EPOCH).unwrap_or_default());
        let stamped =
            shown.field.filter(|_| self.is_stamped(now, shown)).and_then(|f| self.stamped(f, &good_at));
        self.tell(now, &mut headers, shown, &good_at);
        if stamped.is_some() {
            // It is another body now, which has no tag.
            for name in OF_THE_BODY {
                headers.remove(name);
            }
        }
        let whole = stamped.is_none() && head.status == StatusCode::OK;
        let body = stamped.unwrap_or_else(|| self.0.body.clone());
        if whole && not_modified(&question.headers, &headers) {
            for name in OF_CONTENT {
                headers.remove(name);
            }
            return response(StatusCode::NOT_MODIFIED, headers, Bytes::new());
        }
        let wants_part =
            whole && question.method == Method::GET && may_be_parted(&question.headers, &headers);
        let (status, body) = match wants_part.then(|| part(&question.headers, body.len())).flatten() {
            Some(Part::Of(from, to)) => {
                let text = format!("bytes {from}-{}/{}", to - 1, body.len());
                insert(&mut headers, header::CONTENT_RANGE, &text);
                (StatusCode::PARTIAL_CONTENT, body.slice(from..to))
            }
            Some(Part::None) => {
                insert(&mut headers, header::CONTENT_RANGE, &format!("bytes */{}", body.len()));
                (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new())
            }
            None => (head.status, body),
        };
        if status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let body = if question.method == Method::HEAD { Bytes::new() } else { body };
        response(status, headers, body)
    }

    /// The body tells its age only if that is more than its origin wanted: else it stays what it was, tags and all.
    fn is_stamped(&self, now: Moment, shown: &Shown<'_>) -> bool {
        let head = &self.0.head;
        match shown.how {
            How::Degraded(_) => true,
            How::Kept => head.age(now) >= head.lifetime(),
            How::Revalidated => false,
        }
    }

    /// Tells what it is and how old.
    fn tell(&self, now: Moment, headers: &mut HeaderMap, shown: &Shown<'_>, good_at: &str) {
        let head = &self.0.head;
        let (age, lifetime) = (head.age(now), head.lifetime());
        headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
        let left = seconds(lifetime) - seconds(age);
        // RFC 9211. A hit was not forwarded; what was tried in vain before, its detail says.
        let status = match shown.how {
            How::Kept => format!("seaworthy; hit; ttl={left}"),
            How::Revalidated => format!("seaworthy; fwd=stale; fwd-status=304; ttl={left}"),
            How::Degraded(_) => format!("seaworthy; hit; ttl={left}; detail=upstream-failed"),
        };
        if let Ok(status) = HeaderValue::from_str(&status) {
            headers.append(CACHE_STATUS, status);
        }
        if let How::Degraded(reason) = shown.how {
            let mut reason = reason.to_owned();
            reason.retain(|c| (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\');
            let text = format!("stale; reason=\"{reason}\"; since=\"{good_at}\"");
            insert(headers, names::DEGRADED, &text);
        }
        if let Some(name) = shown.header.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok()) {
            insert(headers, name, good_at);
        }
    }

    /// The body with the time of its last update as a member, if it is a JSON object as it stands.
    fn stamped(&self, field: &str, good_at: &str) -> Option<Bytes> {
        let headers = &self.0.head.headers;
        let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let json = kind.split(';').next()?.trim().eq_ignore_ascii_case("application/json");
        if !json || headers.contains_key(header::CONTENT_ENCODING) {
            return None;
        }
        let body = std::str::from_utf8(&self.0.body).ok()?;
        let mut object: Map<String, Value> = serde_json::from_str(body).ok()?;
        if object.contains_key(field) {
            object.insert(field.to_owned(), Value::from(good_at));
            return serde_json::to_vec(&object).ok().map(Bytes::from);
        }
        // Put in front, so that all else stays as its origin wrote it, digits included.
        let rest = body.trim_start().strip_prefix('{')?;
        let comma = if object.is_empty() { "" } else { "," };
        Some(Bytes::from(format!("{{{}:{}{comma}{rest}", Value::from(field), Value::from(good_at))))
    }
}

/// Drops what a client makes its request depend on.
fn drop_conditions(headers: &mut HeaderMap) {
    for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE, header::RANGE] {
        headers.remove(name);
    }
}

fn response(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Whether the client has it already (RFC 9110, section 13.2.2).
fn not_modified(asked: &HeaderMap, has: &HeaderMap) -> bool {
    if asked.contains_key(header::IF_NONE_MATCH) {
        let tag = has.get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(strong);
        let lines = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
        return lines.flat_map(tags).any(|asked| asked == "*" || Some(strong(asked)) == tag);
    }
    let since = single_date(asked, &header::IF_MODIFIED_SINCE);
    let modified = single_date(has, &header::LAST_MODIFIED);
    since.zip(modified).is_some_and(|(since, modified)| modified <= since)
}

/// A tag without its mark of weakness: whether two are about the same page is asked without it.
fn strong(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The tags of a list; a tag may have a comma in it.
fn tags(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parted = line.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    parted.map(str::trim).filter(|tag| !tag.is_empty())
}

/// Whether what the client has of it is of this answer (RFC 9110, section 13.1.5).
fn may_be_parted(asked: &HeaderMap, has: &HeaderMap) -> bool {
    let Some(condition) = asked.get(header::IF_RANGE).map(HeaderValue::as_bytes) else { return true };
    if condition.starts_with(b"\"") {
        return has.get(header::ETAG).is_some_and(|tag| tag.as_bytes() == condition);
    }
    let modified = single_date(has, &header::LAST_MODIFIED);
    let date = single_date(has, &header::DATE);
    // A date is strong only if no second change can hide in its second (RFC 9110, section 8.8.2.2).
    let is_strong = modified.zip(date).is_some_and(|(m, d)| d >= m + Duration::from_secs(1));
    is_strong && single_date(asked, &header::IF_RANGE) == modified
}

/// A part that is asked for.
enum Part {
    /// From a byte to before another.
    Of(usize, usize),
    /// There is no such part.
    None,
}

/// The one range that is asked for. Several, and what can't be read, are ignored, as RFC 9110, section 14.2 allows.
fn part(asked: &HeaderMap, length: usize) -> Option<Part> {
    let mut lines = asked.get_all(header::RANGE).iter();
    let (line, None) = (lines.next()?.to_str().ok()?, lines.next()) else { return None };
    let (unit, range) = line.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(usize::MAX))
    };
    if first.is_empty() {
        let (from, to) = (length.saturating_sub(number(last)?), length);
        return Some(if from < to { Part::Of(from, to) } else { Part::None });
    }
    let from = number(first)?;
    let to = if last.is_empty() { length } else { number(last)?.saturating_add(1) };
    if to <= from && !last.is_empty() {
        return None;
    }
    Some(if from < length { Part::Of(from, to.min(length)) } else { Part::None })
}

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// What is about a body as it was, bit by bit.
const OF_THE_BODY: [&str; 6] =
    ["etag", "last-modified", "content-md5", "digest", "content-digest", "repr-digest"];
/// What a 304 has no use for (RFC 9110, section 15.4.5).
const OF_CONTENT: [&str; 5] =
    ["content-type", "content-encoding", "content-language", "content-length", "content-range"];
