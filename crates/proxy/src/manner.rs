//! How a call is answered, whatever with: what the answer must know of the request, and what is booked with it.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Version};
use seaworthy_core::{Failure, Outcome, Why};

use crate::answer::{Problem, tell_why};
use crate::attempt::Answer;
use crate::client::Far;
use crate::degrade::Recorder;
use crate::download::Download;
use crate::driver::Ending;
use crate::head::{Asked, clean_answer};
use crate::ledger::{Ledger, Leg};
use crate::names;
use crate::task::HasClock;

/// What is said of a body that is longer than one may be.
pub(crate) const TOO_LONG: &str = "the request's body is longer than this proxy takes";

/// What the answer must know of the request.
pub(crate) struct Manner {
    id: HeaderValue,
    grpc: bool,
    wants_why: bool,
    upgrade: bool,
}

impl Manner {
    pub(crate) fn of(asked: &Asked) -> Self {
        Self { id: asked.id.clone(), grpc: asked.grpc, wants_why: asked.wants_why, upgrade: asked.upgrade }
    }

    /// Whether the client can take the answer: what nobody asked for is no answer.
    pub(crate) fn takes(&self, answer: &Answer) -> bool {
        answer.tunnel.is_none() || self.upgrade
    }

    /// An upstream's answer.
    fn forward(
        &self,
        mut ledger: Box<Ledger>,
        answer: Answer,
        leg: Leg,
        why: Why,
        recorder: Option<Box<Recorder>>,
        cx: &mut Context<'_>,
    ) -> Response<Download> {
        let Answer { mut parts, body, link, tunnel } = answer;
        ledger.head = Some(ledger.client.home.clock().now());
        ledger.status = Some(parts.status);
        ledger.leg = Some(leg);
        clean_answer(&mut parts.headers, tunnel.is_some());
        // What the upstream speaks is between it and us.
        parts.version = Version::HTTP_11;
        parts.headers.entry(names::REQUEST_ID).or_insert(self.id.clone());
        if self.wants_why {
            tell_why(&mut parts.headers, &why);
        }
        ledger.why = why;
        if let Some((stream, seen)) = tunnel {
            let client = ledger.client.clone();
            client.tunnel.set(Some(Far { stream, seen, guard: ledger }));
            return Response::from_parts(parts, Download::own(Bytes::new()));
        }
        Response::from_parts(parts, Download::stream(body, link, ledger, self.grpc, recorder, cx))
    }

    /// An upstream's answer, from a place that is not polled itself.
    pub(crate) async fn forwarded(
        &self,
        ledger: Box<Ledger>,
        answer: Box<Answer>,
        leg: Leg,
        why: Why,
        recorder: Option<Box<Recorder>>,
    ) -> Response<Download> {
        let mut parts = Some((ledger, answer, leg, why, recorder));
        let polled = poll_fn(|cx| match parts.take() {
            Some((ledger, answer, leg, why, recorder)) => {
                Poll::Ready(self.forward(ledger, *answer, leg, why, recorder, cx))
            }
            None => Poll::Pending,
        });
        polled.await
    }

    /// An answer that is there at once.
    pub(crate) fn own(&self, ledger: Box<Ledger>, response: Response<Bytes>, why: Why) -> Response<Download> {
        self.given(ledger, response.map(Download::own), why)
    }

    /// An answer whose head is there at once.
    pub(crate) fn given(
        &self,
        ledger: Box<Ledger>,
        mut response: Response<Download>,
        why: Why,
    ) -> Response<Download> {
        if !self.id.is_empty() {
            response.headers_mut().entry(names::REQUEST_ID).or_insert(self.id.clone());
        }
        self.close(ledger, &mut response, why);
        response
    }

    /// The answer to a call that nobody answered.
    pub(crate) fn conclude(&self, mut ledger: Box<Ledger>, ending: &Ending, why: Why) -> Response<Download> {
        let home = ledger.client.home.clone();
        let text;
        let problem = match ending {
            Ending::Rejected(rejection) => {
                let counts =
                    &home.tally.routes[ledger.way.map_or(home.site.config.routes.len(), |way| way.route)];
                counts.rejected.add(1);
                text = rejection.to_string();
                Problem::rejected(rejection, &text)
            }
            Ending::Failed(outcome) => {
                ledger.outcome = *outcome;
                Problem::failed(*outcome)
            }
            Ending::ClientStalled => Problem::new(StatusCode::REQUEST_TIMEOUT, "the request's body stalled"),
            Ending::ClientBroke => Problem::new(StatusCode::BAD_REQUEST, "the request's body broke off"),
            Ending::TooLong => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, TOO_LONG),
            // An upgrade that nobody asked for is no answer.
            Ending::Answer(..) => Problem::failed(Outcome::failed(Failure::Broken)),
            Ending::Fallback => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the upstream has no answer, and there is nothing to answer with instead",
            ),
        };
        let mut response = problem.answer(self.grpc, &self.id, &why);
        self.close(ledger, &mut response, why);
        response
    }

    /// A problem that keeps the call from its upstream.
    pub(crate) fn refuse(&self, ledger: Box<Ledger>, problem: &Problem<'_>, why: Why) -> Response<Download> {
        let mut response = self.problem(problem, &why);
        self.close(ledger, &mut response, why);
        response
    }

    /// A problem of a call whose books are closed elsewhere.
    pub(crate) fn problem(&self, problem: &Problem<'_>, why: &Why) -> Response<Download> {
        problem.answer(self.grpc, &self.id, why)
    }

    fn close(&self, mut ledger: Box<Ledger>, response: &mut Response<Download>, why: Why) {
        if self.wants_why {
            tell_why(response.headers_mut(), &why);
        }
        ledger.status = Some(response.status());
        ledger.why = why;
        ledger.complete(Outcome::Ignored);
    }
}
