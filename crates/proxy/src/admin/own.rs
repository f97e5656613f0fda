//! How the proxy itself is: live, ready, deep.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use seaworthy::clock;
use seaworthy::health::{Check, Finding, HealthRegistry, headroom};
use seaworthy_core::Instant;

use crate::site::{Service, Site};

/// The registry, with a check of all that the proxy depends on, and what measures how late this thread's timers are. None is
/// critical but that the endpoints are known: what all proxies lack at once is no reason to take one of them out.
pub(super) fn registry(site: &Arc<Site>) -> (HealthRegistry, impl Future<Output = ()> + use<>) {
    let health = HealthRegistry::new("seaworthy", env!("CARGO_PKG_VERSION"));
    health.register(known(site.clone()));
    for upstream in 0..site.services.len() {
        health.register(dependency(site.clone(), upstream));
    }
    for worker in 0..site.tallies.len() {
        health.register(pulse(site.clone(), worker));
    }
    let folders: Vec<PathBuf> = site.config.data.iter().cloned().collect();
    let probe = headroom::register(&health, headroom::Config::default(), &folders);
    // The defaults obey their rules.
    let probe = probe.ok();
    (health, async move {
        if let Some(probe) = probe {
            probe.await;
        }
    })
}

/// Whether calls are welcome.
fn known(site: Arc<Site>) -> Check {
    let run = move || {
        let complete = site.is_complete();
        async move {
            if complete {
                Finding::pass()
            } else {
                Finding::fail("waiting for endpoints: a source has said nothing yet")
            }
        }
    };
    Check::new("endpoints:known", run).component("component").keep(Duration::ZERO).critical()
}

/// How many of an upstream's endpoints can take a call.
fn dependency(site: Arc<Site>, upstream: usize) -> Check {
    let name = site.config.upstreams[upstream].name.clone();
    let run = move || {
        let finding = endpoints(&site.services[upstream]);
        async move { finding }
    };
    Check::new("upstream:endpoints", run).id(&name).component("component")
}

fn endpoints(service: &Service) -> Finding {
    let roster = service.fleet.roster();
    let (usable, all) = (roster.table.usable(), roster.table.len());
    let of_all = format!("{usable} of {all} endpoints can take a call");
    let trouble = service.fleet.troubles().into_iter().flatten().next();
    let finding = match trouble {
        _ if usable == 0 => Finding::fail(of_all),
        _ if roster.table.panics() => Finding::warn("so many checks fail that none is believed"),
        Some(trouble) => Finding::warn(trouble),
        None if usable < all => Finding::warn(of_all),
        None => Finding::pass(),
    };
    finding.observed(usable as f64, "endpoints")
}

/// Whether a worker, who does something every second, still does.
fn pulse(site: Arc<Site>, worker: usize) -> Check {
    let run = move || {
        let last = Instant::from_nanos(site.tallies[worker].pulse.get());
        let finding = lag(clock::now().since(last));
        async move { finding }
    };
    Check::new("worker:lag", run).id(&worker.to_string()).component("system")
}

/// What to say of a worker that was last seen so long ago.
fn lag(since: Duration) -> Finding {
    let late = since.saturating_sub(PULSE);
    let say = format!("it is {late:?} behind");
    let finding = match late {
        late if late >= STUCK => Finding::fail(say),
        late if late >= LATE => Finding::warn(say),
        _ => Finding::pass(),
    };
    finding.observed(late.as_millis() as f64, "ms")
}

/// How often a worker shows that it lives: whenever it sweeps.
const PULSE: Duration = Duration::from_secs(1);
/// As the library's own event-loop check: people notice it.
const LATE: Duration = Duration::from_millis(100);
/// Whoever probes gives up.
const STUCK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use seaworthy::health::Status;

    use super::*;

    #[test]
    fn a_worker_is_late_from_a_tenth_of_a_second_on_and_stuck_from_a_second() {
        let of = |millis: u64| lag(Duration::from_millis(millis)).status;
        assert_eq!([of(0), of(1099), of(1100), of(1999), of(2000)], {
            use Status::{Fail, Pass, Warn};
            [Pass, Pass, Warn, Warn, Fail]
        });
    }
}
