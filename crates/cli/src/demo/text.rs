//! Numbers as the tables show them.

/// A share as a percentage with two decimals, cut off rather than rounded: 99.996 % is not 100.00 %.
pub(super) fn percent(share: Option<f64>) -> String {
    match share {
        // A hair is added, since 0.2839 * 10000 is 2838.999... in binary.
        Some(share) => format!("{:.2}%", (share * 10_000.0 + 1e-6).floor() / 100.0),
        None => NOTHING.to_owned(),
    }
}

/// Milliseconds with the unit that keeps them short.
pub(super) fn millis(ms: Option<f64>) -> String {
    match ms {
        Some(ms) if ms < 9.95 => format!("{ms:.1} ms"),
        Some(ms) if ms < 999.5 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.2} s", ms / 1000.0),
        None => NOTHING.to_owned(),
    }
}

/// What stands where there is nothing to show.
pub(super) const NOTHING: &str = "–";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_is_a_hundred_percent() {
        assert_eq!(percent(Some(1.0)), "100.00%");
        assert_eq!(percent(Some(0.999_99)), "99.99%");
        assert_eq!(percent(Some(0.2839)), "28.39%");
        assert_eq!(percent(Some(0.0)), "0.00%");
        assert_eq!(percent(None), "–");
    }

    #[test]
    fn latencies_are_short() {
        assert_eq!(millis(Some(3.21)), "3.2 ms");
        assert_eq!(millis(Some(251.7)), "252 ms");
        assert_eq!(millis(Some(999.9)), "1.00 s");
        assert_eq!(millis(None), "–");
    }
}
