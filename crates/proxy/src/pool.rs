//! Connections to one endpoint, as one worker keeps them.
//!
//! An HTTP/1.1 connection belongs to one call at a time and is driven by that call's own task: no task of its own, no hop
//! between tasks. It returns here when the answer is complete and it is ready for the next request. An HTTP/2 connection
//! is shared by many calls and so has a task of its own.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use seaworthy_core::Instant;
use tokio::net::TcpStream;

use crate::tape::Upload;

/// An HTTP/1.1 connection to an endpoint.
pub(crate) struct Link {
    /// Takes a request.
    pub sender: http1::SendRequest<Upload>,
    /// Carries it.
    pub conn: Wire,
    /// Whether it has carried a request before.
    pub reused: bool,
    idle_since: Instant,
}

impl Link {
    pub(crate) fn new(
        sender: http1::SendRequest<Upload>,
        conn: http1::Connection<TokioIo<TcpStream>, Upload>,
    ) -> Box<Self> {
        let conn = Wire { conn, closed: false };
        Box::new(Self { sender, conn, reused: false, idle_since: Instant::ZERO })
    }

    /// Drives the connection as far as it goes. Errors reach whoever waits for the request or the body.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        self.conn.drive(cx);
    }

    /// Whether the connection is at its end: closed, broken, or upgraded.
    pub(crate) const fn is_closed(&self) -> bool {
        self.conn.closed
    }

    /// Whether it could take another request now.
    fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.is_closed() && !self.sender.is_ready() {
            self.drive(cx);
        }
        !self.is_closed() && self.sender.is_ready()
    }

    /// The socket of an upgraded connection, and what was read from it already.
    pub(crate) fn into_parts(self) -> (TcpStream, bytes::Bytes) {
        let parts = self.conn.conn.into_parts();
        (parts.io.into_inner(), parts.read_buf)
    }
}

/// The half of a [`Link`] that reads and writes.
pub(crate) struct Wire {
    conn: http1::Connection<TokioIo<TcpStream>, Upload>,
    closed: bool,
}

impl Wire {
    /// Reads and writes what can be.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.closed && Pin::new(&mut self.conn).poll(cx).is_ready() {
            self.closed = true;
        }
    }
}

/// The connections to one endpoint.
#[expect(
    clippy::vec_box,
    reason = "a connection is handed from call to call; moving the box is cheaper than moving it"
)]
pub(crate) struct Pool {
    idle: RefCell<Vec<Box<Link>>>,
    most_idle: usize,
    idle_timeout: Duration,
    /// The shared HTTP/2 connection; the lock lets one call connect while others wait for the result.
    pub http2: tokio::sync::Mutex<Option<http2::SendRequest<Upload>>>,
}

impl Pool {
    pub(crate) fn new(most_idle: usize, idle_timeout: Duration) -> Self {
        Self { idle: RefCell::default(), most_idle, idle_timeout, http2: tokio::sync::Mutex::new(None) }
    }

    /// The connection that was used last and still lives, if there is one.
    pub(crate) fn take(&self, now: Instant, cx: &mut Context<'_>) -> Option<Box<Link>> {
        loop {
            let mut link = self.idle.borrow_mut().pop()?;
            // One poll tells whether the endpoint has closed it meanwhile.
            link.drive(cx);
            if now.since(link.idle_since) < self.idle_timeout && link.is_ready(cx) {
                return Some(link);
            }
        }
    }

    /// Keeps `link` for another call if it is fit for one.
    pub(crate) fn give(&self, mut link: Box<Link>, now: Instant, cx: &mut Context<'_>) {
        if link.is_ready(cx) && self.idle.borrow().len() < self.most_idle {
            link.reused = true;
            link.idle_since = now;
            self.idle.borrow_mut().push(link);
        }
    }

    /// Closes what has been idle for too long, or was closed by the endpoint.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut cx = Context::from_waker(Waker::noop());
        self.idle.borrow_mut().retain_mut(|link| {
            link.drive(&mut cx);
            !link.is_closed() && now.since(link.idle_since) < self.idle_timeout
        });
    }

    /// How many connections are idle.
    pub(crate) fn idle(&self) -> usize {
        self.idle.borrow().len()
    }
}
