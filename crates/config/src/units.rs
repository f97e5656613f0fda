//! Durations and sizes as people write them: `"250ms"`, `"1m30s"`, `"64KiB"`.

use std::fmt;
use std::time::Duration;

/// Why a text is no duration, or no size.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct UnitError {
    /// What is wrong, as the end of a sentence that the setting begins.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it {}: {}", self.problem, self.remedy)
    }
}

impl std::error::Error for UnitError {}

/// Reads a duration: whole numbers, each with its unit (`h`, `m`, `s`, `ms`, `us`, `ns`), largest first, as in `"1m30s"`.
///
/// # Errors
/// If the text is anything else, or describes more than [`LONGEST`].
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let nanos = parse(text, &TIME, DURATION_REMEDY)?;
    let longest = LONGEST.as_nanos();
    if nanos > longest {
        let remedy = "the longest duration is \"8760h\", a year".to_owned();
        return Err(UnitError { problem: format!("is {text:?}, which is too long"), remedy });
    }
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

/// Reads a size in bytes: a whole number with `B`, `KiB`, `MiB` or `GiB`.
///
/// # Errors
/// If the text is anything else, or describes more than `u64::MAX` bytes.
pub fn size(text: &str) -> Result<u64, UnitError> {
    let bytes = parse(text, &SPACE, SIZE_REMEDY)?;
    u64::try_from(bytes).map_err(|_| UnitError {
        problem: format!("is {text:?}, which is too large"),
        remedy: SIZE_REMEDY.to_owned(),
    })
}

/// Writes a duration so that [`duration`] reads the same one.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    show(duration.as_nanos(), &TIME, "0s")
}

/// Writes a size so that [`size`] reads the same one.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let (unit, each) =
        SPACE.iter().find(|(_, each)| u128::from(bytes).is_multiple_of(*each)).unwrap_or(&("B", 1));
    if bytes == 0 { "0B".to_owned() } else { format!("{}{unit}", u128::from(bytes) / each) }
}

fn parse(text: &str, units: &[(&str, u128)], remedy: &str) -> Result<u128, UnitError> {
    let fail = |problem: String, remedy: &str| UnitError { problem, remedy: remedy.to_owned() };
    if text.starts_with('-') {
        return Err(fail(format!("is {text:?}, which is below zero"), remedy));
    }
    let mut rest = text;
    let mut left = units;
    let mut total: u128 = 0;
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        if number.is_empty() {
            return Err(fail(format!("is {text:?}, which has no number in front of its unit"), remedy));
        }
        if unit.is_empty() && after.is_empty() {
            return Err(fail(format!("is {text:?}, which has no unit"), remedy));
        }
        let Some(at) = left.iter().position(|(name, _)| *name == unit) else {
            return Err(unknown_unit(text, unit, units, remedy));
        };
        let amount: Option<u128> = number.parse().ok().and_then(|n: u128| n.checked_mul(left[at].1));
        total = amount
            .and_then(|amount| total.checked_add(amount))
            .ok_or_else(|| fail(format!("is {text:?}, which is too much"), remedy))?;
        if after.is_empty() {
            return Ok(total);
        }
        left = &left[at + 1..];
        rest = after;
    }
}

fn unknown_unit(text: &str, unit: &str, units: &[(&str, u128)], remedy: &str) -> UnitError {
    let problem = if unit.is_empty() {
        format!("is {text:?}, which is not a whole number with a unit")
    } else if units.iter().any(|(name, _)| *name == unit) {
        format!("is {text:?}, whose units are not in order, the largest first and each once")
    } else {
        let near = crate::nearest::nearest(unit, units.iter().map(|(name, _)| *name));
        let meant = near.map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default();
        format!("is {text:?}, with the unknown unit {unit:?}{meant}")
    };
    UnitError { problem, remedy: remedy.to_owned() }
}

fn show(mut amount: u128, units: &[(&str, u128)], zero: &str) -> String {
    let mut text = String::new();
    for (unit, each) in units {
        if amount >= *each {
            text.push_str(&format!("{}{unit}", amount / each));
            amount %= each;
        }
    }
    if text.is_empty() { zero.to_owned() } else { text }
}

/// The longest duration that is read: a year of 365 days. What is longer is a slip of the keyboard, and sums of a few stay
/// far from overflow.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// The units of time in nanoseconds, largest first.
const TIME: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
/// The units of size in bytes, largest first.
const SPACE: [(&str, u128); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const DURATION_REMEDY: &str = "write a duration such as \"250ms\", \"2s\" or \"1m30s\"";
const SIZE_REMEDY: &str = "write a size such as \"64KiB\" or \"1MiB\"";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, nanos) in
            [("250ms", 250_000_000), ("2s", 2_000_000_000), ("1m30s", 90_000_000_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        assert_eq!(duration("8760h"), Ok(LONGEST));
    }

    #[test]
    fn what_is_no_duration_says_why() {
        let problems: Vec<String> = [
            "",
            "250",
            "ms",
            "1.5s",
            "2sec",
            "30s1m",
            "1s1s",
            "-1s",
            " 1s",
            "8760h1ns",
            "99999999999999999999999999999999999999h",
        ]
        .iter()
        .map(|text| duration(text).unwrap_err().problem)
        .collect();
        insta::assert_snapshot!(problems.join("\n"));
    }

    #[test]
    fn what_is_no_size_says_why() {
        let problems: Vec<String> = ["64", "64KB", "64kib", "1.5MiB", "99999999999999GiB"]
            .iter()
            .map(|text| size(text).unwrap_err().problem)
            .collect();
        insta::assert_snapshot!(problems.join("\n"));
    }

    proptest! {
        #[test]
        fn a_shown_duration_is_read_back(nanos in 0..=31_536_000_000_000_000u64) {
            let d = Duration::from_nanos(nanos);
            prop_assert_eq!(duration(&show_duration(d)), Ok(d));
        }

        #[test]
        fn a_shown_size_is_read_back(bytes: u64) {
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-zA-Z. é-]{0,40}") {
            let _ = duration(&text);
            let _ = size(&text);
        }
    }
}
