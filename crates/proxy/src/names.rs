//! The header names that the proxy gives a meaning to, each spelt once.

use http::HeaderName;

/// Identifies the call in every log, on every hop. Kept if the caller sends one that is fit to print, made otherwise.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context, passed through; made if absent, so that logs of all hops can be joined.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `1` in a request asks for [`WHY`] in the response, which then tells what was decided.
pub(crate) const WHY: HeaderName = HeaderName::from_static("x-seaworthy-why");
/// Marks an answer that is not what was asked for but better than none; its value says what it is.
pub(crate) const DEGRADED: HeaderName = HeaderName::from_static("x-seaworthy-degraded");
/// How much a call matters: `critical-plus`, `critical`, `sheddable-plus` or `sheddable`. Passed on, so that every hop sheds the same calls first.
pub(crate) const CRITICALITY: HeaderName = HeaderName::from_static("x-seaworthy-criticality");
/// Which attempt of its call a request is, from 2 on. A hop that receives it does not retry or hedge: the hop before it does,
/// and two hops of three attempts each would be nine.
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("x-seaworthy-attempt");
/// How many milliseconds the sender still waits for the answer.
pub(crate) const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-seaworthy-timeout-ms");
/// How long the sender still waits, as gRPC spells it.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The outcome of a gRPC call.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// What gRPC says about a failure.
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The addresses that the request came through.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How the caller reached the first proxy.
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that the caller asked for.
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// A hop-by-hop header from before HTTP/1.1 that some clients still send.
pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// The like, for proxies.
pub(crate) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// HTTP/2's upgrade header, which concerns one hop.
pub(crate) const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// What the proxy calls itself in `Via`.
pub(crate) const VIA: &str = "1.1 seaworthy";
