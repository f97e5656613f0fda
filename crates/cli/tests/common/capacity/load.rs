//! Calls that are due whatever became of the earlier ones: open-loop, as the world's callers are.
//!
//! Each has a deadline, counted from when it was due; at the deadline its caller leaves and closes the connection. A timer
//! is up to a millisecond late, which counts as the call's own time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) to: SocketAddr,
    pub(crate) per_second: f64,
    pub(crate) lasts: Duration,
    /// How long a caller waits.
    pub(crate) deadline: Duration,
    pub(crate) arrivals: Arrivals,
    /// Who calls; their shares are weights.
    pub(crate) classes: Vec<Class>,
    /// The lots for arrivals and classes are drawn from this.
    pub(crate) seed: u64,
}

/// When calls are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrivals {
    /// At even moments.
    Even,
    /// Independently of each other: the gaps are exponential.
    Poisson,
}

/// Callers of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Class {
    /// How many of all calls are theirs.
    pub(crate) share: f64,
    /// Sent as `x-seaworthy-criticality`.
    pub(crate) criticality: Option<&'static str>,
    /// Sent as `x-client`.
    pub(crate) client: Option<&'static str>,
}

/// Everybody alike.
pub(crate) const ALIKE: Class = Class { share: 1.0, criticality: None, client: None };

/// One call that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// When it was due, from the start of the load.
    pub(crate) due: Duration,
    /// How much later it was sent: the machine's doing, not the upstream's.
    pub(crate) late: Duration,
    /// From when it was due to the last byte, or to its failure.
    pub(crate) took: Duration,
    pub(crate) end: End,
    /// Index into the plan's classes.
    pub(crate) class: usize,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// 200 within the deadline.
    Good,
    /// 503 or 429 within the deadline.
    Refused,
    /// Another status within the deadline.
    Other(StatusCode),
    /// The connection broke or was not to be had.
    Broken,
    /// Nothing within the deadline.
    GaveUp,
}

/// Load under way.
pub(crate) struct Load {
    begun: Instant,
    calls: Arc<Mutex<Vec<Call>>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts it, in a thread of its own.
    ///
    /// # Errors
    /// There is no runtime.
    pub(crate) fn start(plan: Plan) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let begun = Instant::now();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::spawn({
            let calls = Arc::clone(&calls);
            move || runtime.block_on(send(&plan, begun, &calls, &stopped))
        });
        Ok(Self { begun, calls, stop, thread: Some(thread) })
    }

    /// How long it has run.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until it has run for this long.
    pub(crate) fn wait_until(&self, at: Duration) {
        std::thread::sleep(at.saturating_sub(self.now()));
    }

    /// The calls that have ended.
    pub(crate) fn so_far(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    /// Waits for the end of its time and of the last call.
    pub(crate) fn finish(mut self) -> Vec<Call> {
        self.join();
        lock(&self.calls).clone()
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the load's thread panicked");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.join();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn send(plan: &Plan, begun: Instant, calls: &Arc<Mutex<Vec<Call>>>, stopped: &watch::Receiver<bool>) {
    let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
    let mut under_way = tokio::task::JoinSet::new();
    let mut lots = Lots(plan.seed | 1);
    let mut due = Duration::ZERO;
    while due < plan.lasts && !*stopped.borrow() {
        tokio::time::sleep_until((begun + due).into()).await;
        let class = lots.class(&plan.classes);
        let (who, deadline, to) = (plan.classes[class], plan.deadline, plan.to);
        let (idle, calls) = (Arc::clone(&idle), Arc::clone(calls));
        under_way.spawn(async move {
            let late = begun.elapsed().saturating_sub(due);
            let until = begun + due + deadline;
            let met = tokio::time::timeout_at(until.into(), call(to, who, &idle)).await;
            let end = match met {
                Err(_) => End::GaveUp,
                Ok(None) => End::Broken,
                Ok(Some(StatusCode::OK)) => End::Good,
                Ok(Some(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)) => End::Refused,
                Ok(Some(other)) => End::Other(other),
            };
            lock(&calls).push(Call { due, late, took: begun.elapsed().saturating_sub(due), end, class });
        });
        while under_way.try_join_next().is_some() {}
        due += lots.gap(plan.arrivals, plan.per_second);
    }
    while under_way.join_next().await.is_some() {}
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    task: AbortHandle,
}

impl Drop for Connection {
    /// Closes it: a caller that leaves does not wait for the answer.
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn call(to: SocketAddr, who: Class, idle: &Mutex<Vec<Connection>>) -> Option<StatusCode> {
    let kept = lock(idle).pop().filter(|kept| !kept.sender.is_closed());
    let fresh = kept.is_none();
    let mut connection = match kept {
        Some(kept) => kept,
        None => connect(to).await?,
    };
    let mut answer = ask(&mut connection, who).await;
    if answer.is_none() && !fresh {
        // A kept connection may have been closed under way, which is nobody's fault.
        connection = connect(to).await?;
        answer = ask(&mut connection, who).await;
    }
    let status = answer?;
    lock(idle).push(connection);
    Some(status)
}

async fn ask(connection: &mut Connection, who: Class) -> Option<StatusCode> {
    connection.sender.ready().await.ok()?;
    let mut request = Request::get("/").header("host", "capacity");
    if let Some(criticality) = who.criticality {
        request = request.header("x-seaworthy-criticality", criticality);
    }
    if let Some(client) = who.client {
        request = request.header("x-client", client);
    }
    let answer = connection.sender.send_request(request.body(Empty::new()).ok()?).await.ok()?;
    let status = answer.status();
    answer.into_body().collect().await.ok()?;
    Some(status)
}

async fn connect(to: SocketAddr) -> Option<Connection> {
    let stream = TcpStream::connect(to).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    // How it ended, whoever uses it is told.
    let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
    Some(Connection { sender, task })
}

/// Xorshift64*: good enough for lots, and the same in every run.
struct Lots(u64);

impl Lots {
    /// Above 0, at most 1.
    fn draw(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let upper = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32;
        (f64::from(upper) + 1.0) / 4_294_967_296.0
    }

    fn gap(&mut self, arrivals: Arrivals, per_second: f64) -> Duration {
        let mean = 1.0 / per_second;
        Duration::from_secs_f64(match arrivals {
            Arrivals::Even => mean,
            Arrivals::Poisson => -self.draw().ln() * mean,
        })
    }

    fn class(&mut self, classes: &[Class]) -> usize {
        let all: f64 = classes.iter().map(|class| class.share).sum();
        let mut left = self.draw() * all;
        let found = classes.iter().position(|class| {
            left -= class.share;
            left <= 0.0
        });
        found.unwrap_or(0)
    }
}
