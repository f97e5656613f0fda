//! Keys while the wall clock jumps by an hour, forward and back: libfaketime sets the clock of the proxy alone, while it runs and from
//! one life of it to the next. What measures time (`CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`) goes on, as it does when somebody sets a
//! clock.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::PATIENCE;
use crate::proxy::{self, Proxy};

#[test]
fn clocks_that_jump_while_the_proxy_runs_move_no_lease_and_no_retention() {
    let world = World::new();
    let proxy = Faked::start(&world);
    let kept = proxy.ask("/kept", "kept");
    assert_eq!((kept.status, kept.replayed), (200, false));
    let held = proxy.ask_behind("/held", "held");
    world.service.until(|visits| visits.get("held") == Some(&1));
    for hours in JUMPS {
        let short = format!("short {hours}");
        let begun = Instant::now();
        assert_eq!(proxy.ask("/short", &short).body, format!("{short} 1"));
        proxy.jump(hours);

        let busy = proxy.ask("/held", "held");
        assert_eq!((busy.status, busy.retry_after), (409, true), "{hours}: {}", busy.body);
        assert_eq!(world.service.visits("held"), 1, "{hours}: it was taken over");
        let again = proxy.ask("/kept", "kept");
        assert_eq!((again.replayed, &again.body), (true, &kept.body), "{hours}");
        proxy.forgets_in_its_time(&short, begun);
    }
    world.service.release();
    let done = held.join().unwrap();
    assert_eq!((done.status, done.body.as_str()), (200, "held 1"));
    for hours in JUMPS {
        proxy.jump(hours);
        let again = proxy.ask("/held", "held");
        assert_eq!((again.replayed, &again.body), (true, &done.body), "{hours}");
    }
}

#[test]
fn clocks_that_jump_from_one_life_of_the_proxy_to_the_next_move_no_retention() {
    let world = World::new();
    let mut proxy = Faked::start(&world);
    let kept = proxy.ask("/kept", "kept");
    assert_eq!((kept.status, kept.replayed), (200, false));
    for hours in JUMPS {
        let short = format!("short {hours}");
        let begun = Instant::now();
        assert_eq!(proxy.ask("/short", &short).body, format!("{short} 1"));
        proxy.process.kill(world.folder.path());
        world.set_clock(hours);
        proxy = Faked::start(&world);
        proxy.until_it_shows(hours);

        let again = proxy.ask("/kept", "kept");
        assert_eq!((again.replayed, &again.body), (true, &kept.body), "{hours}");
        proxy.forgets_in_its_time(&short, begun);
    }
}

/// By how many hours the clock is wrong, one after the other.
const JUMPS: [i64; 4] = [1, -1, 2, 0];

/// How long a result of `/short` is remembered.
const SHORT: Duration = Duration::from_secs(6);

/// A service and a clock.
struct World {
    folder: TempDir,
    service: Service,
}

impl World {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let world = Self { folder, service: Service::start() };
        world.set_clock(0);
        world
    }

    fn set_clock(&self, hours: i64) {
        std::fs::write(self.clock(), format!("{hours:+}h\n")).unwrap();
    }

    fn clock(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// A clock-driven proxy would take `/held` over and forget `/kept` after a jump forward, and keep `/short` after one back.
    fn config(&self) -> String {
        let route = |name: &str, rules: &str| {
            format!(
                "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"service\"\nclient_key = \"header:x-api-key\"\n{rules}"
            )
        };
        let long = "[route.idempotency]\nlease = \"10m\"\nunknown = \"retry\"\n";
        format!(
            "listen = \"127.0.0.1:0\"\nadmin = \"off\"\ndata = \"{}\"\n[idempotency]\nstore = \"embedded\"\ntimeout = \"1s\"\n\
             [upstream.service]\nendpoints = \"http://{}\"\ndeadline = \"5m\"\n\
             timeout.mode = \"off\"\nbreaker.mode = \"off\"\n{}{}{}",
            self.folder.path().join("data").display(),
            self.service.address,
            route("held", long),
            route("kept", &format!("{long}retention = \"30m\"\n")),
            route(
                "short",
                &format!(
                    "deadline = \"1s\"\n[route.idempotency]\nlease = \"3s\"\nretention = \"{}s\"\n",
                    SHORT.as_secs()
                )
            ),
        )
    }
}

/// A proxy that takes the world's clock for its own.
struct Faked<'a> {
    world: &'a World,
    process: Proxy,
    address: SocketAddr,
}

impl<'a> Faked<'a> {
    fn start(world: &'a World) -> Self {
        let (library, clock) = (library(), world.clock());
        let variables = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let mut process = Proxy::start(world.folder.path(), &world.config(), &variables);
        let address = process.address(world.folder.path());
        Self { world, process, address }
    }

    fn jump(&self, hours: i64) {
        self.world.set_clock(hours);
        self.until_it_shows(hours);
    }

    /// Waits until the proxy's own clock is wrong by so much, as the line tells that it logs of a call.
    fn until_it_shows(&self, hours: i64) {
        let begun = Instant::now();
        loop {
            ask(self.address, "GET", "/none", "");
            let line = proxy::said(self.world.folder.path()).lines().last().unwrap_or_default().to_owned();
            let off_by = seconds_of_day(&line).map(|shown| shown - seconds_of_this_day());
            // Of a day, so that it may be over meanwhile; and some minutes for the time between the two.
            if off_by.is_some_and(|off_by| (off_by - hours * 3600 + 300).rem_euclid(86_400) < 600) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the proxy's clock should be off by {hours} h: {line}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ask(&self, path: &str, key: &str) -> Told {
        ask(self.address, "POST", path, key)
    }

    fn ask_behind(&self, path: &'static str, key: &'static str) -> JoinHandle<Told> {
        let address = self.address;
        std::thread::spawn(move || ask(address, "POST", path, key))
    }

    /// What was asked for since `begun` is replayed until its retention is over, and then carried out again.
    fn forgets_in_its_time(&self, key: &str, begun: Instant) {
        loop {
            let told = self.ask("/short", key);
            assert_eq!(told.status, 200, "{}", told.body);
            if !told.replayed {
                assert_eq!(told.body, format!("{key} 2"));
                // It began later than we asked for it.
                assert!(begun.elapsed() >= SHORT, "{key} was forgotten after {:?}", begun.elapsed());
                return;
            }
            assert_eq!(told.body, format!("{key} 1"));
            assert!(begun.elapsed() < PATIENCE, "{key} is not forgotten");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

struct Told {
    status: u16,
    replayed: bool,
    retry_after: bool,
    body: String,
}

fn ask(address: SocketAddr, method: &str, path: &str, key: &str) -> Told {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: a\r\nx-api-key: a\r\nidempotency-key: \"{key}\"\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {text:?}"));
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    Told {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        replayed: header("idempotent-replayed").as_deref() == Some("true"),
        retry_after: header("retry-after").is_some(),
        body: body.to_owned(),
    }
}

/// Of `{"time":"2026-11-24T11:57:42.013Z",...`.
fn seconds_of_day(line: &str) -> Option<i64> {
    let (_, time) = line.strip_prefix(r#"{"time":""#)?.split_once('T')?;
    let time = time.get(..8)?;
    time.split(':').try_fold(0, |sum, part| Some(sum * 60 + part.parse::<i64>().ok()?))
}

/// The machine's.
#[expect(clippy::disallowed_methods, reason = "the proxy's clock is compared with the machine's")]
fn seconds_of_this_day() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs() % 86_400).unwrap()
}

/// A service that answers each request with its key and how often that came; at `/held` once it is released.
struct Service {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    visits: HashMap<String, u32>,
    released: bool,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), shared.clone());
                // A connection without a request, or one that breaks, is the proxy's business.
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { address, state }
    }

    fn visits(&self, key: &str) -> u32 {
        self.state.0.lock().unwrap().visits.get(key).copied().unwrap_or(0)
    }

    fn until(&self, so: impl Fn(&HashMap<String, u32>) -> bool) {
        let (state, changed) = &*self.state;
        let waited = changed.wait_timeout_while(state.lock().unwrap(), PATIENCE, |state| !so(&state.visits));
        assert!(!waited.unwrap().1.timed_out(), "the service is not asked");
    }

    fn release(&self) {
        self.state.0.lock().unwrap().released = true;
        self.state.1.notify_all();
    }
}

fn serve(stream: &TcpStream, (state, changed): &(Mutex<State>, Condvar)) {
    let head: Vec<String> =
        BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let Some(held) = head.first().map(|line| line.contains(" /held ")) else { return };
    let key = head.iter().find_map(|line| line.strip_prefix("idempotency-key: ")).unwrap_or("none");
    let key = key.trim_matches('"').to_owned();
    let mut now = state.lock().unwrap();
    let count = now.visits.entry(key.clone()).or_default();
    *count += 1;
    let body = format!("{key} {count}");
    changed.notify_all();
    drop(changed.wait_while(now, |state| held && !state.released).unwrap());
    let answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let mut stream = stream;
    // The proxy may have been killed meanwhile.
    let _broken = stream.write_all(answer.as_bytes());
}

/// Where libfaketime is.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let mut libraries = folders.chain(["/usr/local/lib".into()]).map(|folder| folder.join(LIBRARY));
    libraries.find(|library| Path::exists(library)).unwrap_or_else(|| {
        panic!("these tests need {LIBRARY} below /usr/lib (Debian: apt-get install libfaketime)")
    })
}

const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
