//! A call on its way in: what it must pass before its first attempt, and holds until it ends.

use std::task::{Context, Poll, ready};

use seaworthy_core::gate::queue::Asking;
use seaworthy_core::gate::{bulkhead, limit};
use seaworthy_core::{Instant, Rejection};

use crate::caller::Caller;
use crate::clock;
use crate::pipeline::Inner;
use crate::shared::bulkhead::Acquire;
use crate::shared::door;

/// What a call holds while it runs.
pub(crate) struct Entry {
    pub permit: limit::Permit,
    pub place: Option<bulkhead::Ticket>,
    /// When it was let in.
    pub since: Instant,
}

/// A call on its way in. It passes the rate, the limit and the bulkhead in this order, so no two calls wait for each other.
pub(crate) struct Entering {
    stage: Stage,
    /// What the rate would have refused, in observe-only mode.
    shadow: Option<Rejection>,
}

enum Stage {
    Rate,
    Door(door::Entering),
    Bulkhead(limit::Permit, Acquire),
    /// It is in, was refused, or has left.
    Done,
}

impl Entering {
    pub(crate) const fn new() -> Self {
        Self { stage: Stage::Rate, shadow: None }
    }

    /// Until when it waits for a permit at the latest: whoever polls it must do so again by then.
    pub(crate) fn wakes_by(&self) -> Instant {
        if let Stage::Door(entering) = &self.stage { entering.wakes_by() } else { Instant::FAR }
    }

    /// What would have refused it, were it not only observing.
    pub(crate) fn shadows(&self, entry: &Entry) -> [Option<Rejection>; 3] {
        [self.shadow, entry.permit.shadow(), entry.place.as_ref().and_then(bulkhead::Ticket::shadow)]
    }

    /// Asks for what the call needs, or waits on for it. `deadline` is when the call must be over.
    pub(crate) fn poll(
        &mut self,
        inner: &Inner,
        now: Instant,
        caller: Caller,
        deadline: impl FnOnce() -> Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Entry, Rejection>> {
        let entered = ready!(self.advance(inner, now, caller, deadline, cx));
        self.stage = Stage::Done;
        if let Err(rejection) = &entered {
            inner.rejected(now, *rejection);
        }
        Poll::Ready(entered)
    }

    fn advance(
        &mut self,
        inner: &Inner,
        now: Instant,
        caller: Caller,
        deadline: impl FnOnce() -> Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Entry, Rejection>> {
        if let Stage::Rate = self.stage {
            if let Some(rate) = inner.rate.get() {
                self.shadow = rate.admit(now, caller.client)?;
            }
            self.stage = Stage::Door(door::Entering::new());
        }
        if let Stage::Door(entering) = &mut self.stage {
            let deadline = inner.latest_start(now, deadline);
            let asking = Asking { criticality: caller.criticality, client: caller.client, deadline };
            let permit = ready!(entering.poll(&inner.door, now, asking, cx))?;
            if inner.bulkhead.get().is_none() {
                return Poll::Ready(Ok(Entry { permit, place: None, since: now }));
            }
            self.stage = Stage::Bulkhead(permit, Acquire::new());
        }
        let (Stage::Bulkhead(_, waiting), Some(bulkhead)) = (&mut self.stage, inner.bulkhead.get()) else {
            unreachable!("nobody polls it again after it is in, and a bulkhead that is there stays")
        };
        let place = ready!(waiting.poll(bulkhead, now, cx));
        let Stage::Bulkhead(permit, _) = std::mem::replace(&mut self.stage, Stage::Done) else {
            unreachable!("it was there a moment ago")
        };
        match place {
            Ok(ticket) => Poll::Ready(Ok(Entry { permit, place: Some(ticket), since: now })),
            Err(rejection) => {
                inner.door.release(now, permit);
                Poll::Ready(Err(rejection))
            }
        }
    }

    /// The caller went away on the way in; what it had goes to the next.
    pub(crate) fn leave(&mut self, inner: &Inner) {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Rate | Stage::Done => {}
            Stage::Door(mut entering) => entering.leave(&inner.door, clock::now()),
            Stage::Bulkhead(permit, waiting) => {
                let now = clock::now();
                if let Some(bulkhead) = inner.bulkhead.get() {
                    waiting.leave(bulkhead, now);
                }
                inner.door.release(now, permit);
            }
        }
    }
}
