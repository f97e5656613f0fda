//! What is known of a key, and what follows from it for who asks again.

use core::fmt;
use core::time::Duration;

/// What a request was, in 32 bytes: two requests of one key have the same, or one of them is a mistake.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Which reservation of a key this is: 1 for the first, and more for each that follows while the key is remembered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

impl Token {
    /// The first.
    pub const FIRST: Self = Self(1);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far an operation has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Somebody carries it out, or died doing so.
    Running,
    /// It was begun, and nobody knows whether it had an effect.
    Unknown,
    /// It certainly had none, or an operator said so: whoever asks next begins anew.
    Free,
    /// It is over, and its result is kept.
    Done,
}

impl Phase {
    /// The phase's name in stores, listings and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Unknown => "unknown",
            Self::Free => "free",
            Self::Done => "done",
        }
    }

    /// The phase of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Running, Self::Unknown, Self::Free, Self::Done].into_iter().find(|phase| phase.name() == name)
    }
}

/// What a store keeps of a key, but for the result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// What was asked for.
    pub fingerprint: Fingerprint,
    /// Whose turn it is, or was.
    pub token: Token,
    /// How far it came.
    pub phase: Phase,
}

/// What becomes of a key of which nobody knows whether its operation had an effect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OnUnknown {
    /// It is answered as unknown until an operator releases it or its retention is over. The default: whatever the upstream is,
    /// nothing happens twice.
    #[default]
    Refuse,
    /// It is carried out again, under the same key and a higher token. For upstreams that know keys or tokens themselves.
    Retry,
}

/// What follows for who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The kept result is the answer.
    Replay,
    /// The key belongs to another request (422).
    Mismatch,
    /// It is being carried out (409); its lease ends in this much time at the latest.
    Busy(Duration),
    /// Nobody knows how it ended (409).
    Unknown,
    /// Carry it out, in place of whoever held this token.
    TakeOver(Token),
    /// Reserve it: the store has it free.
    Reserve,
}

/// What follows from a key's standing for a request of `fingerprint`. `lease` is what is left of the lease of a running
/// operation; `None` if it ran out or its owner is known to be gone.
#[must_use]
pub fn decide(
    standing: &Standing,
    fingerprint: Fingerprint,
    lease: Option<Duration>,
    on_unknown: OnUnknown,
) -> Decision {
    // What certainly had no effect binds nobody.
    if standing.phase == Phase::Free {
        return Decision::Reserve;
    }
    if standing.fingerprint != fingerprint {
        return Decision::Mismatch;
    }
    match (standing.phase, lease, on_unknown) {
        (Phase::Free, ..) => Decision::Reserve,
        (Phase::Done, ..) => Decision::Replay,
        (Phase::Running, Some(left), _) => Decision::Busy(left),
        (Phase::Running | Phase::Unknown, _, OnUnknown::Refuse) => Decision::Unknown,
        (Phase::Running | Phase::Unknown, _, OnUnknown::Retry) => Decision::TakeOver(standing.token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Fingerprint = Fingerprint([1; 32]);
    const OTHER: Fingerprint = Fingerprint([2; 32]);
    const LEFT: Option<Duration> = Some(Duration::from_secs(7));

    fn said(phase: Phase, asked: Fingerprint, lease: Option<Duration>, on_unknown: OnUnknown) -> Decision {
        decide(&Standing { fingerprint: ONE, token: Token(3), phase }, asked, lease, on_unknown)
    }

    #[test]
    fn what_is_done_is_replayed_whatever_else() {
        for on_unknown in [OnUnknown::Refuse, OnUnknown::Retry] {
            assert_eq!(said(Phase::Done, ONE, None, on_unknown), Decision::Replay);
            assert_eq!(said(Phase::Done, ONE, LEFT, on_unknown), Decision::Replay);
        }
    }

    #[test]
    fn another_request_is_a_mismatch_unless_the_key_is_free() {
        for phase in [Phase::Done, Phase::Running, Phase::Unknown] {
            assert_eq!(said(phase, OTHER, LEFT, OnUnknown::Retry), Decision::Mismatch);
        }
        assert_eq!(said(Phase::Free, OTHER, None, OnUnknown::Refuse), Decision::Reserve);
    }

    #[test]
    fn nobody_runs_beside_a_living_lease() {
        for on_unknown in [OnUnknown::Refuse, OnUnknown::Retry] {
            assert_eq!(said(Phase::Running, ONE, LEFT, on_unknown), Decision::Busy(Duration::from_secs(7)));
        }
    }

    #[test]
    fn the_unknown_is_refused_or_taken_over_by_choice() {
        for phase in [Phase::Running, Phase::Unknown] {
            assert_eq!(said(phase, ONE, None, OnUnknown::Refuse), Decision::Unknown);
            assert_eq!(said(phase, ONE, None, OnUnknown::Retry), Decision::TakeOver(Token(3)));
        }
    }

    #[test]
    fn phases_have_names_of_their_own() {
        for phase in [Phase::Running, Phase::Unknown, Phase::Free, Phase::Done] {
            assert_eq!(Phase::of(phase.name()), Some(phase));
        }
        assert_eq!(Phase::of("over"), None);
    }
}
