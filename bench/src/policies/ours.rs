//! Ours: each policy alone as a layer, and the whole pipeline as a layer and as a plain call.

use std::hint::black_box;
use std::sync::Arc;

use seaworthy::Pipeline;
use seaworthy::layer::{Breaker, Hedge, Limit, Retry, Standard, Timeout};
use tower::{Layer, Service};

use super::{Case, Never, Pending, Ready, Shared, service, shared};

const LIBRARY: &str = "seaworthy";

pub(super) fn cases() -> Vec<Case> {
    let case = |policy, library, build| Case { policy, library, most_threads: 2, build };
    vec![
        case("timeout", LIBRARY, || layer(Timeout::new(Default::default()), Ready)),
        case("timeout, pending once", LIBRARY, || layer(Timeout::new(Default::default()), Pending)),
        case("retry with budget", LIBRARY, || layer(Retry::new(Default::default()), Ready)),
        case("breaker", "seaworthy (10 s)", || layer(Breaker::new(Default::default()), Ready)),
        case("limit", LIBRARY, || layer(Limit::new(Default::default()), Ready)),
        case("hedge", LIBRARY, || layer(Hedge::new(Default::default()), Ready)),
        case("pipeline", "seaworthy", || plain(Ready)),
        case("pipeline", "seaworthy (as a layer)", || {
            service(Standard::new(Pipeline::new("bench")).layer(Ready))
        }),
        case("pipeline, pending once", "seaworthy", || plain(Pending)),
        case("pipeline, pending once", "seaworthy (as a layer)", || {
            service(Standard::new(Pipeline::new("bench")).layer(Pending))
        }),
    ]
}

/// One policy alone, with the numbers it has by default.
fn layer<L, S, F>(layer: Result<L, Vec<F>>, inner: S) -> Shared
where
    L: Layer<S>,
    L::Service: Service<u64> + Clone + Send + 'static,
    <L::Service as Service<u64>>::Future: 'static,
    F: std::fmt::Debug,
{
    service(layer.expect("defaults are valid").layer(inner))
}

/// Every default policy: deadline, timeout, retry with a budget, breaker, limit.
fn plain<S>(inner: S) -> Shared
where
    S: Service<u64, Response = u64, Error = Never> + Clone + Send + Sync + 'static,
    S::Future: 'static,
{
    shared((Pipeline::new("bench"), inner), |guarded: Arc<(Pipeline, S)>, count| async move {
        let (pipeline, mut inner) = (&guarded.0, guarded.1.clone());
        let mut succeeded = true;
        for request in 0..count {
            succeeded &= pipeline.call(|_attempt| inner.call(black_box(request))).await.is_ok();
        }
        succeeded
    })
}
