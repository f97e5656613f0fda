//! Real instances of a service, a real proxy before them, and a steady stream of calls.
#![allow(dead_code, reason = "each test file takes what it needs")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{file, seaworthy};

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A process that ends with its owner.
pub(crate) struct Process {
    child: Child,
    /// Its leash, held apart from it, as waiting for a child would close it.
    stdin: ChildStdin,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> (Self, impl BufRead + use<>) {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        (Self { child, stdin }, BufReader::new(stdout))
    }

    pub(crate) fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.id(), signal).unwrap();
    }

    /// Writes a line to its stdin.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One instance of the service `shop`.
pub(crate) struct Instance {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Instance {
    /// Starts an instance on a port of 127.0.0.1; 0 for a free one.
    pub(crate) fn start(number: usize, port: u16) -> Self {
        Self::by(seaworthy(), number, "127.0.0.1", port)
    }

    /// Starts an instance that listens on `host`, with a command to which the arguments are added.
    pub(crate) fn by(mut command: Command, number: usize, host: &str, port: u16) -> Self {
        let (number, port) = (number.to_string(), port.to_string());
        command.args(["demo-service", "--host", host]);
        command.args(["--name", "shop", "--instance", &number, "--port", &port]);
        command.args(["--seed", &number]);
        let (process, mut words) = Process::start(&mut command);
        let mut line = String::new();
        words.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ready ").unwrap().parse().unwrap();
        Self { process, address }
    }

    /// As many instances as `count`.
    pub(crate) fn several(count: usize) -> Vec<Self> {
        (1..=count).map(|number| Self::start(number, 0)).collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A proxy in a process of its own.
pub(crate) struct Proxy {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Kept, as it says more on it.
    stdout: Box<dyn BufRead>,
}

impl Proxy {
    /// Starts `seaworthy run` with a file called `name`, which holds `toml` below the addresses; waits until it is ready.
    pub(crate) fn start(name: &str, toml: &str) -> Self {
        let text = format!("listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n{toml}\n");
        let path = file(name, &text);
        let (process, mut stdout) = Process::start(seaworthy().args(["run", "--leashed"]).arg(path));
        let (mut address, mut admin) = (None, None);
        while address.is_none() || admin.is_none() {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "the proxy ended before it listened");
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("listen"), Some(at)) => address = at.parse().ok(),
                (Some("admin"), Some(at)) => admin = at.strip_prefix("http://").unwrap().parse().ok(),
                _ => {}
            }
        }
        let stdout = Box::new(stdout);
        let proxy = Self { process, address: address.unwrap(), admin: admin.unwrap(), stdout };
        eventually("the proxy is ready", || proxy.get("/health/ready").0 == StatusCode::OK);
        proxy
    }

    /// What its operators read at `path`.
    pub(crate) fn get(&self, path: &str) -> (StatusCode, String) {
        self.ask(Method::GET, path, String::new())
    }

    /// Gives it an order.
    pub(crate) fn post(&self, path: &str, order: &Value) -> (StatusCode, String) {
        self.ask(Method::POST, path, order.to_string())
    }

    fn ask(&self, method: Method, path: &str, body: String) -> (StatusCode, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut sender = connect(self.admin).await.unwrap();
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", self.admin.to_string())
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)))
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let status = answer.status();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(body.to_vec()).unwrap())
        })
    }

    /// Its state.
    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.get("/api/state").1).unwrap()
    }

    /// The sum of a metric over all its samples that have `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let metrics = self.get("/metrics").1;
        let is_it = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(label);
        metrics
            .lines()
            .filter(is_it)
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
            .sum()
    }

    /// What its operators read at `path`, where an entry of `list` has that name.
    pub(crate) fn named(&self, path: &str, list: &str, name: &str) -> Value {
        let value: Value = serde_json::from_str(&self.get(path).1).unwrap();
        value[list].as_array().unwrap().iter().find(|entry| entry["name"] == name).cloned().unwrap()
    }

    /// The endpoint at `address` of its only upstream.
    pub(crate) fn endpoint(&self, address: SocketAddr) -> Value {
        let state = self.state();
        let endpoints = state["upstreams"][0]["endpoints"].as_array().unwrap();
        endpoints.iter().find(|e| e["address"] == address.to_string()).cloned().unwrap_or(Value::Null)
    }
}

/// Waits until `met` holds.
pub(crate) fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !met() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One call that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// When it was due, from the start of the stream.
    pub(crate) at: Duration,
    /// From then to the end of its answer.
    pub(crate) took: Duration,
    /// The status of its answer; `None` if there was none.
    pub(crate) status: Option<u16>,
}

/// Calls at a steady rate, whatever becomes of them, in a thread of their own.
pub(crate) struct Stream {
    /// One at a time in a process, so that they don't disturb each other; the test runner keeps processes apart.
    _alone: MutexGuard<'static, ()>,
    begun: Instant,
    calls: Arc<Mutex<Vec<Call>>>,
    stop: tokio::sync::watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Stream {
    /// `rate` GETs a second to `to`.
    pub(crate) fn start(to: SocketAddr, rate: u32) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        // Who panicked has left nothing behind.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (calls, begun) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let thread = std::thread::spawn({
            let calls = Arc::clone(&calls);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(send(to, rate, begun, calls, stopped));
            }
        });
        Self { _alone: alone, begun, calls, stop, thread: Some(thread) }
    }

    /// How long it has run.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Goes on for `time`.
    pub(crate) fn go_on(&self, time: Duration) {
        let until = self.now() + time;
        eventually_in("the stream goes on", time + PATIENCE, || {
            self.calls.lock().unwrap().last().is_some_and(|c| c.at > until)
        });
    }

    /// The calls that were due from `from` to `until`, as far as they have ended.
    pub(crate) fn between(&self, from: Duration, until: Duration) -> Vec<Call> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| (from..until).contains(&call.at)).copied().collect()
    }

    /// Makes no further call and waits for the last ones.
    pub(crate) fn finish(mut self) -> Vec<Call> {
        self.end();
        let calls = self.calls.lock().unwrap();
        calls.clone()
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// Those that were not answered with success, in words.
pub(crate) fn errors(calls: &[Call]) -> String {
    let mut text = String::new();
    for call in calls.iter().filter(|call| call.status != Some(200)) {
        writeln!(text, "at {:?} after {:?}: {:?}", call.at, call.took, call.status).unwrap();
    }
    text
}

/// The share `q` of the calls took no longer than this.
pub(crate) fn quantile(calls: &[Call], q: f64) -> Duration {
    let mut took: Vec<Duration> = calls.iter().map(|call| call.took).collect();
    took.sort_unstable();
    took[((took.len() - 1) as f64 * q) as usize]
}

fn eventually_in(what: &str, limit: Duration, mut met: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !met() {
        assert!(begun.elapsed() < limit, "{what} did not happen in {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn send(
    to: SocketAddr,
    rate: u32,
    begun: Instant,
    calls: Arc<Mutex<Vec<Call>>>,
    stopped: tokio::sync::watch::Receiver<bool>,
) {
    let idle = Arc::new(Mutex::new(Vec::new()));
    let mut under_way = tokio::task::JoinSet::new();
    for number in 0.. {
        let at = Duration::from_secs(number) / rate;
        tokio::time::sleep_until((begun + at).into()).await;
        if *stopped.borrow() {
            break;
        }
        let (idle, calls) = (Arc::clone(&idle), Arc::clone(&calls));
        under_way.spawn(async move {
            let status = tokio::time::timeout(PATIENCE, call(to, &idle)).await.ok().flatten();
            calls.lock().unwrap().push(Call { at, took: begun.elapsed().saturating_sub(at), status });
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

type Connection = SendRequest<Full<Bytes>>;

async fn call(to: SocketAddr, idle: &Mutex<Vec<Connection>>) -> Option<u16> {
    let kept = idle.lock().unwrap().pop().filter(|connection| !connection.is_closed());
    let mut connection = match kept {
        Some(kept) => kept,
        None => connect(to).await?,
    };
    connection.ready().await.ok()?;
    let request = Request::get("/shop/1").header("host", "shop").body(Full::new(Bytes::new())).unwrap();
    let answer = connection.send_request(request).await.ok()?;
    let status = answer.status().as_u16();
    answer.into_body().collect().await.ok()?;
    idle.lock().unwrap().push(connection);
    Some(status)
}

async fn connect(to: SocketAddr) -> Option<Connection> {
    let stream = TcpStream::connect(to).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}
