//! Seaworthy's data plane: a resilient HTTP proxy.
//!
//! ```text
//!  listen -> connection -> call -> driver -> attempt -> pool -> upstream
//!            (HTTP/1, 2)   |        |  ^
//!                          head     |  the call machine of seaworthy-core decides
//!                          route    breakers, budgets, limits: seaworthy::shared
//! ```
//!
//! Everything streams in both directions. One thread a core serves connections of its own, with its own pools, clocks and
//! counters; only the policies are shared. A call over HTTP/1.1 runs in one task from end to end: the client's connection
//! polls the call, the call polls the attempt, the attempt polls the upstream's connection.
//!
//! What is decided is decided in `seaworthy-core`; what is here reads, writes, waits and counts.
//!
//! ```no_run
//! let config = seaworthy_config::Config::from_command_line("http://localhost:3000", None, None)?;
//! seaworthy_proxy::run(config)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod admin;
mod answer;
mod attempt;
mod call;
mod check;
mod choice;
mod client;
mod connection;
mod degrade;
mod discovery;
mod download;
mod driver;
mod entrance;
mod executor;
mod flagged;
mod flags;
mod fleet;
mod flights;
mod folder;
mod full;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod idempotency;
mod ids;
mod instead;
mod journal;
mod keeper;
mod kept;
mod ledger;
mod listen;
mod manner;
mod names;
mod node;
mod outgoing;
mod pace;
mod pool;
pub mod process;
mod proxy;
mod rate;
mod site;
mod socket;
mod standing;
mod tally;
mod tape;
mod task;
mod tunnel;
mod worker;

pub use proxy::{Bound, Error, Proxy, run, run_bound};
