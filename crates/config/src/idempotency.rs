//! Which requests are carried out once however often they come, and where it is kept that they were.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use seaworthy_core::idempotency::OnUnknown;

use crate::address::{is_host, split_port};
use crate::overload::Redis;

/// Where idempotency keys and results are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KeyStore {
    /// What kind of store, and what it needs.
    pub kind: KeyStoreKind,
    /// How long one step of it may take.
    pub timeout: Duration,
}

/// The kinds of stores of idempotency keys.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum KeyStoreKind {
    /// A file that belongs to this process.
    Embedded {
        /// The folder in which it lies: [`Config::data`](crate::Config::data).
        folder: PathBuf,
        /// The most bytes of it that are cached.
        cache_bytes: u64,
        /// What happens once it turns out to be damaged.
        when_corrupt: WhenCorrupt,
    },
    /// The memory of this process: what is in it ends with the process.
    Memory {
        /// The most records; what comes beyond is refused as if the store were down.
        most_records: u32,
    },
    /// A Redis server: [`Config::redis`](crate::Config::redis), but that [`KeyStore::timeout`] counts.
    Redis(Redis),
    /// A PostgreSQL server.
    Postgres {
        /// Where it is.
        url: PostgresUrl,
        /// The most connections.
        pool: u32,
        /// The schema in which its tables stand: at most 63 of `a` to `z`, `0` to `9` and `_`, and no digit first.
        schema: String,
    },
}

impl KeyStoreKind {
    /// Its name in configuration, logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.word().name()
    }

    const fn word(&self) -> StoreWord {
        match self {
            Self::Embedded { .. } => StoreWord::Embedded,
            Self::Memory { .. } => StoreWord::Memory,
            Self::Redis(_) => StoreWord::Redis,
            Self::Postgres { .. } => StoreWord::Postgres,
        }
    }
}

/// A kind of store as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StoreWord {
    Embedded,
    Memory,
    Redis,
    Postgres,
}

impl StoreWord {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

/// What happens once the embedded store turns out to be damaged. The damaged file is put aside in either case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WhenCorrupt {
    /// Keys can't be looked up until somebody has decided what to do; [`RouteIdempotency::when_down`] says what that means. The
    /// default: beginning anew forgets what was done, and forgetting is how things are done twice.
    #[default]
    Refuse,
    /// An empty store takes its place.
    BeginAnew,
}

/// Which requests of a route are carried out once however often they come.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RouteIdempotency {
    /// The methods with which a key is honoured, in upper case; at least one, none that is safe.
    pub methods: Vec<&'static str>,
    /// Of [`methods`](Self::methods), those that are refused without a key.
    pub required: Vec<&'static str>,
    /// The header that carries the key, in lower case.
    pub header: String,
    /// The headers that count for whether a request is the same, in lower case, besides method, host, target and body.
    pub fingerprint_headers: Vec<String>,
    /// Which answers are kept.
    pub keep: Keep,
    /// The headers of an answer that are kept and replayed, in lower case.
    pub replay_headers: Vec<String>,
    /// How long an operation may run. Longer than the route's deadline, by a second and by [`KeyStore::timeout`] at least.
    pub lease: Duration,
    /// How long a result is remembered: twice the lease, at least.
    pub retention: Duration,
    /// What becomes of an operation of which nobody knows how it ended.
    pub unknown: OnUnknown,
    /// What a request is told while another with its key runs.
    pub busy: Busy,
    /// The longest body of an answer that is kept whole, in bytes.
    pub answer_bytes: u64,
    /// The longest body of a request with a key, in bytes.
    pub request_bytes: u64,
    /// What happens while the store can't be asked.
    pub when_down: WhenStoreDown,
}

impl Default for RouteIdempotency {
    /// POST and PATCH are the methods that HTTP doesn't define as idempotent (RFC 9110, section 9.2.2; RFC 5789). A minute is
    /// twice the default deadline. A day is the least for which Stripe keeps its keys, and longer than clients repeat. A
    /// mebibyte each holds what interfaces that take orders and payments send and answer.
    fn default() -> Self {
        Self {
            methods: vec!["POST", "PATCH"],
            required: Vec::new(),
            header: "idempotency-key".to_owned(),
            fingerprint_headers: Vec::new(),
            keep: Keep::default(),
            replay_headers: REPLAYED_HEADERS.iter().map(|name| (*name).to_owned()).collect(),
            lease: Duration::from_secs(60),
            retention: Duration::from_secs(24 * 3600),
            unknown: OnUnknown::default(),
            busy: Busy::default(),
            answer_bytes: 1 << 20,
            request_bytes: 1 << 20,
            when_down: WhenStoreDown::default(),
        }
    }
}

/// Which answers are kept. Any other sets its key free: by its answer the upstream says that nothing has happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Keep {
    /// 2xx, 3xx, and 4xx but for those that ask to come again (401, 407, 408, 409, 421, 423, 425, 429).
    #[default]
    Definite,
    /// All but 5xx.
    NoServerErrors,
    /// All.
    All,
}

/// What a request is told while another with its key runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Busy {
    /// That it does, and to come back (409).
    #[default]
    Refuse,
    /// Nothing until that is done, for this long at most.
    Wait(Duration),
}

/// What happens to requests with a key while the store can't be asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WhenStoreDown {
    /// They are refused (503).
    #[default]
    Refuse,
    /// They are carried out, and not remembered.
    Allow,
}

/// Which methods are refused without a key, as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Required {
    /// All with which a key is honoured, or none.
    All(bool),
    /// These.
    These(Vec<&'static str>),
}

impl Required {
    /// Those of `methods` that are.
    pub(crate) fn of(&self, methods: &[&'static str]) -> Vec<&'static str> {
        match self {
            Self::All(true) => methods.to_vec(),
            Self::All(false) => Vec::new(),
            Self::These(these) => these.clone(),
        }
    }
}

/// `postgres://user[:password]@host[:port][,host..]/database[?parameter=value&..]`, known to be of that form. Shows itself without
/// the password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    /// Reads one; the error is the problem and the remedy.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        // What is wrong may be the part with the password, so it is not repeated.
        let error = |what: &str| Err((format!("is {what}"), POSTGRES_URL_REMEDY));
        let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
        let Some(rest) = rest else { return error("no URL that begins with \"postgres://\"") };
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return error("a URL with characters that have to be percent-encoded");
        }
        let (address, parameters) =
            rest.split_once('?').map_or((rest, None), |(address, p)| (address, Some(p)));
        let Some((account, place)) = address.rsplit_once('@') else {
            return error("a URL without a user");
        };
        if account.split(':').next().is_none_or(str::is_empty) {
            return error("a URL without a user");
        }
        let Some((hosts, database)) = place.split_once('/') else {
            return error("a URL without a database");
        };
        if database.is_empty() || database.contains('/') {
            return error("a URL without a database");
        }
        if !hosts.split(',').all(is_place) {
            return error("a URL without a valid host");
        }
        for parameter in parameters.into_iter().flat_map(|p| p.split('&')) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "sslmode" if matches!(value, "disable" | "prefer") => {}
                "sslmode" => return error("a URL that asks for TLS, which is not spoken"),
                _ if PARAMETERS.contains(&name) => {}
                // Whatever it is, it may be shown: a password must not stand there.
                _ => return error("a URL with a parameter that is not taken there"),
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// All of it, with the password.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether it is a host with or without a port, or the folder of a Unix socket in percent-encoding.
fn is_place(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    lower.starts_with("%2f") || split_port(&lower).is_some_and(|(host, _)| is_host(host))
}

/// Without the password.
impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, parameters) = self.0.split_once('?').unwrap_or((&self.0, ""));
        let shown = address.split_once("://").and_then(|(scheme, rest)| {
            let (account, place) = rest.rsplit_once('@')?;
            let user = account.split_once(':').map(|(user, _)| user)?;
            Some(format!("{scheme}://{user}:(not shown)@{place}"))
        });
        f.write_str(shown.as_deref().unwrap_or(address))?;
        if parameters.is_empty() { Ok(()) } else { write!(f, "?{parameters}") }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The headers that are replayed unless others are named: what describes the body, and where the result is.
const REPLAYED_HEADERS: [&str; 8] = [
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "location",
    "etag",
    "last-modified",
    "link",
];
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];
/// The parameters that say more of the connection, and no secret, as tokio-postgres knows them.
const PARAMETERS: [&str; 11] = [
    "application_name",
    "connect_timeout",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "target_session_attrs",
    "tcp_user_timeout",
];
const POSTGRES_URL_REMEDY: &str =
    "write one such as \"postgres://seaworthy:password@10.0.0.6:5432/keys\"; TLS is not spoken";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_passwords_not_shown() {
        let shown =
            |text: &str| PostgresUrl::parse(text).map(|url| url.to_string()).map_err(|(problem, _)| problem);
        for same in [
            "postgres://me@10.0.0.6/keys",
            "postgresql://me@db.internal:5432/keys?application_name=seaworthy",
            "postgres://me@a:1,b:2/keys?target_session_attrs=read-write",
            "postgres://me@[::1]:5432/keys?sslmode=disable",
            "postgres://me@%2Fvar%2Frun%2Fpostgresql/keys",
        ] {
            assert_eq!(shown(same).as_deref(), Ok(same));
        }
        assert_eq!(
            shown("postgres://me:se@cret@h:1/k?keepalives=1").unwrap(),
            "postgres://me:(not shown)@h:1/k?keepalives=1"
        );
        let url = PostgresUrl::parse("postgres://me:secret@h/k").unwrap();
        assert_eq!(url.as_str(), "postgres://me:secret@h/k");
        assert!(!format!("{url:?}").contains("secret"));
    }

    #[test]
    fn what_is_no_url_is_named_without_the_password() {
        for bad in [
            "",
            "mysql://me:secret@h/k",
            "postgres://h/k",
            "postgres://:secret@h/k",
            "postgres://me:secret@h",
            "postgres://me:secret@h/",
            "postgres://me:secret@h/a/b",
            "postgres://me:secret@/k",
            "postgres://me:secret@h:0x1/k",
            "postgres://me:sec ret@h/k",
            "postgres://me:sec#ret@h/k",
            "postgres://me:sec?ret@h/k",
            "postgres://me@h/k?password=secret",
            "postgres://me:secret@h/k?sslmode=require",
        ] {
            let (problem, remedy) = PostgresUrl::parse(bad).unwrap_err();
            assert!(!problem.contains("ret") && !remedy.contains("secret"), "{bad}: {problem}");
        }
    }
}
