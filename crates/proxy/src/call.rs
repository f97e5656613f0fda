//! One call, from its head to the answer's head: what the call machine decides, done with sockets.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};
use seaworthy::classify::Http;
use seaworthy_config::{HashOn, Repeatable};
use seaworthy_core::call::fallback::covers;
use seaworthy_core::call::{Call, Finish, Repeat, Start};
use seaworthy_core::{Failure, Outcome, What, Why};

use crate::answer::{Problem, fallback, tell_why};
use crate::attempt::Answer;
use crate::choice::Wish;
use crate::client::{Client, Far};
use crate::download::Download;
use crate::driver::{Driver, Ending};
use crate::head::{Asked, Refusal, clean_answer};
use crate::keeper::hash;
use crate::ledger::{About, Ledger};
use crate::names;
use crate::outgoing::Outgoing;
use crate::tape::Tape;
use crate::task::HasClock;
use crate::worker::Worker;

/// Answers a request.
pub(crate) async fn serve(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Download>, Infallible> {
    let mut running = match begin(client, request) {
        Ok(running) => running,
        Err(response) => return Ok(*response),
    };
    let mut ending = Some(running.driver.run().await);
    let answered = poll_fn(|cx| match ending.take() {
        Some(ending) => Poll::Ready(running.finish(ending, cx)),
        None => Poll::Pending,
    });
    Ok(answered.await)
}

/// A call whose request was accepted.
struct Running {
    driver: Driver,
    /// Taken when the call ends.
    ledger: Option<Box<Ledger>>,
    manner: Manner,
}

/// Reads the request and finds where it goes, or answers it at once.
fn begin(client: Rc<Client>, request: Request<Incoming>) -> Result<Running, Box<Response<Download>>> {
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
    ledger.route = Some(route);
    start(home, ledger, asked, route, body)
}

fn refuse(mut ledger: Box<Ledger>, refusal: Refusal, id: &HeaderValue, grpc: bool) -> Response<Download> {
    let response = Problem::new(refusal.status, refusal.detail).answer(grpc, id, &Why::new());
    ledger.status = Some(refusal.status);
    ledger.complete(Outcome::Ignored);
    response
}

/// Starts the call, if the upstream's limit admits it.
fn start(
    home: &Rc<Worker>,
    mut ledger: Box<Ledger>,
    asked: Asked,
    route: usize,
    body: Incoming,
) -> Result<Running, Box<Response<Download>>> {
    let upstream = home.site.config.routes[route].upstream;
    let now = home.clock().now();
    let manner =
        Manner { id: asked.id.clone(), grpc: asked.grpc, wants_why: asked.wants_why, upgrade: asked.upgrade };
    match home.service(upstream).limit.admit(now) {
        Ok(permit) => ledger.permit = Some(permit),
        Err(rejection) => {
            let mut why = Why::new();
            why.note(Duration::ZERO, 0, What::Rejected(rejection));
            // The call machine was not asked, but the fallback answers for this refusal as for its own.
            let covered = covers(&Finish::Rejected(rejection));
            let ending = if covered && home.site.config.routes[route].fallback.is_some() {
                why.note(Duration::ZERO, 0, What::FellBack);
                Ending::Fallback
            } else {
                Ending::Rejected(rejection)
            };
            return Err(Box::new(manner.conclude(ledger, &ending, why)));
        }
    }
    let repeat = repeat(home, route, &asked);
    let start = Start {
        deadline: asked.patience.map(|patience| now.plus(patience)),
        repeat,
        seed: home.ids.borrow_mut().draw(),
    };
    let commons = &home.service(upstream).commons;
    let call = Call::start(home.plan(route), now, start, &mut { commons });
    let tape = (!body.is_end_stream()).then(|| {
        let most =
            if repeat == Repeat::Never { 0 } else { home.site.config.limits.body_replay_bytes as usize };
        Tape::new(home.clone(), body, most)
    });
    let key = key(home, upstream, &asked, ledger.client.peer);
    let outgoing = Outgoing::new(home, upstream, asked);
    let wish = Wish::new(key, repeat != Repeat::Never);
    let driver = Driver::new(home.clone(), upstream, call, outgoing, tape, wish);
    Ok(Running { driver, ledger: Some(ledger), manner })
}

impl Running {
    /// The answer to the client.
    fn finish(&mut self, ending: Ending, cx: &mut Context<'_>) -> Response<Download> {
        let Some(mut ledger) = self.ledger.take() else { unreachable!("a call ends once") };
        ledger.attempts = self.driver.attempts();
        let why = self.driver.why();
        let (answer, leg) = match ending {
            Ending::Answer(answer, leg) if answer.tunnel.is_none() || self.manner.upgrade => (answer, leg),
            Ending::Answer(..) => {
                // Nobody asked for an upgrade.
                let ending = Ending::Failed(Outcome::failed(Failure::Broken));
                return self.manner.conclude(ledger, &ending, why);
            }
            other => return self.manner.conclude(ledger, &other, why),
        };
        let Answer { mut parts, body, link, tunnel } = *answer;
        ledger.head = Some(ledger.client.home.clock().now());
        ledger.status = Some(parts.status);
        ledger.leg = Some(leg);
        clean_answer(&mut parts.headers, tunnel.is_some());
        // What the upstream speaks is between it and us.
        parts.version = Version::HTTP_11;
        parts.headers.entry(names::REQUEST_ID).or_insert(self.manner.id.clone());
        if self.manner.wants_why {
            tell_why(&mut parts.headers, &why);
        }
        ledger.why = why;
        if let Some((stream, seen)) = tunnel {
            let client = ledger.client.clone();
            client.tunnel.set(Some(Far { stream, seen, guard: ledger }));
            return Response::from_parts(parts, Download::own(bytes::Bytes::new()));
        }
        Response::from_parts(parts, Download::stream(body, link, ledger, self.manner.grpc, cx))
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

/// What the request has in common with those that are to go to the same endpoint.
fn key(home: &Worker, upstream: usize, asked: &Asked, peer: SocketAddr) -> Option<u64> {
    let bytes: Cow<'_, [u8]> = match &home.site.config.upstreams[upstream].hash_on {
        HashOn::None => return None,
        HashOn::Header(name) => asked.headers.get(name)?.as_bytes().into(),
        HashOn::Cookie(name) => cookie(&asked.headers, name)?.into(),
        HashOn::Source => peer.ip().to_string().into_bytes().into(),
    };
    Some(hash(&bytes))
}

/// The value of the cookie `name` (RFC 6265, section 5.4).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let fields = headers.get_all(header::COOKIE).into_iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// What the answer must know of the request.
struct Manner {
    id: HeaderValue,
    grpc: bool,
    wants_why: bool,
    upgrade: bool,
}

impl Manner {
    /// The answer to a call that the upstream did not answer.
    fn conclude(&self, mut ledger: Box<Ledger>, ending: &Ending, why: Why) -> Response<Download> {
        let home = ledger.client.home.clone();
        let counts = &home.tally.routes[ledger.route.unwrap_or(home.site.config.routes.len())];
        let text;
        let problem = match ending {
            Ending::Rejected(rejection) => {
                counts.rejected.add(1);
                text = rejection.to_string();
                Problem::rejected(rejection, &text)
            }
            Ending::Failed(outcome) => Problem::failed(*outcome),
            Ending::ClientStalled => Problem::new(StatusCode::REQUEST_TIMEOUT, "the request's body stalled"),
            Ending::ClientBroke => Problem::new(StatusCode::BAD_REQUEST, "the request's body broke off"),
            Ending::Fallback | Ending::Answer(..) => {
                counts.fallbacks.add(1);
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the upstream has no answer")
            }
        };
        let mut response =
            match (ending, ledger.route.and_then(|n| home.site.config.routes[n].fallback.as_ref())) {
                (Ending::Fallback, Some(degraded)) => fallback(degraded),
                _ => problem.answer(self.grpc, &self.id, &why),
            };
        if self.wants_why {
            tell_why(response.headers_mut(), &why);
        }
        ledger.status = Some(response.status());
        ledger.why = why;
        ledger.complete(Outcome::Ignored);
        response
    }
}
