//! One call, from its head to the answer's head: what the policies decide, done with sockets.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};
use seaworthy::classify::Http;
use seaworthy::idempotency::http as keyed;
use seaworthy_config::Repeatable;
use seaworthy_core::call::{Call, Repeat, Start};
use seaworthy_core::gate::queue::Asking;
use seaworthy_core::{Instant, Outcome, Rejection, What, Why};

use crate::answer::Problem;
use crate::choice;
use crate::client::Client;
use crate::download::Download;
use crate::driver::{Driver, Ending};
use crate::entrance::Way;
use crate::flagged::Flagged;
use crate::flags::{MOST_CONTEXT_BYTES, Question};
use crate::head::{Asked, Refusal};
use crate::idempotency::Wish;
use crate::instead::Instead;
use crate::kept::{Kept, Serve};
use crate::ledger::{About, Ledger};
use crate::manner::{Manner, TOO_LONG};
use crate::outgoing::Outgoing;
use crate::standing;
use crate::tape::Tape;
use crate::task::{HasClock, timed};
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
    let home = &arrived.affair.ledger.client.home;
    if let Some(keys) = home.site.routes[arrived.affair.way.route].keys.clone() {
        match keys.wish(&mut arrived.asked) {
            Wish::Nothing => {}
            Wish::Once(key) => return Ok(Box::pin(arrived.once(keys, key)).await),
            Wish::Wrong(problem) => return Ok(arrived.affair.refuse(&problem)),
        }
    }
    if arrived.affair.kept.is_some() {
        return Ok(Box::pin(arrived.kept_or_asked()).await);
    }
    Ok(arrived.asked().await)
}

/// What stays with a call whatever becomes of it, once its route is known.
pub(crate) struct Affair {
    pub ledger: Box<Ledger>,
    pub way: Way,
    pub asking: Asking,
    /// When it is over for its caller, however far it has come.
    pub deadline: Option<Instant>,
    /// How long the caller waits, if it said so.
    pub patience: Option<Duration>,
    /// Whether it is carried out under an idempotency key: then no other upstream, which knows nothing of it, is asked instead.
    pub once: bool,
    /// What it asks a flag service, if it does.
    question: Option<Question>,
    /// The answers that its route keeps, if it keeps any.
    pub kept: Option<Box<Kept>>,
    pub manner: Manner,
    /// What was decided so far.
    pub why: Why,
}

/// A call whose route is known.
pub(crate) struct Arrived {
    pub affair: Affair,
    pub asked: Asked,
    /// `None` of a call that the proxy makes by itself.
    pub body: Option<Incoming>,
}

/// A call on its way.
pub(crate) struct Running {
    pub affair: Affair,
    pub driver: Driver,
    repeat: Repeat,
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
    let deadline = deadline(home, &ledger, route, &asked);
    let asking = Asking {
        criticality: standing::criticality(route, &asked, &client),
        client: standing::caller(route, &asked, &client),
        deadline: latest_start(home, way, deadline),
    };
    let affair = Affair {
        way,
        asking,
        deadline,
        patience: asked.patience,
        once: false,
        question: question(home, way, &asked),
        kept: Kept::of(home, route, &asked).map(Box::new),
        manner: Manner::of(&asked),
        why: Why::new(),
        ledger,
    };
    Ok(Arrived { affair, asked, body: Some(body) })
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
    /// What is kept, if it serves; else what the upstream says.
    async fn kept_or_asked(mut self) -> Response<Download> {
        let Some(kept) = &mut self.affair.kept else { return self.asked().await };
        match kept.look().await {
            Serve::Ask => {
                kept.ask_whether_good(&mut self.asked.headers);
                self.asked().await
            }
            Serve::Kept(response) => {
                let Affair { ledger, manner, why, .. } = self.affair;
                manner.own(ledger, response, why)
            }
            Serve::Refreshing(response) => {
                kept.ask_whether_good(&mut self.asked.headers);
                self.refresh(response)
            }
        }
    }

    /// Answers with `response`, and asks the upstream behind the client's back.
    fn refresh(mut self, response: Response<Bytes>) -> Response<Download> {
        let affair = &mut self.affair;
        let client = affair.ledger.client.clone();
        let home = client.home.clone();
        // The books of the client's call are closed with the answer that it gets; the refreshing has its own.
        let mut own = Ledger::new(client);
        own.way = affair.ledger.way;
        affair.deadline = deadline(&home, &own, affair.way.route, &self.asked);
        let manner = Manner::of(&self.asked);
        let ledger = std::mem::replace(&mut affair.ledger, own);
        self.body = None;
        tokio::task::spawn_local(timed(home, async move {
            // Its passing by is what keeps it.
            self.asked().await.into_body().drain().await;
        }));
        manner.own(ledger, response, Why::new())
    }

    /// What the upstream says.
    async fn asked(mut self) -> Response<Download> {
        if let Err(rejection) = self.affair.enter().await {
            return self.refused(rejection).await;
        }
        let mut running = self.start();
        let ending = running.driver.run().await;
        running.finish(ending).await
    }

    /// The answer to a call that a rate or a door refused.
    pub(crate) async fn refused(self, rejection: Rejection) -> Response<Download> {
        let Self { mut affair, asked, body } = self;
        let home = affair.ledger.client.home.clone();
        affair.note(What::Rejected(rejection));
        let ending = Ending::Rejected(rejection);
        if let Some(question) = affair.question.take() {
            let tape = tape(&home, body, MOST_CONTEXT_BYTES);
            return Box::pin(Flagged { affair, question, tape }.answer(ending)).await;
        }
        if home.site.config.routes[affair.way.route].degrade.is_empty() {
            return affair.manner.conclude(affair.ledger, &ending, affair.why);
        }
        // What nobody has begun to read can be sent to another upstream.
        let tape = tape(&home, body, home.site.config.limits.body_replay_bytes as usize);
        let outgoing = Outgoing::new(&home, affair.way.upstream, asked, affair.asking.criticality);
        let elsewhere = !affair.once;
        Box::pin(Instead { affair, outgoing, tape, elsewhere, ending }.answer()).await
    }

    /// Starts the call.
    fn start(self) -> Running {
        let Self { affair, mut asked, body } = self;
        let home = &affair.ledger.client.home;
        let mut repeat = repeat(home, affair.way.route, &asked);
        if repeat == Repeat::Keyed && home.site.routes[affair.way.route].keys.is_some() {
            // A key that this route does not honour is no promise of its upstream's either.
            repeat = Repeat::Never;
        }
        if affair.question.is_some() {
            // Its answer is read here; and evaluating a flag changes nothing.
            asked.headers.remove(header::ACCEPT_ENCODING);
            repeat = if repeat == Repeat::Never && !asked.is_repeat { Repeat::Safe } else { repeat };
        }
        let most = if affair.question.is_some() {
            MOST_CONTEXT_BYTES
        } else if repeat == Repeat::Never {
            0
        } else {
            home.site.config.limits.body_replay_bytes as usize
        };
        let tape = tape(home, body, most);
        Running::begin(affair, asked, repeat, tape)
    }
}

impl Running {
    /// Starts the call; what is left of its body is on the tape.
    pub(crate) fn begin(affair: Affair, asked: Asked, repeat: Repeat, tape: Option<Rc<Tape>>) -> Self {
        let home = &affair.ledger.client.home;
        let (now, route, upstream) = (home.clock().now(), affair.way.route, affair.way.upstream);
        let start = Start { deadline: affair.deadline, repeat, seed: home.ids.borrow_mut().draw() };
        let commons = &home.service(upstream).commons;
        let call = Call::start(home.plan(route), now, start, &mut { commons });
        let key = standing::together(upstream, &asked, &affair.ledger.client);
        let wish = choice::Wish::new(key, repeat != Repeat::Never, affair.asking.criticality);
        let outgoing = Outgoing::new(home, upstream, asked, affair.asking.criticality);
        let driver = Driver::new(home.clone(), upstream, call, outgoing, tape, wish);
        Self { affair, driver, repeat }
    }
}

impl Affair {
    /// Waits until the rates and every door have let the call in.
    pub(crate) async fn enter(&mut self) -> Result<(), Rejection> {
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

    /// Answers with a problem.
    pub(crate) fn refuse(self, problem: &keyed::Problem) -> Response<Download> {
        let own =
            Problem { status: problem.status, detail: &problem.detail, retry_after: problem.retry_after };
        self.manner.refuse(self.ledger, &own, self.why)
    }

    /// Notes what was decided about the whole call.
    pub(crate) fn note(&mut self, what: What) {
        let now = self.ledger.client.home.clock().now();
        self.why.note(now.since(self.ledger.started), 0, what);
    }
}

/// What `body` brings, of which up to `kept` bytes are kept.
pub(crate) fn tape(home: &Rc<Worker>, body: Option<Incoming>, kept: usize) -> Option<Rc<Tape>> {
    let body = body?;
    (!body.is_end_stream()).then(|| Tape::new(home.clone(), body, kept))
}

impl Running {
    /// The answer to the client.
    pub(crate) async fn finish(self, ending: Ending) -> Response<Download> {
        let Self { mut affair, driver, repeat } = self;
        affair.ledger.attempts = driver.attempts();
        affair.why.extend(driver.why());
        if let Some(question) = affair.question.take() {
            affair.ledger.outcome = driver.last;
            let (_, tape) = driver.spare();
            return Box::pin(Flagged { affair, question, tape }.answer(ending)).await;
        }
        match ending {
            Ending::Answer(answer, leg) if affair.manner.takes(&answer) => {
                let Affair { ledger, way, mut kept, manner, why, .. } = affair;
                if leg.outcome == Outcome::Success {
                    ledger.client.home.site.routes[way.route].degraded.over();
                }
                let (status, headers) = (answer.parts.status, &answer.parts.headers);
                let good = kept.as_mut().and_then(|kept| kept.still_good(status, headers));
                let recorder =
                    kept.filter(|_| good.is_none()).and_then(|kept| kept.recorder(status, headers));
                let forwarded = manner.forwarded(ledger, answer, leg, why, recorder).await;
                // The upstream's 304 was for us.
                good.map_or(forwarded, |good| good.map(Download::own))
            }
            Ending::Fallback => {
                affair.ledger.outcome = driver.last;
                let (outgoing, tape) = driver.spare();
                let elsewhere = !affair.once && (repeat == Repeat::Safe || driver.is_undone());
                Box::pin(Instead { affair, outgoing, tape, elsewhere, ending }.answer()).await
            }
            other => affair.manner.conclude(affair.ledger, &other, affair.why),
        }
    }
}

/// What the call asks a flag service, if it does.
fn question(home: &Worker, way: Way, asked: &Asked) -> Option<Question> {
    let flags = home.site.routes[way.route].flags.as_ref()?;
    flags.is_ofrep(&asked.method, asked.path(), &asked.headers)
}

/// Whether the request may be sent more than once. One that is another hop's second attempt is not: the hop before us
/// retries, and two hops of three attempts each would make nine.
pub(crate) fn repeat(home: &Worker, route: usize, asked: &Asked) -> Repeat {
    if asked.is_repeat || asked.upgrade {
        return Repeat::Never;
    }
    match home.site.config.routes[route].repeatable {
        Repeatable::Auto => Http::request(&asked.method, &asked.headers),
        Repeatable::Always => Repeat::Safe,
        Repeatable::Never => Repeat::Never,
    }
}
