//! One stored answer: whether it may be stored, what it answers, and for how long.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Request, Response, StatusCode};
use http_cache_semantics::{AfterResponse, BeforeRequest, CacheOptions, CachePolicy};

use super::directives::{Directives, FOREVER, seconds};
use super::question::{Moment, Question, Rules, joined};
use crate::names;

/// An answer from the store.
#[derive(Clone, Debug)]
pub(crate) struct Stored(pub(super) Arc<Entry>);

/// What of an answer is known when its head is there.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub status: StatusCode,
    /// What is shown, without what concerned one hop or one call.
    pub headers: HeaderMap,
    /// What it varies by, and what that was in its request.
    vary: Vec<(HeaderName, Option<HeaderValue>)>,
    said: Directives,
    /// Believes to have been received at [`UNIX_EPOCH`], so that the ages it is asked about are ours.
    policy: CachePolicy,
    received: Moment,
    /// How old it was already.
    age: Duration,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Entry {
    pub head: Head,
    pub body: Bytes,
}

impl Head {
    /// The head of an answer that may be stored; `None` if it may not be, or better isn't.
    pub(super) fn storable(
        now: Moment,
        question: &Question,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let said = Directives::read(headers);
        let refused = said.no_store || said.no_cache || said.private;
        let personal = headers.contains_key(header::SET_COOKIE);
        let partial = headers.contains_key(header::CONTENT_RANGE);
        // What another hop served instead is not what was good last.
        let instead = headers.contains_key(names::DEGRADED);
        if !question.can_be_stored()
            || refused
            || personal
            || partial
            || instead
            || !is_good(status, &said, headers)
        {
            return None;
        }
        let vary = vary(question, headers)?;
        let lasts = said.public || is_explicit(&said, headers);
        if question.headers.contains_key(header::COOKIE)
            && !lasts
            && !vary.iter().any(|(name, _)| name == header::COOKIE)
        {
            return None;
        }
        let received_at = httpdate::fmt_http_date(within_reason(now.wall));
        let mut shown = shown(headers);
        if !shown.contains_key(header::DATE) {
            shown.insert(header::DATE, HeaderValue::from_str(&received_at).ok()?);
        }
        let policy = policy(question, &vary, status, &said, &shown, &received_at);
        let age = age(now, headers);
        policy.is_storable().then_some(Self {
            status,
            headers: shown,
            vary,
            said,
            policy,
            received: now,
            age,
        })
    }

    /// Whether the question is the one that this answers.
    pub(super) fn answers(&self, question: &Question) -> bool {
        self.vary.iter().all(|(name, was)| joined(&question.headers, name) == *was)
    }

    /// Whether both answer the same questions.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        self.vary == other.vary
    }

    pub(super) fn age(&self, now: Moment) -> Duration {
        self.age.saturating_add(now.since(self.received)).min(Duration::from_secs(FOREVER))
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.policy.time_to_live(UNIX_EPOCH)
    }

    /// When it was what the origin had.
    pub(super) fn good_at(&self) -> SystemTime {
        within_reason(self.received.wall.checked_sub(self.age).unwrap_or(UNIX_EPOCH))
    }

    /// Whether it may be used without asking anybody.
    pub(super) fn is_fresh(&self, now: Moment, question: &Question) -> bool {
        let request = request(question, &self.vary);
        let at = UNIX_EPOCH.checked_add(self.age(now)).unwrap_or(UNIX_EPOCH);
        matches!(self.policy.before_request(&request, at), BeforeRequest::Fresh(_))
    }

    /// How long past its freshness it is, if that may be at all.
    fn staleness(&self, now: Moment) -> Option<Duration> {
        (!self.said.forbids_stale()).then(|| self.age(now).saturating_sub(self.lifetime()))
    }

    /// Whether it may be used while somebody refreshes it (RFC 5861, section 3). Who asks for something newer gets it.
    pub(super) fn may_be_refreshed_behind(&self, now: Moment, question: &Question) -> bool {
        let said = &question.said;
        let asks = said.no_cache || said.max_age.is_some() || said.min_fresh.is_some();
        let bound = self.said.stale_while_revalidate;
        !asks && self.staleness(now).zip(bound).is_some_and(|(stale, bound)| stale <= bound)
    }

    /// Whether it may be used as the upstream fails (RFC 5861, section 4). `s-maxage` alone forbids it, as RFC 9111, section
    /// 5.2.2.10 has it; with a `stale-if-error` beside it the origin has said what it means.
    pub(super) fn may_be_used_on_error(&self, now: Moment, question: &Question, rules: &Rules) -> bool {
        if self.is_fresh(now, question) || self.age(now) < self.lifetime() {
            return true;
        }
        let own = match self.said.stale_if_error {
            None if self.said.s_maxage.is_some() => return false,
            own => own.unwrap_or(rules.within),
        };
        let bound = question.said.stale_if_error.map_or(own, |asked| asked.min(own));
        self.staleness(now).is_some_and(|stale| stale <= bound)
    }

    /// This head, brought up to date by a 304 (RFC 9111, section 3.2); `None` if that is about another answer, or this one
    /// must not be stored any more.
    pub(super) fn refreshed(&self, now: Moment, question: &Question, update: &HeaderMap) -> Option<Self> {
        let request = request(question, &self.vary);
        let mut reply = Response::new(());
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
        for name in [header::ETAG, header::LAST_MODIFIED] {
            copy_first(&name, update, reply.headers_mut());
        }
        // Without any validator it is about what was asked with, and that was ours.
        let says_which = !reply.headers().is_empty();
        let after = self.policy.after_response(&request, &reply, UNIX_EPOCH);
        if says_which && !matches!(after, AfterResponse::NotModified(..)) {
            return None;
        }
        let mut headers = self.headers.clone();
        // A cookie in it is for who asked, not for whom it is kept.
        let kept = |name: &&HeaderName| !about_body(name) && *name != header::SET_COOKIE;
        for name in update.keys().filter(kept) {
            headers.remove(name);
            for value in update.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        if !update.contains_key(header::AGE) {
            headers.remove(header::AGE);
        }
        if !update.contains_key(header::DATE) {
            headers.remove(header::DATE);
        }
        Self::storable(now, question, self.status, &headers)
    }

    /// The bytes that it takes, roughly and rather too many.
    pub(super) fn size(&self) -> usize {
        let each = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + FIELD;
        let headers: usize = self.headers.iter().map(each).sum();
        let vary: usize =
            self.vary.iter().map(|(_, was)| FIELD + was.as_ref().map_or(0, HeaderValue::len)).sum();
        // The policy has its own copies of some.
        2 * (headers + vary) + ENTRY
    }
}

/// Whether an answer of this status is worth keeping: what was there, or where it is. That there is nothing is kept only if
/// the origin says for how long, as it may be part of a failure.
fn is_good(status: StatusCode, said: &Directives, headers: &HeaderMap) -> bool {
    match status.as_u16() {
        200 | 203 | 204 | 300 | 301 | 308 => true,
        302 | 303 | 307 | 404 | 405 | 410 => is_explicit(said, headers),
        _ => false,
    }
}

fn is_explicit(said: &Directives, headers: &HeaderMap) -> bool {
    said.max_age.is_some() || said.s_maxage.is_some() || headers.contains_key(header::EXPIRES)
}

/// What the answer varies by; `None` if that can't be told from a request, or is more than anybody means.
fn vary(question: &Question, headers: &HeaderMap) -> Option<Vec<(HeaderName, Option<HeaderValue>)>> {
    let mut names = Vec::new();
    for line in headers.get_all(header::VARY) {
        for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name == "*" || names.len() == MOST_VARY {
                return None;
            }
            names.push(HeaderName::from_bytes(name.as_bytes()).ok()?);
        }
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    // Values are copied: the request's would keep the whole buffer that it was read into.
    let was = |name: &HeaderName| joined(&question.headers, name);
    Some(names.into_iter().map(|name| (name.clone(), was(&name))).collect())
}

/// The headers that are shown with it: none that concern one hop (RFC 9111, section 3.1) or one call, each copied out of the
/// buffer that it was read into.
fn shown(headers: &HeaderMap) -> HeaderMap {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let listed: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    let mut shown = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let dropped =
            DROPPED.contains(&name.as_str()) || listed.iter().any(|l| l.eq_ignore_ascii_case(name.as_str()));
        if !dropped && let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
            shown.append(name.clone(), copy);
        }
    }
    shown
}

/// A request as the library reads it: what matters, each field one line.
fn request(question: &Question, vary: &[(HeaderName, Option<HeaderValue>)]) -> Request<()> {
    // Which resource it is about, the key says already.
    let mut request = Request::new(());
    let headers = request.headers_mut();
    for (name, _) in vary {
        if let Some(value) = joined(&question.headers, name) {
            headers.insert(name.clone(), value);
        }
    }
    // That there are any is all that matters.
    headers.remove(header::AUTHORIZATION);
    if question.headers.contains_key(header::AUTHORIZATION) {
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("yes"));
    }
    write_directives(headers, &question.said);
    request
}

fn policy(
    question: &Question,
    vary: &[(HeaderName, Option<HeaderValue>)],
    status: StatusCode,
    said: &Directives,
    headers: &HeaderMap,
    received_at: &str,
) -> CachePolicy {
    let mut response = Response::new(());
    *response.status_mut() = status;
    let to = response.headers_mut();
    write_directives(to, said);
    for name in [header::ETAG, header::LAST_MODIFIED] {
        copy_first(&name, headers, to);
    }
    let date = single_date(headers, &header::DATE).map_or(received_at.to_owned(), httpdate::fmt_http_date);
    if let Ok(date) = HeaderValue::from_str(&date) {
        to.insert(header::DATE, date);
    }
    if headers.contains_key(header::EXPIRES) {
        // A date that can't be read has passed (RFC 9111, section 5.3).
        let expires = single_date(headers, &header::EXPIRES).map(httpdate::fmt_http_date);
        let expires = expires.and_then(|date| HeaderValue::from_str(&date).ok());
        to.insert(header::EXPIRES, expires.unwrap_or(HeaderValue::from_static("0")));
    }
    let options = CacheOptions { shared: true, cache_heuristic: NO_GUESS, ..CacheOptions::default() };
    CachePolicy::new_options(&request(question, vary), &response, UNIX_EPOCH, options)
}

fn write_directives(headers: &mut HeaderMap, said: &Directives) {
    let written = said.written();
    headers.remove(header::CACHE_CONTROL);
    if !written.is_empty()
        && let Ok(value) = HeaderValue::from_str(&written)
    {
        headers.insert(header::CACHE_CONTROL, value);
    }
}

/// How old an answer was when it came (RFC 9111, section 4.2.3).
fn age(now: Moment, headers: &HeaderMap) -> Duration {
    let told =
        headers.get(header::AGE).and_then(|age| seconds(age.to_str().ok()?.trim())).unwrap_or_default();
    let date = single_date(headers, &header::DATE);
    let apparent = date.and_then(|date| now.wall.duration_since(date).ok()).unwrap_or_default();
    // Dates tell whole seconds: less than one is no age.
    let apparent = if apparent < Duration::from_secs(1) { Duration::ZERO } else { apparent };
    told.max(apparent).min(Duration::from_secs(FOREVER))
}

/// The one date that a field has; `None` if it has several or can't be read.
pub(super) fn single_date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).iter();
    let (line, more) = (lines.next()?, lines.next());
    if more.is_some() {
        return None;
    }
    httpdate::parse_http_date(line.to_str().ok()?).ok()
}

/// The time, or the nearest that can be written: `httpdate` writes four digits of a year after 1970.
pub(super) fn within_reason(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + since.min(Duration::from_secs(LAST))
}

fn copy_first(name: &HeaderName, from: &HeaderMap, to: &mut HeaderMap) {
    if let Some(value) = from.get(name) {
        to.insert(name.clone(), value.clone());
    }
}

/// What a 304 doesn't change, as the body stays what it was (RFC 9111, section 3.2).
fn about_body(name: &HeaderName) -> bool {
    let kept =
        [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_TYPE, header::CONTENT_RANGE];
    kept.contains(name) || name == header::TRANSFER_ENCODING
}

/// Fields that are not shown again.
const DROPPED: [&str; 18] = [
    "age",
    "connection",
    "content-length",
    "grpc-status",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
    "x-seaworthy-degraded",
    "x-seaworthy-last-updated",
    "x-seaworthy-why",
    "traceparent",
];
/// Nothing is fresh because it has not changed for long: an origin that said nothing didn't ask for a cache. Such answers are
/// there for when it fails.
const NO_GUESS: f32 = 0.0;
/// Nobody varies by more.
const MOST_VARY: usize = 16;
/// What a header field takes beside its text: two handles and a place in the map.
const FIELD: usize = 128;
/// What an entry takes beside its fields and its body.
const ENTRY: usize = 1536;
/// The end of the year 9999.
const LAST: u64 = 253_402_300_799;
