//! One word for one idea, and nothing that belongs on somebody's own machine.

use super::source::{tokens, without_tests};
use crate::shell::{Failure, program, read, root};

/// Words of other projects for things that have a name here, in identifiers of the product. (Prose may mention them.)
const OTHER_NAMES: &[(&str, &str)] = &[
    ("circuitbreaker", "breaker"),
    ("backend", "upstream or endpoint"),
    ("throttler", "limit"),
    ("blacklist", "ejection"),
    ("whitelist", "allowed"),
];

/// What has no place in any file: built from halves, so that this file may stand among those it reads.
const LEFTOVERS: &[(&str, &str, &str)] = &[
    ("<<<<", "<<< ", "a merge that was not finished"),
    (">>>>", ">>> ", "a merge that was not finished"),
    ("FIX", "ME", "unfinished work belongs in an issue"),
    ("XX", "X:", "unfinished work belongs in an issue"),
    ("TO", "DO:", "unfinished work belongs in an issue"),
    ("/ho", "me/", "a path of somebody's own machine"),
    ("/Us", "ers/", "a path of somebody's own machine"),
    ("/ro", "ot/", "a path of somebody's own machine"),
];

/// Every such word in a file that git knows.
///
/// # Errors
/// git could not list the files, or one could not be read.
pub(crate) fn faults() -> Result<Vec<String>, Failure> {
    let mut faults = Vec::new();
    for path in read(&mut program("git", &["ls-files", "--cached", "--", "."]))?.lines() {
        let file = root().join(path);
        // Listed but deleted in the working tree: nothing to read.
        if !file.is_file() || path.ends_with(".lock") {
            continue;
        }
        let bytes =
            std::fs::read(&file).map_err(|error| Failure(format!("{path} can't be read: {error}")))?;
        // A file that is not text (an image) has no words.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        faults.extend(leftovers(path, &text));
        if path.starts_with("crates/") && path.ends_with(".rs") {
            faults.extend(other_names(path, &text));
        }
    }
    Ok(faults)
}

fn leftovers(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let found = lines.flat_map(|(number, line)| {
        LEFTOVERS
            .iter()
            .filter(move |(head, tail, _)| line.contains(&format!("{head}{tail}")))
            .map(move |(head, tail, why)| format!("{path}:{}: `{head}{tail}`: {why}", number + 1))
    });
    found.collect()
}

fn other_names(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for token in without_tests(&tokens(text)) {
        let plain = token.text.to_lowercase().replace('_', "");
        let other = OTHER_NAMES.iter().find(|(name, _)| plain.contains(name));
        faults
            .extend(other.map(|(_, ours)| {
                format!("{path}:{}: `{}`: the word here is {ours}", token.line, token.text)
            }));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_projects_word_is_found_in_names_and_left_alone_in_prose() {
        assert_eq!(other_names("a.rs", "struct CircuitBreaker; // a circuit_breaker, a backend").len(), 1);
        assert_eq!(other_names("a.rs", "fn breaker() {}").len(), 0);
    }

    #[test]
    fn leftovers_are_found_with_their_line() {
        let text = format!("a\n// {}{} later", "TO", "DO:");
        assert_eq!(leftovers("a.rs", &text).len(), 1);
        assert!(leftovers("a.rs", &text)[0].starts_with("a.rs:2:"));
    }
}
