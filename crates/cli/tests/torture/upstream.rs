//! A service whose work has an effect, and which counts the effects of each key. It is slow now and then, and breaks off, and
//! fails.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::lots::Lots;

/// What the service knows of keys, which is what its path is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    /// Nothing: each request that it reads has an effect. The proxy is told never to repeat what may have had one.
    Naive,
    /// One effect for each key, and no request under a lower token than one that it has seen. The proxy is told to repeat.
    Knowing,
}

impl Kind {
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Naive => "/naive",
            Self::Knowing => "/knowing",
        }
    }

    fn of(path: &str) -> Self {
        if path == Self::Naive.path() { Self::Naive } else { Self::Knowing }
    }
}

/// One operation.
pub(crate) type Operation = (Kind, Arc<str>);

#[derive(Clone)]
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    runtime: Handle,
}

struct Shared {
    seed: u64,
    /// From now on it only answers.
    calm: AtomicBool,
    effects: AtomicU64,
    entries: Mutex<HashMap<Operation, Entry>>,
    /// The requests that are being worked on, by the life of the proxy that sent them.
    working: Mutex<BTreeMap<u32, usize>>,
}

/// What is known of an operation.
#[derive(Clone, Default)]
pub(crate) struct Entry {
    pub(crate) effects: u32,
    /// The requests, as they came: in which life of the proxy, and under which token.
    pub(crate) visits: Vec<(u32, u64)>,
    highest: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Answer,
    /// 500, and no effect.
    Fail,
    /// The connection is closed without an effect.
    LeaveBefore,
    /// The same after the effect.
    LeaveAfter,
    /// The same in the middle of the answer.
    LeaveWithin,
    SlowBefore(Duration),
    SlowAfter(Duration),
}

impl Upstream {
    pub(crate) fn new(seed: u64, runtime: Handle) -> Self {
        let shared = Shared {
            seed,
            calm: AtomicBool::new(false),
            effects: AtomicU64::new(0),
            entries: Mutex::default(),
            working: Mutex::default(),
        };
        Self { shared: Arc::new(shared), runtime }
    }

    /// An address for one life of the proxy, so that what comes late from one that was killed is known as its own.
    pub(crate) fn serve(&self, life: u32) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = shared.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| shared.clone().answer(life, request));
                    // That connections break is the point.
                    let _broken = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        address
    }

    pub(crate) fn calm_down(&self) {
        self.shared.calm.store(true, Ordering::SeqCst);
    }

    /// How many effects there were.
    pub(crate) fn effects(&self) -> u64 {
        self.shared.effects.load(Ordering::SeqCst)
    }

    /// How many requests of this life are being worked on.
    pub(crate) fn working(&self, life: u32) -> usize {
        self.shared.working.lock().unwrap().get(&life).copied().unwrap_or(0)
    }

    /// How many are, of whatever life.
    pub(crate) fn all_working(&self) -> usize {
        self.shared.working.lock().unwrap().values().sum()
    }

    pub(crate) fn entry(&self, operation: &Operation) -> Entry {
        self.shared.entries.lock().unwrap().get(operation).cloned().unwrap_or_default()
    }
}

impl Shared {
    async fn answer(
        self: Arc<Self>,
        life: u32,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, Left> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let key: Arc<str> =
            header("idempotency-key").expect("the proxy passes the key on").trim_matches('"').into();
        let token = header("x-seaworthy-fencing-token").expect("the proxy tells its token").parse().unwrap();
        let operation = (Kind::of(request.uri().path()), key);
        request.into_body().collect().await.map_err(|_| Left)?;
        let working = Working::begin(&self, life);
        let visit = {
            let mut entries = self.entries.lock().unwrap();
            let visits = &mut entries.entry(operation.clone()).or_default().visits;
            visits.push((life, token));
            visits.len()
        };
        let fate = self.fate(&operation, visit);
        let shared = self.clone();
        // A service goes on when who asked is gone.
        let work = tokio::spawn(async move {
            let answer = shared.work(&operation, token, fate).await;
            drop(working);
            answer
        });
        work.await.unwrap()
    }

    async fn work(&self, operation: &Operation, token: u64, fate: Fate) -> Result<Response<Answer>, Left> {
        match fate {
            Fate::Fail => {
                return Ok(answer(StatusCode::INTERNAL_SERVER_ERROR, Bytes::from("out of order"), false));
            }
            Fate::LeaveBefore => return Err(Left),
            Fate::SlowBefore(time) => sleep(time).await,
            _ => {}
        }
        let Some(number) = self.effect(operation, token) else {
            return Ok(answer(StatusCode::PRECONDITION_FAILED, Bytes::from("overtaken"), false));
        };
        match fate {
            Fate::LeaveAfter => return Err(Left),
            Fate::SlowAfter(time) => sleep(time).await,
            _ => {}
        }
        let receipt = Receipt::of(operation, number);
        let mut response = answer(receipt.status, receipt.body, fate == Fate::LeaveWithin);
        for (name, value) in receipt.headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        Ok(response)
    }

    /// The number of the effect that the request has, or has had; `None` if it has none, as it was overtaken.
    fn effect(&self, operation: &Operation, token: u64) -> Option<u32> {
        let mut entries = self.entries.lock().unwrap();
        let entry = entries.entry(operation.clone()).or_default();
        if operation.0 == Kind::Knowing {
            if token < entry.highest {
                return None;
            }
            entry.highest = token;
            if entry.effects > 0 {
                return Some(entry.effects);
            }
        }
        entry.effects += 1;
        self.effects.fetch_add(1, Ordering::SeqCst);
        Some(entry.effects)
    }

    fn fate(&self, (kind, key): &Operation, visit: usize) -> Fate {
        if self.calm.load(Ordering::SeqCst) {
            return Fate::Answer;
        }
        let mut lots = Lots::new(self.seed, &format!("{}/{key}/{visit}", kind.path()));
        let fate = lots.below(100);
        let time = Duration::from_millis(5 + lots.below(150));
        match fate {
            0..5 => Fate::Fail,
            5..8 => Fate::LeaveBefore,
            8..12 => Fate::LeaveAfter,
            12..15 => Fate::LeaveWithin,
            15..20 => Fate::SlowBefore(time),
            20..25 => Fate::SlowAfter(time),
            // The proxy has given up by then.
            25 => Fate::SlowBefore(TOO_SLOW),
            26 => Fate::SlowAfter(TOO_SLOW),
            _ => Fate::Answer,
        }
    }
}

/// The answer to one effect of an operation: the same whenever it is written.
#[derive(PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) status: StatusCode,
    pub(crate) headers: [(&'static str, String); 3],
    pub(crate) body: Bytes,
}

impl Receipt {
    pub(crate) fn of((kind, key): &Operation, number: u32) -> Self {
        let path = kind.path();
        let mut lots = Lots::new(0, key);
        let padding = match lots.below(100) {
            // Longer than what a store keeps in one piece (64 KiB), and than two of them.
            0 => 60_000 + lots.below(150_000),
            1..10 => lots.below(16_384),
            _ => lots.below(64),
        };
        let padding = "x".repeat(usize::try_from(padding).unwrap());
        Self {
            status: if lots.percent(50) { StatusCode::OK } else { StatusCode::CREATED },
            headers: [
                ("content-type", "application/json".to_owned()),
                ("etag", format!("\"{key}-{number}\"")),
                ("location", format!("{path}/{key}")),
            ],
            body: format!(r#"{{"path":"{path}","key":"{key}","effect":{number},"padding":"{padding}"}}"#)
                .into(),
        }
    }
}

/// Counts a request while it is worked on.
struct Working(Arc<Shared>, u32);

impl Working {
    fn begin(shared: &Arc<Shared>, life: u32) -> Self {
        *shared.working.lock().unwrap().entry(life).or_default() += 1;
        Self(shared.clone(), life)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(count) = self.0.working.lock().unwrap().get_mut(&self.1) {
            *count -= 1;
        }
    }
}

fn answer(status: StatusCode, body: Bytes, breaks: bool) -> Response<Answer> {
    let length = body.len() as u64;
    let mut response = Response::new(Answer { body, length, breaks });
    *response.status_mut() = status;
    response
}

/// A body, or the first half of one.
struct Answer {
    body: Bytes,
    length: u64,
    breaks: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Left;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Left>>> {
        let body = std::mem::take(&mut self.body);
        Poll::Ready(match (body.is_empty(), self.breaks) {
            (true, true) => Some(Err(Left)),
            (true, false) => None,
            (false, true) => Some(Ok(Frame::data(body.slice(..body.len() / 2)))),
            (false, false) => Some(Ok(Frame::data(body))),
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// The service leaves the connection.
#[derive(Debug)]
struct Left;

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the service has left")
    }
}

impl std::error::Error for Left {}

/// Longer than the deadline that the proxy was told.
const TOO_SLOW: Duration = Duration::from_millis(1500);
