//! The numbers of what guards against overload: the doors of listeners, routes and upstreams, the throttles, the host's pressure.

use std::fmt::{self, Display, Write};

use seaworthy::clock;
use seaworthy::shared::door::{Door, Snapshot};
use seaworthy_config::{Config, RateStore};
use seaworthy_core::Criticality;
use seaworthy_core::gate::breaker::State;

use super::metrics::{family, label};
use crate::rate::{Counts, Meter};
use crate::site::Site;

pub(super) fn write(out: &mut String, site: &Site) -> fmt::Result {
    let now = clock::now();
    let doors: Vec<(String, Snapshot)> =
        doors(site).into_iter().map(|(place, door)| (place, door.snapshot(now))).collect();
    limits(out, &doors)?;
    queues(out, &doors)?;
    throttles(out, site)?;
    rates(out, site)?;
    shelf(out, site)?;
    flags(out, site)?;
    let share = site.pressure().share();
    family(
        out,
        "pressure_share",
        "gauge",
        "The share of all limits that the host's pressure leaves in force.",
    )?;
    writeln!(out, "seaworthy_pressure_share {share}")
}

/// Every door, with the label that names its place.
fn doors(site: &Site) -> Vec<(String, &Door)> {
    let config = &site.config;
    let listeners =
        config.listen.iter().map(|address| format!("listener=\"{address}\"")).zip(&site.listeners);
    let listeners = listeners.filter_map(|(place, door)| Some((place, door.as_ref()?)));
    let routes = config.routes.iter().zip(&site.routes);
    let routes = routes.filter_map(|(route, state)| {
        Some((format!("route=\"{}\"", label(&route.name)), state.door.as_ref()?))
    });
    let upstreams = config.upstreams.iter().zip(&site.services);
    let upstreams = upstreams
        .map(|(upstream, service)| (format!("upstream=\"{}\"", label(&upstream.name)), &service.door));
    listeners.chain(routes).chain(upstreams).collect()
}

fn limits(out: &mut String, doors: &[(String, Snapshot)]) -> fmt::Result {
    type Pick = fn(&Snapshot) -> Option<f64>;
    let rows: [(&str, &str, &str, Pick); 5] = [
        ("limit_in_flight", "gauge", "Calls in flight.", |door| Some(door.limit.in_flight.into())),
        ("limit_max_in_flight", "gauge", "The most calls there may be in flight.", |door| {
            Some(door.limit.max_in_flight.into())
        }),
        (
            "limit_rejected_total",
            "counter",
            "Calls that a full limit refused at once, or would have.",
            |door| Some(door.limit.rejected as f64),
        ),
        (
            "limit_latency_seconds",
            "gauge",
            "How long calls take of late, where the limit moves by it.",
            |door| door.limit.latency.map(|latency| latency.as_secs_f64()),
        ),
        ("limit_baseline_seconds", "gauge", "How long they take while none waits in the upstream.", |door| {
            door.limit.baseline.map(|baseline| baseline.as_secs_f64())
        }),
    ];
    for (metric, kind, help, pick) in rows {
        let values = doors.iter().filter_map(|(place, door)| Some((place, pick(door)?)));
        each(out, metric, kind, help, values)?;
    }
    Ok(())
}

fn queues(out: &mut String, doors: &[(String, Snapshot)]) -> fmt::Result {
    each(
        out,
        "queue_overloaded",
        "gauge",
        "Whether the newest call goes first, as calls are lost and the queue does not empty.",
        doors.iter().map(|(place, door)| (place, u8::from(door.queue.overloaded))),
    )?;
    type Pick = fn(&Snapshot) -> [u64; 4];
    let rows: [(&str, &str, &str, Pick); 4] = [
        ("queue_waiting", "gauge", "Calls that wait for a place.", |door| door.queue.waiting.map(u64::from)),
        ("queue_served_total", "counter", "Calls that got a place after a wait.", |door| door.queue.served),
        (
            "queue_shed_total",
            "counter",
            "Calls that found no room in the queue, or lost it to others.",
            |door| door.queue.shed,
        ),
        ("queue_expired_total", "counter", "Calls that waited in vain until their time was over.", |door| {
            door.queue.expired
        }),
    ];
    for (metric, kind, help, pick) in rows {
        let counts = doors.iter().flat_map(|(place, door)| by_criticality(place, pick(door)));
        each(out, metric, kind, help, counts)?;
    }
    Ok(())
}

fn throttles(out: &mut String, site: &Site) -> fmt::Result {
    let now = clock::now();
    let seen: Vec<_> = site
        .config
        .upstreams
        .iter()
        .zip(&site.services)
        .map(|(upstream, service)| {
            (format!("upstream=\"{}\"", label(&upstream.name)), service.throttle.snapshot(now))
        })
        .collect();
    each(
        out,
        "throttle_share",
        "gauge",
        "The share of the attempts that is not sent, as the upstream refuses too many.",
        seen.iter().flat_map(|(place, throttle)| by_criticality(place, throttle.shares)),
    )?;
    each(
        out,
        "throttle_rejected_total",
        "counter",
        "Attempts that were not sent for that, or would not have been.",
        seen.iter().map(|(place, throttle)| (place, throttle.rejected)),
    )
}

fn rates(out: &mut String, site: &Site) -> fmt::Result {
    let now = clock::now();
    let seen = |meter: &Meter| (meter.counts(), meter.own(now).keys);
    let all = site.meter.iter().map(|meter| ("listener=\"all\"".to_owned(), seen(meter)));
    let routes = site.config.routes.iter().zip(&site.routes);
    let routes = routes.filter_map(|(route, state)| {
        Some((format!("route=\"{}\"", label(&route.name)), seen(state.meter.as_ref()?)))
    });
    let counts: Vec<(String, Counts, u32)> =
        all.chain(routes).map(|(place, (counts, keys))| (place, counts, keys)).collect();
    type Pick = fn(&Counts) -> u64;
    let rows: [(&str, &str, Pick); 3] = [
        ("rate_refused_total", "Calls beyond their rate.", |counts| counts.refused),
        ("rate_shared_total", "Calls whose rate is counted in Redis.", |counts| counts.asked),
        ("rate_store_down_total", "Of these, calls that were decided without it.", |counts| counts.down),
    ];
    for (metric, help, pick) in rows {
        each(out, metric, "counter", help, counts.iter().map(|(place, counts, _)| (place, pick(counts))))?;
    }
    let keys = counts.iter().map(|(place, _, keys)| (place, *keys));
    each(out, "rate_keys", "gauge", "Clients that are told apart here.", keys)?;
    // Keys may be kept there too, and then say themselves whether it answers.
    let Some(store) = site.redis.as_ref().filter(|_| counts_in_redis(&site.config)) else { return Ok(()) };
    let up = u8::from(store.snapshot(now).state == State::Closed);
    family(out, "redis_up", "gauge", "Whether Redis answers those who ask for rates.")?;
    writeln!(out, "seaworthy_redis_up {up}")
}

/// Whether any rate is counted in Redis.
fn counts_in_redis(config: &Config) -> bool {
    let routes = config.routes.iter().filter_map(|route| route.rate.as_ref());
    config.rate.iter().chain(routes).any(|rate| rate.store == RateStore::Redis)
}

/// The good answers that are kept.
fn shelf(out: &mut String, site: &Site) -> fmt::Result {
    let counts = site.shelf.store.counts();
    let rows = [
        ("stale_entries", "gauge", "Good answers that are kept.", counts.entries),
        ("stale_bytes", "gauge", "Bytes that they take.", counts.bytes),
        ("stale_evictions_total", "counter", "Answers that left for others.", counts.evictions),
        ("stale_hits_total", "counter", "Calls answered with a fresh one.", counts.hits),
        ("stale_served_total", "counter", "Calls answered with one past its time.", counts.stale),
        ("stale_misses_total", "counter", "Calls for which there was none.", counts.misses),
        (
            "stale_revalidations_total",
            "counter",
            "Answers that the upstream called good again.",
            counts.revalidations,
        ),
    ];
    for (metric, kind, help, count) in rows {
        family(out, metric, kind, help)?;
        writeln!(out, "seaworthy_{metric} {count}")?;
    }
    Ok(())
}

/// What is known of flags.
fn flags(out: &mut String, site: &Site) -> fmt::Result {
    let routes = site.config.routes.iter().zip(&site.routes);
    let known: Vec<_> = routes
        .filter_map(|(route, state)| {
            Some((format!("route=\"{}\"", label(&route.name)), state.flags.as_ref()?.snapshot()))
        })
        .collect();
    let values = known.iter().map(|(place, seen)| (place, seen.values));
    each(out, "flag_values", "gauge", "Last-known-good values of flags that are kept.", values)?;
    let failed = known.iter().map(|(place, seen)| (place, seen.failed_writes));
    each(out, "flag_failed_writes_total", "counter", "How often their file could not be written.", failed)
}

/// A metric with a line for each place: its labels, and the value there.
fn each<L: Display, V: Display>(
    out: &mut String,
    metric: &str,
    kind: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, V)>,
) -> fmt::Result {
    family(out, metric, kind, help)?;
    for (labels, value) in values {
        writeln!(out, "seaworthy_{metric}{{{labels}}} {value}")?;
    }
    Ok(())
}

/// The labels and values of one place by criticality.
fn by_criticality<V>(place: &str, values: [V; 4]) -> impl Iterator<Item = (String, V)> {
    let labels = Criticality::ALL.map(|criticality| format!("{place},criticality=\"{criticality}\""));
    labels.into_iter().zip(values)
}
