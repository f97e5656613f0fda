//! Walks a TOML table along a [`Table`] of settings, and gathers everything that is wrong on the way.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Severity};
use crate::nearest::nearest;
use crate::secrets::without_accounts;
use crate::shape::{Problem, described, kind};
use crate::table::{Table, join};
use crate::text::Text;

/// Where settings were made, by their path within what they belong to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks(BTreeMap<String, Mark>);

/// Where a setting was made.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// Its value, in bytes.
    pub span: Range<usize>,
    /// On which level.
    pub level: Level,
    /// Whether it was made here, and not taken over from what this one starts from.
    pub own: bool,
}

/// The levels on which a setting can be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    /// Where it belongs.
    Here,
    /// In `[defaults]`.
    Defaults,
}

impl Marks {
    pub(crate) fn get(&self, path: &str) -> Option<&Mark> {
        self.0.get(path)
    }

    /// The settings made here.
    pub(crate) fn own(&self, path: &str) -> Option<&Mark> {
        self.get(path).filter(|mark| mark.own)
    }

    /// The first setting made here in the table `path`.
    pub(crate) fn own_in(&self, path: &str) -> Option<&Mark> {
        let prefix = format!("{path}.");
        let inside = self.0.iter().filter(|(key, mark)| mark.own && key.starts_with(&prefix));
        inside.map(|(_, mark)| mark).min_by_key(|mark| mark.span.start)
    }

    /// Adds the settings of `other`.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The same settings, as what starts from them sees them.
    pub(crate) fn inherited(&self) -> Self {
        let inherited = |(path, mark): (&String, &Mark)| (path.clone(), Mark { own: false, ..mark.clone() });
        Self(self.0.iter().map(inherited).collect())
    }
}

/// Reads a text and gathers what is wrong with it.
pub(crate) struct Reader<'s> {
    pub source: &'s Text,
    pub found: Vec<Diagnostic>,
}

impl Reader<'_> {
    pub(crate) fn error(&mut self, span: &Range<usize>, message: String, remedy: impl Into<String>) {
        self.diagnose(Severity::Error, span, message, remedy.into());
    }

    pub(crate) fn warn(&mut self, span: &Range<usize>, message: String, remedy: impl Into<String>) {
        self.diagnose(Severity::Warning, span, message, remedy.into());
    }

    pub(crate) fn diagnose(
        &mut self,
        severity: Severity,
        span: &Range<usize>,
        message: String,
        remedy: String,
    ) {
        // Whatever a message repeats of the text, it repeats no password.
        let message = without_accounts(&message).into_owned();
        self.found.push(Diagnostic { severity, message, place: self.source.place(span), remedy });
    }

    /// Whether nothing found so far keeps the configuration from being used.
    pub(crate) fn is_usable(&self) -> bool {
        self.found.iter().all(|diagnostic| diagnostic.severity != Severity::Error)
    }

    /// Reads what `toml` says about the settings of `table` into `into`. Keys that the table does not know are
    /// [`unknown_keys`](Self::unknown_keys)' business at this level, as two tables may share one of the text.
    pub(crate) fn fill<C>(
        &mut self,
        table: &Table<C>,
        toml: &DeTable<'_>,
        at: &At<'_>,
        into: &mut C,
        marks: &mut Marks,
    ) {
        for field in table.fields {
            let Some(value) = toml.get(field.key) else { continue };
            let mut problems = Vec::new();
            if field.slot.read(into, value, &mut problems) {
                let mark = Mark { span: value.span(), level: at.level, own: true };
                marks.0.insert(join(at.below, field.key), mark);
            }
            for Problem { span, problem, remedy } in problems {
                self.error(&span, format!("{} {problem}", join(at.path, field.key)), remedy);
            }
        }
        for below in table.tables {
            let Some((key, value)) = toml.get_key_value(below.name) else { continue };
            let (path, inside) = (join(at.path, below.name), join(at.below, below.name));
            let Some(inner) = self.table(&path, value) else { continue };
            marks.0.insert(inside.clone(), Mark { span: key.span(), level: at.level, own: true });
            let at = At { path: &path, below: &inside, level: at.level };
            self.unknown_keys(&path, inner, &below.keys().collect::<Vec<_>>(), |key| below.home_of(key));
            self.fill(below, inner, &at, into, marks);
        }
    }

    /// The table that `value` is, or an error.
    pub(crate) fn table<'v, 't>(
        &mut self,
        path: &str,
        value: &'v toml::Spanned<DeValue<'t>>,
    ) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let message = format!("{path} is {}, not a table", self.described(value));
            self.error(
                &value.span(),
                message,
                format!("write [{path}] on a line of its own, and its settings below"),
            );
        }
        table
    }

    /// What a value is, in words; if it is a secret, in words that don't repeat it.
    pub(crate) fn described(&self, value: &toml::Spanned<DeValue<'_>>) -> String {
        let is_hidden = self.source.hides(&value.span());
        if is_hidden { kind(value.get_ref()).to_owned() } else { described(value.get_ref()) }
    }

    /// Complains about every key of `toml` that is not `known`, and says where it may have been meant to stand.
    pub(crate) fn unknown_keys(
        &mut self,
        path: &str,
        toml: &DeTable<'_>,
        known: &[&'static str],
        home_of: impl Fn(&str) -> Option<String>,
    ) {
        for key in toml.keys() {
            let word = key.get_ref().as_ref();
            if known.contains(&word) {
                continue;
            }
            let remedy = if let Some(near) = nearest(word, known.iter().copied()) {
                format!("did you mean {near:?}?")
            } else if let Some(home) = home_of(word) {
                format!("it belongs one table down: {}", join(&join(path, &home), word))
            } else {
                format!("the keys here are {}", known.join(", "))
            };
            let place = if path.is_empty() { "at the top".to_owned() } else { format!("in {path}") };
            self.error(&key.span(), format!("the key {word:?} is not known {place}"), remedy);
        }
    }
}

/// Where a table is being read.
pub(crate) struct At<'a> {
    /// Its path in the text, for messages.
    pub path: &'a str,
    /// Its path within what it belongs to, for [`Marks`].
    pub below: &'a str,
    pub level: Level,
}
