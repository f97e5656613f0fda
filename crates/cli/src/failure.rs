//! How a command fails.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Failure {
    /// Something went wrong; the text says what, the source says why.
    Because {
        /// What could not be done.
        what: String,
        /// What kept it from being done.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// Whoever read our output went away, as `head` does. Nobody is left to be told.
    Unheard(io::Error),
    /// The command has said all there is to say; only the exit code is left.
    Told,
    /// Ctrl-C, or another request to end.
    Interrupted,
}

impl Failure {
    /// A failure that has no cause beyond what it says.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self::Because { what: what.into(), source: None }
    }

    /// A failure with its cause.
    pub(crate) fn because(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Because { what: what.into(), source: Some(source.into()) }
    }

    /// Says on stderr what went wrong, one line for the failure and one for each cause.
    #[expect(clippy::print_stderr, reason = "the one place where a command reports its failure")]
    pub(crate) fn tell(&self) {
        if let Self::Because { what, source } = self {
            eprintln!("seaworthy: {what}");
            let mut cause: Option<&dyn Error> = source.as_ref().map(|cause| &**cause as &dyn Error);
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
        }
    }

    /// The exit code that it ends the process with.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Because { .. } | Self::Told | Self::Unheard(_) => ExitCode::FAILURE,
            // 128 + SIGINT, as shells report it.
            Self::Interrupted => ExitCode::from(130),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Because { what, .. } => f.write_str(what),
            Self::Unheard(_) => f.write_str("could not write the output"),
            Self::Told => f.write_str("failed"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Because { source, .. } => source.as_ref().map(|cause| &**cause as &(dyn Error + 'static)),
            Self::Unheard(error) => Some(error),
            Self::Told | Self::Interrupted => None,
        }
    }
}
