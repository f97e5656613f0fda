//! The text that a configuration was read from, and places in it.

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use crate::secrets::in_urls;

/// A named text.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    file: Arc<str>,
    text: Arc<str>,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    /// What nobody is shown, in bytes.
    hidden: Vec<Range<usize>>,
}

impl Text {
    pub(crate) fn new(file: &str, text: &str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(after_breaks).collect();
        let hidden = in_urls(text).collect();
        Self { file: file.into(), text: text.into(), lines, hidden }
    }

    /// The same text, of which `these` bytes are not shown either.
    pub(crate) fn hiding(mut self, these: Vec<Range<usize>>) -> Self {
        self.hidden.extend(these);
        self
    }

    /// Whether a part of `span` is not shown.
    pub(crate) fn hides(&self, span: &Range<usize>) -> bool {
        self.hidden.iter().any(|hidden| hidden.start < span.end && span.start < hidden.end)
    }

    pub(crate) fn file(&self) -> Arc<str> {
        Arc::clone(&self.file)
    }

    /// The line that holds byte `at`, counted from 1.
    pub(crate) fn line(&self, at: usize) -> u32 {
        let line = self.lines.partition_point(|start| *start <= at);
        u32::try_from(line).unwrap_or(u32::MAX)
    }

    /// The place of the bytes `span`. A span that reaches over a line's end is shown up to it; one outside the text,
    /// which no parser should hand out, is drawn into it.
    pub(crate) fn place(&self, span: &Range<usize>) -> Place {
        let from = self.floor_boundary(span.start);
        let line = self.line(from);
        let start = self.lines.get(line as usize - 1).copied().unwrap_or(0);
        let rest = &self.text[start..];
        let excerpt = rest.split('\n').next().unwrap_or(rest).trim_end_matches('\r');
        let end = start + excerpt.len();
        let from = from.min(end);
        let to = self.floor_boundary(span.end).clamp(from, end);
        Place {
            file: self.file(),
            line,
            column: chars(&self.text[start..from]) + 1,
            width: chars(&self.text[from..to]).max(1),
            excerpt: self.shown(start, excerpt),
        }
    }

    /// A line that begins at byte `start`. What is hidden of it is as long as it was, so that columns are those of the text.
    fn shown(&self, start: usize, line: &str) -> String {
        let here = start..start + line.len();
        let hidden: Vec<_> =
            self.hidden.iter().filter(|it| it.start < here.end && here.start < it.end).collect();
        let is_hidden = |at: usize| hidden.iter().any(|it| it.contains(&(start + at)));
        line.char_indices().map(|(at, c)| if is_hidden(at) { HIDDEN } else { printable(c) }).collect()
    }

    fn floor_boundary(&self, at: usize) -> usize {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

/// A place in a configuration, as a person or an editor finds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// The name that the text was given, usually a path.
    pub file: Arc<str>,
    /// The line, counted from 1.
    pub line: u32,
    /// The column of the first character at fault, counted from 1 in characters.
    pub column: u32,
    /// How many characters of the line are at fault, at least 1.
    pub width: u32,
    /// The whole line, with control characters made visible, and `*` in place of each character of a secret.
    pub excerpt: String,
}

fn chars(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

/// Stands for a character of a secret.
const HIDDEN: char = '*';

/// A line of the file goes to a terminal, which must not obey it.
fn printable(c: char) -> char {
    if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_and_not_bytes() {
        let source = Text::new("f", "a = 1\r\nbö = \"ü\"\r\n");
        let place = source.place(&(13..17));
        assert_eq!((place.line, place.column, place.width), (2, 6, 3));
        assert_eq!(place.excerpt, "bö = \"ü\"");
    }

    #[test]
    fn a_span_over_several_lines_is_cut_at_the_first() {
        let place = Text::new("f", "a = [\n1,\n2]\n").place(&(4..11));
        assert_eq!((place.line, place.column, place.width), (1, 5, 1));
    }

    #[test]
    fn a_span_outside_the_text_is_drawn_into_it() {
        let place = Text::new("f", "a\n").place(&(50..60));
        assert_eq!((place.line, place.column, place.width), (2, 1, 1));
        let place = Text::new("f", "a\r\nb").place(&(2..3));
        assert_eq!((place.line, place.column, place.width), (1, 2, 1));
        assert_eq!(Text::new("f", "").place(&(0..0)).line, 1);
    }
}
