//! The files that follow from the definition of the settings are up to date.
//!
//! `SEAWORTHY_UPDATE=1 cargo test -p seaworthy-config --test outputs` writes them.
#![expect(clippy::unwrap_used, reason = "a helper of tests")]

use std::path::PathBuf;

fn is_up_to_date(path: &str, expected: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("SEAWORTHY_UPDATE").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let actual = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        actual.replace("\r\n", "\n") == expected,
        "{path} is out of date: run SEAWORTHY_UPDATE=1 cargo test -p seaworthy-config --test outputs"
    );
}

#[test]
fn the_schema_is_up_to_date() {
    is_up_to_date("seaworthy.schema.json", &seaworthy_config::schema());
}

#[test]
fn the_reference_is_up_to_date() {
    is_up_to_date("docs/config.md", &seaworthy_config::reference());
}
