//! The proxy as a whole: binding, running, draining.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use seaworthy_config::{Config, Degrade, Level, Route};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot, watch};

use crate::folder;
use crate::idempotency::{self, Clerk};
use crate::journal::{Journal, Writer};
use crate::keeper::{self, Order};
use crate::listen;
use crate::process::Shim;
use crate::rate::Store;
use crate::site::Site;
use crate::worker::Worker;

/// A proxy. It begins with [`bind`](Self::bind).
#[derive(Debug)]
#[non_exhaustive]
pub struct Proxy;

impl Proxy {
    /// Binds every address of `config`, so that what can fail has failed before the first call.
    ///
    /// # Errors
    /// An address that can't be bound, or a thread that can't be started.
    pub fn bind(config: Config) -> Result<Bound, Error> {
        let workers = config.workers.map_or_else(cores, usize::from);
        let mut addresses = Vec::new();
        let mut shares: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
        for &address in &config.listen {
            let failed = |source| Error::Bind { address, source };
            let listeners = listen::bind(address, workers).map_err(failed)?;
            addresses.push(listeners[0].local_addr().map_err(failed)?);
            for (share, listener) in shares.iter_mut().zip(listeners) {
                share.push(listener);
            }
        }
        let admin = match config.admin {
            Some(address) => Some(admin_listener(address).map_err(|source| Error::Bind { address, source })?),
            None => None,
        };
        let (journal, writer) = Journal::start(&config).map_err(Error::Thread)?;
        let (tell, orders) = mpsc::unbounded_channel();
        let redis = config
            .redis
            .as_ref()
            .map(|redis| Store::new(redis.url.as_str(), redis.timeout, &redis.prefix, arbitrary_seed()));
        let redis = redis.transpose().map_err(Error::Redis)?;
        let words = words(&config)?;
        folder::prepare(&config)?;
        let clerk = idempotency::open(&config, &journal).map_err(|error| folder::to_blame(&config, error))?;
        let keys = clerk.as_ref().map(|clerk| clerk.store.clone());
        let site = Arc::new(Site::new(config, workers, redis, keys, words, journal, tell));
        let shim = Shim::ourselves(SHIM);
        Ok(Bound { site, shares, addresses, admin, clerk, writer, orders, shim })
    }
}

/// The body of each route's own answer.
fn words(config: &Config) -> Result<Vec<Bytes>, Error> {
    let body = |route: &Route| {
        let own = route.degrade.iter().find_map(|degrade| match degrade {
            Degrade::Static(own) => Some(own),
            _ => None,
        });
        let Some(own) = own else { return Ok(Bytes::new()) };
        let Some(path) = &own.file else { return Ok(Bytes::copy_from_slice(own.body.as_bytes())) };
        let failed = |source| Error::File { path: path.clone(), source };
        std::fs::read(path).map(Bytes::from).map_err(failed)
    };
    config.routes.iter().map(body).collect()
}

fn admin_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Why the proxy does not run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An address could not be bound.
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A thread, or what it needs, could not be made.
    Thread(io::Error),
    /// The process can't be told to stop.
    Signals(io::Error),
    /// A route's own answer could not be read.
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What was said of Redis can't be used.
    Redis(redis::RedisError),
    /// Nothing can be kept in the folder for it.
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is in the way.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store of idempotency keys can't be used.
    Keys(Box<dyn std::error::Error + Send + Sync>),
    /// A worker ended by a mistake of ours; what it said is on standard error.
    Worker,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { address, .. } => write!(f, "can't listen on {address}"),
            Self::Thread(_) => f.write_str("can't start a thread"),
            Self::Signals(_) => f.write_str("can't listen for signals"),
            Self::File { path, .. } => {
                write!(f, "can't read {}, which a fallback is to answer with", path.display())
            }
            Self::Redis(_) => f.write_str("can't use the address of Redis"),
            Self::Folder { path, .. } => {
                let path = path.display();
                write!(
                    f,
                    "can't keep idempotency keys in the folder {path}, which `data` names: make it, and let this user write there, \
                     or name another"
                )
            }
            Self::Keys(_) => f.write_str("can't use the store of idempotency keys"),
            Self::Worker => f.write_str("a worker stopped by mistake"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind { source, .. }
            | Self::File { source, .. }
            | Self::Thread(source)
            | Self::Signals(source) => Some(source),
            Self::Redis(source) => Some(source),
            Self::Folder { source, .. } | Self::Keys(source) => Some(&**source),
            Self::Worker => None,
        }
    }
}

/// A proxy whose addresses are bound. Clients that connect now wait until it [runs](Self::run_until).
#[must_use = "nothing is served until it runs"]
pub struct Bound {
    site: Arc<Site>,
    shares: Vec<Vec<TcpListener>>,
    addresses: Vec<SocketAddr>,
    admin: Option<TcpListener>,
    clerk: Option<Clerk>,
    writer: Writer,
    orders: mpsc::UnboundedReceiver<Order>,
    shim: Shim,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Bound {
    /// Where clients connect, in the order of the configuration, with the ports that were given for port 0.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where operators connect, if anywhere.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Starts supervised processes through another program than this one with its subcommand `exec-child`; see
    /// [`exec_child`](crate::process::exec_child).
    pub fn through(mut self, shim: Shim) -> Self {
        self.shim = shim;
        self
    }

    /// Serves until `shutdown`, then drains: readiness turns false, the listeners close, and calls in flight get the
    /// configuration's `drain` to finish. Needs a tokio runtime with a timer; the workers have threads of their own.
    ///
    /// # Errors
    /// A thread that can't be started, or a worker that stopped by itself.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        self.run_through(shutdown, std::future::pending()).await
    }

    /// As [`run_until`](Self::run_until); `at_once` ends the draining.
    async fn run_through(
        self,
        shutdown: impl Future<Output = ()>,
        at_once: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let Self { site, shares, addresses, admin, clerk, writer, orders, shim } = self;
        let (stage, seen) = watch::channel(Stage::Serving);
        let (ended, mut endings) = tokio::sync::mpsc::unbounded_channel();
        let (begun, begins) = oneshot::channel();
        let mut threads = vec![spawn("keeper", {
            let (site, seen) = (site.clone(), seen.clone());
            move || keeper::serve(site, shim, arbitrary_seed(), seen, orders, begun)
        })?];
        // A keeper that did not get as far has ended, which its thread will tell.
        let _ = begins.await;
        for (number, listeners) in shares.into_iter().enumerate() {
            let (site, seen, ended) = (site.clone(), seen.clone(), Ended(ended.clone()));
            threads.push(spawn(&format!("worker-{number}"), move || {
                let _ended = ended;
                serve(site, number, listeners, seen)
            })?);
        }
        if let Some(clerk) = clerk {
            let seen = seen.clone();
            threads.push(spawn("keys", move || clerk.serve(seen))?);
        }
        if let Some(listener) = admin {
            let (site, seen) = (site.clone(), seen.clone());
            threads.push(spawn("admin", move || crate::admin::serve(site, listener, seen))?);
        }
        drop(ended);
        for address in &addresses {
            site.journal.event(Level::Info, "listening", &[("address", &address.to_string())]);
        }
        let failed = tokio::select! {
            () = shutdown => false,
            _ = endings.recv() => true,
        };
        site.serving.store(false, Ordering::Release);
        site.journal.event(Level::Info, "draining", &[]);
        stage.send_replace(Stage::Draining);
        let all_ended = async { while endings.recv().await.is_some() {} };
        tokio::select! {
            () = all_ended => {}
            () = tokio::time::sleep(site.config.drain) => {}
            () = at_once => {}
        }
        stage.send_replace(Stage::Over);
        join(threads, failed, writer, &site)
    }
}

fn join(
    threads: Vec<JoinHandle<Result<(), Error>>>,
    failed: bool,
    writer: Writer,
    site: &Site,
) -> Result<(), Error> {
    let mut result = if failed { Err(Error::Worker) } else { Ok(()) };
    for thread in threads {
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => result = Err(error),
            Err(_panic) => result = Err(Error::Worker),
        }
    }
    // What was heard last is to outlive the process; a disk that fails has been told of.
    for flags in site.routes.iter().filter_map(|route| route.flags.as_ref()) {
        let _ = flags.flush(FLUSH);
    }
    site.journal.event(Level::Info, "stopped", &[]);
    writer.finish();
    result
}

/// Says that a worker has ended, however it does.
struct Ended(tokio::sync::mpsc::UnboundedSender<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        // Nobody listens any more once the proxy is over.
        let _ = self.0.send(());
    }
}

/// How far the proxy has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// It serves.
    Serving,
    /// It accepts nothing new.
    Draining,
    /// Everybody is to stop.
    Over,
}

fn spawn(
    name: &str,
    body: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(Error::Thread)
}

/// The runtime of one thread.
pub(crate) fn runtime() -> Result<LocalRuntime, Error> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).map_err(Error::Thread)
}

/// One worker's thread.
fn serve(
    site: Arc<Site>,
    number: usize,
    listeners: Vec<TcpListener>,
    mut stage: watch::Receiver<Stage>,
) -> Result<(), Error> {
    runtime()?.block_on(async move {
        let home = Worker::new(site, number, arbitrary_seed());
        let mut doors = Vec::new();
        for (number, listener) in listeners.into_iter().enumerate() {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Thread)?;
            doors.push(tokio::task::spawn_local(listen::accept(home.clone(), number, listener)));
        }
        let sweeper = tokio::task::spawn_local(sweep(home.clone()));
        // The sender outlives the workers.
        let _ = stage.wait_for(|stage| *stage != Stage::Serving).await;
        doors.iter().for_each(|door| door.abort());
        // Once around the reactor, so that connections know of the requests that have come by now.
        tokio::task::yield_now().await;
        home.drain();
        tokio::select! {
            () = home.emptied() => {}
            _ = stage.wait_for(|stage| *stage == Stage::Over) => {}
        }
        sweeper.abort();
        Ok(())
    })
}

async fn sweep(home: Rc<Worker>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        home.sweep();
    }
}

/// Runs a proxy until the process is told to stop (SIGTERM, SIGINT, Ctrl-C), which drains; told again, it stops at once.
///
/// # Errors
/// Whatever keeps it from running.
pub fn run(config: Config) -> Result<(), Error> {
    run_bound(Proxy::bind(config)?)
}

/// As [`run`], of what is bound already.
///
/// # Errors
/// Whatever keeps it from running.
pub fn run_bound(bound: Bound) -> Result<(), Error> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    runtime.block_on(async move {
        let (mut told, again) = (signals().map_err(Error::Signals)?, signals().map_err(Error::Signals)?);
        let first = async move { told.next().await };
        bound.run_through(first, second(again)).await
    })
}

/// The second of the signals to stop.
async fn second(mut signals: Signals) {
    signals.next().await;
    signals.next().await;
}

#[cfg(unix)]
struct Signals(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

#[cfg(unix)]
fn signals() -> io::Result<Signals> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Signals(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}

#[cfg(unix)]
impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
fn signals() -> io::Result<Signals> {
    Ok(Signals)
}

#[cfg(not(unix))]
impl Signals {
    async fn next(&mut self) {
        // Without a signal to wait for there is nothing to stop for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How long the end of the process waits for a disk.
const FLUSH: Duration = Duration::from_secs(2);

/// The subcommand of the `seaworthy` command that becomes a supervised process.
const SHIM: &str = "exec-child";

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A seed that differs from process to process.
fn arbitrary_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
