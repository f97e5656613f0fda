//! Where instances come from, and what is known about them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use seaworthy_config::{CheckKind, Config, HashOn, KeyStoreKind, Ready, Source, Where};
use seaworthy_core::balance::Algorithm;

fn read(text: &str) -> Config {
    Config::from_toml("conf/seaworthy.toml", text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn labels(source: &Source) -> (&str, &str, u32) {
    (&source.labels.zone, &source.labels.region, source.labels.weight)
}

#[test]
fn each_kind_of_source_is_read() {
    let config = read(
        r#"
        [upstream.a]
        endpoints = [
            "http://A:80/",
            "dns://Shop.internal:8080",
            "srv://_http._TCP.shop.internal",
            "file:///etc/targets.json",
            "file:targets.json",
            "file:../targets.json",
            { url = "process://api" },
        ]
        [process.api]
        command = "./api"
        "#,
    );
    let upstream = &config.upstreams[0];
    let at: Vec<&Where> = upstream.sources.iter().map(|source| &source.at).collect();
    let [Where::Address(a), Where::Dns(dns), Where::Srv(srv), rest @ ..] = &at[..] else { panic!("{at:?}") };
    assert_eq!((a.to_string(), dns.authority()), ("http://a:80".to_owned(), "shop.internal:8080".to_owned()));
    assert_eq!(srv, "_http._tcp.shop.internal");
    let files = ["/etc/targets.json", "conf/targets.json", "conf/../targets.json"];
    let files = files.map(|path| Where::File(PathBuf::from(path)));
    assert_eq!(rest, [&files[0], &files[1], &files[2], &Where::Process(0)]);
}

#[test]
fn labels_are_the_sources_then_the_processs_then_the_proxys() {
    let config = read(
        r#"
        zone = "here"
        region = "near"
        [process.plain]
        command = "./plain"
        [process.labelled]
        command = "./labelled"
        zone = "there"
        weight = 3
        [upstream.a]
        endpoints = [
            "http://a",
            { url = "http://b", zone = "z", region = "r", weight = 1000 },
            "process://plain",
            "process://labelled",
        ]
        "#,
    );
    let all: Vec<_> = config.upstreams[0].sources.iter().map(labels).collect();
    assert_eq!(all, [("", "", 1), ("z", "r", 1000), ("here", "near", 1), ("there", "near", 3)]);
    let config = read(
        r#"
        process.api = { command = "./api", zone = "there", weight = 3 }
        upstream.a.endpoints = { url = "process://api/", region = "far", weight = 1 }
        "#,
    );
    assert_eq!(labels(&config.upstreams[0].sources[0]), ("there", "far", 1));
}

#[test]
fn a_process_has_defaults_and_paths_from_the_file() {
    let config = read(
        r#"
        [process.api]
        command = ["./api", "--verbose", "--verbose"]
        dir = "services/api"
        env = { B = "2", A = "1" }
        memory = "64MiB"
        cpu = 0.5
        ready = { kind = "http", path = "/ready?deep=1" }
        [process.bare]
        command = "bare"
        [upstream.a]
        endpoints = ["process://api", "process://bare"]
        "#,
    );
    let [api, bare] = &config.processes[..] else { panic!("{:?}", config.processes) };
    assert_eq!(api.command, ["./api", "--verbose", "--verbose"]);
    assert_eq!(api.dir.as_deref(), Some(Path::new("conf/services/api")));
    assert_eq!(api.env, [("B".to_owned(), "2".to_owned()), ("A".to_owned(), "1".to_owned())]);
    assert_eq!((api.memory, api.cpu), (Some(64 << 20), Some(0.5)));
    assert_eq!(api.ready, Ready::Http { path: "/ready?deep=1".to_owned() });
    assert_eq!((bare.dir.as_deref(), bare.memory, bare.cpu, bare.replicas), (None, None, None, 1));
    assert_eq!((&bare.ready, bare.port_variable.as_str()), (&Ready::Tcp, "PORT"));
    // What a variable holds may be a secret, and the listing is shown to many.
    let listing = config.effective.to_string();
    assert!(listing.contains(r#"{ B = "(not shown)", A = "(not shown)" }"#), "{listing}");
}

#[test]
fn a_check_is_what_defaults_and_upstream_say_together() {
    let config = read(
        r#"
        [defaults.check]
        kind = "http"
        path = "/health?deep=1"
        status = ["200-299", 304, "401"]
        body = 'status": *"(pass|warn)'
        interval = "500ms"
        [upstream.a]
        endpoints = "http://a"
        [upstream.b]
        endpoints = "http://b"
        check.kind = "off"
        [upstream.c]
        endpoints = "http://c"
        check = { kind = "tcp", port = 81, interval = "10s" }
        [[route]]
        upstream = "a"
        [[route]]
        path = "/b"
        upstream = "b"
        [[route]]
        path = "/c"
        upstream = "c"
        "#,
    );
    let [a, b, c] = [0, 1, 2].map(|n| config.upstreams[n].check.as_ref());
    let a = a.unwrap();
    assert_eq!((a.kind, a.path.as_str()), (CheckKind::Http, "/health?deep=1"));
    let good = |status| a.status.iter().any(|range| range.contains(status));
    assert_eq!([199, 200, 299, 300, 304, 401, 402].map(good), [false, true, true, false, true, true, false]);
    let body = a.body.as_ref().unwrap();
    assert!(body.is_match(r#"{"status": "warn"}"#) && !body.is_match(r#"{"status": "fail"}"#));
    // Whoever wants checks twice a second wants no fewer of them while unsure.
    assert_eq!(
        (a.timing.interval, a.timing.unsure_interval),
        (Duration::from_millis(500), Duration::from_millis(500))
    );
    assert_eq!(b, None);
    let c = c.unwrap();
    assert_eq!((c.kind, c.port), (CheckKind::Tcp, Some(81)));
    assert_eq!(c.timing.unsure_interval, Duration::from_secs(1));
}

#[test]
fn what_calls_stick_to_is_read() {
    for (written, meant) in [
        ("none", HashOn::None),
        ("source", HashOn::Source),
        ("header:X-User", HashOn::Header("x-user".to_owned())),
        ("cookie:Session", HashOn::Cookie("Session".to_owned())),
    ] {
        let algorithm = if meant == HashOn::None { "round_robin" } else { "consistent_hash" };
        let config = read(&format!(
            "upstream.a = {{ endpoints = \"http://a\", balance = {{ algorithm = \"{algorithm}\", hash_on = \"{written}\" }} }}"
        ));
        assert_eq!(config.upstreams[0].hash_on, meant);
        let expected = if meant == HashOn::None { Algorithm::RoundRobin } else { Algorithm::ConsistentHash };
        assert_eq!(config.upstreams[0].balance.algorithm, expected);
    }
}

#[test]
fn a_regions_limit_is_in_force_with_the_limit() {
    for (mode, expected) in [("enforce", Some(50)), ("observe", None), ("off", None)] {
        let text = format!(
            "upstream.a = {{ endpoints = \"http://a\", limit = {{ mode = \"{mode}\", per_region = 50 }} }}"
        );
        assert_eq!(read(&text).upstreams[0].region_limit, expected, "{mode}");
    }
}

/// Wherever the proxy is started, it is the same folder.
#[test]
fn the_folder_for_what_is_kept_is_beside_the_file() {
    let folder = |file: &str, data: &str| {
        let text = format!("data = {data:?}\nidempotency = {{}}\n[upstream.a]\nendpoints = \"http://a\"\n");
        let config = Config::from_toml(file, &text).unwrap();
        let kept_in = config.idempotency.map(|store| store.kind);
        assert!(
            matches!(kept_in, Some(KeyStoreKind::Embedded { folder, .. }) if Some(&folder) == config.data.as_ref())
        );
        config.data.unwrap()
    };
    assert_eq!(folder("/etc/seaworthy.toml", "kept"), Path::new("/etc/kept"));
    assert_eq!(folder("etc/seaworthy.toml", "./kept"), Path::new("etc/./kept"));
    assert_eq!(folder("seaworthy.toml", "kept"), Path::new("kept"));
    assert_eq!(folder("/etc/seaworthy.toml", "/var/lib/kept"), Path::new("/var/lib/kept"));
}
