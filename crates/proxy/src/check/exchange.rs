//! One request and its answer over a connection of its own, driven by the task that waits for the answer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::full::Full;

/// Sends `request` over HTTP/1.1 and lets `read` make something of the answer.
pub(super) async fn over_http1<T>(
    stream: TcpStream,
    request: Request<Full>,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, String>,
) -> Result<T, String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(|error| told(&error))?;
        read(answer).await
    };
    alongside(connection, answered).await
}

/// Sends `request` over HTTP/2 and lets `read` make something of the answer.
pub(super) async fn over_http2<T>(
    stream: TcpStream,
    request: Request<Full>,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, String>,
) -> Result<T, String> {
    let shaken = http2::handshake(Local, TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| told(&error))?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(|error| told(&error))?;
        read(answer).await
    };
    alongside(connection, answered).await
}

/// The beginning of a body, up to `most` bytes, and its trailers if it ended within them.
pub(super) async fn beginning(body: Incoming, most: usize) -> Result<(Vec<u8>, Option<HeaderMap>), String> {
    let mut bytes = Vec::new();
    let mut trailers = None;
    let mut body = pin!(body);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.map_err(|error| told(&error))?.into_data() {
            Ok(data) => bytes.extend_from_slice(data.chunk()),
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
        if bytes.len() >= most {
            bytes.truncate(most);
            break;
        }
    }
    Ok((bytes, trailers))
}

/// A request body that is there at once.
pub(super) fn body(bytes: Bytes) -> Full {
    Full::from(bytes)
}

/// hyper's errors keep their cause to themselves.
fn told(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("expected an answer, got: {error}{cause}")
}

/// Drives the connection for as long as the answer takes. Its errors reach whoever waits for the answer.
async fn alongside<T>(connection: impl Future, answered: impl Future<Output = T>) -> T {
    let mut connection = pin!(connection);
    let mut answered = pin!(answered);
    let mut is_over = false;
    poll_fn(|cx| {
        if !is_over {
            is_over = connection.as_mut().poll(cx).is_ready();
        }
        match answered.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Where HTTP/2 spawns what it needs: on the same thread. Those tasks end with the connection.
#[derive(Clone)]
struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
