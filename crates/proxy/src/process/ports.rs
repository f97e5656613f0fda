//! Ports on 127.0.0.1 for children to listen on.
//!
//! A child that returns should find its port free. A port from the range that the kernel hands to outgoing connections (32768 to
//! 60999 by default on Linux) could meanwhile be taken by one of the proxy's own connections. So ports are taken from below that
//! range.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use seaworthy_core::{Rng, Seeded};

/// The ports given out.
pub(super) struct Ports {
    given: RefCell<BTreeSet<u16>>,
    rng: RefCell<Seeded>,
}

impl Ports {
    /// None given out yet; where to look first follows from `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self { given: RefCell::default(), rng: RefCell::new(Seeded::new(seed)) }
    }

    /// A port that is free now and given to nobody else: `last` again, if that is free.
    pub(super) fn take(&self, last: Option<u16>) -> io::Result<u16> {
        let mut given = self.given.borrow_mut();
        if let Some(last) = last {
            if is_free(last).is_ok() {
                given.insert(last);
                return Ok(last);
            }
            given.remove(&last);
        }
        let mut rng = self.rng.borrow_mut();
        let mut why = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            let port = FIRST + rng.below(u64::from(COUNT)) as u16;
            match is_free(port) {
                Ok(()) if given.insert(port) => return Ok(port),
                Ok(()) => {}
                Err(error) => why = error,
            }
        }
        Err(why)
    }
}

/// Connections that a former child left in TIME-WAIT don't matter: the standard library sets `SO_REUSEADDR`, as servers do.
fn is_free(port: u16) -> io::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

/// Above the ports that well-known services use by default, below the outgoing ones.
const FIRST: u16 = 18_000;
/// Up to 31999.
const COUNT: u16 = 14_000;
/// If so many ports in a row are taken, something else is wrong.
const TRIES: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_to_one_and_given_again() {
        let ports = Ports::new(u64::from(std::process::id()));
        let (a, b) = (ports.take(None).unwrap(), ports.take(None).unwrap());
        assert_ne!(a, b);
        assert!((FIRST..FIRST + COUNT).contains(&a));
        assert_eq!(ports.take(Some(a)).unwrap(), a);
    }

    #[test]
    fn a_port_that_was_taken_meanwhile_is_replaced() {
        let ports = Ports::new(u64::from(std::process::id()) + 1);
        let a = ports.take(None).unwrap();
        let _thief = TcpListener::bind((Ipv4Addr::LOCALHOST, a)).unwrap();
        let b = ports.take(Some(a)).unwrap();
        assert_ne!(a, b);
    }
}
