//! Lengths of time on the command line.

use std::time::Duration;

/// Reads a whole number of milliseconds, seconds, minutes or hours: 500ms, 45s, 2m, 1h.
pub(crate) fn any(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 45s or 2m");
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..unit].parse().map_err(|_| wrong())?;
    let millis = match &text[unit..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_units() {
        assert_eq!(any("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(any("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "30", "s", "-5s", "2 m", "99999999999999999999s", "18446744073709551615h", "1d"] {
            assert!(any(wrong).is_err(), "{wrong}");
        }
    }
}
