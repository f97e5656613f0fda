//! An upstream with a fixed capacity, on a real socket.
//!
//! So many workers, each busy for the same time with a call (asleep, so that the machine is left to whoever is measured). What they can't
//! take on at once waits in one queue, first come, first served, without a bound: that is what a service does whose threads take from
//! an accept queue. It works on calls whose callers left meanwhile, as a thread does that only notices when it writes the answer: that work is in vain.
//!
//! A worker starts a call when it is there and the worker is free, and the next one exactly when this one is over: a late timer takes nothing from
//! the capacity, which is workers / service time.
//!
//! It can be told, by a method or by `POST /capacity/serve`, `/capacity/pause` (an outage in which connections are taken and nothing is
//! answered) and `/capacity/refuse` (503 with Retry-After at once). `GET /capacity/counts` says what it did.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

/// What the body of every good answer is.
pub(crate) const ANSWER: &[u8] = b"served\n";

/// How much it can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Calls at a time.
    pub(crate) workers: u32,
    /// How long each takes.
    pub(crate) service: Duration,
}

impl Capacity {
    /// Calls a second.
    pub(crate) fn per_second(self) -> f64 {
        f64::from(self.workers) / self.service.as_secs_f64()
    }
}

/// What it does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Works on them, from this moment on.
    Serving(Instant),
    /// Takes them in and begins none.
    Paused,
    /// 503 with Retry-After, at once.
    Refusing,
}

/// What it did so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Answered to somebody who still waited.
    pub(crate) served: u64,
    /// Worked on for somebody who had left.
    pub(crate) in_vain: u64,
    /// Refused.
    pub(crate) refused: u64,
    /// Here and not yet begun.
    pub(crate) waiting: u64,
}

/// A running upstream; it ends with this.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it on a free port of 127.0.0.1, in a thread of its own.
    ///
    /// # Errors
    /// There is no port or no runtime.
    pub(crate) fn start(capacity: Capacity) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let (queue, jobs) = mpsc::unbounded_channel();
        let manner = watch::Sender::new(Manner::Serving(Instant::now()));
        let shared = Arc::new(Shared {
            manner,
            queue,
            served: AtomicU64::new(0),
            in_vain: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let jobs = Arc::new(Mutex::new(jobs));
                runtime.block_on(async {
                    for _ in 0..capacity.workers {
                        tokio::spawn(work(Arc::clone(&shared), Arc::clone(&jobs), capacity.service));
                    }
                    // Whoever drops the sender stops it as well.
                    tokio::select! { () = accept(listener, shared) => {}, _ = stopped => {} }
                });
            }
        });
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Works on calls, from now on.
    pub(crate) fn serve(&self) {
        self.shared.manner.send_replace(Manner::Serving(Instant::now()));
    }

    /// Takes calls in and begins none.
    pub(crate) fn pause(&self) {
        self.shared.manner.send_replace(Manner::Paused);
    }

    /// Refuses every call.
    pub(crate) fn refuse(&self) {
        self.shared.manner.send_replace(Manner::Refusing);
    }

    /// What it did so far.
    pub(crate) fn counts(&self) -> Counts {
        self.shared.counts()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the upstream's thread panicked");
        }
    }
}

struct Shared {
    manner: watch::Sender<Manner>,
    queue: mpsc::UnboundedSender<Job>,
    served: AtomicU64,
    in_vain: AtomicU64,
    refused: AtomicU64,
    waiting: AtomicU64,
}

impl Shared {
    fn counts(&self) -> Counts {
        Counts {
            served: self.served.load(Relaxed),
            in_vain: self.in_vain.load(Relaxed),
            refused: self.refused.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
        }
    }
}

/// One call, until a worker is done with it.
struct Job {
    arrived: Instant,
    done: oneshot::Sender<()>,
}

/// One worker: takes the oldest call, is busy with it, and takes the next.
async fn work(shared: Arc<Shared>, jobs: Arc<Mutex<mpsc::UnboundedReceiver<Job>>>, service: Duration) {
    let mut manner = shared.manner.subscribe();
    let mut free = Instant::now();
    loop {
        let Some(job) = jobs.lock().await.recv().await else { return };
        let since = match manner.wait_for(|manner| *manner != Manner::Paused).await.map(|manner| *manner) {
            Ok(Manner::Serving(since)) => since,
            // What was here when the refusing began is worked on.
            Ok(Manner::Refusing | Manner::Paused) => job.arrived,
            Err(_) => return,
        };
        shared.waiting.fetch_sub(1, Relaxed);
        free = free.max(job.arrived).max(since) + service;
        tokio::time::sleep_until(free.into()).await;
        let count = if job.done.send(()).is_ok() { &shared.served } else { &shared.in_vain };
        count.fetch_add(1, Relaxed);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: those that are open come back.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // Without it, small answers wait for the other side's acknowledgement; should it fail, they do.
            let _ = stream.set_nodelay(true);
            let service = service_fn(|request| answer(request, Arc::clone(&shared)));
            // A caller that leaves ends its connection: that is counted where its answer is due.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let now = Instant::now();
    if let Some(order) = request.uri().path().strip_prefix("/capacity/") {
        return Ok(obey(request.method(), order, &shared, now));
    }
    if *shared.manner.borrow() == Manner::Refusing {
        shared.refused.fetch_add(1, Relaxed);
        let mut refusal = plain(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"refused\n"));
        refusal.headers_mut().insert("retry-after", hyper::header::HeaderValue::from_static("1"));
        return Ok(refusal);
    }
    let (done, finished) = oneshot::channel();
    shared.waiting.fetch_add(1, Relaxed);
    let queued = shared.queue.send(Job { arrived: now, done }).is_ok();
    Ok(if queued && finished.await.is_ok() {
        plain(StatusCode::OK, Bytes::from_static(ANSWER))
    } else {
        plain(StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(b"no workers\n"))
    })
}

/// What is asked of the upstream itself.
fn obey(method: &Method, order: &str, shared: &Shared, now: Instant) -> Response<Full<Bytes>> {
    let manner = match (method, order) {
        (&Method::GET, "counts") => return plain(StatusCode::OK, format!("{:?}\n", shared.counts()).into()),
        (&Method::POST, "serve") => Manner::Serving(now),
        (&Method::POST, "pause") => Manner::Paused,
        (&Method::POST, "refuse") => Manner::Refusing,
        _ => return plain(StatusCode::NOT_FOUND, Bytes::from_static(b"serve, pause, refuse or counts\n")),
    };
    shared.manner.send_replace(manner);
    plain(StatusCode::OK, format!("{manner:?}\n").into())
}

fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}
