//! One call, from its head to the answer's head: what the policies decide, done with sockets.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};
use seaworthy::classify::Http;
use seaworthy_config::Repeatable;
use seaworthy_core::call::{Call, Repeat, Start};
use seaworthy_core::gate::queue::Asking;
use seaworthy_core::{Instant, Outcome, Rejection, What, Why};

use crate::answer::Problem;
use crate::choice::Wish;
use crate::client::Client;
use crate::download::Download;
use crate::driver::{Driver, Ending};
use crate::entrance::Way;
use crate::head::{Asked, Refusal};
use crate::instead::Instead;
use crate::ledger::{About, Ledger};
use crate::manner::{Manner, TOO_LONG};
use crate::outgoing::Outgoing;
use crate::standing;
use crate::tape::Tape;
use crate::task::HasClock;
use crate::worker::Worker;

/// Answers a request.
pub(crate) async fn serve(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Download>, Infallible> {
    let mut arrived = match begin(client, request) {
        Ok(arrived) => arrived,
        Err(response) => return Ok(*response),
    };
    if let Err(rejection) = arrived.enter().await {
        return Ok(arrived.refused(rejection).await);
    }
    let mut running = arrived.start();
    let ending = running.driver.run().await;
    Ok(running.finish(ending).await)
}

/// A call whose route is known.
struct Arrived {
    ledger: Box<Ledger>,
    asked: Asked,
    way: Way,
    asking: Asking,
    body: Incoming,
    why: Why,
}

/// A call on its way.
struct Running {
    ledger: Box<Ledger>,
    way: Way,
    asking: Asking,
    /// How long the caller waits, if it said so.
    patience: Option<Duration>,
    driver: Driver,
    manner: Manner,
    /// What was decided before it was on its way.
    why: Why,
}

/// Reads the request and finds where it goes, or answers it at once.
fn begin(client: Rc<Client>, request: Request<Incoming>) -> Result<Arrived, Box<Response<Download>>> {
    let mut ledger = Ledger::new(client.clone());
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let asked = match Asked::read(&client, parts) {
        Ok(asked) => asked,
        Err(refusal) => {
            let mut response = refuse(ledger, refusal, &HeaderValue::from_static(""), false);
            if version < Version::HTTP_2 {
                // Where one request ends and the next begins is not sure any more.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            return Err(Box::new(response));
        }
    };
    let home = &client.home;
    if home.site.config.log.access {
        ledger.about = Some(About::of(&asked));
    }
    let host = asked.host.to_str().ok().filter(|host| !host.is_empty());
    let Some((route, _)) = home.site.config.route(host, asked.path(), asked.method.as_str()) else {
        let refusal =
            Refusal { status: StatusCode::NOT_FOUND, detail: "no route takes this host, path and method" };
        return Err(Box::new(refuse(ledger, refusal, &asked.id, asked.grpc)));
    };
    let way = Way { listener: client.listener, route, upstream: home.site.config.routes[route].upstream };
    ledger.way = Some(way);
    if home.site.config.limits.body_bytes.is_some_and(|most| body.size_hint().lower() > most) {
        let refusal = Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, detail: TOO_LONG };
        return Err(Box::new(refuse(ledger, refusal, &asked.id, asked.grpc)));
    }
    let asking = Asking {
        criticality: standing::criticality(home, route, &asked, client.peer),
        client: standing::client(home, route, &asked, client.peer),
        deadline: latest_start(home, way, deadline(home, &ledger, route, &asked)),
    };
    Ok(Arrived { ledger, asked, way, asking, body, why: Why::new() })
}

fn refuse(mut ledger: Box<Ledger>, refusal: Refusal, id: &HeaderValue, grpc: bool) -> Response<Download> {
    let response = Problem::new(refusal.status, refusal.detail).answer(grpc, id, &Why::new());
    ledger.status = Some(refusal.status);
    ledger.complete(Outcome::Ignored);
    response
}

/// When the call is over for its caller, however far it has come.
fn deadline(home: &Worker, ledger: &Ledger, route: usize, asked: &Asked) -> Option<Instant> {
    let own = home.site.config.routes[route].call.deadline;
    let most = own.into_iter().chain(asked.patience).min()?;
    Some(ledger.started.plus(most))
}

/// When it is too late to begin: what takes as long as calls typically do would end after its deadline.
fn latest_start(home: &Worker, way: Way, deadline: Option<Instant>) -> Option<Instant> {
    let commons = &home.service(way.upstream).commons;
    let typical = commons.learned(home.clock().now()).typical.unwrap_or_default();
    deadline.map(|deadline| deadline.minus(typical))
}

impl Arrived {
    /// Waits until the rates and every door have let the call in.
    async fn enter(&mut self) -> Result<(), Rejection> {
        let home = self.ledger.client.home.clone();
        let site = &home.site;
        for meter in site.meter.iter().chain(&site.routes[self.way.route].meter) {
            let now = home.clock().now();
            if let Some(shadow) = meter.admit(home.remote.as_ref(), now, self.asking.client).await? {
                self.why.note(now.since(self.ledger.started), 0, What::WouldReject(shadow));
            }
        }
        self.ledger.pass.enter(&home, self.way, self.asking, &mut self.why).await
    }

    /// The answer to a call that a door refused.
    async fn refused(mut self, rejection: Rejection) -> Response<Download> {
        let home = self.ledger.client.home.clone();
        self.why.note(home.clock().now().since(self.ledger.started), 0, What::Rejected(rejection));
        let manner = Manner::of(&self.asked);
        if home.site.config.routes[self.way.route].degrade.is_empty() {
            return manner.conclude(self.ledger, &Ending::Rejected(rejection), self.why);
        }
        let patience = self.asked.patience;
        // What nobody has begun to read can be sent to another upstream.
        let tape = tape(&home, self.body, home.site.config.limits.body_replay_bytes as usize);
        let outgoing = Outgoing::new(&home, self.way.upstream, self.asked, self.asking.criticality);
        let Self { ledger, way, asking, why, .. } = self;
        let instead = Instead {
            ledger,
            manner,
            why,
            way,
            asking,
            outgoing,
            tape,
            patience,
            rejection: Some(rejection),
        };
        Box::pin(instead.answer()).await
    }

    /// Starts the call.
    fn start(self) -> Running {
        let Self { ledger, asked, way, asking, body, why } = self;
        let home = &ledger.client.home;
        let (now, upstream) = (home.clock().now(), way.upstream);
        let manner = Manner::of(&asked);
        let repeat = repeat(home, way.route, &asked);
        let patience = asked.patience;
        let deadline = deadline(home, &ledger, way.route, &asked);
        let start = Start { deadline, repeat, seed: home.ids.borrow_mut().draw() };
        let commons = &home.service(upstream).commons;
        let call = Call::start(home.plan(way.route), now, start, &mut { commons });
        let kept =
            if repeat == Repeat::Never { 0 } else { home.site.config.limits.body_replay_bytes as usize };
        let tape = tape(home, body, kept);
        let key = standing::together(home, upstream, &asked, ledger.client.peer);
        let wish = Wish::new(key, repeat != Repeat::Never, asking.criticality);
        let outgoing = Outgoing::new(home, upstream, asked, asking.criticality);
        let driver = Driver::new(home.clone(), upstream, call, outgoing, tape, wish);
        Running { ledger, way, asking, patience, driver, manner, why }
    }
}

fn tape(home: &Rc<Worker>, body: Incoming, kept: usize) -> Option<Rc<Tape>> {
    (!body.is_end_stream()).then(|| Tape::new(home.clone(), body, kept))
}

impl Running {
    /// The answer to the client.
    async fn finish(self, ending: Ending) -> Response<Download> {
        let Self { mut ledger, way, asking, patience, driver, manner, mut why } = self;
        ledger.attempts = driver.attempts();
        why.extend(driver.why());
        match ending {
            Ending::Answer(answer, leg) if manner.takes(&answer) => {
                if leg.outcome == Outcome::Success {
                    ledger.client.home.site.routes[way.route].degraded.over();
                }
                manner.forwarded(ledger, answer, leg, why).await
            }
            Ending::Fallback => {
                ledger.outcome = driver.last;
                let (outgoing, tape) = driver.spare();
                let instead =
                    Instead { ledger, manner, why, way, asking, outgoing, tape, patience, rejection: None };
                Box::pin(instead.answer()).await
            }
            other => manner.conclude(ledger, &other, why),
        }
    }
}

/// Whether the request may be sent more than once. One that is another hop's second attempt is not: the hop before us
/// retries, and two hops of three attempts each would make nine.
fn repeat(home: &Worker, route: usize, asked: &Asked) -> Repeat {
    if asked.is_repeat || asked.upgrade {
        return Repeat::Never;
    }
    match home.site.config.routes[route].repeatable {
        Repeatable::Auto => Http::request(&asked.method, &asked.headers),
        Repeatable::Always => Repeat::Safe,
        Repeatable::Never => Repeat::Never,
    }
}
