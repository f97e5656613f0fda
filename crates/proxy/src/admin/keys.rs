//! The idempotency keys that are kept: what operators see of them, and what they can set free.
//!
//! Bodies are never shown: they are the clients'. Every request is one step of the store, or two, and of a bounded page.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use seaworthy::clock::{rfc3339, wall};
use seaworthy::idempotency::http::Head;
use seaworthy::idempotency::store::embedded::Stats;
use seaworthy::idempotency::store::{Record, Release, Step};
use seaworthy::idempotency::{Answer, COUNTED, Id, Phase, Store, StoreError, Token};
use seaworthy_config::{Busy, Keep, Level, RouteIdempotency, WhenStoreDown};
use seaworthy_core::idempotency::OnUnknown;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::metrics::{family, label};
use super::standing::{Age, Look};
use crate::idempotency::{KeyStore, RouteKeys};
use crate::site::Site;

/// What is told, or why nothing is.
type Told = Result<Value, (StatusCode, String)>;

/// What there is at `path`, one of those that begin with `/api/key` or are `/api/releases`.
///
/// # Errors
/// Nothing is kept anywhere, the question makes no sense, or the store does not answer.
pub(super) async fn show(site: &Site, path: &str, query: &str) -> Told {
    let store = store(site)?;
    let query = Query::parse(query)?;
    match path {
        "/api/key" => one(site, &*store, &query).await,
        "/api/releases" => releases(&*store, &query).await,
        _ => list(site, &*store, &query).await,
    }
}

/// Sets a key free, if it still stands as the order says.
///
/// # Errors
/// As of [`show`]; or it stands otherwise (409), or is not there (404).
pub(super) async fn release(site: &Site, order: &Value) -> Told {
    let store = store(site)?;
    let word = |name: &str| {
        let word = order.get(name).and_then(Value::as_str);
        word.ok_or_else(|| wrong(format!("{name} must be a string")))
    };
    let id = id(word("place")?, word("client")?, word("key")?);
    let token = order.get("token").and_then(Value::as_u64);
    let token = Token(token.ok_or_else(|| wrong("token must be a number, the one that the key has now"))?);
    let reason = word("reason")?.trim();
    if reason.is_empty() || reason.len() > LONGEST_REASON {
        return Err(wrong(format!("reason must be 1 to {LONGEST_REASON} bytes that say why")));
    }
    let moved = |now: String| {
        let held = format!("{id} no longer stands under token {token}: {now}; nothing was released");
        (StatusCode::CONFLICT, held)
    };
    let mut changed = "it changed meanwhile";
    let phase = match find(&*store, &id).await? {
        Found::Whole(record) if record.standing.token == token => Look::at(site, &id, &record).phase,
        Found::Whole(record) => {
            let phase = Look::at(site, &id, &record).phase;
            return Err(moved(format!("it is {} under token {}", phase.name(), record.standing.token)));
        }
        Found::Damaged(_) => {
            changed = "it is damaged, and only the store itself can show which one it has: name that";
            Phase::Unknown
        }
    };
    let release = Release { id: id.clone(), token, phase, reason: reason.to_owned(), at: wall() };
    if !step(store.release(&release)).await? {
        return Err(moved(changed.to_owned()));
    }
    site.journal.event(
        Level::Warn,
        "key_released",
        &[
            ("key", &id.to_string()),
            ("phase", phase.name()),
            ("token", &token.to_string()),
            ("reason", reason),
        ],
    );
    Ok(released(&release))
}

async fn list(site: &Site, store: &dyn Store, query: &Query) -> Told {
    let most = query.number("most", PAGE, LONGEST_PAGE)?;
    let place = query.get("place");
    let phase = query.get("phase").map(|name| {
        let known = Phase::of(name);
        known.ok_or_else(|| wrong(format!("phase is {name:?}; write running, unknown, free or done")))
    });
    let phase = phase.transpose()?;
    let page = step(store.list(query.get("from"), most)).await?;
    let rows = page.records.iter().filter_map(|(id, record)| {
        let look = Look::at(site, id, record);
        let fits = place.is_none_or(|place| *place == *id.place) && phase.is_none_or(|phase| look.is(phase));
        fits.then(|| row(id, record, &look))
    });
    let keys: Vec<Value> = rows.collect();
    Ok(json!({ "store": store.kind(), "keys": keys, "damaged": page.unread, "next": page.next }))
}

async fn one(site: &Site, store: &dyn Store, query: &Query) -> Told {
    let part = |name: &str| query.get(name).ok_or_else(|| wrong(format!("{name} is missing")));
    let id = id(part("place")?, part("client")?, part("key")?);
    let record = match find(store, &id).await? {
        Found::Whole(record) => record,
        Found::Damaged(what) => {
            return Ok(json!({
                "id": id.to_string(), "place": *id.place, "client": *id.client, "key": *id.key,
                "phase": "damaged", "token": null, "damaged": what,
            }));
        }
    };
    let mut shown = row(&id, &record, &Look::at(site, &id, &record));
    if let Some(head) = record.answer.as_ref().and_then(|answer| Head::decode(&answer.head)) {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers.iter().map(|(name, value)| json!([name.as_str(), text(value)]));
        shown["answer"]["headers"] = headers.collect();
    }
    Ok(shown)
}

async fn releases(store: &dyn Store, query: &Query) -> Told {
    let most = query.number("most", PAGE, LONGEST_PAGE)?;
    let releases = step(store.releases(most)).await?;
    Ok(json!({ "store": store.kind(), "releases": releases.iter().map(released).collect::<Vec<_>>() }))
}

/// What a store has of a key.
enum Found {
    Whole(Box<Record>),
    /// It is not what was written.
    Damaged(String),
}

async fn find(store: &dyn Store, id: &Id) -> Result<Found, (StatusCode, String)> {
    match timeout(LONGEST_STEP, store.find(id)).await {
        Ok(Ok(Some(record))) => Ok(Found::Whole(Box::new(record))),
        Ok(Ok(None)) => Err((StatusCode::NOT_FOUND, format!("nothing is kept of {id}"))),
        Ok(Err(error @ StoreError::Corrupt(_))) => Ok(Found::Damaged(error.to_string())),
        Ok(Err(error)) => Err(down(&error)),
        Err(_) => Err(down(&late())),
    }
}

fn row(id: &Id, record: &Record, look: &Look) -> Value {
    let (age, age_by) = match look.age {
        Age::Store(age) => (age, "store"),
        Age::Clocks(age) => (age, "clocks"),
    };
    json!({
        "id": id.to_string(), "place": *id.place, "client": *id.client, "key": *id.key,
        "phase": look.phase.name(),
        "token": record.standing.token.0,
        "orphaned": record.orphaned,
        "past_lease": look.past_lease,
        "changed": rfc3339(record.changed),
        "age_s": age.as_secs(),
        "age_by": age_by,
        "remembered_s": record.remembered.map(|left| left.as_secs()),
        "answer": record.answer.as_ref().map(answer),
    })
}

/// What was kept, but for what the client and the upstream said to each other.
fn answer(answer: &Answer) -> Value {
    match Head::decode(&answer.head) {
        Some(head) => {
            json!({ "status": head.status.as_u16(), "body_bytes": head.length, "body_kept": head.whole })
        }
        // A program that shares the store may keep something else under its keys.
        None => json!({ "status": null, "body_bytes": null, "body_kept": null }),
    }
}

fn released(release: &Release) -> Value {
    let Release { id, token, phase, reason, at } = release;
    json!({
        "id": id.to_string(), "place": *id.place, "client": *id.client, "key": *id.key,
        "token": token.0, "phase": phase.name(), "reason": reason, "at": rfc3339(*at),
    })
}

/// The state of a route's keys.
pub(super) fn state(rules: &RouteIdempotency, keys: &RouteKeys) -> Value {
    let counts = COUNTED.iter().zip(keys.keys.counts());
    let counts: Map<String, Value> =
        counts.map(|(result, count)| ((*result).to_owned(), count.into())).collect();
    json!({
        "methods": rules.methods,
        "required": rules.required,
        "header": rules.header,
        "keep": match rules.keep {
            Keep::Definite => "definite",
            Keep::NoServerErrors => "no-server-errors",
            Keep::All => "all",
        },
        "unknown": match rules.unknown { OnUnknown::Refuse => "refuse", OnUnknown::Retry => "retry" },
        "when_down": match rules.when_down { WhenStoreDown::Refuse => "refuse", WhenStoreDown::Allow => "allow" },
        "busy_wait_ms": match rules.busy { Busy::Refuse => 0, Busy::Wait(most) => most.as_millis() as u64 },
        "lease_s": rules.lease.as_secs_f64(),
        "retention_s": rules.retention.as_secs_f64(),
        "counts": counts,
    })
}

/// What became of requests with keys.
pub(super) fn metrics(out: &mut String, site: &Site) -> fmt::Result {
    family(out, "idempotency_total", "counter", "Requests with an idempotency key by what became of them.")?;
    for (route, state) in site.config.routes.iter().zip(&site.routes) {
        let Some(keys) = &state.keys else { continue };
        let name = label(&route.name);
        for (result, count) in COUNTED.iter().zip(keys.keys.counts()) {
            writeln!(out, "seaworthy_idempotency_total{{route=\"{name}\",result=\"{result}\"}} {count}")?;
        }
    }
    let Some(store) = &site.keys else { return Ok(()) };
    family(out, "idempotency_store_up", "gauge", "Whether the store of idempotency keys answers.")?;
    writeln!(out, "seaworthy_idempotency_store_up {}", u8::from(store.is_up()))?;
    store.file().map_or(Ok(()), |stats| file(out, stats))
}

/// Of the embedded store's file.
fn file(out: &mut String, stats: Stats) -> fmt::Result {
    let counters = [
        ("commits", "Transactions committed to the file of keys.", stats.commits),
        ("steps", "Steps in them: divided by the commits, how many shared one.", stats.steps),
        ("swept", "Records past their retention that were removed.", stats.swept),
        ("damaged", "Records met that did not match their checksums.", stats.damaged),
        ("quarantined", "How often the file of keys was damaged or gone.", stats.quarantined),
        ("reopened", "How often the file of keys was opened again.", stats.reopened),
    ];
    for (name, help, count) in counters {
        let metric = format!("idempotency_file_{name}_total");
        family(out, &metric, "counter", help)?;
        writeln!(out, "seaworthy_{metric} {count}")?;
    }
    family(out, "idempotency_file_bytes", "gauge", "The length of the file of keys.")?;
    writeln!(out, "seaworthy_idempotency_file_bytes {}", stats.bytes)
}

fn store(site: &Site) -> Result<Arc<dyn Store>, (StatusCode, String)> {
    let nowhere = "idempotency keys are kept nowhere: the configuration has no table [idempotency]";
    site.keys.as_ref().map(KeyStore::shared).ok_or_else(|| (StatusCode::NOT_FOUND, nowhere.to_owned()))
}

/// As it was printed: the client is a hash already.
fn id(place: &str, client: &str, key: &str) -> Id {
    Id { place: place.into(), client: client.into(), key: key.into() }
}

/// A step of the store. What is wrong with it is told as it is: who asks here is to put it right.
async fn step<T>(step: Step<'_, T>) -> Result<T, (StatusCode, String)> {
    let done = timeout(LONGEST_STEP, step).await.unwrap_or_else(|_| Err(late()));
    done.map_err(|error| down(&error))
}

fn late() -> StoreError {
    StoreError::Down(format!(
        "it did not answer within {LONGEST_STEP:?}; what was asked for may have been done"
    ))
}

fn down(error: &StoreError) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

fn wrong(what: impl Into<String>) -> (StatusCode, String) {
    (StatusCode::UNPROCESSABLE_ENTITY, what.into())
}

/// What stands behind the question mark.
struct Query(Vec<(String, String)>);

impl Query {
    /// Only `%` is special: a plus is a plus, as it may be a part of a key.
    fn parse(query: &str) -> Result<Self, (StatusCode, String)> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(name)?, unescape(value)?))
        };
        let pairs = query.split('&').filter(|part| !part.is_empty()).map(pair);
        let pairs = pairs.collect::<Option<_>>();
        pairs.map(Self).ok_or_else(|| wrong("the query is not UTF-8 with %XX for what it can't hold"))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A number from 1 to `most`; `usual` if there is none.
    fn number(&self, name: &str, usual: usize, most: usize) -> Result<usize, (StatusCode, String)> {
        let Some(text) = self.get(name) else { return Ok(usual) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| wrong(format!("{name} must be a number from 1 to {most}")))
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

/// As the audit's records take it.
const LONGEST_REASON: usize = 1000;
/// Keys on a page if nothing is said, and at most. A store reads a record with up to 64 KiB of its head and as much of its body: some
/// 25 MB at a time for the longest page.
const PAGE: usize = 100;
const LONGEST_PAGE: usize = 200;
/// A little less than the command waits for an answer.
const LONGEST_STEP: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use seaworthy::idempotency::{Fingerprint, Standing};

    use super::*;

    #[test]
    fn a_query_comes_back_as_it_was_meant() {
        let query = Query::parse("place=%2Fpay%20x&key=a+b%25&&flag").unwrap();
        assert_eq!(query.get("place"), Some("/pay x"));
        assert_eq!(query.get("key"), Some("a+b%"));
        assert_eq!(query.get("flag"), Some(""));
        assert_eq!(query.get("none"), None);
        for broken in ["a=%", "a=%4", "a=%zz", "a=%ff", "%=1", "a=%+1"] {
            assert!(Query::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn numbers_have_bounds() {
        let query = Query::parse("a=1&b=200&c=201&d=0&e=x&f=-1").unwrap();
        assert_eq!(query.number("none", 7, 200).unwrap(), 7);
        assert_eq!([query.number("a", 7, 200).unwrap(), query.number("b", 7, 200).unwrap()], [1, 200]);
        for wrong in ["c", "d", "e", "f"] {
            assert!(query.number(wrong, 7, 200).is_err(), "{wrong}");
        }
    }

    const LOOK: Look =
        Look { phase: Phase::Done, past_lease: false, age: Age::Store(Duration::from_secs(7)) };

    fn record(answer: Option<Answer>) -> Record {
        Record {
            standing: Standing { fingerprint: Fingerprint([7; 32]), token: Token(3), phase: Phase::Done },
            lease: Duration::from_secs(60),
            orphaned: false,
            changed: Duration::from_millis(951_782_400_123),
            remembered: Some(Duration::from_secs(60)),
            answer,
        }
    }

    #[test]
    fn a_record_is_told_without_its_body() {
        let head = Head { length: 6, ..Head::of(StatusCode::CREATED, &HeaderMap::new(), &[]) };
        let kept = Answer { head: head.encode().unwrap(), body: "secret".into(), chunks: 0 };
        let row = row(&Id::new("pay", b"ann", "a/b"), &record(Some(kept)), &LOOK);
        assert_eq!(row["answer"], json!({ "status": 201, "body_bytes": 6, "body_kept": true }));
        assert_eq!((&row["phase"], &row["token"]), (&json!("done"), &json!(3)));
        assert_eq!(row["changed"], "2000-02-29T00:00:00.123Z");
        assert_eq!(
            (&row["remembered_s"], &row["age_s"], &row["age_by"]),
            (&json!(60), &json!(7), &json!("store"))
        );
        assert!(row["id"].as_str().unwrap().starts_with("pay/") && !row.to_string().contains("secret"));
    }

    #[test]
    fn what_is_no_answer_of_the_proxy_is_told_as_such() {
        let kept = Answer { head: "x".into(), body: "1".into(), chunks: 0 };
        assert_eq!(row(&id("p", "c", "k"), &record(Some(kept)), &LOOK)["answer"]["status"], Value::Null);
    }
}
