//! One attempt: a connection, the request, and the head of its answer.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use seaworthy::shared::bulkhead::Acquire;
use seaworthy_config::Protocol;
use seaworthy_core::gate::bulkhead;
use seaworthy_core::{Failure, Rejection};
use tokio::net::TcpStream;

use crate::executor::Local;
use crate::node::Node;
use crate::pool::Link;
use crate::tape::Upload;
use crate::task::{HasClock, timed};
use crate::worker::Worker;

/// The head of an answer, and what its body comes from.
pub(crate) struct Answer {
    pub parts: response::Parts,
    pub body: Incoming,
    /// The connection, if this answer has it for itself.
    pub link: Option<Box<Link>>,
    /// The socket, if the connection is not HTTP any more.
    pub tunnel: Option<(TcpStream, Bytes)>,
}

/// How an attempt ends.
pub(crate) struct Done {
    pub result: Result<Answer, Miss>,
    /// Its place in the bulkhead, to be held as long as the answer is read.
    pub place: Option<bulkhead::Ticket>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Miss {
    /// The bulkhead refused.
    Refused(Rejection),
    /// The attempt failed.
    Failed(Failure),
}

/// Makes an attempt at `node` with `request`, once the bulkhead has a place for it.
///
/// What is rare (connecting, HTTP/2, upgrades) is boxed, so that this future, which is moved with every call, stays small.
pub(crate) async fn attempt(home: Rc<Worker>, node: Rc<Node>, mut request: Request<Upload>) -> Done {
    let mut place =
        Place { home: &home, upstream: node.upstream, ticket: None, acquire: Some(Acquire::new()) };
    if let Err(rejection) = poll_fn(|cx| place.poll(cx)).await {
        return Done { result: Err(Miss::Refused(rejection)), place: None };
    }
    if home.site.config.upstreams[node.upstream].protocol == Protocol::Http2 {
        let sent = Box::pin(over_http2(&home, &node, request)).await;
        return Done { result: sent.map_err(Miss::Failed), place: place.ticket.take() };
    }
    let result = loop {
        let mut link = match poll_fn(|cx| Poll::Ready(node.pool.take(home.clock().now(), cx))).await {
            Some(link) => link,
            None => match Box::pin(connect_http1(&home, &node)).await {
                Ok(link) => link,
                Err(failure) => break Err(failure),
            },
        };
        let mut answering = pin!(link.sender.try_send_request(request));
        let answered = poll_fn(|cx| {
            link.conn.drive(cx);
            answering.as_mut().poll(cx)
        });
        match answered.await {
            Ok(answer) => break answered_over(link, answer).await,
            Err(mut error) => match error.take_message() {
                // The endpoint had closed an idle connection, and nothing was sent: not a failure of anybody's.
                Some(unsent) if link.reused => request = unsent,
                Some(_) => break Err(Failure::Unprocessed),
                None => break Err(Failure::Broken),
            },
        }
    };
    Done { result: result.map_err(Miss::Failed), place: place.ticket.take() }
}

async fn answered_over(link: Box<Link>, answer: http::Response<Incoming>) -> Result<Answer, Failure> {
    let (parts, body) = answer.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let tunnel = Some(Box::pin(upgraded(link)).await);
        return Ok(Answer { parts, body, link: None, tunnel });
    }
    Ok(Answer { parts, body, link: Some(link), tunnel: None })
}

/// A place in the bulkhead, or the way to one; gives it back if the attempt is dropped.
struct Place<'a> {
    home: &'a Worker,
    upstream: usize,
    ticket: Option<bulkhead::Ticket>,
    acquire: Option<Acquire>,
}

impl Place<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        let Some(acquire) = &mut self.acquire else { return Poll::Ready(Ok(())) };
        let now = self.home.clock().now();
        let polled = acquire.poll(&self.home.service(self.upstream).bulkhead, now, cx);
        polled.map(|result| {
            self.acquire = None;
            self.ticket = Some(result?);
            Ok(())
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let (bulkhead, now) = (&self.home.service(self.upstream).bulkhead, self.home.clock().now());
        if let Some(acquire) = self.acquire.take() {
            acquire.leave(bulkhead, now);
        }
        if let Some(ticket) = self.ticket.take() {
            bulkhead.settle(now, ticket);
        }
    }
}

/// Drives a connection whose answer was 101 to its end as HTTP.
async fn upgraded(mut link: Box<Link>) -> (TcpStream, Bytes) {
    poll_fn(|cx| {
        link.drive(cx);
        if link.is_closed() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    link.into_parts()
}

async fn connect_http1(home: &Worker, node: &Node) -> Result<Box<Link>, Failure> {
    let stream = connect(home, node).await?;
    let mut builder = http1::Builder::new();
    let limits = &home.site.config.limits;
    builder.max_headers(limits.headers as usize).max_buf_size(limits.header_bytes as usize);
    let (sender, conn) = builder.handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Connect)?;
    Ok(Link::new(sender, conn))
}

/// A connection to the endpoint within the upstream's connect timeout.
async fn connect(home: &Worker, node: &Node) -> Result<TcpStream, Failure> {
    let upstream = &home.site.config.upstreams[node.upstream];
    let address = &node.endpoint.address;
    let connecting = pin!(TcpStream::connect((address.host.as_str(), address.port)));
    let until = home.clock().refresh().plus(upstream.connect_timeout);
    let stream =
        within(home, until, connecting).await.ok_or(Failure::Connect)?.map_err(|_| Failure::Connect)?;
    // Heads and small bodies must not wait for the acknowledgement of what went before.
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    node.counts().connected.add(1);
    Ok(stream)
}

/// What `future` yields, unless `until` comes first.
async fn within<F: Future>(
    home: &Worker,
    until: seaworthy_core::Instant,
    mut future: Pin<&mut F>,
) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if until <= home.clock().now() => Poll::Ready(None),
        Poll::Pending => {
            home.clock().wake_by(until);
            Poll::Pending
        }
    })
    .await
}

async fn over_http2(home: &Rc<Worker>, node: &Node, mut request: Request<Upload>) -> Result<Answer, Failure> {
    loop {
        let (mut sender, reused) = sender_http2(home, node).await?;
        match sender.try_send_request(request).await {
            Ok(answer) => {
                let (parts, body) = answer.into_parts();
                return Ok(Answer { parts, body, link: None, tunnel: None });
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) if reused => {
                    forget_http2(node, &sender).await;
                    request = unsent;
                }
                Some(_) => return Err(Failure::Unprocessed),
                None if is_refused(error.error()) => return Err(Failure::Unprocessed),
                None => return Err(Failure::Broken),
            },
        }
    }
}

/// The shared connection, which is made if there is none that lives.
async fn sender_http2(home: &Rc<Worker>, node: &Node) -> Result<(http2::SendRequest<Upload>, bool), Failure> {
    let mut shared = node.pool.http2.lock().await;
    if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
        return Ok((sender.clone(), true));
    }
    let stream = connect(home, node).await?;
    let mut builder = http2::Builder::new(Local(home.clone()));
    builder.max_header_list_size(home.site.config.limits.header_bytes as u32).adaptive_window(true);
    // An endpoint that vanished without a word keeps its connections open, and every call would go on one of them.
    builder.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_WAITS);
    let handshake = builder.handshake(TokioIo::new(stream));
    let (sender, conn) = handshake.await.map_err(|_| Failure::Connect)?;
    tokio::task::spawn_local(timed(home.clone(), async move {
        // How the connection ends, each of its calls learns by itself.
        let _ = conn.await;
    }));
    *shared = Some(sender.clone());
    Ok((sender, false))
}

/// Drops the shared connection if it is closed, so that the next call makes another.
async fn forget_http2(node: &Node, closed: &http2::SendRequest<Upload>) {
    let mut shared = node.pool.http2.lock().await;
    if closed.is_closed() || shared.as_ref().is_some_and(http2::SendRequest::is_closed) {
        *shared = None;
    }
}

/// Whether the upstream said that it did not process the request (RFC 9113, section 8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<h2::Error>() {
            let unprocessed =
                error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
            return error.reason() == Some(h2::Reason::REFUSED_STREAM) || unprocessed;
        }
        source = inner.source();
    }
    false
}

/// How often a shared connection that carries calls is asked whether its other end is still there.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long the other end may take to say so. Much longer than a round trip, as a busy endpoint answers late.
const PING_WAITS: Duration = Duration::from_secs(5);
