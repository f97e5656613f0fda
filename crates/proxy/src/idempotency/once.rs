//! One request with a key, from its body's end to its answer.
//!
//! What it asks for is carried out in a task of its own: a client that goes away takes its connection along, but not the operation
//! that it has asked for, whose result is what it will ask for next.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Body as _;
use seaworthy::idempotency::http::{FENCING_TOKEN, Head, IDEMPOTENT_REPLAYED, Problem};
use seaworthy::idempotency::store::{CHUNK_BYTES, Settled};
use seaworthy::idempotency::{
    Answer, Begun, Key, Phase, Pieces, Replay, Running as Claim, StoreError, Unsettled, WhenDown,
};
use seaworthy_core::{Instant, What, Why};
use tokio::sync::oneshot;

use super::body::{Kept, Rest};
use super::{RouteKeys, Stay};
use crate::answer::Problem as Told;
use crate::attempt;
use crate::call::{Affair, Arrived, Running, repeat, tape};
use crate::download::Download;
use crate::driver::{Driver, Ending};
use crate::head::Asked;
use crate::ledger::{Claimed, Leg};
use crate::manner::Manner;
use crate::tape::Tape;
use crate::task::{HasClock, timed};
use crate::worker::Worker;

impl Arrived {
    /// The answer to a request that is to be carried out once under `key`.
    pub(crate) async fn once(mut self, rules: Arc<RouteKeys>, key: Key) -> Response<Download> {
        self.affair.once = true;
        if let Err(rejection) = self.affair.enter().await {
            return self.refused(rejection).await;
        }
        let Self { affair, asked, body } = self;
        let home = affair.ledger.client.home.clone();
        let most = usize::try_from(rules.request_bytes).unwrap_or(usize::MAX);
        let tape = tape(&home, body, most);
        let mut print = rules.print(&asked);
        if let Some(tape) = &tape {
            tape.fill(affair.deadline).await;
            if !tape.is_whole() {
                return unread(affair, tape, &rules);
            }
            tape.show(|piece| print.body(piece));
        }
        let id = RouteKeys::id(&home, affair.way.route, &asked, &affair.ledger.client, &key);
        // Here and not in the task: who leaves while another runs under its key has begun nothing, and begins nothing later.
        let begin = rules.keys.begin(&id, print.finish());
        let Some(begun) = by(&home, affair.deadline, begin).await else { return late(affair) };
        let once = Once { home: home.clone(), rules, affair, asked, tape };
        let claim = match begun {
            Ok(Begun::First(claim)) => Some(claim),
            Ok(Begun::Unrecorded(_)) => None,
            Ok(Begun::Replay(replay)) => return once.replay(&replay),
            Err(refusal) => return once.affair.refuse(&Problem::of(&refusal)),
        };
        let (tell, told) = oneshot::channel();
        let (stay, request) = (Stay::with(&home), once.asked.id.clone());
        tokio::task::spawn_local(timed(home.clone(), async move {
            let answer = match claim {
                Some(claim) => once.carry_out(claim).await,
                None => once.carry_out_unrecorded().await,
            };
            // Who is gone needs no answer.
            let _unheard = tell.send(answer);
            drop(stay);
        }));
        told.await.unwrap_or_else(|_| {
            Told::new(StatusCode::SERVICE_UNAVAILABLE, "the proxy is stopping").answer(
                false,
                &request,
                &Why::new(),
            )
        })
    }
}

/// What `future` gives, unless the deadline is earlier.
async fn by<F: Future>(home: &Worker, deadline: Option<Instant>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(given) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(given));
        }
        let Some(deadline) = deadline else { return Poll::Pending };
        if deadline <= home.clock().now() {
            return Poll::Ready(None);
        }
        home.clock().wake_by(deadline);
        Poll::Pending
    })
    .await
}

/// The answer to a request that was not begun before its deadline.
fn late(mut affair: Affair) -> Response<Download> {
    affair.note(What::DeadlinePassed);
    let problem = Told::new(StatusCode::GATEWAY_TIMEOUT, "the deadline passed before the request was begun");
    affair.manner.refuse(affair.ledger, &problem, affair.why)
}

/// The answer to a request whose body can't be had.
fn unread(affair: Affair, tape: &Tape, rules: &RouteKeys) -> Response<Download> {
    let now = affair.ledger.client.home.clock().now();
    let ending = if tape.is_too_long() {
        Ending::TooLong
    } else if tape.is_broken() {
        Ending::ClientBroke
    } else if tape.is_spent() {
        return affair.refuse(&Problem::too_long(rules.request_bytes));
    } else if affair.deadline.is_some_and(|deadline| deadline <= now) {
        return late(affair);
    } else {
        Ending::ClientStalled
    };
    affair.manner.conclude(affair.ledger, &ending, affair.why)
}

/// A request with a key, whole.
struct Once {
    home: Rc<Worker>,
    rules: Arc<RouteKeys>,
    affair: Affair,
    asked: Asked,
    tape: Option<Rc<Tape>>,
}

impl Once {
    async fn carry_out(mut self, claim: Claim) -> Response<Download> {
        let rules = self.rules.clone();
        self.asked.headers.insert(FENCING_TOKEN, HeaderValue::from(claim.token().0));
        let affair = &mut self.affair;
        affair.ledger.claim = Some(Claimed::Now(claim.token()));
        affair.deadline = affair.deadline.into_iter().chain([claim.stop_at()]).min();
        let mut running = self.start();
        let ending = running.driver.run().await;
        match ending {
            Ending::Answer(answer, leg) if rules.keeps(&answer, &running.affair.manner) => {
                Keeping { rules: &rules, claim }.answer(running, answer, leg).await
            }
            ending => {
                let settled = rules.settled(&running.driver);
                // A store that does not hear it now is told later.
                let _unheard = claim.settle(settled).await;
                running.finish(ending).await
            }
        }
    }

    /// Carries it out though nobody will remember it.
    async fn carry_out_unrecorded(mut self) -> Response<Download> {
        self.affair.ledger.claim = Some(Claimed::Unrecorded);
        let mut running = self.start();
        let ending = running.driver.run().await;
        running.finish(ending).await
    }

    fn start(self) -> Running {
        let Self { home, rules, affair, asked, tape } = self;
        let repeat = rules.repeat(repeat(&home, affair.way.route, &asked));
        Running::begin(affair, asked, repeat, tape)
    }

    fn replay(self, replay: &Replay) -> Response<Download> {
        let kept = replay.answer();
        let Some(head) = Head::decode(&kept.head) else {
            let error = StoreError::Corrupt("what was kept is no answer".to_owned());
            return self.affair.refuse(&Problem::unreadable(&error));
        };
        let mut affair = self.affair;
        affair.note(What::Replayed);
        let Affair { mut ledger, manner, why, .. } = affair;
        ledger.claim = Some(Claimed::Before(replay.token()));
        let mut response = if head.whole {
            let body =
                Kept::body(kept.body.clone(), replay.pieces().clone(), kept.chunks, Some(head.length), None);
            let mut response = Response::new(body);
            *response.status_mut() = head.status;
            *response.headers_mut() = head.headers;
            manner.given(ledger, response, why)
        } else {
            let mut response = manner.refuse(ledger, &told(&Problem::not_kept(&head)), why);
            // Where the result is says more than that it is somewhere; the rest described the body that is not there.
            for (name, value) in head.pointers() {
                response.headers_mut().append(name, value.clone());
            }
            response
        };
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

impl RouteKeys {
    fn keeps(&self, answer: &attempt::Answer, manner: &Manner) -> bool {
        manner.takes(answer) && self.keep.keeps(answer.parts.status)
    }

    /// How an operation ends whose answer is not kept.
    fn settled(&self, driver: &Driver) -> Settled {
        let said = driver.said.map(|status| self.keep.settles(status));
        match said {
            _ if driver.in_doubt => Settled::Unknown,
            // What would have been kept was answered, and something else is answered in its place.
            Some(Phase::Done | Phase::Unknown) => Settled::Unknown,
            _ => Settled::Free,
        }
    }
}

/// An operation that was answered, and whose answer is to be kept before anybody hears of it.
struct Keeping<'a> {
    rules: &'a RouteKeys,
    claim: Claim,
}

impl Keeping<'_> {
    async fn answer(self, running: Running, answer: Box<attempt::Answer>, leg: Leg) -> Response<Download> {
        let Self { rules, claim } = self;
        let Running { affair: Affair { mut ledger, way, deadline, manner, mut why, .. }, driver, .. } =
            running;
        let home = ledger.client.home.clone();
        ledger.attempts = driver.attempts();
        why.extend(driver.why());
        home.site.routes[way.route].degraded.over();
        let mut head = Head::of(answer.parts.status, &answer.parts.headers, &rules.replayed);
        let announced = answer.body.size_hint().exact();
        // What the client gets is not known before the store has answered too.
        ledger.hold();
        let (parts, body) = manner.forwarded(ledger, answer, leg, why, None).await.into_parts();
        let mut reader = Reader::new(home, body, deadline);
        let pieces = claim.pieces();
        let read = reader.read(&claim, rules.answer_bytes).await;
        head.length = announced.unwrap_or(reader.length);
        head.whole = read == Read::Whole;
        let settled = match read {
            Read::Whole | Read::Cut => claim.settle(Settled::Done(reader.kept(&mut head))).await,
            Read::Broke => {
                let _unheard = claim.settle(Settled::Unknown).await;
                let broke = Told::new(StatusCode::BAD_GATEWAY, "the upstream's answer broke off");
                return reader.refuse(&manner, &broke);
            }
        };
        let allowed = rules.keys.config().when_down == WhenDown::Allow;
        match settled {
            Ok(()) => reader.forwarded(parts, pieces),
            Err(Unsettled::Down(_)) if allowed => reader.forwarded(parts, pieces),
            Err(why) => reader.refuse(&manner, &told(&Problem::of_unsettled(&why))),
        }
    }
}

/// Reads an answer's body into the store.
struct Reader {
    home: Rc<Worker>,
    body: Download,
    /// What has not come by then is not kept: others may take the lease for over.
    until: Option<Instant>,
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
    /// It is longer than what is kept, takes longer than its call may, or the store did not take it in that time, and it was not read
    /// further.
    Cut,
    /// The upstream broke off.
    Broke,
}

impl Reader {
    fn new(home: Rc<Worker>, body: Download, until: Option<Instant>) -> Self {
        let last = BytesMut::new();
        Self { home, body, until, front: None, pieces: 0, last, length: 0, ended: false }
    }

    async fn read(&mut self, claim: &Claim, most: u64) -> Read {
        loop {
            let body = &mut self.body;
            let next = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
            let frame = match by(&self.home, self.until, next).await {
                None => return Read::Cut,
                Some(None) => break,
                Some(Some(Err(_))) => return Read::Broke,
                Some(Some(Ok(frame))) => frame,
            };
            // Trailers are not kept, and so not passed on either: a replay is to be the same.
            let Ok(data) = frame.into_data() else { continue };
            self.length += data.len() as u64;
            self.last.extend_from_slice(&data);
            // One that never ends is always ready.
            if self.length > most || self.until.is_some_and(|until| until <= self.home.clock().now()) {
                return Read::Cut;
            }
            while self.last.len() > CHUNK_BYTES {
                let piece = self.last.split_to(CHUNK_BYTES).freeze();
                if self.put(claim, piece).await.is_err() {
                    return Read::Cut;
                }
            }
        }
        self.ended = true;
        let last = std::mem::take(&mut self.last).freeze();
        if self.put(claim, last).await.is_err() { Read::Cut } else { Read::Whole }
    }

    async fn put(&mut self, claim: &Claim, piece: Bytes) -> Result<(), Unsettled> {
        if self.front.is_none() {
            self.front = Some(piece);
            return Ok(());
        }
        let by = self.until.unwrap_or_else(|| claim.stop_at());
        let put = claim.put_by(by, self.pieces, piece.clone()).await;
        if put.is_ok() {
            self.pieces += 1;
        } else {
            // The client is to have it nevertheless.
            let after = std::mem::replace(&mut self.last, BytesMut::from(piece));
            self.last.unsplit(after);
        }
        put
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
    fn forwarded(mut self, mut parts: Parts, pieces: Pieces) -> Response<Download> {
        // What it announces is not passed on.
        parts.headers.remove(header::TRAILER);
        self.body.let_go();
        let front = self.front.unwrap_or_default();
        let is_kept = self.ended && self.last.is_empty();
        let body = if is_kept && self.pieces == 0 {
            Download::own(front)
        } else {
            let rest = Rest { seen: self.last.freeze(), body: Box::new(self.body) };
            let length = self.ended.then_some(self.length);
            Kept::body(front, pieces, self.pieces, length, (!is_kept).then_some(rest))
        };
        Response::from_parts(parts, body)
    }

    /// A problem in the answer's place.
    fn refuse(self, manner: &Manner, problem: &Told<'_>) -> Response<Download> {
        match self.body.into_ledger() {
            Some(mut ledger) => {
                ledger.retract();
                let why = std::mem::take(&mut ledger.why);
                manner.refuse(ledger, problem, why)
            }
            // Its books were closed with it.
            None => manner.problem(problem, &Why::new()),
        }
    }
}

fn told(problem: &Problem) -> Told<'_> {
    Told { status: problem.status, detail: &problem.detail, retry_after: problem.retry_after }
}
