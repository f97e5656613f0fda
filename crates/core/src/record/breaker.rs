//! A breaker that is recorded, or not.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::ops::Deref;
use core::time::Duration;

use super::Tape;
use super::text::{self, As};
use crate::gate::breaker::{Breaker, Cause, Change, Config, Force, Ticket};
use crate::{Instant, Outcome, Rejection, Valid};

/// A [`Breaker`] with the same methods, which writes down what passes through them if it has a [`Tape`].
#[derive(Clone, Debug)]
pub struct RecordedBreaker {
    breaker: Breaker,
    tape: Option<Box<Tape>>,
}

impl RecordedBreaker {
    /// [`Breaker::new`], recorded under the number `id`, or not at all.
    #[must_use]
    pub fn new(config: Valid<Config>, seed: u64, id: Option<u64>) -> Self {
        let tape = id.map(|id| Box::new(Tape { id, text: text::breaker_header(id, &config, seed) }));
        Self { breaker: Breaker::new(config, seed), tape }
    }

    /// [`Breaker::reconfigure`].
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        self.line('>', format_args!("reconfigure {}", As(*config)));
        self.breaker.reconfigure(config);
    }

    /// [`Breaker::admit`].
    ///
    /// # Errors
    /// The refusal.
    pub fn admit(&mut self, now: Instant) -> Result<Ticket, Rejection> {
        self.line('>', format_args!("admit {}", As(now)));
        let answer = self.breaker.admit(now);
        if let Some(tape) = &mut self.tape {
            tape.line('<', Admitted(&answer));
        }
        answer
    }

    /// [`Breaker::overdue`].
    pub fn overdue(&mut self, now: Instant, ticket: &mut Ticket) -> Option<Change> {
        if let Some(tape) = &mut self.tape {
            tape.line('>', format_args!("overdue {} {}", As(now), As(&*ticket)));
        }
        let change = self.breaker.overdue(now, ticket);
        self.changed(change)
    }

    /// [`Breaker::settle`].
    pub fn settle(&mut self, now: Instant, ticket: Ticket, outcome: Outcome) -> Option<Change> {
        if let Some(tape) = &mut self.tape {
            tape.line('>', format_args!("settle {} {} {}", As(now), As(&ticket), As(outcome)));
        }
        let change = self.breaker.settle(now, ticket, outcome);
        self.changed(change)
    }

    /// [`Breaker::fold`].
    pub fn fold(&mut self, now: Instant, successes: u32) {
        self.line('>', format_args!("fold {} {successes}", As(now)));
        self.breaker.fold(now, successes);
    }

    /// [`Breaker::trip`].
    pub fn trip(&mut self, now: Instant, cause: Cause, not_slower_than: Option<Duration>) -> Option<Change> {
        self.line('>', format_args!("trip {} {} {}", As(now), cause.name(), As(not_slower_than)));
        let change = self.breaker.trip(now, cause, not_slower_than);
        self.changed(change)
    }

    /// [`Breaker::force`].
    pub fn force(&mut self, now: Instant, force: Option<Force>) -> Option<Change> {
        self.line('>', format_args!("force {} {}", As(now), As(force)));
        let change = self.breaker.force(now, force);
        self.changed(change)
    }

    /// Takes what was recorded since the last time: whole lines; nothing if it is not recorded.
    #[must_use]
    pub fn take(&mut self) -> String {
        self.tape.as_mut().map(|tape| tape.take()).unwrap_or_default()
    }

    fn changed(&mut self, change: Option<Change>) -> Option<Change> {
        self.line('<', As(change));
        change
    }

    fn line(&mut self, sign: char, what: impl fmt::Display) {
        if let Some(tape) = &mut self.tape {
            tape.line(sign, what);
        }
    }
}

impl Deref for RecordedBreaker {
    type Target = Breaker;

    fn deref(&self) -> &Breaker {
        &self.breaker
    }
}

/// How the answer to [`Breaker::admit`] is written.
pub(super) struct Admitted<'a>(pub(super) &'a Result<Ticket, Rejection>);

impl fmt::Display for Admitted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(ticket) => write!(f, "ticket {} {}", ticket.generation(), As(ticket.shadow())),
            Err(rejection) => write!(f, "rejected {}", As(*rejection)),
        }
    }
}
