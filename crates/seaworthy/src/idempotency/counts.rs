//! How often each thing has happened.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Begun,
    TakenOver,
    Replayed,
    Mismatched,
    Busy,
    Unknown,
    Down,
    Unrecorded,
    Fenced,
    Untold,
}

const ALL: [Count; 10] = [
    Count::Begun,
    Count::TakenOver,
    Count::Replayed,
    Count::Mismatched,
    Count::Busy,
    Count::Unknown,
    Count::Down,
    Count::Unrecorded,
    Count::Fenced,
    Count::Untold,
];

/// What [`Keys::counts`](super::Keys::counts) counts, in its order. `down` are those that were not carried out as the store could
/// not be asked, or has lost the result. `untold` are the ends of operations that the store was not told, as it was down for too
/// long, and reservations that nobody had heard of and that could not be given back: they are unknown.
pub const COUNTED: [&str; ALL.len()] = {
    let mut names = [""; ALL.len()];
    let mut n = 0;
    while n < ALL.len() {
        names[ALL[n] as usize] = ALL[n].name();
        n += 1;
    }
    names
};

impl Count {
    const fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::TakenOver => "taken_over",
            Self::Replayed => "replayed",
            Self::Mismatched => "mismatched",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
            Self::Down => "down",
            Self::Unrecorded => "unrecorded",
            Self::Fenced => "fenced",
            Self::Untold => "untold",
        }
    }
}

/// The counters, in the order of [`COUNTED`].
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; ALL.len()]);

impl Counts {
    pub(super) fn add(&self, what: Count) {
        self.0[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> [u64; ALL.len()] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_under_its_own_name() {
        for what in ALL {
            let counts = Counts::default();
            counts.add(what);
            let counted: Vec<_> = COUNTED.iter().zip(counts.read()).filter(|(_, count)| *count > 0).collect();
            assert_eq!(counted, [(&what.name(), 1)]);
        }
    }
}
