//! A timeout that is not reached: around an answer that is there at once, and around one that is pending once, which is what
//! real I/O does.

use std::time::Duration;

use tower::timeout::Timeout;
use tower::{Layer, Service};
use tower_resilience::timelimiter::TimeLimiterLayer;

use super::{Case, Never, Pending, Ready, Shared, service};

const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn cases() -> Vec<Case> {
    let case = |policy, library, build| Case { policy, library, most_threads: 2, build };
    vec![
        case("timeout", "tower", || service(Timeout::new(Ready, LIMIT))),
        case("timeout", "tower-resilience", || time_limiter(Ready)),
        case("timeout, pending once", "tower", || service(Timeout::new(Pending, LIMIT))),
        case("timeout, pending once", "tower-resilience", || time_limiter(Pending)),
    ]
}

fn time_limiter<S>(inner: S) -> Shared
where
    S: Service<u64, Response = u64, Error = Never> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    service(TimeLimiterLayer::builder().timeout_duration(LIMIT).build().layer(inner))
}
