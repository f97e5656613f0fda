//! The standard pipeline: every policy of a call in its one order.
//!
//! ```text
//! rate -> queue, limit -> bulkhead -> call (deadline, retry + budget, hedge + budget)
//!      -> per attempt: throttle -> breaker -> timeout -> the service
//! ```
//!
//! Outermost is what refuses most cheaply. A rejection by rate, queue, limit or bulkhead is ours and tells nothing about the
//! service, so it stays outside of everything that learns from the service; throttle and breaker stand inside the retries, where
//! they see every attempt.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use seaworthy_core::call::{self, Plan, Repeat, Start};
use seaworthy_core::gate::{breaker, bulkhead, limit, queue, rate, throttle};
use seaworthy_core::record::RecordedCall;
use seaworthy_core::{Criticality, Fault, Instant, Mode, Outcome, Rejection, Rng, Rules, Seeded, Valid, Why};

use crate::classify::{Classify, Plain};
use crate::clock;
use crate::drive::{Attempts, Drive};
use crate::entering::Entry;
use crate::event::{Event, Events, Happening};
use crate::recorder::Recorder;
use crate::shared::breaker::Ticket;
use crate::shared::{Breaker, Bulkhead, Commons, Door, Rate, Throttle};

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
    /// Calls that are not sent because the service refuses so many.
    pub throttle: throttle::Config,
    /// The most calls in flight.
    pub limit: limit::Config,
    /// Waiting before a full limit, the most critical first. Off by default, unlike in a proxy: the program that calls is told
    /// at once that there is no place, and can do something else instead, where a proxy's client could only come again.
    pub queue: queue::Config,
    /// The most calls of each client in a while. None by default: what is right, only the service knows.
    pub rate: Option<rate::Config>,
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
            throttle: throttle::Config::default(),
            limit: limit::Config::default(),
            queue: queue::Config { mode: Mode::Off, ..queue::Config::default() },
            rate: None,
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
            door: Door::new(parts.limit, parts.queue),
            queues: AtomicBool::new(parts.queues()),
            rate: parts.rate.map(Rate::new).map_or_else(OnceLock::new, OnceLock::from),
            throttle: Throttle::new(parts.throttle),
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

    /// Takes new numbers and keeps what was learned: a new threshold applies to the old window. Without numbers for a rate or a
    /// bulkhead it is switched off. The seed stays as it was.
    ///
    /// # Errors
    /// Everything that is wrong with `config`, at once; the old numbers then stay in force.
    pub fn reconfigure(&self, config: Config) -> Result<(), Vec<Fault>> {
        let parts = Parts::new(config)?;
        let now = clock::now();
        self.inner.queues.store(parts.queues(), Ordering::Relaxed);
        self.inner.door.reconfigure(now, parts.limit);
        self.inner.door.reconfigure_queue(now, parts.queue);
        self.inner.throttle.reconfigure(parts.throttle);
        self.inner.reconfigure_rate(parts.rate);
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

    /// Lowers the limit to a share of what it would be, such as [`Pressure::share`](seaworthy_core::gate::pressure::Pressure::share)
    /// says while the host has too much to do; 1 takes that back.
    pub fn press(&self, share: f64) {
        self.inner.door.press(clock::now(), share);
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
        let door = self.inner.door.snapshot(now);
        Snapshot {
            rate: self.inner.rate.get().map(|rate| rate.snapshot(now)),
            queue: door.queue,
            limit: door.limit,
            throttle: self.inner.throttle.snapshot(now),
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
    /// The rate, if there is one.
    pub rate: Option<rate::Snapshot>,
    /// Who waits before the limit.
    pub queue: queue::Snapshot,
    /// What is not sent.
    pub throttle: throttle::Snapshot,
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
    throttle: Valid<throttle::Config>,
    limit: Valid<limit::Config>,
    queue: Valid<queue::Config>,
    rate: Option<Valid<rate::Config>>,
    bulkhead: Option<Valid<bulkhead::Config>>,
}

impl Parts {
    fn new(config: Config) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let call = check(&mut faults, call::Config { fallback: false, ..config.call });
        let breaker = check(&mut faults, config.breaker);
        let throttle = check(&mut faults, config.throttle);
        let limit = check(&mut faults, config.limit);
        let queue = check(&mut faults, config.queue);
        let rate = config.rate.and_then(|rate| check(&mut faults, rate));
        let bulkhead = config.bulkhead.and_then(|bulkhead| check(&mut faults, bulkhead));
        match (call, breaker, throttle, limit, queue) {
            (Some(call), Some(breaker), Some(throttle), Some(limit), Some(queue)) if faults.is_empty() => {
                Ok(Self { call, breaker, throttle, limit, queue, rate, bulkhead })
            }
            _ => Err(faults),
        }
    }

    /// Whether calls may wait before the limit.
    fn queues(&self) -> bool {
        self.queue.mode == Mode::Enforce && self.queue.size > 0
    }
}

/// The numbers, if they obey their rules; else their faults are with the others.
fn check<C: Rules>(faults: &mut Vec<Fault>, config: C) -> Option<Valid<C>> {
    Valid::new(config).map_err(|more| faults.extend(more)).ok()
}

/// What the calls of a pipeline share.
#[doc(hidden)]
pub struct Inner {
    name: Arc<str>,
    /// Made when it is first asked for, as is the bulkhead.
    pub(crate) rate: OnceLock<Rate>,
    pub(crate) door: Door,
    /// Whether calls may wait at the door.
    queues: AtomicBool,
    pub(crate) bulkhead: OnceLock<Bulkhead>,
    throttle: Throttle,
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

    /// When it is too late to begin: what takes as long as calls typically do would end after its deadline. Found out only where
    /// a call may wait so long.
    pub(crate) fn latest_start(&self, now: Instant, deadline: impl FnOnce() -> Instant) -> Option<Instant> {
        if !self.queues.load(Ordering::Relaxed) {
            return None;
        }
        let deadline = Some(deadline()).filter(|deadline| *deadline < Instant::FAR)?;
        Some(deadline.minus(self.commons.learned(now).typical.unwrap_or_default()))
    }

    fn reconfigure_rate(&self, config: Option<Valid<rate::Config>>) {
        let off = || {
            let off = rate::Config { mode: Mode::Off, ..rate::Config::default() };
            self.rate.get().and_then(|_| Valid::new(off).ok())
        };
        let Some(config) = config.or_else(off) else { return };
        self.rate.get_or_init(|| Rate::new(config)).reconfigure(config);
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

    /// May an attempt be sent? What the throttle would have refused, in observe-only mode, comes with the ticket.
    pub(crate) fn admit(
        &self,
        now: Instant,
        criticality: Criticality,
    ) -> Result<(Ticket, Option<Rejection>), Rejection> {
        let shadow = self.throttle.admit(now, criticality)?;
        let (admitted, change) = self.breaker.admit_telling(now);
        self.changed(now, change);
        Ok((admitted?, shadow))
    }

    /// An attempt has ended.
    pub(crate) fn settle(&self, now: Instant, criticality: Criticality, ticket: Ticket, outcome: Outcome) {
        self.throttle.settle(now, criticality, outcome);
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

    /// Gives back what a call held. The limit learns from how it ended, and from how long it took since it was let in.
    pub(crate) fn leave(&self, now: Instant, entry: Option<Entry>, outcome: Outcome) {
        let Some(Entry { permit, place, since }) = entry else { return };
        if let (Some(bulkhead), Some(ticket)) = (self.bulkhead.get(), place) {
            bulkhead.settle(now, ticket);
        }
        self.door.settle(now, permit, outcome, now.since(since));
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
    config.throttle.mode = Mode::Off;
    config.limit.mode = Mode::Off;
    config
}
