//! What a configuration means once it is read: values that can't be wrong, ready for use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use seaworthy_core::gate::{breaker, bulkhead, limit, outlier, pressure, queue, throttle};
use seaworthy_core::{Criticality, Valid, balance, call};

use crate::address::{Host, Prefix};
use crate::degrade::{Degrade, Flags};
use crate::diagnostic::{Diagnostic, Mistakes};
use crate::effective::Effective;
use crate::health::Check;
use crate::idempotency::{KeyStore, RouteIdempotency};
use crate::overload::{ClientRule, Gate, RateLimit, Redis};
use crate::process::Process;
use crate::resolve;
use crate::settings::{Fallback, Limits, Log, Protocol, Repeatable};
use crate::sources::{Discovery, HashOn, Source, Where};

/// A complete, checked configuration.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where clients connect; at least one, no two the same.
    pub listen: Vec<SocketAddr>,
    /// Where operators connect, if anywhere. Loopback unless its writer consented to more.
    pub admin: Option<SocketAddr>,
    /// How long calls in flight may take to finish once the process was told to stop.
    pub drain: Duration,
    /// How many threads serve calls; `None` means one for each core.
    pub workers: Option<u16>,
    /// What is logged, and how.
    pub log: Log,
    /// Bounds on what clients may ask.
    pub limits: Limits,
    /// How many calls each of the addresses takes at a time, if there is a limit: each address has its own.
    pub gate: Option<Gate>,
    /// How many calls all routes together take in a while, if there is a limit.
    pub rate: Option<RateLimit>,
    /// Where rates are counted and idempotency keys kept that several proxies share, if anywhere.
    pub redis: Option<Redis>,
    /// How short the host may be of something before every limit is lowered.
    pub pressure: Valid<pressure::Config>,
    /// The most bytes of all stored answers together.
    pub stale_memory: u64,
    /// Where idempotency keys and results are kept; there if any route has [some](Route::idempotency).
    pub idempotency: Option<KeyStore>,
    /// How much the calls of some clients matter, in the order of the file, each value once.
    pub clients: Vec<ClientRule>,
    /// The zone that the proxy itself is in; empty if unknown.
    pub zone: String,
    /// The region that the proxy itself is in; empty if unknown.
    pub region: String,
    /// The folder for what must outlive the process, if there is one. Relative to the working folder; what the configuration wrote
    /// relative to itself was made so.
    pub data: Option<PathBuf>,
    /// The programs to run and look after, in the order of the file, each name once.
    pub processes: Vec<Process>,
    /// The upstreams in the order of the file; at least one, and each name once.
    pub upstreams: Vec<Upstream>,
    /// The routes, the most specific first; at least one, and each name once. See [`Config::route`].
    pub routes: Vec<Route>,
    /// What is questionable about it.
    pub warnings: Vec<Diagnostic>,
    /// Every setting, with its value and where that comes from.
    pub effective: Effective,
}

/// A service behind the proxy.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Where its instances are found, in the order of the file; at least one, no two the same.
    pub sources: Vec<Source>,
    /// How names and files among its sources are watched.
    pub discovery: Discovery,
    /// How each instance is asked whether it is well, if it is.
    pub check: Option<Check>,
    /// When one of its instances is put out because it differs from the others.
    pub outlier: Valid<outlier::Config>,
    /// Which of its instances gets an attempt.
    pub balance: Valid<balance::Config>,
    /// What calls stick to, where the algorithm makes them stick.
    pub hash_on: HashOn,
    /// The most attempts in flight at a time in one region of it, if there is a limit.
    pub region_limit: Option<u32>,
    /// What is spoken to it.
    pub protocol: Protocol,
    /// The longest time to make a connection.
    pub connect_timeout: Duration,
    /// The most idle connections that each worker keeps to each endpoint.
    pub idle_connections: u32,
    /// How long a connection is kept without a call.
    pub idle_timeout: Duration,
    /// When one of its endpoints is left alone.
    pub breaker: Valid<breaker::Config>,
    /// Its calls, but for what their route changes: see [`Route::call`].
    pub call: Valid<call::Config>,
    /// How many calls it takes at a time.
    pub limit: Valid<limit::Config>,
    /// Which calls wait while its limit is full.
    pub queue: Valid<queue::Config>,
    /// What is refused here because the upstream would refuse it.
    pub throttle: Valid<throttle::Config>,
    /// How many attempts run at a time, and how many wait.
    pub bulkhead: Valid<bulkhead::Config>,
}

/// Which calls go where.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Route {
    /// Its name.
    pub name: String,
    /// The hosts that it takes.
    pub host: Host,
    /// The paths that it takes.
    pub path: Prefix,
    /// The methods that it takes, in upper case; empty for all.
    pub methods: Vec<&'static str>,
    /// Its upstream's place in [`Config::upstreams`].
    pub upstream: usize,
    /// Its calls: the upstream's numbers with this route's deadline and retries, and `fallback` set if there is any in `degrade`.
    pub call: Valid<call::Config>,
    /// Which of its requests may be sent more than once.
    pub repeatable: Repeatable,
    /// How much its calls matter, if that is not the usual.
    pub criticality: Option<Criticality>,
    /// Whether a client may also raise that, and not only lower it.
    pub trust_criticality: bool,
    /// What tells clients apart.
    pub client_key: HashOn,
    /// How many calls it takes at a time, if there is a limit.
    pub gate: Option<Gate>,
    /// How many calls it takes in a while, if there is a limit.
    pub rate: Option<RateLimit>,
    /// What answers when the upstream doesn't, in this order; each kind at most once.
    pub degrade: Vec<Degrade>,
    /// The flags that its upstream answers for, if it is a flag service. [`Config::data`] is then there.
    pub flags: Option<Flags>,
    /// Which of its requests are carried out once however often they come, if any are. [`Config::idempotency`] is then there.
    pub idempotency: Option<RouteIdempotency>,
    /// The static answer among [`degrade`](Self::degrade).
    pub fallback: Option<Fallback>,
}

impl Config {
    /// Reads a configuration. `file` is what the text is called in messages, usually a path; nothing is opened.
    ///
    /// # Errors
    /// Everything that is wrong with the text, at once.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, Mistakes> {
        resolve::text(file, text)
    }

    /// The configuration of a proxy in front of one service, with every default: `to` is its URL, `listen` and `admin` the addresses
    /// given in place of the defaults (`admin` may be `"off"`).
    ///
    /// # Errors
    /// Everything that is wrong with the arguments, at once, as if they were a file called `command line`.
    ///
    /// ```
    /// use seaworthy_config::Config;
    /// let config = Config::from_command_line("http://localhost:3000", None, Some("off"))?;
    /// assert_eq!(config.spelt(&config.upstreams[0].sources[0].at), "http://localhost:3000");
    /// assert_eq!(config.routes.len(), 1);
    /// # Ok::<(), seaworthy_config::Mistakes>(())
    /// ```
    pub fn from_command_line(to: &str, listen: Option<&str>, admin: Option<&str>) -> Result<Self, Mistakes> {
        resolve::command_line(to, listen, admin)
    }

    /// A place where instances are found, as it is written in `endpoints`.
    #[must_use]
    pub fn spelt(&self, at: &Where) -> String {
        match at {
            Where::Address(address) => address.to_string(),
            Where::Dns(name) => format!("dns://{}", name.authority()),
            Where::Srv(name) => format!("srv://{name}"),
            Where::File(path) => format!("file://{}", path.display()),
            Where::Process(n) => {
                let name = self.processes.get(*n).map_or("?", |process| process.name.as_str());
                format!("process://{name}")
            }
        }
    }

    /// The route that takes a request, and its place in [`Config::routes`]; `None` if none does. `host` is what the request asked for,
    /// with or without a port; `path` is without the query.
    #[must_use]
    pub fn route(&self, host: Option<&str>, path: &str, method: &str) -> Option<(usize, &Route)> {
        self.routes.iter().enumerate().find(|(_, route)| route.takes(host, path, method))
    }
}

impl Route {
    /// Whether it takes a request, if no route before it does.
    #[must_use]
    pub fn takes(&self, host: Option<&str>, path: &str, method: &str) -> bool {
        (self.methods.is_empty() || self.methods.contains(&method))
            && self.path.matches(path)
            && self.host.matches(host)
    }
}
