//! What is to be settled when an attempt or a call ends, however it ends.
//!
//! A call can end in many places: answered, broken off in the middle of its body, or dropped because the client went
//! away. So what it holds sits in guards, and dropping one settles it as *abandoned*, which is neutral.

use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use seaworthy::shared::breaker;
use seaworthy_core::call::Kind;
use seaworthy_core::gate::queue::Asking;
use seaworthy_core::gate::{bulkhead, limit};
use seaworthy_core::idempotency::Token;
use seaworthy_core::{Criticality, Failure, Instant, Outcome, Rejection, Why};

use crate::choice::Entry;
use crate::client::Client;
use crate::entrance::{Pass, Way};
use crate::head::Asked;
use crate::ids;
use crate::journal::Access;
use crate::node::Node;
use crate::tally::Degraded;
use crate::task::HasClock;
use crate::worker::Worker;

/// One attempt's dues.
pub(crate) struct Leg {
    pub home: Rc<Worker>,
    /// Where it went.
    pub node: Rc<Node>,
    pub attempt: u8,
    /// When it was sent.
    pub sent: Instant,
    /// When its breaker is to hear that it still runs; [`Instant::FAR`] if never.
    pub overdue_at: Instant,
    ticket: Option<breaker::Ticket>,
    /// Its permit to enter the region.
    visa: Option<limit::Permit>,
    /// Its place in the bulkhead.
    pub place: Option<bulkhead::Ticket>,
    /// How it ended, or that it has not.
    pub outcome: Outcome,
    criticality: Criticality,
}

impl Leg {
    pub(crate) fn new(
        home: Rc<Worker>,
        entry: Entry,
        attempt: u8,
        kind: Kind,
        criticality: Criticality,
    ) -> Self {
        let Entry { node, ticket, visa } = entry;
        node.begin();
        node.counts().start(kind);
        let sent = home.clock().now();
        let overdue_at = node.endpoint.breaker.overdue_at(sent);
        Self {
            home,
            node,
            attempt,
            sent,
            overdue_at,
            ticket: Some(ticket),
            visa,
            place: None,
            outcome: Outcome::Abandoned,
            criticality,
        }
    }

    /// Settles the breaker's ticket, if it has not been, and counts the outcome.
    pub(crate) fn settle(&mut self, now: Instant, outcome: Outcome) {
        let Some(ticket) = self.ticket.take() else { return };
        self.outcome = outcome;
        self.node.counts().count(outcome);
        self.home.service(self.node.upstream).throttle.settle(now, self.criticality, outcome);
        self.home.tally.settled[self.node.upstream].add(1);
        if outcome != Outcome::Abandoned {
            self.node.observe(now, now.since(self.sent), outcome);
        }
        self.breaker_settles(now, ticket, outcome);
    }

    /// Tells the breaker that the attempt has run for long and still does.
    pub(crate) fn overdue(&mut self, now: Instant) {
        self.overdue_at = Instant::FAR;
        let breaker = &self.node.endpoint.breaker;
        let change = self.ticket.as_mut().and_then(|ticket| breaker.overdue(now, ticket));
        self.node.changed(&self.home.site, change);
    }

    /// Its answer broke off, or ended badly, after it had been settled as a success: that is a failure as well.
    pub(crate) fn broke_late(&mut self, now: Instant, outcome: Outcome) {
        self.node.counts().broken_bodies.add(1);
        if self.ticket.is_some() {
            return self.settle(now, outcome);
        }
        self.node.counts().count(outcome);
        // A breaker that refuses has noticed already.
        if let Ok(ticket) = self.node.endpoint.breaker.admit(now) {
            self.breaker_settles(now, ticket, outcome);
        }
    }

    fn breaker_settles(&self, now: Instant, ticket: breaker::Ticket, outcome: Outcome) {
        self.node.changed(&self.home.site, self.node.endpoint.breaker.settle(now, ticket, outcome));
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        let now = self.home.clock().now();
        self.settle(now, Outcome::Abandoned);
        self.node.end();
        if let Some(place) = self.place.take() {
            self.home.service(self.node.upstream).bulkhead.settle(now, place);
        }
        if let (Some(visa), Some(limit)) = (self.visa.take(), &self.node.endpoint.region.limit) {
            limit.release(visa);
        }
    }
}

/// One call's dues.
pub(crate) struct Ledger {
    pub client: Rc<Client>,
    /// Whose doors it passes; `None` if no route took it.
    pub way: Option<Way>,
    pub started: Instant,
    /// When the answer's head was there.
    pub head: Option<Instant>,
    pub status: Option<StatusCode>,
    /// The permits of the doors that let it in.
    pub pass: Pass,
    /// The attempt that is being answered with.
    pub leg: Option<Leg>,
    pub attempts: u8,
    /// What it is answered with instead of its upstream's answer.
    pub degraded: Option<Degraded>,
    /// Under which reservation of its idempotency key it was carried out, now or before.
    pub claim: Option<Claimed>,
    pub bytes: u64,
    pub why: Why,
    /// What the log says about the request.
    pub about: Option<About>,
    /// How it ended as far as the limits care, if not with an attempt's answer.
    pub outcome: Outcome,
    /// How it ended, once it has.
    end: Option<End>,
    /// Whether the end is not booked yet, as what the client gets is still to be decided.
    held: bool,
    /// The end that was held back.
    deferred: Option<End>,
}

/// What the log says about a request, in memory of its own: what hyper has parsed are slices of the buffers that it reads
/// into, and thousands of lines that wait for a slow writer would keep eight kilobytes each.
pub(crate) struct About {
    text: String,
    /// Where each part ends in the text.
    ends: [usize; 5],
}

impl About {
    pub(crate) fn of(asked: &Asked) -> Self {
        let parts = [
            asked.id.to_str().unwrap_or(""),
            ids::trace_id(&asked.trace).unwrap_or(""),
            asked.method.as_str(),
            asked.host.to_str().unwrap_or(""),
            asked.path(),
        ];
        let parts = parts.map(beginning);
        let mut text = String::with_capacity(parts.iter().map(|part| part.len()).sum());
        let ends = parts.map(|part| {
            text.push_str(part);
            text.len()
        });
        Self { text, ends }
    }

    /// Request id, trace id, method, host and path.
    pub(crate) fn parts(&self) -> [&str; 5] {
        let mut start = 0;
        self.ends.map(|end| &self.text[std::mem::replace(&mut start, end)..end])
    }
}

/// What became of an idempotency key, as the log tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claimed {
    /// It was carried out under this fencing token.
    Now(Token),
    /// An earlier request was, and this one got its answer.
    Before(Token),
    /// It was carried out, and nobody wrote it down: the store was down.
    Unrecorded,
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Answered, whatever the answer.
    Answered,
    /// The upstream's answer broke off.
    Broke,
    /// The client went away.
    Gone,
}

impl End {
    /// The end's name in the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Broke => "broke_off",
            Self::Gone => "caller_gone",
        }
    }
}

impl Ledger {
    pub(crate) fn new(client: Rc<Client>) -> Box<Self> {
        client.marks.begin();
        Box::new(Self {
            started: client.home.clock().now(),
            client,
            way: None,
            degraded: None,
            claim: None,
            head: None,
            status: None,
            pass: Pass::default(),
            outcome: Outcome::Ignored,
            leg: None,
            attempts: 0,
            bytes: 0,
            why: Why::new(),
            about: None,
            end: None,
            held: false,
            deferred: None,
        })
    }

    /// From now on an end is not booked before it is let go: the upstream's answer is not yet the client's.
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// The upstream's answer is not the client's: another one will be booked.
    pub(crate) fn retract(&mut self) {
        self.held = false;
        self.deferred = None;
    }

    /// The upstream's answer is the client's.
    pub(crate) fn let_go(&mut self) {
        self.held = false;
        if let Some(end) = self.deferred.take() {
            self.close(end);
        }
    }

    /// Turns from an upstream that has no answer to another: gives the permits of the one back, and waits for the other's.
    ///
    /// # Errors
    /// The other's refusal.
    pub(crate) async fn turn(&mut self, to: Way, asking: Asking, why: &mut Why) -> Result<(), Rejection> {
        let home = self.client.home.clone();
        if let Some(from) = self.way.replace(to) {
            self.pass.settle(&home, from, self.outcome, None);
        }
        self.outcome = Outcome::Ignored;
        self.pass.enter(&home, to, asking, why).await
    }

    /// The answer is complete, and ended well as far as the upstream is concerned, or with `outcome`.
    pub(crate) fn complete(&mut self, outcome: Outcome) {
        let now = self.client.home.clock().now();
        if let Some(leg) = &mut self.leg {
            if outcome.is_failure() { leg.broke_late(now, outcome) } else { leg.settle(now, outcome) }
        }
        self.close(End::Answered);
    }

    /// The upstream's answer broke off.
    pub(crate) fn broke(&mut self, failure: Failure) {
        let now = self.client.home.clock().now();
        if let Some(leg) = &mut self.leg {
            leg.broke_late(now, Outcome::failed(failure));
        }
        self.close(End::Broke);
    }

    /// Books the end of the call, once.
    fn close(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        if self.held && end != End::Gone {
            self.deferred = Some(end);
            return;
        }
        self.end = Some(end);
        let home = self.client.home.clone();
        let now = home.clock().now();
        self.client.marks.end(now);
        let (route, config) = (self.way.map(|way| way.route), &home.site.config);
        if let Some(way) = self.way {
            let outcome = match end {
                End::Gone => Outcome::Abandoned,
                _ => self.leg.as_ref().map_or(self.outcome, |leg| leg.outcome),
            };
            self.pass.settle(&home, way, outcome, self.head);
        }
        let counts = &home.tally.routes[route.unwrap_or(config.routes.len())];
        let class = self.status.filter(|_| end != End::Gone).map_or(5, |s| usize::from(s.as_u16() / 100) - 1);
        counts.requests[class.min(5)].add(1);
        counts.head.record(self.head.unwrap_or(now).since(self.started));
        counts.total.record(now.since(self.started));
        let leg = self.leg.take();
        if config.log.access {
            self.log(&home, now, end, leg.as_ref());
        }
    }

    fn log(&mut self, home: &Worker, now: Instant, end: End, leg: Option<&Leg>) {
        let since = |at: Instant| -> Duration { at.since(self.started) };
        let access = Access {
            peer: self.client.peer,
            route: self.way.map(|way| way.route),
            degraded: self.degraded,
            claim: self.claim,
            at: leg.map(|leg| (leg.node.upstream, leg.node.endpoint.clone())),
            attempts: self.attempts,
            status: self.status,
            head: self.head.map(since),
            total: since(now),
            bytes: self.bytes,
            end,
            about: self.about.take(),
            why: std::mem::take(&mut self.why),
        };
        if !home.site.journal.access(access) {
            home.tally.unlogged.add(1);
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close(End::Gone);
    }
}

fn beginning(part: &str) -> &str {
    let mut end = part.len().min(LONGEST_PART);
    while !part.is_char_boundary(end) {
        end -= 1;
    }
    &part[..end]
}

/// Of longer parts the log has the beginning: a full queue of the longest paths is still some tens of megabytes.
const LONGEST_PART: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_part_is_cut_between_characters() {
        let long = format!("a{}", "é".repeat(LONGEST_PART));
        assert_eq!(beginning(&long).len(), LONGEST_PART - 1);
        assert_eq!(beginning("/short"), "/short");
    }

    #[test]
    fn the_parts_come_back_as_they_were() {
        let about = About { text: "idGEThost/".into(), ends: [2, 2, 5, 9, 10] };
        assert_eq!(about.parts(), ["id", "", "GET", "host", "/"]);
    }
}
