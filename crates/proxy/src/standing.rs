//! Whose call it is, and how much it matters: what the policies are told of a caller.

use std::borrow::Cow;

use http::{HeaderMap, header};
use seaworthy_config::{ClientRule, HashOn};
use seaworthy_core::Criticality;
use sha2::{Digest as _, Sha256};

use crate::client::Client;
use crate::head::Asked;
use crate::keeper::hash;

/// What the call has in common with those that are to go to the same endpoint, if anything.
pub(crate) fn together(upstream: usize, asked: &Asked, client: &Client) -> Option<u64> {
    key(&client.home.site.config.upstreams[upstream].hash_on, asked, client, hash)
}

/// Who calls, as far as shares and rates care. Those who don't say what the route asks for are one client.
pub(crate) fn caller(route: usize, asked: &Asked, client: &Client) -> u64 {
    key(&client.home.site.config.routes[route].client_key, asked, client, fingerprint).unwrap_or_default()
}

/// A client as a number that another can't be given on purpose: the first 64 bits of SHA-256. No secret is in it, as proxies
/// that count together in one Redis must know a client by the same number; and to find what has the number of a given client
/// takes 2^64 tries.
pub(crate) fn fingerprint(client: &[u8]) -> u64 {
    Sha256::digest(client).iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

/// Who calls, in its own words; `None` if it does not say what the route asks for.
pub(crate) fn who<'a>(route: usize, asked: &'a Asked, client: &Client) -> Option<Cow<'a, [u8]>> {
    find(&client.home.site.config.routes[route].client_key, asked, client)
}

/// How much the call matters: as its client's entry says, or its route. A caller's own word counts where the route trusts it,
/// and to less everywhere.
pub(crate) fn criticality(route: usize, asked: &Asked, client: &Client) -> Criticality {
    let config = &client.home.site.config;
    let route = &config.routes[route];
    let rule = || {
        let found = find(&route.client_key, asked, client)?;
        let is_it = |rule: &&ClientRule| rule.value.as_bytes() == &*found;
        config.clients.iter().find(is_it).map(|rule| rule.criticality)
    };
    // Most configurations know no clients, and need no look at who calls.
    let ours = if config.clients.is_empty() { None } else { rule() };
    let ours = ours.or(route.criticality).unwrap_or_default();
    match asked.criticality {
        Some(theirs) if route.trust_criticality => theirs,
        Some(theirs) => theirs.min(ours),
        None => ours,
    }
}

fn key(on: &HashOn, asked: &Asked, client: &Client, hash: fn(&[u8]) -> u64) -> Option<u64> {
    // The address is the same for all calls of a connection.
    if *on == HashOn::Source {
        return Some(client.source);
    }
    find(on, asked, client).map(|found| hash(&found))
}

fn find<'a>(on: &HashOn, asked: &'a Asked, client: &Client) -> Option<Cow<'a, [u8]>> {
    Some(match on {
        HashOn::None => return None,
        HashOn::Header(name) => asked.headers.get(name)?.as_bytes().into(),
        HashOn::Cookie(name) => cookie(&asked.headers, name)?.into(),
        HashOn::Source => client.peer.ip().to_string().into_bytes().into(),
    })
}

/// The value of the cookie `name` (RFC 6265, section 5.4).
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let fields = headers.get_all(header::COOKIE).into_iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_the_same_number_in_every_proxy() {
        // FIPS 180-4's example, "abc".
        assert_eq!(fingerprint(b"abc"), 0xBA78_16BF_8F01_CFEA);
    }
}
