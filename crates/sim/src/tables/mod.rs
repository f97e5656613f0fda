//! Tables from the literature, computed anew with the core's own policies.
//!
//! Each function computes one cell, from a seed; the tests compare them with what was published, and
//! `cargo run --release -p seaworthy-sim --example tables` prints them all.

pub mod budgets;
pub mod jitter;
pub mod metastable;
pub mod queue;
pub mod shift;
