//! A call whose route keeps good answers: what is looked for before the upstream is asked, and what becomes of its answer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use seaworthy::clock;
use seaworthy_config::{Degrade, Stale};
use seaworthy_core::Instant;

use crate::degrade::{
    Flights, How, Leader, Look, Moment, Question, Recorder, Rules, Shown, Store, Stored, Turn,
};
use crate::head::Asked;
use crate::task::HasClock;
use crate::worker::Worker;

/// The answers that are kept, and which of them are being refreshed.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub store: Arc<Store>,
    flights: Flights,
}

impl Shelf {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { store: Store::new(bytes), flights: Flights::default() }
    }
}

/// What a call has to do with the answers that are kept.
pub(crate) struct Kept {
    home: Rc<Worker>,
    route: usize,
    rules: Rules,
    question: Question,
    /// When the call is over for its caller, who waits for another's refresh no longer than that.
    deadline: Instant,
    /// What is there, but to be refreshed.
    stored: Option<Stored>,
    /// The call refreshes it for all.
    leader: Option<Leader>,
}

/// What to do with a call.
pub(crate) enum Serve {
    /// Nothing is there: the upstream is asked.
    Ask,
    /// This is the answer.
    Kept(Response<Bytes>),
    /// This is the answer, and the call refreshes it behind the client's back.
    Refreshing(Response<Bytes>),
}

impl Kept {
    /// If the route keeps answers.
    pub(crate) fn of(home: &Rc<Worker>, route: usize, asked: &Asked) -> Option<Self> {
        let stale = stale(home, route).filter(|_| !asked.grpc && !asked.upgrade)?;
        let rules =
            Rules { within: stale.within, serve_fresh: stale.serve_fresh, entry_bytes: stale.entry_bytes };
        let question = Question::of(&asked.method, &asked.host, &asked.target, &asked.headers);
        let most = home.site.config.routes[route].call.deadline.into_iter().chain(asked.patience).min();
        let deadline = most.map_or(Instant::FAR, |most| home.clock().now().plus(most));
        Some(Self { home: home.clone(), route, rules, question, deadline, stored: None, leader: None })
    }

    /// Looks for an answer. Of those who find one that must be refreshed first, one goes on and the others wait for it, as long
    /// as they may: whose time is over then goes on too, and is served as whoever gets no answer in time.
    pub(crate) async fn look(&mut self) -> Serve {
        let mut may_wait = self.question.can_be_shared(&self.rules);
        loop {
            let shelf = &self.home.site.shelf;
            let (stored, while_revalidate) = match shelf.store.look(self.now(), &self.question, &self.rules) {
                Look::Fresh(stored) => return Serve::Kept(self.response(&stored, How::Kept)),
                Look::Stale { stored, while_revalidate } => (stored, while_revalidate),
                Look::Miss => return Serve::Ask,
            };
            let turn = may_wait.then(|| shelf.flights.join(&self.question));
            if while_revalidate {
                let response = self.response(&stored, How::Kept);
                let Some(Turn::Leader(leader)) = turn else { return Serve::Kept(response) };
                (self.leader, self.stored) = (Some(leader), Some(stored));
                return Serve::Refreshing(response);
            }
            match turn {
                Some(Turn::Follower(follower)) => {
                    self.in_time(follower).await;
                    may_wait = false;
                }
                Some(Turn::Leader(leader)) => {
                    (self.leader, self.stored) = (Some(leader), Some(stored));
                    return Serve::Ask;
                }
                None => {
                    self.stored = Some(stored);
                    return Serve::Ask;
                }
            }
        }
    }

    /// Waits for what another call fetches, until the deadline.
    async fn in_time(&self, landing: impl Future) {
        let mut landing = pin!(landing);
        poll_fn(|cx| {
            let clock = self.home.clock();
            if clock.now() >= self.deadline || landing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            clock.wake_by(self.deadline);
            Poll::Pending
        })
        .await;
    }

    /// Asks the upstream only whether what is there is still good, if that can be asked.
    pub(crate) fn ask_whether_good(&mut self, headers: &mut HeaderMap) {
        self.stored = self.stored.take().filter(|stored| stored.ask_whether_good(headers));
    }

    /// The upstream has answered. If that says that what is there is still good, the answer.
    pub(crate) fn still_good(&mut self, status: StatusCode, headers: &HeaderMap) -> Option<Response<Bytes>> {
        let stored = self.stored.take().filter(|_| status == StatusCode::NOT_MODIFIED)?;
        let refreshed = self.home.site.shelf.store.refreshed(self.now(), &self.question, &stored, headers);
        // One that has left the store meanwhile is as good: the upstream has just said so.
        let stored = refreshed.unwrap_or(stored);
        if let Some(leader) = self.leader.take() {
            leader.stored();
        }
        Some(self.response(&stored, How::Revalidated))
    }

    /// What keeps the upstream's answer while it streams by, if it may be kept.
    pub(crate) fn recorder(mut self, status: StatusCode, headers: &HeaderMap) -> Option<Box<Recorder>> {
        let store = &self.home.site.shelf.store;
        let recorder = store.answered(self.now(), &self.question, &self.rules, status, headers)?;
        Some(Box::new(match self.leader.take() {
            Some(leader) => recorder.for_all(leader),
            None => recorder,
        }))
    }

    /// The last good answer, if it may stand in for one that there is not, for this reason.
    pub(crate) fn on_error(&self, reason: &str) -> Option<Response<Bytes>> {
        let stored = self.home.site.shelf.store.on_error(self.now(), &self.question, &self.rules)?;
        Some(self.response(&stored, How::Degraded(reason)))
    }

    fn response(&self, stored: &Stored, how: How<'_>) -> Response<Bytes> {
        let stale = stale(&self.home, self.route);
        let header = stale.and_then(|stale| stale.header.as_deref());
        let field = stale.and_then(|stale| stale.field.as_deref());
        stored.response(self.now(), &self.question, &Shown { how, header, field })
    }

    fn now(&self) -> Moment {
        let wall = SystemTime::UNIX_EPOCH + clock::wall();
        Moment { wall, steady: self.home.clock().now() }
    }
}

/// What the route says of answers that are kept, if it keeps any.
fn stale(home: &Worker, route: usize) -> Option<&Stale> {
    home.site.config.routes[route].degrade.iter().find_map(|degrade| match degrade {
        Degrade::Stale(stale) => Some(stale),
        _ => None,
    })
}
