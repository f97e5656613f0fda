//! Recording what was decided, and deciding it again.
//!
//! A driver that records writes down every input of a call or a breaker and every decision that came back.
//! [`replay`] feeds the inputs to fresh machines and compares every decision. Nothing but the inputs is needed, as the
//! machines ask no clock and roll no die of their own. So a recording from a running program can be looked into on
//! any desk, and two drivers agree if each one's recordings replay.
//!
//! # The format, version 1
//!
//! Lines of UTF-8 text, words separated by one space. Times and durations are whole nanoseconds, `-` is "none". The
//! first line is `seaworthy-record 1`; a second recording may follow the first in one file, header and all. Empty lines
//! and lines that begin with `#` are comments. A machine is introduced once, under a number:
//!
//! ```text
//! call 1 deadline=30000000000 timeout=enforce retry=enforce attempts=3 base=25000000 cap=1000000000 jitter=full
//!        most_pushback=5000000000 hedge=off most_hedges=1 fallback=false                (in one line)
//! breaker 2 seed=7 mode=enforce consecutive_failures=5 failure_rate=0.5 slow_after=- slow_rate=1
//!        window=time:10000000000 minimum_calls=20 hung_after=10000000000 open_for=5000000000 open_growth=2
//!        open_at_most=60000000000 jitter=0.5 probes=1 successes_to_close=3 ramp=10000000000        (in one line)
//! ```
//!
//! Its further lines begin with that number and a sign: `>` is an input, `=` an answer that the call got of what it
//! shares with others, `<` a decision. Lines of different machines may mix; those of one are in order.
//!
//! A call:
//!
//! ```text
//! > start NOW DEADLINE REPEAT SEED                   REPEAT: safe, keyed, never
//! > event NOW refused ATTEMPT REJECTION
//! > event NOW head|ended ATTEMPT OUTCOME
//! > event NOW progress|cannot_repeat|caller_gone
//! > would_reject NOW ATTEMPT REJECTION
//! > next NOW
//! = learned TIMEOUT HEDGE_AFTER LATE TYPICAL
//! = withdraw retry|hedge true|false                  asking is the decision, the last word is the answer
//! < deposit
//! < observe took|above DURATION
//! < refund retry|hedge
//! < send ATTEMPT first|retry|hedge DUE
//! < cancel ATTEMPT WHY
//! < wait UNTIL
//! < finish answer|failed ATTEMPT OUTCOME
//! < finish rejected REJECTION
//! < finish fallback|gone
//! < why TEXT                                         after finish: the record that the caller gets
//! ```
//!
//! A breaker; a ticket is written as its generation, when it was issued, whether it is a probe's, and whether it has been
//! counted as overdue:
//!
//! ```text
//! > admit NOW
//! > overdue NOW TICKET
//! > settle NOW TICKET OUTCOME
//! > fold NOW SUCCESSES
//! > trip NOW CAUSE NOT_SLOWER_THAN
//! > force NOW open|closed|-
//! > reconfigure mode=enforce consecutive_failures=5 ...     all of it again, but for the seed
//! < ticket GENERATION REJECTION                             the rejection is one that only was observed
//! < rejected REJECTION
//! < change FROM TO CAUSE                                    or `-` after overdue, settle, trip and force: none
//! ```
//!
//! `OUTCOME` is `success`, `ignored`, `abandoned`, `overloaded:PUSHBACK` or `failure:KIND:PUSHBACK`, with `PUSHBACK` one
//! of `unsaid`, `never`, or nanoseconds. `REJECTION` is `policy:reason:RETRY_AFTER`.
//!
//! What a reader of version 1 does not know is an error with the number of the line; what changes the meaning of a line
//! gets a new version.

mod breaker;
mod call;
mod error;
mod replay;
mod text;

use alloc::string::String;
use core::fmt::{self, Write as _};

pub use breaker::RecordedBreaker;
pub use call::RecordedCall;
pub use error::ReplayError;
pub use replay::{Replayed, replay};

use crate::Valid;

/// The first line of every recording.
pub const HEADER: &str = "seaworthy-record 1";

/// What was recorded of one machine and not yet taken away.
///
/// ```
/// use seaworthy_core::call::{Action, Commons, Config, Event, Plan, Start};
/// use seaworthy_core::record::{HEADER, RecordedCall, Tape, replay};
/// use seaworthy_core::{Instant, Outcome, Valid};
///
/// let config = Valid::new(Config::default()).unwrap();
/// let mut shared = Commons::new(config);
/// let now = Instant::ZERO;
/// let tape = Tape::call(1, &config);
/// let mut call = RecordedCall::start(Plan::new(&config), now, Start::default(), &mut shared, Some(tape));
/// assert!(matches!(call.next_action(now, &mut shared), Action::Send { attempt: 1, .. }));
/// call.on_event(now, Event::Head { attempt: 1, outcome: Outcome::Success }, &mut shared);
/// assert!(matches!(call.next_action(now, &mut shared), Action::Finish(_)));
///
/// let recording = format!("{HEADER}\n{}", call.take());
/// assert_eq!(replay(&recording).unwrap().calls, 1);
/// assert!(replay(&recording.replace("finish answer 1", "finish answer 2")).is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Tape {
    id: u64,
    text: String,
}

impl Tape {
    /// The tape of a call with this configuration. `id` tells it from the other machines of the recording.
    #[must_use]
    pub fn call(id: u64, config: &Valid<crate::call::Config>) -> Self {
        Self { id, text: text::call_header(id, config) }
    }

    /// Takes what was recorded since the last time: whole lines.
    #[must_use]
    pub fn take(&mut self) -> String {
        core::mem::take(&mut self.text)
    }

    fn line(&mut self, sign: char, what: impl fmt::Display) {
        // Writing into a String can't fail.
        let _ = writeln!(self.text, "{} {sign} {what}", self.id);
    }
}

#[cfg(test)]
mod tests;
