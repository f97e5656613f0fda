//! The known word that a misspelt one was probably meant to be.

/// The nearest of `known` to `word`, if one is near enough to be worth suggesting: at most a third of its letters away.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let nearest = known.into_iter().map(|k| (distance(word, k), k)).min_by_key(|(d, _)| *d);
    nearest.filter(|(d, k)| *d <= k.chars().count().max(3) / 3).map(|(_, k)| k)
}

/// How many insertions, deletions, replacements and swaps of neighbours lead from `a` to `b` (optimal string alignment; Damerau,
/// "A technique for computer detection and correction of spelling errors", CACM 1964), not counting case.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(LONGEST).flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().take(LONGEST).flat_map(char::to_lowercase).collect();
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Longer words are cut: no key is half as long, and the table is quadratic.
const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("timout", "timeout"), 1);
        assert_eq!(distance("tiemout", "timeout"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["timeout", "retry", "mode"];
        assert_eq!(nearest("time_out", known), Some("timeout"));
        assert_eq!(nearest("Retry", known), Some("retry"));
        assert_eq!(nearest("moed", known), Some("mode"));
        assert_eq!(nearest("circuit", known), None);
        assert_eq!(nearest("x", []), None);
    }
}
