//! `grpc.health.v1.Health/Check`: the standard question of gRPC (grpc/grpc, doc/health-checking.md).
//!
//! The two messages have one field each, so they are written and read here rather than by generated code:
//!
//! ```text
//! message HealthCheckRequest  { string service = 1; }
//! message HealthCheckResponse { enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
//!                               ServingStatus status = 1; }
//! ```

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use seaworthy_config::Check;

use super::exchange::{beginning, body, over_http2};
use super::http::{USER_AGENT, whole};
use super::{At, connect};
use crate::full::Full;

pub(super) async fn check(spec: &Check, at: At<'_>) -> Result<(), String> {
    let request = request(spec, at)?;
    let stream = connect(at).await?;
    at.is("waiting for the answer of grpc.health.v1.Health/Check");
    over_http2(stream, request, async |answer| judge(&spec.service, answer).await).await
}

fn request(spec: &Check, at: At<'_>) -> Result<Request<Full>, String> {
    let host = spec.host.clone().unwrap_or_else(|| at.authority());
    let mut request = Request::new(body(framed(&question(&spec.service))));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = whole(&host, PathAndQuery::from_static("/grpc.health.v1.Health/Check"))
        .ok_or("the check's host can't be sent; correct it")?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    Ok(request)
}

async fn judge(service: &str, answer: Response<Incoming>) -> Result<(), String> {
    let expected = |came: String| {
        let whose = if service.is_empty() { "the server".to_owned() } else { format!("{service:?}") };
        Err(format!("expected SERVING for {whose}, got {came}"))
    };
    if answer.status() != http::StatusCode::OK {
        return expected(format!("the HTTP status {}", answer.status()));
    }
    let (head, body) = answer.into_parts();
    let (bytes, trailers) = beginning(body, MOST_ANSWER).await?;
    // A server that has nothing to say but its status says that in the head.
    match trailers.as_ref().and_then(status).or_else(|| status(&head.headers)) {
        Some((0, _)) => {}
        Some((code, message)) => return expected(format!("the gRPC status {}{message}", code_name(code))),
        None => return expected("no gRPC status; is this a gRPC server?".to_owned()),
    }
    match serving(&bytes) {
        Some(SERVING) => Ok(()),
        Some(other) => expected(status_name(other)),
        None => expected("a message that is not a HealthCheckResponse".to_owned()),
    }
}

/// The gRPC status and its message, if there is one.
fn status(headers: &HeaderMap) -> Option<(u16, String)> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let code = text("grpc-status")?.parse().ok()?;
    let message: String = text("grpc-message").unwrap_or_default().chars().take(MOST_SHOWN).collect();
    Some((code, if message.is_empty() { message } else { format!(" ({message})") }))
}

/// `HealthCheckRequest`. The default, an empty text, is left out (proto3).
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(FIELD_1_BYTES);
        put_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    message
}

/// A message as gRPC sends it: not compressed, its length, itself.
fn framed(message: &[u8]) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
    bytes.extend_from_slice(message);
    Bytes::from(bytes)
}

/// The status in a framed `HealthCheckResponse`; fields that it may get one day are passed over.
fn serving(frame: &[u8]) -> Option<u64> {
    let (head, rest) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    // We have offered no compression, so 1 would be a mistake.
    let mut message = rest.get(..length).filter(|_| head[0] == 0)?;
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let skipped = match tag & 7 {
            0 => {
                let value = take_varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        message = message.get(skipped..)?;
    }
    Some(status)
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn status_name(status: u64) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => format!("the status {other}"),
    }
}

/// The codes that a health service answers with, and what they mean here.
fn code_name(code: u16) -> String {
    match code {
        5 => "NOT_FOUND: the server does not know this service".to_owned(),
        12 => "UNIMPLEMENTED: the server has no grpc.health.v1.Health".to_owned(),
        16 => "UNAUTHENTICATED: the server wants to know who asks".to_owned(),
        other => other.to_string(),
    }
}

const SERVING: u64 = 1;

/// Field 1, of the wire type that is a length and bytes.
const FIELD_1_BYTES: u8 = 0x0a;

/// So much of a server's message stands in ours.
const MOST_SHOWN: usize = 80;

/// The answer has seven bytes.
const MOST_ANSWER: usize = 4096;

#[cfg(test)]
mod tests {
    use tonic_health::ServingStatus;

    use super::super::servers::{Web, asked, grpc, spec};
    use super::*;

    #[tokio::test]
    async fn a_server_that_serves_is_well_and_one_that_stops_is_not() {
        let (port, reporter) = grpc().await;
        let (spec, protocol) = spec("http2", "kind = 'grpc'\nservice = 'shop.Cart'");
        let error = asked(&spec, protocol, port).await.unwrap_err();
        assert!(
            error.starts_with("expected SERVING for \"shop.Cart\", got the gRPC status NOT_FOUND"),
            "{error}"
        );
        reporter.set_service_status("shop.Cart", ServingStatus::Serving).await;
        assert_eq!(asked(&spec, protocol, port).await, Ok(()));
        reporter.set_service_status("shop.Cart", ServingStatus::NotServing).await;
        let error = asked(&spec, protocol, port).await.unwrap_err();
        assert_eq!(error, "expected SERVING for \"shop.Cart\", got NOT_SERVING");
        reporter.set_service_status("shop.Cart", ServingStatus::Unknown).await;
        let error = asked(&spec, protocol, port).await.unwrap_err();
        assert_eq!(error, "expected SERVING for \"shop.Cart\", got UNKNOWN");
    }

    #[tokio::test]
    async fn the_server_as_a_whole_is_asked_whatever_the_upstream_speaks() {
        let (port, _reporter) = grpc().await;
        let (spec, protocol) = spec("http1", "kind = 'grpc'");
        assert_eq!(asked(&spec, protocol, port).await, Ok(()));
    }

    #[tokio::test]
    async fn a_server_without_grpc_is_told() {
        let (spec, protocol) = spec("http2", "kind = 'grpc'");
        let web = Web::start("http2", 200, "").await;
        let error = asked(&spec, protocol, web.port).await.unwrap_err();
        assert_eq!(error, "expected SERVING for the server, got no gRPC status; is this a gRPC server?");
        let web = Web::start("http2", 404, "").await;
        let error = asked(&spec, protocol, web.port).await.unwrap_err();
        assert_eq!(error, "expected SERVING for the server, got the HTTP status 404 Not Found");
    }

    #[test]
    fn a_long_service_has_a_length_of_two_bytes() {
        let message = question(&"x".repeat(300));
        assert_eq!(message[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(message.len(), 303);
        assert!(question("").is_empty());
    }

    #[test]
    fn an_answer_is_read_whatever_else_it_holds_and_nonsense_is_none() {
        let read = |message: &[u8]| serving(&framed(message));
        assert_eq!(read(&[]), Some(0), "a default is left out");
        assert_eq!(read(&[8, 1]), Some(1));
        // A text, eight bytes, four bytes and a number of fields 2 to 5 before it.
        let much = [0x12, 2, b'h', b'i', 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0, 0x28, 0xff, 1, 8, 2];
        assert_eq!(read(&much), Some(2));
        for end in 0..much.len() {
            let mut cut = framed(&much).to_vec();
            cut.truncate(5 + end);
            assert_eq!(serving(&cut), None, "{end}");
        }
        assert_eq!(read(&[8]), None);
        assert_eq!(read(&[0x12, 9, 0]), None);
        assert_eq!(read(&[0x0b]), None, "groups are long gone");
        assert_eq!(read(&[0xff; 12]), None);
        assert_eq!(serving(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed");
        assert_eq!(serving(&[0, 0, 0]), None);
    }
}
