//! What the proxy's policies did, read from the metrics at its admin address, as any operator would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::children::{Addresses, INSTANCES, SERVICES};
use super::regions::{Recent, Spread};
use crate::client::Pool;
use crate::failure::Failure;
use crate::out::Ink;

/// What a proxy's state says, as far as the demo shows it.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) books: Books,
    /// Where the attempts went in the last two seconds.
    pub(super) lately: Spread,
    /// By service and instance; `None` while unknown.
    pub(super) breakers: [[Option<Breaker>; INSTANCES]; SERVICES.len()],
}

/// What has been counted since the proxy started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Books {
    pub(super) counters: Counters,
    pub(super) spread: Spread,
}

/// A breaker's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breaker {
    Closed,
    /// Open no more, and not trusted in full yet: probing, or ramping up.
    Recovering,
    Open,
}

/// What the policies did, in all routes and upstreams together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct Counters {
    /// Calls that came in and have ended.
    pub(super) calls: u64,
    /// Attempts at an endpoint.
    pub(super) attempts: u64,
    pub(super) retries: u64,
    pub(super) hedges: u64,
    /// Attempts that were given up because they took too long.
    pub(super) timeouts: u64,
    /// Times that a breaker opened.
    pub(super) breaker_opened: u64,
    /// Attempts that a breaker refused, most of which went to another instance instead.
    pub(super) refused_by_breakers: u64,
    /// Calls that a policy refused.
    pub(super) rejections: u64,
    /// Calls that were answered with something else than the upstream's answer.
    pub(super) instead: Instead,
}

/// What was served where an upstream had no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct Instead {
    /// The last good answer.
    pub(super) stale: u64,
    /// Another upstream's answer.
    pub(super) upstream: u64,
    /// The route's fixed answer.
    #[serde(rename = "static")]
    pub(super) fixed: u64,
    /// A flag's value as it last was, or its declared default.
    pub(super) flags: u64,
}

impl Instead {
    /// Counts answers of a kind, as the proxy names it. Whether it is one that the demo knows.
    pub(super) fn add(&mut self, with: &str, answers: u64) -> bool {
        let count = match with {
            "stale" => &mut self.stale,
            "upstream" => &mut self.upstream,
            "static" => &mut self.fixed,
            "flags" => &mut self.flags,
            _ => return false,
        };
        *count += answers;
        true
    }

    pub(super) const fn sum(self) -> u64 {
        self.stale + self.upstream + self.fixed + self.flags
    }

    fn words(self) -> String {
        let Self { stale, upstream, fixed, flags } = self;
        format!(
            "answers with a stand-in: {stale} the last good, {upstream} another's, {fixed} fixed, {flags} flags"
        )
    }

    /// What was counted after `before`.
    const fn since(self, before: Self) -> Self {
        Self {
            stale: self.stale.saturating_sub(before.stale),
            upstream: self.upstream.saturating_sub(before.upstream),
            fixed: self.fixed.saturating_sub(before.fixed),
            flags: self.flags.saturating_sub(before.flags),
        }
    }
}

impl Counters {
    /// Attempts to each call; `None` without calls.
    pub(super) fn attempts_per_call(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.attempts as f64 / self.calls as f64)
    }

    /// What was counted after `before`.
    pub(super) const fn since(self, before: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(before.calls),
            attempts: self.attempts.saturating_sub(before.attempts),
            retries: self.retries.saturating_sub(before.retries),
            hedges: self.hedges.saturating_sub(before.hedges),
            timeouts: self.timeouts.saturating_sub(before.timeouts),
            breaker_opened: self.breaker_opened.saturating_sub(before.breaker_opened),
            refused_by_breakers: self.refused_by_breakers.saturating_sub(before.refused_by_breakers),
            rejections: self.rejections.saturating_sub(before.rejections),
            instead: self.instead.since(before.instead),
        }
    }

    /// What each policy did, for people.
    pub(super) fn lines(&self, colour: bool) -> Vec<String> {
        let per_call = self
            .attempts_per_call()
            .map_or_else(String::new, |rate| format!(", {:+.1}% load", (rate - 1.0) * 100.0));
        let rows = [
            ("attempts", self.attempts, format!("for {} calls{per_call}", self.calls)),
            ("retries", self.retries, "after a failure, at another instance".to_owned()),
            ("hedges", self.hedges, "beside an attempt that was late, at another instance".to_owned()),
            ("timeouts", self.timeouts, "attempts given up, most after a learned time".to_owned()),
            (
                "breakers",
                self.breaker_opened,
                format!("times opened; {} attempts spared", self.refused_by_breakers),
            ),
            ("rejections", self.rejections, "calls refused".to_owned()),
            ("degraded", self.instead.sum(), self.instead.words()),
        ];
        let mut lines = vec![Ink::Strong.on(colour, "  what Seaworthy did")];
        lines.extend(
            rows.into_iter().map(|(name, count, what)| {
                format!("  {name:<12}{count:>8}   {}", Ink::Quiet.on(colour, &what))
            }),
        );
        lines
    }
}

/// Reads the proxy's state.
#[derive(Clone)]
pub(super) struct Watcher {
    admin: Arc<Pool>,
    shop: Addresses,
}

impl Watcher {
    pub(super) fn new(admin: SocketAddr, shop: Addresses) -> Self {
        Self { admin: Arc::new(Pool::new(admin)), shop }
    }

    /// Publishes the state again and again.
    pub(super) async fn follow(self, publish: watch::Sender<State>) {
        let mut recent = Recent::default();
        while !publish.is_closed() {
            // A state that can't be read leaves the last one standing; the counters of the result are read by
            // `books`, which says so.
            if let Ok(mut state) = self.state().await {
                state.lately = recent.note(Instant::now(), state.books.spread, LATELY);
                publish.send_replace(state);
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }

    /// The books as they are now.
    pub(super) async fn books(&self) -> Result<Books, Failure> {
        self.state().await.map(|state| state.books)
    }

    async fn state(&self) -> Result<State, Failure> {
        let get = self.admin.call(Method::GET, "/metrics", Bytes::new());
        let answer = timeout(PATIENCE, get)
            .await
            .map_err(|_| Failure::new("the proxy's admin address does not answer"))?
            .map_err(|error| Failure::because("could not read the proxy's metrics", error))?;
        if !answer.status.is_success() {
            return Err(Failure::new(format!("the proxy answers {} for its metrics", answer.status)));
        }
        let text = std::str::from_utf8(&answer.body)
            .map_err(|error| Failure::because("the proxy's metrics are no text", error))?;
        Ok(State::read(text, &self.shop))
    }
}

impl State {
    /// Reads metrics in Prometheus' text format. What the demo does not know is passed over.
    fn read(text: &str, shop: &Addresses) -> Self {
        let mut state = Self::default();
        for sample in text.lines().filter_map(Sample::read) {
            let (value, c) = (sample.value, &mut state.books.counters);
            match (sample.name, sample.label("kind"), sample.label("outcome")) {
                ("seaworthy_requests_total", ..) => c.calls += value,
                ("seaworthy_attempts_started_total", kind, _) => {
                    c.attempts += value;
                    let (upstream, region) = (sample.label("upstream"), sample.label("region"));
                    if let Some((upstream, region)) = upstream.zip(region) {
                        state.books.spread.add(upstream, region, value);
                    }
                    match kind {
                        Some("retry") => c.retries += value,
                        Some("hedge") => c.hedges += value,
                        _ => {}
                    }
                }
                ("seaworthy_attempts_total", _, Some("timeout")) => c.timeouts += value,
                ("seaworthy_breaker_opened_total", ..) => c.breaker_opened += value,
                ("seaworthy_attempts_refused_total", ..) => c.refused_by_breakers += value,
                ("seaworthy_rejected_total", ..) => c.rejections += value,
                ("seaworthy_degraded_total", ..) => {
                    c.instead.add(sample.label("with").unwrap_or_default(), value);
                }
                ("seaworthy_breaker_state", ..) if value == 1 => state.set_breaker(&sample, shop),
                _ => {}
            }
        }
        state
    }

    fn set_breaker(&mut self, sample: &Sample<'_>, shop: &Addresses) {
        let Some(endpoint) = sample.label("endpoint") else { return };
        let breaker = match sample.label("state") {
            Some("closed") => Breaker::Closed,
            Some("half_open" | "ramping") => Breaker::Recovering,
            Some("open") => Breaker::Open,
            _ => return,
        };
        for (instances, breakers) in shop.iter().zip(&mut self.breakers) {
            for (address, slot) in instances.iter().zip(breakers) {
                if address.to_string() == endpoint {
                    *slot = Some(breaker);
                }
            }
        }
    }
}

/// One line of metrics: `name{label="value",...} number`.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: u64,
}

impl<'a> Sample<'a> {
    /// `None` for comments, and for values that are no count.
    fn read(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        Some(Self { name, labels: labels.strip_suffix('}')?, value: value.parse().ok()? })
    }

    /// The value of a label. The demo's own names and addresses need no escapes.
    fn label(&self, name: &str) -> Option<&'a str> {
        let pairs = self.labels.split(',').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(key, _)| *key == name)
            .find_map(|(_, value)| value.strip_prefix('"')?.strip_suffix('"'))
    }
}

/// The live table is drawn as often.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
/// How far back the live figures look: long enough for a p99 that holds still, short enough to see a failure at once.
pub(super) const LATELY: Duration = Duration::from_secs(2);
/// The admin API is on this machine; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# HELP seaworthy_requests_total Calls.
# TYPE seaworthy_requests_total counter
seaworthy_connections 3
seaworthy_requests_total{route="catalog",status="2xx"} 40
seaworthy_requests_total{route="",status="4xx"} 2
seaworthy_attempts_started_total{upstream="catalog",endpoint="127.0.0.1:10",region="near",kind="first"} 42
seaworthy_attempts_started_total{upstream="catalog",endpoint="127.0.0.1:11",region="far",kind="retry"} 5
seaworthy_attempts_started_total{upstream="catalog",endpoint="127.0.0.1:11",region="far",kind="hedge"} 3
seaworthy_attempts_total{upstream="catalog",endpoint="127.0.0.1:11",outcome="timeout"} 4
seaworthy_attempts_total{upstream="catalog",endpoint="127.0.0.1:11",outcome="success"} 46
seaworthy_breaker_state{upstream="catalog",endpoint="127.0.0.1:10",state="closed"} 0
seaworthy_breaker_state{upstream="catalog",endpoint="127.0.0.1:10",state="open"} 1
seaworthy_breaker_state{upstream="catalog",endpoint="127.0.0.1:11",state="ramping"} 1
seaworthy_breaker_opened_total{upstream="catalog",endpoint="127.0.0.1:10"} 1
seaworthy_learned_timeout_seconds{upstream="catalog"} 0.05
seaworthy_degraded_total{route="catalog",with="stale"} 1
seaworthy_degraded_total{route="catalog",with="upstream"} 2
seaworthy_degraded_total{route="prices",with="upstream"} 4
seaworthy_degraded_total{route="catalog",with="static"} 6
seaworthy_degraded_total{route="flags",with="flags"} 3
nonsense
"#;

    #[test]
    fn metrics_become_counters_and_breakers() {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut shop: Addresses = [[local(1); INSTANCES]; SERVICES.len()];
        shop[2] = [local(9), local(10), local(11), local(12), local(13)];
        let state = State::read(METRICS, &shop);
        let expected = Counters {
            calls: 42,
            attempts: 50,
            retries: 5,
            hedges: 3,
            timeouts: 4,
            breaker_opened: 1,
            instead: Instead { stale: 1, upstream: 6, fixed: 6, flags: 3 },
            ..Counters::default()
        };
        assert_eq!(state.books.counters, expected);
        assert_eq!(state.breakers[2], [None, Some(Breaker::Open), Some(Breaker::Recovering), None, None]);
        assert_eq!(state.breakers[0], [None; INSTANCES]);
        assert_eq!(state.books.counters.since(expected), Counters::default());
        let catalog = state.books.spread.of(&[0]);
        assert_eq!((catalog.near_attempts, catalog.far_attempts), (42, 8));
    }
}
