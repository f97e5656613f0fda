//! Comparisons with peers, on the same machine in the same run.
//!
//! `policies` holds one case per policy and library; the programs `policies` and `count` run them. `proxy`
//! and `failover` are programs of their own, which share `process` and `setup`; `proxy` and `keys` also `wrk`. Nothing here is a test: a figure is printed whatever it is.

pub mod policies;
pub mod process;
pub mod report;
pub mod setup;
pub mod wrk;
