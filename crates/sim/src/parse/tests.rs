use proptest::prelude::*;
use seaworthy_core::call::retry::Jitter;

use super::*;
use crate::mix::Mix;
use crate::service::Group;

const WHOLE: &str = r#"
[simulation]
seed = 7
duration = "1m"
record = true

[clients]
count = 3
rate = 10.0
arrivals = "even"
repeat = "never"
keys = 7

[[service.group]]
region = "near"
zone = "a"
instances = 2
weight = 3
distance = "1ms"

[[service.group]]
region = "far"

[service]
servers = 2
queue = 5
latency = { median = "20ms", sigma = 0.5 }
failures = 0.25
drops_cancelled = true

[[service.change]]
instance = 3
region = "far"
zone = ""
at = "20s"
lasts = "10s"
slower = 2.5
extra = "3ms"
failures = 1.0
paused = true
gone = true

[upstream.service.retry]
attempts = 4
jitter = "equal"

[upstream.service.budget]
share = 0.1
"#;

#[test]
fn everything_that_is_written_is_read() {
    let scenario = Scenario::parse(WHOLE, "whole").unwrap();
    assert_eq!((scenario.seed, scenario.duration, scenario.record), (7, Duration::from_secs(60), true));
    assert_eq!(
        scenario.clients,
        Clients { count: 3, load: Load::Even(10.0), repeat: Repeat::Never, keys: 7, mix: Mix::default() }
    );
    let change = Change {
        aim: Aim { instances: vec![3], region: Some("far".into()), zone: Some(String::new()) },
        at: Duration::from_secs(20),
        lasts: Some(Duration::from_secs(10)),
        slower: 2.5,
        extra: Duration::from_millis(3),
        failures: Some(1.0),
        paused: true,
        gone: true,
    };
    let near = Group {
        region: "near".into(),
        zone: "a".into(),
        instances: 2,
        weight: 3,
        tier: 0,
        distance: Duration::from_millis(1),
    };
    let service = Service {
        groups: vec![near, Group { region: "far".into(), ..Group::default() }],
        servers: Some(2),
        queue: Some(5),
        latency: Spread::Lognormal { median: Duration::from_millis(20), sigma: 0.5 },
        failures: 0.25,
        drops_cancelled: true,
        changes: vec![change],
        ..Service::default()
    };
    assert_eq!(scenario.service, service);
    let call = scenario.policies.call;
    assert_eq!((call.retry.attempts, call.retry.jitter, call.budget.share), (4, Jitter::Equal, 0.1));
}

#[test]
fn a_proxys_configuration_with_a_load_is_a_scenario() {
    let proxy = r#"
[defaults]
deadline = "3s"
[upstream.shop]
endpoints = "http://127.0.0.1:3000"
[upstream.shop.timeout]
fixed = "2s"
[upstream.stock]
endpoints = "http://127.0.0.1:3001"
[[route]]
path = "/"
upstream = "shop"
deadline = "4s"
[[route]]
path = "/stock"
upstream = "stock"
[simulation]
duration = "1s"
[clients]
think = "1s"
[service]
upstream = "shop"
latency = "5ms"
"#;
    let scenario = Scenario::parse(proxy, "proxy").unwrap();
    let call = scenario.policies.call;
    assert_eq!(
        (call.deadline, call.timeout.fixed),
        (Some(Duration::from_secs(4)), Some(Duration::from_secs(2)))
    );
}

const THREE_PLACES: &str = r#"
region = "eu"
zone = "a"
[simulation]
duration = "1s"
[clients]
rate = 1.0
[service]
latency = "1ms"
[[service.group]]
region = "eu"
zone = "a"
[[service.group]]
region = "eu"
zone = "b"
[[service.group]]
region = "us"
zone = "a"
instances = 2
[upstream.service]
endpoints = "http://127.0.0.1:1"
limit.per_region = 5
balance = { algorithm = "round_robin", overprovision = 2.0 }
outlier.error_excess = 0.5
"#;

#[test]
fn what_is_chosen_by_is_read_as_the_proxy_reads_it() {
    let scenario = Scenario::parse(THREE_PLACES, "places").unwrap();
    assert_eq!(scenario.service.groups.iter().map(|group| group.tier).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(scenario.service.instances(), 4);
    let Policies { balance, outlier, per_region, .. } = scenario.policies;
    assert_eq!((balance.algorithm.name(), balance.overprovision), ("round_robin", 2.0));
    assert_eq!((outlier.error_excess, per_region.map(|limit| limit.max_in_flight)), (0.5, Some(5)));
    // Who doesn't know where it is finds all equally near.
    let nowhere = THREE_PLACES.replacen("region = \"eu\"\nzone = \"a\"\n", "", 1);
    let scenario = Scenario::parse(&nowhere, "nowhere").unwrap();
    assert!(scenario.service.groups.iter().all(|group| group.tier == 0));
}

#[test]
fn mistakes_about_instances_are_told_at_once() {
    let text = r#"[simulation]
duration = "1s"
[clients]
rate = 1.0
count = 100
keys = 0
[service]
instances = 10
latency = "1ms"
[[service.group]]
region = "near"
instances = 100000
weight = 0
[[service.group]]
region = "far"
instances = 0
[[service.change]]
at = "1s"
instance = [1, 100001]
region = "nera"
"#;
    insta::assert_snapshot!(mistakes(text));
}

fn mistakes(text: &str) -> String {
    Scenario::parse(text, "f").unwrap_err().to_string()
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = r#"[simulation]
duration = "0s"
[clients]
rate = 0.0
count = 0
[service]
latency = { median = "1s", sigma = 9.0 }
failures = 1.5
servers = 0
[upstream.service.retry]
atempts = 3
"#;
    insta::assert_snapshot!(mistakes(text));
}

#[test]
fn every_table_says_what_it_does_not_understand() {
    let text = r#"[simulation]
duration = "10"
[clients]
rat = 1.0
[service]
latency = 5
"#;
    insta::assert_snapshot!(mistakes(text));
}

#[test]
fn an_open_loop_has_a_rate_and_a_closed_one_a_pause() {
    let with = |clients: &str| {
        mistakes(&format!(
            "[simulation]\nduration = \"1s\"\n[service]\nlatency = \"1ms\"\n[clients]\n{clients}"
        ))
    };
    assert!(with("rate = 1.0\nthink = \"1s\"").contains("only one of them"));
    assert!(with("").contains("needs rate or think"));
    assert!(with("think = \"0s\"").contains("clients.think is below 1ms"));
    assert!(with("rate = 1e12").contains("more than 100 million calls"));
}

#[test]
fn what_is_no_toml_is_told_once() {
    assert_eq!(Scenario::parse("[simulation\n", "f").unwrap_err().errors.len(), 1);
}

#[test]
fn the_upstream_must_be_known() {
    let two = "[upstream.a]\nendpoints = \"http://a\"\n[upstream.b]\nendpoints = \"http://b\"\n";
    let base = format!(
        "[simulation]\nduration = \"1s\"\n[clients]\nrate = 1.0\n{two}[service]\nlatency = \"1ms\"\n"
    );
    assert!(mistakes(&base).contains("several upstreams"));
    assert!(mistakes(&format!("{base}upstream = \"c\"\n")).contains("there is no upstream \"c\""));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(cut in 0usize..900, with in "\\PC{0,20}") {
        let at = WHOLE.len().min(cut);
        let _ = Scenario::parse(&format!("{}{with}{}", &WHOLE[..at], &WHOLE[at..]), "f");
        let _ = Scenario::parse(&with, "f");
    }
}

#[test]
fn what_overload_needs_is_read() {
    let text = r#"
[simulation]
duration = "1s"
[clients]
rate = 1.0
mix = { critical = 3, "sheddable-plus" = 1 }
[service]
servers = 2
latency = "1ms"
refusal = 0.1
guard = { size = 7, max_wait = "2s", takes = "3ms" }
[upstream.service.limit.queue]
size = 5
[upstream.service.throttle]
multiplier = 1.5
"#;
    let scenario = Scenario::parse(text, "overload").unwrap();
    assert_eq!(Some(scenario.clients.mix), Mix::new([0.0, 0.75, 0.25, 0.0]));
    let guard = scenario.service.guard.unwrap();
    assert_eq!((guard.limit.max_in_flight, guard.queue.size), (2, 7));
    assert_eq!((guard.queue.max_wait, guard.takes), (Duration::from_secs(2), Duration::from_millis(3)));
    assert_eq!(scenario.service.refusal, 0.1);
    assert_eq!((scenario.policies.queue.size, scenario.policies.throttle.multiplier), (5, 1.5));
}

#[test]
fn mistakes_about_overload_are_told_at_once() {
    let text = r#"
[simulation]
duration = "1s"
[clients]
rate = 1.0
mix = { urgent = 1.0 }
[service]
latency = "1ms"
refusal = -0.1
guard = { size = 7 }
"#;
    insta::assert_snapshot!(Scenario::parse(text, "overload").unwrap_err());
    let text = text
        .replace("urgent", "critical")
        .replace("1.0 }", "-1.0 }")
        .replace("refusal", "servers = 1\nfailures");
    let text = text.replace("size = 7", "max_wait = \"0s\"");
    insta::assert_snapshot!(
        "mistakes_about_shares_and_waits",
        Scenario::parse(&text, "overload").unwrap_err()
    );
}
