//! Service, proxies and the server that keeps the keys, and what strikes them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::clients::{Clients, Crowd, Seat};
use crate::journal::Journal;
use crate::known::{End, Sent};
use crate::lots::Lots;
use crate::proxy::{self, Proxy};
use crate::told::Says;
use crate::upstream::{Kind, Upstream};
use crate::{PATIENCE, Store};

/// Everything but the clients.
pub(crate) struct Stage {
    pub(crate) runtime: Runtime,
    pub(crate) upstream: Upstream,
    pub(crate) journal: Arc<Journal>,
    pub(crate) seats: watch::Receiver<Vec<Seat>>,
    /// Every life of a proxy: the first is 0.
    pub(crate) lives: Vec<Life>,
    tell: watch::Sender<Vec<Seat>>,
    folder: TempDir,
    store: Store,
    proxies: Vec<Running>,
    lots: Lots,
    strikes: Vec<Strike>,
    /// Those of a proxy that had not begun to listen, or just had. They are not among the strikes.
    while_starting: u32,
}

/// A proxy, and which life of it that is.
struct Running {
    process: Proxy,
    life: u32,
}

/// One life of a proxy.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    /// The lives before this one had ended when it began.
    pub(crate) after: Option<u32>,
    seat: usize,
}

/// What is killed at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Target {
    Proxy,
    BothProxies,
    Store,
    StoreAndProxy,
    StoreAndBothProxies,
}

/// What a strike met, all of which was serving when it came.
struct Strike {
    target: Target,
    /// How many operations the service was working on, or answering, for a proxy that was struck or whose store was.
    at_the_service: usize,
    /// The requests that waited for an answer of such a proxy.
    awaiting: Vec<usize>,
}

/// The strikes of one kind.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Struck {
    pub(crate) count: u32,
    /// Those that met an operation at the service.
    pub(crate) at_the_service: u32,
    /// Those that met none there, but took an operation out of the proxy: its first request was answered by no more than that the
    /// store is down, or not at all.
    pub(crate) in_the_proxy: u32,
}

impl Target {
    pub(crate) const ALL: [Self; 5] =
        [Self::Proxy, Self::BothProxies, Self::Store, Self::StoreAndProxy, Self::StoreAndBothProxies];

    /// How many of twenty strikes are of this kind.
    const fn of_twenty(self, embedded: bool) -> usize {
        match self {
            Self::Proxy if embedded => 20,
            _ if embedded => 0,
            Self::Proxy | Self::Store => 7,
            Self::BothProxies | Self::StoreAndProxy | Self::StoreAndBothProxies => 2,
        }
    }

    const fn is_store(self) -> bool {
        matches!(self, Self::Store | Self::StoreAndProxy | Self::StoreAndBothProxies)
    }
}

impl Stage {
    pub(crate) fn set(runtime: Runtime, seed: u64, store: Store) -> Self {
        let journal = Arc::new(Journal::new());
        let upstream = Upstream::new(seed, runtime.handle().clone(), journal.clone());
        let count = if store.is_embedded() { 1 } else { 2 };
        let (tell, seats) = watch::channel(vec![None; count]);
        let mut stage = Self {
            runtime,
            upstream,
            journal,
            seats,
            lives: Vec::new(),
            tell,
            folder: TempDir::new().unwrap(),
            store,
            proxies: Vec::new(),
            lots: Lots::new(seed, "kills"),
            strikes: Vec::new(),
            while_starting: 0,
        };
        for seat in 0..count {
            std::fs::create_dir_all(stage.folder_of(seat).join("data")).unwrap();
            let running = stage.start(seat);
            stage.proxies.push(running);
            stage.listen(seat);
        }
        stage
    }

    /// Twenty strikes, of each kind as many as there should be, one after the other, and halfway a time in which a lease can run out.
    pub(crate) fn strike_twenty_times(&mut self, clients: &Clients) {
        let embedded = self.store.is_embedded();
        let of = |target: Target| std::iter::repeat_n(target, target.of_twenty(embedded));
        let mut targets: Vec<Target> = Target::ALL.into_iter().flat_map(of).collect();
        while !targets.is_empty() {
            self.wait_for_a_moment(clients);
            if targets.len() == 10 {
                self.runtime.block_on(clients.crowd.outlast_a_lease());
            }
            let drawn = usize::try_from(self.lots.below(targets.len() as u64)).unwrap();
            let target = targets.swap_remove(drawn);
            self.strike(target, &clients.crowd);
        }
    }

    /// What each kind of strike met.
    pub(crate) fn struck(&self, target: Target, crowd: &Crowd) -> Struck {
        let mut struck = Struck::default();
        for strike in self.strikes.iter().filter(|strike| strike.target == target) {
            let lost =
                |sent: &Sent| sent.first && matches!(sent.end, End::Broken | End::Told(Says::Failed(503)));
            let in_the_proxy = crowd.known().became(&strike.awaiting).iter().any(lost);
            struck.count += 1;
            struck.at_the_service += u32::from(strike.at_the_service > 0);
            struck.in_the_proxy += u32::from(strike.at_the_service == 0 && in_the_proxy);
        }
        struck
    }

    pub(crate) const fn while_starting(&self) -> u32 {
        self.while_starting
    }

    /// The last of what the proxies said.
    pub(crate) fn said(&self) -> String {
        let said = |seat| format!("proxy at {seat} said:\n{}", proxy::said(&self.folder_of(seat)));
        (0..self.proxies.len()).map(said).collect::<Vec<_>>().join("\n")
    }

    /// After some more effects, and once every proxy has carried something out since the last strike, so that whatever is struck is
    /// serving; then it may be any moment.
    fn wait_for_a_moment(&mut self, clients: &Clients) {
        let since = clients.crowd.known().requests();
        let enough = self.upstream.effects() + 50 + self.lots.below(250);
        let begun = Instant::now();
        let served = |running: &Running| clients.crowd.known().is_served_by(running.life, since);
        while self.upstream.effects() < enough || !self.proxies.iter().all(served) {
            let said = || format!("{}\n{}", clients.crowd.known().statuses(), self.said());
            assert!(begun.elapsed() < PATIENCE, "nothing goes on any more: {}", said());
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(self.lots.below(5000)));
    }

    fn strike(&mut self, target: Target, crowd: &Crowd) {
        let seats: Vec<usize> = match target {
            Target::Store => Vec::new(),
            Target::Proxy | Target::StoreAndProxy => {
                vec![usize::try_from(self.lots.below(self.proxies.len() as u64)).unwrap()]
            }
            Target::BothProxies | Target::StoreAndBothProxies => (0..self.proxies.len()).collect(),
        };
        self.stop(target, &seats);
        let met = |seat: &usize| target.is_store() || seats.contains(seat);
        let lives: Vec<u32> =
            (0..self.proxies.len()).filter(met).map(|seat| self.proxies[seat].life).collect();
        let at_the_service = self.upstream.in_flight(&lives);
        let awaiting = crowd.known().awaiting(&lives);
        self.journal.note_for_all(format!("{target:?} killed, which concerns the lives {lives:?}"));
        self.strikes.push(Strike { target, at_the_service, awaiting });
        if target.is_store() {
            self.store.kill();
        }
        for seat in &seats {
            self.start_over(*seat);
        }
        if target.is_store() {
            self.store.restart();
        }
        for seat in seats {
            // One that has just begun to look after what the last one left.
            while self.lots.percent(25) {
                std::thread::sleep(Duration::from_micros(self.lots.below(40_000)));
                self.while_starting += 1;
                self.start_over(seat);
            }
            self.listen(seat);
        }
    }

    /// Nothing goes on in what is about to be killed, so that what is seen at the service now is met in the middle.
    fn stop(&self, target: Target, seats: &[usize]) {
        if target.is_store() {
            self.store.hang();
        }
        seats.iter().for_each(|seat| self.proxies[*seat].process.stop());
    }

    /// Kills a proxy, and starts it again without waiting for it.
    fn start_over(&mut self, seat: usize) {
        self.tell.send_modify(|seats| seats[seat] = None);
        let folder = self.folder_of(seat);
        self.proxies[seat].process.kill(&folder);
        self.proxies[seat] = self.start(seat);
    }

    fn start(&mut self, seat: usize) -> Running {
        let before = self.lives.iter().rposition(|life| life.seat == seat);
        self.lives.push(Life { after: before.map(|life| u32::try_from(life).unwrap()), seat });
        let life = u32::try_from(self.lives.len() - 1).unwrap();
        let _in_the_runtime = self.runtime.enter();
        let instances = [self.upstream.serve(life), self.upstream.serve(life)];
        let folder = self.folder_of(seat);
        let config = config(&folder, &self.store.config(), instances);
        self.journal.note_for_all(format!("proxy {life} begins at {seat}"));
        Running { process: Proxy::start(&folder, &config, &[]), life }
    }

    /// Waits until the proxy listens, and tells the clients where.
    fn listen(&mut self, seat: usize) {
        let folder = self.folder_of(seat);
        let Running { process, life } = &mut self.proxies[seat];
        let at = (process.address(&folder), *life);
        self.tell.send_modify(|seats| seats[seat] = Some(at));
    }

    fn folder_of(&self, seat: usize) -> PathBuf {
        self.folder.path().join(seat.to_string())
    }
}

/// Retries and hedges are on, so that it shows that they keep to the keys. What would only keep requests away is off.
fn config(folder: &Path, store: &str, instances: [SocketAddr; 2]) -> String {
    let mut text = format!(
        "listen = \"127.0.0.1:0\"\nadmin = \"off\"\ndata = \"{}\"\npressure.mode = \"off\"\n[log]\naccess = false\nlevel = \"warn\"\n{store}",
        folder.join("data").display()
    );
    for kind in Kind::ALL {
        let (name, [a, b]) = (kind.name(), instances);
        let unknown = if kind.knows() { "retry" } else { "refuse" };
        let busy = if kind == Kind::Waiting { "500ms" } else { "refuse" };
        text += &format!(
            "[upstream.{name}]\nendpoints = [\"http://{a}\", \"http://{b}\"]\ndeadline = \"{}s\"\n\
             breaker.mode = \"off\"\noutlier.mode = \"off\"\n\
             hedge = {{ mode = \"enforce\", budget = {{ share = 0.5, per_second = 100.0 }} }}\n\
             [[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\nclient_key = \"header:x-api-key\"\n\
             [route.idempotency]\nrequired = true\nunknown = \"{unknown}\"\nbusy = \"{busy}\"\nlease = \"{}s\"\n",
            DEADLINE.as_secs(),
            LEASE.as_secs(),
        );
    }
    text
}

/// How long a call may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);
/// How long a key is held: it leaves room for the call, for a second more and for a step of the store.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
