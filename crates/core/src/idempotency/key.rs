//! The key that a client sends, as it is read from its header.

use alloc::string::String;
use core::fmt;

/// The most bytes of a key, as Stripe takes.
pub const MOST_KEY_BYTES: usize = 255;

/// A key of 1 to [`MOST_KEY_BYTES`] printable ASCII characters.
///
/// The draft asks for a structured field's String (RFC 8941, section 3.3.3), in quotes; most clients send a bare token. Both
/// are taken, and mean the same key: `"8e03978e"` is `8e03978e`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(String);

impl Key {
    /// The key in a header field's value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(value: &[u8]) -> Result<Self, BadKey> {
        let value = value.trim_ascii();
        let key = match value.split_first() {
            None => return Err(BadKey::Empty),
            Some((b'"', rest)) => quoted(rest)?,
            Some(_) => bare(value)?,
        };
        match key.len() {
            0 => Err(BadKey::Empty),
            1..=MOST_KEY_BYTES => Ok(Self(key)),
            _ => Err(BadKey::TooLong),
        }
    }

    /// Without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What follows the opening quote.
fn quoted(rest: &[u8]) -> Result<String, BadKey> {
    let mut key = String::new();
    let mut bytes = rest.iter();
    loop {
        match bytes.next() {
            None => return Err(BadKey::Unclosed),
            Some(b'"') if bytes.as_slice().is_empty() => return Ok(key),
            // Parameters would be allowed by the field's grammar; the draft defines none, and what they would mean is unknown.
            Some(b'"') => return Err(BadKey::Trailing),
            Some(b'\\') => match bytes.next() {
                Some(byte @ (b'"' | b'\\')) => key.push(char::from(*byte)),
                Some(_) => return Err(BadKey::Escape),
                None => return Err(BadKey::Unclosed),
            },
            Some(byte @ 0x20..=0x7e) => key.push(char::from(*byte)),
            Some(_) => return Err(BadKey::Character),
        }
        if key.len() > MOST_KEY_BYTES {
            return Err(BadKey::TooLong);
        }
    }
}

/// One word of visible characters, without what would make a list or a string of it.
fn bare(value: &[u8]) -> Result<String, BadKey> {
    if value.len() > MOST_KEY_BYTES {
        return Err(BadKey::TooLong);
    }
    let fits = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\');
    if !value.iter().all(fits) {
        return Err(BadKey::Character);
    }
    Ok(value.iter().copied().map(char::from).collect())
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why something is no key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum BadKey {
    /// There is nothing in it.
    Empty,
    /// It is longer than [`MOST_KEY_BYTES`].
    TooLong,
    /// It begins with a quote and doesn't end with one.
    Unclosed,
    /// Something follows the closing quote.
    Trailing,
    /// A backslash stands before something else than a quote or a backslash.
    Escape,
    /// It holds a character that is not printable ASCII, or, without quotes, a space, comma, semicolon, quote or backslash.
    Character,
    /// There is more than one header.
    Several,
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the idempotency key is empty",
            Self::TooLong => "the idempotency key is longer than 255 characters",
            Self::Unclosed => "the idempotency key begins with a quote and does not end with one",
            Self::Trailing => "something follows the closing quote of the idempotency key",
            Self::Escape => "the idempotency key has a backslash before something else than a quote or a backslash",
            Self::Character => {
                "the idempotency key holds a character that it can't: printable ASCII in quotes, or one word without"
            }
            Self::Several => "there is more than one idempotency key",
        })
    }
}

impl core::error::Error for BadKey {}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    fn key(value: &str) -> Result<String, BadKey> {
        Key::parse(value.as_bytes()).map(|key| key.as_str().into())
    }

    #[test]
    fn quoted_and_bare_keys_are_the_same() {
        let uuid = "8e03978e-40d5-43e8-bc93-6894a57f9324";
        assert_eq!(key(uuid).unwrap(), uuid);
        assert_eq!(key(&format!("  \"{uuid}\" ")).unwrap(), uuid);
        assert_eq!(key(r#""a \"b\" \\ c""#).unwrap(), r#"a "b" \ c"#);
    }

    #[test]
    fn what_is_no_key_is_named() {
        for (value, error) in [
            ("", BadKey::Empty),
            ("  ", BadKey::Empty),
            ("\"\"", BadKey::Empty),
            ("\"abc", BadKey::Unclosed),
            ("\"abc\\", BadKey::Unclosed),
            ("\"abc\"; a=1", BadKey::Trailing),
            ("\"abc\", \"def\"", BadKey::Trailing),
            ("\"a\\bc\"", BadKey::Escape),
            ("a b", BadKey::Character),
            ("a,b", BadKey::Character),
            ("\"\u{e4}\"", BadKey::Character),
            ("\"a\tb\"", BadKey::Character),
        ] {
            assert_eq!(key(value), Err(error), "{value:?}");
        }
    }

    #[test]
    fn a_key_has_up_to_255_characters() {
        let longest = "k".repeat(MOST_KEY_BYTES);
        assert_eq!(key(&longest).unwrap(), longest);
        assert_eq!(key(&format!("\"{longest}\"")).unwrap(), longest);
        assert_eq!(key(&format!("{longest}k")), Err(BadKey::TooLong));
        assert_eq!(key(&format!("\"{longest}k\"")), Err(BadKey::TooLong));
    }
}
