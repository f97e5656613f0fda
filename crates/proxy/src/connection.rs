//! One client's connection: which protocol it speaks, and how long it may take for what.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use seaworthy_core::Instant;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::call::serve;
use crate::client::Client;
use crate::executor::Local;
use crate::socket::{Marks, Socket};
use crate::task::HasClock;
use crate::tunnel::tunnel;
use crate::worker::Worker;

/// Serves a client's connection to its end.
pub(crate) async fn connection(home: Rc<Worker>, mut stream: TcpStream, peer: SocketAddr, listener: usize) {
    let _presence = Presence::enter(&home).await;
    let Some(seen) = first_bytes(&home, &mut stream).await else { return };
    let marks = Rc::new(Marks::new(home.clock().now()));
    let client = Rc::new(Client::new(home.clone(), peer, listener, marks.clone()));
    let is_http2 = seen.starts_with(PREFACE);
    let socket = Socket::new(stream, seen, marks, home.clone());
    if is_http2 {
        over_http2(&home, client, socket).await;
    } else {
        over_http1(&home, client, socket).await;
    }
}

/// A connection's entry in its worker's list.
struct Presence {
    home: Rc<Worker>,
    number: u64,
}

impl Presence {
    async fn enter(home: &Rc<Worker>) -> Self {
        let number = poll_fn(|cx| Poll::Ready(home.enter(cx.waker().clone()))).await;
        Self { home: home.clone(), number }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.home.leave(self.number);
    }
}

/// Enough bytes to tell HTTP/2 from HTTP/1; `None` if they don't come.
async fn first_bytes(home: &Worker, stream: &mut TcpStream) -> Option<Bytes> {
    let mut room = [0; ROOM];
    let mut filled = 0;
    let limits = &home.site.config.limits;
    // A connection may wait for its first request as long as for any other.
    let mut until = home.clock().now().plus(limits.client_idle);
    poll_fn(|cx| {
        loop {
            let mut buf = ReadBuf::new(&mut room[filled..]);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    filled += buf.filled().len();
                    until = home.clock().now().plus(limits.client_header_timeout);
                }
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending if until <= home.clock().now() || home.is_draining() => {
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    home.clock().wake_by(until);
                    return Poll::Pending;
                }
            }
            let known = filled.min(PREFACE.len());
            if known == PREFACE.len() || room[..known] != PREFACE[..known] {
                return Poll::Ready(Some(()));
            }
        }
    })
    .await?;
    Some(Bytes::copy_from_slice(&room[..filled]))
}

async fn over_http1(home: &Rc<Worker>, client: Rc<Client>, socket: Socket) {
    let limits = &home.site.config.limits;
    let mut builder = http1::Builder::new();
    builder
        .max_headers(limits.headers as usize)
        .max_buf_size(limits.header_bytes as usize)
        .header_read_timeout(None);
    let serving = client.clone();
    let mut conn =
        builder.serve_connection(socket, service_fn(move |request| serve(serving.clone(), request)));
    let mut told = false;
    let late = poll_fn(|cx| {
        let mut polled = Pin::new(&mut conn).poll(cx);
        // Told only now: a request that has come already is served, though nobody had read it yet.
        if polled.is_pending() && home.is_draining() && !std::mem::replace(&mut told, true) {
            Pin::new(&mut conn).graceful_shutdown();
            polled = Pin::new(&mut conn).poll(cx);
        }
        match polled {
            // What was wrong, the client was told; there is nobody else whom it concerns.
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => patience(home, &client, true).map(Some),
        }
    })
    .await;
    match (late, client.tunnel.take()) {
        (None, Some(far)) => {
            let parts = conn.into_parts();
            tunnel(home, parts.io.into_stream(), parts.read_buf, far).await;
        }
        (Some(Late::Head), _) => {
            // The client has sent half a head; an answer fits into every socket's buffer, or is not worth waiting for.
            let stream = conn.into_parts().io.into_stream();
            let _ = stream.try_write(TIMED_OUT);
        }
        _ => {}
    }
}

async fn over_http2(home: &Rc<Worker>, client: Rc<Client>, socket: Socket) {
    let limits = &home.site.config.limits;
    let mut builder = http2::Builder::new(Local(home.clone()));
    builder
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(MOST_STREAMS)
        .max_send_buf_size(SEND_BUFFER);
    let serving = client.clone();
    let mut conn =
        builder.serve_connection(socket, service_fn(move |request| serve(serving.clone(), request)));
    let mut ends_at: Option<Instant> = None;
    poll_fn(|cx: &mut Context<'_>| {
        let now = home.clock().now();
        if home.is_draining() && ends_at.is_none() {
            Pin::new(&mut conn).graceful_shutdown();
            ends_at = Some(Instant::FAR);
        }
        if Pin::new(&mut conn).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match ends_at {
            Some(at) if at <= now => return Poll::Ready(()),
            Some(at) => home.clock().wake_by(at),
            None => match patience(home, &client, false) {
                Poll::Ready(Late::Idle) => {
                    Pin::new(&mut conn).graceful_shutdown();
                    ends_at = Some(now.plus(GOODBYE));
                    cx.waker().wake_by_ref();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {}
            },
        }
        Poll::Pending
    })
    .await;
}

/// What a client was too slow for.
enum Late {
    /// Sending a head.
    Head,
    /// Asking for anything.
    Idle,
    /// Taking its answer.
    Blocked,
}

/// Whether the client is late with anything; asks to be woken when it will be.
fn patience(home: &Worker, client: &Client, heads: bool) -> Poll<Late> {
    let (now, limits, marks) = (home.clock().now(), &home.site.config.limits, &client.marks);
    let since = |since: Instant, most: Duration| if since == Instant::FAR { since } else { since.plus(most) };
    let blocked = marks.pace.due(now, limits);
    let (mut head, mut idle) = (Instant::FAR, Instant::FAR);
    if marks.busy.get() == 0 {
        if heads {
            head = since(marks.head_since.get(), limits.client_header_timeout);
        }
        if head == Instant::FAR {
            idle = since(marks.idle_since.get(), limits.client_idle);
        }
    }
    for (due, late) in [(blocked, Late::Blocked), (head, Late::Head), (idle, Late::Idle)] {
        if due <= now {
            return Poll::Ready(late);
        }
        home.clock().wake_by(due);
    }
    Poll::Pending
}

/// What HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; ROOM] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What is read at first; more is left to the protocol.
const ROOM: usize = 24;
/// Calls at a time on one HTTP/2 connection: the least that RFC 9113, section 5.1.2, recommends.
const MOST_STREAMS: u32 = 100;
/// What an HTTP/2 call may have written ahead of its client: a few windows' worth.
const SEND_BUFFER: usize = 256 * 1024;
/// How long an idle HTTP/2 client has to take leave.
const GOODBYE: Duration = Duration::from_secs(1);
/// To a client that took too long for its head.
const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\
content-length: 84\r\n\r\n{\"title\":\"Request Timeout\",\"status\":408,\"detail\":\"the request's head did not come\"}\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_made_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(TIMED_OUT).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
