//! What a route answers with when its upstream has no answer: each of what it has instead, in its order, until one serves.
//!
//! An answer from here always says so: in a header (what it is, why, and since when the route has had no other), in the log
//! and in the metrics. For the caller it is a success, for the upstream the failure was counted already.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use seaworthy::clock::{self, rfc3339};
use seaworthy_config::{Degrade, Substitute};
use seaworthy_core::call::{Call, Plan, Repeat, Start};
use seaworthy_core::{What, Why};

use crate::answer::fixed;
use crate::attempt::Answer;
use crate::call::Affair;
use crate::choice::Wish;
use crate::download::Download;
use crate::driver::{Driver, Ending};
use crate::entrance::Way;
use crate::ledger::Leg;
use crate::names;
use crate::outgoing::Outgoing;
use crate::tally::Degraded;
use crate::tape::Tape;
use crate::task::HasClock;

/// A call whose upstream has no answer.
pub(crate) struct Instead {
    pub affair: Affair,
    /// What was asked for.
    pub outgoing: Outgoing,
    pub tape: Option<Rc<Tape>>,
    /// Whether another upstream may be asked: none has done it already, or that does no harm.
    pub elsewhere: bool,
    /// How it ends if there is nothing.
    pub ending: Ending,
}

/// What serves instead.
enum Found {
    /// An answer that is there at once.
    Own(Response<Bytes>),
    /// Another upstream's answer.
    Answer(Box<Answer>, Leg),
}

impl Instead {
    /// The first answer that the route has; if it has none, an honest error.
    pub(crate) async fn answer(mut self) -> Response<Download> {
        let home = self.affair.ledger.client.home.clone();
        let route = self.affair.way.route;
        let reason = reason(&self.affair.why);
        let since = home.site.routes[route].degraded.begin();
        for degrade in &home.site.config.routes[route].degrade {
            let (kind, found) = match degrade {
                Degrade::Stale(_) => {
                    let stale = self.affair.kept.as_ref().and_then(|kept| kept.on_error(&reason));
                    (Degraded::Stale, stale.map(Found::Own))
                }
                Degrade::Upstream(substitute) => (Degraded::Upstream, self.substitute(substitute).await),
                Degrade::Static(answer) => {
                    (Degraded::Static, Some(Found::Own(fixed(answer, &home.site.routes[route].words))))
                }
            };
            let Some(mut found) = found else { continue };
            home.tally.routes[route].degraded[kind as usize].add(1);
            // What was kept says by itself since when it is out of date.
            if kind != Degraded::Stale {
                mark(found.headers(), kind.name(), &reason, since);
            }
            let mut affair = self.affair;
            affair.ledger.degraded = Some(kind);
            if affair.why.notes().last().is_none_or(|last| last.what != What::FellBack) {
                affair.note(What::FellBack);
            }
            return answered(affair, found).await;
        }
        let Affair { ledger, manner, why, .. } = self.affair;
        manner.conclude(ledger, &self.ending, why)
    }

    /// Another upstream's answer, if it has a good one.
    async fn substitute(&mut self, substitute: &Substitute) -> Option<Found> {
        // A body that is gone can't be sent to anybody else.
        if !self.elsewhere || self.tape.as_ref().is_some_and(|tape| !tape.can_restart()) {
            return None;
        }
        let Affair { ledger, way, asking, patience, why, .. } = &mut self.affair;
        let (home, upstream) = (ledger.client.home.clone(), substitute.upstream);
        ledger.turn(Way { upstream, ..*way }, *asking, why).await.ok()?;
        let (commons, config) = (&home.service(upstream).commons, &home.site.config.upstreams[upstream]);
        let start = Start {
            // Its own time: what the route had is spent. The caller's is not ours to spend.
            deadline: patience.map(|patience| ledger.started.plus(patience)),
            repeat: Repeat::Never,
            seed: home.ids.borrow_mut().draw(),
        };
        let call = Call::start(Plan::new(&config.call), home.clock().now(), start, &mut { commons });
        let outgoing = self.outgoing.again(upstream, substitute.path.as_deref());
        let wish = Wish::new(None, false, asking.criticality);
        let mut driver = Driver::new(home.clone(), upstream, call, outgoing, self.tape.clone(), wish);
        let ending = driver.run().await;
        why.extend(driver.why());
        ledger.attempts = ledger.attempts.saturating_add(driver.attempts());
        match ending {
            Ending::Answer(answer, leg) if answer.parts.status.is_success() => {
                Some(Found::Answer(answer, leg))
            }
            _ => None,
        }
    }
}

impl Found {
    fn headers(&mut self) -> &mut HeaderMap {
        match self {
            Self::Own(response) => response.headers_mut(),
            Self::Answer(answer, _) => &mut answer.parts.headers,
        }
    }
}

async fn answered(affair: Affair, found: Found) -> Response<Download> {
    let Affair { ledger, manner, why, .. } = affair;
    match found {
        Found::Own(response) => manner.own(ledger, response, why),
        Found::Answer(answer, leg) => manner.forwarded(ledger, answer, leg, why, None).await,
    }
}

/// Since when a route has had no answer of its upstream's.
#[derive(Debug, Default)]
pub(crate) struct Since(AtomicU64);

impl Since {
    /// The upstream has no answer. Since when, since 1970.
    pub(crate) fn begin(&self) -> Duration {
        let now_ms = u64::try_from(clock::wall().as_millis()).unwrap_or(u64::MAX).max(1);
        let since = self.0.compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        Duration::from_millis(since.err().unwrap_or(now_ms))
    }

    /// The upstream has answered well.
    pub(crate) fn over(&self) {
        // Written only if it changes anything: the line is shared by all workers.
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// Since when, as people read it, if it is.
    pub(crate) fn shown(&self) -> Option<String> {
        let since = self.0.load(Ordering::Relaxed);
        (since != 0).then(|| rfc3339(Duration::from_millis(since)))
    }
}

/// Says that an answer is not the upstream's own: what it is, why, and since when the route has had none.
pub(crate) fn mark(headers: &mut HeaderMap, kind: &str, reason: &str, since: Duration) {
    let text = format!("{kind}; reason=\"{reason}\"; since=\"{}\"", rfc3339(since));
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(names::DEGRADED, value);
    }
}

/// What went wrong last, in the words of a quoted string (RFC 9651, section 3.3.3).
pub(crate) fn reason(why: &Why) -> String {
    let decides = |what: &What| !matches!(what, What::FellBack | What::NotRetried(_) | What::NotHedged(_));
    let last = why.notes().iter().rev().find(|note| decides(&note.what));
    let mut text = last.map_or_else(|| "the upstream has no answer".to_owned(), |note| note.what.to_string());
    text.retain(|c| (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\');
    text
}
