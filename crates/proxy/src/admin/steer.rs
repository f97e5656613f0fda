//! What operators can change while the proxy runs. Nothing of it outlives the process.

use seaworthy::clock;
use seaworthy_config::Level;
use seaworthy_core::Mode;
use seaworthy_core::gate::breaker::Force;
use serde_json::{Value, json};

use crate::site::Site;
use crate::worker::At;

/// Carries out the order that was posted to `path`.
///
/// # Errors
/// Why it can't be.
pub(crate) fn obey(site: &Site, path: &str, order: &Value) -> Result<Value, String> {
    let upstream = upstream(site, order)?;
    match path {
        "/api/breaker" => force(site, upstream, order),
        _ => mode(site, upstream, order),
    }
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
    let endpoints = &site.config.upstreams[upstream].endpoints;
    let mut done = 0;
    for (endpoint, address) in endpoints.iter().enumerate() {
        if wanted.is_some_and(|wanted| wanted != address.authority()) {
            continue;
        }
        done += 1;
        if let Some(change) = site.services[upstream].breakers[endpoint].force(clock::now(), force) {
            site.journal.breaker(&site.config, At { upstream, endpoint }, &change);
        }
    }
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
