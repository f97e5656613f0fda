//! HTTP/2 without TLS, both sides, on threads of their own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;

use super::PATIENCE;

/// Spawns on the current runtime's thread.
#[derive(Clone)]
pub struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A body of these frames, or one fed through a channel.
pub enum Frames {
    Ready(std::vec::IntoIter<Frame<Bytes>>),
    Fed(tokio::sync::mpsc::UnboundedReceiver<Frame<Bytes>>),
}

impl Frames {
    pub fn of(data: &[&'static str], trailers: &[(&'static str, &'static str)]) -> Self {
        let mut frames: Vec<_> = data.iter().map(|d| Frame::data(Bytes::from_static(d.as_bytes()))).collect();
        if !trailers.is_empty() {
            let mut map = HeaderMap::new();
            for (name, value) in trailers {
                map.insert(*name, value.parse().unwrap());
            }
            frames.push(Frame::trailers(map));
        }
        Self::Ready(frames.into_iter())
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Ready(frames) => Poll::Ready(frames.next().map(Ok)),
            Self::Fed(frames) => frames.poll_recv(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Ready(frames) if frames.len() == 0)
    }
}

/// A response with all of its body.
#[derive(Debug)]
pub struct Whole {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
    /// Why the body ended early, if it did.
    pub broken: Option<String>,
}

impl Whole {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// A header or a trailer.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).or_else(|| self.trailers.get(name)).map(|value| value.to_str().unwrap())
    }
}

pub async fn read(mut body: Incoming) -> (Vec<u8>, HeaderMap, Option<String>) {
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = frame(&mut body).await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().unwrap_or_default(),
            Err(error) => return (bytes, trailers, Some(error.to_string())),
        }
    }
    (bytes, trailers, None)
}

pub async fn frame(body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// Runs `future` on a runtime of its own, within the time that tests have.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it took too long") })
}

pub type Sender = hyper::client::conn::http2::SendRequest<Frames>;

/// An HTTP/2 connection to `address`.
pub async fn connect(address: SocketAddr) -> Sender {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, conn) = hyper::client::conn::http2::handshake(Local, TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn_local(async move { drop(conn.await) });
    sender
}

/// Sends `request` and reads all of the answer.
pub async fn send(sender: &mut Sender, request: Request<Frames>) -> Whole {
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let (body, trailers, broken) = read(body).await;
    Whole { status: parts.status.as_u16(), headers: parts.headers, body, trailers, broken }
}

/// A request to `path` of the host `test`.
pub fn request(method: &str, path: &str, body: Frames) -> Request<Frames> {
    Request::builder().method(method).uri(format!("http://test{path}")).body(body).unwrap()
}

/// A gRPC request.
pub fn grpc(path: &str, body: Frames) -> Request<Frames> {
    let mut request = request("POST", path, body);
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    request
}

/// An HTTP/2 upstream that answers with what `answer` makes of a request.
pub fn upstream<F>(answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = Response<Frames>> + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(Default::default())
            .unwrap();
        let answer = Arc::new(answer);
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = answer.clone();
                let service = hyper::service::service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                let conn = hyper::server::conn::http2::Builder::new(Local)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::task::spawn_local(async move { drop(conn.await) });
            }
        });
    });
    address
}
