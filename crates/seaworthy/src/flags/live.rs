//! Flags that are live while they can be, and fall back while they can't.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use open_feature::provider::ProviderMetadata;
use seaworthy_core::call::{self, Repeat, retry, timeout};
use seaworthy_core::gate::breaker;
use seaworthy_core::{Failure, Fault, Instant, Outcome, Pushback};
use serde_json::{Map, Value};

use super::answer::{Answer, Trouble};
use super::context::Fingerprint;
use super::keep::{self, Keeper, Notice};
use super::source::{All, Source};
use crate::clock;
use crate::error::Error;
use crate::panic::message;
use crate::pipeline::{self, Pipeline};

/// Feature flags: live, else last-known-good, else declared. Cloning it is cheap and shares everything. See the
/// [module](super).
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use seaworthy::flags::{Flags, OfrepClient};
/// use serde_json::json;
///
/// let flags = Flags::of(OfrepClient::new("http://localhost:8016")?)
///     .declare("new-checkout", false)
///     .keep_in("/var/lib/shop/flags")
///     .on_notice(|notice| eprintln!("{notice}"))
///     .build()
///     .map_err(|faults| format!("{faults:?}"))?;
///
/// let checkout = flags.evaluate("new-checkout", &json!({"targetingKey": "anna"})).await;
/// println!("{:?}, {}", checkout.value, checkout.origin);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Flags {
    inner: Arc<Inner>,
}

/// What [`Flags`] are made of.
pub struct Builder {
    source: Box<dyn Source>,
    name: String,
    declared: BTreeMap<String, Value>,
    keeper: keep::Config,
    patience: Duration,
    tell: Box<dyn Fn(&Notice) + Send + Sync>,
}

impl Builder {
    /// Declares the conservative value of a flag, for when nobody knows better: what the program does should hold then for
    /// everybody, without the new and the risky.
    #[must_use]
    pub fn declare(mut self, flag: &str, value: impl Into<Value>) -> Self {
        self.declared.insert(flag.to_owned(), value.into());
        self
    }

    /// Keeps the last-known-good values in `file`, so that a restart does not forget them. One process a file.
    #[must_use]
    pub fn keep_in(mut self, file: impl Into<PathBuf>) -> Self {
        self.keeper.file = Some(file.into());
        self
    }

    /// How much is kept, and where.
    #[must_use]
    pub fn keeper(mut self, config: keep::Config) -> Self {
        self.keeper = config;
        self
    }

    /// How long an evaluation waits for the service, retries included. Half a second: a service nearby answers in
    /// milliseconds, and what waits for the flag is a user's request. (OFREP's guideline says 10 s, which is for programs that
    /// have nothing else to answer with.)
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The service's name in events; `flags` unless it is told.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Is told what happens to the file. Without it, nobody is: a program that logs should log this.
    #[must_use]
    pub fn on_notice(mut self, tell: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.tell = Box::new(tell);
        self
    }

    /// Reads the file and is ready. The service is not asked yet.
    ///
    /// # Errors
    /// If the patience is zero.
    pub fn build(self) -> Result<Flags, Vec<Fault>> {
        let pipeline = Pipeline::with(&self.name, policies(self.patience))?;
        let inner = Inner {
            source: self.source,
            metadata: ProviderMetadata::new(format!("seaworthy ({})", self.name)),
            pipeline,
            keeper: Keeper::open(self.keeper, self.tell),
            declared: self.declared,
            not_before: AtomicU64::new(0),
            tags: Mutex::default(),
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            troubles: AtomicU64::new(0),
        };
        Ok(Flags { inner: Arc::new(inner) })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source: _, name, declared, keeper, patience, tell: _ } = self;
        let mut f = f.debug_struct("Builder");
        f.field("name", name).field("declared", declared).field("keeper", keeper).field("patience", patience);
        f.finish_non_exhaustive()
    }
}

/// The policies of the calls to the service.
fn policies(patience: Duration) -> pipeline::Config {
    let defaults = call::Config::default();
    let timeout = timeout::Config {
        floor: defaults.timeout.floor.min(patience),
        ceiling: patience,
        initial: patience,
        ..defaults.timeout
    };
    pipeline::Config {
        call: call::Config {
            deadline: Some(patience),
            timeout,
            // Once: a connection that was closed meanwhile is the usual reason, and the answer is wanted soon.
            retry: retry::Config { attempts: 2, base: Duration::from_millis(10), ..defaults.retry },
            ..defaults
        },
        // There is something else to answer with, so that it can be tried early whether the service is back; and users
        // should not be answered from memory for a minute longer than need be.
        breaker: breaker::Config {
            open_for: Duration::from_secs(1),
            open_at_most: Duration::from_secs(10),
            ..breaker::Config::default()
        },
        ..pipeline::Config::default()
    }
}

/// The value of a flag, and where it comes from.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Evaluation {
    /// The value; `None` if there is nothing to go by and the caller decides.
    pub value: Option<Value>,
    /// The variant's name, if it has one.
    pub variant: Option<String>,
    /// What else the service tells of it.
    pub metadata: Map<String, Value>,
    /// Where it comes from.
    pub origin: Origin,
    /// Why it is not live.
    pub trouble: Option<Trouble>,
}

impl Evaluation {
    /// OpenFeature's reason: the service's own for a live value, `STALE`, `DEFAULT` or `ERROR`.
    #[must_use]
    pub fn reason(&self) -> &str {
        match &self.origin {
            Origin::Live { reason } => reason.as_deref().unwrap_or("UNKNOWN"),
            Origin::LastKnownGood { .. } => super::ofrep::STALE,
            Origin::Declared => super::ofrep::DEFAULT,
            Origin::Nowhere => "ERROR",
        }
    }
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Origin {
    /// The service has just said so.
    Live {
        /// Why it is this value, if it told.
        reason: Option<String>,
    },
    /// The service said so last for this context.
    LastKnownGood {
        /// How long ago.
        age: Duration,
    },
    /// The program declared it.
    Declared,
    /// There is no value.
    Nowhere,
}

impl Origin {
    /// A word for it in metrics and metadata.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Live { .. } => "live",
            Self::LastKnownGood { .. } => "last-known-good",
            Self::Declared => "declared",
            Self::Nowhere => "nowhere",
        }
    }

    const fn index(&self) -> usize {
        match self {
            Self::Live { .. } => 0,
            Self::LastKnownGood { .. } => 1,
            Self::Declared => 2,
            Self::Nowhere => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LastKnownGood { age } => write!(f, "last-known-good, {} s old", age.as_secs()),
            other => f.write_str(other.name()),
        }
    }
}

/// The state of [`Flags`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct State {
    /// The service answered when it was last due to; `true` before it was first asked.
    pub live: bool,
    /// Evaluations that were live ...
    pub from_service: u64,
    /// ... last-known-good ...
    pub from_memory: u64,
    /// ... declared ...
    pub from_declared: u64,
    /// ... and without a value.
    pub from_nowhere: u64,
    /// What is kept.
    pub keeper: keep::Snapshot,
}

impl Flags {
    /// Flags of `source`, to be given defaults and a file and then [built](Builder::build).
    #[must_use]
    pub fn of(source: impl Source) -> Builder {
        Builder {
            source: Box::new(source),
            name: "flags".into(),
            declared: BTreeMap::new(),
            keeper: keep::Config::default(),
            patience: PATIENCE,
            tell: Box::new(|_| ()),
        }
    }

    /// The value of `flag` for `context`: an object, whose member `targetingKey` says whom it is about, or `null`.
    ///
    /// It neither fails nor panics, and takes no longer than the [patience](Builder::patience).
    pub async fn evaluate(&self, flag: &str, context: &Value) -> Evaluation {
        self.evaluate_as(flag, context, |_| true).await
    }

    /// The same, of values that `fits` accepts. A live value that it does not accept is not replaced by an older one.
    pub(super) async fn evaluate_as(
        &self,
        flag: &str,
        context: &Value,
        fits: impl Fn(&Value) -> bool + Send + Sync,
    ) -> Evaluation {
        let source = &self.inner.source;
        let said = self.inner.ask(|| source.evaluate(flag, context)).await;
        let fingerprint = Fingerprint::of(context);
        self.inner.learn(flag, fingerprint, &said);
        let trouble = match said {
            Ok(Answer { value: Some(value), variant, reason, metadata }) if fits(&value) => {
                let origin = Origin::Live { reason };
                return self.counted(Evaluation {
                    value: Some(value),
                    variant,
                    metadata,
                    origin,
                    trouble: None,
                });
            }
            Ok(Answer { value: Some(_), .. }) => Some(Trouble::OtherType),
            // The service leaves it to the code, which has declared what it wants then.
            Ok(_) => None,
            Err(trouble) => Some(trouble),
        };
        let is_answer = trouble.as_ref().is_none_or(Trouble::is_an_answer);
        let known = if is_answer { None } else { self.inner.last(flag, fingerprint, &fits) };
        self.counted(Evaluation { trouble, ..known.unwrap_or_else(|| self.declared(flag, &fits)) })
    }

    /// The evaluation of a flag for a context that can't be told to anybody.
    pub(super) fn evaluate_without(
        &self,
        flag: &str,
        trouble: Trouble,
        fits: impl Fn(&Value) -> bool,
    ) -> Evaluation {
        self.counted(Evaluation { trouble: Some(trouble), ..self.declared(flag, fits) })
    }

    /// Learns at once what all flags are for `context`, so that also those are known in an outage that were never evaluated.
    /// How many flags there are.
    ///
    /// Worth it at the start and then every few minutes, for the contexts that matter; what has not changed costs an empty answer.
    ///
    /// # Errors
    /// Why the service did not say; what was known stays.
    pub async fn refresh(&self, context: &Value) -> Result<usize, Trouble> {
        let fingerprint = Fingerprint::of(context);
        let known = self.inner.keeper.last_of_all(clock::wall(), fingerprint).len();
        // What nobody remembers can't be unchanged.
        let tag = if known > 0 { self.inner.tags().get(&fingerprint).cloned() } else { None };
        let source = &self.inner.source;
        match self.inner.ask(|| source.evaluate_all(context, tag.as_deref())).await? {
            All::Unchanged => {
                self.inner.keeper.confirm(clock::wall(), fingerprint);
                Ok(known)
            }
            All::Changed { tag, flags } => {
                let count = flags.len();
                self.inner.learn_all(fingerprint, flags);
                self.inner.remember(fingerprint, tag);
                Ok(count)
            }
        }
    }

    /// Writes the file now if it is not up to date, and blocks until it is written, for at most `within`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn flush(&self, within: Duration) -> Result<(), keep::NotWritten> {
        self.inner.keeper.flush(within)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        let count = |index: usize| self.inner.counts[index].load(Ordering::Relaxed);
        State {
            live: self.is_live(),
            from_service: count(0),
            from_memory: count(1),
            from_declared: count(2),
            from_nowhere: count(3),
            keeper: self.inner.keeper.snapshot(),
        }
    }

    /// The policies of the calls to the service.
    #[must_use]
    pub fn pipeline(&self) -> &Pipeline {
        &self.inner.pipeline
    }

    pub(super) fn is_live(&self) -> bool {
        self.inner.troubles.load(Ordering::Relaxed) == 0
    }

    pub(super) fn provider_metadata(&self) -> &ProviderMetadata {
        &self.inner.metadata
    }

    fn declared(&self, flag: &str, fits: impl Fn(&Value) -> bool) -> Evaluation {
        let value = self.inner.declared.get(flag).filter(|value| fits(value)).cloned();
        let origin = if value.is_some() { Origin::Declared } else { Origin::Nowhere };
        Evaluation { value, variant: None, metadata: Map::new(), origin, trouble: None }
    }

    fn counted(&self, evaluation: Evaluation) -> Evaluation {
        self.inner.counts[evaluation.origin.index()].fetch_add(1, Ordering::Relaxed);
        evaluation
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.inner;
        f.debug_struct("Flags")
            .field("declared", &inner.declared)
            .field("keeper", &inner.keeper)
            .finish_non_exhaustive()
    }
}

/// A source that is being asked.
type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + Send + 'a>>;

struct Inner {
    source: Box<dyn Source>,
    metadata: ProviderMetadata,
    pipeline: Pipeline,
    keeper: Keeper,
    declared: BTreeMap<String, Value>,
    /// The service wants to be left alone until then, in nanoseconds of the [`clock`].
    not_before: AtomicU64,
    /// What the service called its last answer about all flags.
    tags: Mutex<HashMap<Fingerprint, String>>,
    /// Evaluations by origin.
    counts: [AtomicU64; 4],
    /// Calls of the service that failed, since the last that did not.
    troubles: AtomicU64,
}

impl Inner {
    /// Asks the service, through its policies.
    async fn ask<'a, T: Send>(&self, ask: impl Fn() -> Asking<'a, T> + Send + Sync) -> Result<T, Trouble> {
        let result = self.ask_if_due(ask).await;
        match &result {
            Err(trouble) if !trouble.is_an_answer() => self.troubles.fetch_add(1, Ordering::Relaxed),
            _ => self.troubles.swap(0, Ordering::Relaxed),
        };
        result
    }

    async fn ask_if_due<'a, T: Send>(
        &self,
        ask: impl Fn() -> Asking<'a, T> + Send + Sync,
    ) -> Result<T, Trouble> {
        let due = Instant::from_nanos(self.not_before.load(Ordering::Relaxed));
        if clock::now() < due {
            return Err(Trouble::NotAsked("it asked to be left alone for a while".into()));
        }
        let called = self.pipeline.call_as(Repeat::Safe, classify, |_attempt| unwound(&ask)).await;
        match called {
            Ok(said) => Ok(said),
            Err(Error::Rejected { rejection, .. }) => Err(Trouble::NotAsked(rejection.to_string())),
            Err(Error::TimedOut { .. }) => Err(Trouble::TimedOut),
            Err(Error::Service { error, .. }) => {
                if let Trouble::RateLimited { retry_after: Some(wait) } = error {
                    let until = clock::now().plus(wait.min(LONGEST_REST));
                    self.not_before.fetch_max(until.as_nanos(), Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }

    fn learn(&self, flag: &str, context: Fingerprint, said: &Result<Answer, Trouble>) {
        match said {
            Ok(answer) => self.keeper.learn(clock::wall(), flag, context, answer),
            Err(Trouble::NotFound) => self.keeper.forget(flag, context),
            Err(_) => {}
        }
    }

    fn learn_all(&self, context: Fingerprint, flags: super::ofrep::OfAll) {
        let (mut answers, mut failed) = (Vec::new(), Vec::new());
        for (flag, said) in flags {
            match said {
                Ok(answer) => answers.push((flag, answer)),
                Err(Trouble::NotFound) => {}
                Err(_) => failed.push(flag),
            }
        }
        self.keeper
            .learn_all(clock::wall(), context, &answers, |flag| failed.iter().any(|failed| failed == flag));
    }

    fn remember(&self, context: Fingerprint, tag: Option<String>) {
        let mut tags = self.tags();
        match tag {
            Some(tag) => {
                // Without its tag, an answer is longer, and nothing else.
                if tags.len() >= MOST_TAGS {
                    tags.clear();
                }
                tags.insert(context, tag);
            }
            None => drop(tags.remove(&context)),
        }
    }

    /// What is known about `flag`, if it fits.
    fn last(&self, flag: &str, context: Fingerprint, fits: impl Fn(&Value) -> bool) -> Option<Evaluation> {
        let now = clock::wall();
        let good = self.keeper.last(now, flag, context).filter(|good| fits(&good.value))?;
        Some(Evaluation {
            value: Some(good.value.clone()),
            variant: good.variant.clone(),
            metadata: good.metadata.clone(),
            origin: Origin::LastKnownGood { age: good.age(now) },
            trouble: None,
        })
    }

    /// A tag is one step, so what a panic leaves behind is whole.
    fn tags(&self) -> MutexGuard<'_, HashMap<Fingerprint, String>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an answer means for the policies.
fn classify<T>(result: Result<&T, &Trouble>) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(trouble) if trouble.is_an_answer() => Outcome::Success,
        // It works; asking again would change nothing, and neither would leaving it alone.
        Err(Trouble::Failed { .. } | Trouble::Unauthorized(_)) => Outcome::Ignored,
        Err(Trouble::RateLimited { retry_after }) => {
            // Not even now: there is something to answer with.
            Outcome::Overloaded(retry_after.map_or(Pushback::Never, Pushback::After))
        }
        Err(Trouble::Unreachable(_)) => Outcome::failed(Failure::Broken),
        Err(_) => Outcome::failed(Failure::Error),
    }
}

/// Asks a source whose panic is its failure.
async fn unwound<'a, T>(ask: &(impl Fn() -> Asking<'a, T> + Sync)) -> Result<T, Trouble> {
    let panicked = |payload: Box<dyn std::any::Any + Send>| Err(Trouble::Panicked(message(&*payload)));
    let mut asking = match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(asking) => asking,
        Err(payload) => return panicked(payload),
    };
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| asking.as_mut().poll(cx)));
        polled.unwrap_or_else(|payload| Poll::Ready(panicked(payload)))
    })
    .await
}

/// See [`Builder::patience`].
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest that a service is left alone because it said so; one that says "in a year" means something else.
const LONGEST_REST: Duration = Duration::from_secs(600);
/// Contexts whose answers' tags are remembered: more than are refreshed regularly.
const MOST_TAGS: usize = 1024;
