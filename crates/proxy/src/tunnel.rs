//! A connection that has left HTTP behind: bytes pass in both directions until both have ended, or nothing moves any more.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use seaworthy_core::{Instant, Outcome};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::client::Far;
use crate::task::HasClock;
use crate::worker::Worker;

/// Passes bytes between the client at `near`, from which `seen` was read already, and the upstream at `far`.
pub(crate) async fn tunnel(home: &Worker, mut near: TcpStream, seen: Bytes, far: Far) {
    let Far { stream: mut far, seen: far_seen, guard: mut ledger } = far;
    let (mut up, mut down) = (Half::new(seen), Half::new(far_seen));
    let (mut near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = far.split();
    let mut moved_at = home.clock().now();
    poll_fn(|cx| {
        let now = home.clock().now();
        let before = up.moved + down.moved;
        let rising = up.poll(cx, Pin::new(&mut near_read), Pin::new(&mut far_write));
        let falling = down.poll(cx, Pin::new(&mut far_read), Pin::new(&mut near_write));
        let broken = matches!(rising, Poll::Ready(Err(_))) || matches!(falling, Poll::Ready(Err(_)));
        if broken || (rising.is_ready() && falling.is_ready()) {
            return Poll::Ready(());
        }
        if up.moved + down.moved > before {
            moved_at = now;
        }
        let due = moved_at.plus(home.site.config.limits.client_idle);
        if due <= now {
            return Poll::Ready(());
        }
        home.clock().wake_by(due.min(Instant::FAR));
        Poll::Pending
    })
    .await;
    ledger.bytes = down.moved;
    ledger.complete(Outcome::Success);
}

/// One direction.
struct Half {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// What was read as HTTP and is not.
    seen: Bytes,
    source_ended: bool,
    over: bool,
    moved: u64,
}

impl Half {
    fn new(seen: Bytes) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { buffer, start: 0, end: 0, seen, source_ended: false, over: false, moved: 0 }
    }

    /// Moves what can be moved; ready when the source has ended and the sink was told.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut impl AsyncRead>,
        mut to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        while !self.over {
            while !self.seen.is_empty() {
                let n = ready!(to.as_mut().poll_write(cx, &self.seen))?;
                self.written(n)?;
                self.seen = self.seen.slice(n..);
            }
            while self.start < self.end {
                let n = ready!(to.as_mut().poll_write(cx, &self.buffer[self.start..self.end]))?;
                self.written(n)?;
                self.start += n;
            }
            if self.source_ended {
                ready!(to.as_mut().poll_shutdown(cx))?;
                self.over = true;
                break;
            }
            let mut room = ReadBuf::new(&mut self.buffer);
            ready!(from.as_mut().poll_read(cx, &mut room))?;
            (self.start, self.end) = (0, room.filled().len());
            self.source_ended = self.end == 0;
        }
        Poll::Ready(Ok(()))
    }

    fn written(&mut self, n: usize) -> io::Result<()> {
        self.moved += n as u64;
        if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }
}

/// What one direction holds at most.
const BUFFER: usize = 16 * 1024;
