//! A proxy in this process, upstreams that do as they are told, and a client that speaks in bytes.
//!
//! Everything blocks and has a time limit, so that a test that would hang fails instead.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

pub mod http2;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use seaworthy_config::Config;
use seaworthy_proxy::Proxy;

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy that runs until it is dropped.
pub struct Running {
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// A proxy with one worker, so that its pools are predictable, and `toml` besides its addresses.
    pub fn start(toml: &str) -> Self {
        let text = format!(
            "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nworkers = 1\ndrain = \"5s\"\n{toml}\n"
        );
        let config = Config::from_toml("test.toml", &text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let bound = Proxy::bind(config).unwrap();
        let (address, admin) = (bound.addresses()[0], bound.admin());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(bound.run_until(async { drop(stopped.await) })).unwrap();
        });
        Self { address, admin, stop: Some(stop), thread: Some(thread) }
    }

    /// A proxy in front of `upstreams`, the endpoints of one upstream, with `policies` as its further settings.
    pub fn before(upstreams: &[SocketAddr], policies: &str) -> Self {
        let endpoints: Vec<_> = upstreams.iter().map(|a| format!("\"http://{a}\"")).collect();
        Self::start(&format!(
            "[log]\naccess = false\n[upstream.app]\nendpoints = [{}]\n{policies}",
            endpoints.join(", ")
        ))
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Tells it to stop; it drains.
    pub fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has stopped.
    pub fn join(mut self) {
        self.tell_to_stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell_to_stop();
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

/// A connection on which bytes are sent as they are.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// A response, as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// Trailer lines, if it was chunked.
    pub trailers: String,
}

impl Reply {
    /// The value of the header, if there is one.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// The value of a header in a head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends a request without a body and reads the answer.
    pub fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        self.reply()
    }

    /// As [`get`](Self::get), from another host.
    pub fn get_as(&mut self, path: &str, host: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        self.reply()
    }

    /// Sends a request whose body has a length and reads the answer.
    pub fn request(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let length = body.len();
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n{headers}\r\n"
        ));
        self.send(body);
        self.reply()
    }

    /// Reads a response to anything but HEAD.
    pub fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        if reply.header("transfer-encoding") == Some("chunked") {
            self.chunks(&mut reply);
        } else if let Some(length) = reply.header("content-length") {
            reply.body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut reply.body).unwrap();
        } else if !matches!(reply.status, 100..=199 | 204 | 304) {
            self.reader.read_to_end(&mut reply.body).unwrap();
        }
        reply
    }

    /// Reads a response's head alone.
    pub fn head(&mut self) -> Reply {
        let head = read_head(&mut self.reader).expect("the connection ended before an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head, body: Vec::new(), trailers: String::new() }
    }

    fn chunks(&mut self, reply: &mut Reply) {
        loop {
            let chunk = self.chunk();
            if chunk.is_empty() {
                break;
            }
            reply.body.extend(chunk);
        }
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            reply.trailers.push_str(&line);
        }
    }

    /// Reads one chunk; the last is empty, and what comes after it is left.
    pub fn chunk(&mut self) -> Vec<u8> {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let length =
            usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("not a chunk: {line:?}"));
        let mut chunk = vec![0; length];
        self.reader.read_exact(&mut chunk).unwrap();
        if length > 0 {
            self.reader.read_exact(&mut [0; 2]).unwrap();
        }
        chunk
    }

    /// Reads `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whether the other side has closed the connection, once it has nothing more to say.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        // A reset is a way of closing.
        self.reader
            .read_to_end(&mut rest)
            .map_or_else(|e| e.kind() != std::io::ErrorKind::WouldBlock, |_| true)
    }
}

/// Reads to the end of a head; `None` if the connection ends before it begins.
pub fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        match reader.read_line(&mut head) {
            Ok(0) if before == 0 => return None,
            Ok(0) => panic!("half a head: {head:?}"),
            Ok(_) if &head[before..] == "\r\n" => return Some(head),
            Ok(_) => {}
            Err(_) if before == 0 => return None,
            Err(error) => panic!("{error} in a head: {head:?}"),
        }
    }
}

/// An upstream that runs `serve` on a thread for each connection, given its number from 0.
pub struct Upstream {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
}

impl Upstream {
    pub fn serving(serve: impl Fn(usize, Conn) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (serve, count) = (Arc::new(serve), connections.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let number = count.fetch_add(1, Ordering::SeqCst);
                let serve = serve.clone();
                std::thread::spawn(move || serve(number, Conn::new(stream)));
            }
        });
        Self { address, connections }
    }

    /// An upstream that answers each request with what `answer` makes of its head and body.
    pub fn answering(answer: impl Fn(&str, &[u8]) -> String + Send + Sync + 'static) -> Self {
        Self::serving(move |_, mut conn| {
            while let Some((head, body)) = conn.request() {
                conn.send(answer(&head, &body));
            }
        })
    }

    /// One that answers 200 with the request's head and body as its body.
    pub fn echo() -> Self {
        Self::answering(|head, body| ok(&format!("{head}{}", String::from_utf8_lossy(body))))
    }
}

/// A plain answer.
pub fn ok(body: &str) -> String {
    answer(200, "", body)
}

pub fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

/// A connection as an upstream has it.
pub struct Conn {
    pub stream: TcpStream,
    pub reader: BufReader<TcpStream>,
}

impl Conn {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    /// Sends; the proxy may have gone away, which some tests want.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.stream.write_all(bytes.as_ref()));
    }

    pub fn head(&mut self) -> Option<String> {
        read_head(&mut self.reader)
    }

    /// A request with its body, whichever way it is framed.
    pub fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.head()?;
        let mut body = Vec::new();
        if let Some(length) = header(&head, "content-length") {
            body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut body).ok()?;
        } else if header(&head, "transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().filter(|c| !c.is_empty()) {
                body.extend(chunk);
            }
            let mut line = String::new();
            while self.reader.read_line(&mut line).ok()? > 2 {
                body.extend(format!("[{}]", line.trim()).bytes());
                line.clear();
            }
        }
        Some((head, body))
    }

    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok()?;
        let mut chunk = vec![0; usize::from_str_radix(line.trim(), 16).ok()?];
        self.reader.read_exact(&mut chunk).ok()?;
        if !chunk.is_empty() {
            self.reader.read_exact(&mut [0; 2]).ok()?;
        }
        Some(chunk)
    }

    /// Waits until the other side closes.
    pub fn wait_for_end(&mut self) {
        let mut rest = Vec::new();
        drop(self.reader.read_to_end(&mut rest));
    }
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "it never happened that {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
