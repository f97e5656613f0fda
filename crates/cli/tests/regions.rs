//! A region vanishes, is evacuated, and comes back, under load.
//!
//! The region that vanishes is a network namespace whose interface goes down: no packet comes back, not even a reset. That takes
//! the right to make namespaces, so these tests need root (or CAP_NET_ADMIN and CAP_SYS_ADMIN) and `ip` of Debian's iproute2.

mod common;

use std::process::Command;
use std::time::Duration;

use common::shop::{Instance, Proxy, Stream, errors, eventually};
use common::{seaworthy, stderr, stdout};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

/// A network of its own, reached over one interface.
struct Place {
    name: String,
    host: String,
}

impl Place {
    /// Makes a namespace; `number` keeps the tests of this file apart.
    fn make(number: u32) -> Self {
        let id = std::process::id() % 4096;
        let name = format!("sw{number}-{id}");
        let net = format!("10.{}.{}", 200 + number, id % 256);
        let place = Self { name: name.clone(), host: format!("{net}.2") };
        let (outside, inside) = (format!("{name}o"), format!("{name}i"));
        ip(&["netns", "add", &name]);
        ip(&["link", "add", &outside, "type", "veth", "peer", "name", &inside]);
        ip(&["link", "set", &inside, "netns", &name]);
        ip(&["addr", "add", &format!("{net}.1/24"), "dev", &outside]);
        ip(&["link", "set", &outside, "up"]);
        ip(&["-n", &name, "addr", "add", &format!("{net}.2/24"), "dev", &inside]);
        ip(&["-n", &name, "link", "set", &inside, "up"]);
        place
    }

    /// Starts an instance in it.
    fn instance(&self, number: usize) -> Instance {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(seaworthy().get_program());
        Instance::by(command, number, &self.host, 0)
    }

    /// Takes its interface down, or up again. From within, so that packets to it vanish instead of being refused for want of a route.
    fn set(&self, state: &str) {
        ip(&["-n", &self.name, "link", "set", &format!("{}i", self.name), state]);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The interface goes with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("`ip` is missing: install iproute2");
    assert!(
        output.status.success(),
        "ip {} failed, which needs root: {}",
        arguments.join(" "),
        stderr(&output)
    );
}

fn labelled(instances: &[Instance], region: &str) -> String {
    let tables = instances.iter().map(|i| format!("{{ url = {:?}, region = {region:?} }}", i.url()));
    tables.collect::<Vec<_>>().join(", ")
}

fn shop(near: &[Instance], far: &[Instance], more: &str) -> String {
    format!(
        "region = \"near\"\n[log]\naccess = false\n[upstream.shop]\nendpoints = [{}, {}]\ndeadline = \"5s\"\n{more}",
        labelled(near, "near"),
        labelled(far, "far")
    )
}

/// Attempts started in each region, the near first.
fn attempts(proxy: &Proxy) -> (u64, u64) {
    let of = |region: &str| proxy.metric("seaworthy_attempts_started_total", &format!("region=\"{region}\""));
    (of("near"), of("far"))
}

/// The share of the attempts that go to the near region, over the next second.
fn near_share(proxy: &Proxy, stream: &Stream) -> f64 {
    let before = attempts(proxy);
    stream.go_on(SECOND);
    let after = attempts(proxy);
    let (near, far) = (after.0 - before.0, after.1 - before.1);
    near as f64 / (near + far) as f64
}

/// At two hundred calls a second some two hundred are under way to a region before it is known to be gone, and each of them needs a retry. The
/// default budget saves up a hundred.
#[test]
fn a_region_that_vanishes_costs_next_to_nothing_and_returns_gradually() {
    let place = Place::make(1);
    let near: Vec<Instance> = (1..=3).map(|number| place.instance(number)).collect();
    let far = Instance::several(3);
    let toml = shop(
        &near,
        &far,
        // After a minute the waits of the breakers would be a minute as well, and the return longer than the test has patience.
        "[upstream.shop.limit]\nper_region = 200\n[upstream.shop.bulkhead]\nconcurrency = 400\n[upstream.shop.budget]\nburst = 500\n\
         [upstream.shop.breaker]\nopen_at_most = \"10s\"\n",
    );
    let proxy = Proxy::start("vanishes.toml", &toml);
    let stream = Stream::start(proxy.address, 200);
    assert!(near_share(&proxy, &stream) > 0.95, "calls stay near while near is well");

    let gone_at = stream.now();
    place.set("down");
    let mut most_in_flight = 0;
    while stream.now() < gone_at + 60 * SECOND {
        most_in_flight =
            most_in_flight.max(proxy.named("/api/regions", "regions", "far")["in_flight"].as_u64().unwrap());
        stream.go_on(SECOND / 4);
    }
    assert!(most_in_flight <= 200, "{most_in_flight} in flight in the far region, which may have 200");
    assert!(near_share(&proxy, &stream) < 0.1);
    let minute = stream.between(gone_at, gone_at + 60 * SECOND);
    let good = minute.iter().filter(|call| call.status == Some(200)).count();
    assert!(good * 1000 >= minute.len() * 999, "{good} of {} succeeded\n{}", minute.len(), errors(&minute));

    place.set("up");
    let mut shares = vec![near_share(&proxy, &stream)];
    eventually("calls are near again", || {
        shares.push(near_share(&proxy, &stream));
        shares.last().is_some_and(|share| *share > 0.95)
    });
    let between = shares.iter().filter(|share| (0.1..0.9).contains(*share)).count();
    assert!(between >= 2, "traffic returned at once: {shares:?}");
    drop(stream);
}

#[test]
fn a_region_is_evacuated_and_restored_without_an_error() {
    let (near, far) = (Instance::several(3), Instance::several(3));
    let proxy = Proxy::start("evacuated.toml", &shop(&near, &far, ""));
    let stream = Stream::start(proxy.address, 200);
    stream.go_on(SECOND);
    let admin = proxy.admin.to_string();
    let output = seaworthy()
        .args(["evacuate", "near", "--over", "2s", "--reason", "test", "--admin", &admin])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("near: evacuated, 0 % of its calls, 0 in flight"),
        "{}",
        stdout(&output)
    );
    assert_eq!(near_share(&proxy, &stream), 0.0);
    let again = seaworthy().args(["evacuate", "far", "--admin", &admin]).output().unwrap();
    assert!(!again.status.success() && stderr(&again).contains("--force"), "{}", stderr(&again));

    let output = seaworthy().args(["restore", "near", "--over", "2s", "--admin", &admin]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    eventually("calls are near again", || near_share(&proxy, &stream) > 0.95);
    assert_eq!(errors(&stream.finish()), "");
}

#[test]
fn an_unknown_region_is_told_with_those_there_are() {
    let (near, far) = (Instance::several(1), Instance::several(1));
    let proxy = Proxy::start("unknown-region.toml", &shop(&near, &far, ""));
    let (status, text) = proxy.post("/api/evacuate", &json!({ "region": "moon", "over_ms": 100 }));
    assert_eq!(status, 422);
    assert!(text.contains("moon") && text.contains("near") && text.contains("far"), "{text}");
}
