//! Clients that ask for the same things again and again, at once and after failures, and believe what they were told.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::PATIENCE;
use crate::lots::Lots;
use crate::upstream::{Kind, Operation, Receipt};

/// How many there are.
const CLIENTS: usize = 64;

/// All of them.
pub(crate) struct Clients {
    pub(crate) crowd: Arc<Crowd>,
    tasks: Vec<JoinHandle<()>>,
}

/// What they share.
pub(crate) struct Crowd {
    seed: u64,
    /// Where the proxy is.
    address: watch::Receiver<SocketAddr>,
    stop: AtomicBool,
    known: Mutex<Known>,
    /// The requests that wait for their answers.
    pub(crate) awaiting: AtomicUsize,
    /// The requests that were sent and whose answers never came, or not whole.
    pub(crate) broken: AtomicU64,
    statuses: Mutex<BTreeMap<String, u64>>,
    violations: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Known {
    /// Every operation that was asked for, in order.
    asked: Vec<Operation>,
    /// Those of which a result was acknowledged.
    acknowledged: HashSet<Operation>,
}

/// An answer, read to its end.
pub(crate) struct Told {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// What an answer says of its operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Says {
    /// The receipt of its first effect.
    Done { replayed: bool },
    /// That it is being carried out.
    Busy,
    /// That nobody knows how it ended.
    Unknown,
    /// That it was carried out, and that the store was down when a piece of its long answer was to be kept.
    NotKept,
    /// That it failed, or can't be looked up now.
    Failed(StatusCode),
    /// What no operation may be told.
    Wrong,
}

impl Clients {
    pub(crate) fn start(runtime: &Handle, seed: u64, address: &watch::Receiver<SocketAddr>) -> Self {
        let crowd = Arc::new(Crowd {
            seed,
            address: address.clone(),
            stop: AtomicBool::new(false),
            known: Mutex::default(),
            awaiting: AtomicUsize::new(0),
            broken: AtomicU64::new(0),
            statuses: Mutex::default(),
            violations: Mutex::default(),
        });
        let tasks = (0..CLIENTS).map(|number| runtime.spawn(Client::new(&crowd, number).ask_on())).collect();
        Self { crowd, tasks }
    }

    /// Lets each of them end what it is at.
    pub(crate) async fn stop(&mut self) {
        self.crowd.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            timeout(PATIENCE, task).await.expect("a client hangs").unwrap();
        }
    }
}

impl Crowd {
    pub(crate) fn asked(&self) -> Vec<Operation> {
        self.known.lock().unwrap().asked.clone()
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.known.lock().unwrap().acknowledged.len()
    }

    /// How often each answer was given.
    pub(crate) fn statuses(&self) -> String {
        format!("{:?}", self.statuses.lock().unwrap())
    }

    pub(crate) fn violation(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    fn is_acknowledged(&self, operation: &Operation) -> bool {
        self.known.lock().unwrap().acknowledged.contains(operation)
    }

    /// Asks every operation until it has an end, many at a time, and says for each which it has: done, or unknown for ever.
    pub(crate) async fn ask_all(self: &Arc<Self>) -> Vec<(Operation, Says)> {
        let all = Arc::new(Mutex::new(self.asked().into_iter()));
        let mut askers = JoinSet::new();
        for number in 0..CLIENTS {
            let (all, mut client) = (all.clone(), Client::new(self, number));
            askers.spawn(async move {
                let mut ends = Vec::new();
                loop {
                    let next = all.lock().unwrap().next();
                    let Some(operation) = next else { return ends };
                    let end = client.ask_until_it_ends(&operation).await;
                    ends.push((operation, end));
                }
            });
        }
        askers.join_all().await.into_iter().flatten().collect()
    }
}

/// One of them.
struct Client {
    crowd: Arc<Crowd>,
    lots: Lots,
    number: usize,
    drawn: u64,
    address: watch::Receiver<SocketAddr>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    fn new(crowd: &Arc<Crowd>, number: usize) -> Self {
        Self {
            crowd: crowd.clone(),
            lots: Lots::new(crowd.seed, &format!("client {number}")),
            number,
            drawn: 0,
            address: crowd.address.clone(),
            connection: None,
        }
    }

    async fn ask_on(mut self) {
        let mut operation = self.draw();
        while !self.crowd.stop.load(Ordering::SeqCst) {
            let says = self.ask(&operation).await;
            let done = matches!(says, Some(Says::Done { .. }));
            // Who failed asks again, mostly; so does now and then who did not.
            if self.lots.percent(if done { 90 } else { 40 }) {
                operation = self.draw();
            }
        }
    }

    /// A new operation, or one that somebody has asked for: one of the last, mostly, so that many ask for it at once.
    fn draw(&mut self) -> Operation {
        let mut known = self.crowd.known.lock().unwrap();
        let count = known.asked.len() as u64;
        let again = match self.lots.below(100) {
            0..35 if count > 0 => Some(count - 1 - self.lots.below(count.min(32))),
            35..50 if count > 0 => Some(self.lots.below(count)),
            _ => None,
        };
        if let Some(nth) = again {
            return known.asked[usize::try_from(nth).unwrap()].clone();
        }
        self.drawn += 1;
        let kind = if self.lots.percent(50) { Kind::Naive } else { Kind::Knowing };
        let operation =
            (kind, format!("{}-{}-{:08x}", self.number, self.drawn, self.lots.below(1 << 32)).into());
        known.asked.push(operation);
        known.asked.last().unwrap().clone()
    }

    /// What is said of the operation; `None` if there is no answer.
    async fn ask(&mut self, operation: &Operation) -> Option<Says> {
        let acknowledged = self.crowd.is_acknowledged(operation);
        let told = self.send(operation).await;
        let told = told?;
        let says = told.says(operation);
        *self.crowd.statuses.lock().unwrap().entry(format!("{says:?}")).or_default() += 1;
        match says {
            Says::Done { replayed } => {
                if acknowledged && !replayed {
                    self.crowd
                        .violation(format!("{operation:?} was acknowledged before, and is not replayed"));
                }
                self.crowd.known.lock().unwrap().acknowledged.insert(operation.clone());
            }
            Says::Failed(StatusCode::SERVICE_UNAVAILABLE) => {}
            Says::Wrong => self.crowd.violation(format!("{operation:?} was told {}", told.as_it_is())),
            other if acknowledged => {
                self.crowd.violation(format!("{operation:?} was acknowledged before, and now: {other:?}"));
            }
            _ => {}
        }
        Some(says)
    }

    /// Asks until it is told an end, and then once more: what has ended stays so, and what is done is replayed.
    async fn ask_until_it_ends(&mut self, operation: &Operation) -> Says {
        let begun = Instant::now();
        let mut first = None;
        while begun.elapsed() < PATIENCE {
            let says = self.ask(operation).await;
            match (first, says) {
                (_, Some(Says::Wrong)) => return Says::Wrong,
                (None, Some(end)) if end.is_end() => first = Some(end),
                (Some(Says::Done { .. }), Some(end @ Says::Done { replayed: true })) => return end,
                (Some(first), Some(end)) if end == first && first.is_end() => return end,
                (Some(first), Some(says)) if !matches!(says, Says::Failed(_)) => {
                    self.crowd.violation(format!("{operation:?} was {first:?}, and is {says:?}"));
                    return Says::Wrong;
                }
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
        self.crowd.violation(format!("{operation:?} does not end: {first:?}"));
        Says::Wrong
    }

    /// The answer, if it comes whole.
    async fn send(&mut self, (kind, key): &Operation) -> Option<Told> {
        let mut connection = match self.connection.take().filter(SendRequest::is_ready) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let request = Request::post(kind.path())
            .header("host", "torture")
            .header("x-api-key", "torture")
            .header("idempotency-key", format!("\"{key}\""))
            .body(Full::from(format!("charge the account of {key}")))
            .unwrap();
        self.crowd.awaiting.fetch_add(1, Ordering::SeqCst);
        let told = timeout(PATIENCE, async {
            let response = connection.send_request(request).await.ok()?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            Some(Told { status: parts.status, headers: parts.headers, body })
        })
        .await;
        self.crowd.awaiting.fetch_sub(1, Ordering::SeqCst);
        let told = told.unwrap_or_else(|_| {
            self.crowd.violation(format!("{kind:?} {key} got no answer at all"));
            None
        });
        if told.is_some() {
            // Where the proxy closes, the next request finds out.
            self.connection = connection.ready().await.is_ok().then_some(connection);
        } else {
            self.crowd.broken.fetch_add(1, Ordering::SeqCst);
        }
        told
    }

    async fn connect(&mut self) -> Option<SendRequest<Full<Bytes>>> {
        let address = *self.address.borrow_and_update();
        let Ok(stream) = TcpStream::connect(address).await else {
            // It was killed: its next life has another address.
            let _same = timeout(Duration::from_millis(50), self.address.changed()).await;
            return None;
        };
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        // How it ends, its requests tell.
        tokio::spawn(async move { drop(connection.await) });
        Some(sender)
    }
}

impl Says {
    const fn is_end(self) -> bool {
        matches!(self, Self::Unknown | Self::NotKept | Self::Done { .. })
    }
}

impl Told {
    /// What it says of its operation.
    fn says(&self, operation: &Operation) -> Says {
        let expected = Receipt::of(operation, 1);
        let header = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        let same_head = expected.headers.iter().all(|(name, value)| header(name) == Some(value.as_str()));
        match self.status.as_u16() {
            200..300 if same_head && self.status == expected.status && self.body == expected.body => {
                Says::Done { replayed: header("idempotent-replayed") == Some("true") }
            }
            409 if header("retry-after").is_some() => Says::Busy,
            409 if self.text().contains("nobody knows") => Says::Unknown,
            409 if self.text().contains("was carried out before") => Says::NotKept,
            500 | 502..=504 => Says::Failed(self.status),
            _ => Says::Wrong,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(300).collect()
    }

    fn as_it_is(&self) -> String {
        format!("{} {:?} {}", self.status, self.headers, self.text())
    }
}
