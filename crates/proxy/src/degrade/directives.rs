//! `Cache-Control`, read once and with bounds (RFC 9111, section 5.2; RFC 5861).

use std::fmt::Write as _;
use std::time::Duration;

use http::header::{CACHE_CONTROL, HeaderMap, PRAGMA};

/// What `Cache-Control` says, of a request or of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Directives {
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub only_if_cached: bool,
    pub max_age: Option<Duration>,
    pub s_maxage: Option<Duration>,
    pub min_fresh: Option<Duration>,
    pub stale_if_error: Option<Duration>,
    pub stale_while_revalidate: Option<Duration>,
}

impl Directives {
    /// Reads them. What can't be read, or is too much to be meant, counts as `no-store`.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        let mut left = MOST;
        for line in headers.get_all(CACHE_CONTROL) {
            let Ok(line) = line.to_str() else {
                found.no_store = true;
                continue;
            };
            for part in parts(line) {
                if left == 0 {
                    found.no_store = true;
                    return found;
                }
                left -= 1;
                found.take(part);
            }
        }
        let pragma =
            || headers.get_all(PRAGMA).iter().any(|v| v.as_bytes().eq_ignore_ascii_case(b"no-cache"));
        if !headers.contains_key(CACHE_CONTROL) && pragma() {
            found.no_cache = true;
        }
        found
    }

    fn take(&mut self, part: &str) {
        let (name, value) = part.split_once('=').map_or((part, None), |(n, v)| (n, Some(v)));
        let value = value.map(|v| v.trim().trim_matches('"'));
        let is = |known: &str| name.trim().eq_ignore_ascii_case(known);
        // A list of fields in the value limits what these are about (RFC 9111, sections 5.2.2.4 and 5.2.2.7); here it doesn't.
        let flags = [
            ("no-store", &mut self.no_store),
            ("no-cache", &mut self.no_cache),
            ("private", &mut self.private),
            ("public", &mut self.public),
            ("must-revalidate", &mut self.must_revalidate),
            ("proxy-revalidate", &mut self.proxy_revalidate),
            ("only-if-cached", &mut self.only_if_cached),
        ];
        for (known, flag) in flags {
            *flag |= is(known);
        }
        let times = [
            ("max-age", &mut self.max_age),
            ("s-maxage", &mut self.s_maxage),
            ("min-fresh", &mut self.min_fresh),
            ("stale-if-error", &mut self.stale_if_error),
            ("stale-while-revalidate", &mut self.stale_while_revalidate),
        ];
        for (known, time) in times {
            if is(known) {
                // What is no number, or is told twice, is the least that it may be (RFC 9111, section 4.2.1). A longer
                // `min-fresh` would ask for less than it says, but who says it twice has no claim to either.
                let read = value.and_then(seconds).unwrap_or_default();
                *time = Some(time.map_or(read, |before| before.min(read)));
            }
        }
    }

    /// Whether a stale answer that says this must not be used, whatever happens (RFC 9111, section 4.2.4).
    pub(super) const fn forbids_stale(&self) -> bool {
        self.no_store || self.no_cache || self.private || self.must_revalidate || self.proxy_revalidate
    }

    /// The same in the spelling that leaves nothing to be understood otherwise.
    pub(super) fn written(&self) -> String {
        let mut out = String::new();
        let flags = [
            (self.no_store, "no-store"),
            (self.no_cache, "no-cache"),
            (self.private, "private"),
            (self.public, "public"),
            (self.must_revalidate, "must-revalidate"),
            (self.proxy_revalidate, "proxy-revalidate"),
        ];
        for (_, name) in flags.iter().filter(|(is, _)| *is) {
            out.push_str(if out.is_empty() { "" } else { ", " });
            out.push_str(name);
        }
        let times = [("max-age", self.max_age), ("s-maxage", self.s_maxage), ("min-fresh", self.min_fresh)];
        for (name, time) in times {
            let Some(time) = time else { continue };
            out.push_str(if out.is_empty() { "" } else { ", " });
            // Writing to a string can't fail.
            let _ = write!(out, "{name}={}", time.as_secs());
        }
        out
    }
}

/// A number of seconds (RFC 9111, section 1.2.2): more than can be meant is the most.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Duration::from_secs(text.parse().unwrap_or(FOREVER).min(FOREVER)))
}

/// The members of a list; commas between quotes don't part any.
fn parts(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    let parted = line.split(move |c| {
        let here = c == ',' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        here
    });
    parted.map(str::trim).filter(|part| !part.is_empty())
}

/// There are some twenty directives; who sends three times as many doesn't mean them.
const MOST: usize = 64;
/// 2^31 seconds, which RFC 9111, section 1.2.2 takes for endless.
pub(super) const FOREVER: u64 = 1 << 31;
