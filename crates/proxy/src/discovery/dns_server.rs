//! A real DNS server for tests: dnsmasq on a free port of this machine, answering from a file that the test writes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use seaworthy_config::Discovery;
use tokio::sync::mpsc::UnboundedReceiver;

use super::News;

/// The server; it ends with the test.
pub(super) struct Server {
    port: u16,
    folder: PathBuf,
    extra: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// A server that knows these lines of a hosts file, for names below `test`.
    pub(super) fn start(lines: &[&str]) -> Self {
        Self::start_with(lines, &[])
    }

    /// The same with further arguments.
    pub(super) fn start_with(lines: &[&str], extra: &[&str]) -> Self {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("seaworthy-dns-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let extra = extra.iter().map(|text| (*text).to_owned()).collect();
        let mut server = Self { port, folder, extra, child: None };
        server.write(lines);
        server.restart();
        server
    }

    /// How this server is asked.
    pub(super) fn discovery(&self) -> Discovery {
        let mut discovery = Discovery::default();
        discovery.resolvers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))];
        discovery.ttl_floor = Duration::from_millis(20);
        discovery
    }

    /// Replaces what it knows.
    pub(super) fn write(&self, lines: &[&str]) {
        std::fs::write(self.hosts(), lines.join("\n") + "\n").unwrap();
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), Signal::HUP).unwrap();
        }
    }

    pub(super) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(super) fn restart(&mut self) {
        self.stop();
        let mut command = Command::new(program());
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"])
            .args(["--local=/test/", "--bind-interfaces", "--listen-address=127.0.0.1", "--log-queries"])
            // One second is the shortest time to live that is not zero.
            .args(["--local-ttl=1", "--pid-file=", "--user=", "--group="])
            .arg(format!("--port={}", self.port))
            .arg(format!("--addn-hosts={}", self.hosts().display()))
            .arg(format!("--log-facility={}", self.log().display()))
            .args(&self.extra)
            .stdin(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("dnsmasq can't be started ({error}); these tests need it: apt-get install dnsmasq-base")
        });
        self.child = Some(child);
        self.wait_until_it_listens();
    }

    /// Whether it was asked for `name` so often.
    pub(super) fn count(&self, name: &str) -> usize {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().filter(|line| line.contains(&format!("] {name} from"))).count()
    }

    /// Waits until it was asked for `name` so often.
    pub(super) async fn asked(&self, times: usize, name: &str) {
        while self.count(name) < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn wait_until_it_listens(&mut self) {
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "dnsmasq ended at once: {ended:?}, see {}", self.log().display());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn hosts(&self) -> PathBuf {
        self.folder.join("hosts")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.folder).unwrap();
        }
    }
}

/// The addresses that are told next; what is told as trouble before is passed over.
pub(super) async fn told(news: &mut UnboundedReceiver<News>) -> Vec<String> {
    loop {
        if let News::Targets(targets) = news.recv().await.unwrap() {
            return targets.iter().map(|target| format!("{}:{}", target.host, target.port)).collect();
        }
    }
}

/// The trouble that must be told next.
pub(super) async fn trouble(news: &mut UnboundedReceiver<News>) -> String {
    match news.recv().await.unwrap() {
        News::Trouble(text) => text,
        News::Targets(targets) => panic!("expected trouble, was told {targets:?}"),
    }
}

/// Debian keeps daemons in sbin, which is not always on a user's path.
fn program() -> &'static str {
    let usual = "/usr/sbin/dnsmasq";
    if Path::new(usual).exists() { usual } else { "dnsmasq" }
}

/// A port that is free for both protocols, below those that the system gives to connections, so that it stays free until the
/// server is there. Tests that run at the same time begin to look in different places.
fn free_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(31).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed) * 997);
    let ports = (0..8000).map(|step| 20_000 + (start.wrapping_add(step) % 8000) as u16);
    let is_free = |port: &u16| {
        let at = (Ipv4Addr::LOCALHOST, *port);
        TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
    };
    ports.into_iter().find(is_free).unwrap()
}
