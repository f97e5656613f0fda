//! Overload, made to order: an upstream that can do so much a second and no more, calls that come whether it can or not, and what
//! became of them. The tests of the command and the comparisons in bench/ use the same ones.
#![allow(dead_code, reason = "each user takes what it needs")]

pub(crate) mod load;
pub(crate) mod server;
pub(crate) mod tally;
