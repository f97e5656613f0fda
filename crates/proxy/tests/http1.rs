//! HTTP/1.1 on both sides.

mod common;

use std::sync::atomic::Ordering;

use common::{Running, Upstream, answer, header, ok};

#[test]
fn a_request_goes_up_and_its_answer_comes_down() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    let reply = client.request("POST", "/a/b?c=d", "x-own: 1\r\n", b"hello");
    assert_eq!(reply.status, 200);
    assert!(reply.text().starts_with("POST /a/b?c=d HTTP/1.1\r\n"), "{}", reply.text());
    assert!(reply.text().ends_with("\r\n\r\nhello"));
    assert_eq!(header(reply.text(), "x-own"), Some("1"));
    assert_eq!(header(reply.text(), "host"), Some("test"));
    assert_eq!(reply.header("via"), Some("1.1 seaworthy"));
}

#[test]
fn one_upstream_connection_serves_many_requests() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    for n in 0..20 {
        assert_eq!(client.get(&format!("/{n}")).status, 200);
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn what_concerns_one_hop_stays_on_it() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send(
        "GET / HTTP/1.1\r\nhost: a.example:81\r\nconnection: x-hop, keep-alive\r\nx-hop: 1\r\nkeep-alive: timeout=3\r\n\
         proxy-authorization: secret\r\nte: trailers\r\nx-forwarded-for: 9.9.9.9\r\n\r\n",
    );
    let reply = client.reply();
    let seen = |name| header(reply.text(), name);
    for gone in ["x-hop", "connection", "keep-alive", "proxy-authorization"] {
        assert_eq!(seen(gone), None, "{gone}");
    }
    assert_eq!(seen("te"), Some("trailers"));
    assert_eq!(seen("x-forwarded-host"), Some("a.example:81"));
    assert_eq!(seen("x-forwarded-proto"), Some("http"));
    assert!(
        reply.text().contains("x-forwarded-for: 9.9.9.9\r\nx-forwarded-for: 127.0.0.1\r\n"),
        "{}",
        reply.text()
    );
    assert_eq!(seen("forwarded"), Some("for=127.0.0.1;host=\"a.example:81\";proto=http"));
    assert_eq!(seen("x-request-id").map(str::len), Some(32));
    assert_eq!(seen("traceparent").map(str::len), Some(55));
}

#[test]
fn ids_that_a_client_brings_are_kept() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut client = proxy.client();
    client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-request-id: mine-1\r\ntraceparent: {trace}\r\n\r\n"));
    let reply = client.reply();
    assert_eq!(header(reply.text(), "x-request-id"), Some("mine-1"));
    assert_eq!(header(reply.text(), "traceparent"), Some(trace));
}

#[test]
fn an_absolute_target_names_the_host() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send("GET http://real.example/x?y HTTP/1.1\r\nhost: other.example\r\n\r\n");
    let reply = client.reply();
    assert!(reply.text().starts_with("GET /x?y HTTP/1.1\r\n"));
    assert_eq!(header(reply.text(), "host"), Some("real.example"));
}

#[test]
fn head_has_no_body_and_keeps_its_length() {
    let upstream = Upstream::serving(|_, mut conn| {
        while conn.head().is_some() {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n");
        }
    });
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(client.head().header("content-length"), Some("5000"));
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn answers_without_a_body_and_with_one_to_the_end_of_the_connection() {
    let upstream = Upstream::serving(|_, mut conn| {
        while let Some(head) = conn.head() {
            if head.starts_with("GET /none") {
                conn.send("HTTP/1.1 204 No Content\r\n\r\n");
            } else {
                conn.send("HTTP/1.1 200 OK\r\n\r\nall that there is");
                return;
            }
        }
    });
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    assert_eq!(client.get("/none").status, 204);
    assert_eq!(client.get("/rest").text(), "all that there is");
    assert_eq!(client.get("/none").status, 204);
}

#[test]
fn chunks_pass_with_their_trailers_both_ways() {
    let upstream = Upstream::serving(|_, mut conn| {
        let (head, body) = conn.request().unwrap();
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        let body = String::from_utf8(body).unwrap();
        let length = body.len();
        conn.send(format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n{length:x}\r\n{body}\r\n0\r\nx-sum: 7\r\n\r\n"
        ));
    });
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send(
        "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntransfer-encoding: chunked\r\ntrailer: x-in\r\n\r\n",
    );
    client.send("3\r\nabc\r\n2\r\nde\r\n0\r\nx-in: 1\r\n\r\n");
    let reply = client.reply();
    assert_eq!(reply.text(), "abcde[x-in: 1]");
    assert_eq!(reply.trailers, "x-sum: 7\r\n");
}

#[test]
fn a_client_that_expects_to_be_told_to_go_on_is_told() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n");
    assert_eq!(client.head().status, 100);
    client.send("body");
    let reply = client.reply();
    assert!(reply.text().ends_with("\r\n\r\nbody"));
}

#[test]
fn early_heads_of_the_upstream_are_not_taken_for_the_answer() {
    let upstream = Upstream::answering(|_, _| {
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{}", ok("done"))
    });
    let proxy = Running::before(&[upstream.address], "");
    assert_eq!(proxy.client().get("/").text(), "done");
}

#[test]
fn routes_choose_by_host_path_and_method() {
    let [a, b, c] = ["a", "b", "c"].map(|name| Upstream::answering(move |_, _| ok(name)));
    let proxy = Running::start(&format!(
        "[upstream.a]\nendpoints = \"http://{}\"\n[upstream.b]\nendpoints = \"http://{}\"\n[upstream.c]\nendpoints = \"http://{}\"\n\
         [[route]]\nhost = \"*.example.com\"\nupstream = \"a\"\n[[route]]\npath = \"/shop\"\nupstream = \"b\"\n\
         [[route]]\npath = \"/shop\"\nmethods = [\"POST\"]\nupstream = \"c\"\n",
        a.address, b.address, c.address
    ));
    let mut client = proxy.client();
    assert_eq!(client.get("/shop/cart").text(), "b");
    assert_eq!(client.request("POST", "/shop", "", b"").text(), "c");
    client.send("GET /shop HTTP/1.1\r\nhost: x.Example.com:8080\r\n\r\n");
    assert_eq!(client.reply().text(), "a");
    let reply = client.get("/shopping");
    assert_eq!(reply.status, 404);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
}

#[test]
fn an_answer_before_the_request_has_ended_is_passed_on() {
    let upstream = Upstream::serving(|_, mut conn| {
        conn.head().unwrap();
        conn.send(answer(413, "connection: close\r\n", "too much"));
        conn.wait_for_end();
    });
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nonly this");
    let reply = client.reply();
    assert_eq!((reply.status, reply.text()), (413, "too much"));
}

#[test]
fn an_upstream_of_http_1_0_is_answered_for_in_the_client_s_version() {
    let upstream = Upstream::answering(|_, _| "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned());
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    for _ in 0..2 {
        let reply = client.request("GET", "/", "x-request-id: mine\r\n", b"");
        assert!(reply.head.starts_with("HTTP/1.1 200"), "{}", reply.head);
        assert_eq!((reply.text(), reply.header("x-request-id")), ("ok", Some("mine")));
    }
}
