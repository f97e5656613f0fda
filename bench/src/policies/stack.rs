//! Several policies around one call: what a program really uses.

use std::time::Duration;

use tower::limit::ConcurrencyLimit;
use tower::load_shed::LoadShed;
use tower::retry::Retry;
use tower::timeout::Timeout;
use tower::{BoxError, Layer, Service, ServiceBuilder};
use tower_resilience::bulkhead::BulkheadLayer;
use tower_resilience::circuitbreaker::CircuitBreakerLayer;
use tower_resilience::retry::RetryLayer;
use tower_resilience::timelimiter::TimeLimiterLayer;

use super::limit::MOST;
use super::retry::budgeted;
use super::{Case, Never, Pending, Ready, Shared, service};

const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn cases() -> Vec<Case> {
    let case = |policy, library, build| Case { policy, library, most_threads: 2, build };
    vec![
        case("pipeline", "tower (no breaker)", || tower(Ready)),
        case("pipeline", "tower-resilience", || tower_resilience(Ready)),
        case("pipeline, pending once", "tower (no breaker)", || tower(Pending)),
        case("pipeline, pending once", "tower-resilience", || tower_resilience(Pending)),
    ]
}

/// Shed, limit, retry with a budget, timeout. tower has no breaker.
fn tower<S>(inner: S) -> Shared
where
    S: Service<u64, Response = u64, Error = Never> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    service(LoadShed::new(ConcurrencyLimit::new(Retry::new(budgeted(), Timeout::new(inner, LIMIT)), MOST)))
}

/// Limit, retry, breaker, timeout.
fn tower_resilience<S>(inner: S) -> Shared
where
    S: Service<u64, Response = u64, Error = Never> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let limit = BulkheadLayer::builder().max_concurrent_calls(MOST).reject_when_full().build();
    let breaker = CircuitBreakerLayer::builder().failure_rate_threshold(0.5).build();
    let timeout = TimeLimiterLayer::builder().timeout_duration(LIMIT).build();
    let retry = RetryLayer::<u64, u64, Shown>::builder().max_attempts(3).build();
    let guarded = breaker.expect("these numbers are valid").layer(timeout.layer(inner));
    let shown =
        ServiceBuilder::new().map_err(|error| Shown(BoxError::from(error).to_string())).service(guarded);
    service(limit.expect("these numbers are valid").layer(retry.layer(shown)))
}

/// tower-resilience's retry wants an error that can be cloned, which that of its breaker can't.
#[derive(Clone, Debug)]
struct Shown(String);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Shown {}
