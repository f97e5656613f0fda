//! Keys under torture: clients repeat themselves, the service fails, and the proxy and the server that keeps its keys are killed in
//! the middle of it. Then every operation is judged: none had two effects, and none was acknowledged and is lost.
//!
//! Everything that is left to chance comes from a seed, which is printed; `SEAWORTHY_TORTURE_SEED` gives it.
//! `SEAWORTHY_LONG_TORTURE=1` kills ten times as often.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod clients;
mod clock;
mod lots;
mod proxy;
#[path = "../../../seaworthy/tests/servers/mod.rs"]
mod servers;
mod upstream;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::clients::{Clients, Says};
use crate::lots::Lots;
use crate::proxy::Proxy;
use crate::upstream::{Kind, Upstream};

#[test]
fn keys_in_a_file_survive_kills_of_the_proxy() {
    torture(Store::Embedded);
}

#[test]
fn keys_in_redis_survive_kills_of_the_proxy_and_of_redis() {
    torture(Store::Redis(servers::Redis::durable()));
}

#[test]
fn keys_in_postgresql_survive_kills_of_the_proxy_and_of_postgresql() {
    torture(Store::Postgres(servers::Postgres::start()));
}

/// Where the keys are.
enum Store {
    Embedded,
    Redis(servers::Redis),
    Postgres(servers::Postgres),
}

impl Store {
    fn config(&self) -> String {
        match self {
            Self::Embedded => "[idempotency]\nstore = \"embedded\"\n".to_owned(),
            Self::Redis(server) => {
                format!("[redis]\nurl = \"{}\"\n[idempotency]\nstore = \"redis\"\n", server.url())
            }
            Self::Postgres(server) => {
                format!("[idempotency]\nstore = \"postgres\"\nurl = \"{}\"\n", server.url())
            }
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Embedded => {}
            Self::Redis(server) => server.kill(),
            Self::Postgres(server) => server.kill(),
        }
    }

    fn restart(&mut self) {
        match self {
            Self::Embedded => {}
            Self::Redis(server) => server.restart(),
            Self::Postgres(server) => server.restart(),
        }
    }
}

fn torture(store: Store) {
    let seed = lots::seed();
    say(&format!("SEAWORTHY_TORTURE_SEED={seed}"));
    let kills = if std::env::var_os("SEAWORTHY_LONG_TORTURE").is_some() { 200 } else { 20 };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut stage = Stage::set(runtime, seed, store);
    let mut clients = Clients::start(stage.runtime.handle(), seed, &stage.told);
    while stage.kills() < kills {
        stage.kill_one(&clients);
    }
    say(&stage.counted(&clients));
    assert!(stage.proxies.in_the_middle > 0, "no request was in flight when the proxy was killed");
    assert!(
        matches!(stage.store, Store::Embedded) || stage.stores.in_the_middle > 0,
        "nor when its store was"
    );
    assert!(clients.crowd.broken.load(Ordering::SeqCst) > 0, "no client noticed anything");
    stage.judge(&mut clients, seed);
}

/// The proxy between service and clients, and the server that keeps its keys.
struct Stage {
    runtime: Runtime,
    folder: TempDir,
    store: Store,
    upstream: Upstream,
    proxy: Option<Proxy>,
    /// How often the proxy was started.
    life: u32,
    tell: watch::Sender<SocketAddr>,
    told: watch::Receiver<SocketAddr>,
    lots: Lots,
    proxies: Kills,
    stores: Kills,
}

/// The kills of one kind of process.
#[derive(Default, Debug)]
struct Kills {
    count: u32,
    /// Those while the service was working on a request, or a client waited for an answer that it never got.
    in_the_middle: u32,
    /// Those before the proxy had begun to listen.
    while_starting: u32,
}

impl Stage {
    fn set(runtime: Runtime, seed: u64, store: Store) -> Self {
        let upstream = Upstream::new(seed, runtime.handle().clone());
        let (tell, told) = watch::channel(SocketAddr::from(([127, 0, 0, 1], 1)));
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let mut stage = Self {
            runtime,
            folder,
            store,
            upstream,
            proxy: None,
            life: 0,
            tell,
            told,
            lots: Lots::new(seed, "kills"),
            proxies: Kills::default(),
            stores: Kills::default(),
        };
        stage.start_proxy();
        stage.listen();
        stage
    }

    fn kills(&self) -> u32 {
        self.proxies.count + self.stores.count
    }

    fn start_proxy(&mut self) {
        self.life += 1;
        let _in_the_runtime = self.runtime.enter();
        let instances = [self.upstream.serve(self.life), self.upstream.serve(self.life)];
        let config = config(&self.folder, &self.store.config(), instances);
        self.proxy = Some(Proxy::start(self.folder.path(), &config, &[]));
    }

    /// Waits until the proxy listens, and tells the clients where.
    fn listen(&mut self) {
        let proxy = self.proxy.as_mut().expect("it was started");
        self.tell.send_replace(proxy.address(self.folder.path()));
    }

    /// Kills something at some moment, and starts it again at once.
    fn kill_one(&mut self, clients: &Clients) {
        self.wait_for_a_moment(clients);
        let embedded = matches!(self.store, Store::Embedded);
        match self.lots.below(100) {
            0..50 => self.kill_the_proxy(clients),
            _ if embedded => self.kill_the_proxy(clients),
            50..85 => {
                self.kill_the_store(clients);
                self.store.restart();
            }
            _ => {
                self.kill_the_store(clients);
                self.kill_the_proxy(clients);
                self.store.restart();
            }
        }
        if self.proxy.as_ref().is_some_and(Proxy::is_new) {
            // One that has just begun to look after what the last one left.
            while self.lots.percent(25) {
                self.start_over();
            }
            self.listen();
        }
    }

    /// After some more effects there is some request underway; then it may be any moment.
    fn wait_for_a_moment(&mut self, clients: &Clients) {
        let enough = self.upstream.effects() + self.lots.below(300);
        let begun = Instant::now();
        while self.upstream.effects() < enough || clients.crowd.awaiting.load(Ordering::SeqCst) == 0 {
            let said = || format!("{}\n{}", clients.crowd.statuses(), proxy::said(self.folder.path()));
            assert!(begun.elapsed() < PATIENCE, "nothing goes on any more: {}", said());
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(self.lots.below(5000)));
    }

    fn kill_the_proxy(&mut self, clients: &Clients) {
        let (working, broken) =
            (self.upstream.working(self.life), clients.crowd.broken.load(Ordering::SeqCst));
        self.proxy.take().expect("it runs").kill(self.folder.path());
        self.proxies.count += 1;
        // The connections of a process are gone with it; the clients are about to notice.
        let begun = Instant::now();
        while working == 0 && clients.crowd.broken.load(Ordering::SeqCst) == broken {
            if begun.elapsed() > NOTICED {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let noticed = working > 0 || clients.crowd.broken.load(Ordering::SeqCst) > broken;
        self.proxies.in_the_middle += u32::from(noticed);
        self.start_proxy();
    }

    fn kill_the_store(&mut self, clients: &Clients) {
        let underway =
            self.upstream.working(self.life) > 0 || clients.crowd.awaiting.load(Ordering::SeqCst) > 0;
        self.store.kill();
        self.stores.count += 1;
        self.stores.in_the_middle += u32::from(underway);
    }

    /// Kills a proxy that may not have begun to listen.
    fn start_over(&mut self) {
        let Some(proxy) = self.proxy.take() else { return };
        std::thread::sleep(Duration::from_micros(self.lots.below(40_000)));
        proxy.kill(self.folder.path());
        self.proxies.count += 1;
        self.proxies.while_starting += 1;
        self.start_proxy();
    }

    fn counted(&self, clients: &Clients) -> String {
        format!(
            "proxy {:?}, store {:?}; {} effects; {} answers that never came; answers {}",
            self.proxies,
            self.stores,
            self.upstream.effects(),
            clients.crowd.broken.load(Ordering::SeqCst),
            clients.crowd.statuses(),
        )
    }

    /// Asks for every operation again, with everything in order, and compares what is said with what has happened.
    fn judge(&mut self, clients: &mut Clients, seed: u64) {
        let (crowd, upstream) = (clients.crowd.clone(), &self.upstream);
        upstream.calm_down();
        let ends = self.runtime.block_on(async {
            clients.stop().await;
            let ends = crowd.ask_all().await;
            let begun = Instant::now();
            while upstream.all_working() > 0 {
                assert!(begun.elapsed() < PATIENCE, "the service does not end");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            ends
        });
        let mut unknown = 0;
        for (operation, end) in &ends {
            let entry = upstream.entry(operation);
            let wrong = match (operation.0, end, entry.effects) {
                (_, Says::Done { .. }, 1) => None,
                // Who knows keys is asked again; of anybody else it is told what is known.
                (Kind::Naive, Says::NotKept, 1) => None,
                (Kind::Naive, Says::Unknown, 0 | 1) => {
                    unknown += 1;
                    None
                }
                // That is among the violations already.
                (_, Says::Wrong, 0 | 1) => None,
                (_, end, effects) => Some(format!("{operation:?} had {effects} effects, and is {end:?}")),
            };
            wrong.into_iter().for_each(|wrong| crowd.violation(wrong));
            if let Some(wrong) = tokens_that_fall(operation.0, &entry.visits) {
                crowd.violation(format!("{operation:?}: {wrong}"));
            }
        }
        say(&format!("{} operations, {} acknowledged, {unknown} unknown", ends.len(), crowd.acknowledged()));
        assert!(!ends.is_empty() && ends.len() == crowd.asked().len());
        let violations = crowd.violations();
        let first = violations.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
        assert!(
            violations.is_empty(),
            "{} violations with SEAWORTHY_TORTURE_SEED={seed}:\n{first}\nthe proxy said:\n{}",
            violations.len(),
            proxy::said(self.folder.path()),
        );
    }
}

/// What is wrong with the tokens of one operation, if anything.
///
/// A proxy never gives a token out that an earlier life of it gave out. Within one life, requests to a service that knows
/// nothing come one after the other, each under a token of its own; to one that knows, repetitions and hedges come under
/// the token of their reservation, and what was given up may arrive after what followed it, which the service refuses.
fn tokens_that_fall(kind: Kind, visits: &[(u32, u64)]) -> Option<String> {
    let falls = |(n, (life, token)): (usize, &(u32, u64))| {
        let may_be_followed_by = |(later, next): &(u32, u64)| match later.cmp(life) {
            std::cmp::Ordering::Less => next < token,
            std::cmp::Ordering::Equal => kind == Kind::Knowing || next > token,
            std::cmp::Ordering::Greater => next > token,
        };
        !visits[n + 1..].iter().all(may_be_followed_by)
    };
    visits.iter().enumerate().any(falls).then(|| format!("tokens (life, token) fall: {visits:?}"))
}

/// Retries and hedges are on, so that it shows that they keep to the keys. What would only keep requests away is off.
fn config(folder: &TempDir, store: &str, instances: [SocketAddr; 2]) -> String {
    let mut text = format!(
        "listen = \"127.0.0.1:0\"\nadmin = \"off\"\ndata = \"{}\"\npressure.mode = \"off\"\n[log]\naccess = false\nlevel = \"warn\"\n{store}",
        folder.path().join("data").display()
    );
    for (kind, unknown) in [(Kind::Naive, "refuse"), (Kind::Knowing, "retry")] {
        let (path, [a, b]) = (kind.path(), instances);
        let name = &path[1..];
        text += &format!(
            "[upstream.{name}]\nendpoints = [\"http://{a}\", \"http://{b}\"]\ndeadline = \"1s\"\n\
             breaker.mode = \"off\"\noutlier.mode = \"off\"\n\
             hedge = {{ mode = \"enforce\", budget = {{ share = 0.5, per_second = 100.0 }} }}\n\
             [[route]]\nname = \"{name}\"\npath = \"{path}\"\nupstream = \"{name}\"\nclient_key = \"header:x-api-key\"\n\
             [route.idempotency]\nrequired = true\nunknown = \"{unknown}\"\nlease = \"3s\"\n"
        );
    }
    text
}

#[expect(clippy::print_stderr, reason = "a run is repeated by the seed that it prints")]
fn say(what: &str) {
    eprintln!("{what}");
}

/// For what takes a moment, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// Within this a client has noticed that the proxy is gone, if it was asking.
const NOTICED: Duration = Duration::from_millis(100);
