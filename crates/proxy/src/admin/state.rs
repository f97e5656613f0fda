//! Every policy's state, as JSON.

use std::sync::atomic::Ordering;
use std::time::Duration;

use seaworthy::clock;
use seaworthy::shared::door::{Door, Snapshot};
use seaworthy_core::gate::breaker::{self, Force};
use seaworthy_core::gate::throttle;
use seaworthy_core::{Criticality, Instant};
use serde_json::{Value, json};

use super::keys;
use crate::fleet::Endpoint;
use crate::site::{Service, Site};

/// The state of everything.
pub(crate) fn render(site: &Site) -> Value {
    let upstreams = site.config.upstreams.iter().zip(&site.services).enumerate();
    let routes = site.config.routes.iter().enumerate().map(|(n, route)| {
        let sum = |class: usize| site.tallies.iter().map(|tally| tally.routes[n].requests[class].get()).sum::<u64>();
        json!({
            "name": route.name,
            "host": route.host.to_string(),
            "path": route.path.as_str(),
            "methods": route.methods,
            "upstream": site.config.upstreams[route.upstream].name,
            "door": site.routes[n].door.as_ref().map(|gate| door(clock::now(), gate)),
            "idempotency": route.idempotency.as_ref().zip(site.routes[n].keys.as_ref()).map(|(rules, keys)| keys::state(rules, keys)),
            "degraded_since": site.routes[n].degraded.shown(),
            "requests": {"1xx": sum(0), "2xx": sum(1), "3xx": sum(2), "4xx": sum(3), "5xx": sum(4), "gone": sum(5)},
        })
    });
    let now = clock::now();
    let listeners = site.config.listen.iter().zip(&site.listeners);
    let listeners = listeners.map(|(address, gate)| json!({ "address": address.to_string(), "door": gate.as_ref().map(|gate| door(now, gate)) }));
    let pressure = site.pressure().snapshot();
    json!({
        "ready": site.is_ready(),
        "listeners": listeners.collect::<Vec<_>>(),
        "pressure": {"mode": pressure.mode.name(), "share": pressure.share, "cause": pressure.cause.map(|cause| cause.name())},
        "idempotency": site.keys.as_ref().map(|store| json!({ "store": store.shared().kind() })),
        "connections": site.connections.load(Ordering::Relaxed),
        "routes": routes.collect::<Vec<_>>(),
        "upstreams": upstreams.map(|(n, (_, service))| upstream(site, n, service)).collect::<Vec<_>>(),
    })
}

fn upstream(site: &Site, n: usize, service: &Service) -> Value {
    let now = clock::now();
    let config = &site.config.upstreams[n];
    let (bulkhead, call) = (service.bulkhead.snapshot(now), service.commons.snapshot(now));
    let modes = site.modes(n);
    let roster = service.fleet.roster();
    let sources = config.sources.iter().zip(service.fleet.troubles());
    let sources =
        sources.map(|(source, trouble)| json!({ "at": site.config.spelt(&source.at), "trouble": trouble }));
    let endpoints = roster.iter().map(|e| endpoint(now, e));
    json!({
        "name": config.name,
        "protocol": config.protocol.name(),
        "door": door(now, &service.door),
        "throttle": throttle(&service.throttle.snapshot(now)),
        "bulkhead": {
            "mode": bulkhead.mode.name(), "running": bulkhead.running, "waiting": bulkhead.waiting,
            "rejected": bulkhead.rejected,
        },
        "timeout": {
            "mode": modes.timeout.name(), "current_ms": millis(call.learned.timeout), "late_ms": millis(call.learned.late),
            "typical_ms": millis(call.learned.typical), "samples": call.samples,
        },
        "retry": {"mode": modes.retry.name(), "tokens": call.retry_tokens},
        "hedge": {"mode": modes.hedge.name(), "after_ms": millis(call.learned.hedge_after), "tokens": call.hedge_tokens},
        "sources": sources.collect::<Vec<_>>(),
        "panic": roster.table.panics(),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// A limit and its queue.
fn door(now: Instant, door: &Door) -> Value {
    let Snapshot { limit, queue } = door.snapshot(now);
    json!({
        "limit": {
            "mode": limit.mode.name(), "algorithm": limit.algorithm.name(), "in_flight": limit.in_flight,
            "max_in_flight": limit.max_in_flight, "rejected": limit.rejected,
            "latency_ms": millis(limit.latency), "baseline_ms": millis(limit.baseline), "probing": limit.probing,
        },
        "queue": {
            "mode": queue.mode.name(), "size": queue.size, "overloaded": queue.overloaded,
            "clients": queue.clients, "oldest_ms": millis(queue.oldest),
            "waiting": by_criticality(queue.waiting), "served": by_criticality(queue.served),
            "shed": by_criticality(queue.shed), "expired": by_criticality(queue.expired),
        },
    })
}

fn throttle(seen: &throttle::Snapshot) -> Value {
    json!({
        "mode": seen.mode.name(), "shares": by_criticality(seen.shares), "rejected": seen.rejected,
    })
}

fn by_criticality<T: Into<Value>>(values: [T; 4]) -> Value {
    Criticality::ALL
        .iter()
        .zip(values)
        .map(|(criticality, value)| (criticality.name().to_owned(), value.into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn endpoint(now: Instant, endpoint: &Endpoint) -> Value {
    json!({
        "address": endpoint.authority,
        "region": endpoint.region.name,
        "breaker": breaker_state(&endpoint.breaker.snapshot(now)),
        "check": endpoint.checkup().map(|checkup| json!({ "state": checkup.state.name(), "error": checkup.error })),
        "in_flight": endpoint.in_flight(),
        "idle_connections": endpoint.sum(|tally| tally.idle.get()),
    })
}

fn breaker_state(seen: &breaker::Snapshot) -> Value {
    json!({
        "mode": seen.mode.name(),
        "state": seen.state.name(),
        "forced": seen.forced.map(|force| match force { Force::Open => "open", Force::Closed => "closed" }),
        "calls": seen.totals.calls(),
        "failures": seen.totals.failures,
        "slow": seen.totals.slow,
        "consecutive_failures": seen.consecutive,
        "wait_ms": millis(seen.wait),
        "share": seen.share,
        "opened": seen.opened,
        "rejected": seen.rejected,
        "would_reject": seen.would_reject,
    })
}

/// Milliseconds with microseconds behind the point.
fn millis(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| duration.as_micros() as f64 / 1e3)
}
