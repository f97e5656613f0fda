//! What a route answers with while its upstream has no answer.

use std::time::Duration;

use crate::settings::Fallback;

/// One answer in place of the upstream's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Degrade {
    /// The last good one.
    Stale(Stale),
    /// Another upstream's.
    Upstream(Substitute),
    /// Always the same.
    Static(Fallback),
}

impl Degrade {
    /// Its name in configuration, headers, metrics and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.kind().name()
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Stale(_) => Kind::Stale,
            Self::Upstream(_) => Kind::Upstream,
            Self::Static(_) => Kind::Static,
        }
    }
}

/// The kinds of answers in place of the upstream's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Stale,
    Upstream,
    Static,
}

impl Kind {
    /// All of them, in the order in which they are tried unless another is written: what was true a while ago is better than
    /// something else, and that is better than an excuse.
    pub(crate) const ALL: [Self; 3] = [Self::Stale, Self::Upstream, Self::Static];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Upstream => "upstream",
            Self::Static => "static",
        }
    }

    /// The table below the route that says more of it.
    pub(crate) const fn table(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Upstream => "substitute",
            Self::Static => "fallback",
        }
    }
}

/// The last good answer to the same request.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stale {
    /// How long past its freshness an answer may be used when the upstream fails. What its origin says (`stale-if-error`,
    /// `must-revalidate`) counts for more, as RFC 5861 and RFC 9111 say.
    pub within: Duration,
    /// Whether answers are also used while the upstream is well, as long as they are fresh or may be used while they are
    /// refreshed (`stale-while-revalidate`).
    pub serve_fresh: bool,
    /// The most bytes of a body that is kept.
    pub entry_bytes: u64,
    /// The member of a JSON object into which the time of its last update is written, if one is.
    pub field: Option<String>,
    /// The header field, in lower case, that tells the time of the last update, if one does.
    pub header: Option<String>,
}

impl Default for Stale {
    /// Ten minutes is as long as most outages that end by themselves last; a mebibyte holds the pages and lists that people
    /// look at, and no downloads.
    fn default() -> Self {
        Self {
            within: Duration::from_secs(600),
            serve_fresh: true,
            entry_bytes: 1 << 20,
            field: None,
            header: Some("x-seaworthy-last-updated".to_owned()),
        }
    }
}

/// Another upstream that answers instead.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Substitute {
    /// Its place in [`Config::upstreams`](crate::Config::upstreams); never that of the route's own.
    pub upstream: usize,
    /// What it is asked for, with a query if there is one; `None` for the same as its route's upstream was.
    pub path: Option<String>,
}

/// Feature flags that the upstream answers for, over OFREP.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Flags {
    /// What a flag is as long as nobody has ever said so, by its key; no key twice.
    pub defaults: Vec<(String, serde_json::Value)>,
}
