//! Tower layers: one for each policy, and [`Standard`] for the whole pipeline in its order.
//!
//! Each layer wraps any `Clone` service. All of them but [`Fallback`] and `Idempotency` are the same [`Service`](service::Resilient) around a
//! [`Pipeline`](crate::Pipeline) in which the other policies are off, so a policy alone and the same policy in
//! the pipeline decide alike.

mod fallback;
#[cfg(feature = "idempotency")]
mod idempotency;
mod policy;
mod service;

pub use fallback::{Fallback, FallingBack, OrElse};
#[cfg(feature = "idempotency")]
pub use idempotency::{AnswerBody, CarriedOutOnce, Clients, Idempotency, RequestBody};
pub use policy::{Breaker, Bulkhead, Hedge, Limit, Queue, Rate, Retry, Throttle, Timeout};
pub use service::{Answer, Resilient, Standard, Tries};
