//! The answers that the proxy gives itself: problem details (RFC 9457), and their like for gRPC.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use seaworthy_config::Fallback;
use seaworthy_core::{Failure, Outcome, Policy, Reason, Rejection, Why};

use crate::download::Download;
use crate::names;

/// An answer of our own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem<'a> {
    pub status: StatusCode,
    pub detail: &'a str,
    pub retry_after: Option<Duration>,
}

impl<'a> Problem<'a> {
    pub(crate) const fn new(status: StatusCode, detail: &'a str) -> Self {
        Self { status, detail, retry_after: None }
    }

    /// The answer to a call whose last attempt ended without one.
    pub(crate) const fn failed(outcome: Outcome) -> Problem<'static> {
        let (status, detail) = match outcome {
            Outcome::Failure(Failure::Timeout, _) => {
                (StatusCode::GATEWAY_TIMEOUT, "the upstream did not answer in time")
            }
            Outcome::Failure(Failure::Connect, _) => {
                (StatusCode::BAD_GATEWAY, "the upstream could not be reached")
            }
            Outcome::Failure(Failure::Unprocessed, _) => {
                (StatusCode::BAD_GATEWAY, "the upstream refused the request before it processed it")
            }
            _ => (StatusCode::BAD_GATEWAY, "the upstream broke off, or what it sent was not HTTP"),
        };
        Problem::new(status, detail)
    }

    /// The answer to a call that a policy of ours refused, in `text`.
    pub(crate) fn rejected(rejection: &Rejection, text: &'a str) -> Self {
        let status = match rejection.reason {
            Reason::DeadlinePassed | Reason::DeadlineTooShort => StatusCode::GATEWAY_TIMEOUT,
            _ if rejection.policy == Policy::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Reason::RateExceeded => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, detail: text, retry_after: rejection.retry_after }
    }

    /// The answer, as the client reads it.
    pub(crate) fn answer(&self, grpc: bool, id: &HeaderValue, why: &Why) -> Response<Download> {
        if grpc { self.grpc() } else { self.http(id, why) }
    }

    fn http(&self, id: &HeaderValue, why: &Why) -> Response<Download> {
        let body = serde_json::json!({
            "type": format!("https://www.rfc-editor.org/rfc/rfc9110#status.{}", self.status.as_u16()),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "instance": id.to_str().unwrap_or(""),
            "why": why.notes().iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        let mut body = body.to_string();
        body.push('\n');
        let mut response = Response::new(Download::own(Bytes::from(body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if !id.is_empty() {
            headers.insert(names::REQUEST_ID, id.clone());
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        response
    }

    /// A trailers-only answer (gRPC over HTTP/2, "Responses"): everything is in the head of a 200.
    fn grpc(&self) -> Response<Download> {
        let code = match self.status {
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => "4",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => "8",
            StatusCode::BAD_REQUEST => "3",
            StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => "12",
            status if status.is_client_error() => "13",
            _ => "14",
        };
        let mut response = Response::new(Download::own(Bytes::new()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(names::GRPC_STATUS, HeaderValue::from_static(code));
        if let Ok(message) = HeaderValue::from_str(&percent(self.detail)) {
            headers.insert(names::GRPC_MESSAGE, message);
        }
        if let Some(wait) = self.retry_after {
            headers.insert("grpc-retry-pushback-ms", HeaderValue::from(wait.as_millis().min(1 << 31) as u64));
        }
        response
    }
}

/// The route's own answer.
pub(crate) fn fixed(answer: &Fallback, body: &Bytes) -> Response<Bytes> {
    let mut response = Response::new(body.clone());
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    if let Ok(kind) = HeaderValue::from_str(&answer.content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Tells the client why, who asked for it.
pub(crate) fn tell_why(headers: &mut HeaderMap, why: &Why) {
    let mut text = why.to_string();
    if text.is_empty() {
        text.push_str("answered at the first attempt");
    }
    text.retain(|c| c.is_ascii_graphic() || c == ' ');
    text.truncate(LONGEST_WHY);
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(names::WHY, value);
    }
}

/// Whole seconds, rounded up: coming back early is worse than late.
const fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + (wait.subsec_nanos() > 0) as u64
}

/// `text` as `grpc-message` carries it (gRPC over HTTP/2, "Status-Message").
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte as char),
            // Writing to a string can't fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// Longer lines would be more than some clients take for a header.
const LONGEST_WHY: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up() {
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(1)), 1);
        assert_eq!(seconds(Duration::from_millis(1_001)), 2);
    }

    #[test]
    fn a_grpc_caller_gets_a_grpc_status() {
        let problem = Problem::failed(Outcome::failed(Failure::Timeout));
        let response = problem.answer(true, &HeaderValue::from_static("id"), &Why::new());
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[names::GRPC_STATUS], "4");
    }

    #[test]
    fn messages_are_escaped() {
        assert_eq!(percent("100% é"), "100%25 %C3%A9");
    }
}
