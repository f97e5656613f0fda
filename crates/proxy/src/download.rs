//! An answer's body on its way down.
//!
//! An HTTP/1.1 upstream's connection is driven from here: polling the body polls the connection, and when the body has
//! ended the connection goes back to its pool. A slow client doesn't poll, so the upstream is not read: that is all the
//! back-pressure there needs to be.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use seaworthy::classify::Grpc;
use seaworthy::idempotency::StoreError;
use seaworthy_core::{Failure, Instant, Outcome};

use crate::degrade::Recorder;
use crate::idempotency::Kept;
use crate::ledger::Ledger;
use crate::names;
use crate::pool::Link;
use crate::task::HasClock;

/// An answer's body.
pub(crate) enum Download {
    /// Our own.
    Own(Bytes),
    /// An upstream's.
    Stream(Stream),
    /// One that is kept under an idempotency key.
    Kept(Box<Kept>),
}

/// An upstream's body.
pub(crate) struct Stream {
    body: Incoming,
    link: Option<Box<Link>>,
    ledger: Box<Ledger>,
    grpc: bool,
    /// Keeps it, if it may be kept.
    recorder: Option<Box<Recorder>>,
    /// Since when the upstream has kept us waiting; [`Instant::FAR`] if it doesn't.
    waiting_since: Instant,
    /// What it broke off with, if it did. It is passed on a poll later, as hyper drops what it has not written yet when a
    /// body fails, and the client is to get what there is.
    broken: Option<Broken>,
    ended: bool,
}

/// The upstream's body broke off. hyper closes the client's connection, which is how a client learns of it.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection did, or what came was not HTTP.
    Upstream(hyper::Error),
    /// Nothing came for too long.
    Stalled,
    /// The store that keeps it has it no more.
    Store(StoreError),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Upstream(_) => "the upstream's answer broke off",
            Self::Stalled => "the upstream's answer stalled",
            Self::Store(_) => "the kept answer can't be read",
        })
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Upstream(error) => Some(error),
            Self::Stalled => None,
            Self::Store(error) => Some(error),
        }
    }
}

impl Download {
    /// A body of our own.
    pub(crate) const fn own(bytes: Bytes) -> Self {
        Self::Own(bytes)
    }

    /// The books of its call, if it is an upstream's body: it is not read further.
    pub(crate) fn into_ledger(self) -> Option<Box<Ledger>> {
        match self {
            Self::Stream(stream) => Some(stream.ledger),
            Self::Own(_) | Self::Kept(_) => None,
        }
    }

    /// The upstream's answer is the client's, if that was still to be decided.
    pub(crate) fn let_go(&mut self) {
        if let Self::Stream(stream) = self {
            stream.ledger.let_go();
        }
    }

    /// Reads it to its end, for what reading it brings about.
    pub(crate) async fn drain(mut self) {
        while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {}
    }

    /// An upstream's body. If it is there already, as most small ones are, its connection is given back at once.
    pub(crate) fn stream(
        body: Incoming,
        link: Option<Box<Link>>,
        ledger: Box<Ledger>,
        grpc: bool,
        recorder: Option<Box<Recorder>>,
        cx: &mut Context<'_>,
    ) -> Self {
        let mut stream = Stream {
            body,
            link,
            ledger,
            grpc,
            recorder,
            waiting_since: Instant::FAR,
            broken: None,
            ended: false,
        };
        if stream.body.is_end_stream() {
            stream.complete(Outcome::Success, cx);
        }
        Self::Stream(stream)
    }
}

impl Stream {
    /// The body is complete.
    fn complete(&mut self, outcome: Outcome, cx: &mut Context<'_>) {
        if self.ended {
            return;
        }
        self.ended = true;
        if let Some(recorder) = self.recorder.take().filter(|_| outcome == Outcome::Success) {
            recorder.end();
        }
        if let (Some(link), Some(leg)) = (self.link.take(), &self.ledger.leg) {
            let home = &leg.home;
            leg.node.pool.give(link, home.clock().now(), cx);
        }
        self.ledger.complete(outcome);
    }

    fn broke(
        &mut self,
        failure: Failure,
        broken: Broken,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.link = None;
        self.recorder = None;
        self.ledger.broke(failure);
        self.broken = Some(broken);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn data(&mut self, now: Instant, data: &Bytes) {
        self.ledger.bytes += data.len() as u64;
        self.recorder = self.recorder.take().and_then(|recorder| recorder.data(data)).map(Box::new);
        // The first message of a gRPC answer says that the upstream works, as a head does elsewhere.
        if self.grpc
            && let Some(leg) = &mut self.ledger.leg
        {
            leg.settle(now, Outcome::Success);
        }
    }

    /// The upstream has nothing for us now.
    fn wait(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let home = &self.ledger.client.home;
        if self.waiting_since == Instant::FAR {
            self.waiting_since = now;
        }
        let due = self.waiting_since.plus(home.site.config.limits.body_progress_timeout);
        if due <= now {
            return self.broke(Failure::Timeout, Broken::Stalled, cx);
        }
        home.clock().wake_by(due);
        Poll::Pending
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let stream = match self.get_mut() {
            Self::Own(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Self::Own(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => stream,
            Self::Kept(kept) => return kept.poll(cx),
        };
        if stream.ended {
            return Poll::Ready(None);
        }
        if let Some(broken) = stream.broken.take() {
            stream.ended = true;
            return Poll::Ready(Some(Err(broken)));
        }
        let now = stream.ledger.client.home.clock().now();
        if let Some(link) = &mut stream.link {
            link.drive(cx);
        }
        let frame = match Pin::new(&mut stream.body).poll_frame(cx) {
            Poll::Pending => return stream.wait(now, cx),
            Poll::Ready(None) => {
                stream.complete(Outcome::Success, cx);
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                return stream.broke(Failure::Broken, Broken::Upstream(error), cx);
            }
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        stream.waiting_since = Instant::FAR;
        if let Some(data) = frame.data_ref() {
            stream.data(now, data);
            if stream.body.is_end_stream() {
                stream.complete(Outcome::Success, cx);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            let is_status = stream.grpc && trailers.contains_key(names::GRPC_STATUS);
            let outcome = if is_status { Grpc::response(StatusCode::OK, trailers) } else { Outcome::Success };
            stream.complete(outcome, cx);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.ended,
            Self::Kept(kept) => kept.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) if stream.ended => SizeHint::with_exact(0),
            Self::Stream(stream) => stream.body.size_hint(),
            Self::Kept(kept) => kept.size_hint(),
        }
    }
}
