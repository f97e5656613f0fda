//! What idempotency keys mean beside other policies, deadlines and protocols: nothing is done twice by way of any of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use common::http2::{self, Frames};
use common::{Client, Reply, Running, Upstream, answer, eventually};

/// How often an upstream was asked.
type Asked = Arc<AtomicUsize>;

/// An upstream that counts, and then reads and closes, or answers with what `says` makes of the count.
fn upstream(says: impl Fn(usize) -> Option<String> + Send + Sync + 'static) -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let count = asked.clone();
    let upstream = Upstream::serving(move |_, mut conn| {
        while conn.request().is_some() {
            let Some(answer) = says(count.fetch_add(1, Ordering::SeqCst) + 1) else { return };
            conn.send(answer);
        }
    });
    (upstream.address, asked)
}

/// Nobody listens there.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A proxy with a route that honours keys by `rules`, before `app`. `more` comes before its tables.
fn proxy(app: SocketAddr, route: &str, rules: &str) -> Running {
    with(app, "", route, rules)
}

fn with(app: SocketAddr, more: &str, route: &str, rules: &str) -> Running {
    Running::start(&format!(
        "[idempotency]\nstore = \"memory\"\n{more}\n[upstream.app]\nendpoints = \"http://{app}\"\nbreaker.mode = \"off\"\n\
         deadline = \"5s\"\n[[route]]\nname = \"orders\"\nupstream = \"app\"\nclient_key = \"header:x-client\"\n{route}\n\
         [route.idempotency]\n{rules}\n"
    ))
}

fn post(proxy: &Running, headers: &str, body: &str) -> Reply {
    proxy.client().request("POST", "/orders", headers, body.as_bytes())
}

const KEY: &str = "idempotency-key: k\r\n";

fn is_problem(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{} {}", reply.head, reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
}

fn times(asked: &Asked) -> usize {
    asked.load(Ordering::SeqCst)
}

/// Something that waits until the test says so.
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

/// The route's other upstream, as configuration.
fn other(at: SocketAddr) -> String {
    format!("[upstream.other]\nendpoints = \"http://{at}\"\n")
}

const SUBSTITUTE: &str = "[route.substitute]\nupstream = \"other\"";

#[test]
fn no_substitute_is_asked_for_what_has_a_key() {
    let (substitute, asked) = upstream(|_| Some(answer(201, "", "done")));
    let (broken, _) = upstream(|_| None);
    let (failing, _) = upstream(|_| Some(answer(500, "", "broken")));
    // Free, unknown, and free by the upstream's word.
    for (app, expected) in [(nobody(), [503, 503]), (broken, [503, 409]), (failing, [503, 503])] {
        let proxy = with(app, &other(substitute), SUBSTITUTE, "");
        let got = [(); 2].map(|()| post(&proxy, KEY, "a").status);
        assert_eq!(got, expected);
    }
    assert_eq!(times(&asked), 0, "it knows nothing of the key");
}

#[test]
fn no_substitute_is_asked_for_what_the_doors_refuse_under_a_key() {
    let (substitute, asked) = upstream(|_| Some(answer(201, "", "done")));
    let (app, _) = upstream(|_| Some(answer(201, "", "done")));
    let route = format!("{SUBSTITUTE}\n[route.rate]\ncalls = 1\nper = \"1h\"\nburst = 1\n");
    let proxy = with(app, &other(substitute), &route, "");
    assert_eq!(post(&proxy, "idempotency-key: a\r\n", "a").status, 201);
    assert_eq!(post(&proxy, "idempotency-key: b\r\n", "a").status, 429);
    assert_eq!(times(&asked), 0);
}

#[test]
fn a_substitute_is_asked_without_a_key_only_if_nothing_was_done() {
    let (substitute, asked) = upstream(|_| Some(answer(201, "", "done")));
    let proxy = with(nobody(), &other(substitute), SUBSTITUTE, "");
    assert_eq!(post(&proxy, "", "a").status, 201);
    assert_eq!(times(&asked), 1);
    let (broken, reached) = upstream(|_| None);
    let proxy = with(broken, &other(substitute), SUBSTITUTE, "");
    // Without a body nothing else would keep it from being sent again.
    assert_eq!(post(&proxy, "", "").status, 503);
    assert_eq!((times(&reached), times(&asked)), (1, 1));
}

#[test]
fn a_header_that_is_not_honoured_here_is_no_key() {
    let (app, asked) = upstream(|_| None);
    let proxy = proxy(app, "", "header = \"x-key\"");
    assert_eq!(post(&proxy, KEY, "a").status, 502);
    assert_eq!(times(&asked), 1, "it may have had its effect");
}

/// An upstream whose answers stand still in the middle until the gate opens.
fn dripping(gate: &Gate) -> (SocketAddr, Asked) {
    let (asked, gate) = (Asked::default(), gate.clone());
    let count = asked.clone();
    let upstream = Upstream::serving(move |_, mut conn| {
        while conn.request().is_some() {
            count.fetch_add(1, Ordering::SeqCst);
            conn.send("HTTP/1.1 201 X\r\ncontent-length: 10\r\n\r\nabcde");
            gate.pass();
            conn.send("fghij");
        }
    });
    (upstream.address, asked)
}

#[test]
fn an_answer_that_takes_longer_than_its_call_may_is_passed_on_and_not_kept() {
    for unknown in ["refuse", "retry"] {
        let gate = Gate::default();
        let (app, asked) = dripping(&gate);
        let proxy = proxy(app, "", &format!("unknown = \"{unknown}\"\nlease = \"10s\""));
        let mut first = proxy.client();
        first.send("POST /orders HTTP/1.1\r\nhost: test\r\nidempotency-key: k\r\nx-seaworthy-timeout-ms: 2000\r\ncontent-length: 1\r\n\r\na");
        // It has its head when the call's time is over, long before the lease is.
        assert_eq!(first.head().status, 201);
        let second = post(&proxy, KEY, "a");
        is_problem(&second, 409);
        assert!(second.text().contains("answered with 201"), "{}", second.text());
        gate.open();
        assert_eq!(first.bytes(10), b"abcdefghij");
        assert_eq!(times(&asked), 1);
    }
}

#[test]
fn waiting_for_another_ends_with_the_deadline() {
    let gate = Gate::default();
    let waits = gate.clone();
    let (app, asked) = upstream(move |_| {
        waits.pass();
        Some(answer(200, "", "done"))
    });
    let proxy = proxy(app, "", "busy = \"10s\"");
    let mut first = proxy.client();
    first.send("POST /orders HTTP/1.1\r\nhost: test\r\nidempotency-key: k\r\ncontent-length: 1\r\n\r\na");
    eventually("the first arrives", || times(&asked) == 1);
    is_problem(&post(&proxy, &format!("{KEY}x-seaworthy-timeout-ms: 300\r\n"), "a"), 504);
    gate.open();
    assert_eq!(first.reply().text(), "done");
}

#[test]
fn waiting_for_another_ends_by_itself() {
    let gate = Gate::default();
    let waits = gate.clone();
    let (app, asked) = upstream(move |_| {
        waits.pass();
        Some(answer(200, "", "done"))
    });
    let proxy = proxy(app, "", "busy = \"200ms\"");
    let mut first = proxy.client();
    first.send("POST /orders HTTP/1.1\r\nhost: test\r\nidempotency-key: k\r\ncontent-length: 1\r\n\r\na");
    eventually("the first arrives", || times(&asked) == 1);
    let second = post(&proxy, KEY, "a");
    is_problem(&second, 409);
    assert_eq!(second.header("retry-after"), Some("1"));
    gate.open();
    assert_eq!(first.reply().text(), "done");
}

#[test]
fn a_body_that_does_not_come_ends_with_the_deadline() {
    let (app, asked) = upstream(|_| Some(answer(200, "", "done")));
    let proxy = proxy(app, "", "");
    let mut client = proxy.client();
    client.send("POST /orders HTTP/1.1\r\nhost: test\r\nidempotency-key: k\r\nx-seaworthy-timeout-ms: 300\r\ncontent-length: 10\r\n\r\na");
    is_problem(&client.reply(), 504);
    assert_eq!(times(&asked), 0);
}

#[test]
fn a_body_of_very_many_pieces_is_one_body() {
    let upstream = Upstream::answering(|_, body| answer(200, "", &body.len().to_string()));
    let proxy = proxy(upstream.address, "", "");
    let mut client = proxy.client();
    client.send(
        "POST /orders HTTP/1.1\r\nhost: test\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    for _ in 0..50 {
        client.send("1\r\na\r\n".repeat(1000));
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.reply().text(), "50000");
    let whole = "a".repeat(50_000);
    let again = post(&proxy, KEY, &whole);
    assert_eq!((again.text(), again.header("idempotent-replayed")), ("50000", Some("true")));
}

#[test]
fn what_was_too_long_to_keep_is_told_as_long_as_it_was() {
    let (app, _) = upstream(|_| Some(answer(200, "", &"x".repeat(500_000))));
    let proxy = proxy(app, "", "answer_bytes = \"128KiB\"");
    assert_eq!(post(&proxy, KEY, "a").body.len(), 500_000);
    let again = post(&proxy, KEY, "a");
    assert!(again.text().contains("500000 bytes"), "{}", again.text());
}

#[test]
fn an_answer_for_which_the_store_has_no_room_is_passed_on_and_not_kept() {
    // The memory store holds 256 MiB of all together.
    let long = "x".repeat(60 << 20);
    let (app, asked) = upstream(move |_| Some(answer(200, "", &long)));
    let proxy = proxy(app, "", "answer_bytes = \"64MiB\"\nunknown = \"retry\"");
    for n in 1..=5 {
        let first = post(&proxy, &format!("idempotency-key: {n}\r\n"), "a");
        assert_eq!((first.status, first.body.len()), (200, 60 << 20));
    }
    let again = post(&proxy, "idempotency-key: 1\r\n", "a");
    assert_eq!((again.status, again.body.len()), (200, 60 << 20));
    is_problem(&post(&proxy, "idempotency-key: 5\r\n", "a"), 409);
    assert_eq!(times(&asked), 5, "it was carried out, and that is known");
}

#[test]
fn the_books_say_what_the_client_got() {
    // The rest never comes.
    let broken = Upstream::serving(move |_, mut conn| {
        conn.request();
        conn.send("HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nhalf");
    });
    let proxy = proxy(broken.address, "", "");
    is_problem(&post(&proxy, KEY, "a"), 502);
    let metrics = Client::connect(proxy.admin.unwrap()).get_as("/metrics", "localhost");
    let line = |status: &str| {
        let start = format!("seaworthy_requests_total{{route=\"orders\",status=\"{status}\"}} ");
        metrics.text().lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned))
    };
    assert_eq!(
        (line("5xx").as_deref(), line("2xx").as_deref()),
        (Some("1"), Some("0")),
        "{}",
        metrics.text()
    );
}

#[test]
fn trailers_are_neither_kept_nor_announced() {
    let upstream = Upstream::answering(|_, _| {
        "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n".into()
    });
    let proxy = proxy(upstream.address, "", "");
    for _ in 0..2 {
        let reply = post(&proxy, KEY, "a");
        assert_eq!((reply.text(), reply.header("trailer")), ("ab", None));
    }
}

#[test]
fn a_replay_says_why_it_was_answered_so() {
    let (app, _) = upstream(|_| Some(answer(200, "", "done")));
    let proxy = proxy(app, "", "");
    let headers = format!("{KEY}x-seaworthy-why: 1\r\n");
    post(&proxy, &headers, "a");
    let again = post(&proxy, &headers, "a");
    assert!(again.header("x-seaworthy-why").unwrap().contains("kept result"), "{}", again.head);
}

#[test]
fn what_is_past_its_retention_is_carried_out_anew() {
    let (app, asked) = upstream(|n| Some(answer(200, "", &n.to_string())));
    let proxy = Running::start(&format!(
        "[idempotency]\nstore = \"memory\"\ntimeout = \"100ms\"\n[upstream.app]\nendpoints = \"http://{app}\"\ndeadline = \"200ms\"\n\
         [[route]]\nupstream = \"app\"\n[route.idempotency]\nlease = \"1500ms\"\nretention = \"3s\"\n"
    ));
    assert_eq!(post(&proxy, KEY, "a").text(), "1");
    assert_eq!(post(&proxy, KEY, "a").text(), "1");
    eventually("it is forgotten", || post(&proxy, KEY, "a").text() == "2");
    assert_eq!(times(&asked), 2);
}

#[test]
fn a_key_is_required_of_some_methods_only() {
    let (app, asked) = upstream(|_| Some(answer(200, "", "done")));
    let proxy = proxy(app, "", "methods = [\"POST\", \"PATCH\"]\nrequired = [\"PATCH\"]");
    is_problem(&proxy.client().request("PATCH", "/orders", "", b"a"), 400);
    assert_eq!(times(&asked), 0);
    assert_eq!(post(&proxy, "", "a").status, 200);
    assert_eq!(proxy.client().request("GET", "/orders", KEY, b"").status, 200);
    assert_eq!(proxy.client().request("GET", "/orders", KEY, b"").header("idempotent-replayed"), None);
}

#[test]
fn over_http2_it_is_the_same() {
    let (app, asked) = upstream(|n| Some(answer(201, "", &n.to_string())));
    let proxy = proxy(app, "", "");
    let address = proxy.address;
    http2::run(async move {
        let mut client = http2::connect(address).await;
        for replayed in [None, Some("true")] {
            let mut request = http2::request("POST", "/orders", Frames::of(&["a"], &[]));
            request.headers_mut().insert("idempotency-key", "\"k\"".parse().unwrap());
            let reply = http2::send(&mut client, request).await;
            assert_eq!((reply.text(), reply.field("idempotent-replayed")), ("1", replayed));
        }
    });
    assert_eq!(times(&asked), 1);
}

#[test]
fn grpc_can_have_no_key() {
    let (app, asked) = upstream(|_| Some(answer(200, "", "done")));
    let proxy = proxy(app, "", "");
    let address = proxy.address;
    http2::run(async move {
        let mut client = http2::connect(address).await;
        let mut request = http2::grpc("/shop.Orders/Place", Frames::of(&["a"], &[]));
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        let reply = http2::send(&mut client, request).await;
        assert_eq!(reply.field("grpc-status"), Some("3"), "INVALID_ARGUMENT");
    });
    assert_eq!(times(&asked), 0);
}
