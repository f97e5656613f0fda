//! How much a call matters when not all can be served.

use core::fmt;
use core::str::FromStr;

/// How much a call matters when not all can be served; the greater matters more.
///
/// The four levels of Google's "Site Reliability Engineering" (2016), chapter 21. They are set where a call enters the system
/// and passed on with it, for only there is it known what the call is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Criticality {
    /// May fail for hours: batch work that is tried again anyway.
    Sheddable,
    /// May fail for minutes: prefetching, refreshing, recommendations.
    SheddablePlus,
    /// A user sees it fail. What nobody has said anything about is taken for this.
    #[default]
    Critical,
    /// What must not fail: the checkout. If most calls are this, none is.
    CriticalPlus,
}

impl Criticality {
    /// All levels, the most critical first.
    pub const ALL: [Self; 4] = [Self::CriticalPlus, Self::Critical, Self::SheddablePlus, Self::Sheddable];

    /// Its name in configuration, headers, metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CriticalPlus => "critical-plus",
            Self::Critical => "critical",
            Self::SheddablePlus => "sheddable-plus",
            Self::Sheddable => "sheddable",
        }
    }

    /// Its place in [`ALL`](Self::ALL): 0 for the most critical.
    #[must_use]
    pub const fn rank(self) -> usize {
        3 - self as usize
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Criticality {
    type Err = UnknownCriticality;

    /// By its name, in any case, with a hyphen, an underscore or `+` for the "plus".
    fn from_str(text: &str) -> Result<Self, UnknownCriticality> {
        let text = text.trim();
        let (stem, plus) = match text.as_bytes() {
            [stem @ .., b'+'] => (stem, true),
            [stem @ .., b'-' | b'_', b'p' | b'P', b'l' | b'L', b'u' | b'U', b's' | b'S'] => (stem, true),
            all => (all, false),
        };
        if stem.eq_ignore_ascii_case(b"critical") {
            Ok(if plus { Self::CriticalPlus } else { Self::Critical })
        } else if stem.eq_ignore_ascii_case(b"sheddable") {
            Ok(if plus { Self::SheddablePlus } else { Self::Sheddable })
        } else {
            Err(UnknownCriticality(()))
        }
    }
}

/// A text that names no [`Criticality`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct UnknownCriticality(());

impl fmt::Display for UnknownCriticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names no criticality; there are critical-plus, critical, sheddable-plus and sheddable")
    }
}

impl core::error::Error for UnknownCriticality {}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;
    use std::string::ToString;

    use super::*;

    #[test]
    fn each_name_names_its_level() {
        for (rank, level) in Criticality::ALL.into_iter().enumerate() {
            assert_eq!(level.to_string().parse(), Ok(level));
            assert_eq!(level.name().to_uppercase().replace('-', "_").parse(), Ok(level));
            assert_eq!(level.rank(), rank);
        }
        assert_eq!(" Critical+ ".parse(), Ok(Criticality::CriticalPlus));
        assert!(Criticality::ALL.is_sorted_by(|a, b| a > b));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "+", "-plus", "critical++", "critical-plus-plus", "kritisch"] {
            assert!(text.parse::<Criticality>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Criticality>();
        }
    }
}
