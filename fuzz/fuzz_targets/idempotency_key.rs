//! A client's idempotency key.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seaworthy::core::idempotency::{Key, MOST_KEY_BYTES};

fuzz_target!(|data: &[u8]| {
    let Ok(key) = Key::parse(data) else { return };
    let text = key.as_str();
    assert!((1..=MOST_KEY_BYTES).contains(&text.len()));
    assert!(
        text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)),
        "it can be a header, a log line and a row"
    );
    // What was read can be written in quotes, and is the same key then.
    let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    assert_eq!(Key::parse(quoted.as_bytes()), Ok(key.clone()));
    assert_eq!(Key::parse(format!(" {quoted}\t").as_bytes()), Ok(key), "space around it means nothing");
});
