//! No text makes it panic, and whatever it accepts can be used.

use proptest::prelude::*;
use seaworthy_config::{Config, Degrade, KeyStoreKind, RateStore, Where};

const SHOP: &str = include_str!("../../../examples/shop.toml");
const TOPOLOGY: &str = include_str!("../../../examples/topology.toml");
const OVERLOAD: &str = include_str!("../../../examples/overload.toml");
const KEYS: &str = include_str!("../../../examples/idempotency.toml");
const PROCESSES: &str = include_str!("../../../examples/processes.toml");

/// What must hold for any text.
fn try_it(text: &str) {
    match Config::from_toml("f", text) {
        Ok(config) => {
            assert!(!config.listen.is_empty() && !config.upstreams.is_empty() && !config.routes.is_empty());
            assert!(config.routes.iter().all(|route| route.upstream < config.upstreams.len()));
            let sources = config.upstreams.iter().flat_map(|upstream| &upstream.sources);
            for source in sources.map(|source| &source.at) {
                assert!(!matches!(source, Where::Process(at) if *at >= config.processes.len()), "{source:?}");
            }
            for route in &config.routes {
                let others = route.degrade.iter().filter_map(|degrade| match degrade {
                    Degrade::Upstream(other) => Some(other.upstream),
                    _ => None,
                });
                assert!(
                    others.into_iter().all(|other| other < config.upstreams.len() && other != route.upstream)
                );
                assert!(route.flags.is_none() || config.data.is_some());
                if let Some(keys) = &route.idempotency {
                    let outlives = |deadline| keys.lease > deadline;
                    assert!(route.call.deadline.is_some_and(outlives) && keys.retention >= keys.lease * 2);
                    assert!(keys.required.iter().all(|method| keys.methods.contains(method)));
                    assert!(config.idempotency.is_some());
                }
                let stores = [config.rate, route.rate].into_iter().flatten().map(|rate| rate.store);
                assert!(stores.into_iter().all(|store| store == RateStore::Local || config.redis.is_some()));
            }
            let kind = config.idempotency.as_ref().map(|store| &store.kind);
            assert!(!matches!(kind, Some(KeyStoreKind::Redis(_))) || config.redis.is_some());
            assert!(config.upstreams.iter().all(|upstream| !upstream.sources.is_empty()));
            assert!(!config.effective.to_string().is_empty());
        }
        Err(mistakes) => {
            assert!(!mistakes.errors.is_empty());
            let lines = text.split('\n').count() as u32;
            for error in mistakes.errors.iter().chain(&mistakes.warnings) {
                let place = &error.place;
                assert!((1..=lines).contains(&place.line), "{place:?}");
                assert!(place.column as usize <= place.excerpt.chars().count() + 1, "{place:?}");
                assert!(!error.message.is_empty() && !error.remedy.is_empty());
            }
            assert!(!mistakes.to_string().is_empty());
        }
    }
}

/// A piece of a configuration: a line, a token or an odd character.
fn piece() -> impl Strategy<Value = String> {
    let lines: Vec<String> = [SHOP, TOPOLOGY, OVERLOAD, KEYS, PROCESSES]
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| format!("{line}\n"))
        .collect();
    let odd = [
        "[",
        "]",
        "[[route]]\n",
        "=",
        "\"",
        "'",
        "{",
        "}",
        ",",
        ".",
        "\n",
        "\r\n",
        "\t",
        "#",
        "é",
        "\u{1F6A2}",
        "\0",
        "-1",
        "1e999",
        "nan",
        "0x",
        "[upstream.a]\n",
        "endpoints",
        " = \"http://a\"\n",
        "\"\"",
        "\u{feff}",
        "1979-05-27",
        "[[",
        "route",
        "[process.a]\n",
        "{ url = ",
        "\"process://a\"",
        "\"dns://\"",
        "\"srv://_._.\"",
        "\"file:\"",
        "\"(?\"",
        "\"9-1\"",
    ];
    prop_oneof![
        3 => proptest::sample::select(lines),
        2 => proptest::sample::select(odd.to_vec()).prop_map(str::to_owned),
        1 => ".{0,5}",
    ]
}

proptest! {
    #[test]
    fn arbitrary_text(text in "(?s).{0,200}") {
        try_it(&text);
    }

    #[test]
    fn pieces_in_any_order(pieces in proptest::collection::vec(piece(), 0..30)) {
        try_it(&pieces.concat());
    }

    #[test]
    fn a_valid_file_with_a_piece_replaced(at in 0..SHOP.len(), cut in 0..40usize, piece in piece()) {
        let start = (0..=at).rev().find(|i| SHOP.is_char_boundary(*i)).unwrap();
        let end = (at + cut..=SHOP.len()).find(|i| SHOP.is_char_boundary(*i)).unwrap_or(SHOP.len());
        try_it(&format!("{}{piece}{}", &SHOP[..start], &SHOP[end..]));
    }

    #[test]
    fn another_valid_file_with_a_piece_replaced(at in 0..TOPOLOGY.len(), cut in 0..40usize, piece in piece()) {
        let text = TOPOLOGY;
        let start = (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap();
        let end = (at + cut..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
        try_it(&format!("{}{piece}{}\n{PROCESSES}", &text[..start], &text[end..]));
    }

    #[test]
    fn a_busy_day_with_a_piece_replaced(at in 0..OVERLOAD.len(), cut in 0..40usize, piece in piece()) {
        try_it(&format!("{}{piece}{}", &OVERLOAD[..at], &OVERLOAD[(at + cut).min(OVERLOAD.len())..]));
    }

    #[test]
    fn a_valid_file_cut_short(at in 0..SHOP.len()) {
        let end = (0..=at).rev().find(|i| SHOP.is_char_boundary(*i)).unwrap();
        try_it(&SHOP[..end]);
    }

    #[test]
    fn any_command_line(to in "(?s).{0,30}", listen in proptest::option::of("(?s).{0,30}"), admin in proptest::option::of("(?s).{0,30}")) {
        if let Err(mistakes) = Config::from_command_line(&to, listen.as_deref(), admin.as_deref()) {
            prop_assert!(!mistakes.errors.is_empty() && !mistakes.to_string().is_empty());
        }
    }
}

/// Nesting costs stack, so the parser bounds it.
#[test]
fn deep_nesting() {
    try_it(&format!("a = {}", "[".repeat(10_000)));
    try_it(&format!("a = {}", "{a=".repeat(10_000)));
    try_it(&format!("[{}a]", "a.".repeat(10_000)));
}
