//! `seaworthy keys`, against a proxy in a process of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;
#[path = "../../seaworthy/tests/servers/mod.rs"]
mod servers;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::shop::{Process, eventually};
use common::{file, seaworthy, stderr, stdout};
use nix::sys::signal::Signal;
use serde_json::Value;

/// An upstream that counts, hangs up on the first request to `/lost`, and never answers the first to `/stuck`.
fn upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, count) = (stream.unwrap(), count.clone());
            std::thread::spawn(move || {
                while let Some((line, _)) = message(&mut BufReader::new(&stream)) {
                    let n = count.fetch_add(1, Ordering::SeqCst) + 1;
                    if n == 1 && line.starts_with("POST /lost ") {
                        return;
                    }
                    if n == 1 && line.starts_with("POST /stuck ") {
                        continue;
                    }
                    let head = "HTTP/1.1 201 Created\r\nlocation: /orders/7\r\ncontent-length";
                    // The proxy may have gone.
                    let answer = format!("{head}: {}\r\n\r\n{n}", n.to_string().len());
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
        }
    });
    (address, asked)
}

/// The first line of a message, and its body; `None` at the end of the connection.
fn message(reader: &mut impl BufRead) -> Option<(String, String)> {
    let (mut first, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        first.get_or_insert(line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first?, String::from_utf8(body).unwrap()))
}

/// A proxy that keeps keys, by default in its memory.
struct Proxy {
    process: Process,
    _stdout: Box<dyn BufRead>,
    address: SocketAddr,
    admin: String,
    log: PathBuf,
}

impl Proxy {
    fn start(name: &str, upstream: SocketAddr) -> Self {
        Self::keeping(name, "[idempotency]\nstore = \"memory\"", upstream)
    }

    /// One whose keys are where `store` says.
    fn keeping(name: &str, store: &str, upstream: SocketAddr) -> Self {
        let path = file(
            &format!("{name}.toml"),
            &format!(
                "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n{store}\n[upstream.app]\n\
                 endpoints = \"http://{upstream}\"\nbreaker.mode = \"off\"\ndeadline = \"2s\"\n[[route]]\nname = \"/pay\"\n\
                 path = \"/pay\"\nupstream = \"app\"\n[route.idempotency]\n[[route]]\nname = \"rest\"\nupstream = \"app\"\n\
                 [route.idempotency]\nlease = \"4s\"\n"
            ),
        );
        let log = path.with_extension("log");
        let mut command = seaworthy();
        command.args(["run", "--leashed"]).arg(path).stderr(File::create(&log).unwrap());
        let (process, mut stdout) = Process::start(&mut command);
        let (mut address, mut admin) = (None, None);
        while address.is_none() || admin.is_none() {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "{}", std::fs::read_to_string(&log).unwrap());
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["listen", at, ..] => address = at.parse().ok(),
                ["admin", at, ..] => admin = at.strip_prefix("http://").map(str::to_owned),
                _ => {}
            }
        }
        let stdout = Box::new(stdout);
        Self { process, _stdout: stdout, address: address.unwrap(), admin: admin.unwrap(), log }
    }

    /// Kills it while it waits for the upstream's answer to a request to `/stuck`.
    fn kill_in_the_middle(mut self, key: &str, asked: &AtomicUsize) {
        let client = self.send("/stuck", key);
        eventually("the upstream has got it", || asked.load(Ordering::SeqCst) == 1);
        self.process.signal(Signal::SIGKILL);
        self.process.wait();
        let nothing = message(&mut BufReader::new(client));
        assert_eq!(nothing, None, "nobody was told anything");
    }

    fn send(&self, path: &str, key: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\nidempotency-key: {key}\r\ncontent-length: 1");
        stream.write_all(format!("{head}\r\n\r\na").as_bytes()).unwrap();
        stream
    }

    /// Status and body.
    fn post(&self, path: &str, key: &str) -> (u16, String) {
        let stream = self.send(path, key);
        let (line, body) = message(&mut BufReader::new(stream)).unwrap();
        (line.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    fn keys(&self, arguments: &[&str]) -> Output {
        seaworthy().arg("keys").args(arguments).args(["--admin", &self.admin]).output().unwrap()
    }

    /// What the command prints when all goes well.
    fn told(&self, arguments: &[&str]) -> String {
        let output = self.keys(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output).to_owned()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.told(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// Why the command fails.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.keys(arguments);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        stderr(&output).to_owned()
    }

    /// The value of a metric without labels, if there is one.
    fn metric(&self, name: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let (_, metrics) = message(&mut BufReader::new(stream)).unwrap();
        let start = format!("{name} ");
        metrics.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    }

    /// The events that concern the store: level and notice.
    fn notices(&self) -> Vec<(String, String)> {
        let log = fs::read_to_string(&self.log).unwrap();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let events = events.filter(|line| line["event"] == "idempotency");
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        events.map(|event| (word(&event["level"]), word(&event["notice"]))).collect()
    }

    /// The id of the only key.
    fn id(&self) -> String {
        let line = self.told(&["list"]);
        assert_eq!(line.lines().count(), 1, "{line}");
        line.split("  ").next().unwrap().to_owned()
    }
}

#[test]
fn a_lost_operation_is_found_released_and_carried_out_again() {
    let (upstream, asked) = upstream();
    let proxy = Proxy::start("keys-lost", upstream);
    assert_eq!(proxy.post("/lost", "order/7 of 9").0, 400, "a bare key has no space");
    assert_eq!(proxy.post("/lost", "\"order/7 of 9\"").0, 502);
    assert_eq!(proxy.post("/lost", "\"order/7 of 9\"").0, 409);

    let id = proxy.id();
    assert!(id.starts_with("rest/") && id.ends_with("/order/7 of 9"), "{id}");
    let told = proxy.told(&["release", &id, "--reason", "the bank has no trace of it"]);
    assert!(told.contains("phase       unknown") && told.trim_end().ends_with("released"), "{told}");
    assert_eq!(proxy.post("/lost", "\"order/7 of 9\""), (201, "2".to_owned()));
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    let audit = proxy.told(&["audit"]);
    assert!(audit.contains(&format!("{id}  unknown, token 1: the bank has no trace of it")), "{audit}");
    eventually("the log tells of it", || {
        let log = std::fs::read_to_string(&proxy.log).unwrap();
        let line = log.lines().find(|line| line.contains("\"key_released\""));
        line.is_some_and(|line| line.contains("\"warn\"") && line.contains("the bank has no trace of it"))
    });
}

#[test]
fn what_a_kill_left_is_found_as_unknown_and_released() {
    let (upstream, asked) = upstream();
    let data = tempfile::tempdir().unwrap();
    let store = format!("data = \"{}\"\n[idempotency]", data.path().display());
    Proxy::keeping("keys-killed", &store, upstream).kill_in_the_middle("order-7", &asked);

    let proxy = Proxy::keeping("keys-killed", &store, upstream);
    let (status, text) = proxy.post("/stuck", "order-7");
    assert!(status == 409 && text.contains("nobody knows"), "{status}: {text}");
    let line = proxy.told(&["list", "--phase", "unknown"]);
    assert!(line.contains("/order-7  unknown  token 1  "), "{line}");
    assert_eq!(proxy.told(&["list", "--phase", "running"]), "");
    let id = proxy.id();
    let shown = proxy.told(&["show", &id]);
    assert!(shown.contains("phase       unknown, as whoever carried it out is gone"), "{shown}");
    let json = proxy.json(&["show", &id]);
    assert_eq!(
        (&json["orphaned"], &json["past_lease"], &json["age_by"]),
        (&true.into(), &false.into(), &"store".into())
    );

    let told = proxy.told(&["release", &id, "--reason", "never charged"]);
    assert!(told.trim_end().ends_with("released"), "{told}");
    assert_eq!(proxy.post("/stuck", "order-7"), (201, "2".to_owned()));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn what_a_kill_left_in_a_server_is_found_past_its_lease_and_released() {
    let (upstream, asked) = upstream();
    let redis = servers::Redis::durable();
    let store = format!("[redis]\nurl = \"{}\"\n[idempotency]\nstore = \"redis\"", redis.url());
    Proxy::keeping("keys-left", &store, upstream).kill_in_the_middle("order-7", &asked);

    let proxy = Proxy::keeping("keys-left", &store, upstream);
    eventually("its lease is over", || !proxy.told(&["list", "--phase", "unknown"]).is_empty());
    let line = proxy.told(&["list", "--phase", "unknown"]);
    assert!(line.contains("/order-7  running, past its lease  token 1  "), "{line}");
    let id = proxy.id();
    let shown = proxy.told(&["show", &id]);
    assert!(shown.contains("phase       running, past its lease"), "{shown}");
    proxy.told(&["release", &id, "--reason", "never charged"]);
    assert_eq!(proxy.post("/stuck", "order-7"), (201, "2".to_owned()));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn what_is_damaged_is_told_and_can_be_released() {
    let (upstream, asked) = upstream();
    let redis = servers::Redis::durable();
    let store = format!("[redis]\nurl = \"{}\"\n[idempotency]\nstore = \"redis\"", redis.url());
    let proxy = Proxy::keeping("keys-damaged", &store, upstream);
    assert_eq!(proxy.post("/pay", "order-7").0, 201);
    let id = proxy.id();
    let script =
        "for _, name in ipairs(redis.call('KEYS', '*')) do redis.call('HSET', name, 'phase', 'bogus') end";
    let mut stream = TcpStream::connect(redis.url().trim_start_matches("redis://")).unwrap();
    stream.write_all(format!("EVAL \"{script}\" 0\r\n").as_bytes()).unwrap();
    assert!(message_line(&stream).starts_with('$'), "nothing is what the script gives");

    assert_eq!(proxy.post("/pay", "order-7").0, 503);
    let listed = proxy.keys(&["list"]);
    assert_eq!((stdout(&listed), listed.status.code()), ("", Some(0)));
    assert!(stderr(&listed).contains("1 more can't be read"), "{}", stderr(&listed));
    assert!(proxy.told(&["show", &id]).contains("damaged     "), "{}", proxy.told(&["show", &id]));
    let unnamed = proxy.keys(&["release", &id, "--reason", "never charged"]);
    assert!(
        !unnamed.status.success() && stderr(&unnamed).contains("only the store itself"),
        "{}",
        stderr(&unnamed)
    );
    proxy.told(&["release", &id, "--token", "1", "--reason", "never charged"]);
    assert_eq!(proxy.post("/pay", "order-7"), (201, "2".to_owned()));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

fn message_line(stream: &TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn that_a_server_of_keys_is_gone_and_that_it_is_back_is_logged_once_each() {
    let (upstream, _) = upstream();
    let mut redis = servers::Redis::durable();
    let store = format!("[redis]\nurl = \"{}\"\n[idempotency]\nstore = \"redis\"", redis.url());
    let proxy = Proxy::keeping("keys-down", &store, upstream);
    let up = || proxy.metric("seaworthy_idempotency_store_up");
    eventually("it is known to be up", || up().as_deref() == Some("1"));
    assert_eq!(proxy.notices(), []);
    assert_eq!(proxy.metric("seaworthy_redis_up"), None, "no rate is counted in Redis");

    redis.kill();
    for n in 0..20 {
        assert_eq!(proxy.post("/pay", &format!("k{n}")).0, 503);
    }
    assert_eq!(up().as_deref(), Some("0"));
    eventually("the log says so", || !proxy.notices().is_empty());
    redis.restart();
    eventually("it is back", || up().as_deref() == Some("1"));
    eventually("the log says so", || proxy.notices().len() > 1);
    assert_eq!(proxy.post("/pay", "k").0, 201);
    let notices = proxy.notices();
    let [(warn, down), (info, again)] = &notices[..] else { panic!("{notices:?}") };
    assert!(warn == "warn" && down.contains("is down"), "{notices:?}");
    assert!(info == "info" && again.contains("answers again"), "{notices:?}");
}

#[test]
fn a_server_of_keys_that_was_never_there_is_logged_without_any_request() {
    let (upstream, _) = upstream();
    let store = "[idempotency]\nstore = \"postgres\"\nurl = \"postgresql://postgres@127.0.0.1:1/postgres\"";
    let proxy = Proxy::keeping("keys-absent", store, upstream);
    eventually("the log says so", || !proxy.notices().is_empty());
    assert_eq!(proxy.metric("seaworthy_idempotency_store_up").as_deref(), Some("0"));
    assert_eq!(proxy.notices()[0].0, "warn");
}

#[test]
fn a_damaged_file_is_an_error_and_that_it_can_be_used_again_is_none() {
    let (upstream, _) = upstream();
    let data = tempfile::tempdir().unwrap();
    let store = format!("data = \"{}\"\n[idempotency]", data.path().display());
    let proxy = Proxy::keeping("keys-damaged", &store, upstream);
    assert_eq!(proxy.post("/pay", "k").0, 201);
    assert_eq!(proxy.metric("seaworthy_idempotency_store_up").as_deref(), Some("1"));
    drop(proxy);
    fs::write(data.path().join("idempotency.redb"), "nothing that was ever written").unwrap();

    let proxy = Proxy::keeping("keys-damaged", &store, upstream);
    assert_eq!(proxy.metric("seaworthy_idempotency_store_up").as_deref(), Some("0"));
    fs::remove_file(data.path().join("idempotency.redb.seen")).unwrap();
    eventually("it begins anew", || proxy.metric("seaworthy_idempotency_store_up").as_deref() == Some("1"));
    eventually("the log says so", || proxy.notices().last().is_some_and(|(level, _)| level == "info"));
    let notices = proxy.notices();
    assert!(notices[0].0 == "error" && notices[0].1.contains("damaged"), "{notices:?}");
    assert!(notices.last().unwrap().1.contains("can be used again"), "{notices:?}");
}

#[test]
fn what_no_longer_stands_as_shown_is_not_released() {
    let (upstream, asked) = upstream();
    let proxy = Proxy::start("keys-moved", upstream);
    proxy.post("/pay", "k");
    let id = proxy.id();
    let said = proxy.refused(&["release", &id, "--reason", "why", "--token", "7"]);
    assert!(said.contains("it stands under token 1, not 7; nothing was released"), "{said}");
    assert_eq!(proxy.post("/pay", "k"), (201, "1".to_owned()));
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let said = proxy.refused(&["release", &format!("{id}x"), "--reason", "why"]);
    assert!(said.contains("nothing is kept of"), "{said}");
    assert_eq!(stdout(&proxy.keys(&["audit"])), "");
}

#[test]
fn a_listing_is_paged_to_its_end_and_has_a_bound() {
    let (upstream, _) = upstream();
    let proxy = Proxy::start("keys-many", upstream);
    for n in 0..230 {
        proxy.post("/pay", &format!("pay-{n}"));
    }
    proxy.post("/other", "other");
    assert_eq!(proxy.told(&["list"]).lines().count(), 231);
    assert_eq!(proxy.told(&["list", "--place", "/pay"]).lines().count(), 230);
    assert_eq!(proxy.told(&["list", "--phase", "free"]), "");
    let other = proxy.told(&["list", "--place", "rest", "--phase", "done"]);
    assert!(other.contains("/other  done  token 1  ") && other.trim_end().ends_with("201"), "{other}");

    let some = proxy.keys(&["list", "--most", "150"]);
    assert_eq!(stdout(&some).lines().count(), 150);
    assert!(stderr(&some).contains("the first 150; there may be more"), "{}", stderr(&some));
    let some = proxy.json(&["list", "--most", "2"]);
    assert_eq!((some["keys"].as_array().unwrap().len(), &some["more"]), (2, &Value::Bool(true)));
    let all = proxy.json(&["list", "--most", "231"]);
    assert_eq!((all["keys"].as_array().unwrap().len(), &all["more"]), (231, &Value::Bool(false)));
}

#[test]
fn one_key_is_shown_for_people_and_for_programs() {
    let (upstream, _) = upstream();
    let proxy = Proxy::start("keys-one", upstream);
    proxy.post("/pay", "k");
    let id = proxy.id();
    let text = proxy.told(&["show", &id]);
    for part in [
        &*id,
        "phase       done",
        "token       1",
        "answer      201, a body of 1 bytes",
        "location: /orders/7",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let shown = proxy.json(&["show", &id]);
    assert_eq!((shown["id"].as_str(), shown["answer"]["status"].as_u64()), (Some(&*id), Some(201)));
    let released = proxy.json(&["release", &id, "--reason", " twice "]);
    assert_eq!((released["reason"].as_str(), released["token"].as_u64()), (Some("twice"), Some(1)));
}

#[test]
fn the_log_tells_a_replay_from_what_it_replays() {
    let (upstream, _) = upstream();
    let proxy = Proxy::start("keys-log", upstream);
    proxy.post("/pay", "k");
    proxy.post("/pay", "k");
    eventually("both are logged", || {
        let log = std::fs::read_to_string(&proxy.log).unwrap();
        let has = |replayed: &str| log.contains(&format!("\"replayed\":{replayed},\"fencing_token\":1"));
        has("false") && has("true")
    });
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_what_is_wrong() {
    let id = "pay/0f3a9c51d2e84b7786aa01c4e5d9b320/k";
    for (arguments, said) in [
        (&["show", "pay/ann/k"][..], "place/client/key"),
        (&["release", id], "--reason"),
        (&["release", id, "--reason", " "], "say why"),
        (&["list", "--phase", "lost"], "unknown"),
        (&["list", "--most", "0"], "--most"),
    ] {
        let output = seaworthy().arg("keys").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(said), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn every_part_explains_itself_with_an_example() {
    for part in
        [&["keys"][..], &["keys", "list"], &["keys", "show"], &["keys", "release"], &["keys", "audit"]]
    {
        let output = seaworthy().args(part).arg("--help").output().unwrap();
        assert!(output.status.success());
        let text = stdout(&output);
        assert!(
            text.contains("Example") && text.contains(&format!("seaworthy {}", part.join(" "))),
            "{text}"
        );
    }
}

#[test]
fn a_proxy_without_a_store_says_so() {
    let (upstream, _) = upstream();
    let proxy = common::shop::Proxy::start(
        "keys-without.toml",
        &format!("[upstream.app]\nendpoints = \"http://{upstream}\"\n"),
    );
    let output = seaworthy().args(["keys", "list", "--admin", &proxy.admin.to_string()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no table [idempotency]"), "{}", stderr(&output));
}
