//! The body of an answer of the service: whole, or broken off, or drop by drop.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::upstream::Open;

pub(crate) struct Answer {
    pieces: VecDeque<Bytes>,
    /// How much was promised.
    length: u64,
    /// Before each piece but the first.
    pause: Option<Duration>,
    paused: Option<Pin<Box<Sleep>>>,
    open: Open,
}

impl Answer {
    /// All of it at once.
    pub(crate) fn new(body: Bytes, open: Open) -> Self {
        let length = body.len() as u64;
        Self { pieces: VecDeque::from([body]), length, pause: None, paused: None, open }
    }

    /// Its first half; then the service leaves.
    pub(crate) fn that_breaks(body: Bytes, open: Open) -> Self {
        let half = body.slice(..body.len() / 2);
        Self { pieces: VecDeque::from([half]), ..Self::new(body, open) }
    }

    /// In pieces, which take this time together.
    pub(crate) fn that_drips(body: Bytes, time: Duration, open: Open) -> Self {
        let size = body.len().div_ceil(PIECES);
        let pieces: VecDeque<Bytes> =
            (0..body.len()).step_by(size).map(|from| body.slice(from..body.len().min(from + size))).collect();
        let pauses = u32::try_from(pieces.len() - 1).unwrap();
        Self { pieces, pause: Some(time / pauses), ..Self::new(body, open) }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Left;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Left>>> {
        if let Some(paused) = &mut self.paused {
            ready!(paused.as_mut().poll(cx));
            self.open.goes_on();
        }
        self.paused = self.pause.map(|pause| Box::pin(sleep(pause)));
        let piece = self.pieces.pop_front();
        let given = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        self.length -= given;
        Poll::Ready(match piece {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None if self.length > 0 => Some(Err(Left)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.length == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// The service leaves the connection.
#[derive(Debug)]
pub(crate) struct Left;

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the service has left")
    }
}

impl std::error::Error for Left {}

/// At most; a receipt has more bytes.
const PIECES: usize = 20;
