//! Writing to stdout and stderr, and what the terminal behind them can show.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Writes `text` and a line break to stdout, at once.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::Unheard)
}

/// Writes `text` and a line break to stderr, where progress goes while stdout carries the result.
pub(crate) fn aside(text: &str) -> Result<(), Failure> {
    writeln!(io::stderr().lock(), "{text}").map_err(Failure::Unheard)
}

/// Writes one JSON document to stdout.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::because("could not write the result as JSON", error))?;
    line(&text)
}

/// How much of a terminal stdout is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terminal {
    /// Lines can be redrawn in place.
    pub(crate) live: bool,
    /// Colour is welcome.
    pub(crate) colour: bool,
}

impl Terminal {
    /// What stdout is now. Colour is off where it can't be shown, and where `NO_COLOR` is set to anything but the
    /// empty string (<https://no-color.org>).
    pub(crate) fn of_stdout() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let live = io::stdout().is_terminal() && !dumb;
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { live, colour: live && !refused }
    }
}

/// The few colours in use, by what they mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ink {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Lost.
    Bad,
    /// Of second rank.
    Quiet,
    /// A heading.
    Strong,
}

impl Ink {
    /// `text` in this colour if `colour` is welcome, and as it is otherwise. Pad before, as the codes have no width.
    pub(crate) fn on(self, colour: bool, text: &str) -> String {
        if !colour {
            return text.to_owned();
        }
        let code = match self {
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Quiet => "2",
            Self::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
