//! What the policies remember: fixed memory, O(1) to record, and reading never writes.
//!
//! * [`window`]: how many calls failed or were slow, of late;
//! * [`quantile`]: how long calls take, including those that were cut off;
//! * [`ewma`]: one latency, the recent weighing more.

pub mod ewma;
pub mod quantile;
mod slices;
pub mod window;
