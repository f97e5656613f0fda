//! Comparisons with peers, on the same machine in the same run.
//!
//! `policies` holds one case per policy and library; the programs `policies` and `count` run them. `proxy` is a program of
//! its own. Nothing here is a test: a figure is printed whatever it is.

pub mod policies;
pub mod report;
