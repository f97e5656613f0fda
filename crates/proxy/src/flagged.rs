//! A question to a flag service: its answer is remembered, and while it has none, what is remembered or declared answers.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use hyper::body::Body;

use crate::call::Affair;
use crate::download::Download;
use crate::driver::Ending;
use crate::entrance::Way;
use crate::flags::{FlagRoute, Lesson, MOST_ANSWER_BYTES, Question, Which};
use crate::instead::{mark, reason};
use crate::tally::Degraded;
use crate::tape::Tape;
use crate::worker::Worker;

/// A question to a flag service that has had its turn.
pub(crate) struct Flagged {
    pub affair: Affair,
    pub question: Question,
    pub tape: Option<Rc<Tape>>,
}

impl Flagged {
    /// The service's answer, or what stands in for it.
    pub(crate) async fn answer(self, ending: Ending) -> Response<Download> {
        let Self { affair: Affair { mut ledger, way, manner, why, .. }, question, tape } = self;
        let home = ledger.client.home.clone();
        let Some(flags) = &home.site.routes[way.route].flags else {
            return manner.conclude(ledger, &ending, why);
        };
        let context = match &tape {
            Some(tape) => tape.whole().await,
            None => Some(Bytes::new()),
        };
        // What was asked is not known: it broke off, or is longer than any context.
        let Some(context) = context else { return manner.conclude(ledger, &ending, why) };
        let stands_in = StandsIn { home: &home, way, flags, question: &question, context: &context };
        let Ending::Answer(answer, leg) = ending else {
            let response = stands_in.response(&reason(&why));
            ledger.degraded = Some(Degraded::Flags);
            return manner.own(ledger, response, why);
        };
        let is_plain = !answer.parts.headers.contains_key(header::CONTENT_ENCODING);
        let (parts, body) = manner.forwarded(ledger, answer, leg, why, None).await.into_parts();
        let Some(body) = read(body).await else {
            return stands_in.response("the flag service's answer broke off").map(Download::own);
        };
        let lesson =
            if is_plain { flags.learn(&question, &context, parts.status, &body) } else { Lesson::Forward };
        match lesson {
            Lesson::Forward => {
                home.site.routes[way.route].degraded.over();
                Response::from_parts(parts, Download::own(body))
            }
            Lesson::FallBack(word) => {
                stands_in.response(&format!("the flag service's answer is none: {word}")).map(Download::own)
            }
        }
    }
}

/// What is known without the service.
struct StandsIn<'a> {
    home: &'a Worker,
    way: Way,
    flags: &'a FlagRoute,
    question: &'a Question,
    context: &'a [u8],
}

impl StandsIn<'_> {
    fn response(&self, reason: &str) -> Response<Bytes> {
        let fallen = self.flags.fall_back(self.question, self.context, reason);
        let mut response = Response::new(Bytes::from(fallen.body.to_string()));
        *response.status_mut() = fallen.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if fallen.which != Which::Error {
            let since = self.home.site.routes[self.way.route].degraded.begin();
            mark(headers, Degraded::Flags.name(), reason, fallen.since.unwrap_or(since));
            self.home.tally.routes[self.way.route].degraded[Degraded::Flags as usize].add(1);
        }
        response
    }
}

/// The whole of an answer; `None` if it breaks off, or is longer than the answers that are remembered.
async fn read(mut body: Download) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            if whole.len() + data.len() > MOST_ANSWER_BYTES {
                return None;
            }
            whole.extend_from_slice(&data);
        }
    }
    Some(whole.freeze())
}
