//! The numbers, as Prometheus reads them (text format 0.0.4).
//!
//! Workers count each for itself; here the counts are added up, so asking costs the workers nothing.

use std::fmt::{self, Write};
use std::sync::atomic::Ordering;

use seaworthy::clock;
use seaworthy_core::gate::breaker::State;

use super::{keys, overload};
use crate::fleet::Endpoint;
use crate::site::Site;
use crate::tally::{BUCKETS, Degraded, EndpointTally, Histogram, KINDS, OUTCOMES, RouteTally};

/// All metrics.
pub(crate) fn render(site: &Site) -> String {
    let mut out = String::with_capacity(16 * 1024);
    // Writing to a string can't fail.
    let _ = write(&mut out, site);
    out
}

fn write(out: &mut String, site: &Site) -> fmt::Result {
    connections(out, site)?;
    routes(out, site)?;
    endpoints(out, site)?;
    breakers(out, site)?;
    checks(out, site)?;
    upstreams(out, site)?;
    keys::metrics(out, site)?;
    overload::write(out, site)
}

fn connections(out: &mut String, site: &Site) -> fmt::Result {
    family(out, "connections", "gauge", "Client connections.")?;
    writeln!(out, "seaworthy_connections {}", site.connections.load(Ordering::Relaxed))?;
    family(out, "connections_accepted_total", "counter", "Client connections accepted.")?;
    let accepted: u64 = site.tallies.iter().map(|tally| tally.accepted.get()).sum();
    writeln!(out, "seaworthy_connections_accepted_total {accepted}")?;
    family(
        out,
        "connections_refused_total",
        "counter",
        "Client connections turned away, as there were too many.",
    )?;
    writeln!(out, "seaworthy_connections_refused_total {}", site.turned_away.load(Ordering::Relaxed))?;
    family(out, "log_lines_dropped_total", "counter", "Log lines dropped, as the writer was behind.")?;
    let dropped: u64 = site.tallies.iter().map(|tally| tally.unlogged.get()).sum();
    writeln!(out, "seaworthy_log_lines_dropped_total {dropped}")?;
    family(out, "ready", "gauge", "Whether new calls are welcome.")?;
    writeln!(out, "seaworthy_ready {}", u8::from(site.is_ready()))
}

fn routes(out: &mut String, site: &Site) -> fmt::Result {
    let names: Vec<String> =
        site.config.routes.iter().map(|r| label(&r.name)).chain([String::new()]).collect();
    let sum = |n: usize, pick: &dyn Fn(&RouteTally) -> u64| -> u64 {
        site.tallies.iter().map(|tally| pick(&tally.routes[n])).sum()
    };
    family(
        out,
        "requests_total",
        "counter",
        "Calls by the class of their answer's status; gone if the caller went away.",
    )?;
    for (n, name) in names.iter().enumerate() {
        for (class, status) in ["1xx", "2xx", "3xx", "4xx", "5xx", "gone"].into_iter().enumerate() {
            let count = sum(n, &|route| route.requests[class].get());
            if count > 0 || class == 1 {
                writeln!(out, "seaworthy_requests_total{{route=\"{name}\",status=\"{status}\"}} {count}")?;
            }
        }
    }
    family(out, "rejected_total", "counter", "Calls that a policy refused.")?;
    for (n, name) in names.iter().enumerate() {
        writeln!(
            out,
            "seaworthy_rejected_total{{route=\"{name}\"}} {}",
            sum(n, &|route| route.rejected.get())
        )?;
    }
    family(
        out,
        "degraded_total",
        "counter",
        "Calls answered with what there is instead of the upstream's answer.",
    )?;
    for (n, name) in names.iter().enumerate() {
        for kind in Degraded::ALL {
            let count = sum(n, &|route| route.degraded[kind as usize].get());
            writeln!(out, "seaworthy_degraded_total{{route=\"{name}\",with=\"{}\"}} {count}", kind.name())?;
        }
    }
    family(out, "degraded", "gauge", "Whether the route's last answer was such a one.")?;
    for (name, route) in names.iter().zip(&site.routes) {
        let is = u8::from(route.degraded.shown().is_some());
        writeln!(out, "seaworthy_degraded{{route=\"{name}\"}} {is}")?;
    }
    type Pick = fn(&RouteTally) -> &Histogram;
    let histograms: [(&str, &str, Pick); 2] = [
        ("head_seconds", "From the head of a request to that of its answer.", |route| &route.head),
        ("request_seconds", "From the head of a request to the end of its answer.", |route| &route.total),
    ];
    for (metric, help, pick) in histograms {
        family(out, metric, "histogram", help)?;
        for (n, name) in names.iter().enumerate() {
            let parts = site.tallies.iter().map(|tally| pick(&tally.routes[n]));
            histogram(out, metric, name, &parts.collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

fn histogram(out: &mut String, metric: &str, route: &str, parts: &[&Histogram]) -> fmt::Result {
    let mut count = 0;
    for n in 0..BUCKETS {
        count += parts.iter().map(|part| part.buckets[n].get()).sum::<u64>();
        let bound = Histogram::bound(n).map_or("+Inf".to_owned(), |bound| bound.to_string());
        writeln!(out, "seaworthy_{metric}_bucket{{route=\"{route}\",le=\"{bound}\"}} {count}")?;
    }
    let sum = parts.iter().map(|part| part.sum.get()).sum::<u64>() as f64 / 1e9;
    writeln!(out, "seaworthy_{metric}_sum{{route=\"{route}\"}} {sum}")?;
    writeln!(out, "seaworthy_{metric}_count{{route=\"{route}\"}} {count}")
}

fn endpoints(out: &mut String, site: &Site) -> fmt::Result {
    family(out, "attempts_total", "counter", "Attempts by how they ended.")?;
    each(out, site, |out, labels, sum| {
        for (n, outcome) in OUTCOMES.iter().enumerate() {
            let count = sum(&|e| e.outcomes[n].get());
            if count > 0 || n == 0 {
                writeln!(out, "seaworthy_attempts_total{{{labels},outcome=\"{outcome}\"}} {count}")?;
            }
        }
        Ok(())
    })?;
    family(out, "attempts_started_total", "counter", "Attempts by their kind: first, retry, hedge.")?;
    each(out, site, |out, labels, sum| {
        for (n, kind) in KINDS.iter().enumerate() {
            let count = sum(&|e| e.kinds[n].get());
            writeln!(out, "seaworthy_attempts_started_total{{{labels},kind=\"{}\"}} {count}", kind.name())?;
        }
        Ok(())
    })?;
    type Pick = fn(&EndpointTally) -> u64;
    let counts: [(&str, &str, &str, Pick); 5] = [
        ("attempts_refused_total", "counter", "Attempts that the breaker refused.", |e| e.refused.get()),
        ("upstream_connections_total", "counter", "Connections made to the endpoint.", |e| e.connected.get()),
        ("broken_answers_total", "counter", "Answers that broke off or ended badly after their head.", |e| {
            e.broken_bodies.get()
        }),
        ("attempts_in_flight", "gauge", "Attempts in flight.", |e| e.in_flight.get()),
        ("upstream_connections_idle", "gauge", "Idle connections, a second ago at most.", |e| e.idle.get()),
    ];
    for (metric, kind, help, pick) in counts {
        family(out, metric, kind, help)?;
        each(out, site, |out, labels, sum| writeln!(out, "seaworthy_{metric}{{{labels}}} {}", sum(&pick)))?;
    }
    Ok(())
}

type Sum<'a> = &'a dyn Fn(&dyn Fn(&EndpointTally) -> u64) -> u64;

/// For every endpoint, with its labels and what adds up a count over the workers.
fn each(
    out: &mut String,
    site: &Site,
    mut write: impl FnMut(&mut String, &str, Sum<'_>) -> fmt::Result,
) -> fmt::Result {
    for (upstream, service) in site.config.upstreams.iter().zip(&site.services) {
        for endpoint in service.fleet.roster().iter() {
            let labels = labels(&upstream.name, endpoint);
            write(out, &labels, &|pick| endpoint.sum(pick))?;
        }
    }
    Ok(())
}

fn labels(upstream: &str, endpoint: &Endpoint) -> String {
    let region = &endpoint.region.name;
    let mut labels = format!("upstream=\"{}\",endpoint=\"{}\"", label(upstream), label(&endpoint.authority));
    if !region.is_empty() {
        labels.push_str(&format!(",region=\"{}\"", label(region)));
    }
    labels
}

fn breakers(out: &mut String, site: &Site) -> fmt::Result {
    let now = clock::now();
    let mut lines = [String::new(), String::new(), String::new()];
    for (upstream, service) in site.config.upstreams.iter().zip(&site.services) {
        for endpoint in service.fleet.roster().iter() {
            let labels = labels(&upstream.name, endpoint);
            let seen = endpoint.breaker.snapshot(now);
            for state in [State::Closed, State::Open, State::HalfOpen, State::Ramping] {
                let is = u8::from(seen.state == state);
                writeln!(lines[0], "seaworthy_breaker_state{{{labels},state=\"{}\"}} {is}", state.name())?;
            }
            writeln!(lines[1], "seaworthy_breaker_opened_total{{{labels}}} {}", seen.opened)?;
            writeln!(lines[2], "seaworthy_breaker_would_reject_total{{{labels}}} {}", seen.would_reject)?;
        }
    }
    family(out, "breaker_state", "gauge", "1 for the state that the breaker is in.")?;
    out.push_str(&lines[0]);
    family(out, "breaker_opened_total", "counter", "How often the breaker has opened.")?;
    out.push_str(&lines[1]);
    family(
        out,
        "breaker_would_reject_total",
        "counter",
        "Attempts that it would have refused, were it not only observing.",
    )?;
    out.push_str(&lines[2]);
    Ok(())
}

/// What active checks say, where there are any.
fn checks(out: &mut String, site: &Site) -> fmt::Result {
    family(out, "endpoint_up", "gauge", "Whether its checks find the endpoint well.")?;
    for (upstream, service) in site.config.upstreams.iter().zip(&site.services) {
        for endpoint in service.fleet.roster().iter() {
            let Some(checkup) = endpoint.checkup() else { continue };
            let up = u8::from(checkup.state.is_usable());
            writeln!(out, "seaworthy_endpoint_up{{{}}} {up}", labels(&upstream.name, endpoint))?;
        }
    }
    Ok(())
}

fn upstreams(out: &mut String, site: &Site) -> fmt::Result {
    let now = clock::now();
    let mut rows = [
        ("bulkhead_running", "Attempts that hold a place."),
        ("bulkhead_waiting", "Attempts that wait for a place."),
        ("learned_timeout_seconds", "The timeout of the next attempt."),
        ("learned_typical_seconds", "The median latency."),
        ("retry_budget_tokens", "Retries that the budget has left."),
        ("hedge_budget_tokens", "Hedges that the budget has left."),
        ("endpoints", "Endpoints that are known."),
        ("panic", "Whether so many checks fail that none is believed."),
        ("discovery_troubles", "Sources of endpoints that can't say what there is."),
    ]
    .map(|(name, help)| (name, help, Vec::new()));
    for (upstream, service) in site.config.upstreams.iter().zip(&site.services) {
        let (bulkhead, call) = (service.bulkhead.snapshot(now), service.commons.snapshot(now));
        let roster = service.fleet.roster();
        let values = [
            Some(f64::from(bulkhead.running)),
            Some(f64::from(bulkhead.waiting)),
            call.learned.timeout.map(|d| d.as_secs_f64()),
            call.learned.typical.map(|d| d.as_secs_f64()),
            Some(call.retry_tokens),
            Some(call.hedge_tokens),
            Some(roster.iter().count() as f64),
            Some(f64::from(u8::from(roster.table.panics()))),
            Some(service.fleet.troubles().iter().flatten().count() as f64),
        ];
        for (row, value) in rows.iter_mut().zip(values) {
            row.2.extend(value.map(|value| (label(&upstream.name), value)));
        }
    }
    for (metric, help, values) in rows {
        family(out, metric, "gauge", help)?;
        for (upstream, value) in values {
            writeln!(out, "seaworthy_{metric}{{upstream=\"{upstream}\"}} {value}")?;
        }
    }
    Ok(())
}

pub(super) fn family(out: &mut String, metric: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP seaworthy_{metric} {help}\n# TYPE seaworthy_{metric} {kind}")
}

/// A label's value, escaped.
pub(super) fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
