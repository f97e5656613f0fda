//! What is asked for, as the store sees it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method};
use seaworthy_core::Instant;

use super::directives::Directives;

/// Now, by both clocks. The wall clock is what headers are about, but it jumps; an answer is as old as the clock says that
/// makes it older, so that none lives forever because a clock was put back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// By the wall clock.
    pub wall: SystemTime,
    /// By the monotonic one.
    pub steady: Instant,
}

impl Moment {
    /// The time from `earlier` until now, by the clock that ran faster.
    pub(super) fn since(self, earlier: Self) -> Duration {
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        wall.max(self.steady.since(earlier.steady))
    }
}

/// What a route lets the store do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// How long past its freshness an answer may be used when the upstream fails, if its origin doesn't say.
    pub within: Duration,
    /// Whether answers are used while the upstream is well.
    pub serve_fresh: bool,
    /// The most bytes of a body that is kept.
    pub entry_bytes: u64,
}

/// A request, as far as it matters to what may answer it.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(super) key: Arc<str>,
    pub(super) host: HeaderValue,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) said: Directives,
}

impl Question {
    /// The request of `method` for `target` at `host`, with the headers that the upstream gets.
    pub(crate) fn of(
        method: &Method,
        host: &HeaderValue,
        target: &PathAndQuery,
        headers: &HeaderMap,
    ) -> Self {
        let said = Directives::read(headers);
        Self {
            key: key(host.as_bytes(), target.as_str()),
            host: host.clone(),
            method: method.clone(),
            headers: headers.clone(),
            said,
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) const fn method(&self) -> &Method {
        &self.method
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether something stored could answer it.
    pub(super) fn can_be_answered(&self) -> bool {
        let reads = self.method == Method::GET || self.method == Method::HEAD;
        // These ask about what is there now, which only the origin knows (RFC 9111, section 4.3.2).
        let about_now = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE, header::UPGRADE];
        reads && !about_now.iter().any(|name| self.headers.contains_key(name))
    }

    /// Whether its answer could be stored. A part of an answer is not kept, nor what answers only to what the client has.
    pub(super) fn can_be_stored(&self) -> bool {
        self.method == Method::GET
            && !self.said.no_store
            && !self.headers.contains_key(header::RANGE)
            && self.can_be_answered()
    }

    /// Whether asking it anew helps others who ask the same, and what another gets by asking helps it. A HEAD or a range
    /// brings nothing that is stored, and who wants what is there now takes nothing that is.
    pub(crate) fn can_be_shared(&self, rules: &Rules) -> bool {
        rules.serve_fresh && !self.said.no_cache && self.can_be_stored()
    }
}

/// The key of a resource: host names don't tell upper from lower case (RFC 3986, section 3.2.2), paths do.
pub(super) fn key(host: &[u8], target: &str) -> Arc<str> {
    let mut key = String::with_capacity(host.len() + target.len());
    key.push_str(&String::from_utf8_lossy(host));
    key.make_ascii_lowercase();
    key.push_str(target);
    Arc::from(key)
}

/// All lines of a field as one; `None` if there are none. Lines mean the same joined (RFC 9110, section 5.2).
pub(super) fn joined(headers: &HeaderMap, name: &header::HeaderName) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let mut all = lines.next()?.as_bytes().to_vec();
    for line in lines {
        all.extend_from_slice(b", ");
        all.extend_from_slice(line.as_bytes());
    }
    HeaderValue::from_bytes(&all).ok()
}
