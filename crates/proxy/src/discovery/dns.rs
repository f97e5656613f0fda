//! The addresses of a name, asked for again when their time to live is over.

use std::convert::Infallible;
use std::time::Duration;

use seaworthy_config::{Discovery, Labels};

use super::addresses::Addresses;
use super::ask::{Asker, back_off, keep};
use super::tell::Teller;
use super::{News, Target};

/// Tells the addresses (A and AAAA) of `name`, each with this port and these labels, and every change to them. Runs for ever.
pub(crate) async fn dns(
    name: &str,
    port: u16,
    labels: &Labels,
    discovery: &Discovery,
    mut tell: impl FnMut(News),
) -> Infallible {
    let mut teller = Teller::new(&mut tell);
    let mut known = Addresses::default();
    let mut failed = 0;
    loop {
        let trouble = in_time(async {
            let said = Asker::new(&discovery.resolvers)?.addresses(name).await;
            known.hear(name, said).map_or(Ok(()), Err)
        });
        let trouble = trouble.await.err().map(|trouble| format!("dns://{name}:{port}: {trouble}"));
        failed = if trouble.is_some() { failed + 1 } else { 0 };
        let targets = known.usable().into_iter().map(|ip| Target {
            host: ip.to_string(),
            port,
            labels: labels.clone(),
        });
        teller.asked(known.known.then(|| targets.collect()), trouble);
        tokio::time::sleep(wait(discovery, failed, known.ttl)).await;
    }
}

/// How long to wait before the next round.
pub(super) fn wait(discovery: &Discovery, failed: u32, ttl: Duration) -> Duration {
    if failed == 0 { keep(discovery, ttl) } else { back_off(discovery, failed) }
}

/// One round of questions, with an end.
pub(super) async fn in_time(round: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let late = |_| Err(format!("the DNS servers did not answer within {} s", MOST_ROUND.as_secs()));
    tokio::time::timeout(MOST_ROUND, round).await.unwrap_or_else(late)
}

/// Longer than one name of a long search list takes at servers that don't answer.
const MOST_ROUND: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::addresses::BELIEVED;
    use super::super::dns_server::{Server, told, trouble};
    use super::*;

    /// Runs the source while `test` reads its news.
    async fn discovering(server: &Server, test: impl AsyncFnOnce(&mut mpsc::UnboundedReceiver<News>)) {
        let (sender, mut news) = mpsc::unbounded_channel();
        let discovery = server.discovery();
        let labels = Labels::new("a".to_owned(), "eu".to_owned(), 2);
        let source = dns("shop.test", 8080, &labels, &discovery, |news| sender.send(news).unwrap());
        tokio::select! {
            never = source => match never {},
            () = test(&mut news) => {}
        }
    }

    #[tokio::test]
    async fn addresses_of_both_families_are_told_once_in_order_with_port_and_labels() {
        let server = Server::start(&["10.0.0.2 shop.test", "10.0.0.1 shop.test", "::1 shop.test"]);
        discovering(&server, async |news| {
            let News::Targets(targets) = news.recv().await.unwrap() else { panic!("no targets") };
            let hosts: Vec<&str> = targets.iter().map(|target| target.host.as_str()).collect();
            // Where the machine has no IPv6 at all, that address is of no use and left out.
            let has_ipv6 = std::net::UdpSocket::bind("[::1]:0").is_ok();
            let expected: &[&str] =
                if has_ipv6 { &["10.0.0.1", "10.0.0.2", "::1"] } else { &["10.0.0.1", "10.0.0.2"] };
            assert_eq!(hosts, expected);
            assert_eq!(targets[0].port, 8080);
            assert_eq!(targets[0].labels, Labels::new("a".to_owned(), "eu".to_owned(), 2));
            server.asked(3, "shop.test").await;
            assert!(news.try_recv().is_err(), "the same answer is no news");
        })
        .await;
    }

    #[tokio::test]
    async fn a_change_is_picked_up_when_the_time_to_live_is_over() {
        let server = Server::start(&["10.0.0.1 shop.test"]);
        discovering(&server, async |news| {
            assert_eq!(told(news).await, ["10.0.0.1:8080"]);
            server.write(&["10.0.0.1 shop.test", "10.0.0.3 shop.test"]);
            assert_eq!(told(news).await, ["10.0.0.1:8080", "10.0.0.3:8080"]);
            server.write(&["10.0.0.3 shop.test"]);
            assert_eq!(told(news).await, ["10.0.0.3:8080"]);
        })
        .await;
    }

    #[tokio::test]
    async fn when_the_server_stops_the_last_good_answer_stays_and_its_return_is_news() {
        let mut server = Server::start(&["10.0.0.1 shop.test"]);
        let (sender, mut news) = mpsc::unbounded_channel();
        let discovery = server.discovery();
        let labels = Labels::default();
        let source = dns("shop.test", 8080, &labels, &discovery, |news| sender.send(news).unwrap());
        let test = async {
            assert_eq!(told(&mut news).await, ["10.0.0.1:8080"]);
            server.stop();
            let trouble = trouble(&mut news).await;
            assert!(trouble.starts_with("dns://shop.test:8080: no answer for A"), "{trouble}");
            server.write(&["10.0.0.2 shop.test"]);
            server.restart();
            assert_eq!(told(&mut news).await, ["10.0.0.2:8080"]);
        };
        tokio::select! {
            never = source => match never {},
            () = test => {}
        }
    }

    #[tokio::test]
    async fn a_name_that_loses_its_addresses_is_doubted_first_and_believed_later() {
        let server = Server::start(&["10.0.0.1 shop.test"]);
        discovering(&server, async |news| {
            assert_eq!(told(news).await, ["10.0.0.1:8080"]);
            server.write(&[]);
            assert!(trouble(news).await.contains("no addresses any more"));
            let before = server.count("shop.test");
            assert_eq!(told(news).await, [""; 0]);
            // One round asks for A and AAAA.
            assert!(server.count("shop.test") - before >= 2 * (BELIEVED as usize - 2));
            assert!(trouble(news).await.contains("shop.test has no addresses;"));
            server.write(&["10.0.0.9 shop.test"]);
            assert_eq!(told(news).await, ["10.0.0.9:8080"]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_name_that_never_was_is_trouble_and_no_empty_list() {
        let server = Server::start(&[]);
        discovering(&server, async |news| {
            assert!(trouble(news).await.contains("shop.test has no addresses; check its spelling"));
            server.write(&["10.0.0.1 shop.test"]);
            assert_eq!(told(news).await, ["10.0.0.1:8080"]);
        })
        .await;
    }

    #[tokio::test]
    async fn more_addresses_than_a_datagram_holds_come_over_tcp() {
        let lines: Vec<String> = (0..250).map(|n| format!("10.0.1.{n} shop.test")).collect();
        let server = Server::start(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        discovering(&server, async |news| assert_eq!(told(news).await.len(), 250)).await;
    }

    #[tokio::test]
    async fn when_the_first_server_is_dead_the_second_is_asked() {
        let mut server = Server::start(&["10.0.0.1 shop.test"]);
        let other = Server::start(&["10.0.0.2 shop.test"]);
        server.stop();
        let mut discovery = server.discovery();
        discovery.resolvers.extend(other.discovery().resolvers);
        assert_eq!(first("shop.test", &discovery).await, ["10.0.0.2:8080"]);
        server.restart();
        assert_eq!(first("shop.test", &discovery).await, ["10.0.0.1:8080"], "the first comes first");
    }

    #[tokio::test]
    async fn an_address_is_its_own_answer() {
        let discovery = Discovery::default();
        assert_eq!(first("127.0.0.7", &discovery).await, ["127.0.0.7:8080"]);
    }

    /// The runtime of a thread that has tasks which can't leave it.
    #[test]
    fn it_runs_on_a_runtime_of_one_thread() {
        let server = Server::start(&["10.0.0.1 shop.test"]);
        let discovery = server.discovery();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        assert_eq!(runtime.unwrap().block_on(first("shop.test", &discovery)), ["10.0.0.1:8080"]);
    }

    /// What is told first of a name.
    async fn first(name: &str, discovery: &Discovery) -> Vec<String> {
        let (sender, mut news) = mpsc::unbounded_channel();
        let labels = Labels::default();
        let source = dns(name, 8080, &labels, discovery, |news| sender.send(news).unwrap());
        tokio::select! {
            never = source => match never {},
            hosts = told(&mut news) => hosts,
        }
    }

    #[tokio::test]
    async fn names_of_the_hosts_file_are_known_without_any_server() {
        let hosts = first("localhost", &Discovery::default()).await;
        assert!(hosts.contains(&"127.0.0.1:8080".to_owned()), "{hosts:?}");
    }
}
