//! An HTTP client: keep-alive connections to one address, and nothing that hides a failure.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Connections to one address, used one call at a time.
pub(crate) struct Pool {
    address: SocketAddr,
    idle: Mutex<Vec<Connection>>,
}

type Connection = SendRequest<Full<Bytes>>;

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// What the answer says of itself if it stands in for another: what it is, why and since when.
    pub(crate) degraded: Option<String>,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Broken {
    /// No connection.
    Connect(std::io::Error),
    /// The connection broke, or what came over it was no HTTP.
    Http(hyper::Error),
    /// The request could not be put together.
    Request(hyper::http::Error),
    /// The body broke off, or was longer than anything that the shop sends.
    Body(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect(_) => "could not connect",
            Self::Http(_) => "the exchange broke off",
            Self::Request(_) => "the request is malformed",
            Self::Body(_) => "the body broke off",
        })
    }
}

impl Error for Broken {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::Http(error) => Some(error),
            Self::Request(error) => Some(error),
            Self::Body(error) => Some(&**error),
        }
    }
}

impl Pool {
    pub(crate) const fn new(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::new(Vec::new()) }
    }

    /// Makes one call and reads its answer to the end. A body is JSON.
    ///
    /// A kept connection may have been closed by the other side meanwhile. If nothing of the request was sent on it, a
    /// fresh one is taken, as every pooling client does; a request that was sent is never sent again.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Broken> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, self.address.to_string())
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(Broken::Request)?;
        loop {
            let (mut connection, kept) = self.connection().await?;
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let answer = read(response).await?;
                    self.keep(connection);
                    return Ok(answer);
                }
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) if kept => request = unsent,
                    _ => return Err(Broken::Http(refused.into_error())),
                },
            }
        }
    }

    /// A connection that is ready, and whether it was used before.
    async fn connection(&self) -> Result<(Connection, bool), Broken> {
        while let Some(mut connection) = self.take() {
            if connection.ready().await.is_ok() {
                return Ok((connection, true));
            }
        }
        let stream = TcpStream::connect(self.address).await.map_err(Broken::Connect)?;
        stream.set_nodelay(true).map_err(Broken::Connect)?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(Broken::Http)?;
        // What breaks the connection is told to the call that waits on it.
        tokio::spawn(driver);
        Ok((connection, false))
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE && !connection.is_closed() {
            idle.push(connection);
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, Broken> {
    let (head, body) = response.into_parts();
    let mark = head.headers.get(DEGRADED);
    let degraded = mark.map(|mark| String::from_utf8_lossy(mark.as_bytes()).into_owned());
    let body = Limited::new(body, LARGEST_BODY).collect().await.map_err(Broken::Body)?.to_bytes();
    Ok(Answer { status: head.status, degraded, body })
}

/// The header by which the proxy marks an answer that stands in for another.
const DEGRADED: &str = "x-seaworthy-degraded";
/// More than the demo has in flight when all is well; what a slow spell opened beyond it is closed again.
const MOST_IDLE: usize = 64;
/// The admin API's state is the longest thing read, some tens of kilobytes.
const LARGEST_BODY: usize = 4 * 1024 * 1024;
