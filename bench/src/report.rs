//! What both comparisons do with their figures.

use std::path::Path;

use serde_json::Value;

/// The middle figure; of an even number of them the mean of the middle two. None of none.
#[must_use]
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        even if even % 2 == 0 => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

/// Writes `value` to bench/out/`name` and says where it is.
///
/// # Errors
/// The folder or the file can't be written.
pub fn write_json(name: &str, value: &Value) -> Result<(), String> {
    write_text(name, &format!("{value:#}\n"))
}

/// Writes `text` to bench/out/`name` and says where it is.
///
/// # Errors
/// The folder or the file can't be written.
#[expect(clippy::print_stdout, reason = "says where the figures are")]
pub fn write_text(name: &str, text: &str) -> Result<(), String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("out");
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
    let file = folder.join(name);
    std::fs::write(&file, text).map_err(|error| format!("{} can't be written: {error}", file.display()))?;
    println!("written to {}", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
