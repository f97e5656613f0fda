//! The bodies on both sides of the layer.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, LengthLimitError};
use pin_project_lite::pin_project;

use crate::idempotency::http::{Print, Problem};
use crate::idempotency::{Pieces, StoreError};

/// What bodies fail with.
pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

pin_project! {
    /// The body of a request as the service behind the layer gets it.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        inner: Request<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = RequestPin]
    enum Request<B> {
        /// Nobody has looked at it.
        Passed { #[pin] body: B },
        /// It was read whole.
        Read { data: Bytes, trailers: Option<HeaderMap> },
    }
}

impl<B: Body> RequestBody<B> {
    pub(super) const fn passed(body: B) -> Self {
        Self { inner: Request::Passed { body } }
    }

    /// Reads it, up to so many bytes.
    pub(super) async fn read(body: B, most: u64) -> Result<Self, Problem>
    where
        B::Error: Into<BoxError>,
    {
        let mut body = std::pin::pin!(body);
        if body.size_hint().lower() > most {
            return Err(Problem::too_long(most));
        }
        let (mut data, mut trailers) = (BytesMut::new(), None);
        while let Some(frame) = body.frame().await {
            match frame.map_err(|error| unread(error.into(), most))?.into_data() {
                Ok(piece) if (data.len() + piece.remaining()) as u64 > most => {
                    return Err(Problem::too_long(most));
                }
                Ok(mut piece) => data.extend_from_slice(&piece.copy_to_bytes(piece.remaining())),
                Err(other) => trailers = other.into_trailers().ok(),
            }
        }
        Ok(Self { inner: Request::Read { data: data.freeze(), trailers } })
    }

    /// Shows what was read.
    pub(super) fn show(&self, print: &mut Print) {
        if let Request::Read { data, .. } = &self.inner {
            print.body(data);
        }
    }
}

/// A client's request that can't be read to its end.
fn unread(error: BoxError, most: u64) -> Problem {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&*error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            // Somebody else has set a limit that is lower than ours.
            let detail = "the request is longer than it may be".to_owned();
            return Problem { detail, ..Problem::too_long(most) };
        }
        cause = error.source();
    }
    let detail = "the request's body could not be read".to_owned();
    Problem { status: StatusCode::BAD_REQUEST, detail, retry_after: None }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.project().inner.project() {
            RequestPin::Passed { body } => body.poll_frame(cx).map_ok(flat),
            RequestPin::Read { data, .. } if !data.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))))
            }
            RequestPin::Read { trailers, .. } => Poll::Ready(trailers.take().map(Frame::trailers).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Request::Passed { body } => body.is_end_stream(),
            Request::Read { data, trailers } => data.is_empty() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Request::Passed { body } => body.size_hint(),
            Request::Read { data, .. } => SizeHint::with_exact(data.len() as u64),
        }
    }
}

/// With its data in one piece. Of `Bytes` that is no copy.
fn flat<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

pin_project! {
    /// The body of an answer as the layer gives it.
    #[derive(Debug)]
    pub struct AnswerBody<R> {
        #[pin]
        inner: Answer<R>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = AnswerPin]
    enum Answer<R> {
        Passed { #[pin] body: R },
        Kept { kept: Kept<R> },
    }
}

impl<R> AnswerBody<R> {
    pub(super) const fn passed(body: R) -> Self {
        Self { inner: Answer::Passed { body } }
    }

    pub(super) fn of(kept: Kept<R>) -> Self {
        Self { inner: Answer::Kept { kept } }
    }

    /// All of it.
    pub(super) fn own(all: Bytes) -> Self {
        let left = Some(all.len() as u64);
        Self::of(Kept { front: all, pieces: None, reading: None, rest: None, left })
    }
}

/// What is kept of a body, and after it perhaps the rest that is not.
pub(super) struct Kept<R> {
    pub front: Bytes,
    pub pieces: Option<Numbered>,
    pub reading: Option<Reading>,
    pub rest: Option<Pin<Box<R>>>,
    /// The bytes that are left, where that is known.
    pub left: Option<u64>,
}

/// The pieces that lie in the store, from the next to be read to the last.
pub(super) struct Numbered {
    pub pieces: Pieces,
    pub next: u32,
    pub count: u32,
    /// What was read after them.
    pub last: Bytes,
}

pub(super) type Reading = Pin<Box<dyn Future<Output = Result<Bytes, StoreError>> + Send>>;

impl<R> Kept<R>
where
    R: Body,
    R::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.front.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.front)))));
        }
        if let Some(numbered) = &mut self.pieces {
            if numbered.next < numbered.count {
                let (pieces, next) = (&numbered.pieces, numbered.next);
                let reading = self.reading.get_or_insert_with(|| {
                    let pieces = pieces.clone();
                    Box::pin(async move { pieces.get(next).await })
                });
                let read = ready!(reading.as_mut().poll(cx));
                self.reading = None;
                numbered.next += 1;
                if read.is_err() {
                    // After an error there is nothing.
                    (self.pieces, self.rest) = (None, None);
                }
                return Poll::Ready(Some(read.map(Frame::data).map_err(Into::into)));
            }
            let last = std::mem::take(&mut numbered.last);
            self.pieces = None;
            if !last.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(last))));
            }
        }
        match &mut self.rest {
            None => Poll::Ready(None),
            Some(rest) => rest.as_mut().poll_frame(cx).map_ok(flat).map_err(Into::into),
        }
    }
}

impl<R> fmt::Debug for Kept<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<R> Body for AnswerBody<R>
where
    R: Body,
    R::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().inner.project() {
            AnswerPin::Passed { body } => body.poll_frame(cx).map_ok(flat).map_err(Into::into),
            AnswerPin::Kept { kept } => {
                let polled = ready!(kept.poll(cx));
                if let (Some(left), Some(Ok(frame))) = (&mut kept.left, &polled) {
                    *left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
                }
                Poll::Ready(polled)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Answer::Passed { body } => body.is_end_stream(),
            Answer::Kept { kept } => kept.left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Answer::Passed { body } => body.size_hint(),
            Answer::Kept { kept } => kept.left.map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}
