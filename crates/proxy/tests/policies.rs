//! The policies, seen from outside.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{Running, Upstream, answer, eventually, header, ok};

/// An upstream that answers the first `n` requests with `bad`, then 200 with what it received.
fn failing_first(n: usize, bad: String) -> Upstream {
    let seen = AtomicUsize::new(0);
    Upstream::answering(move |head, body| {
        if seen.fetch_add(1, Ordering::SeqCst) < n {
            bad.clone()
        } else {
            ok(&format!("{head}{}", String::from_utf8_lossy(body)))
        }
    })
}

/// An address at which nobody listens: one outside of the range from which ports are given.
fn nobody() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

#[test]
fn a_failure_is_retried_with_the_whole_body_and_its_number() {
    let upstream = failing_first(2, answer(503, "", ""));
    let proxy = Running::before(&[upstream.address], "");
    let body = "x".repeat(50_000);
    let reply = proxy.client().request("PUT", "/", "x-seaworthy-why: 1\r\n", body.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.head);
    assert_eq!(header(reply.text(), "x-seaworthy-attempt"), Some("3"));
    assert_eq!(header(reply.text(), "content-length"), Some("50000"));
    assert!(reply.text().ends_with(&body));
    assert!(reply.header("x-seaworthy-why").unwrap().contains("is retried"), "{}", reply.head);
}

#[test]
fn a_chunked_body_is_sent_again_with_its_trailers() {
    let upstream = failing_first(1, answer(500, "", ""));
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send(
        "PUT / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntrailer: x-in\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    client.send("3\r\nabc\r\n2\r\nde\r\n0\r\nx-in: 1\r\n\r\n");
    let reply = client.reply();
    assert!(reply.text().ends_with("\r\n\r\nabcde[x-in: 1]"), "{}", reply.text());
}

#[test]
fn a_body_that_is_not_kept_is_not_sent_again() {
    let upstream = failing_first(1, answer(500, "", ""));
    let proxy = Running::start(&format!(
        "[limits]\nbody_replay_bytes = \"1KiB\"\n[upstream.app]\nendpoints = \"http://{}\"",
        upstream.address
    ));
    let reply = proxy.client().request("PUT", "/", "x-seaworthy-why: 1\r\n", &[b'x'; 5000]);
    assert_eq!(reply.status, 500);
    assert!(reply.header("x-seaworthy-why").unwrap().contains("body was too large"), "{}", reply.head);
    let reply = proxy.client().request("PUT", "/", "", &[b'x'; 5000]);
    assert_eq!(reply.status, 200, "it goes up all the same");
}

#[test]
fn what_might_be_done_twice_is_not_retried() {
    let upstream = failing_first(1, answer(500, "", ""));
    let proxy = Running::before(&[upstream.address], "");
    let reply = proxy.client().request("POST", "/", "x-seaworthy-why: 1\r\n", b"pay");
    assert_eq!(reply.status, 500);
    assert!(reply.header("x-seaworthy-why").unwrap().contains("not safe to repeat"), "{}", reply.head);
}

#[test]
fn a_post_with_a_key_is_retried() {
    let upstream = failing_first(1, answer(500, "", ""));
    let proxy = Running::before(&[upstream.address], "");
    assert_eq!(proxy.client().request("POST", "/", "idempotency-key: \"k\"\r\n", b"pay").status, 200);
}

#[test]
fn another_hops_retry_is_not_multiplied() {
    let upstream = failing_first(1, answer(500, "", ""));
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-seaworthy-attempt: 2\r\n\r\n");
    assert_eq!(client.reply().status, 500);
}

#[test]
fn a_retry_goes_elsewhere() {
    let counts = Arc::new(Mutex::new(Vec::new()));
    let bad_or_good = |name: &'static str| {
        let counts = counts.clone();
        Upstream::answering(move |_, _| {
            let mut counts = counts.lock().unwrap();
            counts.push(name);
            if counts.len() == 1 { answer(500, "", "") } else { ok("") }
        })
    };
    let (a, b) = (bad_or_good("a"), bad_or_good("b"));
    let proxy = Running::before(&[a.address, b.address], "");
    assert_eq!(proxy.client().get("/").status, 200);
    let counts = counts.lock().unwrap();
    assert_eq!(counts.len(), 2);
    assert_ne!(counts[0], counts[1]);
}

#[test]
fn a_dead_endpoint_is_not_noticed_while_another_lives() {
    let dead = nobody();
    let alive = Upstream::echo();
    let proxy = Running::before(&[dead, alive.address], "");
    let mut client = proxy.client();
    for _ in 0..30 {
        let reply = client.request("POST", "/", "x-seaworthy-why: 1\r\n", b"x");
        assert_eq!(reply.status, 200, "{} {}", reply.head, reply.text());
    }
}

#[test]
fn nobody_there_is_502_and_many_of_them_503() {
    let dead = nobody();
    let proxy = Running::before(&[dead], "retry.mode = \"off\"");
    let mut client = proxy.client();
    let reply = client.get("/");
    assert_eq!(reply.status, 502);
    assert!(reply.text().contains("could not be reached"), "{}", reply.text());
    for _ in 0..4 {
        client.get("/");
    }
    let reply = client.get("/");
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains("breaker"), "{}", reply.text());
    assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
}

#[test]
fn silence_is_504_when_the_time_is_up() {
    let upstream = Upstream::serving(|_, mut conn| conn.wait_for_end());
    let proxy = Running::before(&[upstream.address], "timeout.fixed = \"50ms\"\nretry.mode = \"off\"");
    let reply = proxy.client().get("/");
    assert_eq!(reply.status, 504);
    assert!(reply.text().contains("timed out after 50ms"), "{}", reply.text());
}

#[test]
fn a_clients_own_deadline_counts_and_is_passed_on() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-seaworthy-timeout-ms: 2000\r\n\r\n");
    let reply = client.reply();
    let left: u64 = header(reply.text(), "x-seaworthy-timeout-ms").unwrap().parse().unwrap();
    assert!((1..=2000).contains(&left), "{left}");
    let silent = Upstream::serving(|_, mut conn| conn.wait_for_end());
    let proxy = Running::before(&[silent.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-seaworthy-timeout-ms: 30\r\n\r\n");
    assert_eq!(client.reply().status, 504);
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-seaworthy-timeout-ms: soon\r\n\r\n");
    assert_eq!(client.reply().status, 400);
}

#[test]
fn a_slow_attempt_is_hedged_elsewhere_and_the_faster_wins() {
    // The first is fast while latencies are learned, then silent.
    let served = Arc::new(AtomicUsize::new(0));
    let make = || {
        let served = served.clone();
        Upstream::serving(move |_, mut conn| {
            while conn.head().is_some() {
                if served.fetch_add(1, Ordering::SeqCst) == 200 {
                    conn.wait_for_end();
                    return;
                }
                conn.send(ok("fast"));
            }
        })
    };
    let (a, b) = (make(), make());
    let proxy = Running::before(&[a.address, b.address], "hedge.mode = \"enforce\"");
    let mut client = proxy.client();
    eventually("a hedge wins", || {
        client.send("GET / HTTP/1.1\r\nhost: a\r\nx-seaworthy-why: 1\r\n\r\n");
        let reply = client.reply();
        assert_eq!(reply.status, 200);
        served.load(Ordering::SeqCst) > 201 && reply.header("x-seaworthy-why").unwrap().contains("is a hedge")
    });
}

#[test]
fn more_calls_than_the_limit_are_refused_at_once() {
    let upstream = Upstream::serving(|_, mut conn| conn.wait_for_end());
    let proxy = Running::before(&[upstream.address], "limit.max_in_flight = 1\nlimit.queue.size = 0");
    let mut first = proxy.client();
    first.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut second = proxy.client();
    eventually("the second is refused", || {
        second.send("GET / HTTP/1.1\r\nhost: a\r\nx-seaworthy-timeout-ms: 20\r\n\r\n");
        let reply = second.reply();
        reply.status == 503 && reply.header("retry-after") == Some("1")
    });
    // The first caller goes away, which frees its place.
    drop(first);
    eventually("there is a place again", || {
        second.send("GET / HTTP/1.1\r\nhost: a\r\nx-seaworthy-timeout-ms: 20\r\n\r\n");
        second.reply().status == 504
    });
}

#[test]
fn a_full_bulkhead_holds_back_and_lets_go() {
    let upstream = Upstream::serving(|_, mut conn| {
        while conn.head().is_some() {
            conn.send(ok("done"));
        }
    });
    let proxy = Running::before(&[upstream.address], "bulkhead.concurrency = 1\nbulkhead.queue = 100");
    let mut clients: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.reply().text(), "done");
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn the_fallback_answers_and_says_what_it_is() {
    let upstream = Upstream::answering(|_, _| answer(500, "", "broken"));
    let proxy = Running::start(&format!(
        "[upstream.app]\nendpoints = \"http://{}\"\n[[route]]\nupstream = \"app\"\n[route.fallback]\nbody = \"nothing today\"\n",
        upstream.address
    ));
    let reply = proxy.client().get("/");
    assert_eq!((reply.status, reply.text()), (200, "nothing today"));
    let degraded = reply.header("x-seaworthy-degraded").unwrap();
    assert!(degraded.starts_with("static; reason=\"was answered with an error\"; since=\"20"), "{degraded}");
}

#[test]
fn a_connection_that_was_closed_while_idle_is_nobodys_failure() {
    let upstream = Upstream::serving(|_, mut conn| {
        conn.head();
        conn.send(ok("once"));
    });
    let proxy = Running::before(&[upstream.address], "retry.mode = \"off\"");
    let mut client = proxy.client();
    for _ in 0..20 {
        // A POST would not be retried by any policy either.
        let reply = client.request("POST", "/", "", b"");
        assert!(reply.status == 200 || reply.status == 502, "{}", reply.head);
    }
    eventually("the closed connection is noticed", || client.request("POST", "/", "", b"").status == 200);
}

#[test]
fn an_answer_that_breaks_off_is_a_failure_and_seen_as_one() {
    let upstream = Upstream::serving(|_, mut conn| {
        conn.head();
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this");
    });
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.head().status, 200);
    assert_eq!(client.bytes(9), b"only this");
    assert!(client.is_closed());
    let mut operator = common::Client::connect(proxy.admin.unwrap());
    eventually("it is counted", || {
        let metrics = operator.get_as("/metrics", "localhost");
        metrics.text().contains("outcome=\"broken\"} 1")
            && metrics.text().contains("seaworthy_broken_answers_total")
    });
}

#[test]
fn the_fallback_answers_for_what_the_limit_refuses_and_the_record_says_so() {
    let upstream = Upstream::serving(|_, mut conn| conn.wait_for_end());
    let proxy = Running::start(&format!(
        "[upstream.app]\nendpoints = \"http://{}\"\nlimit.max_in_flight = 1\nlimit.queue.size = 0\n[[route]]\nupstream = \"app\"\n\
         [route.fallback]\nbody = \"nothing today\"\n",
        upstream.address
    ));
    let mut first = proxy.client();
    first.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut second = proxy.client();
    eventually("the limit refuses the second", || {
        second.send("GET / HTTP/1.1\r\nhost: a\r\nx-seaworthy-why: 1\r\nx-seaworthy-timeout-ms: 20\r\n\r\n");
        let reply = second.reply();
        assert_eq!((reply.status, reply.text()), (200, "nothing today"));
        reply.header("x-seaworthy-why").is_some_and(|why| why.contains("rejected by limit"))
    });
}
