//! What the policies remember: fixed memory, O(1) to record, and reading never writes.
//!
//! * [`window`]: how many calls failed or were slow, of late;
//! * [`quantile`]: how long calls take, including those that were cut off;
//! * [`ewma`]: one latency, the recent weighing more;
//! * [`log`]: logarithms, for the typical value of what spreads over orders of magnitude.

pub mod ewma;
pub mod log;
pub mod quantile;
pub(crate) mod slices;
pub mod window;
