//! One client's connection, as its calls see it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use tokio::net::TcpStream;

use crate::head::{Refusal, Seen};
use crate::names;
use crate::socket::Marks;
use crate::standing::fingerprint;
use crate::worker::Worker;

/// One client's connection.
pub(crate) struct Client {
    /// The worker that serves it.
    pub home: Rc<Worker>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The address that it came to, by place in the configuration.
    pub listener: usize,
    /// What goes on on it.
    pub marks: Rc<Marks>,
    /// The upstream's end of the tunnel that the connection is to become.
    pub tunnel: Cell<Option<Far>>,
    /// The peer's address as a key.
    pub source: u64,
    /// The peer's address as a header value.
    ip: HeaderValue,
    /// What was derived from the last host, which is nearly always the next one as well.
    last: RefCell<Option<Derived>>,
}

/// The upstream's end of a tunnel.
pub(crate) struct Far {
    /// Its socket.
    pub stream: TcpStream,
    /// What was read from it already.
    pub seen: Bytes,
    /// What ends with the tunnel.
    pub guard: Box<crate::ledger::Ledger>,
}

#[derive(Clone)]
struct Derived {
    host: HeaderValue,
    forwarded: HeaderValue,
}

impl Client {
    pub(crate) fn new(home: Rc<Worker>, peer: SocketAddr, listener: usize, marks: Rc<Marks>) -> Self {
        let ip = home.ids.borrow_mut().value(format_args!("{}", peer.ip()));
        let source = fingerprint(peer.ip().to_string().as_bytes());
        Self { home, peer, source, listener, marks, tunnel: Cell::new(None), ip, last: RefCell::new(None) }
    }

    /// Checks a host that the client asks for.
    pub(crate) fn host(&self, host: HeaderValue) -> Result<HeaderValue, Refusal> {
        if self.last.borrow().as_ref().is_some_and(|last| last.host == host) {
            return Ok(host);
        }
        const BAD: Refusal = Refusal {
            status: http::StatusCode::BAD_REQUEST,
            detail: "the Host is not a host, or a host and a port",
        };
        let text = host.to_str().map_err(|_| BAD)?;
        // HTTP/1.0 may leave the host out.
        if !text.is_empty() {
            let authority: Authority = text.parse().map_err(|_| BAD)?;
            if authority.as_str().contains('@') || authority.host().is_empty() {
                return Err(BAD);
            }
        }
        let peer = self.peer.ip();
        let mut ids = self.home.ids.borrow_mut();
        // IPv6 addresses and hosts with a port stand in quotes (RFC 7239, sections 4 and 6).
        let forwarded = match (peer, text) {
            (std::net::IpAddr::V4(ip), "") => ids.value(format_args!("for={ip};proto=http")),
            (std::net::IpAddr::V6(ip), "") => ids.value(format_args!("for=\"[{ip}]\";proto=http")),
            (std::net::IpAddr::V4(ip), host) => {
                ids.value(format_args!("for={ip};host=\"{host}\";proto=http"))
            }
            (std::net::IpAddr::V6(ip), host) => {
                ids.value(format_args!("for=\"[{ip}]\";host=\"{host}\";proto=http"))
            }
        };
        *self.last.borrow_mut() = Some(Derived { host: host.clone(), forwarded });
        Ok(host)
    }

    /// Adds where the request came from. Lists are appended to. The protocol and the host that a proxy before us has
    /// noted are kept, as that one knows how the caller came: strip them at the edge if strangers connect directly.
    pub(crate) fn forwarded(&self, headers: &mut HeaderMap, seen: &Seen, host: &HeaderValue) {
        headers.append(header::VIA, HeaderValue::from_static(names::VIA));
        if seen.has(Seen::FOR) {
            headers.append(names::FORWARDED_FOR, self.ip.clone());
        } else {
            headers.insert(names::FORWARDED_FOR, self.ip.clone());
        }
        if !seen.has(Seen::PROTO) {
            headers.insert(names::FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        if !seen.has(Seen::FORWARDED_HOST) && !host.is_empty() {
            headers.insert(names::FORWARDED_HOST, host.clone());
        }
        if let Some(last) = &*self.last.borrow() {
            headers.append(header::FORWARDED, last.forwarded.clone());
        }
    }
}
