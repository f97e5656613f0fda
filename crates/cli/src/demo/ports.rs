//! Ports that stay ours while nobody listens on them.
//!
//! An instance that is killed must find its port free when it returns. A port from the range that the kernel hands to
//! outgoing connections (32768 to 60999 by default on Linux) could meanwhile be taken by one of the demo's own
//! connections, which even may connect to themselves. So ports are taken from below that range.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use seaworthy_core::{Rng, Seeded};

/// Listens on `port` of `host`, or on a free one if it is 0.
pub(super) fn listen(host: IpAddr, port: u16) -> io::Result<TcpListener> {
    if port != 0 {
        return TcpListener::bind((host, port));
    }
    // The process id spreads the instances; a clash costs one more try.
    let mut rng = Seeded::new(u64::from(std::process::id()));
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let port = FIRST + u16::try_from(rng.below(u64::from(COUNT))).unwrap_or(0);
        match TcpListener::bind((host, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// `N` different addresses that are free now.
pub(super) fn free<const N: usize>() -> io::Result<[SocketAddr; N]> {
    // Held together, so that they differ, and all let go at the end.
    let mut held = Vec::with_capacity(N);
    let mut addresses = [SocketAddr::from((LOCALHOST, 0)); N];
    for address in &mut addresses {
        let listener = listen(LOCALHOST, 0)?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
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
    fn free_addresses_differ_and_can_be_listened_on() {
        let [a, b] = free::<2>().unwrap();
        assert_ne!(a, b);
        assert!((FIRST..FIRST + COUNT).contains(&a.port()));
        assert!(listen(LOCALHOST, 0).is_ok());
    }
}
