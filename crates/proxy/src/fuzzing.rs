//! What is read of strangers, one function each: takes any bytes, and panics if something is not as it must be.
//!
//! `fuzz/` feeds them with whatever a fuzzer thinks of; the tests here with the seeds that it starts from.

use std::str;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Method, Response, StatusCode, Version};
use seaworthy_core::{Criticality, Instant};
use serde_json::{Map, Value};

use crate::degrade::{How, Look, Moment, Question, Recorder, Rules, Shown, Store};
use crate::head::{Seen, clean_answer};
use crate::{ids, names, standing};

/// The head of a request: lines of header fields.
pub fn head(data: &[u8]) {
    let headers = lines(data);
    for (_, value) in &headers {
        let _fit = (ids::is_fit(value), ids::trace_id(value));
    }
    clean_answer(&mut headers.clone(), false);
    let Ok(seen) = Seen::of(&headers) else { return };
    if let Ok(Some(patience)) = seen.patience(&headers) {
        assert!(Instant::from_millis(1).plus(patience) > Instant::ZERO, "a deadline is not before its call");
    }
    if let Ok(Some(level)) = seen.criticality(&headers) {
        let texts = headers.get_all(names::CRITICALITY).iter().map(|line| line.to_str().expect("was read"));
        let levels = texts.map(|text| text.parse::<Criticality>().expect("was read"));
        assert_eq!(levels.min(), Some(level), "who says it twice gets the least");
    }
    for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
        let _host = seen.host(&headers, None, version);
        let upgrade = seen.upgrades(&headers, version);
        let mut left = headers.clone();
        seen.drop_hop_by_hop(&mut left, upgrade);
        what_is_left(&headers, &left, upgrade);
    }
}

/// The cookie that tells whose call it is: its name, a line end, and lines of header fields.
pub fn cookie(data: &[u8]) {
    let (name, rest) = cut(data, b"\n");
    let Ok(name) = str::from_utf8(name) else { return };
    let headers = lines(rest);
    let Some(found) = standing::cookie(&headers, name) else { return };
    let mut fields = headers.get_all(header::COOKIE).iter();
    let pair = [name.as_bytes(), b"=", found].concat();
    let stands = |field: &HeaderValue| field.as_bytes().windows(pair.len()).any(|w| *w == pair);
    assert!(fields.any(stands), "what was found is there");
    assert!(!found.contains(&b';'), "one cookie is found");
}

/// What decides on kept answers. Four paragraphs: the header fields of a request, those of its answer, those of a later
/// request (or of a 304), and the answer's body.
pub fn kept(data: &[u8]) {
    let (first, rest) = cut(data, b"\n\n");
    let (answer, rest) = cut(rest, b"\n\n");
    let (later, body) = cut(rest, b"\n\n");
    let (first, answer, later) = (lines(first), lines(answer), lines(later));
    let store = Store::new(1 << 20);
    let recorder = store.answered(at(0), &question(&Method::GET, &first), &RULES, StatusCode::OK, &answer);
    let Some(stored) = recorder.and_then(|recorder| recorder.data(body)).and_then(Recorder::end) else {
        return;
    };
    assert!(!forbids(&first, "no-store"), "who asks that nothing is stored is heard");
    for word in ["no-store", "no-cache", "private"] {
        assert!(!forbids(&answer, word), "an origin that says {word} is heard");
    }
    assert!(!answer.contains_key(header::SET_COOKIE), "what was made for one visitor is not for another");
    for seconds in SECONDS {
        for method in [Method::GET, Method::HEAD] {
            shown(&store, at(seconds), &question(&method, &later), &first, &answer, body);
        }
    }
    // Last, as a 304 may change what it varies by.
    let again = question(&Method::GET, &first);
    for seconds in SECONDS {
        if let Some(stored) = store.refreshed(at(seconds), &again, &stored, &later) {
            whole_or_part(&stored.response(at(seconds), &again, &KEPT), &again, body);
        }
    }
}

/// What is shown to a later request of what was kept.
fn shown(
    store: &Arc<Store>,
    now: Moment,
    asked: &Question,
    first: &HeaderMap,
    answer: &HeaderMap,
    body: &[u8],
) {
    let looked = match store.look(now, asked, &RULES) {
        Look::Fresh(stored) | Look::Stale { stored, .. } => Some(stored),
        Look::Miss => None,
    };
    for stored in [looked, store.on_error(now, asked, &RULES)].into_iter().flatten() {
        let later = asked.headers();
        for name in answer.get_all(header::VARY).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','))
        {
            let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) else { continue };
            assert_eq!(joined(first, &name), joined(later, &name), "it varies by {name}");
        }
        whole_or_part(&stored.response(now, asked, &KEPT), asked, body);
        let field = Shown { how: How::Degraded("it hung"), header: Some("x-as-of"), field: Some("as_of") };
        let response = stored.response(now, asked, &field);
        assert!(response.headers().contains_key(names::DEGRADED), "it says that it is stale");
        let was_object = serde_json::from_slice::<Map<String, Value>>(body).is_ok();
        if was_object && response.status() == StatusCode::OK && *asked.method() == Method::GET {
            let still = serde_json::from_slice::<Map<String, Value>>(response.body());
            assert!(still.is_ok(), "an object stays one");
        }
    }
}

fn whole_or_part(response: &Response<Bytes>, asked: &Question, body: &[u8]) {
    let headers = response.headers();
    let length = headers.get(header::CONTENT_LENGTH).map(|n| n.to_str().expect("ours").parse::<usize>());
    if *asked.method() == Method::HEAD {
        assert!(response.body().is_empty(), "a HEAD has no body");
        return;
    }
    let range = headers.get(header::CONTENT_RANGE).map(|range| range.to_str().expect("ours"));
    match response.status().as_u16() {
        200 => assert_eq!(response.body(), body),
        206 => {
            let (span, size) =
                range.and_then(|r| r.strip_prefix("bytes ")?.split_once('/')).expect("its range");
            let (from, to) = span.split_once('-').expect("from and to");
            let (from, to): (usize, usize) = (from.parse().expect("from"), to.parse().expect("to"));
            assert_eq!(response.body(), &body[from..=to]);
            assert_eq!(size.parse(), Ok(body.len()));
        }
        304 | 416 => assert!(response.body().is_empty()),
        other => panic!("{other} is no answer to what was stored with 200"),
    }
    assert!(length.is_none_or(|length| length == Ok(response.body().len())), "its length is true");
}

/// What concerned the client's hop alone is gone; what says where a body ends is as it was.
fn what_is_left(all: &HeaderMap, left: &HeaderMap, upgrade: bool) {
    for name in [
        names::KEEP_ALIVE,
        names::PROXY_CONNECTION,
        names::HTTP2_SETTINGS,
        names::TIMEOUT_MS,
        names::GRPC_TIMEOUT,
        names::CRITICALITY,
        header::EXPECT,
        header::TRANSFER_ENCODING,
        header::PROXY_AUTHORIZATION,
    ] {
        assert!(!left.contains_key(&name), "{name} goes on");
    }
    assert_eq!(left.contains_key(header::CONNECTION), upgrade);
    assert_eq!(left.contains_key(header::UPGRADE), upgrade);
    for name in [header::HOST, header::CONTENT_LENGTH] {
        assert!(all.get_all(&name).iter().eq(left.get_all(&name)), "{name} stays");
    }
    assert!(left.get(header::TE).is_none_or(|te| te == "trailers"));
}

/// Whether a plain list of directives has the word in it; of one with quotes this can't tell.
fn forbids(headers: &HeaderMap, word: &str) -> bool {
    let lines = headers.get_all(header::CACHE_CONTROL).iter().map(HeaderValue::as_bytes);
    let plain = lines.filter(|line| !line.contains(&b'"'));
    plain.flat_map(|line| line.split(|b| *b == b',')).any(|part| {
        let name = part.split(|b| *b == b'=').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(word.as_bytes())
    })
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..])
}

fn question(method: &Method, headers: &HeaderMap) -> Question {
    let target = http::uri::PathAndQuery::from_static("/");
    Question::of(method, &HeaderValue::from_static("shop"), &target, headers)
}

fn at(seconds: u64) -> Moment {
    let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds);
    Moment { wall, steady: Instant::from_millis(seconds * 1000) }
}

/// `name: value` lines, as far as they are header fields.
fn lines(text: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let (name, value) = cut(line, b":");
        let field = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()));
        if let (Ok(name), Ok(value)) = field {
            headers.append(name, value);
        }
    }
    headers
}

/// What stands before and after `by`; all before it if it is not there.
fn cut<'a>(text: &'a [u8], by: &[u8]) -> (&'a [u8], &'a [u8]) {
    match text.windows(by.len()).position(|window| window == by) {
        Some(at) => (&text[..at], &text[at + by.len()..]),
        None => (text, &[]),
    }
}

const RULES: Rules = Rules { within: Duration::from_secs(600), serve_fresh: true, entry_bytes: 1 << 18 };
const KEPT: Shown<'static> = Shown { how: How::Kept, header: None, field: None };

/// After how long it is asked again: at once, within and beyond what seeds say, and never in a life.
const SECONDS: [u64; 5] = [0, 1, 61, 700, 1 << 40];

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn seeds(target: &str, feed: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            feed(&std::fs::read(file).unwrap());
        }
    }

    #[test]
    fn what_fuzzing_starts_from_and_has_found_does_no_harm() {
        seeds("head", super::head);
        seeds("cookie", super::cookie);
        seeds("kept", super::kept);
    }
}
