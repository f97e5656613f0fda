//! What a program says about its own health.
//!
//! # What it is for
//! Three questions, which a load balancer, an orchestrator and a person ask, and which need three answers:
//!
//! * [`live`](HealthRegistry::live): should this process be restarted? Not while it can answer at all. It looks at nothing else: a
//!   restart mends no database.
//! * [`ready`](HealthRegistry::ready): should it get requests? Not while a *critical* check fails, or before it
//!   [serves](HealthRegistry::set_serving).
//! * [`deep`](HealthRegistry::deep): how is everything? Every check, and the [headroom] of the process.
//!
//! # When not to use it
//! To find the bad instance among several: that is seen from outside, by whoever calls them. An instance with a sick neighbour
//! believes itself well, and ten that depend on the same database are all unready at once, which helps nobody: make critical only
//! what this instance alone may lack.
//!
//! # How
//! A check is an async function. Its result is kept for a while ([`Check::keep`]), and it runs at most once at a time: a thousand who
//! ask are one run. It is driven by whoever asks, so nothing runs in the background, and any runtime with time will do, also one
//! of a single thread. A check that takes too long or panics has failed.
//!
//! | a check's status | critical | the whole |
//! |---|---|---|
//! | fail | yes | fail, answered 503 |
//! | fail | no | warn |
//! | warn | either | warn |
//! | pass | either | pass |
//!
//! The answer is `application/health+json`: <https://datatracker.ietf.org/doc/html/draft-inadarei-api-health-check-06>.
//!
//! ```
//! use seaworthy::health::{Check, Finding, HealthRegistry, Status};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let health = HealthRegistry::new("shop", "1.4.2");
//! health.register(Check::new("database:connections", async || Finding::pass().observed(3, "connections")).critical());
//! health.register(Check::new("mail:queue", async || Finding::fail("the mail server does not answer")));
//!
//! assert_eq!(health.ready().await.status, Status::Pass);
//! let report = health.deep().await;
//! assert_eq!((report.status, report.http_status()), (Status::Warn, 200));
//! println!("{}", report.to_json());
//! # });
//! ```

pub mod headroom;
mod report;

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use seaworthy_core::Instant;

pub use self::report::{CheckReport, Finding, MEDIA_TYPE, Observed, Report, Status};

use crate::clock;
use crate::panic::message;

/// The checks of a program. Cloning it is cheap and shares them. See the [module](self).
#[derive(Clone, Debug)]
pub struct HealthRegistry {
    inner: Arc<Inner>,
}

impl HealthRegistry {
    /// Without checks, and serving. `service` describes the program and `release` names its version; both appear in every report.
    #[must_use]
    pub fn new(service: &str, release: &str) -> Self {
        let inner = Inner {
            service: service.into(),
            release: release.into(),
            serving: AtomicBool::new(true),
            checks: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds a check, or replaces the one of the same name and id.
    pub fn register(&self, check: Check) {
        let key = (check.name.clone(), check.id.clone());
        lock(&self.inner.checks).insert(key, Arc::new(Entry::new(check)));
    }

    /// Forgets a check; whether there was one.
    pub fn remove(&self, name: &str, id: Option<&str>) -> bool {
        lock(&self.inner.checks).remove(&(name.to_owned(), id.map(str::to_owned))).is_some()
    }

    /// Says whether this process should get requests at all: not while it starts, and not any more while it drains. What it says is
    /// added to what [`ready`](Self::ready) finds.
    pub fn set_serving(&self, serving: bool) {
        self.inner.serving.store(serving, Ordering::Relaxed);
    }

    /// That the process can answer. No check is asked.
    #[must_use]
    pub fn live(&self) -> Report {
        self.report(Vec::new())
    }

    /// Whether this process should get requests: the critical checks, run if what is kept of them is too old.
    pub async fn ready(&self) -> Report {
        let mut report = self.report(self.ask(|check| check.critical).await);
        if !self.inner.serving.load(Ordering::Relaxed) {
            report.status = Status::Fail;
            report.output = Some("it does not serve: it is starting or draining".into());
        }
        report
    }

    /// Every check, run if what is kept of it is too old.
    pub async fn deep(&self) -> Report {
        self.report(self.ask(|_| true).await)
    }

    /// What is kept of every check, however old; nothing is run and nothing is waited for. What has never run is a warning.
    #[must_use]
    pub fn shallow(&self) -> Report {
        let entries = self.entries(|_| true);
        let never = || (Finding::warn("it has never run"), None);
        let told = entries.into_iter().map(|entry| {
            let (finding, time) = entry.kept().map_or_else(never, |kept| (kept.finding, Some(kept.time)));
            (entry, finding, time)
        });
        self.report(told.collect())
    }

    /// Asks all the checks that are wanted, at the same time.
    async fn ask(&self, wanted: impl Fn(&Check) -> bool) -> Vec<Told> {
        let asked = self.entries(wanted).into_iter().map(|entry| {
            let told: Telling = Box::pin(async move {
                let kept = entry.ask().await;
                (entry, kept.finding, Some(kept.time))
            });
            told
        });
        all(asked.collect()).await
    }

    fn entries(&self, wanted: impl Fn(&Check) -> bool) -> Vec<Arc<Entry>> {
        lock(&self.inner.checks).values().filter(|entry| wanted(&entry.check)).cloned().collect()
    }

    fn report(&self, told: Vec<Told>) -> Report {
        let checks: Vec<_> =
            told.into_iter().map(|(entry, finding, time)| entry.report(finding, time)).collect();
        let counted = checks.iter().map(|check| match check.finding.status {
            Status::Fail if !check.critical => Status::Warn,
            status => status,
        });
        Report {
            status: counted.max().unwrap_or(Status::Pass),
            service: self.inner.service.clone(),
            release: self.inner.release.clone(),
            output: None,
            checks,
        }
    }
}

#[derive(Debug)]
struct Inner {
    service: String,
    release: String,
    serving: AtomicBool,
    /// By name and id, so that reports have one order.
    checks: Mutex<BTreeMap<Key, Arc<Entry>>>,
}

type Key = (String, Option<String>);

type Running = Pin<Box<dyn Future<Output = Finding> + Send>>;
type Told = (Arc<Entry>, Finding, Option<Duration>);
type Telling = Pin<Box<dyn Future<Output = Told> + Send>>;

/// One thing that can be well or not.
pub struct Check {
    name: String,
    id: Option<String>,
    component: Option<String>,
    critical: bool,
    keep: Duration,
    timeout: Duration,
    run: Box<dyn Fn() -> Running + Send + Sync>,
}

impl Check {
    /// A check that is not critical. `name` is `component:measurement`, such as `database:connections`.
    ///
    /// `run` must not block: it is driven by whoever asks. Blocking work belongs into a
    /// [`ThreadPool`](crate::bulkhead::ThreadPool).
    #[must_use]
    pub fn new<R, F>(name: &str, run: R) -> Self
    where
        R: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Finding> + Send + 'static,
    {
        Self {
            name: name.into(),
            id: None,
            component: None,
            critical: false,
            keep: KEEP,
            timeout: TIMEOUT,
            run: Box::new(move || Box::pin(run())),
        }
    }

    /// Without it the process should get no requests.
    #[must_use]
    pub const fn critical(mut self) -> Self {
        self.critical = true;
        self
    }

    /// Which of several of the same name it is, such as an address (`componentId`).
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.into());
        self
    }

    /// What kind of thing it looks at: `component`, `datastore` or `system`, or a word of your own (`componentType`).
    #[must_use]
    pub fn component(mut self, kind: &str) -> Self {
        self.component = Some(kind.into());
        self
    }

    /// How long its result is kept. A second: what is asked more often does not run more often, and nobody acts on health faster.
    #[must_use]
    pub const fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// How long it may take until it has failed. A second, as long as a Kubernetes probe waits by default: who asks would not hear
    /// of what takes longer.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn run(&self) -> Finding {
        match tokio::time::timeout(self.timeout, unwound(&self.run)).await {
            Ok(finding) => finding,
            Err(_) => Finding::fail(format!("it gave no answer within {:?}", self.timeout)),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, id, component, critical, keep, timeout, run: _ } = self;
        let mut f = f.debug_struct("Check");
        f.field("name", name).field("id", id).field("component", component).field("critical", critical);
        f.field("keep", keep).field("timeout", timeout).finish_non_exhaustive()
    }
}

/// A check and what is kept of it.
#[derive(Debug)]
struct Entry {
    check: Check,
    kept: Mutex<Option<Kept>>,
    /// Held by whoever runs the check. Who waits for it finds the result, or runs the check itself if the one before has left.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Kept {
    finding: Finding,
    /// The how-manieth run it was.
    run: u64,
    at: Instant,
    /// Since 1970.
    time: Duration,
}

impl Entry {
    fn new(check: Check) -> Self {
        Self { check, kept: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    fn kept(&self) -> Option<Kept> {
        lock(&self.kept).clone()
    }

    /// The kept result if it is fresh, that of the run that is under way if there is one, or that of a run now.
    async fn ask(&self) -> Kept {
        let asked = self.kept();
        if let Some(kept) = asked.as_ref().filter(|kept| self.is_fresh(kept)) {
            return kept.clone();
        }
        let before = asked.map_or(0, |kept| kept.run);
        let _turn = self.turn.lock().await;
        // Even if it is to be kept for no time at all: it ended after we asked.
        if let Some(kept) = self.kept().filter(|kept| kept.run > before) {
            return kept;
        }
        let finding = self.check.run().await;
        let kept = Kept { finding, run: before + 1, at: clock::now(), time: clock::wall() };
        *lock(&self.kept) = Some(kept.clone());
        kept
    }

    fn is_fresh(&self, kept: &Kept) -> bool {
        clock::now().since(kept.at) < self.check.keep
    }

    fn report(&self, finding: Finding, time: Option<Duration>) -> CheckReport {
        CheckReport {
            name: self.check.name.clone(),
            id: self.check.id.clone(),
            component: self.check.component.clone(),
            critical: self.check.critical,
            finding,
            time,
        }
    }
}

/// Runs a check whose panic is its failure.
async fn unwound(run: &(dyn Fn() -> Running + Send + Sync)) -> Finding {
    let panicked = |payload: Box<dyn std::any::Any + Send>| {
        Finding::fail(format!("the check panicked: {}", message(&*payload)))
    };
    let mut running = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(running) => running,
        Err(payload) => return panicked(payload),
    };
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx)));
        polled.unwrap_or_else(|payload| Poll::Ready(panicked(payload)))
    })
    .await
}

/// Waits for all of them, in their order.
async fn all(mut waiting: Vec<Telling>) -> Vec<Told> {
    let mut told: Vec<Option<Told>> = waiting.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (one, told) in waiting.iter_mut().zip(&mut told).filter(|(_, told)| told.is_none()) {
            if let Poll::Ready(done) = one.as_mut().poll(cx) {
                *told = Some(done);
            }
        }
        if told.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    told.into_iter().flatten().collect()
}

/// Locks `mutex`. Each change under these locks is one step, so what a panic leaves behind is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See [`Check::keep`].
const KEEP: Duration = Duration::from_secs(1);
/// See [`Check::timeout`].
const TIMEOUT: Duration = Duration::from_secs(1);
