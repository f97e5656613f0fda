//! Gates: "may this start?" for what many calls share.
//!
//! Each is told the time, answers with a ticket or a refusal that says why and when to come back, and returns what changed as a
//! value. A ticket can not be copied; it is given back once, whatever became of the call.

pub mod breaker;
pub mod bulkhead;
pub mod health;
pub mod limit;
pub mod outlier;
pub mod pressure;
pub mod queue;
pub mod rate;
pub mod throttle;
