//! One request with a key, from its body's end to its answer.
//!
//! It runs in a task of its own: a client that goes away takes its connection along, but not the operation that it has asked
//! for, whose result is what it will ask for next.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Body as _;
use seaworthy::idempotency::http::{FENCING_TOKEN, Head, IDEMPOTENT_REPLAYED, Problem};
use seaworthy::idempotency::store::{CHUNK_BYTES, Settled};
use seaworthy::idempotency::{
    Answer, Begun, Key, OnUnknown, Phase, Replay, Running as Claim, StoreError, Unsettled, WhenDown,
};
use seaworthy_core::Why;
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
use crate::task::timed;
use crate::worker::Worker;

impl Arrived {
    /// The answer to a request that is to be carried out once under `key`.
    pub(crate) async fn once(mut self, key: Key) -> Response<Download> {
        if let Err(rejection) = self.affair.enter().await {
            return self.refused(rejection).await;
        }
        let Self { affair, asked, body } = self;
        let home = affair.ledger.client.home.clone();
        let route = affair.way.route;
        let Some(rules) = &home.site.routes[route].keys else {
            // It was there when the key was read.
            return affair.refuse(&Problem::unsettled());
        };
        let most = usize::try_from(rules.request_bytes).unwrap_or(usize::MAX);
        let tape = tape(&home, body, most);
        let mut print = rules.print(&asked);
        if let Some(tape) = &tape {
            tape.fill().await;
            if !tape.is_whole() {
                return unread(affair, tape, rules);
            }
            tape.show(|piece| print.body(piece));
        }
        let id = RouteKeys::id(&home, route, &asked, &affair.ledger.client, &key);
        // Here and not in the task: who leaves while another runs under its key has begun nothing, and begins nothing later.
        let begun = rules.keys.begin(&id, print.finish()).await;
        let once = Once { home: home.clone(), affair, asked, tape };
        let claim = match begun {
            Ok(Begun::First(claim)) => Some(claim),
            Ok(Begun::Unrecorded(_)) => None,
            Ok(Begun::Replay(replay)) => return once.replay(&replay),
            Err(refusal) => return once.affair.refuse(&Problem::of(&refusal)),
        };
        let (tell, told) = oneshot::channel();
        let (stay, request) = (Stay::with(&home), once.asked.id.clone());
        tokio::task::spawn_local(timed(home.clone(), async move {
            // Who is gone needs no answer.
            let _unheard = tell.send(once.carry_out(claim).await);
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

/// The answer to a request whose body can't be had.
fn unread(affair: Affair, tape: &Tape, rules: &RouteKeys) -> Response<Download> {
    let ending = if tape.is_too_long() {
        Ending::TooLong
    } else if tape.is_broken() {
        Ending::ClientBroke
    } else if tape.is_spent() {
        return affair.refuse(&Problem::too_long(rules.request_bytes));
    } else {
        Ending::ClientStalled
    };
    affair.manner.conclude(affair.ledger, &ending, affair.why)
}

/// A request with a key, whole.
struct Once {
    home: Rc<Worker>,
    affair: Affair,
    asked: Asked,
    tape: Option<Rc<Tape>>,
}

impl Once {
    async fn carry_out(mut self, claim: Option<Claim>) -> Response<Download> {
        let home = self.home.clone();
        let route = self.affair.way.route;
        let Some(rules) = &home.site.routes[route].keys else {
            return self.affair.refuse(&Problem::unsettled());
        };
        let Some(claim) = claim else {
            let mut running = self.start(rules);
            let ending = running.driver.run().await;
            return running.finish(ending).await;
        };
        self.asked.headers.insert(FENCING_TOKEN, HeaderValue::from(claim.token().0));
        let affair = &mut self.affair;
        affair.ledger.claim = Some(Claimed { token: claim.token(), replayed: false });
        affair.deadline = affair.deadline.into_iter().chain([claim.until()]).min();
        let mut running = self.start(rules);
        let ending = running.driver.run().await;
        match ending {
            Ending::Answer(answer, leg) if rules.keeps(&answer, &running.affair.manner) => {
                Keeping { home: &home, rules, claim }.answer(running, answer, leg).await
            }
            ending => {
                let settled = rules.settled(&running.driver);
                // A store that does not hear it now is told later.
                let _unheard = claim.settle(settled).await;
                running.finish(ending).await
            }
        }
    }

    fn start(self, rules: &RouteKeys) -> Running {
        let Self { home, affair, asked, tape } = self;
        let repeat = rules.repeat(repeat(&home, affair.way.route, &asked));
        Running::begin(affair, asked, repeat, tape)
    }

    fn replay(self, replay: &Replay) -> Response<Download> {
        let kept = replay.answer();
        let Some(head) = Head::decode(&kept.head) else {
            let error = StoreError::Corrupt("what was kept is no answer".to_owned());
            return self.affair.refuse(&Problem::unreadable(&error));
        };
        let Affair { mut ledger, manner, why, .. } = self.affair;
        ledger.claim = Some(Claimed { token: replay.token(), replayed: true });
        let mut response = if head.whole {
            let body =
                Kept::body(kept.body.clone(), replay.pieces().clone(), kept.chunks, Some(head.length), None);
            let mut response = Response::new(body);
            *response.status_mut() = head.status;
            *response.headers_mut() = head.headers;
            manner.given(ledger, response, why)
        } else {
            let mut response = manner.refuse(ledger, &told(&Problem::not_kept(&head)), why);
            // Where the result is says more than that it is somewhere.
            for (name, value) in &head.headers {
                response.headers_mut().entry(name).or_insert_with(|| value.clone());
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
    home: &'a Worker,
    rules: &'a RouteKeys,
    claim: Claim,
}

impl Keeping<'_> {
    async fn answer(self, running: Running, answer: Box<attempt::Answer>, leg: Leg) -> Response<Download> {
        let Self { home, rules, claim } = self;
        let Running { affair: Affair { mut ledger, way, manner, mut why, .. }, driver } = running;
        ledger.attempts = driver.attempts();
        why.extend(driver.why());
        home.site.routes[way.route].degraded.over();
        let mut head = Head::of(answer.parts.status, &answer.parts.headers, &rules.replayed);
        let (parts, body) = manner.forwarded(ledger, answer, leg, why, None).await.into_parts();
        let mut reader = Reader::new(body);
        let pieces = claim.pieces();
        let read = reader.read(&claim, rules.answer_bytes).await;
        head.length = reader.length;
        head.whole = read == Read::Whole;
        let settled = match read {
            Read::Whole | Read::TooLong => claim.settle(Settled::Done(reader.kept(&mut head))).await,
            Read::Unheard => {
                // Nobody will see it. An upstream that knows keys is asked again; of any other it is to be known that it has
                // carried it out.
                let _unheard = claim
                    .settle(match rules.keys.config().on_unknown {
                        OnUnknown::Retry => Settled::Unknown,
                        OnUnknown::Refuse => Settled::Done(reader.kept(&mut head)),
                    })
                    .await;
                Err(Unsettled::Down(StoreError::Down("a piece of the answer could not be kept".to_owned())))
            }
            Read::Broke => {
                let _unheard = claim.settle(Settled::Unknown).await;
                let broke = Told::new(StatusCode::BAD_GATEWAY, "the upstream's answer broke off");
                return manner.problem(&broke, &Why::new());
            }
        };
        let allowed = rules.keys.config().when_down == WhenDown::Allow && read != Read::Unheard;
        match settled {
            Ok(()) => reader.forwarded(parts, pieces),
            Err(Unsettled::Down(_)) if allowed => reader.forwarded(parts, pieces),
            Err(_) => manner.problem(&told(&Problem::unsettled()), &Why::new()),
        }
    }
}

/// Reads an answer's body into the store.
struct Reader {
    body: Download,
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
    /// It is longer than what is kept, and was not read further.
    TooLong,
    /// The upstream broke off.
    Broke,
    /// The store did not take it.
    Unheard,
}

impl Reader {
    fn new(body: Download) -> Self {
        Self { body, front: None, pieces: 0, last: BytesMut::new(), length: 0, ended: false }
    }

    async fn read(&mut self, claim: &Claim, most: u64) -> Read {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
            let Ok(frame) = frame else { return Read::Broke };
            // Trailers are not kept, and so not passed on either: a replay is to be the same.
            let Ok(data) = frame.into_data() else { continue };
            self.length += data.len() as u64;
            self.last.extend_from_slice(&data);
            if self.length > most {
                return Read::TooLong;
            }
            while self.last.len() > CHUNK_BYTES {
                let piece = self.last.split_to(CHUNK_BYTES).freeze();
                if self.put(claim, piece).await.is_err() {
                    return Read::Unheard;
                }
            }
        }
        self.ended = true;
        let last = std::mem::take(&mut self.last).freeze();
        if self.put(claim, last).await.is_err() { Read::Unheard } else { Read::Whole }
    }

    async fn put(&mut self, claim: &Claim, piece: Bytes) -> Result<(), Unsettled> {
        if self.front.is_none() {
            self.front = Some(piece);
            return Ok(());
        }
        claim.put_chunk(self.pieces, piece).await?;
        self.pieces += 1;
        Ok(())
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
    fn forwarded(self, parts: Parts, pieces: seaworthy::idempotency::Pieces) -> Response<Download> {
        let front = self.front.unwrap_or_default();
        let body = if self.ended && self.pieces == 0 {
            Download::own(front)
        } else {
            let rest = Rest { seen: self.last.freeze(), body: Box::new(self.body) };
            let length = self.ended.then_some(self.length);
            Kept::body(front, pieces, self.pieces, length, (!self.ended).then_some(rest))
        };
        Response::from_parts(parts, body)
    }
}

fn told(problem: &Problem) -> Told<'_> {
    Told { status: problem.status, detail: &problem.detail, retry_after: problem.retry_after }
}
