//! The client's side of the wire, watched for those who send or read too slowly.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use seaworthy_core::Instant;
use tokio::net::TcpStream;

use crate::pace::Pace;
use crate::task::HasClock;
use crate::worker::Worker;

/// Since when a connection has been in which state. [`Instant::FAR`] stands for "it isn't".
#[derive(Debug)]
pub(crate) struct Marks {
    /// A head has begun to arrive and is not complete.
    pub head_since: Cell<Instant>,
    /// Nothing is going on.
    pub idle_since: Cell<Instant>,
    /// How the client takes what is written.
    pub pace: Pace,
    /// Calls that are being answered.
    pub busy: Cell<u32>,
}

impl Marks {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            head_since: Cell::new(Instant::FAR),
            idle_since: Cell::new(now),
            pace: Pace::default(),
            busy: Cell::new(0),
        }
    }

    /// A call begins.
    pub(crate) fn begin(&self) {
        self.head_since.set(Instant::FAR);
        self.busy.set(self.busy.get() + 1);
    }

    /// A call is answered.
    pub(crate) fn end(&self, now: Instant) {
        self.busy.set(self.busy.get().saturating_sub(1));
        self.idle_since.set(now);
    }
}

/// A client's socket.
pub(crate) struct Socket {
    io: TokioIo<TcpStream>,
    /// What was read to tell the protocols apart.
    seen: Bytes,
    marks: Rc<Marks>,
    home: Rc<Worker>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, seen: Bytes, marks: Rc<Marks>, home: Rc<Worker>) -> Self {
        Self { io: TokioIo::new(stream), seen, marks, home }
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.io.into_inner()
    }

    fn note_read(&self) {
        if self.marks.busy.get() == 0 && self.marks.head_since.get() == Instant::FAR {
            self.marks.head_since.set(self.home.clock().now());
        }
    }

    fn note_write(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let now = self.home.clock().now();
        match &polled {
            Poll::Ready(written) => self.marks.pace.moved(now, written.as_ref().map_or(0, |n| *n as u64)),
            Poll::Pending => self.marks.pace.wait(now),
        }
        polled
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seen.is_empty() {
            let n = self.seen.len().min(buf.remaining());
            buf.put_slice(&self.seen[..n]);
            self.seen.advance(n);
            self.note_read();
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.note_read();
        }
        polled
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note_write(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note_write(polled)
    }
}
