//! Rates that two proxies count together in one Redis, and what each does while that is down.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{file, seaworthy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// The burst of every rate here; of an hourly rate that is all there is while a test runs.
const BURST: usize = 10;

#[test]
fn two_proxies_share_a_rate_and_each_client_has_its_own() {
    let redis = Redis::start();
    let proxies = ["a", "b"].map(|name| proxy(&format!("rates-share-{name}"), redis.port, "refuse"));
    let statuses = |client: &str| -> Vec<u16> {
        (0..2 * BURST).map(|n| ask(&proxies[n % 2].address, client).status).collect()
    };
    for client in ["ann", "bob"] {
        let statuses = statuses(client);
        assert_eq!(statuses[..BURST], [200; BURST], "{client}");
        assert_eq!(statuses[BURST..], [429; BURST], "{client}");
    }
    let refused = ask(&proxies[0].address, "ann");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&wait), "{wait}");
    assert!(refused.text.contains("more calls came than the rate allows"), "{}", refused.text);
}

#[test]
fn while_redis_hangs_or_is_dead_each_does_what_it_was_told() {
    let mut redis = Redis::start();
    let proxies = ["local", "allow", "refuse"]
        .map(|when_down| (when_down, proxy(&format!("rates-down-{when_down}"), redis.port, when_down)));
    // All three count together while they can.
    for (when_down, proxy) in &proxies {
        assert_eq!(ask(&proxy.address, "before").status, 200, "{when_down}");
    }
    redis.signal(Signal::SIGSTOP);
    for (when_down, proxy) in &proxies {
        does_as_told(when_down, proxy, "hangs");
    }
    redis.signal(Signal::SIGCONT);
    proxies.iter().for_each(|(_, proxy)| counts_together(proxy, &proxies[2].1, "back"));
    redis.kill();
    for (when_down, proxy) in &proxies {
        does_as_told(when_down, proxy, "dead");
    }
    redis.restart();
    proxies.iter().for_each(|(_, proxy)| counts_together(proxy, &proxies[2].1, "new"));
}

fn does_as_told(when_down: &str, proxy: &Proxy, client: &str) {
    let answers: Vec<Answer> = (0..BURST + 2).map(|_| ask(&proxy.address, client)).collect();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    let expected = match when_down {
        "local" => [vec![200; BURST], vec![429; 2]].concat(),
        "allow" => vec![200; BURST + 2],
        _ => vec![503; BURST + 2],
    };
    assert_eq!(statuses, expected, "{when_down}, {client}");
    if when_down == "refuse" {
        let refused = &answers[0];
        assert!(refused.text.contains("can't be asked"), "{}", refused.text);
        assert!(refused.header("retry-after").is_some(), "{}", refused.text);
    }
}

/// Waits until what one proxy admits is missing at the other: then both ask Redis again.
fn counts_together(one: &Proxy, other: &Proxy, client: &str) {
    let begun = Instant::now();
    for round in 0.. {
        assert!(begun.elapsed() < PATIENCE, "they don't count together again");
        let client = format!("{client}-{}-{round}", one.address);
        let spent = (0..BURST).all(|_| ask(&one.address, &client).status == 200);
        if spent && ask(&one.address, &client).status == 429 && ask(&other.address, &client).status == 429 {
            return;
        }
    }
}

/// A proxy with one rate, by the header `client`.
fn proxy(name: &str, redis: u16, when_down: &str) -> Proxy {
    let path = file(
        &format!("{name}.toml"),
        &format!(
            "listen = \"127.0.0.1:0\"\nadmin = \"off\"\n\
             [redis]\nurl = \"redis://127.0.0.1:{redis}\"\ntimeout = \"1s\"\n\
             [upstream.a]\nendpoints = \"http://{}\"\n\
             [[route]]\nname = \"metered\"\npath = \"/\"\nupstream = \"a\"\nclient_key = \"header:client\"\n\
             [route.rate]\ncalls = 1\nper = \"1h\"\nburst = {BURST}\nstore = \"redis\"\nwhen_down = \"{when_down}\"\n",
            service()
        ),
    );
    let mut command = seaworthy();
    command.arg("run").arg(path).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address =
        lines.find_map(|line| line.trim().strip_prefix("listen").map(|rest| rest.trim().to_owned())).unwrap();
    // It may write more, and must not wait for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    Proxy { _process: Ended(child), address }
}

struct Proxy {
    _process: Ended,
    address: String,
}

struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.text.split("\r\n").take_while(|line| !line.is_empty());
        lines.find_map(|line| {
            line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        })
    }
}

fn ask(address: &str, client: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\nclient: {client}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    Answer { status: text.split(' ').nth(1).unwrap().parse().unwrap(), text }
}

/// A service that answers every connection's first request with `hello`, for as long as the test process lives.
fn service() -> SocketAddr {
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

/// A process that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// A redis-server of the test's own.
struct Redis {
    process: Ended,
    port: u16,
}

impl Redis {
    fn start() -> Self {
        // Another process may take the port between two lines of this; then the next is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(process) = serve(port) {
                return Self { process, port };
            }
        }
        panic!("no redis-server stayed up");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.0.id()).unwrap()), signal).unwrap();
    }

    fn kill(&mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = serve(self.port).unwrap();
    }
}

/// A server that answers, or none if it ended at once.
fn serve(port: u16) -> Option<Ended> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
    let mut process = match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
        Ok(child) => Ended(child),
        Err(error) => panic!("these tests need redis-server (Debian: apt-get install redis-server): {error}"),
    };
    let begun = Instant::now();
    while process.0.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "redis-server does not answer");
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port))
            && stream.write_all(b"PING\r\n").is_ok()
        {
            let mut answer = [0; 5];
            if stream.read_exact(&mut answer).is_ok() && &answer == b"+PONG" {
                return Some(process);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}
