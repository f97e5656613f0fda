//! What is known of one name's addresses, and what an answer changes in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::ask::Said;

/// The last good addresses of a name.
#[derive(Default, Debug)]
pub(super) struct Addresses {
    /// IPv4, IPv6.
    families: [Vec<IpAddr>; 2],
    doubt: Doubt,
    /// Whether there ever was a good answer.
    pub(super) known: bool,
    /// How long the last good answer may be kept.
    pub(super) ttl: Duration,
}

impl Addresses {
    /// Takes what was said of both families; returns what went wrong.
    ///
    /// A family that fails beside one that answers keeps its last addresses. If it never had any, that is no trouble: some
    /// servers fail for every question about IPv6 (RFC 4074, section 4).
    pub(super) fn hear(&mut self, name: &str, said: [Said<IpAddr>; 2]) -> Option<String> {
        if said.iter().any(|said| matches!(said, Ok(Some(_)))) {
            return self.hear_some(said);
        }
        if let Some(error) = said.into_iter().find_map(Result::err) {
            self.doubt.clear();
            return Some(error);
        }
        let was_empty = self.families.iter().all(Vec::is_empty);
        if was_empty || self.doubt.is_over() {
            self.families = Default::default();
            return Some(format!("{name} has no addresses; {REMEDY}"));
        }
        Some(format!("{name} has no addresses any more, which is believed if it stays so; {REMEDY}"))
    }

    fn hear_some(&mut self, said: [Said<IpAddr>; 2]) -> Option<String> {
        self.doubt.clear();
        self.known = true;
        let mut trouble = None;
        let mut least = None;
        for (family, said) in self.families.iter_mut().zip(said) {
            match said {
                Ok(Some((mut addresses, ttl))) => {
                    addresses.sort();
                    addresses.dedup();
                    *family = addresses;
                    least = Some(least.map_or(ttl, |least: Duration| least.min(ttl)));
                }
                // The other family is there, so this is no empty answer.
                Ok(None) => family.clear(),
                Err(error) if !family.is_empty() => trouble = Some(error),
                Err(_) => {}
            }
        }
        self.ttl = least.unwrap_or_default();
        trouble
    }

    /// The addresses that this machine has a way to. A family without any way (IPv6 on a machine that has none) is left out
    /// as long as the other has one; without any way at all they stay, and connections will tell why they fail.
    pub(super) fn usable(&self) -> Vec<IpAddr> {
        let [v4, v6] = self.families.each_ref().map(|family| family.iter().any(has_way));
        let all = |family: &Vec<IpAddr>| family.clone();
        match (v4, v6) {
            (true, false) => all(&self.families[0]),
            (false, true) => all(&self.families[1]),
            _ => self.families.concat(),
        }
    }
}

/// How often in a row a name was said to have no records.
///
/// A server that has just started, or has lost its own source, says that there is nothing as firmly as one that knows. But
/// somebody who scales a service down to nothing wants to be believed as well, and its addresses will be given to others. So an
/// empty answer counts only once it has been given [`BELIEVED`] times in a row.
#[derive(Default, Debug)]
pub(super) struct Doubt(u32);

impl Doubt {
    /// Another empty answer came: whether it is believed now.
    pub(super) fn is_over(&mut self) -> bool {
        self.0 = self.0.saturating_add(1);
        self.0 >= BELIEVED
    }

    /// Another answer than an empty one came, or none.
    pub(super) fn clear(&mut self) {
        self.0 = 0;
    }
}

/// Asked for after 1, 2, 4 and 8 times the least interval between questions: with the default of one second, an empty answer is
/// believed when it is fifteen seconds old, longer than a cluster's DNS server takes to start.
pub(super) const BELIEVED: u32 = 5;

/// What to do about a name without records.
pub(super) const REMEDY: &str = "check its spelling and that something is registered under it";

/// Whether this machine has a route to an address. Connecting a datagram socket sends nothing.
fn has_way(address: &IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(SocketAddr::new(*address, 9))).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(addresses: &[&str]) -> Said<IpAddr> {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Ok(Some((addresses, Duration::from_secs(5))))
    }

    fn texts(addresses: &Addresses) -> Vec<String> {
        addresses.families.concat().iter().map(ToString::to_string).collect()
    }

    fn failed() -> Said<IpAddr> {
        Err("no answer".to_owned())
    }

    #[test]
    fn both_families_count_and_their_order_is_ours() {
        let mut known = Addresses::default();
        let trouble = known.hear("n", [some(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]), some(&["::2"])]);
        assert_eq!(trouble, None);
        assert_eq!(texts(&known), ["10.0.0.1", "10.0.0.2", "::2"]);
    }

    #[test]
    fn a_failure_keeps_what_was_there() {
        let mut known = Addresses::default();
        known.hear("n", [some(&["10.0.0.1"]), Ok(None)]);
        for said in [[failed(), failed()], [Ok(None), failed()], [failed(), Ok(None)]] {
            assert_eq!(known.hear("n", said).as_deref(), Some("no answer"));
            assert_eq!(texts(&known), ["10.0.0.1"]);
        }
    }

    #[test]
    fn a_family_that_fails_keeps_its_own_addresses_and_is_no_trouble_if_it_has_none() {
        let mut known = Addresses::default();
        assert_eq!(known.hear("n", [some(&["10.0.0.1"]), failed()]), None);
        known.hear("n", [some(&["10.0.0.1"]), some(&["::1"])]);
        assert!(known.hear("n", [some(&["10.0.0.2"]), failed()]).is_some());
        assert_eq!(texts(&known), ["10.0.0.2", "::1"]);
        known.hear("n", [Ok(None), some(&["::1"])]);
        assert_eq!(texts(&known), ["::1"], "a name that has moved to the other family");
    }

    #[test]
    fn an_empty_answer_is_believed_when_it_was_given_often_enough_in_a_row() {
        let mut known = Addresses::default();
        known.hear("n", [some(&["10.0.0.1"]), Ok(None)]);
        for _ in 1..BELIEVED {
            assert!(known.hear("n", [Ok(None), Ok(None)]).unwrap().contains("believed if it stays so"));
        }
        known.hear("n", [failed(), failed()]);
        for _ in 1..BELIEVED {
            known.hear("n", [Ok(None), Ok(None)]);
            assert_eq!(texts(&known), ["10.0.0.1"], "a failure between breaks the row");
        }
        assert!(known.hear("n", [Ok(None), Ok(None)]).unwrap().starts_with("n has no addresses;"));
        assert!(texts(&known).is_empty());
    }

    #[test]
    fn a_family_without_a_way_is_left_out_beside_one_that_has_one() {
        let mut known = Addresses::default();
        // No machine has a way to the link-local addresses of an interface that is not named.
        known.hear("n", [some(&["127.0.0.1"]), some(&["fe80::1"])]);
        assert_eq!(known.usable(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        known.hear("n", [Ok(None), some(&["fe80::1"])]);
        assert_eq!(known.usable(), ["fe80::1".parse::<IpAddr>().unwrap()], "better than nothing");
    }
}
