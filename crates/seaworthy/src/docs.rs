//! The pages of `docs/` and the README, so that what they show compiles.

macro_rules! pages {
    ($($name:ident: $path:literal)*) => {
        $(
            #[doc = include_str!(concat!("../../../", $path))]
            mod $name {}
        )*
    };
}

pages! {
    readme: "README.md"
    library: "docs/library.md"
    balance: "docs/policies/balance.md"
    breaker: "docs/policies/breaker.md"
    budget: "docs/policies/budget.md"
    fallback: "docs/policies/fallback.md"
    hedge: "docs/policies/hedge.md"
    limit: "docs/policies/limit.md"
    outlier: "docs/policies/outlier.md"
    queue: "docs/policies/queue.md"
    rate: "docs/policies/rate.md"
    retry: "docs/policies/retry.md"
    throttle: "docs/policies/throttle.md"
    timeout: "docs/policies/timeout.md"
}

#[cfg(all(unix, feature = "process-pool"))]
pages! {
    bulkhead: "docs/policies/bulkhead.md"
}

#[cfg(feature = "health")]
pages! {
    health: "docs/policies/health.md"
    pressure: "docs/policies/pressure.md"
}

#[cfg(feature = "idempotency")]
pages! {
    idempotency: "docs/policies/idempotency.md"
}

#[cfg(feature = "flags")]
pages! {
    flags: "docs/flags.md"
}
