//! Calls that are due at even moments, whatever became of the earlier ones, and what each of them met.
//!
//! A thread of its own does nothing but wait for the next moment, because a runtime's timer would be up to a millisecond
//! late. If it is late itself, what is due is sent at once, and its latency counts from when it was due.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::shop::{ANSWER, PATH};

/// Calls due in a second.
pub(crate) const PER_SECOND: u32 = 500;

/// How long a caller waits: longer than two of the timeouts that the proxies were given, so that they can still save a call.
const PATIENCE: Duration = Duration::from_secs(15);

/// A kept connection is not used again after this: well below the minute after which any of the proxies closes it.
const KEPT: Duration = Duration::from_secs(10);

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// When it was due, from the beginning of the load.
    pub(crate) due: Duration,
    /// How long it took from then until the last byte, or until it failed.
    pub(crate) took: Duration,
    /// Why the caller counts it as failed.
    pub(crate) fault: Option<String>,
}

/// Load that is under way.
pub(crate) struct Load {
    pacer: JoinHandle<()>,
    calls: Receiver<Call>,
    // Last, so that it outlives whoever sends through it.
    _runtime: Runtime,
}

impl Load {
    /// Starts it.
    ///
    /// # Errors
    /// There is no runtime to be had.
    pub(crate) fn start(port: u16, began: Instant, lasts: Duration) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let (sender, calls) = channel();
        let client = Arc::new(Client { port, kept: Mutex::new(Vec::new()) });
        let handle = runtime.handle().clone();
        let pacer = std::thread::spawn(move || {
            let due = (0..).map(|number| Duration::from_secs(1) * number / PER_SECOND);
            for due in due.take_while(|due| *due < lasts) {
                std::thread::sleep((began + due).saturating_duration_since(Instant::now()));
                handle.spawn(call(Arc::clone(&client), began, due, sender.clone()));
            }
        });
        Ok(Self { pacer, calls, _runtime: runtime })
    }

    /// Waits for the last call and returns them all, in the order in which they were due.
    ///
    /// # Errors
    /// The thread that keeps the time panicked.
    pub(crate) fn finish(self) -> Result<Vec<Call>, String> {
        self.pacer.join().map_err(|_| "the load ended in a panic".to_owned())?;
        // Ends when the last call has let go of its sender.
        let mut calls: Vec<Call> = self.calls.iter().collect();
        calls.sort_by_key(|call| call.due);
        Ok(calls)
    }
}

async fn call(client: Arc<Client>, began: Instant, due: Duration, sender: Sender<Call>) {
    let until = tokio::time::Instant::from_std(began + due + PATIENCE);
    let fault = match tokio::time::timeout_at(until, client.get()).await {
        Ok(answer) => answer.err(),
        Err(_) => Some("no answer in time".to_owned()),
    };
    let took = began.elapsed().saturating_sub(due);
    // Nobody listens any more if the run was given up.
    let _ = sender.send(Call { due, took, fault });
}

/// A client as everybody's: connections are kept, and no call is made twice.
struct Client {
    port: u16,
    kept: Mutex<Vec<(Connection, Instant)>>,
}

type Connection = SendRequest<Empty<Bytes>>;

impl Client {
    /// Makes one call.
    ///
    /// A kept connection may have been closed meanwhile. If nothing of the request was sent on it, another is taken, as every
    /// client with a pool does; a request that was sent is never sent again.
    async fn get(&self) -> Result<(), String> {
        let mut request = Request::builder()
            .uri(PATH)
            .header(header::HOST, "localhost")
            .body(Empty::new())
            .map_err(|error| format!("no request: {error}"))?;
        loop {
            let (mut connection, was_kept) = self.connection().await?;
            let answer = match connection.try_send_request(request).await {
                Ok(answer) => answer,
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) if was_kept => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(format!("broke off: {}", refused.error())),
                },
            };
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(|error| format!("body: {error}"))?;
            self.keep(connection);
            return match status.as_u16() {
                200 if body.to_bytes().starts_with(ANSWER) => Ok(()),
                200 => Err("another answer than the instances give".to_owned()),
                status => Err(format!("status {status}")),
            };
        }
    }

    /// A connection that is ready, and whether it was used before.
    async fn connection(&self) -> Result<(Connection, bool), String> {
        while let Some(mut connection) = self.take() {
            if connection.ready().await.is_ok() {
                return Ok((connection, true));
            }
        }
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await;
        let stream = stream.map_err(|error| format!("no connection: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("no connection: {error}"))?;
        let made = handshake(TokioIo::new(stream)).await;
        let (connection, driver) = made.map_err(|error| format!("no connection: {error}"))?;
        // What breaks the connection is told to the call that waits on it.
        tokio::spawn(driver);
        Ok((connection, false))
    }

    /// The one used last, so that no more are kept alive than are needed.
    fn take(&self) -> Option<Connection> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, since)| since.elapsed() < KEPT);
        kept.pop().map(|(connection, _)| connection)
    }

    fn keep(&self, connection: Connection) {
        if !connection.is_closed() {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push((connection, Instant::now()));
        }
    }
}
