//! Whose call it is, and how much it matters: what the policies are told of a caller.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::{HeaderMap, header};
use seaworthy_config::HashOn;
use seaworthy_core::Criticality;

use crate::head::Asked;
use crate::keeper::hash;
use crate::worker::Worker;

/// What the call has in common with those that are to go to the same endpoint, if anything.
pub(crate) fn together(home: &Worker, upstream: usize, asked: &Asked, peer: SocketAddr) -> Option<u64> {
    let found = find(&home.site.config.upstreams[upstream].hash_on, asked, peer)?;
    Some(hash(&found))
}

/// Who calls, as far as shares and rates care. Those who don't say what the route asks for are one client.
pub(crate) fn client(home: &Worker, route: usize, asked: &Asked, peer: SocketAddr) -> u64 {
    let found = find(&home.site.config.routes[route].client_key, asked, peer);
    hash(&found.unwrap_or_default())
}

/// How much the call matters: as its client's entry says, or its route. A caller's own word counts where the route trusts it,
/// and to less everywhere.
pub(crate) fn criticality(home: &Worker, route: usize, asked: &Asked, peer: SocketAddr) -> Criticality {
    let config = &home.site.config;
    let route = &config.routes[route];
    let client = || {
        let found = find(&route.client_key, asked, peer)?;
        let is_it = |rule: &&seaworthy_config::ClientRule| rule.value.as_bytes() == &*found;
        config.clients.iter().find(is_it).map(|rule| rule.criticality)
    };
    // Most configurations know no clients, and need no look at who calls.
    let ours = if config.clients.is_empty() { None } else { client() };
    let ours = ours.or(route.criticality).unwrap_or_default();
    match asked.criticality {
        Some(theirs) if route.trust_criticality => theirs,
        Some(theirs) => theirs.min(ours),
        None => ours,
    }
}

fn find<'a>(on: &HashOn, asked: &'a Asked, peer: SocketAddr) -> Option<Cow<'a, [u8]>> {
    Some(match on {
        HashOn::None => return None,
        HashOn::Header(name) => asked.headers.get(name)?.as_bytes().into(),
        HashOn::Cookie(name) => cookie(&asked.headers, name)?.into(),
        HashOn::Source => peer.ip().to_string().into_bytes().into(),
    })
}

/// The value of the cookie `name` (RFC 6265, section 5.4).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let fields = headers.get_all(header::COOKIE).into_iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}
