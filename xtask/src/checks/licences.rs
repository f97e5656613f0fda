//! What we link is free to be linked by everybody, and comes from where everybody can look.

use serde_json::Value;

/// Licences that ask nothing of a user beyond naming the authors (MPL-2.0: beyond publishing changes to its own files).
const FREE: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unlicense",
    "BSL-1.0",
    "Unicode-3.0",
    "MPL-2.0",
    "CDLA-Permissive-2.0",
    "OpenSSL",
];

/// Every package with another licence, or from another place than this repository and crates.io.
pub(crate) fn faults(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages.iter().flat_map(faults_of).collect()
}

fn faults_of(package: &Value) -> Vec<String> {
    let name =
        format!("{} {}", package["name"].as_str().unwrap_or("?"), package["version"].as_str().unwrap_or("?"));
    let mut faults = Vec::new();
    let licence = package["license"].as_str().unwrap_or_default();
    if !is_free(licence) {
        faults.push(format!(
            "{name}: licence `{licence}` is not among the free ones in xtask/src/checks/licences.rs"
        ));
    }
    match package["source"].as_str() {
        None | Some("registry+https://github.com/rust-lang/crates.io-index") => {}
        Some(other) => faults.push(format!("{name} comes from {other}, not from crates.io")),
    }
    faults
}

/// Whether an SPDX expression can be met with free licences alone. `/` is the old way to write OR; an exception
/// (`WITH ..`) only ever permits more, so it is passed over.
fn is_free(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let free = any(&words, &mut at);
    free && at == words.len()
}

fn any(words: &[&str], at: &mut usize) -> bool {
    let mut free = all(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        free |= all(words, at);
    }
    free
}

fn all(words: &[&str], at: &mut usize) -> bool {
    let mut free = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        free &= one(words, at);
    }
    free
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let free = any(words, at);
        *at += 1;
        return free;
    }
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    FREE.contains(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_free_alternative_is_enough_and_every_condition_counts() {
        for free in [
            "MIT",
            "MIT OR GPL-3.0",
            "Apache-2.0/MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
            "Apache-2.0 AND ISC",
        ] {
            assert!(is_free(free), "{free}");
        }
        for other in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND SSPL-1.0", "MIT MIT", "(MIT"] {
            assert!(!is_free(other), "{other}");
        }
    }
}
