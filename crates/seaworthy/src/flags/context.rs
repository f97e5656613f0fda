//! For whom a flag was evaluated, without keeping who that was.

use std::fmt;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Stands for an evaluation context: the same context has the same fingerprint, in every process and release.
///
/// It is SHA-256 rather than a quick hash because whoever can make two contexts collide would be answered with another's values.
/// The context itself, with names and addresses in it, is kept nowhere; but who can guess a context can confirm the guess, so
/// the file is for its owner alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of `context`, whatever the order of its members. `null` and an empty object are the same context: nobody in particular.
    #[must_use]
    pub fn of(context: &Value) -> Self {
        Self::scoped(&[], context)
    }

    /// Of `context` as `scope` sees it: whose credentials asked, say. Values learned in one scope are not known in another.
    #[must_use]
    pub fn scoped(scope: &[&[u8]], context: &Value) -> Self {
        let mut hash = Sha256::new();
        for part in scope {
            sized(&mut hash, b'c', part);
        }
        match context {
            Value::Null => hash.update(b"{}"),
            context => feed(&mut hash, context),
        }
        Self(hash.finalize().into())
    }

    /// As it is written in the file: 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({}..)", &self.to_hex()[..8])
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Feeds `value` unambiguously: every part says its kind and its length, and members come in the order of their names.
fn feed(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hash.update(b"n"),
        Value::Bool(value) => hash.update(if *value { b"t" } else { b"f" }),
        Value::Number(number) => sized(hash, b'0', number.to_string().as_bytes()),
        Value::String(text) => sized(hash, b's', text.as_bytes()),
        Value::Array(items) => {
            hash.update(b"[");
            items.iter().for_each(|item| feed(hash, item));
            hash.update(b"]");
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            // serde_json keeps them sorted unless some other crate of the program has switched `preserve_order` on.
            members.sort_by_key(|(name, _)| *name);
            hash.update(b"{");
            for (name, value) in members {
                sized(hash, b'k', name.as_bytes());
                feed(hash, value);
            }
            hash.update(b"}");
        }
    }
}

fn sized(hash: &mut Sha256, kind: u8, bytes: &[u8]) {
    hash.update([kind]);
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_members_does_not_matter_and_everything_else_does() {
        let parse = |text: &str| Fingerprint::of(&serde_json::from_str(text).unwrap());
        assert_eq!(
            parse(r#"{"a":1,"b":[true,{"c":2,"d":3}]}"#),
            parse(r#"{"b":[true,{"d":3,"c":2}],"a":1}"#)
        );
        let different = [
            json!({}),
            json!({"a": 1}),
            json!({"a": "1"}),
            json!({"a": 1.5}),
            json!({"a": null}),
            json!({"a": [1]}),
            json!({"a": [[1]]}),
            json!({"a": [1, 1]}),
            json!({"a": {"a": 1}}),
            json!({"a": "b", "c": ""}),
            json!({"a": "", "b": "c"}),
            json!({"ab": "c"}),
        ];
        for (i, one) in different.iter().enumerate() {
            for other in &different[i + 1..] {
                assert_ne!(Fingerprint::of(one), Fingerprint::of(other), "{one} and {other}");
            }
        }
        assert_eq!(Fingerprint::of(&Value::Null), Fingerprint::of(&json!({})));
    }

    #[test]
    fn a_scope_is_a_world_of_its_own() {
        let context = json!({"targetingKey": "anna"});
        let (one, other) =
            (Fingerprint::scoped(&[b"k", b""], &context), Fingerprint::scoped(&[b"", b"k"], &context));
        assert_ne!(one, other);
        assert_ne!(one, Fingerprint::of(&context));
    }

    #[test]
    fn it_stays_what_it_was_for_files_outlive_releases() {
        let fingerprint = Fingerprint::of(&json!({"targetingKey": "anna", "beta": true, "age": 30}));
        assert_eq!(Fingerprint::from_hex(&fingerprint.to_hex()), Some(fingerprint));
        assert_eq!(fingerprint.to_hex(), "b30adb42c45f7075c745445012f8f21d97da9a443ac48ce05c68571882a2c5e9");
        assert_eq!(Fingerprint::from_hex("short"), None);
        assert_eq!(Fingerprint::from_hex(&"+0".repeat(32)), None);
    }
}
