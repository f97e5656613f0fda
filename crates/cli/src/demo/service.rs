//! One instance of one of the shop's services, as the demo's child process.
//!
//! It answers `GET /<name>/...` and `POST /<name>` after a small seeded service time; the one named `shop` has the shop's page,
//! and the one named `flags` answers for feature flags.
//! Its stdin is its leash and its
//! control in one: a line changes its mood (`slow 50`, `fail 0.2`, `well`), and the end of the stream ends the process,
//! so that it can't outlive whoever started it, however that one ended.

use std::convert::Infallible;
use std::io::{self, BufRead};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use seaworthy_core::{Rng, Seeded};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::children::{FLAG_SERVICE, STOREFRONT};
use super::{goods, ports};
use crate::failure::Failure;
use crate::out;

/// One instance of a service of the demo's shop. Started by `seaworthy demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The service's name, which is the first part of every path that it answers
    #[arg(long)]
    name: String,
    /// Which instance this is, from 1
    #[arg(long)]
    instance: usize,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: std::net::IpAddr,
    /// The port; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Don't end with stdin, nor obey it
    #[arg(long)]
    unleashed: bool,
    /// Be killed when the thread that started it ends, even while stopped
    #[arg(long)]
    with_parent: bool,
    /// What service times and failures are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How far away it is: what the way there and back adds to every answer, such as 20ms
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = crate::length::any)]
    distance: Duration,
}

/// Serves until stdin ends.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    if args.with_parent {
        end_with_parent().map_err(|error| Failure::because("could not be bound to its parent", error))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("could not start the runtime", error))?;
    runtime.block_on(serve(args))
}

/// Has the kernel kill this process when the thread that started it ends (prctl(2), `PR_SET_PDEATHSIG`). Should that have
/// happened before, the end of stdin says so.
#[cfg(target_os = "linux")]
fn end_with_parent() -> nix::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
}

/// Elsewhere the end of stdin must do, and that the kernel wakes and hangs up stopped orphans.
#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> nix::Result<()> {
    Ok(())
}

/// What the handshake's line begins with; the address follows.
pub(super) const READY: &str = "ready ";

async fn serve(args: &Args) -> Result<(), Failure> {
    let listener = ports::listen(args.host, args.port)
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        })
        .map_err(|error| Failure::because(format!("could not listen on port {}", args.port), error))?;
    let address = listener.local_addr().map_err(|error| Failure::because("has no address", error))?;
    let instance = Arc::new(Instance::new(args));
    if !args.unleashed {
        obey_stdin(Arc::clone(&instance));
    }
    out::line(&format!("{READY}{address}"))?;

    loop {
        // A failed accept concerns one connection (or a moment without file descriptors), not the service.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // An answer is one small write: waiting to fill a packet would add 40 ms and tell nothing about resilience.
        let _ = stream.set_nodelay(true);
        let instance = Arc::clone(&instance);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&instance), request));
            // A connection that breaks is the client's to notice.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Reads the mood from stdin, in a thread of its own, and ends the process when stdin ends.
fn obey_stdin(instance: Arc<Instance>) {
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            instance.set_mood(&line);
        }
        std::process::exit(0);
    });
}

struct Instance {
    name: String,
    number: usize,
    distance: Duration,
    inner: Mutex<Inner>,
}

struct Inner {
    rng: Seeded,
    mood: Mood,
    orders: u64,
}

/// What the instance suffers from.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Mood {
    /// The service time is multiplied by this.
    slow: u32,
    /// The share of calls that end in an error.
    fail: f64,
}

impl Mood {
    const WELL: Self = Self { slow: 1, fail: 0.0 };

    /// `self` after the command in `line`; a command that it does not know changes nothing.
    fn after(self, line: &str) -> Self {
        match line.trim().split_once(' ') {
            Some(("slow", times)) => times.parse().map_or(self, |slow| Self { slow, ..self }),
            Some(("fail", share)) => share.parse().map_or(self, |fail| Self { fail, ..self }),
            None if line.trim() == "well" => Self::WELL,
            _ => self,
        }
    }
}

impl Instance {
    fn new(args: &Args) -> Self {
        let inner = Inner { rng: Seeded::new(args.seed), mood: Mood::WELL, orders: 0 };
        let (name, distance) = (args.name.clone(), args.distance);
        Self { name, number: args.instance, distance, inner: Mutex::new(inner) }
    }

    fn set_mood(&self, line: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.mood = inner.mood.after(line);
    }

    /// How long the next call takes, and whether it fails.
    fn next(&self) -> (Duration, bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = inner.rng.between(QUICKEST, SLOWEST) * inner.mood.slow;
        let fails = inner.rng.unit() < inner.mood.fail;
        (takes, fails)
    }

    /// `answer`, with who gave it.
    fn signed(&self, mut answer: Value) -> String {
        answer["service"] = self.name.as_str().into();
        answer["instance"] = self.number.into();
        answer.to_string()
    }

    fn next_order(&self) -> u64 {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.orders += 1;
        inner.orders
    }
}

async fn answer(
    instance: Arc<Instance>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    // A wait of nothing would still wait for the timer's next millisecond.
    if !instance.distance.is_zero() {
        tokio::time::sleep(instance.distance).await;
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if path == "/health" {
        return Ok(reply(StatusCode::OK, "{\"status\":\"ready\"}".to_owned()));
    }
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (name, below) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if name != first_part(&instance.name) {
        return Ok(reply(StatusCode::NOT_FOUND, "{\"error\":\"no such thing in this shop\"}".to_owned()));
    }
    if Limited::new(body, LARGEST_BODY).collect().await.is_err() {
        return Ok(reply(StatusCode::BAD_REQUEST, "{\"error\":\"unreadable body\"}".to_owned()));
    }
    let (takes, fails) = instance.next();
    tokio::time::sleep(takes).await;
    if fails {
        return Ok(reply(StatusCode::INTERNAL_SERVER_ERROR, "{\"error\":\"out of luck\"}".to_owned()));
    }
    if instance.name == STOREFRONT && below.is_empty() {
        return Ok(page());
    }
    if instance.name == FLAG_SERVICE {
        return Ok(flag(below));
    }
    Ok(match head.method {
        Method::POST => {
            reply(StatusCode::CREATED, instance.signed(json!({ "placed": instance.next_order() })))
        }
        _ => reply(StatusCode::OK, instance.signed(said(&instance.name, below))),
    })
}

/// What the paths of a service begin with: its name, unless it speaks a protocol that says otherwise.
fn first_part(service: &str) -> &str {
    if service == FLAG_SERVICE { "ofrep" } else { service }
}

/// A flag's value, as the protocol has it (OFREP 0.2): the new checkout is for everybody, and there is nothing else.
fn flag(below: &str) -> Response<Full<Bytes>> {
    if below == "v1/evaluate/flags/new-checkout" {
        let on = json!({ "key": "new-checkout", "value": true, "variant": "on", "reason": "STATIC" });
        return reply(StatusCode::OK, on.to_string());
    }
    let unknown =
        json!({ "errorCode": "FLAG_NOT_FOUND", "errorDetails": "the shop has one flag, new-checkout" });
    reply(StatusCode::NOT_FOUND, unknown.to_string())
}

/// What a service says to a question.
fn said(service: &str, below: &str) -> Value {
    // Items are numbers, so nothing that a client sends is repeated in the answer unread.
    let item: u64 = below.parse().unwrap_or(0);
    match service {
        STOREFRONT => goods::popular(),
        "recommendations" => goods::for_visitor(item),
        "prices" => goods::prices(item),
        _ => json!({ "item": item }),
    }
}

fn page() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(PAGE.as_bytes())));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}

fn reply(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The shop's page: one file that asks for everything else itself.
const PAGE: &str = include_str!("shop.html");
/// Service times are drawn evenly from 1 to 5 ms: small enough that fifty times as much (50 to 250 ms) is slow and not
/// yet lost, and waiting rather than computing, so that twenty-one processes fit on two cores.
const QUICKEST: Duration = Duration::from_millis(1);
/// See [`QUICKEST`].
const SLOWEST: Duration = Duration::from_millis(5);
/// An order is a few bytes; more is a mistake.
const LARGEST_BODY: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mood_adds_up_until_it_is_well_again() {
        let slow = Mood::WELL.after("slow 50\n");
        assert_eq!(slow, Mood { slow: 50, fail: 0.0 });
        let both = slow.after("fail 0.2");
        assert_eq!(both, Mood { slow: 50, fail: 0.2 });
        assert_eq!(both.after("nonsense"), both);
        assert_eq!(both.after("slow much"), both);
        assert_eq!(both.after("well"), Mood::WELL);
    }
}
