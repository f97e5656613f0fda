//! What operators can change while the proxy runs. Nothing of it outlives the process.

use std::time::Duration;

use seaworthy::clock;
use seaworthy_config::Level;
use seaworthy_core::Mode;
use seaworthy_core::gate::breaker::Force;
use serde_json::{Value, json};

use super::ask;
use crate::keeper::{Move, What};
use crate::site::Site;

/// Carries out the order that was posted to `path`.
///
/// # Errors
/// Why it can't be.
pub(crate) async fn obey(site: &Site, path: &str, order: &Value) -> Result<Value, String> {
    match path {
        "/api/breaker" => force(site, upstream(site, order)?, order),
        "/api/mode" => mode(site, upstream(site, order)?, order),
        "/api/restart" => ask(site, What::Restart { process: word(order, "process")?.to_owned() }).await,
        _ => {
            let wanted = Move {
                region: word(order, "region")?.to_owned(),
                over: over(order)?,
                force: order.get("force").and_then(Value::as_bool).unwrap_or(false),
                reason: order.get("reason").and_then(Value::as_str).unwrap_or("").to_owned(),
            };
            let what = if path == "/api/evacuate" { What::Evacuate(wanted) } else { What::Restore(wanted) };
            ask(site, what).await
        }
    }
}

/// How long it is to take; ten seconds if nothing is said.
fn over(order: &Value) -> Result<Duration, String> {
    let Some(millis) = order.get("over_ms") else { return Ok(Duration::from_secs(10)) };
    let millis = millis.as_u64().filter(|millis| *millis <= LONGEST_MOVE_MS);
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| format!("over_ms must be a number from 0 to {LONGEST_MOVE_MS}"))
}

fn upstream(site: &Site, order: &Value) -> Result<usize, String> {
    let name = word(order, "upstream")?;
    let known = site.config.upstreams.iter().position(|upstream| upstream.name == name);
    known.ok_or_else(|| format!("there is no upstream {name:?}"))
}

fn force(site: &Site, upstream: usize, order: &Value) -> Result<Value, String> {
    let force = match word(order, "force")? {
        "open" => Some(Force::Open),
        "closed" => Some(Force::Closed),
        "none" => None,
        other => return Err(format!("force is {other:?}; write \"open\", \"closed\" or \"none\"")),
    };
    let wanted = order
        .get("endpoint")
        .map(|endpoint| endpoint.as_str().ok_or("endpoint must be a string"))
        .transpose()?;
    let mut done = 0;
    for endpoint in site.services[upstream].fleet.roster().iter() {
        if wanted.is_some_and(|wanted| wanted != endpoint.authority) {
            continue;
        }
        done += 1;
        if let Some(change) = endpoint.breaker.force(clock::now(), force) {
            site.journal.breaker(&site.config.upstreams[upstream].name, endpoint, &change);
        }
    }
    site.services[upstream].fleet.stir();
    if done == 0 {
        return Err(format!("there is no endpoint {:?}", wanted.unwrap_or("")));
    }
    tell(site, "breaker_forced", upstream, word(order, "force")?);
    Ok(json!({ "breakers": done }))
}

fn mode(site: &Site, upstream: usize, order: &Value) -> Result<Value, String> {
    let mode = match word(order, "mode")? {
        "enforce" => Mode::Enforce,
        "observe" => Mode::Observe,
        "off" => Mode::Off,
        other => return Err(format!("mode is {other:?}; write \"enforce\", \"observe\" or \"off\"")),
    };
    let policy = word(order, "policy")?;
    site.set_mode(clock::now(), upstream, policy, mode)?;
    tell(site, "mode_set", upstream, &format!("{policy}={}", mode.name()));
    Ok(json!({ "policy": policy, "mode": mode.name() }))
}

/// Notes what an operator did.
fn tell(site: &Site, event: &str, upstream: usize, what: &str) {
    site.journal.event(
        Level::Warn,
        event,
        &[("upstream", &site.config.upstreams[upstream].name), ("order", what)],
    );
}

fn word<'a>(order: &'a Value, name: &str) -> Result<&'a str, String> {
    order.get(name).and_then(Value::as_str).ok_or_else(|| format!("{name} must be a string"))
}

/// An hour: whoever wants to go slower wants to watch, and can go in steps.
const LONGEST_MOVE_MS: u64 = 3_600_000;
