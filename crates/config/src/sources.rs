//! Where an upstream's instances are found.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::{Endpoint, URL_REMEDY, is_name};

/// One entry of an upstream's `endpoints`: a place where instances are found, and what is known about them beforehand.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Source {
    /// Where they are found.
    pub at: Where,
    /// What holds for them unless the place itself says otherwise.
    pub labels: Labels,
}

/// Where instances are found.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Where {
    /// One instance, at this address for good. If its host is a name, that is resolved when a connection is made.
    Address(Endpoint),
    /// Each address (A and AAAA) of this name is an instance, at this port.
    Dns(Endpoint),
    /// Each SRV record of this name (RFC 2782), such as `_http._tcp.shop.internal`, in lower case, is an instance.
    Srv(String),
    /// Each target in this file, which is watched. Relative to the working folder; what the configuration wrote relative to
    /// itself was made so.
    File(PathBuf),
    /// Each replica of the supervised process at this place in [`Config::processes`](crate::Config::processes).
    Process(usize),
}

/// What is known about an instance.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Labels {
    /// The zone that it is in; empty if unknown.
    pub zone: String,
    /// The region that it is in; empty if unknown.
    pub region: String,
    /// Its share of the traffic, relative to the others', 1 to [`Labels::MOST_WEIGHT`].
    pub weight: u32,
}

impl Labels {
    /// The greatest weight. A thousand to one is a canary; below that a share is too small to learn from.
    pub const MOST_WEIGHT: u32 = 1000;

    /// These labels.
    #[must_use]
    pub const fn new(zone: String, region: String, weight: u32) -> Self {
        Self { zone, region, weight }
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::new(String::new(), String::new(), 1)
    }
}

/// How names and files are watched.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Discovery {
    /// The DNS servers that are asked, the first first; empty for those of the system.
    pub resolvers: Vec<SocketAddr>,
    /// The shortest time between two questions for one name, whatever TTL its answer had.
    pub ttl_floor: Duration,
    /// The longest time between two questions for one name, whatever TTL its answer had. At least the floor.
    pub ttl_ceiling: Duration,
    /// The time between two looks at a file.
    pub file_poll: Duration,
}

impl Default for Discovery {
    /// A TTL of 0 is common (Kubernetes, Consul) and does not mean "ask a thousand times a second"; a minute is as long as
    /// people wait for a change that they made.
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            ttl_floor: Duration::from_secs(1),
            ttl_ceiling: Duration::from_secs(60),
            file_poll: Duration::from_secs(1),
        }
    }
}

/// What a client's calls stick to, where the algorithm makes them stick to an instance.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum HashOn {
    /// Nothing.
    #[default]
    None,
    /// The value of this header field, by its name in lower case.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The client's IP address.
    Source,
}

/// A [`Source`] as it is written. Two are the same if they are at the same place, whatever their labels.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub at: Spelt,
    /// Where it is written, in bytes.
    pub span: Range<usize>,
    pub zone: Option<String>,
    pub region: Option<String>,
    pub weight: Option<u32>,
}

impl PartialEq for Written {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

/// A [`Where`] as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Spelt {
    Address(Endpoint),
    Dns(Endpoint),
    Srv(String),
    File(String),
    /// A process, by its name.
    Process(String),
}

impl Spelt {
    /// Reads one; the error is the problem and the remedy.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        let problem = |what: &str| format!("is {text:?}, {what}");
        if let Some(rest) = text.strip_prefix("dns://") {
            return dns(rest).map(Self::Dns).map_err(|what| (problem(what), DNS_REMEDY));
        }
        if let Some(name) = text.strip_prefix("srv://") {
            return srv(name).map(Self::Srv).map_err(|what| (problem(what), SRV_REMEDY));
        }
        if let Some(path) = text.strip_prefix("file:") {
            return file(path).map(Self::File).map_err(|what| (problem(what), FILE_REMEDY));
        }
        if let Some(name) = text.strip_prefix("process://") {
            let name = name.strip_suffix('/').unwrap_or(name);
            let fits = is_plain(name);
            let error = || (problem("which is not the name of a process"), PROCESS_REMEDY);
            return fits.then(|| Self::Process(name.to_owned())).ok_or_else(error);
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Endpoint::parse(text).map(Self::Address);
        }
        let what =
            "which begins with none of \"http://\", \"dns://\", \"srv://\", \"file:\" and \"process://\"";
        Err((problem(what), URL_REMEDY))
    }
}

/// `host:port` of a name to be resolved.
fn dns(rest: &str) -> Result<Endpoint, &'static str> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = rest.rsplit_once(':').ok_or("which names no port")?;
    let (host, digits) = (host.to_ascii_lowercase(), port.bytes().all(|b| b.is_ascii_digit()));
    if host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
        return Err("which is an address and no name");
    }
    if !is_name(host.strip_suffix('.').unwrap_or(&host)) {
        return Err("which has no valid host");
    }
    let port = port.parse().ok().filter(|port| digits && *port > 0).ok_or("which has no valid port")?;
    Ok(Endpoint { host, port })
}

/// `_service._proto.name` (RFC 2782).
fn srv(name: &str) -> Result<String, &'static str> {
    let name = name.strip_suffix('/').unwrap_or(name).to_ascii_lowercase();
    if name.contains(':') {
        return Err("which has a port, and SRV records bring their own");
    }
    let mut labels = name.split('.');
    let underlined = |label: Option<&str>| label.is_some_and(|l| l.len() > 1 && l.starts_with('_'));
    let form = underlined(labels.next()) && underlined(labels.next()) && labels.next().is_some();
    if !form || !is_name(name.strip_suffix('.').unwrap_or(&name)) {
        return Err("which is not of the form _service._proto.name");
    }
    Ok(name)
}

/// The path of a `file:` URL (RFC 8089), or a relative one as people write it.
fn file(rest: &str) -> Result<String, &'static str> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err("which names a host"),
        None => rest,
    };
    if path.is_empty() || path.ends_with('/') {
        return Err("which names no file");
    }
    if path.contains('\0') { Err("which no path can hold") } else { Ok(path.to_owned()) }
}

/// The source as a URL.
impl fmt::Display for Spelt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(endpoint) => write!(f, "{endpoint}"),
            Self::Dns(endpoint) => write!(f, "dns://{}", endpoint.authority()),
            Self::Srv(name) => write!(f, "srv://{name}"),
            Self::File(path) if path.starts_with('/') => write!(f, "file://{path}"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Process(name) => write!(f, "process://{name}"),
        }
    }
}

/// Whether metrics, records and the console can bear a name as it is.
pub(crate) fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

const DNS_REMEDY: &str =
    "write a name and a port, such as \"dns://shop.internal:8080\"; for an address, \"http://10.0.0.1:8080\"";
const SRV_REMEDY: &str = "write the name of the records, such as \"srv://_http._tcp.shop.internal\"";
const FILE_REMEDY: &str =
    "write a path, such as \"file:///etc/shop/targets.json\", or \"file:targets.json\" beside this file";
const PROCESS_REMEDY: &str = "write the NAME of a [process.NAME], such as \"process://api\"";
