//! The core's policies, shared between threads.
//!
//! Sharing is what costs: a line that two cores write costs more than all decisions of a call. So good news is batched and
//! bad news is exact. A success is counted in a cell of the thread that saw it; a failure, a slow call or a tick takes the
//! lock, folds every cell into the core's policy, lets that decide, and publishes the result as words that the good path
//! only reads. The core never learns that it is shared.

pub mod breaker;
pub mod bulkhead;
pub(crate) mod cells;
pub mod commons;
pub mod door;
mod gather;
pub mod limit;
#[cfg(all(test, seaworthy_loom))]
mod loom_tests;
pub mod rate;
pub mod throttle;

pub use breaker::Breaker;
pub use bulkhead::Bulkhead;
pub use commons::Commons;
pub use door::Door;
pub use limit::Limit;
pub use rate::Rate;
pub use throttle::Throttle;
