//! Real servers for the tests of checks.

use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use seaworthy_config::{Check, Config, Protocol};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tonic_health::server::HealthReporter;

use super::check;
use crate::full::Full;

/// The check that these lines of `[upstream.app.check]` configure, and the upstream's protocol.
pub(super) fn spec(protocol: &str, lines: &str) -> (Check, Protocol) {
    let text = format!(
        "[upstream.app]\nendpoints = ['http://127.0.0.1:1']\nprotocol = '{protocol}'\n[upstream.app.check]\n{lines}\n"
    );
    let mut config = Config::from_toml("test.toml", &text).unwrap();
    let upstream = config.upstreams.remove(0);
    (upstream.check.unwrap(), upstream.protocol)
}

/// Asks what listens on `port` of this machine.
pub(super) async fn asked(spec: &Check, protocol: Protocol, port: u16) -> Result<(), String> {
    LocalSet::new().run_until(check(spec, protocol, "127.0.0.1", port)).await
}

/// A port that nobody listens on.
pub(super) fn free_port() -> u16 {
    StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// What a server saw of a request.
#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) host: String,
    pub(super) agent: String,
}

/// A web server that gives everybody the same answer.
pub(super) struct Web {
    pub(super) port: u16,
    seen: Arc<Mutex<Seen>>,
}

impl Web {
    pub(super) async fn start(protocol: &str, status: u16, text: &str) -> Self {
        let (listener, port) = listen().await;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (noted, body) = (seen.clone(), Bytes::from(text.to_owned()));
        let is_http2 = protocol == "http2";
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (noted, body) = (noted.clone(), body.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    *noted.lock().unwrap() = note(&request);
                    let mut answer = Response::new(Full::from(body.clone()));
                    *answer.status_mut() = status.try_into().unwrap();
                    async { Ok::<_, Infallible>(answer) }
                });
                let io = TokioIo::new(stream);
                // A check hangs up as soon as it knows enough, which a server calls an error.
                tokio::spawn(async move {
                    if is_http2 {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        drop(builder.serve_connection(io, service).await);
                    } else {
                        drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await);
                    }
                });
            }
        });
        Self { port, seen }
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// The port of something that says this to everybody and hangs up.
    pub(super) async fn rude(said: &'static str) -> u16 {
        let (listener, port) = listen().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(said.as_bytes()).await.unwrap();
            }
        });
        port
    }

    /// The port of something that says nothing.
    pub(super) async fn silent() -> u16 {
        let (listener, port) = listen().await;
        tokio::spawn(async move {
            let mut streams = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                streams.push(stream);
            }
        });
        port
    }
}

/// A gRPC server with the standard health service, and what sets its state.
pub(super) async fn grpc() -> (u16, HealthReporter) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let (listener, port) = listen().await;
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (port, reporter)
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn note(request: &Request<Incoming>) -> Seen {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let host = request.uri().authority().map_or_else(|| text(header::HOST).to_owned(), ToString::to_string);
    Seen {
        path: request.uri().path_and_query().unwrap().to_string(),
        host,
        agent: text(header::USER_AGENT).to_owned(),
    }
}
