//! A body that lies in a store, piece by piece.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use seaworthy::idempotency::{Pieces, StoreError};

use crate::download::{Broken, Download};

/// What a store keeps of a body, and after it perhaps the rest that it does not keep.
pub(crate) struct Kept {
    front: Bytes,
    pieces: Pieces,
    /// The next to be read, and how many there are.
    at: (u32, u32),
    reading: Option<Reading>,
    rest: Option<Rest>,
    /// The bytes that are left, where that is known.
    left: Option<u64>,
}

/// What follows what is kept.
pub(crate) struct Rest {
    /// What was read of it already.
    pub seen: Bytes,
    /// Where more comes from.
    pub body: Box<Download>,
}

type Reading = Pin<Box<dyn Future<Output = Result<Bytes, StoreError>>>>;

impl Kept {
    /// `front`, then so many `pieces`, then the `rest`.
    pub(crate) fn body(
        front: Bytes,
        pieces: Pieces,
        count: u32,
        length: Option<u64>,
        rest: Option<Rest>,
    ) -> Download {
        Download::Kept(Box::new(Self { front, pieces, at: (0, count), reading: None, rest, left: length }))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = ready!(self.poll_data(cx));
        if let (Some(left), Some(Ok(frame))) = (&mut self.left, &polled) {
            *left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
        }
        Poll::Ready(polled)
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.front.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.front)))));
        }
        let (next, count) = self.at;
        if next < count {
            let pieces = &self.pieces;
            let reading = self.reading.get_or_insert_with(|| {
                let pieces = pieces.clone();
                Box::pin(async move { pieces.get(next).await })
            });
            let read = ready!(reading.as_mut().poll(cx));
            self.reading = None;
            self.at.0 = match read {
                Ok(_) => next + 1,
                // After an error there is nothing.
                Err(_) => count,
            };
            return Poll::Ready(Some(read.map(Frame::data).map_err(Broken::Store)));
        }
        match &mut self.rest {
            None => Poll::Ready(None),
            Some(rest) if !rest.seen.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut rest.seen)))))
            }
            Some(rest) => Pin::new(&mut *rest.body).poll_frame(cx),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("at", &self.at).field("left", &self.left).finish_non_exhaustive()
    }
}
