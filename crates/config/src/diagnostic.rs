//! What is wrong with a configuration: where, what, and what to write instead.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use crate::text::{Place, Text};

/// One thing wrong, or questionable, with a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// Whether it keeps the configuration from being used.
    pub severity: Severity,
    /// What is wrong, beginning with the setting.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What to do about it.
    pub remedy: String,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// It can be used, and probably does not do what its writer expects.
    Warning,
}

impl Severity {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// The message, the place with the line and a caret under what is at fault, and the remedy.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, line, column, width, excerpt } = &self.place;
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs are repeated as they are, so that the caret stands right however wide they are shown.
        let before = excerpt.chars().take(*column as usize - 1);
        let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(*width as usize);
        writeln!(f, "{}: {}", self.severity.name(), self.message)?;
        writeln!(f, "{gutter}--> {file}:{line}:{column}")?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{}", format!("{number} | {excerpt}").trim_end())?;
        writeln!(f, "{gutter} | {indent}{carets}")?;
        write!(f, "{gutter} = {}", self.remedy)
    }
}

/// Everything that is wrong with a configuration, in the order of the text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Mistakes {
    /// What keeps it from being used; never empty.
    pub errors: Vec<Diagnostic>,
    /// What is merely questionable.
    pub warnings: Vec<Diagnostic>,
}

impl Diagnostic {
    /// An error in a text that contains a configuration among other things: about the bytes `span` of `text`, which is called
    /// `file`.
    #[must_use]
    pub fn error(file: &str, text: &str, span: &Range<usize>, message: String, remedy: String) -> Self {
        Self { severity: Severity::Error, message, place: Text::new(file, text).place(span), remedy }
    }
}

impl Mistakes {
    /// These errors, in the order of the text.
    #[must_use]
    pub fn of(mut errors: Vec<Diagnostic>) -> Self {
        errors.sort_by_key(|error| (error.place.line, error.place.column));
        Self { errors, warnings: Vec::new() }
    }
}

/// Every diagnostic, and a last line that counts them.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in self.errors.iter().chain(&self.warnings) {
            writeln!(f, "{diagnostic}\n")?;
        }
        f.write_str(&counted(self.errors.len(), "error"))?;
        if !self.warnings.is_empty() {
            write!(f, ", {}", counted(self.warnings.len(), "warning"))?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
