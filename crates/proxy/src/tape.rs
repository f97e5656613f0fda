//! A request's body on its way up, kept as it streams so that another attempt can send it again.
//!
//! Every attempt reads the same tape from its start: first what is kept, then, at the live edge, what the client sends
//! next, which is kept as well as long as it fits. Once it no longer fits, what was kept is let go and the body just
//! streams; then the attempt at the live edge is the only one that there can be.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use seaworthy_core::Instant;

use crate::pace::Pace;
use crate::task::HasClock;
use crate::worker::Worker;

/// The body of one call.
pub(crate) struct Tape {
    home: Rc<Worker>,
    reel: RefCell<Reel>,
    /// The most bytes that are kept.
    most: usize,
    /// How the client gets on with it.
    pace: Pace,
    /// It is longer than a body may be.
    too_long: Cell<bool>,
    /// It did not fit.
    overflowed: Cell<bool>,
    /// The client's side broke off or was not HTTP.
    broke: Cell<bool>,
    /// Some attempt reads it, and counts its pieces.
    played: Cell<bool>,
}

struct Reel {
    live: Incoming,
    kept: Vec<Bytes>,
    /// Pieces that came, kept or not.
    pieces: usize,
    bytes: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl Tape {
    /// A tape of what `live` brings that keeps up to `most` bytes.
    pub(crate) fn new(home: Rc<Worker>, live: Incoming, most: usize) -> Rc<Self> {
        let reel = Reel { live, kept: Vec::new(), pieces: 0, bytes: 0, trailers: None, ended: false };
        // A body that is announced to be too long isn't kept at all.
        let too_long = reel.live.size_hint().lower() > most as u64;
        Rc::new(Self {
            home,
            reel: RefCell::new(reel),
            most,
            pace: Pace::default(),
            too_long: Cell::new(false),
            overflowed: Cell::new(too_long),
            broke: Cell::new(false),
            played: Cell::new(false),
        })
    }

    /// Whether it outgrew what is kept, so that it can't be sent again once it was read from.
    pub(crate) fn is_spent(&self) -> bool {
        self.overflowed.get()
    }

    /// Whether another attempt could still begin at its start.
    pub(crate) fn can_restart(&self) -> bool {
        !self.overflowed.get() || self.reel.borrow().pieces == 0
    }

    /// Whether all of it is kept.
    pub(crate) fn is_whole(&self) -> bool {
        !self.overflowed.get() && self.reel.borrow().ended
    }

    /// Whether the client's side broke off.
    pub(crate) fn is_broken(&self) -> bool {
        self.broke.get()
    }

    /// All of it, read to its end; `None` if it broke off, stalled or is longer than what is kept.
    pub(crate) async fn whole(&self) -> Option<Bytes> {
        self.fill(None).await;
        self.is_whole().then(|| self.reel.borrow().kept.concat().into())
    }

    /// Shows each piece that is kept.
    pub(crate) fn show(&self, mut piece: impl FnMut(&[u8])) {
        self.reel.borrow().kept.iter().for_each(|kept| piece(kept));
    }

    /// Reads it to its end, if it can be kept and that is before `deadline`.
    pub(crate) async fn fill(&self, deadline: Option<Instant>) {
        poll_fn(|cx| {
            loop {
                if self.is_spent() || self.is_broken() || self.reel.borrow().ended {
                    return Poll::Ready(());
                }
                if self.poll_live(cx).is_pending() {
                    let now = self.home.clock().now();
                    let due = self.due(now).min(deadline.unwrap_or(Instant::FAR));
                    self.home.clock().wake_by(due);
                    return if due <= now { Poll::Ready(()) } else { Poll::Pending };
                }
            }
        })
        .await;
    }

    /// When the client has kept an attempt waiting for too long.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        self.pace.due(now, &self.home.site.config.limits)
    }

    /// Whether it is longer than a body may be.
    pub(crate) fn is_too_long(&self) -> bool {
        self.too_long.get()
    }

    /// How many pieces have moved on, and whether the next is the client's to send.
    pub(crate) fn progress(&self) -> (usize, bool) {
        (self.reel.borrow().pieces, self.pace.is_waiting())
    }

    fn poll_live(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ClientBroke>>> {
        let mut reel = self.reel.borrow_mut();
        let polled = Pin::new(&mut reel.live).poll_frame(cx);
        if polled.is_pending() {
            self.pace.wait(self.home.clock().now());
            return Poll::Pending;
        }
        let polled = ready!(polled);
        let bytes = polled.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        self.pace.moved(self.home.clock().now(), bytes as u64);
        match polled {
            Some(Ok(frame)) => {
                let frame = self.keep(&mut reel, frame);
                if self.home.site.config.limits.body_bytes.is_some_and(|most| reel.bytes as u64 > most) {
                    self.broke.set(true);
                    self.too_long.set(true);
                    return Poll::Ready(Some(Err(ClientBroke::TooLong)));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.broke.set(true);
                Poll::Ready(Some(Err(ClientBroke::Off(error))))
            }
            None => {
                reel.ended = true;
                Poll::Ready(None)
            }
        }
    }

    fn keep(&self, reel: &mut Reel, frame: Frame<Bytes>) -> Frame<Bytes> {
        if let Some(data) = frame.data_ref() {
            reel.pieces += 1;
            reel.bytes = reel.bytes.saturating_add(data.len());
            // Tiny pieces cost more than their bytes, so their number is bounded as well.
            if reel.kept.len() >= MOST_PIECES && !self.played.get() {
                reel.kept = joined(std::mem::take(&mut reel.kept));
                reel.pieces = reel.kept.len() + 1;
            }
            if reel.bytes > self.most || reel.kept.len() >= MOST_PIECES {
                self.overflowed.set(true);
            }
            if self.overflowed.get() {
                reel.kept = Vec::new();
            } else {
                reel.kept.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            reel.trailers = Some(trailers.clone());
        }
        // Nothing follows trailers, though the body doesn't know it yet.
        reel.ended = reel.trailers.is_some() || reel.live.is_end_stream();
        frame
    }
}

/// The body of one attempt.
pub(crate) enum Upload {
    /// There is none.
    Empty,
    /// It is read from the tape.
    Play {
        /// The tape.
        tape: Rc<Tape>,
        /// How many pieces were read.
        at: usize,
        /// Whether the trailers were.
        done: bool,
    },
}

impl Upload {
    /// The whole of `tape`.
    pub(crate) fn of(tape: &Rc<Tape>) -> Self {
        tape.played.set(true);
        Self::Play { tape: tape.clone(), at: 0, done: false }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = ClientBroke;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBroke>>> {
        let Self::Play { tape, at, done } = self.get_mut() else { return Poll::Ready(None) };
        if *done {
            return Poll::Ready(None);
        }
        let reel = tape.reel.borrow();
        if let Some(piece) = reel.kept.get(*at) {
            *at += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if reel.ended {
            *done = true;
            return Poll::Ready(reel.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let behind = *at < reel.pieces;
        drop(reel);
        if behind {
            return Poll::Ready(Some(Err(ClientBroke::NotKept)));
        }
        let polled = tape.poll_live(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => *at += 1,
            Poll::Ready(_) => *done = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Play { done: true, .. } => true,
            Self::Play { tape, at, .. } => {
                let reel = tape.reel.borrow();
                reel.ended && *at >= reel.pieces && reel.trailers.is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Play { tape, at, .. } => {
                let reel = tape.reel.borrow();
                let kept: u64 = reel.kept.iter().skip(*at).map(|piece| piece.len() as u64).sum();
                match reel.live.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(kept + rest),
                    None => SizeHint::new(),
                }
            }
        }
    }
}

/// Why a request's body could not be passed on.
#[derive(Debug)]
pub(crate) enum ClientBroke {
    /// It broke off, or was not HTTP.
    Off(hyper::Error),
    /// It is longer than a body may be.
    TooLong,
    /// An attempt needed what is no longer kept. The driver starts none that could; this is the backstop.
    NotKept,
}

impl fmt::Display for ClientBroke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off(_) => "the request's body broke off",
            Self::TooLong => "the request's body is too long",
            Self::NotKept => "the request's body is no longer kept",
        })
    }
}

impl std::error::Error for ClientBroke {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Off(error) => Some(error),
            Self::TooLong | Self::NotKept => None,
        }
    }
}

/// The same bytes in fewer pieces.
fn joined(pieces: Vec<Bytes>) -> Vec<Bytes> {
    let (mut joined, mut tail) = (Vec::new(), BytesMut::new());
    for piece in pieces {
        if tail.is_empty() && piece.len() >= BLOCK {
            joined.push(piece);
            continue;
        }
        tail.extend_from_slice(&piece);
        if tail.len() >= BLOCK {
            joined.push(tail.split().freeze());
        }
    }
    joined.extend((!tail.is_empty()).then(|| tail.freeze()));
    joined
}

/// Pieces of this many bytes are long enough: each byte is copied a few times at most.
const BLOCK: usize = 64 * 1024;
/// Pieces kept at most, however small: 4096 are some 200 kB of bookkeeping.
const MOST_PIECES: usize = 4096;
