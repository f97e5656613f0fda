//! Every setting in force, and where it comes from.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::value::Value;

/// Every setting in force, in the order of the reference. Shows itself as a table, serialises as a list.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Effective {
    /// The settings.
    pub settings: Vec<Setting>,
}

/// One setting in force.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Setting {
    /// Its dotted path, such as `upstream.shop.retry.attempts`.
    pub path: String,
    /// Its value.
    pub value: Value,
    /// Where that comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// An argument on the command line.
    CommandLine,
    /// A line of the file. For a route it may be a line about its upstream.
    File {
        /// The file.
        file: Arc<str>,
        /// The line, counted from 1.
        line: u32,
    },
    /// A line of the file below `[defaults]`.
    Defaults {
        /// The file.
        file: Arc<str>,
        /// The line, counted from 1.
        line: u32,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::CommandLine => f.write_str("command line"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Defaults { file, line } => write!(f, "[defaults] {file}:{line}"),
        }
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 3]> = self
            .settings
            .iter()
            .map(|s| [s.path.clone(), s.value.to_string(), s.origin.to_string()])
            .collect();
        let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        // One long list of endpoints should not push every origin off the screen.
        let (paths, values) = (widest(0), widest(1).min(40));
        for [path, value, origin] in &rows {
            writeln!(f, "{path:paths$}  {value:values$}  {origin}")?;
        }
        Ok(())
    }
}
