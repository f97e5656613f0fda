//! What a server that others run promises of what it has acknowledged.

use std::fmt;

/// Whether what a server acknowledged outlives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Durability {
    /// It is on the server's disk before it is acknowledged.
    Durable,
    /// By its settings, what it has acknowledged can be lost: how, and which setting would change that.
    Weaker(String),
    /// It doesn't tell its settings: why.
    Untold(String),
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Durable => f.write_str("what is acknowledged is on the server's disk"),
            Self::Weaker(how) => write!(f, "keys and results can be lost: {how}"),
            Self::Untold(why) => {
                write!(f, "the server does not tell whether keys and results can be lost: {why}")
            }
        }
    }
}
