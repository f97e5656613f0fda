//! The tests that span several crates; each file beside `Cargo.toml` is a target of its own.
