//! What operators see and can do, on an address and a thread of its own, so that it answers however busy the workers are.
//!
//! | method and path | answer |
//! |---|---|
//! | `GET /health/live` | 200 as long as the process answers |
//! | `GET /health/ready` | 200, or 503 before its endpoints are known and from the moment it drains |
//! | `GET /health/deep` | each upstream, each worker, and the head-room of the process |
//! | `GET /metrics` | Prometheus text |
//! | `GET /api/state` | every policy's state, JSON |
//! | `GET /api/regions` | how the regions are, and which are evacuated |
//! | `GET /api/processes` | how the supervised processes are |
//! | `GET /api/keys` | a page of the idempotency keys that are kept; `from`, `most`, `place`, `phase` |
//! | `GET /api/key` | one of them: `place`, `client`, `key` |
//! | `GET /api/releases` | which keys operators set free, newest first; `most` |
//! | `POST /api/breaker` | `{"upstream": .., "endpoint": .., "force": "open" \| "closed" \| "none"}`; all endpoints without one |
//! | `POST /api/mode` | `{"upstream": .., "policy": .., "mode": "enforce" \| "observe" \| "off"}` |
//! | `POST /api/evacuate`, `/api/restore` | `{"region": .., "over_ms": .., "force": false, "reason": ".."}` |
//! | `POST /api/restart` | `{"process": ..}` |
//! | `POST /api/keys/release` | `{"place": .., "client": .., "key": .., "token": .., "reason": ".."}` |
//!
//! Health is told as `application/health+json`. Whoever reaches the address can steer the proxy. So that a web page which an operator has open can't, by a name that
//! resolves to this address or by a form: the `Host` must be an address or `localhost`, an `Origin` must be this one, and
//! a `POST` must be JSON, which a page can't send across origins without being asked.

mod keys;
mod metrics;
mod overload;
mod own;
mod standing;
mod state;
mod steer;

use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use seaworthy::health::{self, HealthRegistry, Report};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use crate::full::Full;
use crate::keeper::{Order, What};
use crate::proxy::{Error, Stage, runtime};
use crate::site::Site;

/// Answers operators until everything is over.
pub(crate) fn serve(
    site: Arc<Site>,
    listener: TcpListener,
    mut stage: watch::Receiver<Stage>,
) -> Result<(), Error> {
    runtime()?.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Thread)?;
        let accepting = accept(site, listener);
        tokio::select! {
            () = accepting => {}
            // Draining proxies still tell how they are.
            _ = stage.wait_for(|stage| *stage == Stage::Over) => {}
        }
        Ok(())
    })
}

async fn accept(site: Arc<Site>, listener: tokio::net::TcpListener) {
    let (health, probe) = own::registry(&site);
    tokio::task::spawn_local(probe);
    let seats = Arc::new(tokio::sync::Semaphore::new(MOST_OPERATORS));
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let (site, health) = (site.clone(), health.clone());
        tokio::task::spawn_local(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            let service = service_fn(|request| answer(&site, &health, request));
            // What went wrong on the connection, its other end knows.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            drop(seat);
        });
    }
}

async fn answer(
    site: &Site,
    health: &HealthRegistry,
    request: Request<Incoming>,
) -> Result<Response<Full>, Infallible> {
    let (parts, body) = request.into_parts();
    if let Err(reason) = is_from_here(&parts.headers) {
        return Ok(failure(StatusCode::FORBIDDEN, reason));
    }
    let path = parts.uri.path();
    let Some((_, takes)) = PATHS.iter().find(|(known, _)| *known == path) else {
        return Ok(failure(
            StatusCode::NOT_FOUND,
            "there is nothing here; see /metrics, /health/ready, /api/state",
        ));
    };
    let method = if parts.method == Method::HEAD { &Method::GET } else { &parts.method };
    if method != takes {
        return Ok(failure(StatusCode::METHOD_NOT_ALLOWED, "this path has another method"));
    }
    if method == Method::GET {
        return Ok(show(site, health, path, parts.uri.query().unwrap_or("")).await);
    }
    Ok(match read_json(&parts.headers, body).await {
        Ok(order) if path == "/api/keys/release" => told_of_keys(keys::release(site, &order).await),
        Ok(order) => told(steer::obey(site, path, &order).await),
        Err((status, reason)) => failure(status, reason),
    })
}

async fn show(site: &Site, health: &HealthRegistry, path: &str, query: &str) -> Response<Full> {
    match path {
        "/health/live" => report(&health.live()),
        "/health/ready" => {
            health.set_serving(site.serving.load(Ordering::Acquire));
            report(&health.ready().await)
        }
        "/health/deep" => report(&health.deep().await),
        "/metrics" => text("text/plain; version=0.0.4; charset=utf-8", metrics::render(site)),
        "/api/regions" => told(ask(site, What::Regions).await),
        "/api/processes" => told(ask(site, What::Processes).await),
        "/api/keys" | "/api/key" | "/api/releases" => told_of_keys(keys::show(site, path, query).await),
        _ => json_answer(&state::render(site)),
    }
}

/// What the keeper has to say.
///
/// # Errors
/// Why it can't.
pub(crate) async fn ask(site: &Site, what: What) -> Result<Value, String> {
    let (reply, answer) = oneshot::channel();
    let gone = |()| "the proxy is stopping".to_owned();
    site.orders.send(Order { what, reply }).map_err(|_| gone(()))?;
    answer.await.map_err(|_| gone(()))?
}

fn told(result: Result<Value, String>) -> Response<Full> {
    match result {
        Ok(value) => json_answer(&value),
        Err(reason) => failure(StatusCode::UNPROCESSABLE_ENTITY, &reason),
    }
}

fn told_of_keys(result: Result<Value, (StatusCode, String)>) -> Response<Full> {
    match result {
        Ok(value) => json_answer(&value),
        Err((status, reason)) => failure(status, &reason),
    }
}

fn report(report: &Report) -> Response<Full> {
    let mut response = text(health::MEDIA_TYPE, format!("{}\n", report.to_json()));
    *response.status_mut() =
        StatusCode::from_u16(report.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// Whether a request can't have been made up by a page from elsewhere.
fn is_from_here(headers: &HeaderMap) -> Result<(), &'static str> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.split(':').next().unwrap_or(""),
    };
    if !name.eq_ignore_ascii_case("localhost") && name.parse::<IpAddr>().is_err() {
        return Err("the Host must be localhost or an address");
    }
    match headers.get(header::ORIGIN) {
        Some(origin) if origin.as_bytes() != format!("http://{host}").as_bytes() => {
            Err("the Origin is another one")
        }
        _ => Ok(()),
    }
}

async fn read_json(
    headers: &HeaderMap,
    mut body: Incoming,
) -> Result<serde_json::Value, (StatusCode, &'static str)> {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if !kind.starts_with(b"application/json") {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json"));
    }
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| (StatusCode::BAD_REQUEST, "the body broke off"))?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if bytes.len() > LONGEST_ORDER {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"));
        }
    }
    serde_json::from_slice(&bytes).map_err(|_| (StatusCode::BAD_REQUEST, "the body is not JSON"))
}

fn text(kind: &'static str, body: String) -> Response<Full> {
    let mut response = Response::new(Full::from(Bytes::from(body)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

fn json_answer(value: &serde_json::Value) -> Response<Full> {
    text("application/json", format!("{value:#}\n"))
}

fn failure(status: StatusCode, detail: &str) -> Response<Full> {
    let title = status.canonical_reason().unwrap_or("Error");
    let mut response = text(
        "application/problem+json",
        format!("{}\n", json!({"title": title, "status": status.as_u16(), "detail": detail})),
    );
    *response.status_mut() = status;
    response
}

/// Every path, and the method that it takes.
const PATHS: [(&str, Method); 16] = [
    ("/health/live", Method::GET),
    ("/health/ready", Method::GET),
    ("/health/deep", Method::GET),
    ("/metrics", Method::GET),
    ("/api/state", Method::GET),
    ("/api/regions", Method::GET),
    ("/api/processes", Method::GET),
    ("/api/keys", Method::GET),
    ("/api/key", Method::GET),
    ("/api/releases", Method::GET),
    ("/api/breaker", Method::POST),
    ("/api/mode", Method::POST),
    ("/api/evacuate", Method::POST),
    ("/api/restore", Method::POST),
    ("/api/restart", Method::POST),
    ("/api/keys/release", Method::POST),
];
/// Connections of operators at a time; more wait.
const MOST_OPERATORS: usize = 64;
/// How long an operator's connection may take for a head.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when accepting fails.
const BREATH: Duration = Duration::from_millis(100);
/// Orders are a few words.
const LONGEST_ORDER: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(host: &'static str, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        is_from_here(&headers).is_ok()
    }

    #[test]
    fn names_that_could_be_rebound_are_refused() {
        assert!(judge("localhost:9901", None) && judge("127.0.0.1:9901", None) && judge("[::1]:9901", None));
        assert!(
            !judge("evil.example:9901", None) && !judge("", None) && !judge("localhost.evil.example", None)
        );
    }

    #[test]
    fn pages_from_elsewhere_are_refused() {
        assert!(judge("localhost:9901", Some("http://localhost:9901")));
        assert!(!judge("localhost:9901", Some("http://evil.example")));
        assert!(!judge("localhost:9901", Some("null")));
        assert!(!judge("localhost:9901", Some("http://localhost:8080")));
    }
}
