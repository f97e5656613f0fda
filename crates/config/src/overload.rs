//! What holds calls back when there are too many of them.

use std::fmt;
use std::time::Duration;

use seaworthy_core::gate::{limit, queue, rate};
use seaworthy_core::{Criticality, Valid};

use crate::address::{is_host, split_port};

/// How many calls pass at a time, and which wait.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Gate {
    /// How many pass at a time.
    pub limit: Valid<limit::Config>,
    /// Which wait while it is full.
    pub queue: Valid<queue::Config>,
}

/// How much the calls of one client matter.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ClientRule {
    /// What the client is called; empty if it has no name.
    pub name: String,
    /// The value of the client key ([`Route::client_key`](crate::Route::client_key)) that its calls have. May be a secret.
    pub value: String,
    /// How much they matter.
    pub criticality: Criticality,
}

/// How many calls pass in a while.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct RateLimit {
    /// How many, in what while.
    pub rate: Valid<rate::Config>,
    /// Who shares a rate.
    pub by: RateBy,
    /// Where calls are counted.
    pub store: RateStore,
    /// What happens while the store can't be asked; without effect for [`RateStore::Local`].
    pub when_down: WhenDown,
}

/// Who shares a rate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum RateBy {
    /// The calls of one client, told from others by [`Route::client_key`](crate::Route::client_key).
    #[default]
    Client,
    /// All calls.
    All,
}

/// Where calls are counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum RateStore {
    /// In this process.
    #[default]
    Local,
    /// In [`Config::redis`](crate::Config::redis), which is then there, for all proxies that use it.
    Redis,
}

/// What happens while the store of a rate can't be asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WhenDown {
    /// This process counts on its own.
    #[default]
    Local,
    /// All calls pass.
    Allow,
    /// None does.
    Refuse,
}

/// A server for what several proxies share: rates, and idempotency keys.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Redis {
    /// Where the server is.
    pub url: RedisUrl,
    /// How long an answer may take before the server counts as down.
    pub timeout: Duration,
    /// What the keys begin with.
    pub prefix: String,
}

impl Default for Redis {
    /// An answer of a server in the same region takes a millisecond or two. Fifty are a hiccup, and more than a call should wait
    /// for being counted.
    fn default() -> Self {
        let url = RedisUrl("redis://127.0.0.1:6379".to_owned());
        Self { url, timeout: Duration::from_millis(50), prefix: "seaworthy".to_owned() }
    }
}

/// `redis://[[user]:password@]host[:port][/database]`, known to be of that form. Shows itself without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// Reads one; the error is the problem and the remedy.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        // What is wrong may be the part with the password, so it is not repeated.
        let error = |what: &str| Err((format!("is {what}"), REDIS_URL_REMEDY));
        let Some(rest) = text.strip_prefix("redis://") else {
            return error("no URL that begins with \"redis://\"");
        };
        let (account, place) = rest.rsplit_once('@').map_or((None, rest), |(a, place)| (Some(a), place));
        let (authority, database) =
            place.split_once('/').map_or((place, None), |(a, database)| (a, Some(database)));
        if !split_port(&authority.to_ascii_lowercase()).is_some_and(|(host, _)| is_host(host)) {
            return error("a URL without a valid host");
        }
        if database.is_some_and(|d| !d.is_empty() && d.parse::<u16>().is_err()) {
            return error("a URL whose database is no number");
        }
        let graphic = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if account.is_some_and(|account| !account.contains(':') || !graphic(account)) {
            return error("a URL whose account is not of the form user:password");
        }
        Ok(Self(text.to_owned()))
    }

    /// All of it, with the password.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Without the password.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.strip_prefix("redis://").and_then(|rest| rest.rsplit_once('@')) {
            Some((account, place)) => {
                let user = account.split(':').next().unwrap_or_default();
                write!(f, "redis://{user}:(not shown)@{place}")
            }
            None => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const REDIS_URL_REMEDY: &str = "write one such as \"redis://10.0.0.5:6379\" or \"redis://:password@redis.internal/0\"; TLS is not spoken";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_passwords_not_shown() {
        let shown =
            |text: &str| RedisUrl::parse(text).map(|url| url.to_string()).map_err(|(problem, _)| problem);
        assert_eq!(shown("redis://10.0.0.5").unwrap(), "redis://10.0.0.5");
        assert_eq!(shown("redis://[::1]:6379/3").unwrap(), "redis://[::1]:6379/3");
        assert_eq!(shown("redis://me:se@cret@h:1").unwrap(), "redis://me:(not shown)@h:1");
        assert_eq!(RedisUrl::parse("redis://:secret@h").unwrap().as_str(), "redis://:secret@h");
        assert!(!format!("{:?}", RedisUrl::parse("redis://:secret@h").unwrap()).contains("secret"));
        for bad in [
            "",
            "rediss://h",
            "redis://",
            "redis://:secret@",
            "redis://h:0x1",
            "redis://h/x",
            "redis://secret@h",
        ] {
            assert!(!shown(bad).unwrap_err().contains("secret"), "{bad}");
        }
    }
}
