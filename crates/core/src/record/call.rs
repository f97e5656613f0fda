//! A call that is recorded, or not.

use core::ops::Deref;

use alloc::boxed::Box;
use alloc::string::String;

use super::Tape;
use super::text::As;
use crate::call::{Action, Call, Event, Extra, Learned, Plan, Sample, Shared, Start};
use crate::{Instant, Rejection, Why};

/// A [`Call`] with the same methods, which writes down what passes through them if it has a [`Tape`]. Without one it
/// costs a pointer and a branch.
#[derive(Clone, Debug)]
pub struct RecordedCall {
    call: Call,
    tape: Option<Box<Tape>>,
}

impl RecordedCall {
    /// [`Call::start`]. The tape, if there is one, is that of the configuration that the plan was made of.
    #[must_use]
    pub fn start(
        plan: Plan,
        now: Instant,
        start: Start,
        shared: &mut impl Shared,
        tape: Option<Tape>,
    ) -> Self {
        let mut tape = tape.map(Box::new);
        let call = match &mut tape {
            None => Call::start(plan, now, start, shared),
            Some(tape) => {
                tape.line('>', format_args!("start {} {}", As(now), As(start)));
                Call::start(plan, now, start, &mut Listening { shared, tape })
            }
        };
        Self { call, tape }
    }

    /// [`Call::on_event`].
    pub fn on_event(&mut self, now: Instant, event: Event, shared: &mut impl Shared) {
        match &mut self.tape {
            None => self.call.on_event(now, event, shared),
            Some(tape) => {
                tape.line('>', format_args!("event {} {}", As(now), As(event)));
                self.call.on_event(now, event, &mut Listening { shared, tape });
            }
        }
    }

    /// [`Call::next_action`].
    pub fn next_action(&mut self, now: Instant, shared: &mut impl Shared) -> Action {
        let Some(tape) = &mut self.tape else { return self.call.next_action(now, shared) };
        tape.line('>', format_args!("next {}", As(now)));
        let action = self.call.next_action(now, &mut Listening { shared, tape });
        tape.line('<', As(action));
        if matches!(action, Action::Finish(_)) {
            tape.line('<', format_args!("why {}", self.call.why()));
        }
        action
    }

    /// [`Call::would_reject`].
    pub fn would_reject(&mut self, now: Instant, attempt: u8, rejection: Rejection) {
        if let Some(tape) = &mut self.tape {
            tape.line('>', format_args!("would_reject {} {attempt} {}", As(now), As(rejection)));
        }
        self.call.would_reject(now, attempt, rejection);
    }

    /// [`Call::take_why`].
    pub fn take_why(&mut self) -> Why {
        self.call.take_why()
    }

    /// Takes what was recorded since the last time: whole lines; nothing if there is no tape.
    #[must_use]
    pub fn take(&mut self) -> String {
        self.tape.as_mut().map(|tape| tape.take()).unwrap_or_default()
    }

    /// The call itself, to go on unrecorded or to be taken apart.
    #[must_use]
    pub fn into_inner(self) -> Call {
        self.call
    }
}

impl Deref for RecordedCall {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.call
    }
}

/// What a call shares with others, with an ear at the door.
struct Listening<'a, S> {
    shared: &'a mut S,
    tape: &'a mut Tape,
}

impl<S: Shared> Shared for Listening<'_, S> {
    fn learned(&mut self, now: Instant) -> Learned {
        let learned = self.shared.learned(now);
        self.tape.line('=', format_args!("learned {}", As(learned)));
        learned
    }

    fn observe(&mut self, now: Instant, sample: Sample) {
        self.tape.line('<', format_args!("observe {}", As(sample)));
        self.shared.observe(now, sample);
    }

    fn deposit(&mut self, now: Instant) {
        self.tape.line('<', "deposit");
        self.shared.deposit(now);
    }

    fn withdraw(&mut self, now: Instant, extra: Extra) -> bool {
        let granted = self.shared.withdraw(now, extra);
        self.tape.line('=', format_args!("withdraw {} {granted}", As(extra).name()));
        granted
    }

    fn refund(&mut self, now: Instant, extra: Extra) {
        self.tape.line('<', format_args!("refund {}", As(extra).name()));
        self.shared.refund(now, extra);
    }
}
