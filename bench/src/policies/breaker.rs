//! A closed breaker, told of a success.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use failsafe::futures::CircuitBreaker;
use failsafe::{StateMachine, backoff, failure_policy};
use recloser::{AsyncRecloser, Recloser};
use tower::{Layer, Service};
use tower_resilience::circuitbreaker::{CircuitBreakerLayer, SlidingWindowType};

use super::{Case, Ready, Shared, service, shared};

pub(super) fn cases() -> Vec<Case> {
    let case = |library, build| Case { policy: "breaker", library, most_threads: 2, build };
    vec![
        case("recloser (last 100)", recloser),
        case("failsafe (5 in a row)", || {
            failsafe(failsafe::Config::new().failure_policy(in_a_row()).build())
        }),
        case("failsafe (default)", || failsafe(failsafe::Config::new().build())),
        case("tower-resilience (count)", || tower_resilience(SlidingWindowType::CountBased)),
        case("tower-resilience (10 s)", || tower_resilience(SlidingWindowType::TimeBased)),
    ]
}

fn recloser() -> Shared {
    shared(AsyncRecloser::from(Recloser::custom().build()), |breaker: Arc<AsyncRecloser>, count| async move {
        let mut succeeded = true;
        for request in 0..count {
            succeeded &= breaker.call(Ready.call(black_box(request))).await.is_ok();
        }
        succeeded
    })
}

fn in_a_row() -> failure_policy::ConsecutiveFailures<backoff::EqualJittered> {
    let wait = backoff::equal_jittered(Duration::from_secs(10), Duration::from_secs(300));
    failure_policy::consecutive_failures(5, wait)
}

fn failsafe<P>(breaker: StateMachine<P, ()>) -> Shared
where
    P: failsafe::FailurePolicy + Send + Sync + 'static,
{
    shared(breaker, |breaker: Arc<StateMachine<P, ()>>, count| async move {
        let mut succeeded = true;
        for request in 0..count {
            succeeded &= breaker.call(Ready.call(black_box(request))).await.is_ok();
        }
        succeeded
    })
}

fn tower_resilience(window: SlidingWindowType) -> Shared {
    let layer = CircuitBreakerLayer::builder()
        .sliding_window_type(window)
        .sliding_window_size(100)
        .sliding_window_duration(Duration::from_secs(10))
        .failure_rate_threshold(0.5)
        .build()
        .expect("these numbers are valid");
    service(layer.layer(Ready))
}
