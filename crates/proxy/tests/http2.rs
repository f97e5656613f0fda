//! HTTP/2 on either side, and gRPC over it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use bytes::Bytes;
use common::http2::{Frames, connect, frame, grpc, read, request, run, send, upstream};
use common::{Running, Upstream, answer, header};
use http::{Request, Response};
use hyper::body::{Frame, Incoming};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const HTTP2: &str = "protocol = \"http2\"";

/// Answers with the request's head and body as its body, and its trailers as trailers.
async fn echo(request: Request<Incoming>) -> Response<Frames> {
    let head = format!("{} {} {:?}\n", request.method(), request.uri(), request.headers());
    let (body, trailers, _) = read(request.into_body()).await;
    let (sender, body_frames) = tokio::sync::mpsc::unbounded_channel();
    sender.send(Frame::data(Bytes::from(head))).unwrap();
    sender.send(Frame::data(Bytes::from(body))).unwrap();
    sender.send(Frame::trailers(trailers)).unwrap();
    Response::new(Frames::Fed(body_frames))
}

#[test]
fn from_http2_to_http2() {
    let proxy = Running::before(&[upstream(echo)], HTTP2);
    run(async {
        let mut sender = connect(proxy.address).await;
        let body = Frames::of(&["hello ", "world"], &[("x-sum", "11")]);
        let whole = send(&mut sender, request("PUT", "/a?b", body)).await;
        assert_eq!(whole.status, 200);
        assert!(whole.text().starts_with("PUT http://test/a?b "), "{}", whole.text());
        assert!(whole.text().ends_with("hello world"));
        assert_eq!(whole.field("x-sum"), Some("11"));
    });
}

#[test]
fn from_http2_to_http1() {
    let upstream = Upstream::echo();
    let proxy = Running::before(&[upstream.address], "");
    run(async {
        let mut sender = connect(proxy.address).await;
        let mut asked = request("POST", "/a", Frames::of(&["abc", "de"], &[("x-in", "1")]));
        asked.headers_mut().insert("te", "trailers".parse().unwrap());
        asked.headers_mut().insert("trailer", "x-in".parse().unwrap());
        let whole = send(&mut sender, asked).await;
        assert_eq!(whole.status, 200);
        assert!(whole.text().ends_with("\r\n\r\nabcde[x-in: 1]"), "{}", whole.text());
        assert_eq!(header(whole.text(), "host"), Some("test"));
        let whole = send(&mut sender, request("GET", "/b", Frames::of(&[], &[]))).await;
        assert_eq!(header(whole.text(), "transfer-encoding"), None);
    });
}

#[test]
fn from_http1_to_http2() {
    let proxy = Running::before(&[upstream(echo)], HTTP2);
    let mut client = proxy.client();
    let reply = client.request("PUT", "/a", "connection: x-hop\r\nx-hop: 1\r\n", b"hello");
    assert_eq!(reply.status, 200);
    assert!(reply.text().starts_with("PUT http://test/a "), "{}", reply.text());
    assert!(reply.text().ends_with("hello") && !reply.text().contains("x-hop"));
    assert_eq!(client.get("/b").status, 200);
}

#[test]
fn many_calls_share_one_upstream_connection() {
    let proxy = Running::before(&[upstream(echo)], HTTP2);
    run(async {
        let sender = connect(proxy.address).await;
        let mut calls = Vec::new();
        for n in 0..50 {
            let mut sender = sender.clone();
            calls.push(tokio::task::spawn_local(async move {
                send(&mut sender, request("GET", &format!("/{n}"), Frames::of(&[], &[]))).await
            }));
        }
        for (n, call) in calls.into_iter().enumerate() {
            assert!(call.await.unwrap().text().starts_with(&format!("GET http://test/{n} ")));
        }
    });
    let metrics = common::Client::connect(proxy.admin.unwrap()).get_as("/metrics", "localhost");
    let connections =
        metrics.text().lines().find(|line| line.starts_with("seaworthy_upstream_connections_total"));
    assert!(connections.unwrap().ends_with(" 1"), "{connections:?}");
}

#[test]
fn grpc_streams_both_ways_at_once() {
    let proxy = Running::before(
        &[upstream(|request: Request<Incoming>| async move {
            let mut body = request.into_body();
            let (sender, frames) = tokio::sync::mpsc::unbounded_channel();
            tokio::task::spawn_local(async move {
                while let Some(Ok(message)) = frame(&mut body).await {
                    if sender.send(message).is_err() {
                        return;
                    }
                }
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                drop(sender.send(Frame::trailers(trailers)));
            });
            Response::builder().header("content-type", "application/grpc").body(Frames::Fed(frames)).unwrap()
        })],
        HTTP2,
    );
    run(async {
        let mut sender = connect(proxy.address).await;
        let (feed, frames) = tokio::sync::mpsc::unbounded_channel();
        let response = sender.send_request(grpc("/s/Chat", Frames::Fed(frames))).await.unwrap();
        let mut body = response.into_body();
        for message in ["one", "two", "three"] {
            // The next message is sent only when the last has come back.
            feed.send(Frame::data(Bytes::from(message))).unwrap();
            let echoed = frame(&mut body).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(echoed, message);
        }
        drop(feed);
        let (_, trailers, broken) = read(body).await;
        assert_eq!((trailers["grpc-status"].to_str().unwrap(), broken), ("0", None));
    });
}

#[test]
fn a_grpc_failure_in_the_trailers_counts_as_one() {
    let failing = |_: Request<Incoming>| async {
        let body = Frames::of(&[], &[("grpc-status", "14"), ("grpc-message", "no")]);
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    };
    let proxy = Running::before(&[upstream(failing)], HTTP2);
    run(async {
        let mut sender = connect(proxy.address).await;
        for _ in 0..5 {
            let whole = send(&mut sender, grpc("/s/M", Frames::of(&["x"], &[]))).await;
            assert_eq!((whole.status, whole.field("grpc-message")), (200, Some("no")));
        }
        // Five in a row are what it takes.
        let whole = send(&mut sender, grpc("/s/M", Frames::of(&["x"], &[]))).await;
        assert_eq!(whole.field("grpc-status"), Some("14"));
        assert!(whole.field("grpc-message").unwrap().contains("breaker"), "{whole:?}");
    });
}

#[test]
fn grpc_callers_get_grpc_answers() {
    let proxy = Running::before(&[upstream(|_| std::future::pending())], HTTP2);
    run(async {
        let mut sender = connect(proxy.address).await;
        let mut asked = grpc("/s/M", Frames::of(&["x"], &[]));
        asked.headers_mut().insert("grpc-timeout", "30m".parse().unwrap());
        let whole = send(&mut sender, asked).await;
        assert_eq!((whole.status, whole.field("grpc-status")), (200, Some("4")), "{whole:?}");
        assert_eq!(whole.field("content-type"), Some("application/grpc"));
    });
}

#[test]
fn a_refused_stream_is_sent_again_whatever_it_asked() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let address = h2_server(move |mut respond| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        } else {
            respond.send_response(Response::new(()), true).unwrap();
        }
    });
    let proxy = Running::before(&[address], HTTP2);
    assert_eq!(proxy.client().request("POST", "/", "", b"").status, 200);
    assert_eq!(refused.load(Ordering::SeqCst), 2);
}

/// An upstream on the frames' own level.
fn h2_server(answer: impl Fn(h2::server::SendResponse<Bytes>) + Send + 'static) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut conn = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, respond))) = conn.accept().await {
                    answer(respond);
                }
            }
        });
    });
    address
}

#[test]
fn a_body_that_breaks_off_resets_the_stream_and_nothing_else() {
    let upstream = Upstream::answering(|head, _| {
        if head.contains("/broken") {
            // A length that is never reached, as the next answer is read as the rest and then the connection ends.
            return "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n".into();
        }
        answer(200, "", "fine")
    });
    let proxy = Running::before(&[upstream.address], "");
    run(async {
        let mut sender = connect(proxy.address).await;
        let whole = send(&mut sender, request("GET", "/broken", Frames::of(&[], &[]))).await;
        assert_eq!(whole.text(), "abc");
        assert!(whole.broken.is_some());
        let whole = send(&mut sender, request("GET", "/fine", Frames::of(&[], &[]))).await;
        assert_eq!((whole.text(), &whole.broken), ("fine", &None));
    });
}
