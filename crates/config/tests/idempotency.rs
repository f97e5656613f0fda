//! What a file says of idempotency keys is what the proxy gets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::PathBuf;
use std::time::Duration;

use seaworthy_config::{Busy, Config, Keep, KeyStoreKind, RouteIdempotency, WhenCorrupt, WhenStoreDown};
use seaworthy_core::idempotency::OnUnknown;

/// A configuration with this at its top, and this below the route that takes everything.
fn config(top: &str, route: &str) -> Config {
    let text = format!(
        "{top}\n[upstream.a]\nendpoints = \"http://a\"\n[[route]]\nclient_key = \"header:k\"\n{route}\n"
    );
    let config = Config::from_toml("seaworthy.toml", &text).unwrap();
    assert_eq!(config.warnings, []);
    config
}

fn store(top: &str) -> KeyStoreKind {
    config(top, "idempotency = {}").idempotency.unwrap().kind
}

fn route(settings: &str) -> RouteIdempotency {
    config("data = \"/d\"", &format!("[route.idempotency]\n{settings}")).routes[0]
        .idempotency
        .clone()
        .unwrap()
}

#[test]
fn nothing_is_kept_unless_somebody_asks() {
    let config = config("data = \"/d\"", "");
    assert_eq!((&config.idempotency, &config.routes[0].idempotency), (&None, &None));
}

#[test]
fn each_store_has_what_it_needs() {
    let embedded = store("data = \"/d\"");
    let expected = KeyStoreKind::Embedded {
        folder: PathBuf::from("/d"),
        cache_bytes: 16 << 20,
        when_corrupt: WhenCorrupt::Refuse,
    };
    assert_eq!(embedded, expected);
    assert_eq!(
        store("idempotency = { store = \"memory\", records = 7 }"),
        KeyStoreKind::Memory { most_records: 7 }
    );
    let redis = store("idempotency.store = \"redis\"\n[redis]\nurl = \"redis://r\"\nprefix = \"shop\"");
    let KeyStoreKind::Redis(redis) = redis else { panic!("{redis:?}") };
    assert_eq!((redis.url.as_str(), redis.prefix.as_str()), ("redis://r", "shop"));
    let postgres =
        store("idempotency = { store = \"postgres\", url = \"postgres://me:secret@p/keys\", pool = 3 }");
    assert!(!format!("{postgres:?}").contains("secret"));
    let KeyStoreKind::Postgres { url, pool, schema } = postgres else { panic!("{postgres:?}") };
    assert_eq!((url.as_str(), pool, schema.as_str()), ("postgres://me:secret@p/keys", 3, "seaworthy"));
}

#[test]
fn a_password_is_not_listed() {
    let config = config(
        "idempotency = { store = \"postgres\", url = \"postgres://me:hunter2@p/keys\" }",
        "idempotency = {}",
    );
    let listing = config.effective.to_string();
    assert!(
        listing.contains("postgres://me:(not shown)@p/keys") && !listing.contains("hunter2"),
        "{listing}"
    );
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_store_is_listed_where_only_a_route_asks_for_it() {
    let listed = |config: &Config| config.effective.to_string().contains("idempotency.store");
    assert!(listed(&config("data = \"/d\"", "idempotency = {}")));
    assert!(!listed(&config("data = \"/d\"", "")));
}

#[test]
fn what_is_required_is_told_as_methods() {
    assert_eq!(route("").required, Vec::<&str>::new());
    assert_eq!(route("required = true").required, ["POST", "PATCH"]);
    assert_eq!(route("methods = \"PUT\"\nrequired = true").required, ["PUT"]);
    assert_eq!(route("required = \"PATCH\"").required, ["PATCH"]);
}

#[test]
fn every_choice_arrives() {
    let keys = route(
        "header = \"X-Request-Key\"\nfingerprint_headers = [\"X-Tenant\"]\nkeep = \"no-server-errors\"\n\
         replay_headers = \"none\"\nlease = \"2m\"\nretention = \"1h\"\nunknown = \"retry\"\nbusy = \"5s\"\n\
         answer_bytes = \"1KiB\"\nrequest_bytes = \"64MiB\"\nwhen_down = \"allow\"",
    );
    assert_eq!(
        (keys.header.as_str(), keys.fingerprint_headers),
        ("x-request-key", vec!["x-tenant".to_owned()])
    );
    assert_eq!((keys.keep, keys.replay_headers), (Keep::NoServerErrors, Vec::<String>::new()));
    assert_eq!((keys.lease, keys.retention), (Duration::from_secs(120), Duration::from_secs(3600)));
    assert_eq!((keys.unknown, keys.busy), (OnUnknown::Retry, Busy::Wait(Duration::from_secs(5))));
    assert_eq!((keys.answer_bytes, keys.request_bytes), (1 << 10, 64 << 20));
    assert_eq!(keys.when_down, WhenStoreDown::Allow);
}

/// Tight: a lease that ends a second after the deadline will do, and nothing less; two leases are remembered long enough.
#[test]
fn a_lease_may_be_just_long_enough() {
    let with = |times: &str| {
        let text = format!(
            "data = \"/d\"\n[upstream.a]\nendpoints = \"http://a\"\ndeadline = \"10s\"\n\
             [[route]]\nclient_key = \"header:k\"\nidempotency = {{ {times} }}\n"
        );
        Config::from_toml("seaworthy.toml", &text).is_ok()
    };
    assert!(with("lease = \"11s\", retention = \"22s\""));
    assert!(!with("lease = \"10s999ms\""));
    assert!(!with("lease = \"11s\", retention = \"21s999ms\""));
}
