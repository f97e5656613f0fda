//! One answer that is kept before anybody hears of it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use tokio::time::{Instant, timeout_at};

use super::body::{AnswerBody, BoxError, Kept, Numbered};
use super::{Settings, told};
use crate::idempotency::http::{Head, IDEMPOTENT_REPLAYED, Problem};
use crate::idempotency::store::{CHUNK_BYTES, Settled};
use crate::idempotency::{Answer, Pieces, Running, StoreError, Unsettled, WhenDown};

/// Keeps the answer, and gives it.
pub(super) async fn keep<R>(
    settings: &Settings,
    running: Running,
    answer: Response<R>,
    until: Instant,
) -> Response<AnswerBody<R>>
where
    R: Body,
    R::Error: Into<BoxError>,
{
    let (parts, body) = answer.into_parts();
    let mut head = Head::of(parts.status, &parts.headers, &settings.replayed);
    let mut reader = Reader::new(body, until);
    let pieces = running.pieces();
    let read = reader.read(&running, settings.most_answer_bytes).await;
    head.length = reader.length;
    head.whole = read == Read::Whole;
    let settled = match read {
        // Of what is not kept it is that it was carried out.
        Read::Whole | Read::Cut => running.settle(Settled::Done(reader.kept(&mut head))).await,
        Read::Broke => {
            // A store that does not hear it now is told later.
            let _unheard = running.settle(Settled::Unknown).await;
            return told(&broke());
        }
    };
    match settled {
        Ok(()) => reader.forwarded(parts, pieces),
        // What lies in a store that is down can't be passed on; all else is here.
        Err(Unsettled::Down(_))
            if settings.keys.config().when_down == WhenDown::Allow
                && (read == Read::Whole || reader.pieces == 0) =>
        {
            reader.forwarded(parts, pieces)
        }
        Err(why) => told(&Problem::of_unsettled(&why)),
    }
}

/// What was kept, as it was given then.
pub(super) fn replayed<R>(replay: &crate::idempotency::Replay) -> Response<AnswerBody<R>> {
    let kept = replay.answer();
    let Some(head) = Head::decode(&kept.head) else {
        return told(&Problem::unreadable(&StoreError::Corrupt("what was kept is no answer".to_owned())));
    };
    if !head.whole {
        let mut response = told(&Problem::not_kept(&head));
        // Where the result is says more than that it is somewhere. What describes the body was of another one.
        for (name, value) in head.pointers() {
            response.headers_mut().append(name, value.clone());
        }
        return marked(response);
    }
    let pieces = replay.pieces().clone();
    let numbered = Numbered { pieces, next: 0, count: kept.chunks, last: Bytes::new() };
    let body = Kept {
        front: kept.body.clone(),
        pieces: Some(numbered),
        reading: None,
        rest: None,
        left: Some(head.length),
    };
    let mut response = Response::new(AnswerBody::of(body));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    marked(response)
}

/// As one that was given before.
fn marked<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    response
}

fn broke() -> Problem {
    let detail = "the answer broke off; what the request did is unknown".to_owned();
    Problem { status: StatusCode::INTERNAL_SERVER_ERROR, detail, retry_after: None }
}

/// Reads an answer's body into the store.
struct Reader<R> {
    body: Pin<Box<R>>,
    /// What has not come by then is not kept: others may take the lease for over.
    until: Instant,
    /// The beginning, once it is full.
    front: Option<Bytes>,
    /// How many pieces were put.
    pieces: u32,
    /// What was read after them.
    last: BytesMut,
    length: u64,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Whole,
    /// It is longer than what is kept, takes longer than the operation may, or the store did not take it in that time, and it was
    /// not read further.
    Cut,
    /// The service broke off.
    Broke,
}

impl<R: Body> Reader<R> {
    fn new(body: R, until: Instant) -> Self {
        let body = Box::pin(body);
        Self { body, until, front: None, pieces: 0, last: BytesMut::new(), length: 0, ended: false }
    }

    async fn read(&mut self, running: &Running, most: u64) -> Read {
        let least = self.body.size_hint().lower();
        if least > most {
            self.length = least;
            return Read::Cut;
        }
        loop {
            let data = match timeout_at(self.until, poll_fn(|cx| self.poll_data(cx))).await {
                Err(_) => return Read::Cut,
                Ok(None) => break,
                Ok(Some(None)) => return Read::Broke,
                Ok(Some(Some(data))) => data,
            };
            self.length += data.len() as u64;
            self.last.extend_from_slice(&data);
            // One that never ends is always ready.
            if self.length > most || self.until <= Instant::now() {
                return Read::Cut;
            }
            while self.last.len() > CHUNK_BYTES {
                let piece = self.last.split_to(CHUNK_BYTES).freeze();
                if !self.put(running, piece).await {
                    return Read::Cut;
                }
            }
        }
        self.ended = true;
        let last = std::mem::take(&mut self.last).freeze();
        if self.put(running, last).await { Read::Whole } else { Read::Cut }
    }

    /// The next piece; `None` in its place if there is none because it broke off.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Option<Bytes>>> {
        loop {
            let frame = ready!(self.body.as_mut().poll_frame(cx));
            // Trailers are not kept, and so not passed on either: a replay is to be the same.
            match frame.map(|frame| frame.map(Frame::into_data)) {
                None => return Poll::Ready(None),
                Some(Err(_)) => return Poll::Ready(Some(None)),
                Some(Ok(Ok(mut data))) => {
                    return Poll::Ready(Some(Some(data.copy_to_bytes(data.remaining()))));
                }
                Some(Ok(Err(_))) => {}
            }
        }
    }

    /// Puts a piece; one that the store does not take is still to be passed on.
    async fn put(&mut self, running: &Running, piece: Bytes) -> bool {
        if self.front.is_none() {
            self.front = Some(piece);
            return true;
        }
        let put = running.put_by(running.stop_at(), self.pieces, piece.clone()).await;
        if put.is_ok() {
            self.pieces += 1;
        } else {
            let rest = std::mem::replace(&mut self.last, BytesMut::from(piece));
            self.last.unsplit(rest);
        }
        put.is_ok()
    }

    /// What is kept of it.
    fn kept(&self, head: &mut Head) -> Answer {
        let encoded = head.encode().unwrap_or_else(|| {
            head.headers.clear();
            head.whole = false;
            head.encode().unwrap_or_default()
        });
        if head.whole {
            Answer { head: encoded, body: self.front.clone().unwrap_or_default(), chunks: self.pieces }
        } else {
            Answer { head: encoded, ..Answer::default() }
        }
    }

    /// The answer, for who asked first.
    fn forwarded(self, parts: Parts, pieces: Pieces) -> Response<AnswerBody<R>> {
        let numbered = Numbered { pieces, next: 0, count: self.pieces, last: self.last.freeze() };
        let body = Kept {
            front: self.front.unwrap_or_default(),
            pieces: Some(numbered),
            reading: None,
            rest: (!self.ended).then_some(self.body),
            left: self.ended.then_some(self.length),
        };
        Response::from_parts(parts, AnswerBody::of(body))
    }
}
