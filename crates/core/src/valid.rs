//! Configurations that can't be wrong.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

/// How far a policy's decisions reach.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// It decides, and what it decides is done.
    #[default]
    Enforce,
    /// It decides, counts and tells what it would have done, and does nothing.
    Observe,
    /// It is not there.
    Off,
}

impl Mode {
    /// The mode's name in configuration, metrics and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }
}

/// What a configuration must satisfy.
pub trait Rules {
    /// Everything that is wrong with it; empty if nothing is.
    fn faults(&self) -> Vec<Fault>;
}

/// A configuration that satisfies its [`Rules`]; the only kind that a policy accepts.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Valid<C>(C);

impl<C: Rules> Valid<C> {
    /// Checks `config`.
    ///
    /// # Errors
    /// All faults at once.
    pub fn new(config: C) -> Result<Self, Vec<Fault>> {
        let faults = config.faults();
        if faults.is_empty() { Ok(Self(config)) } else { Err(faults) }
    }
}

impl<C> Deref for Valid<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.0
    }
}

/// One thing wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The field, as it is spelt in the configuration.
    pub field: &'static str,
    /// What is wrong with its value, as the end of a sentence that the field begins.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.field, self.problem, self.remedy)
    }
}

impl core::error::Error for Fault {}

/// The fault, if something is `wrong`.
pub(crate) fn fault(
    wrong: bool,
    field: &'static str,
    problem: impl Into<String>,
    remedy: &str,
) -> Option<Fault> {
    wrong.then(|| Fault { field, problem: problem.into(), remedy: remedy.into() })
}
