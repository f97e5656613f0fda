//! A limit on calls in flight that is far from reached, and refuses at once when it is.

use tower::Layer;
use tower::limit::ConcurrencyLimit;
use tower::load_shed::LoadShed;
use tower_resilience::bulkhead::BulkheadLayer;

use super::{Case, Ready, Shared, service};

pub(super) const MOST: usize = 1024;

pub(super) fn cases() -> Vec<Case> {
    let case = |library, build| Case { policy: "limit", library, most_threads: 2, build };
    vec![
        case("tower (limit + shed)", || service(LoadShed::new(ConcurrencyLimit::new(Ready, MOST)))),
        case("tower-resilience (bulkhead)", tower_resilience),
    ]
}

fn tower_resilience() -> Shared {
    let layer = BulkheadLayer::builder().max_concurrent_calls(MOST).reject_when_full().build();
    service(layer.expect("these numbers are valid").layer(Ready))
}
