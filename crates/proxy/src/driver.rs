//! Does what the machine of one call says, and tells it what happened.
//!
//! The attempt that is not a hedge lives in the call's own future; only hedges are boxed. Everything happens in the task
//! of the client's connection, which is polled whenever an attempt's connection has news.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, StatusCode};
use seaworthy::classify::{Grpc, Http};
use seaworthy::shared::Commons;
use seaworthy_core::call::{Action, Call, Event, Finish, Kind};
use seaworthy_core::{Failure, Instant, Outcome, Policy, Reason, Rejection, Why};

use crate::attempt::{Answer, Done, Miss, attempt};
use crate::choice::{Entry, Wish, choose};
use crate::flights::{Flights, Legs};
use crate::ledger::Leg;
use crate::names;
use crate::node::Node;
use crate::outgoing::Outgoing;
use crate::tape::{Tape, Upload};
use crate::task::HasClock;
use crate::worker::Worker;

/// How a call ends, for the client.
pub(crate) enum Ending {
    /// With an upstream's answer.
    Answer(Box<Answer>, Leg),
    /// Without one.
    Failed(Outcome),
    /// With our refusal.
    Rejected(Rejection),
    /// With the fallback.
    Fallback,
    /// The client stopped sending its body.
    ClientStalled,
    /// The client broke off in its body.
    ClientBroke,
    /// The client's body is longer than one may be.
    TooLong,
}

/// Drives one call.
pub(crate) struct Driver {
    home: Rc<Worker>,
    upstream: usize,
    call: Call,
    outgoing: Outgoing,
    tape: Option<Rc<Tape>>,
    legs: Legs,
    wish: Wish,
    /// The answers that are held: one that may be the best there will be, and one that has just come.
    held: [Option<(u8, Box<Answer>)>; 2],
    told_spent: bool,
    /// The pieces of the body that the machine was told of.
    moved: usize,
    /// How the last attempt ended.
    pub last: Outcome,
    /// Whether an attempt ended without an answer, though the upstream may have done what it asked for.
    pub in_doubt: bool,
    /// With which status the last attempt that was answered was.
    pub said: Option<StatusCode>,
}

impl Driver {
    pub(crate) fn new(
        home: Rc<Worker>,
        upstream: usize,
        call: Call,
        outgoing: Outgoing,
        tape: Option<Rc<Tape>>,
        wish: Wish,
    ) -> Self {
        Self {
            home,
            upstream,
            call,
            outgoing,
            tape,
            legs: Legs::default(),
            held: [None, None],
            // What is not to be repeated anyway has a better reason than the size of its body.
            told_spent: !wish.may_probe,
            wish,
            moved: 0,
            last: Outcome::Ignored,
            in_doubt: false,
            said: None,
        }
    }

    /// How many attempts were made.
    pub(crate) const fn attempts(&self) -> u8 {
        self.call.attempts()
    }

    /// What was decided.
    pub(crate) fn why(&self) -> Why {
        self.call.why().clone()
    }

    /// Whether the upstream certainly did nothing with what it was asked for.
    pub(crate) const fn is_undone(&self) -> bool {
        !self.in_doubt && self.said.is_none()
    }

    /// The request, for whoever answers it instead.
    pub(crate) fn spare(&self) -> (Outgoing, Option<Rc<Tape>>) {
        (self.outgoing.again(self.upstream, None), self.tape.clone())
    }

    /// Drives the call to its end.
    pub(crate) async fn run(&mut self) -> Ending {
        let mut main = pin!(None);
        let mut others = Vec::new();
        let mut main_is = 0;
        poll_fn(|cx| {
            let mut flights = Flights { main: main.as_mut(), main_is, others: &mut others, make: attempt };
            let polled = self.poll(&mut flights, cx);
            main_is = flights.main_is;
            polled
        })
        .await
    }

    fn poll<F, M>(&mut self, flights: &mut Flights<'_, F, M>, cx: &mut Context<'_>) -> Poll<Ending>
    where
        F: Future<Output = Done>,
        M: Fn(Rc<Worker>, Rc<Node>, Request<Upload>) -> F,
    {
        loop {
            let now = self.home.clock().now();
            self.tell_of_body(now);
            let until = match self.act(now, flights) {
                Ok(ending) => return Poll::Ready(ending),
                Err(until) => until,
            };
            let Some((attempt, done)) = flights.poll(cx) else {
                if let Some(ending) = self.client_stalled(now) {
                    self.acquit();
                    return Poll::Ready(ending);
                }
                self.legs.tell_overdue(now, self.home.clock());
                if let Some(until) = until {
                    self.home.clock().wake_by(until);
                }
                return Poll::Pending;
            };
            if done.result.is_err() && self.tape.as_ref().is_some_and(|tape| tape.is_broken()) {
                let too_long = self.tape.as_ref().is_some_and(|tape| tape.is_too_long());
                self.acquit();
                return Poll::Ready(if too_long { Ending::TooLong } else { Ending::ClientBroke });
            }
            self.ended(now, attempt, done);
        }
    }

    /// Performs actions until there is nothing to do: then the moment until which that holds is the error.
    fn act<F, M>(&mut self, now: Instant, flights: &mut Flights<'_, F, M>) -> Result<Ending, Option<Instant>>
    where
        F: Future<Output = Done>,
        M: Fn(Rc<Worker>, Rc<Node>, Request<Upload>) -> F,
    {
        loop {
            match self.call.next_action(now, &mut commons(&self.home, self.upstream)) {
                Action::Send { attempt, kind, due } => self.send(now, attempt, kind, due, flights),
                Action::Cancel { attempt, why } => {
                    flights.drop_attempt(attempt);
                    let held =
                        self.held.iter_mut().find_map(|held| held.take_if(|(held, _)| *held == attempt));
                    if let Some(mut leg) = self.legs.take(attempt) {
                        if let Outcome::Failure(failure, _) = why.outcome() {
                            self.wish.failed(&leg.node.endpoint.region, failure);
                        }
                        self.last = why.outcome();
                        // What was answered is told by its answer.
                        self.in_doubt |= held.is_none();
                        leg.settle(now, why.outcome());
                    }
                }
                Action::Wait(until) => return Err(until),
                Action::Finish(finish) => return Ok(self.finish(finish)),
                _ => unreachable!("the driver knows every action of its core"),
            }
        }
    }

    fn send<F, M>(
        &mut self,
        now: Instant,
        attempt: u8,
        kind: Kind,
        due: Option<Instant>,
        flights: &mut Flights<'_, F, M>,
    ) where
        F: Future<Output = Done>,
        M: Fn(Rc<Worker>, Rc<Node>, Request<Upload>) -> F,
    {
        let entry = match self.choose(now, attempt, kind) {
            Ok(chosen) => chosen,
            Err(rejection) => {
                return self.call.on_event(
                    now,
                    Event::Refused { attempt, rejection },
                    &mut commons(&self.home, self.upstream),
                );
            }
        };
        if let Some(rejection) = entry.ticket.shadow() {
            self.call.would_reject(now, attempt, rejection);
        }
        let node = entry.node.clone();
        self.legs.put(Leg::new(self.home.clone(), entry, attempt, kind, self.wish.criticality));
        let upload = self.tape.as_ref().map_or(Upload::Empty, Upload::of);
        let request = self.outgoing.request(now, attempt, due, upload);
        flights.add(attempt, (flights.make)(self.home.clone(), node, request));
    }

    /// An endpoint for the attempt.
    fn choose(&mut self, now: Instant, attempt: u8, kind: Kind) -> Result<Entry, Rejection> {
        let hedge = kind == Kind::Hedge;
        if hedge && self.tape.as_ref().is_some_and(|tape| !tape.is_whole()) {
            return Err(Rejection::new(Policy::Hedge, Reason::BodyTooLarge));
        }
        let throttle = &self.home.service(self.upstream).throttle;
        if let Some(rejection) = throttle.admit(now, self.wish.criticality)? {
            self.call.would_reject(now, attempt, rejection);
        }
        choose(&self.home, self.upstream, now, hedge, &mut self.wish)
    }

    /// An attempt has ended, or its answer's head is there.
    fn ended(&mut self, now: Instant, attempt: u8, done: Done) {
        let Some(leg) = self.legs.find(attempt) else { return };
        leg.place = done.place;
        let event = match done.result {
            Ok(answer) => {
                let outcome = classify(&answer);
                self.last = outcome;
                self.said = Some(answer.parts.status);
                // The outcome of a gRPC call is known later, unless the head holds it.
                if !is_grpc(&answer) || answer.parts.headers.contains_key(names::GRPC_STATUS) {
                    leg.settle(now, outcome);
                }
                if let Some(slot) = self.held.iter_mut().find(|slot| slot.is_none()) {
                    *slot = Some((attempt, Box::new(answer)));
                }
                Event::Head { attempt, outcome }
            }
            Err(Miss::Refused(rejection)) => {
                drop(self.legs.take(attempt));
                Event::Refused { attempt, rejection }
            }
            Err(Miss::Failed(failure)) => {
                let failure = self.as_replayable(failure);
                let outcome = Outcome::failed(failure);
                self.last = outcome;
                self.in_doubt |= !failure.is_unsent();
                if let Some(mut leg) = self.legs.take(attempt) {
                    self.wish.failed(&leg.node.endpoint.region, failure);
                    leg.settle(now, outcome);
                }
                Event::Ended { attempt, outcome }
            }
        };
        self.call.on_event(now, event, &mut commons(&self.home, self.upstream));
    }

    /// A request that was not processed can be sent again, but not if its body is gone.
    fn as_replayable(&self, failure: Failure) -> Failure {
        let gone = self.tape.as_ref().is_some_and(|tape| !tape.can_restart());
        if failure == Failure::Unprocessed && gone { Failure::Broken } else { failure }
    }

    fn finish(&mut self, finish: Finish) -> Ending {
        match finish {
            Finish::Answer { attempt, outcome } => {
                let held = self.held.iter_mut().find_map(|held| held.take_if(|(held, _)| *held == attempt));
                match (held, self.legs.take(attempt)) {
                    (Some((_, answer)), Some(leg)) => Ending::Answer(answer, leg),
                    _ => Ending::Failed(outcome),
                }
            }
            Finish::Failed { outcome, .. } => Ending::Failed(outcome),
            Finish::Rejected(rejection) => Ending::Rejected(rejection),
            Finish::Fallback => Ending::Fallback,
            _ => Ending::Failed(Outcome::Abandoned),
        }
    }

    /// Tells the machine how the request's body gets on.
    fn tell_of_body(&mut self, now: Instant) {
        let Some(tape) = &self.tape else { return };
        let (moved, waiting) = tape.progress();
        if moved != self.moved || waiting {
            self.moved = moved;
            self.call.on_event(now, Event::Progress, &mut commons(&self.home, self.upstream));
        }
        if !self.told_spent && tape.is_spent() {
            self.told_spent = true;
            self.call.on_event(now, Event::CannotRepeat, &mut commons(&self.home, self.upstream));
        }
    }

    /// It is the client's fault: however long the attempts have lasted, their guards settle them as abandoned.
    fn acquit(&mut self) {
        self.legs = Legs::default();
    }

    /// Whether the client has kept its own call waiting for too long.
    fn client_stalled(&self, now: Instant) -> Option<Ending> {
        let due = self.tape.as_ref()?.due(now);
        if due <= now {
            return Some(Ending::ClientStalled);
        }
        self.home.clock().wake_by(due);
        None
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.call.is_finished() {
            return;
        }
        let now = self.home.clock().now();
        // An attempt that waits for its caller's next bytes is not late.
        self.tell_of_body(now);
        let home = self.home.clone();
        let mut shared = commons(&home, self.upstream);
        self.call.on_event(now, Event::CallerGone, &mut shared);
        while let Action::Cancel { attempt, why } = self.call.next_action(now, &mut shared) {
            if let Some(mut leg) = self.legs.take(attempt) {
                leg.settle(now, why.outcome());
            }
        }
    }
}

/// What the calls to the upstream share. Not a method, as it is needed beside the call that is being changed.
fn commons(home: &Worker, upstream: usize) -> &Commons {
    &home.service(upstream).commons
}

fn is_grpc(answer: &Answer) -> bool {
    let kind = answer.parts.headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn classify(answer: &Answer) -> Outcome {
    let (status, headers) = (answer.parts.status, &answer.parts.headers);
    if headers.contains_key(names::GRPC_STATUS) {
        Grpc::response(status, headers)
    } else {
        Http::response(status, headers)
    }
}
