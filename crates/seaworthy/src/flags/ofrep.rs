//! The OpenFeature Remote Evaluation Protocol, version 0.2: text in, values out, and no connection anywhere.
//!
//! The source is <https://github.com/open-feature/protocol/blob/main/service/openapi.yaml>. What comes from outside is read into
//! [`Answer`] and [`Trouble`] once; nothing that does not say what the protocol says is taken for an answer.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Trouble};
use super::keep::Good;

/// Where all flags are evaluated; one flag has its key behind another slash.
pub const PATH: &str = "/ofrep/v1/evaluate/flags";

/// OpenFeature's reason for a value that is not up to date.
pub const STALE: &str = "STALE";
/// OpenFeature's reason for a value that nobody evaluated.
pub const DEFAULT: &str = "DEFAULT";

/// In the metadata of an answer: where its value comes from, `last-known-good` or `declared`.
pub const ORIGIN: &str = "seaworthy.origin";
/// In the metadata of an answer: how many seconds ago the service said so last.
pub const AGE: &str = "seaworthy.ageSeconds";
/// In the metadata of an answer: why there is no live value, in a word.
pub const CAUSE: &str = "seaworthy.cause";

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// One flag, by its key.
    One(String),
    /// All flags.
    All,
}

impl Asked {
    /// What a POST to `path` asks for, wherever the protocol's own path begins in it; `None` if it is none of the protocol's.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let rest = &path[path.find(PATH)? + PATH.len()..];
        match rest.strip_prefix('/') {
            None => rest.is_empty().then_some(Self::All),
            Some("") => Some(Self::All),
            Some(key) if key.contains('/') => None,
            Some(key) => decoded(key).map(Self::One),
        }
    }

    /// The path that asks for it.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::All => PATH.to_owned(),
            Self::One(key) => format!("{PATH}/{}", encoded(key)),
        }
    }
}

/// The body of a request.
#[must_use]
pub fn request(context: &Value) -> Value {
    json!({ "context": context })
}

/// The evaluation context of a request's body. A request without a body or without a context asks for nobody in particular.
///
/// # Errors
/// If it is not JSON, or the context is not an object.
pub fn context_of(body: &[u8]) -> Result<Value, Trouble> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    let bad = |code: &str, details: &str| Trouble::BadContext { code: code.into(), details: details.into() };
    let Ok(Value::Object(mut request)) = serde_json::from_slice(body) else {
        return Err(bad("PARSE_ERROR", "the request's body is not a JSON object"));
    };
    match request.remove("context").unwrap_or(Value::Null) {
        context @ (Value::Null | Value::Object(_)) => Ok(context),
        _ => Err(bad("INVALID_CONTEXT", "the context is not an object")),
    }
}

/// Reads what was answered about one flag.
///
/// # Errors
/// Whatever is not a value for this flag.
pub fn read_one(flag: &str, status: u16, body: &[u8]) -> Result<Answer, Trouble> {
    if status != 200 {
        return Err(trouble(status, body));
    }
    let members = object(body)?;
    match members.get("key") {
        Some(Value::String(key)) if key != flag => Err(Trouble::Malformed("it is about another flag".into())),
        // Any JSON would do otherwise, such as that of a page that says "logged out".
        None if !members.contains_key("value") && !members.contains_key("reason") => {
            Err(Trouble::Malformed("it is about no flag".into()))
        }
        _ => answer(members),
    }
}

/// What all flags are, each by its key: an answer, or why there is none for this one.
pub type OfAll = Vec<(String, Result<Answer, Trouble>)>;

/// Reads what was answered about all flags.
///
/// # Errors
/// Whatever is not a list of flags.
pub fn read_all(status: u16, body: &[u8]) -> Result<OfAll, Trouble> {
    if status != 200 {
        return Err(trouble(status, body));
    }
    let Some(Value::Array(flags)) = object(body)?.remove("flags") else {
        return Err(Trouble::Malformed("it lists no flags".into()));
    };
    flags.into_iter().map(one_of_all).collect()
}

fn one_of_all(flag: Value) -> Result<(String, Result<Answer, Trouble>), Trouble> {
    let Value::Object(mut members) = flag else {
        return Err(Trouble::Malformed("a flag in it is not an object".into()));
    };
    let Some(Value::String(key)) = members.remove("key") else {
        return Err(Trouble::Malformed("a flag in it has no key".into()));
    };
    match members.get("errorCode").and_then(Value::as_str) {
        Some(code) => Ok((key, Err(coded(code, &members)))),
        None => Ok((key, Ok(answer(members)?))),
    }
}

fn answer(mut members: Map<String, Value>) -> Result<Answer, Trouble> {
    let mut text = |name: &str| match members.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Trouble::Malformed(format!("its {name} is not a string"))),
    };
    let (reason, variant) = (text("reason")?, text("variant")?);
    let metadata = match members.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return Err(Trouble::Malformed("its metadata is not an object".into())),
    };
    // Without a value, the service leaves it to the code that asks.
    let value = members.remove("value").filter(|value| !value.is_null());
    Ok(Answer { value, variant, reason, metadata })
}

/// What an answer that is not a 200 says.
fn trouble(status: u16, body: &[u8]) -> Trouble {
    let members = object(body).unwrap_or_default();
    let code = members.get("errorCode").and_then(Value::as_str);
    match (status, code) {
        (401 | 403, _) => Trouble::Unauthorized(status),
        (429, _) => Trouble::RateLimited { retry_after: None },
        // A 404 without the code is that of a server that does not speak the protocol.
        (404, Some("FLAG_NOT_FOUND")) => Trouble::NotFound,
        (400, Some(code)) => coded(code, &members),
        _ => Trouble::Status(status),
    }
}

fn coded(code: &str, members: &Map<String, Value>) -> Trouble {
    let details = members.get("errorDetails").and_then(Value::as_str).unwrap_or_default().to_owned();
    match code {
        "FLAG_NOT_FOUND" => Trouble::NotFound,
        "TARGETING_KEY_MISSING" | "INVALID_CONTEXT" => Trouble::BadContext { code: code.into(), details },
        _ => Trouble::Failed { code: code.into(), details },
    }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Trouble> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Trouble::Malformed("it is not a JSON object".into())),
        Err(error) => Err(Trouble::Malformed(error.to_string())),
    }
}

/// Writes the last-known-good value of a flag as an answer.
#[must_use]
pub fn write_last_known_good(flag: &str, good: &Good, age: Duration, cause: &str) -> Value {
    let mut answer = json!({"key": flag, "value": good.value, "reason": STALE});
    if let Some(variant) = &good.variant {
        answer["variant"] = variant.as_str().into();
    }
    let mut metadata = good.metadata.clone();
    metadata.insert(ORIGIN.into(), "last-known-good".into());
    metadata.insert(AGE.into(), age.as_secs().into());
    metadata.insert(CAUSE.into(), cause.into());
    answer["metadata"] = Value::Object(metadata);
    answer
}

/// Writes the declared default of a flag as an answer.
#[must_use]
pub fn write_declared(flag: &str, value: &Value, cause: &str) -> Value {
    let metadata = json!({(ORIGIN): "declared", (CAUSE): cause});
    json!({"key": flag, "value": value, "reason": DEFAULT, "metadata": metadata})
}

/// Writes an error; of one flag if there is a key.
#[must_use]
pub fn write_error(flag: Option<&str>, code: &str, details: &str) -> Value {
    let mut error = json!({"errorCode": code, "errorDetails": details});
    if let Some(flag) = flag {
        error["key"] = flag.into();
    }
    error
}

/// `key` as a segment of a path (RFC 3986, section 3.3): what is not unreserved is escaped.
fn encoded(key: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte as char),
            // Writing to a string can't fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    // A server would take these for the path's own.
    if text.chars().all(|c| c == '.') { text.replace('.', "%2E") } else { text }
}

fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_there_and_back() {
        for key in ["new-checkout", "a b/c", "ü%2F", "..", "a.b~c_d", "?#&"] {
            let asked = Asked::One(key.to_owned());
            assert_eq!(Asked::of_path(&asked.path()), Some(asked), "{key}");
        }
        assert_eq!(Asked::of_path(PATH), Some(Asked::All));
        assert_eq!(Asked::of_path("/flags/ofrep/v1/evaluate/flags/"), Some(Asked::All));
        assert_eq!(Asked::of_path("/flags/ofrep/v1/evaluate/flags/x"), Some(Asked::One("x".into())));
        let others =
            ["/", "/ofrep/v1/configuration", "/ofrep/v1/evaluate/flagship", "/ofrep/v1/evaluate/flags/a/b"];
        for other in others.into_iter().chain([
            "/ofrep/v1/evaluate/flags/%",
            "/ofrep/v1/evaluate/flags/%+1",
            "/ofrep/v1/evaluate/flags/%ff",
        ]) {
            assert_eq!(Asked::of_path(other), None, "{other}");
        }
    }

    #[test]
    fn a_value_is_read_with_all_that_is_said_of_it() {
        let body = br#"{"key":"theme","value":{"a":[1]},"reason":"SPLIT","variant":"b","metadata":{"owner":"shop"},"more":1}"#;
        let answer = read_one("theme", 200, body).unwrap();
        assert_eq!(answer.value, Some(json!({"a": [1]})));
        assert_eq!((answer.reason.as_deref(), answer.variant.as_deref()), (Some("SPLIT"), Some("b")));
        assert_eq!(answer.metadata["owner"], "shop");
        let left_to_the_code = read_one("theme", 200, br#"{"key":"theme","reason":"DEFAULT"}"#).unwrap();
        assert_eq!(left_to_the_code.value, None);
    }

    #[test]
    fn what_the_protocol_does_not_say_is_no_answer() {
        let garbage: [&[u8]; 8] = [
            b"",
            b"<html>",
            b"null",
            b"{}",
            br#"{"ok":true}"#,
            br#"{"key":"other","value":true}"#,
            br#"{"key":"theme","value":true,"variant":7}"#,
            br#"{"key":"theme","value":true"#,
        ];
        for body in garbage {
            assert!(matches!(read_one("theme", 200, body), Err(Trouble::Malformed(_))), "{body:?}");
        }
        for body in [&b"{}"[..], br#"{"flags":{}}"#, br#"{"flags":[1]}"#, br#"{"flags":[{"value":1}]}"#] {
            assert!(matches!(read_all(200, body), Err(Trouble::Malformed(_))), "{body:?}");
        }
    }

    #[test]
    fn every_status_says_what_it_means() {
        let not_found = br#"{"key":"theme","errorCode":"FLAG_NOT_FOUND"}"#;
        assert_eq!(read_one("theme", 404, not_found), Err(Trouble::NotFound));
        assert_eq!(read_one("theme", 404, b"no such page"), Err(Trouble::Status(404)));
        let bad = br#"{"key":"theme","errorCode":"TARGETING_KEY_MISSING","errorDetails":"who?"}"#;
        let expected = Trouble::BadContext { code: "TARGETING_KEY_MISSING".into(), details: "who?".into() };
        assert_eq!(read_one("theme", 400, bad), Err(expected));
        let broken = br#"{"key":"theme","errorCode":"PARSE_ERROR"}"#;
        assert!(matches!(read_one("theme", 400, broken), Err(Trouble::Failed { .. })));
        assert_eq!(read_one("theme", 401, b""), Err(Trouble::Unauthorized(401)));
        assert_eq!(read_one("theme", 403, not_found), Err(Trouble::Unauthorized(403)));
        assert_eq!(read_one("theme", 429, b""), Err(Trouble::RateLimited { retry_after: None }));
        assert_eq!(read_one("theme", 500, broken), Err(Trouble::Status(500)));
        assert_eq!(read_one("theme", 302, b""), Err(Trouble::Status(302)));
    }

    #[test]
    fn all_flags_are_read_and_each_error_is_its_own() {
        let body =
            br#"{"flags":[{"key":"a","value":1},{"key":"b","errorCode":"GENERAL","errorDetails":"x"}]}"#;
        let flags = read_all(200, body).unwrap();
        assert_eq!(flags[0], ("a".into(), Ok(Answer::new(1))));
        assert!(matches!(&flags[1], (key, Err(Trouble::Failed { .. })) if key == "b"));
    }

    #[test]
    fn a_request_says_for_whom_it_is() {
        assert_eq!(context_of(b" \n").unwrap(), Value::Null);
        assert_eq!(context_of(b"{}").unwrap(), Value::Null);
        let context = json!({"targetingKey": "anna"});
        assert_eq!(context_of(request(&context).to_string().as_bytes()).unwrap(), context);
        for bad in [&b"{"[..], b"[]", br#"{"context":"anna"}"#] {
            assert!(matches!(context_of(bad), Err(Trouble::BadContext { .. })), "{bad:?}");
        }
    }
}
