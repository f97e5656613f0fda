//! What a text holds that nobody else should read: passwords and keys, which may stand in any line that a message shows.
//!
//! Where the text can be read, its tables say which values those are. Where it can't, a line that looks like one of theirs is
//! hidden rather than shown. And what stands before the `@` of a URL is a secret wherever it is.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::settings::{CLIENT, PROXY, SUPERVISED};
use crate::table::Table;

/// The bytes of every secret that `root` holds.
pub(crate) fn in_tables(root: &DeTable<'_>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    in_table(&PROXY, root, &mut found);
    if let Some(clients) = root.get("client") {
        match clients.get_ref() {
            DeValue::Array(items) => items.iter().for_each(|item| value_of(&CLIENT, item, &mut found)),
            _ => value_of(&CLIENT, clients, &mut found),
        }
    }
    for (name, process) in
        root.get("process").and_then(|value| value.get_ref().as_table()).into_iter().flatten()
    {
        // A setting that stands one table too high is one still.
        if SUPERVISED
            .fields
            .iter()
            .any(|field| field.key == name.get_ref().as_ref() && field.slot.is_secret())
        {
            hide(process, &mut found);
        } else if let Some(process) = process.get_ref().as_table() {
            in_table(&SUPERVISED, process, &mut found);
        }
    }
    found
}

/// The secrets in the line of `text` that holds byte `at`, of which no more is known than how it looks.
pub(crate) fn in_broken_line(text: &str, at: usize) -> Option<Range<usize>> {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text[start..].split('\n').next().unwrap_or_default();
    let is_header = |line: &str| line.trim_start().starts_with('[');
    let header = || text[..start].lines().rev().find(|line| is_header(line)).unwrap_or_default();
    let names_one = |line: &str| WORDS.iter().any(|word| line.contains(word));
    if is_header(line) || !(names_one(line) || names_one(header())) {
        return None;
    }
    let after_key = line.find('=').map_or(0, |at| at + 1);
    let blank = line[after_key..].len() - line[after_key..].trim_start().len();
    Some(start + after_key + blank..start + line.len())
}

/// The accounts in the URLs of `text`: what stands between `://` and the last `@` before a quote or the line's end.
pub(crate) fn in_urls(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, _)| {
        let start = at + "://".len();
        let url = text[start..].split(['"', '\'', '\n']).next()?;
        url.rfind('@').map(|length| start..start + length)
    })
}

/// `text` without the accounts in its URLs.
pub(crate) fn without_accounts(text: &str) -> Cow<'_, str> {
    let mut rest = text;
    let mut shown = String::new();
    while let Some(account) = in_urls(rest).next() {
        shown.push_str(&rest[..account.start]);
        shown.push_str("(not shown)");
        rest = &rest[account.end..];
    }
    if shown.is_empty() { text.into() } else { (shown + rest).into() }
}

/// The secrets in what should be `table`.
fn value_of<C>(table: &Table<C>, value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    match value.get_ref().as_table() {
        Some(inner) => in_table(table, inner, found),
        None if has_secrets(table) => hide(value, found),
        None => {}
    }
}

fn in_table<C>(table: &Table<C>, toml: &DeTable<'_>, found: &mut Vec<Range<usize>>) {
    for (key, value) in toml {
        let word = key.get_ref().as_ref();
        if let Some(below) = table.tables.iter().find(|below| below.name == word) {
            value_of(below, value, found);
            continue;
        }
        // A key that is not known beside one that is secret may be meant for that, or be `password`.
        let field = table.fields.iter().find(|field| field.key == word);
        if field.map_or_else(|| has_secrets(table), |field| field.slot.is_secret()) {
            hide(value, found);
        }
    }
}

fn has_secrets<C>(table: &Table<C>) -> bool {
    table.fields.iter().any(|field| field.slot.is_secret())
}

/// Hides a value, but for the quotes and brackets around it and the keys in it.
fn hide(value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Array(items) => items.iter().for_each(|item| hide(item, found)),
        DeValue::Table(table) => table.values().for_each(|value| hide(value, found)),
        DeValue::String(_) => found.push(value.span().start + 1..value.span().end.saturating_sub(1)),
        _ => found.push(value.span()),
    }
}

/// The keys of secrets, and the tables in which they stand.
const WORDS: [&str; 7] = ["client", "env", "idempotency", "key", "process", "redis", "url"];

#[cfg(test)]
mod tests {
    use super::*;

    /// The words and the definition of the settings can't come apart.
    #[test]
    fn every_secret_has_its_words() {
        fn gather<C>(table: &Table<C>, words: &mut Vec<&'static str>) {
            if has_secrets(table) {
                words.push(table.name);
            }
            words.extend(table.fields.iter().filter(|field| field.slot.is_secret()).map(|field| field.key));
            table.tables.iter().for_each(|below| gather(below, words));
        }
        let mut words = Vec::new();
        gather(&PROXY, &mut words);
        gather(&CLIENT, &mut words);
        gather(&SUPERVISED, &mut words);
        words.sort_unstable();
        words.dedup();
        assert_eq!(words, WORDS);
    }

    #[test]
    fn accounts_are_taken_out_of_urls() {
        let shown = |text| without_accounts(text).into_owned();
        assert_eq!(
            shown("is \"http://me:se@cret@h\", or http://h"),
            "is \"http://(not shown)@h\", or http://h"
        );
        assert_eq!(shown("a://x@b \"c://y@d\""), "a://(not shown)@b \"c://(not shown)@d\"");
        assert_eq!(shown("://@"), "://(not shown)@");
        assert_eq!(shown("me@example.com"), "me@example.com");
    }
}
