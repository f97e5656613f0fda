//! Clients and upstreams that don't play by the rules: a clear answer, no panic, no memory without bound.
//!
//! A worker that panics ends the proxy with an error, which dropping [`Running`] notices.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::io::{Read, Write};

use common::{Running, Upstream, ok};

/// What the proxy says to these bytes, after which nothing follows, and whether it still serves others. It says nothing if it
/// reads that the client has hung up together with what it asked: nobody is there for an answer.
fn say(proxy: &Running, bytes: &[u8]) -> String {
    talk(proxy, bytes, true)
}

/// What the proxy says to these bytes, after which it closes the connection by itself.
fn ask(proxy: &Running, bytes: &[u8]) -> String {
    talk(proxy, bytes, false)
}

fn talk(proxy: &Running, bytes: &[u8], hang_up: bool) -> String {
    let mut client = proxy.client();
    // It may have closed before it has read everything.
    drop(client.stream.write_all(bytes));
    if hang_up {
        drop(client.stream.shutdown(std::net::Shutdown::Write));
    }
    let mut said = Vec::new();
    drop(client.stream.read_to_end(&mut said));
    assert_eq!(proxy.client().get("/").status, 200, "after {:?}", String::from_utf8_lossy(bytes));
    String::from_utf8_lossy(&said).into_owned()
}

fn status(said: &str) -> u16 {
    said.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[test]
fn requests_that_are_not_http_are_400() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    for bad in [
        "hello\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nspace in name: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n folded: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", // TLS
        "PRI * HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(status(&ask(&proxy, bad.as_bytes())), 400, "{bad:?}");
    }
}

#[test]
fn requests_that_two_parsers_could_read_differently_are_400() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    for bad in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: user@a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        "GET * HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        assert_eq!(status(&ask(&proxy, bad.as_bytes())), 400, "{bad:?}");
    }
}

#[test]
fn a_length_beside_chunks_never_reaches_the_upstream() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let (length, chunked) = ("content-length: 4\r\n", "transfer-encoding: chunked\r\n");
    for framing in [format!("{length}{chunked}"), format!("{chunked}{length}")] {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{framing}\r\n");
        let said = ask(&proxy, format!("{head}1\r\nZ\r\n0\r\n\r\n").as_bytes());
        // RFC 9112, section 6.3: what is chunked is read as that alone.
        let seen = said.split("\r\n\r\n").nth(1).unwrap();
        assert!(!seen.contains("content-length") && seen.contains("transfer-encoding: chunked"), "{said}");
    }
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    assert_eq!(status(&ask(&proxy, b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n")), 501);
    assert_eq!(
        status(&ask(&proxy, b"POST / HTTP/1.1\r\nhost: a\r\nexpect: miracles\r\ncontent-length: 0\r\n\r\n")),
        417
    );
    assert_eq!(status(&ask(&proxy, b"OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")), 200);
}

#[test]
fn heads_that_are_too_large_are_431() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    for bad in [many, long] {
        let said = say(&proxy, bad.as_bytes());
        // A client that is still sending when the connection is closed may not see the answer.
        assert!(said.is_empty() || status(&said) == 431, "{}", &said[..said.len().min(200)]);
    }
    let path = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(100_000));
    let said = say(&proxy, path.as_bytes());
    assert!(said.is_empty() || matches!(status(&said), 414 | 431), "{}", &said[..said.len().min(200)]);
}

#[test]
fn half_requests_bother_nobody() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let whole = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc";
    for n in 0..whole.len() {
        let said = say(&proxy, &whole.as_bytes()[..n]);
        assert!(said.is_empty() || matches!(status(&said), 400 | 408), "{n}: {said}");
    }
}

#[test]
fn a_broken_chunk_is_400_and_not_the_upstreams_fault() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "breaker.consecutive_failures = 1");
    for bad in ["xyz\r\n", "ffffffffffffffffff\r\n", "3\r\nabcdef\r\n"] {
        let head = "PUT / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(status(&ask(&proxy, format!("{head}{bad}").as_bytes())), 400, "{bad:?}");
    }
}

#[test]
fn noise_of_every_kind_is_survived() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let starts: [&[u8]; 4] = [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
    ];
    for n in 0..200 {
        let mut bytes = starts[n % starts.len()].to_vec();
        bytes.extend((0..next() % 300).map(|_| next() as u8));
        say(&proxy, &bytes);
    }
}

#[test]
fn upstreams_that_talk_nonsense_are_502() {
    for nonsense in [
        "",
        "nonsense\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "\u{16}\u{3}\u{1}",
    ] {
        let upstream = Upstream::serving(move |_, mut conn| {
            conn.head();
            conn.send(nonsense);
        });
        let proxy = Running::before(&[upstream.address], "retry.mode = \"off\"");
        let reply = proxy.client().get("/");
        assert_eq!(reply.status, 502, "{nonsense:?}");
        assert!(reply.text().contains("\"why\""), "{}", reply.text());
    }
}

#[test]
fn an_upstream_with_an_endless_head_is_502() {
    let upstream = Upstream::serving(|_, mut conn| {
        conn.head();
        conn.send("HTTP/1.1 200 OK\r\n");
        while conn.stream.write_all(format!("x-more: {}\r\n", "y".repeat(1000)).as_bytes()).is_ok() {}
    });
    let proxy = Running::before(&[upstream.address], "retry.mode = \"off\"");
    assert_eq!(proxy.client().get("/").status, 502);
}

#[test]
fn an_upstream_that_answers_twice_is_heard_once() {
    let upstream = Upstream::answering(|_, _| format!("{}{}", ok("one"), ok("poison")));
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    for _ in 0..10 {
        let reply = client.get("/");
        assert!(reply.status == 502 || reply.text() == "one", "{}", reply.text());
    }
}

#[test]
fn an_upstream_that_closes_anywhere_is_never_half_an_answer_taken_for_whole() {
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789";
    for n in 0..whole.len() {
        let upstream = Upstream::serving(move |_, mut conn| {
            conn.head();
            conn.send(&whole[..n]);
        });
        let proxy = Running::before(&[upstream.address], "retry.mode = \"off\"");
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let reply = client.head();
        let body_from = whole.find("0123").unwrap();
        if n < body_from {
            assert_eq!(reply.status, 502, "{n}");
        } else {
            assert_eq!((reply.status, reply.header("content-length")), (200, Some("10")), "{n}");
            assert_eq!(client.bytes(n - body_from).len(), n - body_from);
            assert!(client.is_closed());
        }
    }
}

#[test]
fn garbage_from_an_http2_upstream_is_502() {
    let upstream = Upstream::serving(|_, mut conn| {
        conn.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        conn.wait_for_end();
    });
    let proxy = Running::before(&[upstream.address], "protocol = \"http2\"\nretry.mode = \"off\"");
    assert_eq!(proxy.client().get("/").status, 502);
}

/// Kilobytes of memory that this process holds.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn large_bodies_in_tiny_pieces_take_no_memory() {
    let upstream = Upstream::serving(|_, mut conn| {
        conn.head();
        while conn.chunk().is_some_and(|chunk| !chunk.is_empty()) {}
        conn.send("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n");
    });
    // A machine that is busy with other tests takes its time.
    let proxy = Running::before(&[upstream.address], "deadline = \"off\"\ntimeout.mode = \"off\"");
    let mut clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    let before = resident();
    let pieces = "1\r\nx\r\n".repeat(5_000);
    for client in &mut clients {
        client.send("PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        for _ in 0..5 {
            client.send(&pieces);
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.reply().status, 500);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} kB");
}
