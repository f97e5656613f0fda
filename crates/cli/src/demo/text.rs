//! Numbers as the tables show them.

/// A share as a percentage with two decimals, cut off rather than rounded: 99.996 % is not 100.00 %.
pub(super) fn percent(share: Option<f64>) -> String {
    match share {
        // A hair is added, since 0.2839 * 10000 is 2838.999... in binary.
        Some(share) => format!("{:.2}%", (share * 10_000.0 + 1e-6).floor() / 100.0),
        None => NOTHING.to_owned(),
    }
}

/// A share in whole percents. Neither is a little shown as nothing, nor almost all as all.
pub(super) fn rough_percent(share: Option<f64>) -> String {
    match share {
        Some(share) if share > 0.0 && share < 0.005 => "<1%".to_owned(),
        Some(share) if (0.995..1.0).contains(&share) => ">99%".to_owned(),
        Some(share) => format!("{:.0}%", share * 100.0),
        None => NOTHING.to_owned(),
    }
}

/// Shares as a line of columns, from nothing to all in eight steps; a dot where there is no share.
pub(super) fn columns(shares: &[Option<f64>]) -> String {
    let column = |share: &Option<f64>| match *share {
        None => '·',
        // Only nothing has the lowest column, so that a little can be seen.
        Some(share) if share > 0.0 => COLUMNS[((share * 7.0).round() as usize).clamp(1, 7)],
        Some(_) => COLUMNS[0],
    };
    shares.iter().map(column).collect()
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

const COLUMNS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
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
    fn only_nothing_is_zero_and_only_all_is_a_hundred() {
        let shown = [0.0, 0.001, 0.07, 0.996, 1.0].map(|share| rough_percent(Some(share)));
        assert_eq!(shown, ["0%", "<1%", "7%", ">99%", "100%"]);
        let shares = [None, Some(0.0), Some(0.01), Some(0.5), Some(0.9), Some(1.0)];
        assert_eq!(columns(&shares), "·▁▂▅▇█");
    }

    #[test]
    fn latencies_are_short() {
        assert_eq!(millis(Some(3.21)), "3.2 ms");
        assert_eq!(millis(Some(251.7)), "252 ms");
        assert_eq!(millis(Some(999.9)), "1.00 s");
        assert_eq!(millis(None), "–");
    }
}
