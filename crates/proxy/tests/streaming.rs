//! Bodies that stream, clients and upstreams that are slow, and connections that leave HTTP.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{Conn, Running, Upstream, eventually, header, ok};

#[test]
fn an_answer_streams_as_it_comes() {
    let (go, gone) = channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let upstream = Upstream::serving(move |_, mut conn| {
        conn.head();
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n");
        gone.lock().unwrap().recv().unwrap();
        conn.send("3\r\ntwo\r\n0\r\n\r\n");
    });
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    client.head();
    assert_eq!(client.chunk(), b"one");
    go.send(()).unwrap();
    assert_eq!(client.chunk(), b"two");
    assert_eq!(client.chunk(), b"");
}

#[test]
fn a_request_streams_as_it_comes() {
    let (saw, seen) = channel();
    let saw = std::sync::Mutex::new(saw);
    let upstream = Upstream::serving(move |_, mut conn| {
        conn.head();
        while let Some(chunk) = conn.chunk() {
            saw.lock().unwrap().send(chunk.clone()).unwrap();
            if chunk.is_empty() {
                break;
            }
        }
        conn.send(ok("done"));
    });
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    for piece in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        assert_eq!(seen.recv().unwrap(), piece.as_bytes());
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.reply().text(), "done");
}

/// Writes until the other side has taken nothing for a while; returns how much it took.
fn fill(stream: &mut std::net::TcpStream, chunk: &[u8], most: usize) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut taken = 0;
    while taken < most {
        match stream.write(chunk) {
            Ok(n) => taken += n,
            Err(_) => break,
        }
    }
    taken
}

/// Far more than all the sockets' buffers between two ends hold.
const HUGE: usize = 256 << 20;

#[test]
fn a_client_that_does_not_read_stops_the_upstream() {
    let sent = Arc::new(AtomicUsize::new(usize::MAX));
    let count = sent.clone();
    let upstream = Upstream::serving(move |_, mut conn| {
        conn.head();
        conn.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {HUGE}\r\n\r\n"));
        count.store(fill(&mut conn.stream, &[b'x'; 65536], HUGE), Ordering::SeqCst);
    });
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    client.head();
    eventually("the upstream is stopped", || sent.load(Ordering::SeqCst) != usize::MAX);
    assert!(sent.load(Ordering::SeqCst) < HUGE / 2, "{}", sent.load(Ordering::SeqCst));
}

#[test]
fn an_upstream_that_does_not_read_stops_the_client() {
    let (over, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::serving(move |_, mut conn| {
        conn.head();
        let _ = wait.lock().unwrap().recv();
    });
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send(format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: {HUGE}\r\n\r\n"));
    let sent = fill(&mut client.stream, &[b'x'; 65536], HUGE);
    assert!(sent < HUGE / 2, "{sent}");
    drop(over);
}

#[test]
fn a_client_that_stops_in_its_body_is_told() {
    let upstream = Upstream::echo();
    let proxy = Running::start(&format!(
        "[limits]\nbody_progress_timeout = \"50ms\"\n[upstream.app]\nendpoints = \"http://{}\"",
        upstream.address
    ));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nnot all");
    let reply = client.reply();
    assert_eq!(reply.status, 408);
    assert!(reply.text().contains("stalled"), "{}", reply.text());
}

#[test]
fn a_client_that_stops_in_its_head_is_told() {
    let upstream = Upstream::echo();
    let proxy = Running::start(&format!(
        "[limits]\nclient_header_timeout = \"50ms\"\n[upstream.app]\nendpoints = \"http://{}\"",
        upstream.address
    ));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-slo");
    assert_eq!(client.reply().status, 408);
    assert!(client.is_closed());
}

#[test]
fn a_client_that_asks_nothing_is_let_go() {
    let upstream = Upstream::echo();
    let proxy = Running::start(&format!(
        "[limits]\nclient_idle = \"50ms\"\n[upstream.app]\nendpoints = \"http://{}\"",
        upstream.address
    ));
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    assert!(client.is_closed());
}

#[test]
fn an_upstream_that_stops_in_its_body_is_given_up() {
    let upstream = Upstream::serving(|_, mut conn| {
        conn.head();
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart");
        conn.wait_for_end();
    });
    let proxy = Running::start(&format!(
        "[limits]\nbody_progress_timeout = \"50ms\"\n[upstream.app]\nendpoints = \"http://{}\"",
        upstream.address
    ));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    client.head();
    assert_eq!(client.bytes(4), b"part");
    assert!(client.is_closed());
}

#[test]
fn a_caller_that_goes_away_takes_its_upstream_request_with_it() {
    let (arrived, arrives) = channel();
    let (ended, ends) = channel();
    let (arrived, ended) = (std::sync::Mutex::new(arrived), std::sync::Mutex::new(ended));
    let upstream = Upstream::serving(move |_, mut conn| {
        conn.head();
        arrived.lock().unwrap().send(()).unwrap();
        conn.wait_for_end();
        ended.lock().unwrap().send(()).unwrap();
    });
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    arrives.recv().unwrap();
    drop(client);
    ends.recv_timeout(common::PATIENCE).unwrap();
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const UPGRADED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

fn echo_after_upgrade() -> Upstream {
    Upstream::serving(|_, mut conn| {
        let head = conn.head().unwrap();
        assert_eq!(header(&head, "connection"), Some("upgrade"));
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        assert_eq!(header(&head, "sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        // The first words come with the head.
        conn.send(format!("{UPGRADED}welcome"));
        let mut buf = [0; 1024];
        loop {
            match conn.reader.read(&mut buf) {
                Ok(0) | Err(_) => return,
                Ok(n) => conn.send(&buf[..n]),
            }
        }
    })
}

#[test]
fn a_websocket_passes_both_ways() {
    let upstream = echo_after_upgrade();
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send(UPGRADE);
    let reply = client.head();
    assert_eq!(reply.status, 101);
    assert_eq!(reply.header("upgrade"), Some("websocket"));
    assert_eq!(client.bytes(7), b"welcome");
    for message in ["\u{1}ping", "and a longer one, with nothing in it"] {
        client.send(message);
        assert_eq!(client.bytes(message.len()), message.as_bytes());
    }
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.is_closed());
}

#[test]
fn what_follows_an_upgrade_at_once_is_passed_on() {
    let upstream = echo_after_upgrade();
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send(format!("{UPGRADE}early"));
    assert_eq!(client.head().status, 101);
    assert_eq!(client.bytes(12), b"welcomeearly");
}

#[test]
fn a_tunnel_ends_with_its_upstream_and_when_nothing_moves() {
    let ending = Upstream::serving(|_, mut conn| {
        conn.head();
        conn.send(format!("{UPGRADED}bye"));
    });
    let silent = Upstream::serving(|_, mut conn: Conn| {
        conn.head();
        conn.send(UPGRADED);
        conn.wait_for_end();
    });
    for (upstream, said) in [(ending, "bye"), (silent, "")] {
        let proxy = Running::start(&format!(
            "[limits]\nclient_idle = \"100ms\"\n[upstream.app]\nendpoints = \"http://{}\"",
            upstream.address
        ));
        let mut client = proxy.client();
        client.send(UPGRADE);
        assert_eq!(client.head().status, 101);
        assert_eq!(client.bytes(said.len()), said.as_bytes());
        assert!(client.is_closed());
    }
}

#[test]
fn an_upgrade_that_is_declined_is_a_plain_answer() {
    let upstream = Upstream::answering(|_, _| ok("no thanks"));
    let proxy = Running::before(&[upstream.address], "");
    let mut client = proxy.client();
    client.send(UPGRADE);
    assert_eq!(client.reply().text(), "no thanks");
    assert_eq!(client.get("/").text(), "no thanks");
}

#[test]
fn an_upgrade_that_nobody_asked_for_is_refused() {
    let upstream = Upstream::answering(|_, _| UPGRADED.to_owned());
    let proxy = Running::before(&[upstream.address], "retry.mode = \"off\"");
    assert_eq!(proxy.client().get("/").status, 502);
}

/// The timeout of an attempt is for its answer: an upload takes as long as it moves.
#[test]
fn an_upload_longer_than_the_timeout_goes_through() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "timeout.fixed = \"100ms\"");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 20\r\n\r\n");
    let began = std::time::Instant::now();
    for _ in 0..20 {
        client.send("x");
        // Slower than the timeout as a whole, and waiting is the subject here.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(began.elapsed() > std::time::Duration::from_millis(300));
    assert_eq!(client.reply().status, 200);
}
