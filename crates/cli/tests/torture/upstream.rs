//! A service whose work has an effect, and which counts the effects of each key. It is slow now and then, and breaks off, and
//! fails, and some of its answers come drop by drop.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::answer::{Answer, Left};
use crate::journal::Journal;
use crate::lots::Lots;
use crate::stage::DEADLINE;

/// The kinds of operations: what the service knows of keys, and what the proxy was told about it. It is what the route is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    /// The service knows nothing: each request that it reads has an effect. The proxy is told never to repeat what may have had
    /// one.
    Naive,
    /// The same, and who asks while another is carried out waits for its answer.
    Waiting,
    /// One effect for each key, and no request under a lower token than one that it has seen. The proxy is told to repeat.
    Knowing,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Naive, Self::Waiting, Self::Knowing];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Waiting => "waiting",
            Self::Knowing => "knowing",
        }
    }

    /// Of one in a hundred. Most are of services that know nothing: nothing but the proxy keeps those from a second effect.
    pub(crate) const fn drawn(percent: u64) -> Self {
        match percent {
            0..40 => Self::Naive,
            40..65 => Self::Waiting,
            _ => Self::Knowing,
        }
    }

    /// Whether the service knows keys.
    pub(crate) const fn knows(self) -> bool {
        matches!(self, Self::Knowing)
    }

    fn of(path: &str) -> Self {
        let named = Self::ALL.into_iter().find(|kind| path.trim_start_matches('/') == kind.name());
        named.expect("the proxy passes the path on")
    }
}

/// One operation.
pub(crate) type Operation = (Kind, Arc<str>);

#[derive(Clone)]
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    runtime: Handle,
}

pub(crate) struct Shared {
    seed: u64,
    journal: Arc<Journal>,
    /// From now on it only answers.
    calm: AtomicBool,
    effects: AtomicU64,
    entries: Mutex<HashMap<Operation, Entry>>,
    /// What is being worked on, whether or not anybody waits for it yet.
    working: AtomicUsize,
    /// The requests that the proxy waits for, by their numbers.
    open: Mutex<BTreeMap<u64, Awaited>>,
}

/// A request that is not answered to its end.
struct Awaited {
    operation: Operation,
    life: u32,
    since: Instant,
}

/// What is known of an operation.
#[derive(Clone, Default)]
pub(crate) struct Entry {
    pub(crate) effects: u32,
    pub(crate) visits: Vec<Visit>,
    highest: u64,
}

/// A request, as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    /// The life of the proxy that sent it.
    pub(crate) life: u32,
    pub(crate) token: u64,
    at: Instant,
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
    /// The answer's head comes at once, and its body piece by piece.
    Drip(Duration),
}

impl Upstream {
    pub(crate) fn new(seed: u64, runtime: Handle, journal: Arc<Journal>) -> Self {
        let shared = Shared {
            seed,
            journal,
            calm: AtomicBool::new(false),
            effects: AtomicU64::new(0),
            entries: Mutex::default(),
            working: AtomicUsize::new(0),
            open: Mutex::default(),
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

    /// How many operations it works on, or answers, for one of these lives that waits for it: after the deadline it passes on at most
    /// what it no longer keeps.
    pub(crate) fn in_flight(&self, lives: &[u32]) -> usize {
        let open = self.shared.open.lock().unwrap();
        open.values().filter(|at| lives.contains(&at.life) && at.since.elapsed() < DEADLINE).count()
    }

    /// Whether a proxy waits for it.
    pub(crate) fn is_at(&self, operation: &Operation) -> bool {
        self.shared.open.lock().unwrap().values().any(|at| at.operation == *operation)
    }

    /// Whether it works on anything, for whomever.
    pub(crate) fn is_working(&self) -> bool {
        self.shared.working.load(Ordering::SeqCst) > 0
    }

    /// A new operation of this kind whose first answer takes longer than the lease of who reads it.
    pub(crate) fn one_that_outlasts_a_lease(&self, kind: Kind) -> Operation {
        let mut operations = (0..).map(|number| (kind, Arc::from(format!("long-{number}"))));
        let outlasts = |operation: &Operation| {
            self.entry(operation).visits.is_empty() && self.shared.fate(operation, 1) == Fate::Drip(TOO_LONG)
        };
        operations.find(outlasts).expect("one of a hundred is")
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
        let open = Open::begin(&self, &operation, life, token);
        let fate = self.fate(&operation, open.visit);
        let which = format!("visit {} (proxy {life}, token {token}, {fate:?})", open.visit);
        self.journal.note(&operation, which);
        self.working.fetch_add(1, Ordering::SeqCst);
        // A service goes on when who asked is gone.
        let work = tokio::spawn(async move {
            let receipt = self.work(&operation, token, fate).await;
            self.working.fetch_sub(1, Ordering::SeqCst);
            receipt
        });
        let receipt = work.await.unwrap()?;
        let body = match fate {
            Fate::LeaveWithin => Answer::that_breaks(receipt.body, open),
            Fate::Drip(time) => Answer::that_drips(receipt.body, time, open),
            _ => Answer::new(receipt.body, open),
        };
        let mut response = Response::new(body);
        *response.status_mut() = receipt.status;
        for (name, value) in receipt.headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        Ok(response)
    }

    async fn work(&self, operation: &Operation, token: u64, fate: Fate) -> Result<Receipt, Left> {
        match fate {
            Fate::Fail => return Ok(Receipt::refused(StatusCode::INTERNAL_SERVER_ERROR, "out of order")),
            Fate::LeaveBefore => return Err(Left),
            Fate::SlowBefore(time) => sleep(time).await,
            _ => {}
        }
        let Some(number) = self.effect(operation, token) else {
            return Ok(Receipt::refused(StatusCode::PRECONDITION_FAILED, "overtaken"));
        };
        match fate {
            Fate::LeaveAfter => return Err(Left),
            Fate::SlowAfter(time) => sleep(time).await,
            _ => {}
        }
        Ok(Receipt::of(operation, number))
    }

    /// The number of the effect that the request has, or has had; `None` if it has none, as it was overtaken.
    fn effect(&self, operation: &Operation, token: u64) -> Option<u32> {
        let mut entries = self.entries.lock().unwrap();
        let entry = entries.entry(operation.clone()).or_default();
        if operation.0.knows() {
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
        self.journal.note(operation, format!("effect {} (token {token})", entry.effects));
        Some(entry.effects)
    }

    fn fate(&self, (kind, key): &Operation, visit: usize) -> Fate {
        if self.calm.load(Ordering::SeqCst) {
            return Fate::Answer;
        }
        let mut lots = Lots::new(self.seed, &format!("{}/{key}/{visit}", kind.name()));
        let fate = lots.below(100);
        let time = Duration::from_millis(5 + lots.below(150));
        match fate {
            0..4 => Fate::Fail,
            4..6 => Fate::LeaveBefore,
            6..8 => Fate::LeaveAfter,
            8..10 => Fate::LeaveWithin,
            10..15 => Fate::SlowBefore(time),
            15..20 => Fate::SlowAfter(time),
            20..28 => Fate::Drip(2 * time),
            // The proxy has given up by then.
            28 => Fate::SlowBefore(TOO_SLOW),
            29 => Fate::SlowAfter(TOO_SLOW),
            30 => Fate::Drip(TOO_LONG),
            _ => Fate::Answer,
        }
    }
}

/// The answer to one effect of an operation: the same whenever it is written.
#[derive(PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Receipt {
    fn refused(status: StatusCode, why: &'static str) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::from(why) }
    }

    pub(crate) fn of((kind, key): &Operation, number: u32) -> Self {
        let name = kind.name();
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
            headers: vec![
                ("content-type", "application/json".to_owned()),
                ("etag", format!("\"{key}-{number}\"")),
                ("location", format!("/{name}/{key}")),
            ],
            body: format!(r#"{{"path":"/{name}","key":"{key}","effect":{number},"padding":"{padding}"}}"#)
                .into(),
        }
    }
}

/// Counts a request for as long as the proxy waits for its answer, or reads it.
pub(crate) struct Open {
    shared: Arc<Shared>,
    operation: Operation,
    token: u64,
    /// Which request of its operation it is, from 1 on.
    visit: usize,
    number: u64,
}

impl Open {
    fn begin(shared: &Arc<Shared>, operation: &Operation, life: u32, token: u64) -> Self {
        let mut entries = shared.entries.lock().unwrap();
        let visits = &mut entries.entry(operation.clone()).or_default().visits;
        visits.push(Visit { life, token, at: Instant::now() });
        let visit = visits.len();
        drop(entries);
        let mut open = shared.open.lock().unwrap();
        let number = open.last_key_value().map_or(0, |(last, _)| last + 1);
        open.insert(number, Awaited { operation: operation.clone(), life, since: Instant::now() });
        drop(open);
        Self { shared: shared.clone(), operation: operation.clone(), token, visit, number }
    }

    /// The answer to it is still being read. That must not be while the operation is carried out under a higher token, as then two
    /// run at once.
    pub(crate) fn goes_on(&self) {
        let overtaken = |visit: &&Visit| visit.token > self.token && visit.at.elapsed() > NOTICED;
        let entries = self.shared.entries.lock().unwrap();
        let entry = entries.get(&self.operation).expect("it was begun");
        let by = entry.visits.iter().find(overtaken).copied();
        drop(entries);
        if let Some(Visit { life, token, .. }) = by {
            let what = format!(
                "is carried out by proxy {life} under token {token} while the answer to token {} is still read",
                self.token
            );
            self.shared.journal.violation(&self.operation, what);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.open.lock().unwrap().remove(&self.number);
    }
}

/// Longer than the deadline that the proxy was told.
const TOO_SLOW: Duration = Duration::from_millis(1500);
/// Longer than its lease, by so much that others see it end meanwhile.
const TOO_LONG: Duration = Duration::from_millis(5500);
/// Within this the service has noticed that a connection was closed before another took over, on a machine that has much else to
/// do. Whoever does not close it reads on for longer.
const NOTICED: Duration = Duration::from_secs(1);
