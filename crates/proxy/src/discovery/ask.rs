//! Questions to DNS servers, and what an answer means.
//!
//! The resolver's own cache is off: whoever asks here asks because an answer's time to live is over. The system's configuration
//! (`/etc/resolv.conf`, `/etc/hosts`) is read anew for each round of questions, so a change to it needs no restart.
//!
//! A relative name can mean several (the search list of `/etc/resolv.conf`). "There are none" holds only if every name that it
//! can mean was answered so: a server that fails for one of them has not said that there is nothing.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use seaworthy_config::Discovery;

/// How long an answer with this time to live is kept.
pub(super) fn keep(discovery: &Discovery, ttl: Duration) -> Duration {
    ttl.min(discovery.ttl_ceiling).max(discovery.ttl_floor)
}

/// How long to wait after the `failed`-th round in a row that went wrong. Without jitter: what spreads proxies out over time is
/// that their answers run out at different times.
pub(super) fn back_off(discovery: &Discovery, failed: u32) -> Duration {
    let floor = discovery.ttl_floor;
    let doubled = 2_u32.saturating_pow(failed.saturating_sub(1));
    floor.saturating_mul(doubled).min(MOST_BACK_OFF).max(floor)
}

/// What the servers say of one name and type: records and their least time to live, that there are none, or why there is no
/// answer.
pub(super) type Said<T> = Result<Option<Records<T>>, String>;

/// Records, never none, and their least time to live.
type Records<T> = (Vec<T>, Duration);

/// One line of an SRV answer (RFC 2782).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Service {
    /// The lower, the sooner.
    pub(super) priority: u16,
    /// Its name, fully qualified.
    pub(super) name: String,
    pub(super) port: u16,
    /// Its share among those of its priority.
    pub(super) weight: u16,
}

/// Asks for one round.
pub(super) struct Asker {
    /// One for each server, in the order in which they are asked. The resolver's own way with several servers is to prefer the
    /// quickest, or to let the first use up the time of all. resolv.conf(5) has them one after the other: whoever lists a server
    /// of the house before a public one does not want to hear from the quicker that a name of the house does not exist.
    resolvers: Vec<TokioResolver>,
    /// The server that answered last; the ones before it did not, and are not waited for again in this round.
    answers: Cell<usize>,
    search: Vec<Name>,
    /// So many dots make a name worth asking for as it is first.
    dots: usize,
    hosts: Hosts,
}

impl Asker {
    /// # Errors
    /// The system's configuration can't be read.
    pub(super) fn new(resolvers: &[SocketAddr]) -> Result<Self, String> {
        let (config, mut options, hosts) = if resolvers.is_empty() {
            let (config, options) = hickory_resolver::system_conf::read_system_conf().map_err(|error| {
                format!("the system's DNS configuration can't be read: {error}; mend /etc/resolv.conf or set `resolvers`")
            })?;
            // Without the file there is simply nothing in it.
            (config, options, Hosts::from_system().unwrap_or_default())
        } else {
            let servers = resolvers.iter().map(|at| server(*at)).collect();
            (ResolverConfig::from_name_servers(servers), ResolverOpts::default(), Hosts::default())
        };
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = TIMEOUT;
        // The next round is the next attempt.
        options.attempts = 0;
        // Some hundred addresses then fit into a datagram; more come over TCP.
        options.edns0 = true;
        let search = config.domain().into_iter().chain(config.search()).cloned().collect();
        let dots = options.ndots;
        let resolver = |server: &NameServerConfig| {
            let config = ResolverConfig::from_name_servers(vec![server.clone()]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
                .with_options(options.clone())
                .build()
                .map_err(|error| format!("no resolver could be made: {error}"))
        };
        let resolvers = config.name_servers().iter().map(resolver).collect::<Result<_, _>>()?;
        Ok(Self { resolvers, answers: Cell::new(0), search, dots, hosts })
    }

    /// What is said of the addresses of a name: IPv4, IPv6.
    pub(super) async fn addresses(&self, name: &str) -> [Said<IpAddr>; 2] {
        const TYPES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];
        if let Ok(address) = name.parse::<IpAddr>() {
            let found = Some((vec![address], Duration::MAX));
            return if address.is_ipv4() { [Ok(found), Ok(None)] } else { [Ok(None), Ok(found)] };
        }
        if let Some(found) = self.in_hosts_file(name, TYPES) {
            return found.map(Ok);
        }
        let [a, aaaa] = TYPES.map(|kind| self.ask(name, kind, address));
        let (a, aaaa) = tokio::join!(a, aaaa);
        [a, aaaa]
    }

    /// What is said of the services of a name.
    pub(super) async fn services(&self, name: &str) -> Said<Service> {
        self.ask(name, RecordType::SRV, service).await
    }

    /// What `/etc/hosts` says of a name. If it says anything, nobody else is asked.
    fn in_hosts_file(&self, name: &str, types: [RecordType; 2]) -> Option<[Option<Records<IpAddr>>; 2]> {
        let name = Name::from_utf8(name).ok()?;
        let found = types.map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)));
        let found = found.map(|lookup| lookup.and_then(|lookup| records(&lookup, address)));
        found.iter().any(Option::is_some).then_some(found)
    }

    async fn ask<T>(&self, name: &str, kind: RecordType, read: fn(&RData) -> Option<T>) -> Said<T> {
        let name = Name::from_utf8(name).map_err(|error| format!("{name:?} is not a name: {error}"))?;
        let mut failed = None;
        for candidate in self.candidates(&name) {
            match self.lookup(&candidate, kind).await {
                Ok(Some(lookup)) => {
                    if let Some(found) = records(&lookup, read) {
                        return Ok(Some(found));
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    let is_answer = matches!(error, NetError::Dns(_));
                    failed = Some(format!("no answer for {kind} of {candidate}: {error}"));
                    // Servers that don't answer won't answer for another name either.
                    if !is_answer {
                        break;
                    }
                }
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Asks one server after the other until one knows, or knows that there is nothing.
    async fn lookup(&self, name: &Name, kind: RecordType) -> Result<Option<Lookup>, NetError> {
        let mut failed = NetError::NoConnections;
        for (index, resolver) in self.resolvers.iter().enumerate().skip(self.answers.get()) {
            match resolver.lookup(name.clone(), kind).await {
                Ok(lookup) => {
                    self.answers.set(index);
                    return Ok(Some(lookup));
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(_))) => {
                    self.answers.set(index);
                    return Ok(None);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// The names that `name` can mean, in the order in which they are asked for (resolv.conf(5), `search` and `ndots`).
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut plain = name.clone();
        plain.set_fqdn(true);
        if name.is_fqdn() {
            return vec![plain];
        }
        let mut names: Vec<Name> =
            self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let position = if dots >= self.dots { 0 } else { names.len() };
        names.insert(position, plain);
        names
    }
}

fn server(at: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(at.ip());
    for connection in &mut server.connections {
        connection.port = at.port();
    }
    server
}

/// The records that `read` understands, and the least time to live of the whole chain (aliases included).
fn records<T>(lookup: &Lookup, read: fn(&RData) -> Option<T>) -> Option<Records<T>> {
    let found: Vec<T> = lookup.answers().iter().filter_map(|record| read(&record.data)).collect();
    let ttl = lookup.answers().iter().map(|record| record.ttl).min()?;
    (!found.is_empty()).then(|| (found, Duration::from_secs(u64::from(ttl))))
}

fn address(data: &RData) -> Option<IpAddr> {
    let address = data.ip_addr()?;
    // Filters answer 0.0.0.0 for what they block; nobody is there.
    (!address.is_unspecified() && !address.is_multicast()).then_some(address)
}

fn service(data: &RData) -> Option<Service> {
    let RData::SRV(srv) = data else { return None };
    // The root as a target says that the service is decidedly not there (RFC 2782, "Target").
    if srv.target.is_root() || srv.port == 0 {
        return None;
    }
    let mut name = srv.target.clone();
    name.set_fqdn(true);
    Some(Service {
        priority: srv.priority,
        weight: srv.weight,
        port: srv.port,
        name: name.to_ascii().to_lowercase(),
    })
}

/// A server that is alive and near answers in milliseconds; the next one is asked after this. Within it the resolver repeats what
/// may have been lost.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The longest wait between questions to servers that fail: one question in ten seconds harms nobody, and what was missed for
/// longer is missed by callers.
const MOST_BACK_OFF: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_time_to_live_is_honoured_between_floor_and_ceiling() {
        let asked = [0, 1, 5, 60, 61, 86_400].map(|ttl| keep(&Discovery::default(), seconds(ttl)));
        assert_eq!(asked, [1, 1, 5, 60, 60, 60].map(seconds));
    }

    #[test]
    fn failures_are_asked_after_less_and_less_often() {
        let waits = [1, 2, 3, 4, 5, 40].map(|failed| back_off(&Discovery::default(), failed));
        assert_eq!(waits, [1, 2, 4, 8, 10, 10].map(seconds));
        let mut slow = Discovery::default();
        slow.ttl_floor = seconds(30);
        assert_eq!(back_off(&slow, 1), seconds(30), "never more often than the floor");
    }

    #[tokio::test]
    async fn a_relative_name_is_searched_for_as_the_system_does() {
        let mut asker = Asker::new(&["127.0.0.1:53".parse().unwrap()]).unwrap();
        asker.search = ["a.test.", "b.test."].map(|name| Name::from_utf8(name).unwrap()).into();
        asker.dots = 1;
        let names = |asker: &Asker, name: &str| -> Vec<String> {
            asker.candidates(&Name::from_utf8(name).unwrap()).iter().map(Name::to_ascii).collect()
        };
        assert_eq!(names(&asker, "shop."), ["shop."]);
        assert_eq!(names(&asker, "shop"), ["shop.a.test.", "shop.b.test.", "shop."]);
        assert_eq!(names(&asker, "shop.x"), ["shop.x.", "shop.x.a.test.", "shop.x.b.test."]);
        // As Kubernetes sets it: its own names have four dots.
        asker.dots = 5;
        assert_eq!(names(&asker, "shop.x"), ["shop.x.a.test.", "shop.x.b.test.", "shop.x."]);
    }
}
