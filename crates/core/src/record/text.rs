//! The words of the format: each is written by `Display` and read by [`Word::read`].

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Display, Formatter};
use core::str::FromStr;
use core::time::Duration;

use crate::call::retry::{self, Jitter};
use crate::call::{Action, CancelWhy, Config, Event, Extra, Finish, Kind, Learned, Repeat, Sample, Start};
use crate::call::{hedge, timeout};
use crate::gate::breaker::{self, Cause, Change, Force, Ticket, Window};
use crate::{Failure, Instant, Mode, Outcome, Policy, Pushback, Reason, Rejection, Valid};

/// How the format writes a value.
pub(super) struct As<T>(pub(super) T);

/// What can be read back from one word.
pub(super) trait Word: Sized {
    /// `None` if the word is something else.
    fn read(word: &str) -> Option<Self>;
}

pub(super) fn call_header(id: u64, config: &Valid<Config>) -> String {
    let (retry, hedge) = (config.retry, config.hedge);
    format!(
        "call {id} deadline={} timeout={} retry={} attempts={} base={} cap={} jitter={} most_pushback={} hedge={} \
         most_hedges={} fallback={}\n",
        As(config.deadline),
        config.timeout.mode.name(),
        retry.mode.name(),
        retry.attempts,
        As(retry.base),
        As(retry.cap),
        retry.jitter.name(),
        As(retry.most_pushback),
        hedge.mode.name(),
        hedge.most,
        config.fallback,
    )
}

/// Reads what [`call_header`] wrote after the number. Only what the machine of a call reads of its configuration is
/// recorded; the rest stays at its defaults.
pub(super) fn read_call_config<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Config, String> {
    Ok(Config {
        deadline: field(words, "deadline")?,
        timeout: timeout::Config { mode: field(words, "timeout")?, ..timeout::Config::default() },
        retry: retry::Config {
            mode: field(words, "retry")?,
            attempts: field(words, "attempts")?,
            base: field(words, "base")?,
            cap: field(words, "cap")?,
            jitter: field(words, "jitter")?,
            most_pushback: field(words, "most_pushback")?,
        },
        hedge: hedge::Config {
            mode: field(words, "hedge")?,
            most: field(words, "most_hedges")?,
            ..hedge::Config::default()
        },
        fallback: field(words, "fallback")?,
        ..Config::default()
    })
}

pub(super) fn breaker_header(id: u64, config: &Valid<breaker::Config>, seed: u64) -> String {
    format!("breaker {id} seed={seed} {}\n", As(**config))
}

impl Display for As<breaker::Config> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let c = &self.0;
        write!(f, "mode={} consecutive_failures={} ", c.mode.name(), As(c.consecutive_failures))?;
        write!(f, "failure_rate={} slow_after={} ", As(c.failure_rate), As(c.slow_after))?;
        write!(f, "slow_rate={} window={} minimum_calls={} ", c.slow_rate, As(c.window), c.minimum_calls)?;
        write!(f, "hung_after={} open_for={} ", As(c.hung_after), As(c.open_for))?;
        write!(f, "open_growth={} open_at_most={} ", c.open_growth, As(c.open_at_most))?;
        write!(f, "jitter={} probes={} ", c.jitter, c.probes)?;
        write!(f, "successes_to_close={} ramp={}", c.successes_to_close, As(c.ramp))
    }
}

/// Reads what the numbers of a breaker were written as.
pub(super) fn read_breaker_config<'a>(
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<breaker::Config, String> {
    Ok(breaker::Config {
        mode: field(words, "mode")?,
        consecutive_failures: field(words, "consecutive_failures")?,
        failure_rate: field(words, "failure_rate")?,
        slow_after: field(words, "slow_after")?,
        slow_rate: field(words, "slow_rate")?,
        window: field(words, "window")?,
        minimum_calls: field(words, "minimum_calls")?,
        hung_after: field(words, "hung_after")?,
        open_for: field(words, "open_for")?,
        open_growth: field(words, "open_growth")?,
        open_at_most: field(words, "open_at_most")?,
        jitter: field(words, "jitter")?,
        probes: field(words, "probes")?,
        successes_to_close: field(words, "successes_to_close")?,
        ramp: field(words, "ramp")?,
    })
}

/// The value of the next word, which must be `name=value`.
pub(super) fn field<'a, T: Word>(words: &mut impl Iterator<Item = &'a str>, name: &str) -> Result<T, String> {
    let word = words.next().ok_or_else(|| format!("ends before {name}="))?;
    let value = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
    let value = value.ok_or_else(|| format!("has {word:?} where {name}= belongs"))?;
    T::read(value).ok_or_else(|| format!("has {value:?} as its {name}"))
}

/// The next word, which must be a `what`.
pub(super) fn word<'a, T: Word>(words: &mut impl Iterator<Item = &'a str>, what: &str) -> Result<T, String> {
    let word = words.next().ok_or_else(|| format!("ends before its {what}"))?;
    T::read(word).ok_or_else(|| format!("has {word:?} where its {what} belongs"))
}

/// An error unless all words were read.
pub(super) fn end<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<(), String> {
    match words.next() {
        None => Ok(()),
        Some(word) => Err(format!("goes on with {word:?}")),
    }
}

// Numbers.

impl Display for As<Duration> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        crate::nanos(self.0).fmt(f)
    }
}

impl Display for As<Instant> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.as_nanos().fmt(f)
    }
}

impl<T: Copy> Display for As<Option<T>>
where
    As<T>: Display,
{
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => As(value).fmt(f),
            None => f.write_str("-"),
        }
    }
}

impl<T: Word> Word for Option<T> {
    fn read(word: &str) -> Option<Self> {
        if word == "-" { Some(None) } else { T::read(word).map(Some) }
    }
}

impl Word for Duration {
    fn read(word: &str) -> Option<Self> {
        u64::read(word).map(Self::from_nanos)
    }
}

impl Word for Instant {
    fn read(word: &str) -> Option<Self> {
        u64::read(word).map(Self::from_nanos)
    }
}

macro_rules! plain {
    ($($type:ty),+) => {$(
        impl Display for As<$type> {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Word for $type {
            fn read(word: &str) -> Option<Self> {
                // Rust reads more spellings than it writes ("+1", "1.0"); a recording has one for each value.
                Self::from_str(word).ok().filter(|value| format!("{value}") == word)
            }
        }
    )+};
}
plain!(u8, u32, u64, f64, bool);

// Names.

macro_rules! named {
    ($type:ty, $name:expr, $($variant:ident),+) => {
        impl Word for $type {
            fn read(word: &str) -> Option<Self> {
                let name: fn(&$type) -> &'static str = $name;
                // What is forgotten here could be written and not read.
                const _: fn(&$type) = |value| match value {
                    $(<$type>::$variant)|+ => (),
                };
                [$(<$type>::$variant),+].into_iter().find(|value| name(value) == word)
            }
        }
    };
}
named!(Mode, |m| m.name(), Enforce, Observe, Off);
named!(Jitter, |j| j.name(), None, Full, Equal, Decorrelated);
named!(Failure, |f| f.name(), Connect, Unprocessed, Timeout, Broken, Error);
named!(
    Policy,
    |p| p.name(),
    Breaker,
    Limit,
    Bulkhead,
    Timeout,
    Retry,
    Hedge,
    Fallback,
    Deadline,
    Balancer,
    Queue,
    Rate,
    Throttle
);
named!(
    Reason,
    |r| r.name(),
    Open,
    Probing,
    Ramping,
    Forced,
    Full,
    QueueFull,
    WaitedTooLong,
    DeadlinePassed,
    DeadlineTooShort,
    BudgetSpent,
    AttemptsSpent,
    NotRepeatable,
    BodyTooLarge,
    ToldNotTo,
    NotRetryable,
    NoEndpoint,
    Shed,
    RateExceeded,
    Throttled,
    StoreDown
);
named!(Repeat, |r| As(*r).name(), Safe, Keyed, Never);

impl As<Repeat> {
    const fn name(&self) -> &'static str {
        match self.0 {
            Repeat::Safe => "safe",
            Repeat::Keyed => "keyed",
            Repeat::Never => "never",
        }
    }
}

impl As<Extra> {
    pub(super) const fn name(&self) -> &'static str {
        match self.0 {
            Extra::Retry => Kind::Retry.name(),
            Extra::Hedge => Kind::Hedge.name(),
        }
    }
}

named!(Force, |f| As(*f).name(), Open, Closed);

impl As<Force> {
    const fn name(&self) -> &'static str {
        match self.0 {
            Force::Open => "open",
            Force::Closed => "closed",
        }
    }
}

named!(
    Cause,
    |c| c.name(),
    ConsecutiveFailures,
    FailureRate,
    SlowRate,
    ErrorOutlier,
    LatencyOutlier,
    WaitOver,
    ProbeFailed,
    ProbeHung,
    Probed,
    RampOver,
    Forced
);

const fn cancel_name(why: CancelWhy) -> &'static str {
    match why {
        CancelWhy::TimedOut => "timed_out",
        CancelWhy::DeadlinePassed => "deadline_passed",
        CancelWhy::DeadlineShort => "deadline_short",
        CancelWhy::LostTheRace => "lost_the_race",
        CancelWhy::Superseded => "superseded",
        CancelWhy::CallerGone => "caller_gone",
        CancelWhy::GivenUp => "given_up",
    }
}

// The vocabulary.

impl Display for As<Pushback> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Pushback::Unsaid => f.write_str("unsaid"),
            Pushback::Never => f.write_str("never"),
            Pushback::After(wait) => As(wait).fmt(f),
        }
    }
}

impl Word for Pushback {
    fn read(word: &str) -> Option<Self> {
        match word {
            "unsaid" => Some(Self::Unsaid),
            "never" => Some(Self::Never),
            wait => Duration::read(wait).map(Self::After),
        }
    }
}

impl Display for As<Outcome> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Success => f.write_str("success"),
            Outcome::Failure(failure, pushback) => write!(f, "failure:{}:{}", failure.name(), As(pushback)),
            Outcome::Overloaded(pushback) => write!(f, "overloaded:{}", As(pushback)),
            Outcome::Ignored => f.write_str("ignored"),
            Outcome::Abandoned => f.write_str("abandoned"),
        }
    }
}

impl Word for Outcome {
    fn read(word: &str) -> Option<Self> {
        match word {
            "success" => Some(Self::Success),
            "ignored" => Some(Self::Ignored),
            "abandoned" => Some(Self::Abandoned),
            _ => match word.split_once(':')? {
                ("overloaded", pushback) => Some(Self::Overloaded(Word::read(pushback)?)),
                ("failure", rest) => {
                    let (failure, pushback) = rest.split_once(':')?;
                    Some(Self::Failure(Word::read(failure)?, Word::read(pushback)?))
                }
                _ => None,
            },
        }
    }
}

impl Display for As<Rejection> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Rejection { policy, reason, retry_after } = self.0;
        write!(f, "{}:{}:{}", policy.name(), reason.name(), As(retry_after))
    }
}

impl Word for Rejection {
    fn read(word: &str) -> Option<Self> {
        let (policy, rest) = word.split_once(':')?;
        let (reason, retry_after) = rest.split_once(':')?;
        let rejection = Self::new(Word::read(policy)?, Word::read(reason)?);
        Some(Self { retry_after: Word::read(retry_after)?, ..rejection })
    }
}

// Lines of a call.

impl Display for As<Start> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Start { deadline, repeat, seed } = self.0;
        write!(f, "{} {} {seed}", As(deadline), As(repeat).name())
    }
}

impl Display for As<Event> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Event::Refused { attempt, rejection } => write!(f, "refused {attempt} {}", As(rejection)),
            Event::Head { attempt, outcome } => write!(f, "head {attempt} {}", As(outcome)),
            Event::Ended { attempt, outcome } => write!(f, "ended {attempt} {}", As(outcome)),
            Event::Progress => f.write_str("progress"),
            Event::CannotRepeat => f.write_str("cannot_repeat"),
            Event::CallerGone => f.write_str("caller_gone"),
        }
    }
}

pub(super) fn read_event<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Event, String> {
    let kind = words.next().unwrap_or_default();
    Ok(match kind {
        "progress" => Event::Progress,
        "cannot_repeat" => Event::CannotRepeat,
        "caller_gone" => Event::CallerGone,
        "refused" => {
            Event::Refused { attempt: word(words, "attempt")?, rejection: word(words, "rejection")? }
        }
        "head" => Event::Head { attempt: word(words, "attempt")?, outcome: word(words, "outcome")? },
        "ended" => Event::Ended { attempt: word(words, "attempt")?, outcome: word(words, "outcome")? },
        _ => return Err(format!("has the unknown event {kind:?}")),
    })
}

impl Display for As<Action> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Action::Send { attempt, kind, due } => write!(f, "send {attempt} {} {}", kind.name(), As(due)),
            Action::Cancel { attempt, why } => write!(f, "cancel {attempt} {}", cancel_name(why)),
            Action::Wait(until) => write!(f, "wait {}", As(until)),
            Action::Finish(finish) => write!(f, "finish {}", As(finish)),
        }
    }
}

impl Display for As<Finish> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Finish::Answer { attempt, outcome } => write!(f, "answer {attempt} {}", As(outcome)),
            Finish::Failed { attempt, outcome } => write!(f, "failed {attempt} {}", As(outcome)),
            Finish::Rejected(rejection) => write!(f, "rejected {}", As(rejection)),
            Finish::Fallback => f.write_str("fallback"),
            Finish::Gone => f.write_str("gone"),
        }
    }
}

impl Display for As<Learned> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Learned { timeout, hedge_after, late, typical } = self.0;
        write!(f, "{} {} {} {}", As(timeout), As(hedge_after), As(late), As(typical))
    }
}

impl Display for As<Sample> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Sample::Took(latency) => write!(f, "took {}", As(latency)),
            Sample::Above(age) => write!(f, "above {}", As(age)),
        }
    }
}

// Lines of a breaker.

impl Display for As<Window> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Window::Time(time) => write!(f, "time:{}", As(time)),
            Window::Count(calls) => write!(f, "count:{calls}"),
        }
    }
}

impl Word for Window {
    fn read(word: &str) -> Option<Self> {
        match word.split_once(':')? {
            ("time", time) => Some(Self::Time(Word::read(time)?)),
            // A window holds two bits a call: what a recording asks for must not exhaust the memory.
            ("count", calls) => u32::read(calls).filter(|calls| *calls <= MOST_CALLS).map(Self::Count),
            _ => None,
        }
    }
}

impl Display for As<Force> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Display for As<Change> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Change { from, to, cause, .. } = self.0;
        write!(f, "change {} {} {}", from.name(), to.name(), cause.name())
    }
}

/// A ticket is written as generation, time of admission, whether it is a probe's, and whether it has been counted as hung.
impl Display for As<&Ticket> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (probe, counted) = self.0.marks();
        write!(f, "{} {} {probe} {counted}", self.0.generation(), As(self.0.admitted()))
    }
}

/// The longest window of calls that is read: a million, a quarter of a megabyte.
const MOST_CALLS: u32 = 1_000_000;
