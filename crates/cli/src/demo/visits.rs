//! A visitor who looks at the shop's page through Seaworthy, again and again, as a browser does.
//!
//! What counts is what the visitor sees: an answer that comes and is not what the page can show is as good as none, and one
//! that stands in for another counts as such only if it says so and is what was promised.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::policies::Instead;
use super::traffic::CLIENT_TIMEOUT;
use crate::client::{Answer, Pool};
use crate::out::Ink;

/// A part of the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Page,
    Recommendations,
    Prices,
    Flag,
}

/// What the visitor saw of a part.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Sight {
    /// What it should be.
    Whole,
    /// Something in its place, of this kind.
    Instead(String),
    /// Nothing to use.
    Failed,
}

/// One part, looked at once.
pub(super) struct Seen {
    part: Part,
    sight: Sight,
}

/// What was seen, by part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Visits {
    parts: [Count; Part::ALL.len()],
}

/// How often a part was seen how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Count {
    name: &'static str,
    whole: u64,
    instead: Instead,
    failed: u64,
}

impl Part {
    const ALL: [Self; 4] = [Self::Page, Self::Recommendations, Self::Prices, Self::Flag];

    const fn name(self) -> &'static str {
        match self {
            Self::Page => "the page itself",
            Self::Recommendations => "recommendations",
            Self::Prices => "price list",
            Self::Flag => "new checkout, a flag",
        }
    }

    /// What the visitor is shown in its place, where there is something.
    const fn instead(self) -> &'static str {
        match self {
            Self::Page => "the page as it was",
            Self::Recommendations => "popular items instead, else an empty list",
            Self::Prices => "the last list, and when it was updated",
            Self::Flag => "off, the cautious default",
        }
    }

    /// Asks for it as the `number`th visitor.
    async fn ask(self, pool: &Pool, number: u64) -> Sight {
        let path = match self {
            Self::Page => "/shop".to_owned(),
            Self::Recommendations => format!("/recommendations/{number}"),
            Self::Prices => "/prices/0".to_owned(),
            Self::Flag => "/ofrep/v1/evaluate/flags/new-checkout".to_owned(),
        };
        let (method, body) = match self {
            Self::Flag => {
                let asked = json!({ "context": { "targetingKey": format!("visitor-{number}") } });
                (Method::POST, Bytes::from(asked.to_string()))
            }
            _ => (Method::GET, Bytes::new()),
        };
        let call = pool.call(method, &path, body);
        match tokio::time::timeout(CLIENT_TIMEOUT, call).await {
            Ok(Ok(answer)) if answer.status.is_success() => self.sight(&answer),
            _ => Sight::Failed,
        }
    }

    /// What a good answer shows.
    fn sight(self, answer: &Answer) -> Sight {
        // `kind; reason="..."; since="..."`
        let kind = answer.degraded.as_deref().map(|mark| mark.split(';').next().unwrap_or(mark).trim());
        if !self.is_usable(&answer.body, kind) {
            return Sight::Failed;
        }
        kind.map_or(Sight::Whole, |kind| Sight::Instead(kind.to_owned()))
    }

    /// Whether the page can show `body`, which is its own or of a `kind` of stand-in.
    fn is_usable(self, body: &[u8], kind: Option<&str>) -> bool {
        let json = || serde_json::from_slice::<Value>(body).unwrap_or_default();
        match self {
            Self::Page => body.starts_with(b"<!doctype html>"),
            Self::Recommendations => {
                let answer = json();
                let by = if kind == Some("upstream") { "shop" } else { "recommendations" };
                let has_items = answer["items"].as_array().is_some_and(|items| !items.is_empty());
                kind == Some("static") || (has_items && answer["service"] == by)
            }
            Self::Prices => {
                let answer = json();
                let has_items = answer["items"].as_array().is_some_and(|items| !items.is_empty());
                has_items && answer["last_updated"].is_string() == kind.is_some()
            }
            // Nobody has ever asked for this visitor, so nothing but the default can stand in.
            Self::Flag => json()["value"] == Value::Bool(kind.is_none()),
        }
    }
}

impl Default for Visits {
    fn default() -> Self {
        let count =
            |part: Part| Count { name: part.name(), whole: 0, instead: Instead::default(), failed: 0 };
        Self { parts: Part::ALL.map(count) }
    }
}

impl Visits {
    pub(super) fn add(&mut self, seen: &Seen) {
        let count = &mut self.parts[seen.part as usize];
        match &seen.sight {
            Sight::Whole => count.whole += 1,
            Sight::Instead(kind) if count.instead.add(kind, 1) => {}
            // A kind that nobody has heard of is nothing to rely on.
            Sight::Instead(_) | Sight::Failed => count.failed += 1,
        }
    }

    /// What was seen, for people.
    pub(super) fn lines(&self, colour: bool) -> Vec<String> {
        let heading =
            format!("  {:<PART$}{:>8}{:>10}{:>8}", "what the page showed", "whole", "stood in", "failed");
        let mut lines = vec![Ink::Strong.on(colour, &heading)];
        for (part, count) in Part::ALL.into_iter().zip(&self.parts) {
            let instead = count.instead.sum();
            let what = if instead > 0 { part.instead() } else { "" };
            let failed = format!("{:>8}", count.failed);
            let failed = if count.failed > 0 { Ink::Bad.on(colour, &failed) } else { failed };
            let row = format!("  {:<PART$}{:>8}{instead:>10}{failed}", count.name, count.whole);
            lines.push(format!("{row}   {}", Ink::Quiet.on(colour, what)).trim_end().to_owned());
        }
        lines
    }
}

/// Looks at the page through `pool` for `total` from `start` on. The channel closes after the last look.
pub(super) async fn look(
    pool: Arc<Pool>,
    start: Instant,
    total: Duration,
    seen: mpsc::UnboundedSender<Seen>,
) {
    for number in 0_u32.. {
        let at = EVERY * number;
        if at >= total {
            break;
        }
        tokio::time::sleep_until(start + at).await;
        for part in Part::ALL {
            let (pool, seen) = (Arc::clone(&pool), seen.clone());
            tokio::spawn(async move {
                let sight = part.ask(&pool, u64::from(number)).await;
                // Nobody listens any more once the demo is over.
                let _ = seen.send(Seen { part, sight });
            });
        }
    }
}

/// Twice a second sees every phase of the shortest demo, and hardly adds to the traffic.
const EVERY: Duration = Duration::from_millis(500);
const PART: usize = 24;

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn sight(part: Part, body: &str, mark: Option<&str>) -> Sight {
        let degraded = mark.map(|kind| format!("{kind}; reason=\"x\"; since=\"2026-01-01T00:00:00Z\""));
        part.sight(&Answer {
            status: StatusCode::OK,
            degraded,
            body: Bytes::copy_from_slice(body.as_bytes()),
        })
    }

    #[test]
    fn an_answer_counts_only_as_what_it_says_and_is() {
        let own = r#"{"service":"recommendations","items":[1]}"#;
        let popular = r#"{"service":"shop","items":[1]}"#;
        let upstream = Sight::Instead("upstream".to_owned());
        assert_eq!(sight(Part::Recommendations, own, None), Sight::Whole);
        assert_eq!(sight(Part::Recommendations, popular, Some("upstream")), upstream);
        assert_eq!(sight(Part::Recommendations, popular, None), Sight::Failed);
        assert_eq!(sight(Part::Recommendations, own, Some("upstream")), Sight::Failed);
        assert_eq!(sight(Part::Recommendations, "{}", None), Sight::Failed);
        let (new, old) = (r#"{"items":[1]}"#, r#"{"items":[1],"last_updated":"2026-01-01T00:00:00Z"}"#);
        let stale = Sight::Instead("stale".to_owned());
        assert_eq!(
            (sight(Part::Prices, new, None), sight(Part::Prices, old, Some("stale"))),
            (Sight::Whole, stale)
        );
        assert_eq!(sight(Part::Prices, new, Some("stale")), Sight::Failed);
        assert_eq!(sight(Part::Flag, r#"{"value":true}"#, None), Sight::Whole);
        assert_eq!(sight(Part::Flag, r#"{"value":true}"#, Some("flags")), Sight::Failed);
        assert_eq!(sight(Part::Page, "nonsense", None), Sight::Failed);
    }

    #[test]
    fn an_unknown_stand_in_is_a_failure() {
        let mut visits = Visits::default();
        for sight in [Sight::Whole, Sight::Instead("upstream".to_owned()), Sight::Instead("luck".to_owned())]
        {
            visits.add(&Seen { part: Part::Recommendations, sight });
        }
        let count = &visits.parts[Part::Recommendations as usize];
        assert_eq!((count.whole, count.instead.sum(), count.failed), (1, 1, 1));
    }
}
