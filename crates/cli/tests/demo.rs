//! `seaworthy demo` end to end: real processes, real signals.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{run, seaworthy, stderr};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

#[test]
fn ten_seconds_show_what_seaworthy_is_worth() {
    let output = run(&["demo", "--for", "10s", "--seed", "7", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (direct, through) = (&report["direct"], &report["through"]);
    for side in [direct, through] {
        for key in ["calls", "success_rate", "p50_ms", "p99_ms", "attempts_per_call"] {
            assert!(side[key].is_number(), "{key} in {side}");
        }
    }
    // The same schedule both ways, and nothing lost from the books: 1500 calls, orders among them.
    assert_eq!(direct["calls"], through["calls"]);
    assert_eq!(direct["orders"]["calls"], through["orders"]["calls"]);
    let calls = |side: &Value| side["calls"].as_u64().unwrap() + side["orders"]["calls"].as_u64().unwrap();
    assert_eq!((calls(direct), calls(through)), (1500, 1500));

    let rate = |side: &Value| side["success_rate"].as_f64().unwrap();
    assert!(rate(through) >= rate(direct), "{report:#}");
    assert!(rate(direct) < 1.0, "nothing was broken: {report:#}");
    assert_eq!(direct["degraded"], 0);

    let kinds: Vec<&str> =
        report["failures"].as_array().unwrap().iter().map(|f| f["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["killed", "frozen", "slow", "failing", "gone", "lost"]);
    let phase =
        |name: &str| report["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == name).unwrap();
    let gone = phase("services gone");
    assert!(gone["through"]["degraded"].as_u64().unwrap() > 0, "no fallback answered: {report:#}");
    assert!(rate(&gone["through"]) > rate(&gone["direct"]), "{report:#}");
    let (healthy, lost) = (phase("healthy"), phase("region lost"));
    assert_eq!(lost["services"].as_array().unwrap().len(), 4);
    assert_eq!(gone["services"], serde_json::json!(["prices", "recommendations"]));
    assert!(rate(&lost["through"]) > rate(&lost["direct"]), "{report:#}");
    let to_far = |phase: &Value| phase["regions"]["far_share"].as_f64().unwrap();
    assert!(to_far(lost) > to_far(healthy), "the far region did not step in: {report:#}");
    assert!(report["far_share_over_time"].as_array().unwrap().iter().any(Value::is_number), "{report:#}");
    assert!(report["policies"]["retries"].as_u64().unwrap() > 0, "{report:#}");
    assert!(report["policies"]["instead"]["upstream"].as_u64().unwrap() > 0, "{report:#}");
    let part = |name: &str| {
        let parts = report["page"]["parts"].as_array().unwrap();
        parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no {name}: {report:#}"))
    };
    // Twice a second for ten seconds; what its service could not say, something else did.
    for (name, instead) in [
        ("the page itself", None),
        ("recommendations", Some("upstream")),
        ("price list", Some("stale")),
        ("new checkout, a flag", Some("flags")),
    ] {
        let part = part(name);
        let count = |kind: &str| part["instead"][kind].as_u64().unwrap();
        let stood_in = ["stale", "upstream", "static", "flags"].map(count).into_iter().sum::<u64>();
        let (whole, failed) = (part["whole"].as_u64().unwrap(), part["failed"].as_u64().unwrap());
        assert_eq!(whole + stood_in + failed, 20, "{report:#}");
        // On a machine that does much else, a look may take longer than a visitor waits.
        assert!(whole + stood_in > failed, "{report:#}");
        assert!(instead.is_none_or(|kind| count(kind) > 0), "{report:#}");
    }
}

/// A person with a browser while the demo runs: the page, and what it fetches.
#[test]
fn the_page_is_told_what_stands_in_for_each_of_its_parts() {
    let mut demo = Demo::start();
    let page = demo.get("/shop");
    assert!(page.is_whole && page.body.starts_with("<!doctype html>"), "{page:?}");
    let own = demo.get("/recommendations/7");
    assert!(own.is_whole && own.body.contains("\"service\":\"recommendations\""), "{own:?}");
    demo.until("services gone");
    let instead = demo.get_until_degraded("/recommendations/7");
    assert!(instead.head.contains("x-seaworthy-degraded: upstream; reason=\""), "{instead:?}");
    assert!(instead.head.contains("; since=\"20"), "{instead:?}");
    assert!(instead.body.contains("Popular with everybody"), "{instead:?}");
    let prices = demo.get_until_degraded("/prices/0");
    assert!(prices.head.contains("x-seaworthy-degraded: stale; reason=\""), "{prices:?}");
    assert!(prices.head.contains("x-seaworthy-last-updated: 20"), "{prices:?}");
    assert!(prices.body.contains("\"last_updated\":\"20"), "{prices:?}");
    let flag = demo.get_until_degraded(FLAG);
    assert!(flag.head.contains("x-seaworthy-degraded: flags; reason=\""), "{flag:?}");
    assert!(flag.body.contains("\"value\":false"), "{flag:?}");
}

/// While an instance is frozen, as a stopped process is the hardest to get rid of.
#[test]
fn ctrl_c_leaves_no_process_behind() {
    let mut demo = Demo::start();
    demo.until("one frozen");
    demo.signal(Signal::SIGINT);
    let status = demo.child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    demo.must_be_gone();
    assert!(!demo.directory().exists(), "{} is still there", demo.directory().display());
}

#[test]
fn sigterm_leaves_no_process_behind() {
    let mut demo = Demo::start();
    demo.until("one killed");
    demo.signal(Signal::SIGTERM);
    assert_eq!(demo.child.wait().unwrap().code(), Some(130));
    demo.must_be_gone();
}

#[test]
fn the_children_end_even_when_their_parent_is_killed() {
    let mut demo = Demo::start();
    // When most of them are stopped, and can't even notice that they are alone.
    demo.until("region lost");
    demo.child.kill().unwrap();
    demo.child.wait().unwrap();
    demo.must_be_gone();
    // Nobody is left to remove it.
    std::fs::remove_dir_all(demo.directory()).unwrap();
}

/// The one question that is asked with a body.
const FLAG: &str = "/ofrep/v1/evaluate/flags/new-checkout";

/// A running demo, and the ids of its children.
struct Demo {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    children: Vec<u32>,
    /// The proxy, with its port.
    host: String,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    /// A 200 that does not say that it stands in for another.
    is_whole: bool,
    head: String,
    body: String,
}

impl Demo {
    /// Starts a demo and reads whom it started.
    fn start() -> Self {
        let mut command = seaworthy();
        command.args(["demo", "--for", "10s"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut demo = Self { child, lines, children: Vec::new(), host: String::new() };
        for text in ["(process ", "region near (processes", "region far (processes"] {
            let line = demo.until(text);
            let numbers = line.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            demo.children.extend(numbers.filter_map(|number| number.parse::<u32>().ok()));
        }
        let page = demo.until("the shop's page http://");
        demo.host = page.rsplit("http://").next().unwrap().trim_end_matches("/shop").to_owned();
        // Four services of five instances, two of two, and the proxy.
        assert_eq!(demo.children.len(), 25, "{:?}", demo.children);
        assert!(demo.children.iter().all(|&id| lives(id)), "{:?}", demo.children);
        demo
    }

    /// Reads until a line has `text` in it.
    fn until(&mut self, text: &str) -> String {
        self.lines.find_map(|line| line.ok().filter(|line| line.contains(text))).unwrap()
    }

    /// Asks the proxy, as a browser would.
    fn get(&self, path: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        // For somebody of whom the proxy has never heard: the port is another each time.
        let visitor = stream.local_addr().unwrap();
        let context = format!("{{\"context\":{{\"targetingKey\":\"{visitor}\"}}}}");
        let body = if path == FLAG { context } else { String::new() };
        let method = if path == FLAG { "POST" } else { "GET" };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.host,
            body.len()
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let is_whole = head.starts_with("HTTP/1.1 200") && !head.contains("x-seaworthy-degraded");
        Answer { is_whole, head: head.to_owned(), body: body.to_owned() }
    }

    /// Asks until something stands in for the answer.
    fn get_until_degraded(&self, path: &str) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.get(path);
            if answer.head.contains("x-seaworthy-degraded") {
                return answer;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{answer:?}");
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Where it keeps its files.
    fn directory(&self) -> PathBuf {
        std::env::temp_dir().join(format!("seaworthy-demo-{}", self.child.id()))
    }

    fn must_be_gone(&self) {
        let begun = Instant::now();
        while let Some(id) = self.children.iter().find(|&&id| lives(id)) {
            assert!(begun.elapsed() < Duration::from_secs(30), "process {id} is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Only a test that failed finds it alive.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether there is a process `id` that is one of ours. One that has ended and was not reaped yet has no command line.
fn lives(id: u32) -> bool {
    std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| line.windows(9).any(|w| w == b"seaworthy"))
}
