//! Requests that are carried out once however often they come: the draft's rules (draft-ietf-httpapi-idempotency-key-header-07),
//! each by its name, and what this proxy adds to them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use common::{Client, Reply, Running, Upstream, answer, eventually, header};

/// An upstream that says what it was asked, with how often that was.
struct Origin {
    upstream: Upstream,
    asked: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

fn origin(says: impl Fn(usize, &[u8]) -> String + Send + Sync + 'static) -> Origin {
    let (asked, heads) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default());
    let (count, seen) = (asked.clone(), heads.clone());
    let upstream = Upstream::answering(move |head, body| {
        seen.lock().unwrap().push(head.to_owned());
        says(count.fetch_add(1, Ordering::SeqCst) + 1, body)
    });
    Origin { upstream, asked, heads }
}

impl Origin {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Counts, and answers with the count.
fn counting() -> Origin {
    origin(|n, body| {
        let headers = "location: /orders/7\r\nset-cookie: s=1\r\ncontent-type: text/plain\r\n";
        answer(201, headers, &format!("{n}:{}", String::from_utf8_lossy(body)))
    })
}

fn proxy(origin: &Origin, rules: &str) -> Running {
    Running::start(&format!(
        "[idempotency]\nstore = \"memory\"\n[upstream.app]\nendpoints = \"http://{}\"\nbreaker.mode = \"off\"\n\
         deadline = \"5s\"\n[[route]]\nname = \"orders\"\nupstream = \"app\"\nclient_key = \"header:x-client\"\n\
         [route.idempotency]\n{rules}\n",
        origin.upstream.address
    ))
}

fn post(proxy: &Running, key: &str, body: &str) -> Reply {
    let headers = format!("idempotency-key: {key}\r\n");
    proxy.client().request("POST", "/orders", &headers, body.as_bytes())
}

fn is_problem(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{} {}", reply.head, reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert!(reply.text().contains("\"detail\""), "{}", reply.text());
}

#[test]
fn the_first_request_is_carried_out() {
    let origin = counting();
    let proxy = proxy(&origin, "");
    let first = post(&proxy, "\"k1\"", "a");
    assert_eq!((first.status, first.text()), (201, "1:a"));
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(first.header("set-cookie"), Some("s=1"), "the first answer is passed on whole");
}

#[test]
fn a_completed_duplicate_is_answered_with_the_first_result() {
    let origin = counting();
    let proxy = proxy(&origin, "");
    post(&proxy, "\"k1\"", "a");
    for _ in 0..3 {
        let again = post(&proxy, "\"k1\"", "a");
        assert_eq!((again.status, again.text()), (201, "1:a"));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.header("location"), Some("/orders/7"));
        assert_eq!(again.header("content-type"), Some("text/plain"));
        assert_eq!(again.header("content-length"), Some("3"));
        assert_eq!(again.header("set-cookie"), None, "only chosen headers are replayed");
    }
    assert_eq!(origin.asked(), 1);
}

#[test]
fn an_error_of_the_client_is_a_result_as_well() {
    let origin = origin(|_, _| answer(422, "", "no such article"));
    let proxy = proxy(&origin, "");
    assert_eq!(post(&proxy, "k", "a").status, 422);
    let again = post(&proxy, "k", "a");
    assert_eq!((again.status, again.text()), (422, "no such article"));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(origin.asked(), 1);
}

#[test]
fn quoted_and_bare_keys_are_one() {
    let origin = counting();
    let proxy = proxy(&origin, "");
    post(&proxy, "8e03978e-40d5", "a");
    assert_eq!(post(&proxy, "\"8e03978e-40d5\"", "a").header("idempotent-replayed"), Some("true"));
}

#[test]
fn a_missing_key_is_400_where_one_is_required() {
    let origin = counting();
    let proxy = proxy(&origin, "required = true");
    let reply = proxy.client().request("POST", "/orders", "", b"a");
    is_problem(&reply, 400);
    assert!(reply.text().contains("idempotency-key"), "{}", reply.text());
    assert_eq!(proxy.client().get("/orders").status, 201, "other methods need none");
    assert_eq!(origin.asked(), 1);
}

#[test]
fn a_missing_key_is_nothing_where_none_is_required() {
    let origin = counting();
    let proxy = proxy(&origin, "");
    for n in 1..=2 {
        let reply = proxy.client().request("POST", "/orders", "", b"a");
        assert_eq!((reply.status, reply.text()), (201, &*format!("{n}:a")));
    }
}

#[test]
fn a_malformed_key_is_400_before_anything_is_looked_up() {
    let origin = counting();
    let proxy = proxy(&origin, "");
    let long = "k".repeat(256);
    for key in ["", "\"\"", "\"open", "a b", "\"a\"; b=1", &long] {
        is_problem(&post(&proxy, key, "a"), 400);
    }
    let two = "idempotency-key: a\r\nidempotency-key: b\r\n";
    is_problem(&proxy.client().request("POST", "/orders", two, b"a"), 400);
    assert_eq!(origin.asked(), 0);
}

#[test]
fn another_payload_under_the_same_key_is_422() {
    let origin = counting();
    let proxy = proxy(&origin, "fingerprint_headers = \"x-unit\"");
    post(&proxy, "k", "a");
    is_problem(&post(&proxy, "k", "b"), 422);
    let elsewhere = proxy.client().request("POST", "/orders?dry=1", "idempotency-key: k\r\n", b"a");
    is_problem(&elsewhere, 422);
    let counted = proxy.client().request("POST", "/orders", "idempotency-key: k\r\nx-unit: EUR\r\n", b"a");
    is_problem(&counted, 422);
    let other = proxy.client().request("POST", "/orders", "idempotency-key: k\r\nx-other: 1\r\n", b"a");
    assert_eq!(other.header("idempotent-replayed"), Some("true"), "headers that do not count do not");
    assert_eq!(origin.asked(), 1);
}

#[test]
fn keys_of_two_clients_are_two() {
    let origin = counting();
    let proxy = proxy(&origin, "");
    for (client, expected) in [("ann", "1:a"), ("bob", "2:a"), ("ann", "1:a")] {
        let headers = format!("idempotency-key: k\r\nx-client: {client}\r\n");
        assert_eq!(proxy.client().request("POST", "/orders", &headers, b"a").text(), expected);
    }
}

/// A door that opens once.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
    }
}

fn gated(gate: &Gate) -> Origin {
    let gate = gate.clone();
    origin(move |n, _| {
        gate.pass();
        answer(200, "", &n.to_string())
    })
}

fn send(proxy: &Running, key: &str) -> Client {
    let mut client = proxy.client();
    client.send(format!(
        "POST /orders HTTP/1.1\r\nhost: test\r\nidempotency-key: {key}\r\ncontent-length: 1\r\n\r\na"
    ));
    client
}

#[test]
fn a_request_in_flight_is_409_with_a_time_to_come_back() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let proxy = proxy(&origin, "");
    let mut first = send(&proxy, "k");
    eventually("the first arrives", || origin.asked() == 1);
    // Its body is the first's; what it asks for is as well, whose answer is not there yet.
    let second = proxy.client().request("POST", "/orders", "idempotency-key: k\r\n", b"a");
    is_problem(&second, 409);
    assert_eq!(second.header("retry-after"), Some("1"));
    gate.open();
    assert_eq!(first.reply().text(), "1");
    assert_eq!(origin.asked(), 1);
}

#[test]
fn a_request_in_flight_is_waited_for_by_choice() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let proxy = proxy(&origin, "busy = \"10s\"");
    let mut clients: Vec<_> = (0..20).map(|_| send(&proxy, "k")).collect();
    eventually("the first arrives", || origin.asked() == 1);
    gate.open();
    let replies: Vec<_> = clients.iter_mut().map(Client::reply).collect();
    assert!(replies.iter().all(|reply| reply.text() == "1"));
    let replayed = replies.iter().filter(|reply| reply.header("idempotent-replayed") == Some("true"));
    assert_eq!(replayed.count(), 19);
    assert_eq!(origin.asked(), 1);
}

#[test]
fn a_client_that_leaves_while_another_runs_begins_nothing() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = origin(move |n, _| {
        waits.pass();
        if n == 1 { answer(500, "", "broken") } else { answer(200, "", "done") }
    });
    let proxy = proxy(&origin, "busy = \"10s\"");
    let mut first = send(&proxy, "k");
    eventually("the first arrives", || origin.asked() == 1);
    let second = send(&proxy, "k");
    // There is one worker: once it has answered others who came later, the second waits.
    for _ in 0..2 {
        is_problem(&post(&proxy, "a b", "a"), 400);
    }
    drop(second);
    eventually("only the first is there", || {
        let metrics = Client::connect(proxy.admin.unwrap()).get_as("/metrics", "localhost");
        metrics.text().lines().any(|line| line == "seaworthy_connections 1")
    });
    gate.open();
    assert_eq!(first.reply().status, 500);
    let third = post(&proxy, "k", "a");
    assert_eq!((third.text(), third.header("idempotent-replayed")), ("done", None));
    let tokens: Vec<_> = origin.heads.lock().unwrap().iter().map(|head| fencing(head)).collect();
    assert_eq!(tokens, ["1", "2"]);
}

#[test]
fn a_client_that_leaves_finds_its_result() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let proxy = proxy(&origin, "");
    let first = send(&proxy, "k");
    eventually("the first arrives", || origin.asked() == 1);
    drop(first);
    gate.open();
    eventually("the result is kept", || {
        let again = post(&proxy, "k", "a");
        again.header("idempotent-replayed") == Some("true") && again.text() == "1"
    });
    assert_eq!(origin.asked(), 1);
}

#[test]
fn an_error_of_the_server_sets_the_key_free() {
    let origin = origin(|n, _| if n == 1 { answer(500, "", "broken") } else { answer(200, "", "done") });
    let proxy = proxy(&origin, "");
    assert_eq!(post(&proxy, "k", "a").status, 500);
    assert_eq!(post(&proxy, "k", "a").text(), "done");
    assert_eq!(post(&proxy, "k", "a").header("idempotent-replayed"), Some("true"));
    let tokens: Vec<_> = origin.heads.lock().unwrap().iter().map(|head| fencing(head)).collect();
    assert_eq!(tokens, ["1", "2"], "a token grows with every reservation");
}

fn fencing(head: &str) -> String {
    header(head, "x-seaworthy-fencing-token").unwrap_or("none").to_owned()
}

#[test]
fn an_error_of_the_server_is_kept_by_choice() {
    let origin = origin(|_, _| answer(500, "", "broken"));
    let proxy = proxy(&origin, "keep = \"all\"");
    post(&proxy, "k", "a");
    let again = post(&proxy, "k", "a");
    assert_eq!((again.status, again.header("idempotent-replayed")), (500, Some("true")));
    assert_eq!(origin.asked(), 1);
}

#[test]
fn a_gateways_word_that_it_heard_nothing_is_unknown() {
    let origin = origin(|n, _| if n == 1 { answer(504, "", "no answer") } else { answer(200, "", "done") });
    let proxy = proxy(&origin, "");
    assert_eq!(post(&proxy, "k", "a").status, 504);
    is_problem(&post(&proxy, "k", "a"), 409);
    assert_eq!(origin.asked(), 1);
}

#[test]
fn what_stands_in_for_an_answer_is_not_replayed_as_one() {
    let origin = origin(|_, _| answer(500, "", "broken"));
    let proxy = proxy(&origin, "keep = \"all\"\n[route.fallback]\nstatus = 202\nbody = \"later\"");
    let first = post(&proxy, "k", "a");
    assert_eq!((first.status, first.text()), (202, "later"), "{}", first.head);
    is_problem(&post(&proxy, "k", "a"), 409);
    assert_eq!(origin.asked(), 1);
}

#[test]
fn what_surely_was_not_sent_sets_the_key_free() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let toml = format!(
        "[idempotency]\nstore = \"memory\"\n[upstream.app]\nendpoints = \"http://{port}\"\nbreaker.mode = \"off\"\n\
         retry.attempts = 1\ndeadline = \"5s\"\n[[route]]\nupstream = \"app\"\n[route.idempotency]\n"
    );
    let proxy = Running::start(&toml);
    for _ in 0..2 {
        let reply = post(&proxy, "k", "a");
        assert!(reply.text().contains("could not be reached"), "{}", reply.text());
    }
}

/// An upstream that takes the first request and breaks off.
fn breaking() -> Origin {
    let asked = Arc::<AtomicUsize>::default();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let (count, seen) = (asked.clone(), heads.clone());
    let upstream = Upstream::serving(move |_, mut conn| {
        while let Some((head, _)) = conn.request() {
            seen.lock().unwrap().push(head);
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                return;
            }
            conn.send(answer(200, "", "done"));
        }
    });
    Origin { upstream, asked, heads }
}

#[test]
fn what_is_unknown_is_answered_as_unknown() {
    let origin = breaking();
    let proxy = proxy(&origin, "");
    assert_eq!(post(&proxy, "k", "a").status, 502);
    for _ in 0..2 {
        let again = post(&proxy, "k", "a");
        is_problem(&again, 409);
        assert!(again.text().contains("nobody knows"), "{}", again.text());
    }
    assert_eq!(origin.asked(), 1, "nothing that may have had an effect is repeated");
}

#[test]
fn what_is_unknown_is_tried_again_by_choice() {
    let origin = breaking();
    let proxy = proxy(&origin, "unknown = \"retry\"");
    // The retry goes under the same key and token: it is the same operation.
    assert_eq!(post(&proxy, "k", "a").text(), "done");
    assert_eq!(post(&proxy, "k", "a").header("idempotent-replayed"), Some("true"));
    let heads = origin.heads.lock().unwrap();
    assert!(heads.iter().all(|head| header(head, "idempotency-key") == Some("k")), "{heads:?}");
    assert_eq!(heads.iter().map(|head| fencing(head)).collect::<Vec<_>>(), ["1", "1"]);
}

#[test]
fn a_clients_own_token_does_not_pass() {
    let origin = counting();
    let proxy = proxy(&origin, "");
    let headers = "idempotency-key: k\r\nx-seaworthy-fencing-token: 99\r\n";
    proxy.client().request("POST", "/orders", headers, b"a");
    proxy.client().request("POST", "/orders", "x-seaworthy-fencing-token: 99\r\n", b"a");
    proxy.client().request("GET", "/orders", "x-seaworthy-fencing-token: 99\r\n", b"");
    let heads = origin.heads.lock().unwrap();
    assert_eq!(heads.iter().map(|head| fencing(head)).collect::<Vec<_>>(), ["1", "none", "none"]);
}

#[test]
fn long_answers_are_replayed_from_pieces() {
    let long: String = (0..300_000).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    let says = long.clone();
    let origin = origin(move |_, _| answer(200, "", &says));
    let proxy = proxy(&origin, "");
    assert_eq!(post(&proxy, "k", "a").text(), long);
    let again = post(&proxy, "k", "a");
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("content-length"), Some("300000"));
    assert_eq!(again.text(), long);
    assert_eq!(origin.asked(), 1);
}

#[test]
fn an_answer_that_is_too_long_is_passed_on_and_never_asked_for_again() {
    let long = "x".repeat(500_000);
    let says = long.clone();
    let headers =
        "location: /orders/7\r\nlink: </a>\r\nlink: </b>\r\ncontent-encoding: br\r\netag: \"7\"\r\n";
    let origin = origin(move |_, _| answer(201, headers, &says));
    let proxy = proxy(&origin, "answer_bytes = \"128KiB\"");
    assert_eq!(post(&proxy, "k", "a").text(), long);
    let again = post(&proxy, "k", "a");
    is_problem(&again, 409);
    assert!(again.text().contains("answered with 201"), "{}", again.text());
    assert_eq!(again.header("location"), Some("/orders/7"));
    assert_eq!(again.head.matches("link: ").count(), 2, "{}", again.head);
    assert_eq!(
        (again.header("content-encoding"), again.header("etag")),
        (None, None),
        "of a body that is not there"
    );
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(origin.asked(), 1);
}

#[test]
fn a_request_that_is_too_long_is_413() {
    let origin = counting();
    let proxy = proxy(&origin, "request_bytes = \"1KiB\"");
    is_problem(&post(&proxy, "k", &"x".repeat(2000)), 413);
    assert_eq!(origin.asked(), 0);
}

#[test]
fn an_answer_without_a_body_is_replayed() {
    let origin = origin(|_, _| "HTTP/1.1 204 No Content\r\n\r\n".to_owned());
    let proxy = proxy(&origin, "");
    assert_eq!(post(&proxy, "k", "").status, 204);
    let again = post(&proxy, "k", "");
    assert_eq!((again.status, again.header("idempotent-replayed")), (204, Some("true")));
}

#[test]
fn an_answer_that_breaks_off_is_unknown() {
    let asked = Arc::<AtomicUsize>::default();
    let count = asked.clone();
    let upstream = Upstream::serving(move |_, mut conn| {
        if conn.request().is_some() {
            count.fetch_add(1, Ordering::SeqCst);
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
        }
    });
    let origin = Origin { upstream, asked, heads: Arc::default() };
    let proxy = proxy(&origin, "");
    assert_eq!(post(&proxy, "k", "a").status, 502);
    is_problem(&post(&proxy, "k", "a"), 409);
    assert_eq!(origin.asked(), 1);
}

#[test]
fn a_store_that_is_full_is_503_or_passed_by_choice() {
    let origin = counting();
    let small = |rules: &str| {
        Running::start(&format!(
            "[idempotency]\nstore = \"memory\"\nrecords = 1\n[upstream.app]\nendpoints = \"http://{}\"\n\
             deadline = \"5s\"\n[[route]]\nupstream = \"app\"\n[route.idempotency]\n{rules}\n",
            origin.upstream.address
        ))
    };
    let closed = small("");
    assert_eq!(post(&closed, "k1", "a").status, 201);
    let refused = post(&closed, "k2", "a");
    is_problem(&refused, 503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(post(&closed, "k1", "a").header("idempotent-replayed"), Some("true"));
    let open = small("when_down = \"allow\"");
    assert_eq!([post(&open, "k1", "a").status, post(&open, "k2", "a").status], [201, 201]);
}

#[test]
fn pipelined_duplicates_on_one_connection_are_one() {
    let origin = counting();
    let proxy = proxy(&origin, "");
    let mut client = proxy.client();
    let request = "POST /orders HTTP/1.1\r\nhost: test\r\nidempotency-key: k\r\ncontent-length: 1\r\n\r\na";
    client.stream.write_all(request.repeat(3).as_bytes()).unwrap();
    for _ in 0..3 {
        assert_eq!(client.reply().text(), "1:a");
    }
    assert_eq!(origin.asked(), 1);
}
