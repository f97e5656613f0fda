//! `seaworthy run` as a process: what it says, what it serves, how it ends.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{file, run, seaworthy, stderr};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn one_flag_puts_a_proxy_in_front_of_a_service() {
    let to = format!("http://{}", service());
    let mut proxy = Running::start(&["run", "--to", &to, "--listen", &free_address(), "--admin", "off"]);
    let address = proxy.until("listen");
    assert_eq!(proxy.until("admin"), "off");
    assert!(proxy.until("on:").contains("breaker"));
    assert!(get(&address).ends_with("hello"), "from {address}");
    assert_eq!(proxy.told(Signal::SIGTERM), Some(0));
}

#[test]
fn a_file_does_the_same_and_ctrl_c_ends_it() {
    let listen = free_address();
    let text = format!(
        "listen = \"{listen}\"\nadmin = \"off\"\n[upstream.a]\nendpoints = \"http://{}\"\n",
        service()
    );
    let path = file("run-serves.toml", &text);
    let mut proxy = Running::start(&["run", path.to_str().unwrap()]);
    assert_eq!(proxy.until("listen"), listen);
    assert!(get(&listen).ends_with("hello"));
    assert_eq!(proxy.told(Signal::SIGINT), Some(0));
}

#[test]
fn mistakes_are_told_all_at_once() {
    let path = file("run-wrong.toml", "[upstream.a]\nendpoints = \"x\"\nretry.attemps = 3\n");
    let output = run(&["run", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("2 errors"), "{}", stderr(&output));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["run", "--to", "http://127.0.0.1:1", "--listen", &address, "--admin", "off"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
}

#[test]
#[cfg(target_os = "linux")]
fn it_takes_as_many_open_files_as_it_may() {
    let limit = |pid: u32| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        let mut numbers = line.split_whitespace().skip(3);
        (numbers.next().unwrap().to_owned(), numbers.next().unwrap().to_owned())
    };
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 256 && exec \"$0\" \"$@\""]).arg(seaworthy().get_program());
    command.args(["run", "--to", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", "off"]);
    let mut proxy = Running::of(command);
    proxy.until("listen");
    let (soft, hard) = limit(proxy.child.id());
    proxy.child.kill().unwrap();
    proxy.child.wait().unwrap();
    assert_eq!(soft, hard);
}

/// A proxy that runs.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = seaworthy();
        command.args(arguments);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads to the line that begins with `word`, and gives the rest of it.
    fn until(&mut self, word: &str) -> String {
        let mut lines = self.lines.by_ref().map(Result::unwrap);
        lines.find_map(|line| line.trim().strip_prefix(word).map(|rest| rest.trim().to_owned())).unwrap()
    }

    /// Sends it a signal and waits for its end.
    fn told(&mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only a test that failed finds it alive.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service that answers every connection's first request with `hello`, for as long as the test process lives.
fn service() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
            while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
                .unwrap();
        }
    });
    address
}

/// An address that nobody listened on a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The whole answer to a request.
fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
