//! Asks one endpoint once whether it is well.
//!
//! Each check has a connection of its own: one that is kept would be answered by a process that can't accept new ones any more.
//! What the answers mean for the endpoint is decided in `seaworthy_core::gate::health`.

mod command;
mod exchange;
mod grpc;
mod http;
#[cfg(test)]
mod servers;

use std::cell::Cell;

use seaworthy_config::{Check, CheckKind, Protocol};
use tokio::net::TcpStream;

/// Asks the endpoint once, within the check's timeout. `protocol` is that of the upstream's calls. Spawns local tasks, so it must
/// run where those can. Dropped before its end, it leaves nothing behind.
///
/// # Errors
/// The endpoint isn't well, or can't be asked: what was expected and what came.
pub(crate) async fn check(spec: &Check, protocol: Protocol, host: &str, port: u16) -> Result<(), String> {
    let step = Step(Cell::new("starting"));
    let at = At { host, port: spec.port.unwrap_or(port), step: &step };
    let asking = async {
        match spec.kind {
            CheckKind::Tcp => connect(at).await.map(drop),
            CheckKind::Http => http::check(spec, protocol, at).await,
            CheckKind::Grpc => grpc::check(spec, at).await,
            CheckKind::Command => command::check(&spec.command, at).await,
        }
    };
    let timeout = spec.timing.timeout;
    let late = |_| Err(format!("expected an answer within {timeout:?}, was still {}", step.0.get()));
    tokio::time::timeout(timeout, asking).await.unwrap_or_else(late)
}

/// Whom a check asks.
#[derive(Clone, Copy)]
struct At<'a> {
    host: &'a str,
    port: u16,
    step: &'a Step,
}

impl At<'_> {
    /// `host:port`, with brackets around an IPv6 address.
    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// From now on the check is doing this.
    fn is(&self, doing: &'static str) {
        self.step.0.set(doing);
    }
}

/// What a check is doing, for the message when its time is over.
struct Step(Cell<&'static str>);

async fn connect(at: At<'_>) -> Result<TcpStream, String> {
    at.is("connecting");
    let expected = |came: &str| format!("expected a connection to {}, {came}", at.authority());
    let stream =
        TcpStream::connect((at.host, at.port)).await.map_err(|error| expected(&format!("got: {error}")))?;
    // Where nobody listens, the kernel may choose the very port asked for as our own end, and TCP then connects the socket with
    // itself (RFC 9293, section 3.5, simultaneous open).
    let itself = stream.local_addr().ok().zip(stream.peer_addr().ok()).is_some_and(|(own, peer)| own == peer);
    if itself { Err(expected("but nobody listens there")) } else { Ok(stream) }
}

#[cfg(test)]
mod tests {
    use super::servers::{asked, free_port, spec};
    use super::*;

    #[tokio::test]
    async fn a_port_that_accepts_is_well_and_one_that_refuses_is_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (spec, protocol) = spec("http1", "kind = 'tcp'");
        assert_eq!(asked(&spec, protocol, port).await, Ok(()));
        drop(listener);
        let error = asked(&spec, protocol, port).await.unwrap_err();
        assert!(
            error.starts_with(&format!("expected a connection to 127.0.0.1:{port}, got: Connection")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn another_port_than_that_of_calls_may_be_asked() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (spec, protocol) = spec("http1", &format!("kind = 'tcp'\nport = {port}"));
        assert_eq!(asked(&spec, protocol, free_port()).await, Ok(()));
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_told() {
        let (spec, protocol) = spec("http1", "kind = 'tcp'");
        let error = check(&spec, protocol, "nobody.invalid", 80).await.unwrap_err();
        assert!(error.starts_with("expected "), "{error}");
    }
}
