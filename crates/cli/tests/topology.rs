//! Instances die, hang, crawl, lie and move, in real processes on real sockets, and callers don't notice.

mod common;

use std::time::Duration;

use nix::sys::signal::Signal;

use common::shop::{Instance, Proxy, Stream, errors, eventually, quantile};

const SECOND: Duration = Duration::from_secs(1);
/// A machine that stands still for a quarter of a second has more calls waiting than the default bulkhead takes in, and that is not what is
/// tested here.
const ROOM: &str = "[upstream.shop.bulkhead]\nconcurrency = 500\nqueue = 500\n";

fn endpoints(instances: &[Instance]) -> String {
    let urls: Vec<String> = instances.iter().map(|instance| format!("{:?}", instance.url())).collect();
    format!("endpoints = [{}]", urls.join(", "))
}

/// Whether p99 is within twice the steady one for half a second at least, somewhere in the five seconds after `event`.
fn has_settled(stream: &Stream, event: Duration, steady: Duration) -> bool {
    stream.go_on(5 * SECOND);
    (0..10).any(|n| {
        let from = event + SECOND / 2 * n;
        let calls = stream.between(from, from + SECOND / 2);
        !calls.is_empty() && quantile(&calls, 0.99) <= 2 * steady
    })
}

#[test]
fn an_instance_killed_and_another_frozen_are_not_noticed() {
    let mut shop = Instance::several(3);
    let toml = format!("[log]\naccess = false\n[upstream.shop]\n{}\ndeadline = \"5s\"\n", endpoints(&shop));
    let proxy = Proxy::start("killed-and-frozen.toml", &(toml + ROOM));
    let stream = Stream::start(proxy.address, 500);
    stream.go_on(3 * SECOND);
    let steady = quantile(&stream.between(SECOND, 3 * SECOND), 0.99);

    let killed_at = stream.now();
    shop[0].process.signal(Signal::SIGKILL);
    shop[0].process.wait();
    assert!(has_settled(&stream, killed_at, steady), "p99 was {steady:?} before");
    eventually("its breaker opens", || proxy.endpoint(shop[0].address)["breaker"]["state"] != "closed");

    let frozen_at = stream.now();
    shop[1].process.signal(Signal::SIGSTOP);
    assert!(has_settled(&stream, frozen_at, steady), "p99 was {steady:?} before");
    eventually("its breaker opens", || proxy.endpoint(shop[1].address)["breaker"]["state"] != "closed");

    shop[1].process.signal(Signal::SIGCONT);
    shop[0] = Instance::start(1, shop[0].address.port());
    for instance in &shop {
        eventually("it returns", || proxy.endpoint(instance.address)["breaker"]["state"] == "closed");
    }
    assert_eq!(errors(&stream.finish()), "");
}

#[test]
fn an_instance_ten_times_slower_is_left_without_a_failed_check() {
    let mut shop = Instance::several(10);
    let toml = format!(
        "[log]\naccess = false\n[upstream.shop]\n{}\n[upstream.shop.check]\nkind = \"http\"\npath = \"/health\"\n\
         interval = \"500ms\"\n[upstream.shop.balance]\nalgorithm = \"round_robin\"\n",
        endpoints(&shop)
    );
    let proxy = Proxy::start("slow.toml", &toml);
    let stream = Stream::start(proxy.address, 500);
    stream.go_on(2 * SECOND);
    shop[9].process.tell("slow 10");
    stream.go_on(5 * SECOND);
    let attempts = |proxy: &Proxy| {
        let total = |label: &str| proxy.metric("seaworthy_attempts_started_total", label);
        (total(&shop[9].address.to_string()), total("endpoint="))
    };
    let before = attempts(&proxy);
    stream.go_on(3 * SECOND);
    let after = attempts(&proxy);
    let (slow, all) = (after.0 - before.0, after.1 - before.1);
    assert!(slow * 50 < all, "{slow} of {all} went to the slow one");
    assert_eq!(proxy.endpoint(shop[9].address)["check"]["state"], "up");
    assert_eq!(errors(&stream.finish()), "");
}

#[test]
fn when_all_checks_fail_none_is_believed() {
    let shop = Instance::several(3);
    let toml = format!(
        "[upstream.shop]\n{}\n[upstream.shop.check]\nkind = \"http\"\npath = \"/nowhere\"\ninterval = \"200ms\"\n",
        endpoints(&shop)
    );
    let proxy = Proxy::start("panic.toml", &toml);
    eventually("it panics", || proxy.state()["upstreams"][0]["panic"] == true);
    assert_eq!(proxy.endpoint(shop[0].address)["check"]["state"], "down");
    assert!(proxy.get("/metrics").1.contains("seaworthy_panic{upstream=\"shop\"} 1"));
    let stream = Stream::start(proxy.address, 100);
    stream.go_on(SECOND);
    assert_eq!(errors(&stream.finish()), "");
}

#[test]
fn a_watched_file_moves_the_calls_and_nonsense_in_it_does_not() {
    let shop = Instance::several(2);
    let list = |instances: &[&Instance]| {
        let targets: Vec<String> = instances.iter().map(|i| format!("{:?}", i.address.to_string())).collect();
        format!("[{{\"targets\": [{}], \"labels\": {{\"zone\": \"a\"}}}}]", targets.join(", "))
    };
    let path = common::file("targets.json", &list(&[&shop[0]]));
    let toml = format!(
        "[upstream.shop]\nendpoints = \"file://{}\"\n[upstream.shop.discovery]\nfile_poll = \"100ms\"\n",
        path.display()
    );
    let proxy = Proxy::start("file.toml", &toml);
    let known = |proxy: &Proxy| proxy.state()["upstreams"][0]["endpoints"].as_array().unwrap().len();
    eventually("the first is known", || known(&proxy) == 1);
    let stream = Stream::start(proxy.address, 100);
    std::fs::write(&path, list(&[&shop[0], &shop[1]])).unwrap();
    eventually("both are known", || known(&proxy) == 2);
    std::fs::write(&path, "[{\"targets\": [").unwrap();
    eventually("nonsense is told", || proxy.state()["upstreams"][0]["sources"][0]["trouble"].is_string());
    assert_eq!(known(&proxy), 2, "the last good list holds");
    std::fs::write(&path, list(&[&shop[1]])).unwrap();
    eventually("the first has left", || known(&proxy) == 1 && proxy.endpoint(shop[1].address).is_object());
    stream.go_on(SECOND);
    assert_eq!(errors(&stream.finish()), "");
}
