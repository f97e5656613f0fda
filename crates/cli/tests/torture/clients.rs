//! Clients that ask for the same things again and again, at once and after failures, at one proxy and the other, and believe what
//! they were told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::PATIENCE;
use crate::journal::Journal;
use crate::known::{End, Known};
use crate::lots::Lots;
use crate::stage::DEADLINE;
use crate::told::{Says, Told};
use crate::upstream::{Kind, Operation, Upstream};

/// How many there are.
const CLIENTS: usize = 64;

/// Where a proxy is, and which life of it that is; nothing while it is dead.
pub(crate) type Seat = Option<(SocketAddr, u32)>;

/// All of them.
pub(crate) struct Clients {
    pub(crate) crowd: Arc<Crowd>,
    tasks: Vec<JoinHandle<()>>,
}

/// What they share.
pub(crate) struct Crowd {
    seed: u64,
    seats: watch::Receiver<Vec<Seat>>,
    upstream: Upstream,
    journal: Arc<Journal>,
    stop: AtomicBool,
    known: Mutex<Known>,
}

impl Clients {
    pub(crate) fn start(
        runtime: &Handle,
        seed: u64,
        seats: &watch::Receiver<Vec<Seat>>,
        upstream: &Upstream,
        journal: &Arc<Journal>,
    ) -> Self {
        let crowd = Arc::new(Crowd {
            seed,
            seats: seats.clone(),
            upstream: upstream.clone(),
            journal: journal.clone(),
            stop: AtomicBool::new(false),
            known: Mutex::default(),
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
    /// What is known by now.
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    /// Asks for an operation of each kind whose answer is still read when a lease is over, and all the while asks for it again at
    /// each proxy.
    pub(crate) async fn outlast_a_lease(self: &Arc<Self>) {
        let mut askers = JoinSet::new();
        for kind in Kind::ALL {
            let (crowd, operation) = (self.clone(), self.upstream.one_that_outlasts_a_lease(kind));
            askers.spawn(async move {
                let (mut first, mut again) = (Client::new(&crowd, 0), Client::new(&crowd, 1));
                let its_own = operation.clone();
                let first = tokio::spawn(async move {
                    // The store may have been away for a moment.
                    while first.crowd.upstream.entry(&its_own).visits.is_empty() {
                        first.ask(&its_own).await;
                    }
                });
                while !first.is_finished() {
                    // Nobody before the first.
                    if crowd.upstream.is_at(&operation) {
                        again.ask(&operation).await;
                        again.go_to_the_next();
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                first.await.unwrap();
                crowd.known().drawn.push(operation);
            });
        }
        askers.join_all().await;
    }

    /// Asks every operation until it has an end, many at a time, and says for each which it has: done, or unknown for ever.
    pub(crate) async fn ask_all(self: &Arc<Self>) -> Vec<(Operation, Says)> {
        let all = Arc::new(Mutex::new(self.known().asked().into_iter()));
        let mut askers = JoinSet::new();
        for number in 0..CLIENTS {
            let (all, mut client) = (all.clone(), Client::new(self, number));
            askers.spawn(async move {
                let (mut ends, mut open) = (Vec::new(), Vec::new());
                while let Some(operation) = next_of(&all) {
                    match client.ask_around(&operation).await {
                        Some(end) => ends.push((operation, end)),
                        None => open.push(operation),
                    }
                }
                (client, ends, open)
            });
        }
        let mut all_ends = Vec::new();
        let mut askers_on = JoinSet::new();
        for (mut client, ends, open) in askers.join_all().await {
            all_ends.extend(ends);
            askers_on.spawn(async move {
                let mut ends = Vec::new();
                for operation in open {
                    let end = client.ask_until_it_ends(&operation).await;
                    ends.push((operation, end));
                }
                ends
            });
        }
        all_ends.extend(askers_on.join_all().await.into_iter().flatten());
        all_ends
    }
}

/// One of them.
struct Client {
    crowd: Arc<Crowd>,
    lots: Lots,
    number: usize,
    drawn: u64,
    /// What it asked for and was not told the end of, lately.
    open: VecDeque<Operation>,
    seats: watch::Receiver<Vec<Seat>>,
    /// At which of the proxies it asks.
    at: usize,
    /// To that one, and which life of it.
    connection: Option<(SendRequest<Full<Bytes>>, u32)>,
}

impl Client {
    fn new(crowd: &Arc<Crowd>, number: usize) -> Self {
        Self {
            crowd: crowd.clone(),
            lots: Lots::new(crowd.seed, &format!("client {number}")),
            number,
            drawn: 0,
            open: VecDeque::new(),
            seats: crowd.seats.clone(),
            at: number,
            connection: None,
        }
    }

    async fn ask_on(mut self) {
        let mut operation = self.draw();
        while !self.crowd.stop.load(Ordering::SeqCst) {
            let ended = self.ask(&operation).await.is_some_and(Says::is_end);
            self.open.retain(|open| *open != operation);
            if !ended {
                self.open.push_front(operation.clone());
                self.open.truncate(MOST_OPEN);
            }
            if self.lots.percent(5) {
                self.go_to_the_next();
            }
            // Who failed asks again, mostly; so does now and then who did not.
            if self.lots.percent(if ended { 90 } else { 40 }) {
                operation = self.draw();
            }
        }
    }

    /// A new operation, or one that has no end yet, or one that somebody has asked for: one of the last, mostly, so that many ask
    /// for it at once.
    fn draw(&mut self) -> Operation {
        if let Some(open) = self.open.back().filter(|_| self.lots.percent(15)) {
            return open.clone();
        }
        let mut known = self.crowd.known();
        let count = known.drawn.len() as u64;
        let again = match self.lots.below(100) {
            0..35 if count > 0 => Some(count - 1 - self.lots.below(count.min(32))),
            35..50 if count > 0 => Some(self.lots.below(count)),
            _ => None,
        };
        if let Some(nth) = again {
            return known.drawn[usize::try_from(nth).unwrap()].clone();
        }
        self.drawn += 1;
        let kind = Kind::drawn(self.lots.below(100));
        let key = format!("{}-{}-{:08x}", self.number, self.drawn, self.lots.below(1 << 32));
        known.drawn.push((kind, key.into()));
        known.drawn.last().unwrap().clone()
    }

    /// What is said of the operation; `None` if there is no answer.
    async fn ask(&mut self, operation: &Operation) -> Option<Says> {
        let meanwhile = self.crowd.upstream.is_at(operation);
        let before = self.crowd.known().of(operation);
        let begun = Instant::now();
        let told = self.send(operation).await?;
        let says = told.says(operation);
        if says == Says::Wrong {
            self.crowd.journal.violation(operation, format!("was told {told}"));
        } else if let Some(before) = before.filter(|before| !before.allows(says)) {
            self.crowd.journal.violation(operation, format!("was {before:?} before, and now: {says:?}"));
        }
        // What a proxy has read to its end within the call's deadline is kept.
        let late = begun.elapsed() >= DEADLINE;
        let twice = self.crowd.known().learn(operation, says, late, meanwhile);
        if twice {
            self.crowd.journal.violation(operation, "was carried out to its end before");
        }
        if matches!(says, Says::Failed(_)) {
            self.go_to_the_next();
        }
        Some(says)
    }

    /// Asks one proxy, and unless it replays the result the other as well, or the same one again if it is alone; the end, if they agree
    /// on one. What runs has been seen by all of them then: they take its owner for dead a lease later.
    async fn ask_around(&mut self, operation: &Operation) -> Option<Says> {
        let first = self.ask(operation).await;
        self.go_to_the_next();
        if let Some(replay) = first.filter(|says| says.is_replay()) {
            return Some(replay);
        }
        let second = self.ask(operation).await?;
        let agree = first.is_some_and(|first| second == first || (second.is_replay() && first.is_done()));
        (agree && second.is_end() && second != Says::Done { replayed: false }).then_some(second)
    }

    /// Asks until it is told an end, and then once more, elsewhere: what has ended stays so, and what is done is replayed. Of what is
    /// unknown the other may say for a while that it runs, as it has not seen it stand still for a lease.
    async fn ask_until_it_ends(&mut self, operation: &Operation) -> Says {
        let begun = Instant::now();
        let mut first = None;
        while begun.elapsed() < PATIENCE {
            let says = self.ask(operation).await;
            match (first, says) {
                (_, Some(Says::Wrong)) => return Says::Wrong,
                (None, Some(end)) if end.is_end() => {
                    first = Some(end);
                    self.go_to_the_next();
                }
                (Some(first), Some(end)) if first.is_done() && end.is_replay() => return end,
                (Some(first), Some(end)) if end == first && first.is_end() => return end,
                (Some(first), Some(says)) if !says.may_follow(first) => {
                    self.crowd.journal.violation(operation, format!("was {first:?}, and is {says:?}"));
                    return Says::Wrong;
                }
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
        self.crowd.journal.violation(operation, format!("does not end: {first:?}"));
        Says::Wrong
    }

    /// The answer, if it comes whole.
    async fn send(&mut self, operation: &Operation) -> Option<Told> {
        let (mut connection, life) = self.connection().await?;
        let (kind, key) = operation;
        let request = Request::post(format!("/{}", kind.name()))
            .header("host", "torture")
            .header("x-api-key", "torture")
            .header("idempotency-key", format!("\"{key}\""))
            .body(Full::from(format!("charge the account of {key}")))
            .unwrap();
        let number = self.begin(operation, life);
        let told = timeout(PATIENCE, async {
            let response = connection.send_request(request).await.ok()?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            Some(Told { status: parts.status, headers: parts.headers, body })
        })
        .await;
        let told = told.unwrap_or_else(|_| {
            self.crowd.journal.violation(operation, "got no answer at all");
            None
        });
        let end = told.as_ref().map_or(End::Broken, |told| End::Told(told.says(operation)));
        self.crowd.journal.note(operation, format!("client {}, proxy {life}: {end:?}", self.number));
        self.crowd.known().ends(number, end);
        if told.is_some() {
            // Where the proxy closes, the next request finds out.
            self.connection = connection.ready().await.is_ok().then_some((connection, life));
        } else {
            self.go_to_the_next();
        }
        told
    }

    /// The number of the request.
    fn begin(&self, operation: &Operation, life: u32) -> usize {
        let number = self.crowd.known().send(operation, life);
        self.crowd.journal.note(operation, format!("client {}, proxy {life}: asks", self.number));
        number
    }

    /// The one that it has, or one to whichever proxy is there.
    async fn connection(&mut self) -> Option<(SendRequest<Full<Bytes>>, u32)> {
        if let Some(connection) = self.connection.take().filter(|(connection, _)| connection.is_ready()) {
            return Some(connection);
        }
        let seats = self.seats.borrow_and_update().clone();
        for _ in &seats {
            if let Some((address, life)) = seats[self.at % seats.len()]
                && let Ok(stream) = TcpStream::connect(address).await
            {
                let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
                // How it ends, its requests tell.
                tokio::spawn(async move { drop(connection.await) });
                return Some((sender, life));
            }
            self.at += 1;
        }
        // They were killed: their next lives have other addresses.
        let _same = timeout(Duration::from_millis(50), self.seats.changed()).await;
        None
    }

    fn go_to_the_next(&mut self) {
        self.at += 1;
        self.connection = None;
    }
}

fn next_of(all: &Mutex<impl Iterator<Item = Operation>>) -> Option<Operation> {
    all.lock().unwrap().next()
}

/// What one of them remembers to ask for later.
const MOST_OPEN: usize = 6;
