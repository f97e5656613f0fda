//! Real servers for tests: a redis-server and a PostgreSQL on free ports of 127.0.0.1, with folders of their own. They can be
//! killed as by a power cut, started again on what they left, and stopped so that they answer nothing. They end with the test's
//! process at the latest, however that ends.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A redis-server.
pub(crate) struct Redis {
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    running: Option<Running>,
}

impl Redis {
    /// One that acknowledges what is on its disk.
    pub(crate) fn durable() -> Self {
        Self::start(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// One with these arguments.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut redis = Self {
            folder: TempDir::new().unwrap(),
            port: 0,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            running: None,
        };
        // Another process may take the port between two lines of this; then the next is tried.
        for _ in 0..10 {
            redis.port = free_port();
            if redis.serve() {
                return redis;
            }
        }
        panic!("no redis-server stayed up");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As by a power cut, but that what the kernel has is not lost.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// On the same port, with what is in its folder.
    pub(crate) fn restart(&mut self) {
        assert!(self.serve(), "redis-server did not come back");
    }

    /// It is there and answers nothing, until [`go_on`](Self::go_on).
    pub(crate) fn hang(&self) {
        self.running().signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.running().signal(Signal::CONT);
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it was killed")
    }

    fn serve(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &self.port.to_string(), "--dir"]);
        command.arg(self.folder.path()).args(&self.arguments);
        let running = Running::start(command, self.folder.path(), "redis-server", "redis-server");
        self.running = running.answers(|| pong(self.port));
        self.running.is_some()
    }
}

/// A PostgreSQL, whose superuser `postgres` needs no password.
pub(crate) struct Postgres {
    folder: TempDir,
    port: u16,
    binaries: PathBuf,
    user: Option<(u32, u32)>,
    arguments: Vec<String>,
    running: Option<Running>,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these settings (`name=value`).
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let user = someone_else();
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let arguments =
            settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]).collect();
        let binaries = postgres_binaries();
        let binaries = binaries.expect("these tests need PostgreSQL (Debian: apt-get install postgresql)");
        let mut postgres = Self { folder, port: 0, binaries, user, arguments, running: None };
        let made = postgres
            .command("initdb")
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        for _ in 0..10 {
            postgres.port = free_port();
            if postgres.serve() {
                return postgres;
            }
        }
        panic!("no PostgreSQL stayed up: {}", postgres.log());
    }

    pub(crate) fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// As by a power cut, but that what the kernel has is not lost.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// On the same port, with what is in its folder.
    pub(crate) fn restart(&mut self) {
        assert!(self.serve(), "PostgreSQL did not come back: {}", self.log());
    }

    /// It is there and answers nothing, until [`go_on`](Self::go_on).
    pub(crate) fn hang(&self) {
        self.running().signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.running().signal(Signal::CONT);
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it was killed")
    }

    fn command(&self, binary: &str) -> Command {
        let mut command = Command::new(self.binaries.join(binary));
        command.arg("-D").arg(self.folder.path().join("data")).current_dir(self.folder.path());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn serve(&mut self) -> bool {
        let mut command = self.command("postgres");
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "unix_socket_directories=", "-c", "max_connections=200"]).args(&self.arguments);
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        command.stderr(log);
        let running = Running::start(command, self.folder.path(), "PostgreSQL", "postgresql");
        self.running = running.answers(|| takes_connections(self.port));
        self.running.is_some()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// A server's process, with those that it has begotten. All of them are killed when this is dropped.
struct Running {
    server: Child,
    watch: Child,
}

impl Running {
    fn start(mut command: Command, folder: &Path, what: &str, package: &str) -> Self {
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let server = match started {
            Ok(server) => server,
            Err(error) => panic!("these tests need {what} (Debian: apt-get install {package}): {error}"),
        };
        // Reads until this process is gone, however that came, and then ends the server: a static is never dropped.
        let script = r#"cat >/dev/null
            kill -QUIT "$1" 2>/dev/null; kill -CONT "$1" 2>/dev/null
            while kill -0 "$1" 2>/dev/null; do sleep 0.1; done
            rm -rf "$2""#;
        let mut watch = Command::new("sh");
        watch.args(["-c", script, "sh", &server.id().to_string()]).arg(folder).process_group(0);
        let watch = watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { server, watch }
    }

    /// This, once it answers; `None` if it ended instead.
    fn answers(mut self, mut answers: impl FnMut() -> bool) -> Option<Self> {
        let begun = Instant::now();
        while self.server.try_wait().unwrap().is_none() {
            if answers() {
                return Some(self);
            }
            assert!(begun.elapsed() < PATIENCE, "it runs, and does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// To the server first, so that it begets no more, then to its children: PostgreSQL's are in sessions of their own.
    fn signal(&self, signal: Signal) {
        let server = i32::try_from(self.server.id()).unwrap();
        send(server, signal);
        for child in children(server) {
            send(child, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The watch first: the number of a process that is gone may become another's.
        let _gone = self.watch.kill();
        let _gone = self.watch.wait();
        // Stopped, it begets no more; and who its children are can be told only while it lives.
        let server = i32::try_from(self.server.id()).unwrap();
        send(server, Signal::STOP);
        let children = children(server);
        send(server, Signal::KILL);
        children.iter().for_each(|child| send(*child, Signal::KILL));
        let _gone = self.server.wait();
        // They hold its memory, and nobody could start on its folder before they are gone.
        let begun = Instant::now();
        while children.iter().any(|child| lives(*child)) {
            assert!(begun.elapsed() < PATIENCE, "killed, and still there");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn send(process: i32, signal: Signal) {
    // It may be gone already.
    let _gone = kill_process(Pid::from_raw(process).unwrap(), signal);
}

/// The children of a process, by `/proc`.
fn children(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process| state(*process).is_some_and(|(_, its)| its == parent))
        .collect()
}

/// Whether it does anything yet: one that is dead and was not asked for its end is still listed.
fn lives(process: i32) -> bool {
    state(process).is_some_and(|(state, _)| state != "Z")
}

/// A process's state, and its parent: `pid (name) state ppid ...`.
fn state(process: i32) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn pong(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let mut answer = [0; 5];
    // While it loads what it wrote before, it says so instead; without a password it says that it wants one.
    stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && [b"+PONG", b"-NOAU"].contains(&&answer)
}

/// Whether a start-up message is answered by a request for authentication (or its granting), and not by an error, as while it
/// recovers.
fn takes_connections(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(8 + parameters.len()).unwrap();
    let message = [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), parameters].concat();
    let mut answer = [0; 1];
    stream.write_all(&message).is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"R"
}

/// Whom PostgreSQL is to run as, if this is root, as whom it refuses to.
fn someone_else() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &str| {
        let user = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = user.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(of("postgres").or_else(|| of("nobody")).expect("neither `postgres` nor `nobody` is in /etc/passwd"))
}

/// Whether [`Postgres::start`] would find one.
pub(crate) fn postgres_is_installed() -> bool {
    postgres_binaries().is_some()
}

/// Where PostgreSQL's programs are: Debian's newest, or wherever the path leads.
fn postgres_binaries() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.into_iter().find(|folder| folder.join("initdb").exists())
}

/// For what takes a moment, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);
