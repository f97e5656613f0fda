//! The standard pipeline: every policy of a call in its one order.
//!
//! ```text
//! limit -> bulkhead -> call (deadline, retry + budget, hedge + budget) -> per attempt: breaker -> timeout -> the service
//! ```
//!
//! Outermost is what refuses most cheaply. A rejection by limit or bulkhead is ours and tells nothing about the service,
//! so it stays outside of everything that learns; the breaker stands inside the retries, where it sees every attempt.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use seaworthy_core::call::{self, Plan, Repeat, Start};
use seaworthy_core::gate::{breaker, bulkhead, limit};
use seaworthy_core::record::RecordedCall;
use seaworthy_core::{Fault, Instant, Mode, Outcome, Rejection, Rng, Seeded, Valid, Why};

use crate::classify::{Classify, Plain};
use crate::clock;
use crate::drive::{Attempts, Drive};
use crate::event::{Event, Events, Happening};
use crate::recorder::Recorder;
use crate::shared::breaker::Ticket;
use crate::shared::bulkhead::Acquire;
use crate::shared::{Breaker, Bulkhead, Commons, Limit};

/// All policies of the calls to one service. Cloning it is cheap and shares its state.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use seaworthy::Pipeline;
///
/// let pipeline = Pipeline::new("prices");
/// let answer = pipeline.call(|_attempt| async { Ok::<_, std::io::Error>(42) }).await;
/// assert_eq!(answer.unwrap(), 42);
/// # });
/// ```
#[derive(Clone)]
pub struct Pipeline {
    inner: Arc<Inner>,
}

/// The numbers of a [`Pipeline`]; the defaults suit most services.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// Deadline, timeout, retry, budget and hedge. Its `fallback` is without effect: whoever makes the call holds the answer to give
    /// instead, and the result says when.
    pub call: call::Config,
    /// The breaker around each attempt.
    pub breaker: breaker::Config,
    /// The most calls in flight.
    pub limit: limit::Config,
    /// Bounded waiting for a place, off by default.
    pub bulkhead: Option<bulkhead::Config>,
    /// Where the randomness of jitter comes from; the same seed makes the same draws. By default another one each time, or all
    /// the processes that lost the same service would come back to it together.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            call: call::Config::default(),
            breaker: breaker::Config::default(),
            limit: limit::Config::default(),
            bulkhead: None,
            seed: arbitrary_seed(),
        }
    }
}

impl Pipeline {
    /// A pipeline with every default policy on. `name` appears in its events and snapshots.
    ///
    /// # Panics
    /// Never: the defaults satisfy their own rules, which a test confirms.
    #[must_use]
    pub fn new(name: &str) -> Self {
        match Self::with(name, Config::default()) {
            Ok(pipeline) => pipeline,
            Err(faults) => unreachable!("the defaults are valid: {faults:?}"),
        }
    }

    /// A pipeline with the numbers of `config`.
    ///
    /// # Errors
    /// Everything that is wrong with `config`, at once.
    pub fn with(name: &str, config: Config) -> Result<Self, Vec<Fault>> {
        Self::build(name, config, false)
    }

    /// As [`with`](Self::with), and writes down every input and every decision of its calls and its breaker, for
    /// [`replay`](seaworthy_core::record::replay) on any desk. It costs about a microsecond and some hundred bytes a call,
    /// which are kept until they are [taken](Self::take_recording).
    ///
    /// # Errors
    /// Everything that is wrong with `config`, at once.
    pub fn recorded(name: &str, config: Config) -> Result<Self, Vec<Fault>> {
        Self::build(name, config, true)
    }

    /// Takes what was recorded since the last time: the breaker's decisions until now, and the calls that have ended. `None`
    /// if nothing is recorded.
    #[must_use]
    pub fn take_recording(&self) -> Option<String> {
        let recorder = self.inner.recorder.as_ref()?;
        recorder.keep(&self.inner.breaker.take_recording());
        Some(recorder.take())
    }

    fn build(name: &str, config: Config, recorded: bool) -> Result<Self, Vec<Fault>> {
        let parts = Parts::new(config)?;
        let inner = Inner {
            name: name.into(),
            limit: Limit::new(parts.limit),
            bulkhead: parts.bulkhead.map(Bulkhead::new).map_or_else(OnceLock::new, OnceLock::from),
            breaker: Breaker::recorded(parts.breaker, config.seed, recorded.then_some(Recorder::BREAKER)),
            commons: Commons::new(parts.call),
            plan: ArcSwap::from_pointee(Plan::new(&parts.call)),
            seed: config.seed,
            events: Events::new(),
            recorder: recorded.then(|| Recorder::new(parts.call)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes a call: `attempt` is called once for each attempt, and may be called again after a failure or, if hedging is
    /// on, while the one before is slow. So it should do something that may be done twice; if it is not, use
    /// [`call_once`](Self::call_once).
    ///
    /// `Err` counts as a failure; see [`call_as`](Self::call_as) for other meanings.
    ///
    /// # Errors
    /// The last attempt's error, a timeout, or our own refusal, each with its record.
    pub fn call<A: Attempts>(&self, attempt: A) -> Drive<&Inner, A, Plain> {
        self.call_as(Repeat::Safe, Plain, attempt)
    }

    /// Makes a call whose work must not be done twice: no retry, no hedge; every other policy holds.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_once<A: Attempts>(&self, attempt: A) -> Drive<&Inner, A, Plain> {
        self.call_as(Repeat::Never, Plain, attempt)
    }

    /// Makes a call whose results mean what `classify` says and which may be repeated as `repeat` says.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_as<A, C>(&self, repeat: Repeat, classify: C, attempt: A) -> Drive<&Inner, A, C>
    where
        A: Attempts,
        C: Classify<A::Ok, A::Err>,
    {
        Drive::new(&*self.inner, repeat, attempt, classify)
    }

    pub(crate) fn call_owned<A, C>(&self, repeat: Repeat, classify: C, attempt: A) -> Drive<Arc<Inner>, A, C>
    where
        A: Attempts,
        C: Classify<A::Ok, A::Err>,
    {
        Drive::new(self.inner.clone(), repeat, attempt, classify)
    }

    /// The name it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Takes new numbers and keeps what was learned: a new threshold applies to the old window. Without numbers for a bulkhead it
    /// is switched off. The seed stays as it was.
    ///
    /// # Errors
    /// Everything that is wrong with `config`, at once; the old numbers then stay in force.
    pub fn reconfigure(&self, config: Config) -> Result<(), Vec<Fault>> {
        let parts = Parts::new(config)?;
        let now = clock::now();
        self.inner.limit.reconfigure(parts.limit);
        self.inner.reconfigure_bulkhead(now, parts.bulkhead);
        self.inner.breaker.reconfigure(now, parts.breaker);
        self.inner.commons.reconfigure(now, parts.call);
        if let Some(recorder) = &self.inner.recorder {
            recorder.reconfigure(parts.call);
        }
        self.inner.plan.store(Arc::new(Plan::new(&parts.call)));
        Ok(())
    }

    /// Forces the breaker open or closed until it is told otherwise (`None`).
    pub fn force(&self, force: Option<breaker::Force>) {
        let now = clock::now();
        self.inner.changed(now, self.inner.breaker.force(now, force));
    }

    /// What happens from now on, except good news: a bounded channel, in which a slow reader misses the oldest.
    #[must_use]
    pub fn events(&self) -> tokio::sync::broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Whether there is another handle of it, as there is while it makes a call.
    pub(crate) fn is_held(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    /// The state of every policy.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = clock::now();
        Snapshot {
            limit: self.inner.limit.snapshot(),
            bulkhead: self.inner.bulkhead.get().map(|b| b.snapshot(now)),
            breaker: self.inner.breaker.snapshot(now),
            call: self.inner.commons.snapshot(now),
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// The state of a [`Pipeline`]'s policies at a moment.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The limit.
    pub limit: limit::Snapshot,
    /// The bulkhead, if there is one.
    pub bulkhead: Option<bulkhead::Snapshot>,
    /// The breaker.
    pub breaker: breaker::Snapshot,
    /// What was learned, and the budgets.
    pub call: call::Snapshot,
}

/// The parts of a configuration that was checked whole.
struct Parts {
    call: Valid<call::Config>,
    breaker: Valid<breaker::Config>,
    limit: Valid<limit::Config>,
    bulkhead: Option<Valid<bulkhead::Config>>,
}

impl Parts {
    fn new(config: Config) -> Result<Self, Vec<Fault>> {
        let call = Valid::new(call::Config { fallback: false, ..config.call });
        let breaker = Valid::new(config.breaker);
        let limit = Valid::new(config.limit);
        let bulkhead = config.bulkhead.map(Valid::new).transpose();
        match (call, breaker, limit, bulkhead) {
            (Ok(call), Ok(breaker), Ok(limit), Ok(bulkhead)) => Ok(Self { call, breaker, limit, bulkhead }),
            (call, breaker, limit, bulkhead) => {
                let faults = [call.err(), breaker.err(), limit.err(), bulkhead.err()];
                Err(faults.into_iter().flatten().flatten().collect())
            }
        }
    }
}

/// What the calls of a pipeline share.
#[doc(hidden)]
pub struct Inner {
    name: Arc<str>,
    limit: Limit,
    /// Made when it is first asked for.
    bulkhead: OnceLock<Bulkhead>,
    pub(crate) breaker: Breaker,
    pub(crate) commons: Commons,
    plan: ArcSwap<Plan>,
    seed: u64,
    events: Events,
    recorder: Option<Recorder>,
}

impl Inner {
    pub(crate) fn start(&self, now: Instant, start: Start) -> RecordedCall {
        let start = Start { seed: self.seed(now), ..start };
        match &self.recorder {
            None => RecordedCall::start(**self.plan.load(), now, start, &mut &self.commons, None),
            Some(recorder) => {
                let (plan, tape) = recorder.call();
                RecordedCall::start(plan, now, start, &mut &self.commons, Some(tape))
            }
        }
    }

    /// When a call that began at `began` must be over; [`Instant::FAR`] if never.
    pub(crate) fn deadline(&self, began: Instant, theirs: Option<Instant>) -> Instant {
        let own = self.plan.load().deadline().map_or(Instant::FAR, |within| began.plus(within));
        theirs.map_or(own, |theirs| theirs.min(own))
    }

    fn reconfigure_bulkhead(&self, now: Instant, config: Option<Valid<bulkhead::Config>>) {
        let there = self.bulkhead.get();
        let off = || {
            let off = bulkhead::Config { mode: Mode::Off, ..bulkhead::Config::default() };
            there.and_then(|_| Valid::new(off).ok())
        };
        let Some(config) = config.or_else(off) else { return };
        self.bulkhead.get_or_init(|| Bulkhead::new(config)).reconfigure(now, config);
    }

    /// Keeps what was recorded of a call that is over.
    pub(crate) fn keep(&self, call: &mut RecordedCall) {
        if let Some(recorder) = &self.recorder {
            recorder.keep(&call.take());
        }
    }

    /// A seed for a call that starts at `now`: from the pipeline's own and the moment, which no two threads have to
    /// share.
    const fn seed(&self, now: Instant) -> u64 {
        self.seed ^ now.as_nanos()
    }

    pub(crate) fn admit(&self, now: Instant) -> Result<Ticket, Rejection> {
        let (admitted, change) = self.breaker.admit_telling(now);
        self.changed(now, change);
        admitted
    }

    pub(crate) fn settle(&self, now: Instant, ticket: Ticket, outcome: Outcome) {
        self.changed(now, self.breaker.settle(now, ticket, outcome));
    }

    pub(crate) fn changed(&self, now: Instant, change: Option<breaker::Change>) {
        if let Some(change) = change {
            self.events.tell(&self.name, now, || Happening::Breaker(change));
        }
    }

    pub(crate) fn rejected(&self, now: Instant, rejection: Rejection) {
        self.events.tell(&self.name, now, || Happening::Rejected(rejection));
    }

    pub(crate) fn told(&self, now: Instant, why: &Why) {
        if !why.is_empty() {
            self.events.tell(&self.name, now, || Happening::Call(why.clone()));
        }
    }

    /// Gives back what a call held.
    pub(crate) fn leave(&self, now: Instant, entry: Option<Entry>) {
        let Some(entry) = entry else { return };
        if let (Some(bulkhead), Some(ticket)) = (self.bulkhead.get(), entry.place) {
            bulkhead.settle(now, ticket);
        }
        self.limit.release(entry.permit);
    }
}

/// What a call holds while it runs.
pub(crate) struct Entry {
    permit: limit::Permit,
    place: Option<bulkhead::Ticket>,
}

impl Entry {
    /// What would have been refused in observe-only mode.
    pub(crate) fn shadows(&self) -> [Option<Rejection>; 2] {
        [self.permit.shadow(), self.place.as_ref().and_then(bulkhead::Ticket::shadow)]
    }
}

/// A call on its way in.
pub(crate) struct Entering {
    permit: Option<limit::Permit>,
    waiting: Option<Acquire>,
}

impl Entering {
    pub(crate) const fn new() -> Self {
        Self { permit: None, waiting: None }
    }

    pub(crate) fn poll(
        &mut self,
        inner: &Inner,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Entry, Rejection>> {
        let permit = match self.permit.take() {
            Some(permit) => permit,
            None => match inner.limit.admit(now) {
                Ok(permit) => permit,
                Err(rejection) => {
                    inner.rejected(now, rejection);
                    return Poll::Ready(Err(rejection));
                }
            },
        };
        let Some(bulkhead) = inner.bulkhead.get() else {
            return Poll::Ready(Ok(Entry { permit, place: None }));
        };
        let waiting = self.waiting.get_or_insert_with(Acquire::new);
        match waiting.poll(bulkhead, now, cx) {
            Poll::Pending => {
                self.permit = Some(permit);
                Poll::Pending
            }
            Poll::Ready(Ok(ticket)) => Poll::Ready(Ok(Entry { permit, place: Some(ticket) })),
            Poll::Ready(Err(rejection)) => {
                inner.limit.release(permit);
                inner.rejected(now, rejection);
                Poll::Ready(Err(rejection))
            }
        }
    }

    /// The caller went away on the way in.
    pub(crate) fn leave(&mut self, inner: &Inner) {
        if let (Some(bulkhead), Some(waiting)) = (inner.bulkhead.get(), self.waiting.take()) {
            waiting.leave(bulkhead, clock::now());
        }
        if let Some(permit) = self.permit.take() {
            inner.limit.release(permit);
        }
    }
}

/// A seed that differs from process to process and from pipeline to pipeline.
pub(crate) fn arbitrary_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    Seeded::new(RandomState::new().hash_one(0)).next_u64()
}

/// The pipeline with one policy alone, for the layers that are a single policy.
pub(crate) fn off() -> Config {
    let mut config = Config::default();
    config.call.deadline = None;
    config.call.timeout.mode = Mode::Off;
    config.call.retry.mode = Mode::Off;
    config.call.hedge.mode = Mode::Off;
    config.breaker.mode = Mode::Off;
    config.limit.mode = Mode::Off;
    config
}
