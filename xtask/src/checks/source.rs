//! Rust source as a row of tokens: enough to tell code from comments, text and tests.
//!
//! A search for `std::` in the bare text would find it in comments and miss `std ::` with a line break between. This reads
//! what the compiler reads: identifiers and punctuation, without comments, strings, characters and lifetimes, and
//! without the items that exist only under `cfg(test)`.

/// An identifier or one character of punctuation, with the line it stands on (counted from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// The tokens of a file, text and comments left out.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let characters: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < characters.len() {
        let end = end_of_piece(&characters, at);
        let piece = &characters[at..end];
        if is_kept(piece) {
            found.push(Token { text: piece.iter().collect(), line });
        }
        line += piece.iter().filter(|character| **character == '\n').count();
        at = end;
    }
    found
}

/// The same without the items under `#[cfg(test)]` or `#[cfg(all(test, ..))]`.
pub(crate) fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            at = end_of_item(tokens, at);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// The modules that stand in files of their own: the names in `mod name;`.
pub(crate) fn modules(tokens: &[Token]) -> Vec<String> {
    let windows = tokens.windows(3);
    let declared = windows.filter(|window| window[0].text == "mod" && window[2].text == ";");
    declared.map(|window| window[1].text.clone()).collect()
}

/// Whether these tokens stand here, one after the other.
pub(crate) fn starts_with(tokens: &[Token], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}

fn is_kept(piece: &[char]) -> bool {
    match piece {
        [] => false,
        ['/', '/' | '*', ..] => false,
        ['"' | '\'', ..] => false,
        ['r' | 'b' | 'c', .., '"' | '#'] if piece.contains(&'"') => false,
        ['b', '\'', ..] => false,
        [first, ..] => !first.is_whitespace(),
    }
}

/// Where the comment, text, word or single character that starts at `at` ends.
fn end_of_piece(characters: &[char], at: usize) -> usize {
    let rest = &characters[at..];
    let length = match rest {
        ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => length_of_block_comment(rest),
        ['"', ..] => length_of_quoted(rest, 1, '"'),
        ['b' | 'c', '"', ..] => length_of_quoted(rest, 2, '"'),
        ['b', '\'', ..] => length_of_quoted(rest, 2, '\''),
        ['r', '"' | '#', ..] => length_of_raw(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] => length_of_raw(rest, 2),
        ['\'', ..] => length_of_character_or_lifetime(rest),
        [first, ..] if is_word(*first) => rest.iter().position(|c| !is_word(*c)).unwrap_or(rest.len()),
        _ => 1,
    };
    at + length.clamp(1, rest.len())
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Block comments nest.
fn length_of_block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn length_of_quoted(rest: &[char], opening: usize, quote: char) -> usize {
    let mut at = opening;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            character if character == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#` and so on; `r#name` is a raw identifier and ends where its word does.
fn length_of_raw(rest: &[char], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|character| **character == '#').count();
    if rest.get(prefix + hashes) != Some(&'"') {
        let tail = &rest[prefix + hashes..];
        return prefix + hashes + tail.iter().position(|c| !is_word(*c)).unwrap_or(tail.len());
    }
    let mut closing = vec!['"'];
    closing.extend(std::iter::repeat_n('#', hashes));
    let body = prefix + hashes + 1;
    let found = rest[body..].windows(closing.len()).position(|window| window == closing);
    found.map_or(rest.len(), |position| body + position + closing.len())
}

fn length_of_character_or_lifetime(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', ..] => length_of_quoted(rest, 1, '\''),
        ['\'', _, '\'', ..] => 3,
        _ => 1 + rest[1..].iter().position(|c| !is_word(*c)).unwrap_or(rest.len() - 1),
    }
}

fn is_test_attribute(tokens: &[Token]) -> bool {
    starts_with(tokens, &["#", "[", "cfg", "(", "test", ")", "]"])
        || starts_with(tokens, &["#", "[", "cfg", "(", "all", "(", "test", ","])
}

/// The position after the item that the attribute at `at` belongs to: its semicolon or its closing brace.
fn end_of_item(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut position = at;
    while position < tokens.len() {
        match tokens[position].text.as_str() {
            "(" | "[" | "{" => depth += 1,
            "}" if depth == 1 => return position + 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            ";" if depth == 0 => return position + 1,
            _ => {}
        }
        position += 1;
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_strings_characters_and_lifetimes_are_left_out() {
        let source = "a // std::x\n/* std /* nested */ std */ b \"std::\\\"std\" r#\"std \" std\"# b\"std\" 'x' '\\'' 's: c";
        assert_eq!(texts(source), ["a", "b", ":", "c"]);
    }

    #[test]
    fn a_path_is_found_whatever_stands_between() {
        let found = tokens("use\n  std /* why */ ::\n fs;");
        assert!(starts_with(&found[1..], &["std", ":", ":", "fs"]));
        assert_eq!(found[1].line, 2);
    }

    #[test]
    fn raw_identifiers_are_words() {
        assert_eq!(texts("r#type + r"), ["r#type", "+", "r"]);
    }

    #[test]
    fn items_under_test_are_left_out_and_what_follows_is_kept() {
        let source = "#[cfg(test)] extern crate std; fn a() {} #[cfg(test)] mod tests { fn b() { std::f(); } } \
                      #[cfg(all(test, unix))] use std::{x, y}; #[cfg(test)] mod far; mod near;";
        let kept = without_tests(&tokens(source));
        assert!(!kept.iter().any(|token| token.text == "std"), "{kept:?}");
        assert!(kept.iter().any(|token| token.text == "a"));
        assert_eq!(modules(&kept), ["near"]);
    }

    #[test]
    fn an_unfinished_file_ends() {
        for source in ["\"abc", "/* abc", "r#\"abc", "'\\", "#[cfg(test)] mod a { fn", "b'"] {
            without_tests(&tokens(source));
        }
    }
}
