//! The examples do what they say.
#![expect(clippy::unwrap_used, reason = "a helper of tests")]

use std::path::PathBuf;

use seaworthy_config::{Config, Host, Mistakes, Origin};

fn example(name: &str) -> Result<Config, Mistakes> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    Config::from_toml(&format!("examples/{name}"), &std::fs::read_to_string(file).unwrap())
}

#[test]
fn the_quickstart_is_the_same_as_the_command_line() {
    let file = example("quickstart.toml").unwrap();
    let line = Config::from_command_line("http://127.0.0.1:3000", None, None).unwrap();
    assert_eq!(file.warnings, []);
    assert_eq!((&file.upstreams, &file.routes, &file.listen), (&line.upstreams, &line.routes, &line.listen));
}

#[test]
fn the_shop_has_no_mistake_and_leads_where_it_says() {
    let shop = example("shop.toml").unwrap();
    assert_eq!(shop.warnings, []);
    let names: Vec<&str> = shop.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["recommendations", "checkout", "catalogue"]);
    assert!(shop.routes.iter().all(|route| route.host == Host::Any));
    let to = |path, method| {
        let (_, route) = shop.route(Some("shop.example.com"), path, method).unwrap();
        shop.upstreams[route.upstream].name.as_str()
    };
    assert_eq!(to("/checkout/basket", "POST"), "checkout");
    assert_eq!(to("/checkout/basket", "GET"), "catalogue");
    assert_eq!(to("/checkouts", "POST"), "catalogue");
    assert_eq!(to("/recommendations", "GET"), "recommendations");
}

#[test]
fn what_is_in_force_in_the_shop() {
    insta::assert_snapshot!(example("shop.toml").unwrap().effective);
}

#[test]
fn what_is_in_force_from_the_command_line_as_json() {
    let config =
        Config::from_command_line("http://127.0.0.1:3000", Some("127.0.0.1:80"), Some("off")).unwrap();
    let told: Vec<_> =
        config.effective.settings.iter().filter(|s| s.origin != seaworthy_config::Origin::Default).collect();
    insta::assert_snapshot!(serde_json::to_string_pretty(&told).unwrap());
}

#[test]
fn five_mistakes_are_found_at_once() {
    let mistakes = example("mistakes.toml").unwrap_err();
    assert_eq!((mistakes.errors.len(), mistakes.warnings.len()), (5, 0));
    insta::assert_snapshot!(mistakes);
}

#[test]
fn mistakes_about_places_are_found_at_once() {
    let mistakes = example("topology-mistakes.toml").unwrap_err();
    assert_eq!((mistakes.errors.len(), mistakes.warnings.len()), (11, 0));
    insta::assert_snapshot!(mistakes);
}

#[test]
fn mistakes_about_overload_are_found_at_once() {
    let mistakes = example("overload-mistakes.toml").unwrap_err();
    assert_eq!((mistakes.errors.len(), mistakes.warnings.len()), (14, 0));
    insta::assert_snapshot!(mistakes);
}

#[test]
fn mistakes_about_keys_are_found_at_once() {
    let mistakes = example("idempotency-mistakes.toml").unwrap_err();
    assert_eq!((mistakes.errors.len(), mistakes.warnings.len()), (18, 0));
    insta::assert_snapshot!(mistakes);
}

#[test]
fn what_is_in_force_where_payments_are_taken_once() {
    let config = example("idempotency.toml").unwrap();
    assert_eq!(config.warnings, []);
    let told = config.effective.settings.iter().filter(|setting| !matches!(setting.origin, Origin::Default));
    let told: String = told.map(|s| format!("{} = {}  # {}\n", s.path, s.value, s.origin)).collect();
    insta::assert_snapshot!(told);
}

#[test]
fn what_is_in_force_on_a_busy_day() {
    let config = example("overload.toml").unwrap();
    assert_eq!(config.warnings, []);
    let told = config.effective.settings.iter().filter(|setting| !matches!(setting.origin, Origin::Default));
    let told: String = told.map(|s| format!("{} = {}  # {}\n", s.path, s.value, s.origin)).collect();
    assert!(!told.contains("crawler-7f3a"), "{told}");
    insta::assert_snapshot!(told);
}

#[test]
fn what_is_in_force_with_processes() {
    let config = example("processes.toml").unwrap();
    assert_eq!(config.warnings, []);
    let told = config.effective.settings.iter().filter(|setting| !matches!(setting.origin, Origin::Default));
    let told: String = told.map(|s| format!("{} = {}  # {}\n", s.path, s.value, s.origin)).collect();
    insta::assert_snapshot!(told);
}

/// The listing of what is in force is itself a configuration, and means the same.
#[test]
fn what_is_in_force_can_be_written_back() {
    for name in ["shop.toml", "topology.toml", "overload.toml", "idempotency.toml"] {
        let example = example(name).unwrap();
        assert_eq!(example.warnings, []);
        let text = written_back(&example);
        let again = Config::from_toml(&format!("examples/{name}"), &text);
        let again = again.unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"));
        assert_eq!((again.upstreams, again.routes), (example.upstreams, example.routes));
        assert_eq!((again.listen, again.limits, again.log), (example.listen, example.limits, example.log));
        assert_eq!((again.gate, again.rate, again.redis), (example.gate, example.rate, example.redis));
        assert_eq!(again.idempotency, example.idempotency);
        assert_eq!((again.pressure, again.stale_memory), (example.pressure, example.stale_memory));
        assert_eq!((again.zone, again.region, again.data), (example.zone, example.region, example.data));
    }
}

fn written_back(config: &Config) -> String {
    // The keys of clients are not shown.
    let settings = config.effective.settings.iter().filter(|setting| !setting.path.starts_with("client."));
    let (routes, others): (Vec<_>, Vec<_>) = settings.partition(|setting| setting.path.starts_with("route."));
    let mut text: String = others.iter().map(|s| format!("{} = {}\n", s.path, s.value)).collect();
    for route in &config.routes {
        let prefix = format!("route.{}.", quoted(&route.name));
        let own = routes.iter().filter_map(|s| Some((s.path.strip_prefix(&prefix)?, s.value.to_string())));
        let lines = own.filter(|(_, value)| value != "[]").map(|(key, value)| format!("{key} = {value}\n"));
        text.push_str(&format!("[[route]]\n{}", lines.collect::<String>()));
    }
    text
}

/// A key as the listing writes it.
fn quoted(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if plain { name.to_owned() } else { format!("{name:?}") }
}

#[test]
fn the_most_specific_route_takes_a_call() {
    let text = r#"
        upstream.a.endpoints = "http://a"
        route = [
            { name = "rest" },
            { name = "api", path = "/api" },
            { name = "api v2", path = "/api/v2" },
            { name = "reads", path = "/api", methods = ["GET", "HEAD"] },
            { name = "below", host = "*.example.com" },
            { name = "far below", host = "*.b.example.com" },
            { name = "exact", host = "www.example.com", path = "/only" },
        ]
    "#;
    let config = Config::from_toml("f", text).unwrap();
    let taken =
        |host, path, method| config.route(host, path, method).map_or("", |(_, route)| route.name.as_str());
    assert_eq!(taken(None, "/", "GET"), "rest");
    assert_eq!(taken(Some("other.com"), "/api", "POST"), "api");
    assert_eq!(taken(Some("other.com"), "/api", "GET"), "reads");
    assert_eq!(taken(Some("other.com"), "/api/v2/x", "GET"), "api v2");
    assert_eq!(taken(Some("www.example.com"), "/only/this", "GET"), "exact");
    assert_eq!(taken(Some("www.example.com"), "/api", "GET"), "below");
    assert_eq!(taken(Some("a.b.example.com:80"), "/api", "GET"), "far below");
}
