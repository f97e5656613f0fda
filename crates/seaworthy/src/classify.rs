//! What a result means for the policies, and whether a request may be repeated.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, StatusCode, header};
use seaworthy_core::call::Repeat;
use seaworthy_core::{Failure, Outcome, Pushback};

/// Tells how an attempt ended. Any `Fn(Result<&T, &E>) -> Outcome` is one.
pub trait Classify<T, E> {
    /// How an attempt with this result ended.
    fn classify(&self, result: Result<&T, &E>) -> Outcome;
}

impl<T, E, F: Fn(Result<&T, &E>) -> Outcome> Classify<T, E> for F {
    fn classify(&self, result: Result<&T, &E>) -> Outcome {
        self(result)
    }
}

/// Tells whether a request may be sent again, and copies it for that.
pub trait Repeatable<R> {
    /// Whether `request` may be sent more than once.
    fn repeat(&self, request: &R) -> Repeat;
    /// A copy of `request`, if it can be copied.
    fn copy(&self, request: &R) -> Option<R>;
}

/// `Ok` is a success, `Err` a failure, and every request may be repeated. For services whose requests only read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl<T, E> Classify<T, E> for Plain {
    fn classify(&self, result: Result<&T, &E>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::failed(Failure::Error),
        }
    }
}

impl<R: Clone> Repeatable<R> for Plain {
    fn repeat(&self, _request: &R) -> Repeat {
        Repeat::Safe
    }

    fn copy(&self, request: &R) -> Option<R> {
        Some(request.clone())
    }
}

/// HTTP as RFC 9110 means it: 5xx are failures, 429 and 503 with Retry-After say *overloaded*, other 4xx are the caller's
/// own; idempotent methods may be repeated, and others only with an `Idempotency-Key`.
///
/// An `Err` counts as [`Failure::Broken`], since from the outside nobody can tell whether the request had arrived. Wrap it to
/// recognise a client's connect errors, which are safe to repeat:
///
/// ```
/// # use seaworthy::{classify::{Classify, Http}, Failure, Outcome};
/// # struct ClientError; impl ClientError { fn is_connect(&self) -> bool { true } }
/// let classify = |result: Result<&http::Response<()>, &ClientError>| match result {
///     Err(e) if e.is_connect() => Outcome::failed(Failure::Connect),
///     other => Http.classify(other),
/// };
/// assert_eq!(classify(Err(&ClientError)), Outcome::failed(Failure::Connect));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Http;

impl Http {
    /// How a response with this status and these headers is classified.
    #[must_use]
    pub fn response(status: StatusCode, headers: &HeaderMap) -> Outcome {
        let asked = || retry_after(headers);
        match status.as_u16() {
            429 => Outcome::Overloaded(asked()),
            503 if headers.contains_key(header::RETRY_AFTER) => Outcome::Overloaded(asked()),
            // 501 and 505 will not be mended by asking again, and say nothing about the upstream's health.
            501 | 505 => Outcome::Ignored,
            500.. => Outcome::Failure(Failure::Error, asked()),
            _ => Outcome::Success,
        }
    }

    /// Whether a request with this method and these headers may be repeated (RFC 9110, section 9.2.2).
    #[must_use]
    pub fn request(method: &Method, headers: &HeaderMap) -> Repeat {
        if method.is_idempotent() {
            Repeat::Safe
        } else if headers.contains_key("idempotency-key") {
            Repeat::Keyed
        } else {
            Repeat::Never
        }
    }
}

impl<B, E> Classify<http::Response<B>, E> for Http {
    fn classify(&self, result: Result<&http::Response<B>, &E>) -> Outcome {
        match result {
            Ok(response) => Self::response(response.status(), response.headers()),
            Err(_) => Outcome::failed(Failure::Broken),
        }
    }
}

impl<B: Clone> Repeatable<http::Request<B>> for Http {
    fn repeat(&self, request: &http::Request<B>) -> Repeat {
        Self::request(request.method(), request.headers())
    }

    fn copy(&self, request: &http::Request<B>) -> Option<http::Request<B>> {
        Some(request.clone())
    }
}

/// gRPC: the status in the head (a trailers-only answer) decides; every request may be repeated only if the upstream did
/// not process it, unless it is marked idempotent by [`Grpc::idempotent`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Grpc {
    /// Whether the methods called are idempotent.
    pub idempotent: bool,
}

impl Grpc {
    /// For methods that may run more than once.
    #[must_use]
    pub const fn idempotent() -> Self {
        Self { idempotent: true }
    }

    /// How an answer with this HTTP status and these headers (or trailers) is classified. Codes by name: the gRPC
    /// documentation, "Status codes and their use in gRPC"; push-back: gRFC A6.
    #[must_use]
    pub fn response(status: StatusCode, headers: &HeaderMap) -> Outcome {
        let Some(code) = headers.get("grpc-status") else {
            return Http::response(status, headers);
        };
        let asked = grpc_pushback(headers);
        match code.to_str().ok().and_then(|c| c.parse().ok()).unwrap_or(UNKNOWN) {
            RESOURCE_EXHAUSTED => Outcome::Overloaded(asked),
            DEADLINE_EXCEEDED => Outcome::Failure(Failure::Timeout, asked),
            UNKNOWN | INTERNAL | UNAVAILABLE | DATA_LOSS => Outcome::Failure(Failure::Error, asked),
            CANCELLED => Outcome::Ignored,
            _ => Outcome::Success,
        }
    }
}

impl<B, E> Classify<http::Response<B>, E> for Grpc {
    fn classify(&self, result: Result<&http::Response<B>, &E>) -> Outcome {
        match result {
            Ok(response) => Self::response(response.status(), response.headers()),
            Err(_) => Outcome::failed(Failure::Broken),
        }
    }
}

impl<B: Clone> Repeatable<http::Request<B>> for Grpc {
    fn repeat(&self, _request: &http::Request<B>) -> Repeat {
        if self.idempotent { Repeat::Safe } else { Repeat::Never }
    }

    fn copy(&self, request: &http::Request<B>) -> Option<http::Request<B>> {
        Some(request.clone())
    }
}

const CANCELLED: u32 = 1;
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const DATA_LOSS: u32 = 15;

/// What `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3). What can't be read counts as unsaid.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Pushback {
    let Some(value) = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()) else {
        return Pushback::Unsaid;
    };
    if let Ok(seconds) = value.trim().parse() {
        return Pushback::After(Duration::from_secs(seconds));
    }
    let now = SystemTime::UNIX_EPOCH + crate::clock::wall();
    match httpdate::parse_http_date(value) {
        Ok(date) => Pushback::After(date.duration_since(now).unwrap_or_default()),
        Err(_) => Pushback::Unsaid,
    }
}

/// What `grpc-retry-pushback-ms` asks for; what is negative or can't be read means not to retry (gRFC A6).
fn grpc_pushback(headers: &HeaderMap) -> Pushback {
    match headers.get("grpc-retry-pushback-ms") {
        None => Pushback::Unsaid,
        Some(value) => match value.to_str().ok().and_then(|v| v.parse().ok()) {
            Some(ms) => Pushback::After(Duration::from_millis(ms)),
            None => Pushback::Never,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn statuses_mean_what_they_say() {
        let none = HeaderMap::new();
        for (status, outcome) in [
            (200, Outcome::Success),
            (404, Outcome::Success),
            (429, Outcome::Overloaded(Pushback::Unsaid)),
            (500, Outcome::failed(Failure::Error)),
            (501, Outcome::Ignored),
            (503, Outcome::failed(Failure::Error)),
        ] {
            assert_eq!(Http::response(StatusCode::from_u16(status).unwrap(), &none), outcome, "{status}");
        }
        let asked = Http::response(StatusCode::SERVICE_UNAVAILABLE, &headers("retry-after", "3"));
        assert_eq!(asked, Outcome::Overloaded(Pushback::After(Duration::from_secs(3))));
    }

    #[test]
    fn retry_after_reads_seconds_and_dates() {
        assert_eq!(retry_after(&headers("retry-after", "120")), Pushback::After(Duration::from_secs(120)));
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(&headers("retry-after", past)), Pushback::After(Duration::ZERO));
        for nonsense in ["", "soon", "-5", "99999999999999999999999"] {
            assert_eq!(retry_after(&headers("retry-after", nonsense)), Pushback::Unsaid, "{nonsense}");
        }
    }

    #[test]
    fn grpc_pushback_that_is_negative_forbids() {
        assert_eq!(
            grpc_pushback(&headers("grpc-retry-pushback-ms", "7")),
            Pushback::After(Duration::from_millis(7))
        );
        assert_eq!(grpc_pushback(&headers("grpc-retry-pushback-ms", "-1")), Pushback::Never);
    }

    #[test]
    fn a_post_is_repeated_only_with_a_key() {
        assert_eq!(Http::request(&Method::POST, &HeaderMap::new()), Repeat::Never);
        assert_eq!(Http::request(&Method::POST, &headers("idempotency-key", "\"k\"")), Repeat::Keyed);
        assert_eq!(Http::request(&Method::PUT, &HeaderMap::new()), Repeat::Safe);
    }
}
