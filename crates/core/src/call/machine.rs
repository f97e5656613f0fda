//! The machine of one call.

use core::time::Duration;

use super::retry::Backoff;
use super::{Config, Extra, Repeat, Sample, Shared, fallback};
use crate::{Failure, Instant, Mode, Outcome, Policy, Pushback, Reason, Rejection, Seeded, Valid, What, Why};

/// What a [`Call`] needs to know of a [`Config`], ready for use; small enough to copy.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    deadline: Option<Duration>,
    /// No attempt is cut off sooner.
    shortest: Duration,
    /// No attempt lasts longer.
    longest: Duration,
    backoff: Backoff,
    attempts: u8,
    hedges: u8,
    most_pushback: Duration,
    timeout: Mode,
    retry: Mode,
    hedge: Mode,
    fallback: bool,
}

impl Plan {
    /// The plan that `config` describes.
    #[must_use]
    pub fn new(config: &Valid<Config>) -> Self {
        let retry = match Valid::new(config.retry) {
            Ok(valid) => valid,
            Err(_) => unreachable!("the faults of the parts are faults of the whole"),
        };
        Self {
            deadline: config.deadline,
            shortest: config.timeout.fixed.unwrap_or(config.timeout.floor),
            longest: config.timeout.fixed.unwrap_or(config.timeout.ceiling),
            backoff: Backoff::new(&retry),
            attempts: config.retry.attempts,
            hedges: if config.hedge.mode == Mode::Off { 0 } else { config.hedge.most },
            most_pushback: config.retry.most_pushback,
            timeout: config.timeout.mode,
            retry: config.retry.mode,
            hedge: config.hedge.mode,
            fallback: config.fallback,
        }
    }

    /// The longest time for the whole call.
    #[must_use]
    pub const fn deadline(&self) -> Option<Duration> {
        self.deadline
    }
}

/// What is particular to one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Start {
    /// The caller's own deadline; the earlier of this and the plan's counts.
    pub deadline: Option<Instant>,
    /// Whether the request may be sent more than once.
    pub repeat: Repeat,
    /// Where the call's randomness comes from.
    pub seed: u64,
}

/// What a driver tells a [`Call`]. Attempts are counted from 1 in the order of [`Action::Send`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A gate refused the attempt before anything was sent.
    Refused {
        /// The attempt.
        attempt: u8,
        /// The refusal.
        rejection: Rejection,
    },
    /// The head of an answer is there, and `outcome` is how it is classified.
    Head {
        /// The attempt.
        attempt: u8,
        /// Its outcome.
        outcome: Outcome,
    },
    /// The attempt ended without an answer.
    Ended {
        /// The attempt.
        attempt: u8,
        /// Its outcome.
        outcome: Outcome,
    },
    /// The request is still on its way to the upstream, or its caller keeps it waiting: the time of the attempts in flight
    /// begins anew, because until the upstream has it all, it owes no answer.
    Progress,
    /// The request can no longer be repeated (its body outgrew what is kept of it).
    CannotRepeat,
    /// The caller went away.
    CallerGone,
}

/// What a driver is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Start an attempt.
    Send {
        /// Its number, from 1.
        attempt: u8,
        /// What kind of attempt; a retry prefers another endpoint than those tried, a hedge insists on one.
        kind: Kind,
        /// When the machine will cancel it; `None` if never.
        due: Option<Instant>,
    },
    /// Drop what there is of the attempt: the request in flight, or an answer that is not used.
    Cancel {
        /// The attempt.
        attempt: u8,
        /// The reason, which is also how its gates settle ([`CancelWhy::outcome`]).
        why: CancelWhy,
    },
    /// Nothing to do before this moment (or ever, if `None`) unless something happens.
    Wait(Option<Instant>),
    /// The call is over. It is said once; what was not cancelled before is the answer's attempt alone.
    Finish(Finish),
}

/// The kinds of attempts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The first.
    First,
    /// One after a failure.
    Retry,
    /// One beside a slow attempt.
    Hedge,
}

impl Kind {
    /// The kind's name in metrics, logs and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
        }
    }

    const fn extra(self) -> Option<Extra> {
        match self {
            Self::First => None,
            Self::Retry => Some(Extra::Retry),
            Self::Hedge => Some(Extra::Hedge),
        }
    }
}

/// Why an attempt is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CancelWhy {
    /// It had its time.
    TimedOut,
    /// The call's deadline passed, and the attempt had lasted longer than nearly all do.
    DeadlinePassed,
    /// The call's deadline passed before the attempt had taken longer than usual: the caller was in a hurry, and the
    /// upstream is not to blame.
    DeadlineShort,
    /// Another attempt was faster.
    LostTheRace,
    /// It failed with an answer that another attempt may better; its gates were settled with its head.
    Superseded,
    /// The caller went away.
    CallerGone,
    /// The caller went away after the attempt had lasted longer than nearly all do: it gave up.
    GivenUp,
}

impl CancelWhy {
    /// How the gates of the attempt settle, if they have not yet.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::TimedOut | Self::DeadlinePassed | Self::GivenUp => Outcome::failed(Failure::Timeout),
            _ => Outcome::Abandoned,
        }
    }
}

/// How a call ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Finish {
    /// With this attempt's answer, good or bad.
    Answer {
        /// The attempt.
        attempt: u8,
        /// How its head was classified.
        outcome: Outcome,
    },
    /// With a failure that has no answer to pass on.
    Failed {
        /// The last attempt.
        attempt: u8,
        /// How it ended.
        outcome: Outcome,
    },
    /// With our own refusal.
    Rejected(Rejection),
    /// With the driver's fallback.
    Fallback,
    /// With nobody left to answer.
    Gone,
}

/// One call. Ask [`next_action`](Self::next_action) until it says `Wait` or `Finish`; after an event, or when the moment
/// has come, ask again.
///
/// ```
/// use seaworthy_core::call::{Action, Call, Commons, Config, Event, Finish, Kind, Plan, Repeat, Start};
/// use seaworthy_core::{Failure, Instant, Outcome, Valid};
///
/// let config = Valid::new(Config::default()).unwrap();
/// let mut shared = Commons::new(config);
/// let mut now = Instant::ZERO;
/// let start = Start { repeat: Repeat::Safe, ..Start::default() };
/// let mut call = Call::start(Plan::new(&config), now, start, &mut shared);
///
/// assert!(matches!(call.next_action(now, &mut shared), Action::Send { attempt: 1, kind: Kind::First, .. }));
/// call.on_event(now, Event::Ended { attempt: 1, outcome: Outcome::failed(Failure::Connect) }, &mut shared);
/// let Action::Wait(Some(backoff)) = call.next_action(now, &mut shared) else { panic!() };
/// now = backoff;
/// assert!(matches!(call.next_action(now, &mut shared), Action::Send { attempt: 2, kind: Kind::Retry, .. }));
/// call.on_event(now, Event::Head { attempt: 2, outcome: Outcome::Success }, &mut shared);
/// let finish = Finish::Answer { attempt: 2, outcome: Outcome::Success };
/// assert_eq!(call.next_action(now, &mut shared), Action::Finish(finish));
/// assert_eq!(call.why().notes().len(), 2); // it failed to connect, it was retried
/// ```
#[derive(Clone, Debug)]
pub struct Call {
    plan: Plan,
    rng: Seeded,
    started: Instant,
    /// [`Instant::FAR`] if there is none.
    deadline: Instant,
    repeat: Repeat,
    /// Why it can't be repeated, where it can't.
    unrepeatable: Reason,
    /// Whether the request is gone: then not even one that was never sent can be made again.
    gone: bool,
    /// Attempts sent, of any kind.
    sent: u8,
    /// Attempts sent that were not hedges.
    tries: u8,
    hedges: u8,
    flights: [Option<Flight>; MOST_IN_FLIGHT],
    in_flight: u8,
    pending: Option<Pending>,
    /// When a hedge is due; [`Instant::FAR`] if none is.
    hedge_at: Instant,
    /// The earliest of all dues, kept so that most questions are answered by one comparison.
    wake: Instant,
    /// A failed head that is kept because it may be the best there will be.
    spare: Option<(u8, Outcome)>,
    /// Cancels not yet handed out, the last one first.
    cancels: [(u8, CancelWhy); MOST_CANCELS],
    to_cancel: u8,
    ending: Option<Finish>,
    finished: bool,
    why: Why,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    attempt: u8,
    kind: Kind,
    /// Since when an answer is owed: when it was sent, or when the last of it was.
    since: Instant,
    /// When it will be cut off; [`Instant::FAR`] if never.
    due: Instant,
}

/// An attempt that was decided and not yet sent.
#[derive(Clone, Copy, Debug)]
struct Pending {
    kind: Kind,
    at: Instant,
}

impl Call {
    /// Begins a call at `now`. The first action is to send the first attempt.
    #[must_use]
    pub fn start(plan: Plan, now: Instant, start: Start, shared: &mut impl Shared) -> Self {
        shared.deposit(now);
        let own = plan.deadline.map_or(Instant::FAR, |d| now.plus(d));
        let deadline = start.deadline.map_or(own, |theirs| theirs.min(own));
        Self {
            plan,
            rng: Seeded::new(start.seed),
            started: now,
            deadline,
            repeat: start.repeat,
            unrepeatable: Reason::NotRepeatable,
            gone: false,
            sent: 0,
            tries: 0,
            hedges: 0,
            flights: [None; MOST_IN_FLIGHT],
            in_flight: 0,
            pending: Some(Pending { kind: Kind::First, at: now }),
            hedge_at: Instant::FAR,
            wake: now,
            spare: None,
            cancels: [(0, CancelWhy::CallerGone); MOST_CANCELS],
            to_cancel: 0,
            ending: None,
            finished: false,
            why: Why::new(),
        }
    }

    /// Takes news. News of an attempt that is no longer in flight changes nothing.
    pub fn on_event(&mut self, now: Instant, event: Event, shared: &mut impl Shared) {
        if self.ending.is_some() {
            return;
        }
        // Whatever it is, what is due next may be something else afterwards.
        self.wake = Instant::ZERO;
        match event {
            Event::Refused { attempt, rejection } => self.refused(now, attempt, rejection, shared),
            Event::Head { attempt, outcome } => self.head(now, attempt, outcome, shared),
            Event::Ended { attempt, outcome } => {
                if let Some(flight) = self.land(attempt) {
                    self.failed(now, flight.attempt, outcome, false, shared);
                }
            }
            Event::Progress => self.progress(now),
            Event::CannotRepeat => self.cannot_repeat(),
            Event::CallerGone => self.caller_gone(now, shared),
        }
    }

    /// What to do at `now`.
    pub fn next_action(&mut self, now: Instant, shared: &mut impl Shared) -> Action {
        if self.ending.is_none() && now >= self.wake {
            self.tick(now, shared);
            if self.ending.is_none() {
                self.wake = self.next_timer();
            }
        }
        if self.to_cancel > 0 {
            self.to_cancel -= 1;
            let (attempt, why) = self.cancels[usize::from(self.to_cancel)];
            return Action::Cancel { attempt, why };
        }
        if let Some(finish) = self.ending {
            self.finished = true;
            return Action::Finish(finish);
        }
        if let Some(pending) = self.pending.take_if(|p| p.at <= now) {
            let action = self.send(now, pending.kind, shared);
            self.wake = self.next_timer();
            return action;
        }
        Action::Wait((self.wake < Instant::FAR).then_some(self.wake))
    }

    /// What was decided so far.
    #[must_use]
    pub const fn why(&self) -> &Why {
        &self.why
    }

    /// The record, for whoever outlives the call.
    #[must_use]
    pub fn take_why(&mut self) -> Why {
        core::mem::take(&mut self.why)
    }

    /// Adds what a gate of the driver would have done in observe-only mode.
    pub fn would_reject(&mut self, now: Instant, attempt: u8, rejection: Rejection) {
        self.note(now, attempt, What::WouldReject(rejection));
    }

    /// The moment by which the call must be over, if there is one.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (self.deadline < Instant::FAR).then_some(self.deadline)
    }

    /// How many attempts were sent, of any kind.
    #[must_use]
    pub const fn attempts(&self) -> u8 {
        self.sent
    }

    /// Whether the call ends with this attempt's answer, decided already or not yet told.
    #[must_use]
    pub fn is_answered_by(&self, attempt: u8) -> bool {
        matches!(self.ending, Some(Finish::Answer { attempt: won, .. }) if won == attempt)
    }

    /// Whether `Finish` was said.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.finished
    }

    // What time brings.

    fn tick(&mut self, now: Instant, shared: &mut impl Shared) {
        if self.deadline <= now {
            return self.deadline_passed(now, shared);
        }
        for n in 0..MOST_IN_FLIGHT {
            if let Some(flight) = self.flights[n].filter(|f| f.due <= now) {
                self.attempt_due(now, n, flight, shared);
            }
        }
        if self.hedge_at <= now {
            self.hedge_at = Instant::FAR;
            self.hedge_due(now, shared);
        }
    }

    fn deadline_passed(&mut self, now: Instant, shared: &mut impl Shared) {
        self.note(now, 0, What::DeadlinePassed);
        let last = self.sent;
        let late = self.late(now, shared);
        // Each for itself: a hedge that has just left is not late because the attempt before it is.
        let blame = |flight: &Flight| {
            let to_blame = now.since(flight.since) >= late;
            if to_blame { CancelWhy::DeadlinePassed } else { CancelWhy::DeadlineShort }
        };
        self.land_all(now, blame, shared);
        if last == 0 {
            return self
                .finish(now, Finish::Rejected(Rejection::new(Policy::Deadline, Reason::DeadlinePassed)));
        }
        let outcome = Outcome::failed(Failure::Timeout);
        let finish = match self.spare.take() {
            Some((attempt, outcome)) => Finish::Answer { attempt, outcome },
            None => Finish::Failed { attempt: last, outcome },
        };
        self.finish(now, finish);
    }

    /// As long as nobody knows what is late, a caller that waited less than the shortest timeout proves nothing.
    fn late(&self, now: Instant, shared: &mut impl Shared) -> Duration {
        shared.learned(now).late.unwrap_or(self.plan.shortest)
    }

    /// Whether hardly anything is left until the deadline.
    fn is_all_but_over(&self, now: Instant) -> bool {
        self.deadline < Instant::FAR
            && now.plus(self.deadline.since(self.started) / ALL_BUT_OVER) >= self.deadline
    }

    fn attempt_due(&mut self, now: Instant, n: usize, flight: Flight, shared: &mut impl Shared) {
        let timeout = flight.due.since(flight.since);
        if self.plan.timeout == Mode::Observe {
            self.flights[n] = Some(Flight { due: Instant::FAR, ..flight });
            return self.note(now, flight.attempt, What::WouldTimeOut { timeout });
        }
        self.flights[n] = None;
        self.in_flight -= 1;
        shared.observe(now, Sample::Above(now.since(flight.since)));
        self.cancel(flight.attempt, CancelWhy::TimedOut);
        self.note(now, flight.attempt, What::TimedOut { timeout });
        self.another_try(now, flight.attempt, Outcome::failed(Failure::Timeout), false, shared);
    }

    fn hedge_due(&mut self, now: Instant, shared: &mut impl Shared) {
        let Some(slow) = self.flights.iter().flatten().map(|flight| flight.attempt).max() else { return };
        if self.hedges >= self.plan.hedges {
            return;
        }
        let room = self.flights.iter().any(Option::is_none);
        let fits = self.fits(now, now, shared);
        let refusal = if self.repeat == Repeat::Never {
            Some(self.unrepeatable)
        } else if !fits || !room {
            Some(Reason::DeadlineTooShort)
        } else if !shared.withdraw(now, Extra::Hedge) {
            Some(Reason::BudgetSpent)
        } else {
            None
        };
        match refusal {
            Some(reason) => self.note(now, slow, What::NotHedged(reason)),
            None if self.plan.hedge == Mode::Observe => self.note(now, slow, What::WouldHedge),
            None => self.pending = Some(Pending { kind: Kind::Hedge, at: now }),
        }
    }

    // What the driver tells.

    fn head(&mut self, now: Instant, attempt: u8, outcome: Outcome, shared: &mut impl Shared) {
        let Some(flight) = self.land(attempt) else { return };
        if outcome.is_failure() {
            return self.failed(now, attempt, outcome, true, shared);
        }
        if outcome == Outcome::Success {
            shared.observe(now, Sample::Took(now.since(flight.since)));
        }
        self.drop_spare();
        self.land_all(now, |_| CancelWhy::LostTheRace, shared);
        self.finish(now, Finish::Answer { attempt, outcome });
    }

    fn refused(&mut self, now: Instant, attempt: u8, rejection: Rejection, shared: &mut impl Shared) {
        let Some(flight) = self.land(attempt) else { return };
        self.note(now, attempt, What::Rejected(rejection));
        if let Some(extra) = flight.kind.extra() {
            shared.refund(now, extra);
        }
        if self.in_flight == 0 {
            let finish = match self.spare.take() {
                Some((attempt, outcome)) => Finish::Answer { attempt, outcome },
                None => Finish::Rejected(rejection),
            };
            self.finish(now, finish);
        }
    }

    fn failed(&mut self, now: Instant, attempt: u8, outcome: Outcome, head: bool, shared: &mut impl Shared) {
        match outcome {
            Outcome::Failure(failure, _) => self.note(now, attempt, What::Failed(failure)),
            Outcome::Overloaded(_) => self.note(now, attempt, What::Overloaded),
            _ => {}
        }
        self.another_try(now, attempt, outcome, head, shared);
    }

    fn progress(&mut self, now: Instant) {
        let mut moved = 0;
        for flight in self.flights.iter_mut().flatten() {
            moved = now.nanos_since(flight.since);
            // What never comes stays where it is, as the end of time takes no addition.
            flight.due = flight.due.plus_nanos(moved);
            flight.since = now.max(flight.since);
        }
        self.hedge_at = self.hedge_at.plus_nanos(moved);
    }

    fn cannot_repeat(&mut self) {
        if self.repeat != Repeat::Never {
            self.unrepeatable = Reason::BodyTooLarge;
        }
        self.repeat = Repeat::Never;
        self.gone = true;
        // None can follow what is in flight any more.
        for n in 0..MOST_IN_FLIGHT {
            let Some(flight) = self.flights[n].filter(|f| f.due < Instant::FAR) else { continue };
            let due = self.due(flight.since, Some(flight.due.since(flight.since)));
            self.flights[n] = Some(Flight { due, ..flight });
        }
    }

    fn caller_gone(&mut self, now: Instant, shared: &mut impl Shared) {
        self.note(now, 0, What::CallerGone);
        self.drop_spare();
        // A caller's own timer began before its call was here, so it leaves just before the deadline that it set, and the deadline alone
        // would never tell of an upstream that hangs.
        let late =
            if self.is_all_but_over(now) { Some(self.late(now, shared)) } else { shared.learned(now).late };
        let given_up = |flight: &Flight| late.is_some_and(|late| now.since(flight.since) >= late);
        let why = |flight: &Flight| if given_up(flight) { CancelWhy::GivenUp } else { CancelWhy::CallerGone };
        self.land_all(now, why, shared);
        self.ending = Some(Finish::Gone);
    }

    // Whether there is another attempt.

    /// An attempt failed; `head` says that it has an answer, which may turn out to be the best there is.
    fn another_try(
        &mut self,
        now: Instant,
        attempt: u8,
        outcome: Outcome,
        head: bool,
        shared: &mut impl Shared,
    ) {
        if head {
            self.drop_spare();
            self.spare = Some((attempt, outcome));
        }
        // Another attempt that is in flight, or about to be, may yet win; it decides.
        if self.in_flight > 0 || self.pending.is_some() {
            return;
        }
        self.hedge_at = Instant::FAR;
        let refusal = match self.retry_at(now, outcome, shared) {
            Ok(at) => {
                let delay = at.since(now);
                if self.plan.retry == Mode::Enforce {
                    self.note(now, attempt, What::Retrying { delay });
                    self.drop_spare();
                    self.pending = Some(Pending { kind: Kind::Retry, at });
                    return;
                }
                What::WouldRetry { delay }
            }
            Err(reason) => What::NotRetried(reason),
        };
        self.note(now, attempt, refusal);
        let finish = match self.spare.take() {
            Some((attempt, outcome)) => Finish::Answer { attempt, outcome },
            None => Finish::Failed { attempt, outcome },
        };
        self.finish(now, finish);
    }

    /// When the next attempt starts; the budget is debited if there is one.
    fn retry_at(
        &mut self,
        now: Instant,
        outcome: Outcome,
        shared: &mut impl Shared,
    ) -> Result<Instant, Reason> {
        let unsent = matches!(outcome, Outcome::Failure(failure, _) if failure.is_unsent());
        if !outcome.is_failure() || self.plan.retry == Mode::Off {
            return Err(Reason::NotRetryable);
        }
        if self.repeat == Repeat::Never && (self.gone || !unsent) {
            return Err(self.unrepeatable);
        }
        if self.tries >= self.plan.attempts {
            return Err(Reason::AttemptsSpent);
        }
        let wait = self.plan.backoff.next(&mut self.rng);
        let wait = match outcome.pushback() {
            Pushback::Unsaid => wait,
            Pushback::After(asked) => asked.clamp(wait, wait.saturating_add(self.plan.most_pushback)),
            Pushback::Never => return Err(Reason::ToldNotTo),
        };
        let at = now.plus(wait);
        if !self.fits(now, at, shared) {
            return Err(Reason::DeadlineTooShort);
        }
        // In observe-only mode too: a budget that nothing is taken from would tell of retries that it never granted.
        if !shared.withdraw(now, Extra::Retry) {
            return Err(Reason::BudgetSpent);
        }
        Ok(at)
    }

    /// Whether an attempt that starts at `at` can be expected to end before the deadline.
    fn fits(&self, now: Instant, at: Instant, shared: &mut impl Shared) -> bool {
        if self.deadline == Instant::FAR {
            return true;
        }
        let typical = shared.learned(now).typical.unwrap_or(Duration::ZERO);
        at < self.deadline && at.plus(typical) <= self.deadline
    }

    // Attempts in flight.

    fn send(&mut self, now: Instant, kind: Kind, shared: &mut impl Shared) -> Action {
        let learned = shared.learned(now);
        self.sent += 1;
        match kind {
            Kind::Hedge => {
                self.hedges += 1;
                self.note(now, self.sent, What::Hedged);
            }
            Kind::First | Kind::Retry => self.tries += 1,
        }
        let due = self.due(now, learned.timeout);
        let may_hedge = self.hedges < self.plan.hedges && self.repeat != Repeat::Never;
        let hedge_after = learned.hedge_after.filter(|_| may_hedge);
        self.hedge_at = hedge_after.map_or(Instant::FAR, |after| now.plus(after));
        let flight = Flight { attempt: self.sent, kind, since: now, due };
        if let Some(slot) = self.flights.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(flight);
            self.in_flight += 1;
        }
        // In observe-only mode nothing is cut off before the deadline, so nobody is told an earlier moment.
        let ends = if self.plan.timeout == Mode::Observe { self.deadline } else { due.min(self.deadline) };
        Action::Send { attempt: self.sent, kind, due: (ends < Instant::FAR).then_some(ends) }
    }

    /// When an attempt that is owed an answer since `since` is cut off.
    ///
    /// Where there are retries, the learned timeout is how long to wait before another attempt is worth more than waiting
    /// on. An attempt that no other can follow has until the ceiling: cutting it off would turn a slow answer into none, and
    /// for what can't be repeated leave its caller not knowing whether it was done.
    fn due(&self, since: Instant, learned: Option<Duration>) -> Instant {
        let retries = self.plan.retry == Mode::Enforce && self.plan.attempts > 1;
        let is_last = self.repeat == Repeat::Never || self.tries >= self.plan.attempts;
        let timeout = learned.map(|learned| if retries && is_last { self.plan.longest } else { learned });
        let due = timeout.map_or(Instant::FAR, |timeout| since.plus(timeout));
        // From the deadline on, the deadline ends it; in observe-only mode that still holds.
        if due < self.deadline { due } else { Instant::FAR }
    }

    /// Takes the attempt out of flight, if it is in flight.
    fn land(&mut self, attempt: u8) -> Option<Flight> {
        let flight = self.flights.iter_mut().find_map(|slot| slot.take_if(|f| f.attempt == attempt))?;
        self.in_flight -= 1;
        Some(flight)
    }

    fn land_all(&mut self, now: Instant, why: impl Fn(&Flight) -> CancelWhy, shared: &mut impl Shared) {
        for n in 0..MOST_IN_FLIGHT {
            if self.in_flight == 0 {
                break;
            }
            let Some(flight) = self.flights[n].take() else { continue };
            self.in_flight -= 1;
            shared.observe(now, Sample::Above(now.since(flight.since)));
            let why = why(&flight);
            self.cancel(flight.attempt, why);
            if why == CancelWhy::LostTheRace {
                self.note(now, flight.attempt, What::LostTheRace);
            }
        }
        // What was decided and not sent costs nothing.
        if let Some(extra) = self.pending.take().and_then(|p| p.kind.extra()) {
            shared.refund(now, extra);
        }
        self.hedge_at = Instant::FAR;
    }

    fn cancel(&mut self, attempt: u8, why: CancelWhy) {
        self.cancels[usize::from(self.to_cancel)] = (attempt, why);
        self.to_cancel += 1;
    }

    fn drop_spare(&mut self) {
        if let Some((attempt, _)) = self.spare.take() {
            self.cancel(attempt, CancelWhy::Superseded);
        }
    }

    // The end.

    fn finish(&mut self, now: Instant, finish: Finish) {
        if self.plan.fallback && fallback::covers(&finish) {
            if let Finish::Answer { attempt, .. } = finish {
                self.cancel(attempt, CancelWhy::Superseded);
            }
            self.note(now, 0, What::FellBack);
            self.ending = Some(Finish::Fallback);
        } else {
            self.ending = Some(finish);
        }
    }

    fn next_timer(&self) -> Instant {
        let pending = self.pending.map_or(Instant::FAR, |p| p.at);
        let mut next = pending.min(self.hedge_at).min(self.deadline);
        let mut left = self.in_flight;
        for flight in self.flights.iter().flatten() {
            next = next.min(flight.due);
            left -= 1;
            if left == 0 {
                break;
            }
        }
        next
    }

    fn note(&mut self, now: Instant, attempt: u8, what: What) {
        self.why.note(now.since(self.started), attempt, what);
    }
}

/// One attempt and three hedges, the most that [`hedge::Config`](super::hedge::Config) allows.
const MOST_IN_FLIGHT: usize = 4;
/// Those in flight, and a failed head that was kept: all that a driver can hold between two questions, twice over.
const MOST_CANCELS: usize = 2 * (MOST_IN_FLIGHT + 1);
/// The last tenth of a call's time is all but over: a caller's clock is ahead of ours by the way from it to us and what is waited for there.
const ALL_BUT_OVER: u32 = 10;

#[cfg(test)]
mod tests;
