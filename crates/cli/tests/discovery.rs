//! Endpoints that a DNS server names: they come, they go, and the server itself goes.

mod common;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::seaworthy;
use common::shop::{Instance, Process, Proxy, Stream, errors, eventually};
use nix::sys::signal::Signal;

/// dnsmasq, answering from a file.
struct Dns {
    port: u16,
    hosts: PathBuf,
    process: Option<Process>,
}

impl Dns {
    fn start(name: &str, addresses: &[&str]) -> Self {
        let mut dns = Self { port: free_port(), hosts: common::file(name, ""), process: None };
        dns.name(addresses);
        dns.resume();
        dns
    }

    /// Gives `shop.test` these addresses from now on.
    fn name(&self, addresses: &[&str]) {
        let lines: String = addresses.iter().map(|address| format!("{address} shop.test\n")).collect();
        fs::write(&self.hosts, lines).expect("the file of hosts");
        if let Some(process) = &self.process {
            process.signal(Signal::SIGHUP);
        }
    }

    fn resume(&mut self) {
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--local-ttl=1",
            ])
            .args(["--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file=", "--user=", "--group="])
            .arg(format!("--port={}", self.port))
            .arg(format!("--addn-hosts={}", self.hosts.display()));
        self.process = Some(Process::start(&mut command).0);
        eventually("dnsmasq listens (it is in Debian's dnsmasq-base)", || {
            TcpListener::bind(("127.0.0.1", self.port)).is_err()
        });
    }

    fn stop(&mut self) {
        self.process = None;
    }
}

/// A port that is free for both of the protocols that DNS is spoken over: what connects to somebody else may have either.
fn free_port() -> u16 {
    let free = || {
        let udp = UdpSocket::bind("127.0.0.1:0").ok()?;
        let address = udp.local_addr().ok()?;
        TcpListener::bind(address).ok().map(|_| address.port())
    };
    (0..100).find_map(|_| free()).expect("a free port")
}

/// The proxy's endpoints.
fn known(proxy: &Proxy) -> usize {
    proxy.state()["upstreams"][0]["endpoints"].as_array().map_or(0, Vec::len)
}

fn trouble(proxy: &Proxy) -> Option<String> {
    proxy.state()["upstreams"][0]["sources"][0]["trouble"].as_str().map(str::to_owned)
}

fn configured(dns: &Dns, port: u16) -> String {
    format!(
        "[upstream.shop]\nendpoints = \"dns://shop.test:{port}\"\n[upstream.shop.discovery]\n\
         resolvers = [\"127.0.0.1:{}\"]\nttl_floor = \"100ms\"\n",
        dns.port
    )
}

#[test]
fn a_dns_server_that_stops_changes_nothing() {
    let first = Instance::start(1, 0);
    let port = first.address.port();
    let _second = Instance::by(seaworthy(), 2, "127.0.0.2", port);
    let mut dns = Dns::start("stops.hosts", &["127.0.0.1"]);
    let proxy = Proxy::start("dns-stops.toml", &configured(&dns, port));
    assert_eq!(known(&proxy), 1);
    let stream = Stream::start(proxy.address, 100);

    dns.stop();
    eventually("the trouble is told", || trouble(&proxy).is_some());
    stream.go_on(Duration::from_secs(2));
    assert_eq!(known(&proxy), 1, "the last good answer holds");

    dns.name(&["127.0.0.1", "127.0.0.2"]);
    dns.resume();
    eventually("the second is known", || known(&proxy) == 2 && trouble(&proxy).is_none());
    dns.name(&["127.0.0.2"]);
    eventually("the first has left", || known(&proxy) == 1);
    stream.go_on(Duration::from_secs(1));
    assert_eq!(errors(&stream.finish()), "");
}

#[test]
fn a_name_that_nobody_knows_is_told_and_calls_are_refused() {
    let dns = Dns::start("nobody.hosts", &[]);
    let proxy = Proxy::start("dns-nobody.toml", &configured(&dns, 1));
    eventually("the trouble is told", || {
        trouble(&proxy).is_some_and(|trouble| trouble.contains("shop.test"))
    });
    let calls = {
        let stream = Stream::start(proxy.address, 20);
        stream.go_on(Duration::from_millis(500));
        stream.finish()
    };
    assert!(calls.iter().all(|call| call.status == Some(503)), "{}", errors(&calls));
    assert!(proxy.get("/health/deep").1.contains("0 of 0 endpoints"));
}
