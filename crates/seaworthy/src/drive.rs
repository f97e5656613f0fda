//! The driver: performs what the call machine says, and reports what happens.

use std::borrow::Borrow;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use seaworthy_core::call::{Action, Event, Finish, Kind, Repeat, Start};
use seaworthy_core::record::RecordedCall;
use seaworthy_core::{Criticality, Instant, Outcome, Policy, Reason, Rejection, Why};
use tokio::time::Sleep;

use crate::caller::Caller;
use crate::classify::Classify;
use crate::clock;
use crate::entering::{Entering, Entry};
use crate::error::Error;
use crate::pipeline::Inner;
use crate::shared::breaker::Ticket;

/// Makes the attempts of one call. Any `FnMut(Attempt) -> impl Future<Output = Result<T, E>>` is one.
pub trait Attempts {
    /// What a good attempt yields.
    type Ok;
    /// What a bad attempt yields.
    type Err;
    /// One attempt.
    type Future: Future<Output = Result<Self::Ok, Self::Err>>;

    /// Starts an attempt.
    fn attempt(&mut self, attempt: Attempt) -> Self::Future;

    /// Whether another attempt can be made. Asked after each.
    fn can_repeat(&self) -> bool {
        true
    }
}

impl<F, Fut, T, E> Attempts for F
where
    F: FnMut(Attempt) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Ok = T;
    type Err = E;
    type Future = Fut;

    fn attempt(&mut self, attempt: Attempt) -> Fut {
        self(attempt)
    }
}

/// Which attempt of a call this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Counted from 1.
    pub number: u8,
    /// The first, a retry or a hedge.
    pub kind: Kind,
    /// When it will be cut off, on the clock of [`clock::now`]; worth passing on to the service.
    pub due: Option<Instant>,
}

pin_project! {
    /// A call on its way through a [`Pipeline`](crate::Pipeline): the future of its answer.
    ///
    /// Dropping it cancels what is in flight, gives every permit back and counts as *abandoned*, which is neutral.
    #[must_use = "a call does nothing unless it is awaited"]
    pub struct Drive<P, A, C>
    where
        P: Borrow<Inner>,
        A: Attempts,
    {
        // The attempt that is not a hedge; kept in place, so that a call without hedges allocates nothing.
        #[pin]
        main: Option<A::Future>,
        #[pin]
        timer: Option<Sleep>,
        flights: Flights<A>,
        attempts: A,
        classify: C,
        inner: P,
    }

    impl<P, A, C> PinnedDrop for Drive<P, A, C>
    where
        P: Borrow<Inner>,
        A: Attempts,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            this.flights.abandon((*this.inner).borrow());
        }
    }
}

impl<P: Borrow<Inner>, A: Attempts, C> Drive<P, A, C> {
    pub(crate) fn new(inner: P, repeat: Repeat, attempts: A, classify: C) -> Self {
        Self { main: None, timer: None, flights: Flights::new(repeat), attempts, classify, inner }
    }

    /// The same call, over by `deadline` on the clock of [`clock::now`](crate::clock::now) if the pipeline's own is not earlier:
    /// for whoever is asked by someone who waits no longer.
    pub fn by(mut self, deadline: Instant) -> Self {
        if let Stage::Entering { start, .. } = &mut self.flights.stage {
            start.deadline = Some(deadline);
        }
        self
    }

    /// The same call, of `caller`: whom it waits behind and whose rate it counts on, and how soon it is shed or throttled.
    pub const fn of(mut self, caller: Caller) -> Self {
        self.flights.caller = caller;
        self
    }
}

impl<P, A, C> Future for Drive<P, A, C>
where
    P: Borrow<Inner>,
    A: Attempts,
    C: Classify<A::Ok, A::Err>,
{
    type Output = Result<A::Ok, Error<A::Err>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let inner: &Inner = (*this.inner).borrow();
        let mut now = clock::now();
        loop {
            let until = match this.flights.act(inner, now, this.main.as_mut(), this.attempts, cx) {
                Next::Done(result) => return Poll::Ready(result),
                Next::Wait(until) => until,
            };
            if this.flights.poll_attempts(inner, &mut now, this.main.as_mut(), this.classify, cx) {
                continue;
            }
            let until = this.flights.tell_overdue(inner, now, until);
            if this.flights.poll_timer(until, this.timer.as_mut(), cx).is_pending() {
                return Poll::Pending;
            }
            now = clock::now();
        }
    }
}

/// What is in flight of one call, and how far it has come.
struct Flights<A: Attempts> {
    stage: Stage,
    caller: Caller,
    main: Option<Flight>,
    hedges: Vec<(Flight, Pin<Box<A::Future>>)>,
    /// A hedge that is just being made; it stays here only if that panicked.
    made: Option<Flight>,
    answer: Option<(u8, Reply<A>)>,
    /// When the timer that is armed fires.
    armed: Option<Instant>,
}

type Reply<A> = Result<<A as Attempts>::Ok, <A as Attempts>::Err>;

#[expect(
    clippy::large_enum_variant,
    reason = "a call in place costs no allocation, and nearly all of them run"
)]
enum Stage {
    Entering {
        entering: Entering,
        start: Start,
        /// When the call was first polled: its time runs while it waits at a gate.
        began: Option<Instant>,
    },
    Running(RecordedCall, Option<Entry>),
    Done,
}

struct Flight {
    attempt: u8,
    ticket: Ticket,
    /// Whether the breaker has heard that it still runs.
    overdue: bool,
}

enum Next<T, E> {
    /// The call is over.
    Done(Result<T, Error<E>>),
    /// It has nothing to do before this moment.
    Wait(Option<Instant>),
}

impl<A: Attempts> Flights<A> {
    const fn new(repeat: Repeat) -> Self {
        let start = Start { deadline: None, repeat, seed: 0 };
        let stage = Stage::Entering { entering: Entering::new(), start, began: None };
        let caller = Caller::new(Criticality::Critical);
        Self { stage, caller, main: None, hedges: Vec::new(), made: None, answer: None, armed: None }
    }

    /// Performs actions until there is nothing to do at `now`.
    fn act(
        &mut self,
        inner: &Inner,
        now: Instant,
        mut main: Pin<&mut Option<A::Future>>,
        attempts: &mut A,
        cx: &mut Context<'_>,
    ) -> Next<A::Ok, A::Err> {
        if let Stage::Entering { .. } = &self.stage
            && let Some(next) = self.enter(inner, now, cx)
        {
            return next;
        }
        loop {
            let Stage::Running(call, _) = &mut self.stage else { return Next::Wait(None) };
            match call.next_action(now, &mut &inner.commons) {
                Action::Send { attempt, kind, due } => {
                    self.send(inner, now, Attempt { number: attempt, kind, due }, main.as_mut(), attempts);
                }
                Action::Cancel { attempt, why } => {
                    self.cancel(inner, now, attempt, why.outcome(), main.as_mut());
                }
                Action::Wait(until) => return Next::Wait(until),
                Action::Finish(finish) => return Next::Done(self.conclude(inner, now, finish)),
                _ => unreachable!("the driver knows every action of its core"),
            }
        }
    }

    /// Makes an attempt, if what stands before it lets it.
    fn send(
        &mut self,
        inner: &Inner,
        now: Instant,
        attempt: Attempt,
        mut main: Pin<&mut Option<A::Future>>,
        attempts: &mut A,
    ) {
        let Stage::Running(call, _) = &mut self.stage else { return };
        let Attempt { number, kind, .. } = attempt;
        let (ticket, shadow) = match inner.admit(now, self.caller.criticality) {
            Ok(admitted) => admitted,
            Err(rejection) => {
                inner.rejected(now, rejection);
                let refused = Event::Refused { attempt: number, rejection };
                return call.on_event(now, refused, &mut &inner.commons);
            }
        };
        for rejection in shadow.into_iter().chain(ticket.shadow()) {
            call.would_reject(now, number, rejection);
        }
        let flight = Flight { attempt: number, ticket, overdue: false };
        // Put where it will be found should making the attempt panic.
        if kind == Kind::Hedge {
            self.made = Some(flight);
        } else {
            self.main = Some(flight);
        }
        let future = attempts.attempt(attempt);
        if !attempts.can_repeat() {
            call.on_event(now, Event::CannotRepeat, &mut &inner.commons);
        }
        if kind != Kind::Hedge {
            main.set(Some(future));
        } else if let Some(flight) = self.made.take() {
            self.hedges.push((flight, Box::pin(future)));
        }
    }

    /// Takes the call through the gates before it; `None` once it runs.
    fn enter(&mut self, inner: &Inner, now: Instant, cx: &mut Context<'_>) -> Option<Next<A::Ok, A::Err>> {
        let Stage::Entering { entering, start, began } = &mut self.stage else { return None };
        let began = *began.get_or_insert(now);
        let deadline = || inner.deadline(began, start.deadline);
        let entry = match entering.poll(inner, now, self.caller, deadline, cx) {
            Poll::Ready(Ok(entry)) => entry,
            Poll::Ready(Err(rejection)) => return Some(self.rejected(rejection)),
            Poll::Pending => {
                let deadline = deadline();
                if deadline > now {
                    let until = deadline.min(entering.wakes_by());
                    return Some(Next::Wait((until < Instant::FAR).then_some(until)));
                }
                entering.leave(inner);
                let rejection = Rejection::new(Policy::Deadline, Reason::DeadlinePassed);
                inner.rejected(now, rejection);
                return Some(self.rejected(rejection));
            }
        };
        let mut call = inner.start(began, *start);
        entering
            .shadows(&entry)
            .into_iter()
            .flatten()
            .for_each(|rejection| call.would_reject(now, 0, rejection));
        self.stage = Stage::Running(call, Some(entry));
        None
    }

    fn rejected(&mut self, rejection: Rejection) -> Next<A::Ok, A::Err> {
        self.stage = Stage::Done;
        Next::Done(Err(Error::Rejected { rejection, why: Why::new() }))
    }

    fn cancel(
        &mut self,
        inner: &Inner,
        now: Instant,
        attempt: u8,
        outcome: Outcome,
        mut main: Pin<&mut Option<A::Future>>,
    ) {
        if let Some(flight) = self.main.take_if(|flight| flight.attempt == attempt) {
            main.set(None);
            inner.settle(now, self.caller.criticality, flight.ticket, outcome);
        } else if let Some(n) = self.hedges.iter().position(|(flight, _)| flight.attempt == attempt) {
            let (flight, _) = self.hedges.swap_remove(n);
            inner.settle(now, self.caller.criticality, flight.ticket, outcome);
        } else {
            self.answer.take_if(|(held, _)| *held == attempt);
        }
    }

    /// Polls what is in flight; true if something ended, at `now`.
    fn poll_attempts<C: Classify<A::Ok, A::Err>>(
        &mut self,
        inner: &Inner,
        now: &mut Instant,
        mut main: Pin<&mut Option<A::Future>>,
        classify: &C,
        cx: &mut Context<'_>,
    ) -> bool {
        let mut ended = false;
        if let Some(future) = main.as_mut().as_pin_mut()
            && let Poll::Ready(result) = future.poll(cx)
        {
            main.set(None);
            if let Some(flight) = self.main.take() {
                *now = clock::now();
                self.answered(inner, *now, flight, result, classify);
                ended = true;
            }
        }
        let mut n = 0;
        while n < self.hedges.len() {
            let Poll::Ready(result) = self.hedges[n].1.as_mut().poll(cx) else {
                n += 1;
                continue;
            };
            let (flight, _) = self.hedges.swap_remove(n);
            *now = clock::now();
            self.answered(inner, *now, flight, result, classify);
            ended = true;
        }
        ended
    }

    fn answered<C: Classify<A::Ok, A::Err>>(
        &mut self,
        inner: &Inner,
        now: Instant,
        flight: Flight,
        result: Result<A::Ok, A::Err>,
        classify: &C,
    ) {
        let outcome = classify.classify(result.as_ref());
        inner.settle(now, self.caller.criticality, flight.ticket, outcome);
        let Stage::Running(call, _) = &mut self.stage else { return };
        call.on_event(now, Event::Head { attempt: flight.attempt, outcome }, &mut &inner.commons);
        // The race is over if there was one: what comes after the winner is not wanted.
        let won = matches!(self.answer, Some((held, _)) if call.is_answered_by(held));
        if !won {
            self.answer = Some((flight.attempt, result));
        }
    }

    /// Tells the breaker of attempts that have hung for so long that it need not wait for their end, and when to look again.
    fn tell_overdue(&mut self, inner: &Inner, now: Instant, until: Option<Instant>) -> Option<Instant> {
        let mut next = until.unwrap_or(Instant::FAR);
        let hedges = self.hedges.iter_mut().map(|(flight, _)| flight);
        for flight in self.main.iter_mut().chain(hedges) {
            if flight.overdue {
                continue;
            }
            let overdue_at = inner.breaker.overdue_at(flight.ticket.admitted());
            if overdue_at > now {
                next = next.min(overdue_at);
                continue;
            }
            flight.overdue = true;
            inner.changed(now, inner.breaker.overdue(now, &mut flight.ticket));
        }
        (next < Instant::FAR).then_some(next)
    }

    fn poll_timer(
        &mut self,
        until: Option<Instant>,
        mut timer: Pin<&mut Option<Sleep>>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(until) = until else { return Poll::Pending };
        // A timer that fires too early goes back to sleep, which is cheaper than moving it with every wait.
        if self.armed.is_none_or(|armed| until < armed) {
            let moment = clock::to_tokio(until);
            match timer.as_mut().as_pin_mut() {
                Some(sleep) => sleep.reset(moment),
                None => timer.set(Some(tokio::time::sleep_until(moment))),
            }
            self.armed = Some(until);
        }
        let Some(sleep) = timer.as_pin_mut() else { return Poll::Pending };
        let fired = sleep.poll(cx);
        if fired.is_ready() {
            self.armed = None;
        }
        fired
    }

    fn conclude(&mut self, inner: &Inner, now: Instant, finish: Finish) -> Result<A::Ok, Error<A::Err>> {
        let Stage::Running(call, entry) = &mut self.stage else {
            unreachable!("only a running call finishes")
        };
        // The call is left where it is: moving it out costs more than deciding anything.
        inner.leave(now, entry.take(), ended(finish));
        inner.keep(call);
        let why = call.take_why();
        self.stage = Stage::Done;
        inner.told(now, &why);
        match (finish, self.answer.take()) {
            (Finish::Answer { .. }, Some((_, Ok(answer)))) => Ok(answer),
            (Finish::Answer { .. }, Some((_, Err(error)))) => Err(Error::Service { error, why }),
            (Finish::Rejected(rejection), _) => Err(Error::Rejected { rejection, why }),
            _ => Err(Error::TimedOut { why }),
        }
    }

    fn abandon(&mut self, inner: &Inner) {
        match &mut self.stage {
            Stage::Done => {}
            Stage::Entering { entering, .. } => entering.leave(inner),
            Stage::Running(call, entry) => {
                let now = clock::now();
                call.on_event(now, Event::CallerGone, &mut &inner.commons);
                let mut flights: Vec<_> = self.main.take().into_iter().chain(self.made.take()).collect();
                flights.extend(self.hedges.drain(..).map(|(flight, _)| flight));
                while let Action::Cancel { attempt, why } = call.next_action(now, &mut &inner.commons) {
                    if let Some(n) = flights.iter().position(|flight| flight.attempt == attempt) {
                        let ticket = flights.swap_remove(n).ticket;
                        inner.settle(now, self.caller.criticality, ticket, why.outcome());
                    }
                }
                inner.keep(call);
                // The machine knows of all of them, unless making one panicked.
                for flight in flights {
                    inner.settle(now, self.caller.criticality, flight.ticket, Outcome::Abandoned);
                }
                inner.leave(now, entry.take(), Outcome::Abandoned);
            }
        }
    }
}

/// What the limit is to learn from the call's end.
const fn ended(finish: Finish) -> Outcome {
    match finish {
        Finish::Answer { outcome, .. } | Finish::Failed { outcome, .. } => outcome,
        // Nothing of the service was seen.
        _ => Outcome::Ignored,
    }
}
