//! The services of a name (RFC 2782), asked for again when their time to live is over.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use seaworthy_config::{Discovery, Labels};

use super::addresses::{Addresses, Doubt, REMEDY};
use super::ask::{Asker, Said, Service};
use super::dns::{in_time, wait};
use super::tell::Teller;
use super::{News, Target};

/// Tells the addresses and ports of the service `name` (such as `_http._tcp.shop.internal`), and every change to them. The
/// records' weights become the label; zone and region are those of `labels`. Runs for ever.
///
/// Only the first priority of which any name has an address is told (RFC 2782: "MUST attempt to contact the target host with
/// the lowest-numbered priority it can reach").
pub(crate) async fn srv(
    name: &str,
    labels: &Labels,
    discovery: &Discovery,
    mut tell: impl FnMut(News),
) -> Infallible {
    let mut teller = Teller::new(&mut tell);
    let mut known = Services::default();
    let mut failed = 0;
    loop {
        let trouble = in_time(async {
            let asker = Asker::new(&discovery.resolvers)?;
            known.ask(name, &asker).await.map_or(Ok(()), Err)
        });
        let trouble = trouble.await.err().map(|trouble| format!("srv://{name}: {trouble}"));
        failed = if trouble.is_some() { failed + 1 } else { 0 };
        teller.asked(known.targets(labels), trouble);
        tokio::time::sleep(wait(discovery, failed, known.ttl())).await;
    }
}

/// What is known of a service.
#[derive(Default)]
struct Services {
    services: Vec<Service>,
    doubt: Doubt,
    ttl: Duration,
    /// The addresses of the names in `services`.
    names: BTreeMap<String, Addresses>,
    /// Whether there ever was an address.
    good: bool,
}

impl Services {
    /// One round of questions; returns what went wrong.
    async fn ask(&mut self, name: &str, asker: &Asker) -> Option<String> {
        let said = asker.services(name).await;
        let is_failure = said.is_err();
        let mut trouble = self.hear(name, said);
        // Servers that fail for the first question are not asked hundreds more.
        if is_failure {
            return trouble;
        }
        let names: Vec<String> = self.names.keys().cloned().collect();
        for name in names {
            let said = asker.addresses(&name).await;
            let heard = self.names.get_mut(&name).and_then(|known| known.hear(&name, said));
            trouble = trouble.or(heard);
        }
        self.good |= self.names.values().any(|known| known.known);
        trouble
    }

    fn hear(&mut self, name: &str, said: Said<Service>) -> Option<String> {
        match said {
            Ok(Some((mut services, ttl))) => {
                self.doubt.clear();
                services.sort();
                services.dedup();
                self.names.retain(|name, _| services.iter().any(|service| service.name == *name));
                for service in &services {
                    self.names.entry(service.name.clone()).or_default();
                }
                self.services = services;
                self.ttl = ttl;
                None
            }
            Ok(None) if self.services.is_empty() || self.doubt.is_over() => {
                self.services.clear();
                self.names.clear();
                Some(format!("{name} has no services; {REMEDY}"))
            }
            Ok(None) => {
                Some(format!("{name} has no services any more, which is believed if it stays so; {REMEDY}"))
            }
            Err(error) => {
                self.doubt.clear();
                Some(error)
            }
        }
    }

    /// The shortest of all times to live.
    fn ttl(&self) -> Duration {
        self.names.values().filter(|known| known.known).map(|known| known.ttl).fold(self.ttl, Duration::min)
    }

    /// The targets of the first priority that has any; `None` as long as nothing was ever known.
    fn targets(&self, labels: &Labels) -> Option<Vec<Target>> {
        let usable: BTreeMap<&str, Vec<IpAddr>> =
            self.names.iter().map(|(name, known)| (name.as_str(), known.usable())).collect();
        let mut priorities = self.services.chunk_by(|a, b| a.priority == b.priority);
        let first =
            priorities.find(|services| services.iter().any(|one| !usable[one.name.as_str()].is_empty()));
        let shared: Vec<(&Service, &[IpAddr])> = first
            .unwrap_or_default()
            .iter()
            .map(|service| (service, usable[service.name.as_str()].as_slice()))
            .filter(|(_, addresses)| !addresses.is_empty())
            .collect();
        let weights = weights(&shared.iter().map(|(one, ips)| (one.weight, ips.len())).collect::<Vec<_>>());
        let targets = shared.iter().zip(weights).flat_map(|((service, addresses), weight)| {
            addresses.iter().map(move |ip| Target {
                host: ip.to_string(),
                port: service.port,
                labels: Labels::new(labels.zone.clone(), labels.region.clone(), weight),
            })
        });
        self.good.then(|| targets.collect())
    }
}

/// The weight of each address of each service, from the services' weights and their numbers of addresses: a service has its
/// share however many addresses its name has.
///
/// Weights that fit are taken as they are. Otherwise all are stretched or shrunk together, so that the largest is
/// [`Labels::MOST_WEIGHT`]. A weight of 0 among others means "a very small chance of being selected" (RFC 2782) and becomes 1.
fn weights(services: &[(u16, usize)]) -> Vec<u32> {
    let all_zero = services.iter().all(|(weight, _)| *weight == 0);
    let weight = |weight: u16| if all_zero { 1.0 } else { f64::from(weight) };
    let shares: Vec<f64> = services.iter().map(|(own, count)| weight(*own) / *count as f64).collect();
    let largest = shares.iter().copied().fold(0.0, f64::max);
    let fit = largest <= f64::from(Labels::MOST_WEIGHT) && shares.iter().all(|share| share.fract() == 0.0);
    let scale = if fit { 1.0 } else { f64::from(Labels::MOST_WEIGHT) / largest };
    shares.iter().map(|share| ((share * scale).round() as u32).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::dns_server::{Server, told, trouble};
    use super::*;

    const NAME: &str = "_http._tcp.shop.test";

    async fn discovering(server: &Server, test: impl AsyncFnOnce(&mut mpsc::UnboundedReceiver<News>)) {
        let (sender, mut news) = mpsc::unbounded_channel();
        let discovery = server.discovery();
        let labels = Labels::default();
        let source = srv(NAME, &labels, &discovery, |news| sender.send(news).unwrap());
        tokio::select! {
            never = source => match never {},
            () = test(&mut news) => {}
        }
    }

    fn record(target: &str, priority: u16, weight: u16) -> String {
        format!("--srv-host={NAME},{target},{priority},{weight}")
    }

    #[tokio::test]
    async fn names_become_addresses_with_ports_and_the_records_weights() {
        let records =
            [record("a.test,8001", 1, 30), record("b.test,8002", 1, 10), record("c.test,8003", 2, 99)];
        let server = Server::start_with(
            &["10.0.0.1 a.test", "10.0.0.2 b.test", "10.0.0.3 c.test"],
            &records.each_ref().map(String::as_str),
        );
        discovering(&server, async |news| {
            let News::Targets(targets) = news.recv().await.unwrap() else { panic!("no targets") };
            let short: Vec<(&str, u16, u32)> =
                targets.iter().map(|one| (one.host.as_str(), one.port, one.labels.weight)).collect();
            assert_eq!(short, [("10.0.0.1", 8001, 30), ("10.0.0.2", 8002, 10)]);
            // The first priority has no address any more; the next takes over once that is believed.
            server.write(&["10.0.0.3 c.test"]);
            assert!(trouble(news).await.contains("a.test. has no addresses any more"));
            assert_eq!(told(news).await, ["10.0.0.3:8003"]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_name_that_gets_another_address_is_news_and_a_stopped_server_changes_nothing() {
        let extra = record("a.test,8001", 0, 0);
        let mut server = Server::start_with(&["10.0.0.1 a.test"], &[extra.as_str()]);
        let (sender, mut news) = mpsc::unbounded_channel();
        let discovery = server.discovery();
        let labels = Labels::default();
        let source = srv(NAME, &labels, &discovery, |news| sender.send(news).unwrap());
        let test = async {
            assert_eq!(told(&mut news).await, ["10.0.0.1:8001"]);
            server.write(&["10.0.0.2 a.test"]);
            assert_eq!(told(&mut news).await, ["10.0.0.2:8001"]);
            server.stop();
            let trouble = trouble(&mut news).await;
            assert!(trouble.starts_with("srv://_http._tcp.shop.test: no answer for SRV"), "{trouble}");
            server.restart();
            assert_eq!(told(&mut news).await, ["10.0.0.2:8001"], "the trouble is over, nothing has changed");
        };
        tokio::select! {
            never = source => match never {},
            () = test => {}
        }
    }

    #[tokio::test]
    async fn a_service_that_nobody_registered_is_trouble() {
        let server = Server::start(&[]);
        discovering(&server, async |news| {
            let trouble = trouble(news).await;
            assert!(trouble.contains("_http._tcp.shop.test has no services; check"), "{trouble}");
        })
        .await;
    }

    #[test]
    fn weights_keep_the_services_shares() {
        assert_eq!(weights(&[(60, 1), (20, 1)]), [60, 20]);
        assert_eq!(weights(&[(0, 1), (0, 2)]), [1000, 500], "none is preferred: a share for each service");
        assert_eq!(weights(&[(0, 1), (0, 1)]), [1, 1]);
        assert_eq!(weights(&[(0, 1), (50, 1)]), [1, 50]);
        assert_eq!(weights(&[(60, 3), (20, 1)]), [20, 20]);
        assert_eq!(weights(&[(65_535, 1), (65, 1)]), [1000, 1]);
        assert_eq!(weights(&[]), [0; 0]);
    }
}
