//! A hedge that is armed and not sent, warm: it has learned its delay.

use std::time::Duration;

use tower::Layer;
use tower::hedge::{Hedge, Policy};
use tower_resilience::hedge::HedgeLayer;

use super::{Case, Ready, Shared, owned, service};

pub(super) fn cases() -> Vec<Case> {
    vec![
        // tower's has no Clone: each thread would have one of its own, which is not what is compared.
        Case { policy: "hedge", library: "tower", most_threads: 1, build: tower },
        Case { policy: "hedge", library: "tower-resilience", most_threads: 2, build: tower_resilience },
    ]
}

/// Any request may be hedged.
#[derive(Clone, Debug)]
struct Any;

impl Policy<u64> for Any {
    fn clone_request(&self, request: &u64) -> Option<u64> {
        Some(*request)
    }

    fn can_retry(&self, _request: &u64) -> bool {
        true
    }
}

fn tower() -> Shared {
    Box::new(|| owned(Hedge::new(Ready, Any, 20, 0.95, Duration::from_secs(10))))
}

fn tower_resilience() -> Shared {
    let layer = HedgeLayer::builder().delay(Duration::from_millis(100)).max_hedged_attempts(2).build();
    service(layer.layer(Ready))
}
