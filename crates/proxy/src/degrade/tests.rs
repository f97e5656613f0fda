//! What is kept, what isn't, and how it is shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName};
use http::{HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use seaworthy_core::Instant;

use super::directives::Directives;
use super::flight::Landed;
use super::*;

const RULES: Rules = Rules { within: Duration::from_secs(600), serve_fresh: true, entry_bytes: 1 << 20 };
const KEPT: Shown<'static> = Shown { how: How::Kept, header: None, field: None };

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn at(seconds: u64) -> Moment {
    let since = Duration::from_secs(seconds);
    Moment {
        wall: UNIX_EPOCH + Duration::from_secs(1_800_000_000) + since,
        steady: Instant::from_millis(seconds * 1000),
    }
}

fn ask(method: Method, target: &'static str, lines: &[(&str, &str)]) -> Question {
    Question::of(&method, &HeaderValue::from_static("Shop"), &target.parse().unwrap(), &map(lines))
}

fn get(lines: &[(&str, &str)]) -> Question {
    ask(Method::GET, "/a", lines)
}

fn keep(store: &Arc<Store>, question: &Question, lines: &[(&str, &str)], body: &str) -> Option<Stored> {
    let recorder = store.answered(at(0), question, &RULES, StatusCode::OK, &map(lines))?;
    recorder.data(body.as_bytes())?.end()
}

fn served(store: &Store, seconds: u64, question: &Question) -> Option<String> {
    let stored = store.on_error(at(seconds), question, &RULES)?;
    Some(String::from_utf8(stored.response(at(seconds), question, &KEPT).into_body().to_vec()).unwrap())
}

#[test]
fn an_answer_is_fresh_then_stale_then_gone() {
    let store = Store::new(1 << 20);
    keep(&store, &get(&[]), &[("cache-control", "max-age=60, stale-while-revalidate=10")], "x").unwrap();
    assert!(matches!(store.look(at(59), &get(&[]), &RULES), Look::Fresh(_)));
    assert!(matches!(store.look(at(60), &get(&[]), &RULES), Look::Stale { while_revalidate: true, .. }));
    assert!(matches!(store.look(at(70), &get(&[]), &RULES), Look::Stale { while_revalidate: true, .. }));
    assert!(matches!(store.look(at(71), &get(&[]), &RULES), Look::Stale { while_revalidate: false, .. }));
    assert_eq!(served(&store, 660, &get(&[])).as_deref(), Some("x"));
    assert_eq!(served(&store, 661, &get(&[])), None);
}

#[test]
fn what_must_not_be_stored_is_not() {
    let store = Store::new(1 << 20);
    let refused: [&[(&str, &str)]; 14] = [
        &[("cache-control", "private, max-age=60")],
        &[("cache-control", "max-age=60, Private")],
        &[("cache-control", "NO-STORE")],
        &[("cache-control", "max-age=60"), ("cache-control", "no-store")],
        &[("cache-control", "no-cache")],
        &[("cache-control", "private=\"set-cookie\"")],
        &[("pragma", "no-cache")],
        &[("cache-control", "public, max-age=60"), ("set-cookie", "id=1")],
        &[("vary", "*"), ("cache-control", "max-age=60")],
        &[("vary", "accept"), ("vary", "*")],
        &[("vary", "acc ept")],
        &[("content-range", "bytes 0-1/2")],
        &[("x-seaworthy-degraded", "static")],
        &[("content-length", "2")],
    ];
    for lines in refused {
        assert!(keep(&store, &get(&[]), lines, "x").is_none(), "{lines:?}");
    }
    let public: &[(&str, &str)] = &[("cache-control", "public")];
    assert!(keep(&store, &get(&[("cache-control", "no-store")]), public, "x").is_none());
    assert!(keep(&store, &get(&[("range", "bytes=0-0")]), public, "x").is_none());
    assert!(keep(&store, &ask(Method::HEAD, "/a", &[]), public, "").is_none());
    for status in [206, 302, 304, 404, 500, 501, 503] {
        let status = StatusCode::from_u16(status).unwrap();
        assert!(store.answered(at(0), &get(&[]), &RULES, status, &map(public)).is_none(), "{status}");
    }
    assert_eq!(store.counts().entries, 0);
}

#[test]
fn what_is_somebodys_own_is_kept_only_if_the_origin_says_that_it_is_for_all() {
    let store = Store::new(1 << 20);
    let authorized = get(&[("authorization", "Bearer a")]);
    assert!(keep(&store, &authorized, &[("cache-control", "max-age=60")], "x").is_none());
    assert!(keep(&store, &authorized, &[("cache-control", "s-maxage=60")], "x").is_some());
    assert!(keep(&store, &authorized, &[("cache-control", "public")], "x").is_some());
    let visitor = get(&[("cookie", "id=1")]);
    assert!(keep(&store, &visitor, &[], "x").is_none());
    assert!(keep(&store, &visitor, &[("cache-control", "max-age=60")], "x").is_some());
    assert!(keep(&store, &visitor, &[("vary", "Cookie")], "x").is_some());
}

#[test]
fn some_may_not_be_used_when_they_are_stale() {
    for (says, until) in [
        ("max-age=60, must-revalidate", 60),
        ("max-age=60, stale-if-error=9999, must-revalidate", 60),
        ("s-maxage=60", 60),
        ("s-maxage=60, stale-if-error=5", 66),
        ("max-age=60, stale-if-error=0", 61),
        ("max-age=60, stale-if-error=1000", 1061),
        ("max-age=60, stale-if-error=1000, stale-if-error=5", 66),
        ("max-age=60", 661),
        ("max-age=60, max-age=5", 606),
        ("max-age=99999999999999999999999, must-revalidate", 1 << 31),
    ] {
        let store = Store::new(1 << 20);
        keep(&store, &get(&[]), &[("cache-control", says)], "x").unwrap();
        assert!(served(&store, until - 1, &get(&[])).is_some(), "{says}");
        assert!(served(&store, until, &get(&[])).is_none(), "{says}");
    }
    let store = Store::new(1 << 20);
    keep(&store, &get(&[]), &[], "x").unwrap();
    assert!(matches!(store.look(at(0), &get(&[]), &RULES), Look::Stale { while_revalidate: false, .. }));
    assert!(served(&store, 1, &get(&[("cache-control", "stale-if-error=0")])).is_none());
}

#[test]
fn a_clock_that_is_put_back_makes_nothing_immortal() {
    let store = Store::new(1 << 20);
    keep(&store, &get(&[]), &[("cache-control", "max-age=60")], "x").unwrap();
    let back = Moment { wall: SystemTime::UNIX_EPOCH, ..at(661) };
    assert!(store.on_error(back, &get(&[]), &RULES).is_none());
    let far = Moment { wall: UNIX_EPOCH + Duration::from_secs(1 << 40), ..at(0) };
    assert!(store.on_error(far, &get(&[]), &RULES).is_none());
}

#[test]
fn ages_and_dates_that_lie_do_no_harm() {
    let store = Store::new(1 << 20);
    for lines in [
        [("age", "18446744073709551615"), ("date", "Thu, 01 Jan 1970 00:00:00 GMT")],
        [("expires", "0"), ("date", "never")],
        [("expires", "Fri, 31 Dec 9999 23:59:59 GMT"), ("last-modified", "x")],
    ] {
        let stored = keep(&store, &get(&[]), &lines, "x").unwrap();
        let _ = store.look(at(5), &get(&[]), &RULES);
        assert_eq!(stored.response(at(5), &get(&[]), &KEPT).status(), StatusCode::OK);
    }
}

#[test]
fn variants_are_told_apart_by_every_line() {
    let store = Store::new(1 << 20);
    let vary: &[(&str, &str)] = &[("vary", "Accept-Language"), ("cache-control", "max-age=60")];
    let german = get(&[("accept-language", "de")]);
    let both = get(&[("accept-language", "de"), ("accept-language", "en")]);
    keep(&store, &german, vary, "hallo").unwrap();
    assert!(matches!(store.look(at(1), &both, &RULES), Look::Miss));
    assert!(matches!(store.look(at(1), &get(&[]), &RULES), Look::Miss));
    keep(&store, &both, vary, "both").unwrap();
    assert_eq!(served(&store, 1, &german).as_deref(), Some("hallo"));
    assert_eq!(served(&store, 1, &both).as_deref(), Some("both"));
    assert!(served(&store, 1, &get(&[])).is_none());
}

#[test]
fn a_change_makes_what_is_stored_and_what_is_being_recorded_invalid() {
    let store = Store::new(1 << 20);
    let post = ask(Method::POST, "/a", &[]);
    keep(&store, &get(&[]), &[], "old").unwrap();
    assert!(store.answered(at(1), &post, &RULES, StatusCode::BAD_GATEWAY, &map(&[])).is_none());
    assert!(served(&store, 1, &get(&[])).is_some());
    let recorder = store.answered(at(1), &get(&[]), &RULES, StatusCode::OK, &map(&[])).unwrap();
    assert!(store.answered(at(1), &post, &RULES, StatusCode::OK, &map(&[])).is_none());
    assert!(served(&store, 1, &get(&[])).is_none());
    assert!(recorder.end().is_none());
    assert_eq!(store.counts().bytes, 0);
}

#[test]
fn a_body_that_is_cut_off_or_too_large_leaves_no_trace() {
    let store = Store::new(1 << 20);
    let rules = Rules { entry_bytes: 4, ..RULES };
    let begin = |lines| store.answered(at(0), &get(&[]), &rules, StatusCode::OK, &map(lines));
    assert!(begin(&[("content-length", "5")]).is_none());
    assert!(begin(&[]).unwrap().data(b"1234").unwrap().data(b"5").is_none());
    assert!(begin(&[("content-length", "4")]).unwrap().data(b"123").unwrap().end().is_none());
    drop(begin(&[]).unwrap().data(b"12"));
    assert!(served(&store, 0, &get(&[])).is_none());
    assert!(store.reserve(1 << 18), "all that was recorded was given back");
}

#[test]
fn a_304_makes_it_fresh_again() {
    let store = Store::new(1 << 20);
    let head = [("etag", "\"1\""), ("cache-control", "max-age=10"), ("x-kept", "1"), ("x-new", "old")];
    let stored = keep(&store, &get(&[]), &head, "x").unwrap();
    let mut headers = map(&[("if-none-match", "\"theirs\""), ("range", "bytes=0-0")]);
    assert!(stored.ask_whether_good(&mut headers));
    assert_eq!(headers, map(&[("if-none-match", "\"1\"")]));
    let update = map(&[("etag", "\"1\""), ("x-new", "new"), ("x-more", "1"), ("set-cookie", "a")]);
    let again = store.refreshed(at(100), &get(&[]), &stored, &update).unwrap();
    assert!(matches!(store.look(at(109), &get(&[]), &RULES), Look::Fresh(_)));
    let shown = again.response(at(101), &get(&[]), &Shown { how: How::Revalidated, ..KEPT });
    assert_eq!(
        (&shown.headers()["x-new"], &shown.headers()["x-kept"]),
        (&"new".parse().unwrap(), &"1".parse().unwrap())
    );
    assert!(!shown.headers().contains_key("set-cookie"));
    assert_eq!(shown.headers()["age"], "1");
    let other = map(&[("etag", "\"2\"")]);
    assert!(store.refreshed(at(100), &get(&[]), &stored, &other).is_none());
    assert!(matches!(store.look(at(100), &get(&[]), &RULES), Look::Miss));
}

#[test]
fn parts_heads_and_conditions_are_answered_from_the_whole() {
    let store = Store::new(1 << 20);
    let head = [("etag", "W/\"1\""), ("cache-control", "max-age=60"), ("content-length", "5")];
    let stored = keep(&store, &get(&[]), &head, "hello").unwrap();
    let of = |lines: &[(&str, &str)]| stored.response(at(1), &get(lines), &KEPT);
    for (range, status, body, told) in [
        ("bytes=1-2", 206, "el", "bytes 1-2/5"),
        ("bytes=3-", 206, "lo", "bytes 3-4/5"),
        ("bytes=-2", 206, "lo", "bytes 3-4/5"),
        ("bytes=0-999", 206, "hello", "bytes 0-4/5"),
        ("bytes=5-", 416, "", "bytes */5"),
        ("bytes=-0", 416, "", "bytes */5"),
        ("bytes=2-1", 200, "hello", ""),
        ("bytes=0-0,2-2", 200, "hello", ""),
        ("lines=0-0", 200, "hello", ""),
        ("bytes=99999999999999999999999-", 416, "", "bytes */5"),
    ] {
        let answer = of(&[("range", range)]);
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (status, body.as_bytes()), "{range}");
        let shown = answer.headers().get("content-range").map_or("", |v| v.to_str().unwrap());
        assert_eq!(shown, told, "{range}");
        assert_eq!(answer.headers()["content-length"], body.len().to_string().as_str());
    }
    assert_eq!(of(&[("range", "bytes=0-0"), ("if-range", "W/\"1\"")]).status(), 200);
    assert_eq!(of(&[("if-none-match", "\"0\", \"1\"")]).status(), 304);
    assert_eq!(of(&[("if-none-match", "\"0\"")]).status(), 200);
    let head = stored.response(at(1), &ask(Method::HEAD, "/a", &[("range", "bytes=0-0")]), &KEPT);
    assert_eq!((head.status().as_u16(), head.body().len()), (200, 0));
    assert_eq!(head.headers()["content-length"], "5");
    assert_eq!(head.headers()["cache-status"], "seaworthy; hit; ttl=59");
}

#[test]
fn a_degraded_answer_says_what_it_is() {
    let store = Store::new(1 << 20);
    let json = [("content-type", "application/json; charset=utf-8"), ("etag", "\"1\"")];
    let stored = keep(&store, &get(&[]), &json, " {\"price\": 1.10}").unwrap();
    let shown = Shown { how: How::Degraded("it \"hung\"\n"), header: Some("x-as-of"), field: Some("as_of") };
    let question = get(&[("if-none-match", "\"1\""), ("range", "bytes=0-0")]);
    let answer = stored.response(at(90), &question, &shown);
    assert_eq!(answer.status(), 200);
    let stamp = "2027-01-15T08:00:00.000Z";
    let body = format!("{{\"as_of\":\"{stamp}\",\"price\": 1.10}}");
    assert_eq!(std::str::from_utf8(answer.body()).unwrap(), body);
    let headers = answer.headers();
    assert_eq!(
        headers["x-seaworthy-degraded"],
        format!("stale; reason=\"it hung\"; since=\"{stamp}\"").as_str()
    );
    assert_eq!(headers["x-as-of"], stamp);
    assert_eq!(headers["age"], "90");
    assert_eq!(headers["cache-status"], "seaworthy; hit; ttl=-90; detail=upstream-failed");
    assert_eq!(headers["content-length"], body.len().to_string().as_str());
    assert!(!headers.contains_key("etag"));
    for (lines, text) in [
        (&[("content-type", "application/json"), ("content-encoding", "gzip")][..], "{}"),
        (&[("content-type", "text/plain")], "{}"),
        (&[("content-type", "application/json")], "[1]"),
        (&[("content-type", "application/json")], "{\"a\":"),
    ] {
        let stored = keep(&store, &get(&[]), lines, text).unwrap();
        assert_eq!(stored.response(at(9), &get(&[]), &shown).body(), text);
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_thousand_wait_for_one() {
    let flights = Flights::default();
    let Turn::Leader(leader) = flights.join(&get(&[])) else { panic!("nobody was there before") };
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    let mut followers: Vec<_> = (0..1000)
        .map(|_| match flights.join(&get(&[])) {
            Turn::Follower(follower) => Box::pin(follower),
            Turn::Leader(_) => panic!("there is a leader"),
        })
        .collect();
    assert!(followers.iter_mut().all(|f| f.as_mut().poll(&mut cx).is_pending()));
    drop(followers.pop());
    let store = Store::new(1 << 20);
    let recorder = store.answered(at(0), &get(&[]), &RULES, StatusCode::OK, &map(&[])).unwrap();
    recorder.for_all(leader).end().unwrap();
    assert_eq!(woken.0.load(Ordering::Relaxed), 999);
    assert!(followers.iter_mut().all(|f| f.as_mut().poll(&mut cx) == Poll::Ready(Landed::Stored)));
    assert_eq!(flights.len(), 0);
}

#[test]
fn who_gives_up_frees_who_waits() {
    let flights = Flights::default();
    let Turn::Leader(leader) = flights.join(&get(&[])) else { panic!("nobody was there before") };
    let Turn::Follower(mut follower) = flights.join(&get(&[])) else { panic!("there is a leader") };
    let waiter = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(&mut follower)
    });
    drop(leader);
    assert_eq!(waiter.join().unwrap(), Landed::Gone);
    assert!(matches!(flights.join(&get(&[])), Turn::Leader(_)));
}

proptest! {
    #[test]
    fn the_bound_holds(steps in proptest::collection::vec((0..40_u8, 0..30_000_usize, 0..4_u8), 1..80)) {
        let store = Store::new(100_000);
        for (key, size, what) in steps {
            let target = format!("/{key}").parse().unwrap();
            let host = HeaderValue::from_static("h");
            let method = if what == 0 { Method::POST } else { Method::GET };
            let headers = if what == 1 { map(&[("accept", "a")]) } else { map(&[]) };
            let question = Question::of(&method, &host, &target, &headers);
            let vary = map(&[("vary", "accept")]);
            if let Some(recorder) = store.answered(at(0), &question, &RULES, StatusCode::OK, &vary) {
                let stored = recorder.data(&vec![b'x'; size]).and_then(Recorder::end);
                let found = store.on_error(at(0), &question, &RULES);
                prop_assert!(stored.is_none() || found.is_some(), "what was just stored is there");
            }
            let counts = store.counts();
            prop_assert!(counts.bytes <= 100_000);
            prop_assert_eq!(counts.bytes == 0, counts.entries == 0);
        }
    }

    #[test]
    fn any_directives_are_read_and_forbidding_ones_are_seen(
        noise in "[ -~]{0,40}", name in "([nN][oO]-[sS][tT][oO][rR][eE]|[pP][rR][iI][vV][aA][tT][eE]|[nN]o-[cC]ache)", age in any::<u128>(), raw in proptest::collection::vec(any::<u8>(), 0..60)
    ) {
        let noise: String = noise.chars().filter(|c| *c != '"' && *c != '\\').collect();
        let line = format!("{noise}, {name} , max-age={age}");
        let read = Directives::read(&map(&[("cache-control", &line)]));
        prop_assert!(read.no_store || read.private || read.no_cache);
        prop_assert!(read.max_age.unwrap() <= Duration::from_secs(1 << 31));
        prop_assert!(keep(&Store::new(1 << 20), &get(&[]), &[("cache-control", &line)], "x").is_none());
        if let Ok(value) = HeaderValue::from_bytes(&raw) {
            let mut headers = HeaderMap::new();
            headers.insert("cache-control", value.clone());
            headers.insert("age", value.clone());
            headers.insert("expires", value.clone());
            headers.insert("range", value.clone());
            let store = Store::new(1 << 20);
            let question = Question::of(&Method::GET, &value, &"/".parse().unwrap(), &HeaderMap::new());
            if let Some(stored) = store.answered(at(0), &question, &RULES, StatusCode::OK, &headers).and_then(Recorder::end) {
                let asked = Question::of(&Method::GET, &value, &"/".parse().unwrap(), &headers);
                let _ = store.look(at(1), &asked, &RULES);
                let status = stored.response(at(1), &asked, &KEPT).status().as_u16();
                prop_assert!([200, 206, 416].contains(&status));
            }
        }
    }
}
