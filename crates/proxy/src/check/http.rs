//! A GET that must be answered with a good status, and with a body in which something is found.

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use seaworthy_config::{Check, Pattern, Protocol};

use super::exchange::{beginning, body, over_http1, over_http2};
use super::{At, connect};

pub(super) async fn check(spec: &Check, protocol: Protocol, at: At<'_>) -> Result<(), String> {
    let request = request(spec, protocol, at)?;
    let stream = connect(at).await?;
    at.is("waiting for the head of the answer");
    let read = async |answer: Response<Incoming>| {
        judge_status(spec, &answer)?;
        let Some(pattern) = &spec.body else { return Ok(()) };
        at.is("reading the body");
        let (bytes, _) = beginning(answer.into_body(), MOST_BODY).await?;
        judge_body(pattern, &bytes)
    };
    match protocol {
        Protocol::Http1 => over_http1(stream, request, read).await,
        Protocol::Http2 => over_http2(stream, request, read).await,
    }
}

fn request(spec: &Check, protocol: Protocol, at: At<'_>) -> Result<Request<crate::full::Full>, String> {
    let host = spec.host.clone().unwrap_or_else(|| at.authority());
    let wrong = |what: &str| format!("the check's {what} can't be sent; correct it");
    let path: PathAndQuery = spec.path.parse().map_err(|_| wrong("path"))?;
    let mut request = Request::new(body(bytes::Bytes::new()));
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    match protocol {
        Protocol::Http1 => {
            headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|_| wrong("host"))?);
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            *request.uri_mut() = Uri::from(path);
        }
        Protocol::Http2 => {
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = whole(&host, path).ok_or_else(|| wrong("host"))?;
        }
    }
    Ok(request)
}

/// The URI of which HTTP/2 makes its pseudo-headers.
pub(super) fn whole(host: &str, path: PathAndQuery) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(host.parse::<Authority>().ok()?);
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).ok()
}

fn judge_status(spec: &Check, answer: &Response<Incoming>) -> Result<(), String> {
    let status = answer.status();
    if spec.status.iter().any(|range| range.contains(status.as_u16())) {
        return Ok(());
    }
    let expected: Vec<String> = spec.status.iter().map(ToString::to_string).collect();
    Err(format!("GET {}: expected a status of {}, got {status}", spec.path, expected.join(", ")))
}

fn judge_body(pattern: &Pattern, bytes: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(bytes);
    if pattern.is_match(&text) {
        return Ok(());
    }
    let shown: String = text.chars().take(MOST_SHOWN).collect();
    let more = if shown.len() < text.len() { ".." } else { "" };
    Err(format!("expected a body that matches {:?}, got {shown:?}{more}", pattern.as_str()))
}

/// Says in an endpoint's logs who is asking.
pub(super) const USER_AGENT: &str = concat!("seaworthy/", env!("CARGO_PKG_VERSION"), " (check)");

/// What is searched for stands in the first 64 KiB, or nowhere: a page that is larger says more than how its server is.
const MOST_BODY: usize = 64 << 10;

/// So much of a wrong body stands in a message.
const MOST_SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::super::servers::{Web, asked, free_port, spec};

    #[tokio::test]
    async fn a_good_status_is_well_and_the_request_is_what_was_asked_for() {
        for protocol in ["http1", "http2"] {
            let web = Web::start(protocol, 204, "").await;
            let (spec, spoken) = spec(protocol, "kind = 'http'\npath = '/health?deep=1'\nhost = 'shop.test'");
            assert_eq!(asked(&spec, spoken, web.port).await, Ok(()));
            let seen = web.seen();
            assert_eq!(seen.path, "/health?deep=1");
            assert_eq!(seen.host, "shop.test");
            assert!(seen.agent.starts_with("seaworthy/"), "{}", seen.agent);
        }
    }

    #[tokio::test]
    async fn without_a_host_of_its_own_the_endpoint_is_named() {
        for protocol in ["http1", "http2"] {
            let web = Web::start(protocol, 200, "").await;
            let (spec, spoken) = spec(protocol, "kind = 'http'");
            assert_eq!(asked(&spec, spoken, web.port).await, Ok(()));
            assert_eq!(web.seen().host, format!("127.0.0.1:{}", web.port));
        }
    }

    #[tokio::test]
    async fn a_wrong_status_is_told_beside_the_right_ones() {
        for protocol in ["http1", "http2"] {
            let web = Web::start(protocol, 503, "").await;
            let (wrong, spoken) =
                spec(protocol, "kind = 'http'\npath = '/health'\nstatus = ['200-299', '404']");
            let error = asked(&wrong, spoken, web.port).await.unwrap_err();
            assert_eq!(error, "GET /health: expected a status of 200-299, 404, got 503 Service Unavailable");
            let (right, spoken) = spec(protocol, "kind = 'http'\nstatus = ['500-599']");
            assert_eq!(asked(&right, spoken, web.port).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn the_body_is_searched() {
        for protocol in ["http1", "http2"] {
            let web = Web::start(protocol, 200, r#"{"status": "degraded"}"#).await;
            let (wrong, spoken) = spec(protocol, "kind = 'http'\nbody = '\"status\": *\"ok\"'");
            let error = asked(&wrong, spoken, web.port).await.unwrap_err();
            let expected = "expected a body that matches \"\\\"status\\\": *\\\"ok\\\"\", got \"{\\\"status\\\": \\\"degraded\\\"}\"";
            assert_eq!(error, expected);
            let (right, spoken) = spec(protocol, "kind = 'http'\nbody = 'degraded|ok'");
            assert_eq!(asked(&right, spoken, web.port).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_body_is_read_no_further_than_it_is_searched() {
        let text = "x".repeat(super::MOST_BODY) + "needle";
        for protocol in ["http1", "http2"] {
            let web = Web::start(protocol, 200, &text).await;
            let (spec, spoken) = spec(protocol, "kind = 'http'\nbody = 'needle'");
            let error = asked(&spec, spoken, web.port).await.unwrap_err();
            assert!(error.ends_with("x\".."), "{error}");
            assert!(error.len() < 200, "{error}");
        }
    }

    #[tokio::test]
    async fn who_refuses_hangs_up_or_speaks_something_else_is_not_well() {
        let (http1, spoken) = spec("http1", "kind = 'http'");
        let error = asked(&http1, spoken, free_port()).await.unwrap_err();
        assert!(error.contains("got: Connection refused"), "{error}");
        for (protocol, said) in
            [("http1", "220 mail.test ESMTP\r\n"), ("http1", ""), ("http2", "HTTP/1.1 400 Bad\r\n\r\n")]
        {
            let port = Web::rude(said).await;
            let (spec, spoken) = spec(protocol, "kind = 'http'");
            let error = asked(&spec, spoken, port).await.unwrap_err();
            assert!(error.starts_with("expected an answer, got: "), "{error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_hangs_is_given_up_and_what_it_did_not_do_is_told() {
        let (http1, spoken) = spec("http1", "kind = 'http'\ntimeout = '50ms'");
        let error = asked(&http1, spoken, Web::silent().await).await.unwrap_err();
        assert_eq!(error, "expected an answer within 50ms, was still waiting for the head of the answer");
    }
}
