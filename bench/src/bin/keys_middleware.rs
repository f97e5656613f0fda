//! `keys_middleware`: idempotency as it is commonly written, for `keys` to compare with. A reverse service on hyper: before a request
//! is sent on, its key is written as running unless it is there (`SET .. NX`, or `INSERT .. ON CONFLICT DO NOTHING`), and
//! after it the answer in its place (`SET`, or `UPDATE`). No fingerprints, no tokens, no leases, no long bodies: what a crash leaves behind
//! is refused for ever.
//!
//! `keys_middleware PORT UPSTREAM-PORT redis://..|postgresql://..`

use std::process::ExitCode;

use bytes::Bytes;
use deadpool_postgres::{Manager, Pool};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use redis::aio::MultiplexedConnection;
use tokio::net::TcpListener;

type Fault = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("keys_middleware: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, upstream, url] = &words[..] else { return Err("three arguments".into()) };
    let listener = TcpListener::bind(("127.0.0.1", port.parse::<u16>()?)).await?;
    let service = Service {
        store: Store::open(url).await?,
        client: Client::builder(TokioExecutor::new()).build_http(),
        upstream: format!("http://127.0.0.1:{upstream}"),
    };
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| service.clone().answer(request));
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            // The load ends by closing its connections in the middle of requests.
            drop(served);
        });
    }
}

#[derive(Clone)]
struct Service {
    store: Store,
    client: Client<HttpConnector, Full<Bytes>>,
    upstream: String,
}

impl Service {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Fault> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let Some(key) = parts.headers.get("idempotency-key").and_then(|key| key.to_str().ok()) else {
            let (status, body) = self.ask(&parts, body).await?;
            return said(status, body);
        };
        match self.store.begin(key).await? {
            Begun::First => {}
            Begun::Running => return said(StatusCode::CONFLICT, Bytes::new()),
            Begun::Done(status, body) => return said(status, body),
        }
        let (status, body) = self.ask(&parts, body).await?;
        self.store.end(key, status, body.clone()).await?;
        said(status, body)
    }

    async fn ask(
        &self,
        parts: &hyper::http::request::Parts,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Fault> {
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request =
            Request::builder().method(parts.method.clone()).uri(format!("{}{target}", self.upstream));
        if let Some(headers) = request.headers_mut() {
            headers.extend(parts.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let answer = self.client.request(request.body(Full::new(body))?).await?;
        Ok((answer.status(), answer.into_body().collect().await?.to_bytes()))
    }
}

fn said(status: StatusCode, body: Bytes) -> Result<Response<Full<Bytes>>, Fault> {
    Ok(Response::builder().status(status).body(Full::new(body))?)
}

enum Begun {
    First,
    Running,
    Done(StatusCode, Bytes),
}

#[derive(Clone)]
enum Store {
    Redis(MultiplexedConnection),
    Postgres(Pool),
}

impl Store {
    async fn open(url: &str) -> Result<Self, Fault> {
        if url.starts_with("redis:") {
            return Ok(Self::Redis(redis::Client::open(url)?.get_multiplexed_async_connection().await?));
        }
        let manager = Manager::new(url.parse()?, tokio_postgres::NoTls);
        let pool = Pool::builder(manager).max_size(CONNECTIONS).build()?;
        let table = "CREATE TABLE IF NOT EXISTS middleware (key text PRIMARY KEY, status smallint, body bytea, \
                     expires timestamptz NOT NULL)";
        pool.get().await?.batch_execute(table).await?;
        Ok(Self::Postgres(pool))
    }

    async fn begin(&self, key: &str) -> Result<Begun, Fault> {
        match self {
            Self::Redis(connection) => {
                let mut connection = connection.clone();
                let mut set = redis::cmd("SET");
                set.arg(key).arg("running").arg("NX").arg("EX").arg(RETENTION_SECONDS);
                if set.query_async::<Option<String>>(&mut connection).await?.is_some() {
                    return Ok(Begun::First);
                }
                let kept: Vec<u8> = redis::cmd("GET").arg(key).query_async(&mut connection).await?;
                let Some((status, body)) = kept.split_first_chunk::<3>() else { return Ok(Begun::Running) };
                Ok(match StatusCode::from_bytes(status) {
                    Ok(status) => Begun::Done(status, Bytes::copy_from_slice(body)),
                    Err(_) => Begun::Running,
                })
            }
            Self::Postgres(pool) => {
                let connection = pool.get().await?;
                let insert = connection.prepare_cached(INSERT).await?;
                if connection.execute(&insert, &[&key]).await? == 1 {
                    return Ok(Begun::First);
                }
                let row = connection
                    .query_one("SELECT status, body FROM middleware WHERE key = $1", &[&key])
                    .await?;
                let Some(status) = row.get::<_, Option<i16>>(0) else { return Ok(Begun::Running) };
                Ok(Begun::Done(StatusCode::from_u16(status.try_into()?)?, row.get::<_, Vec<u8>>(1).into()))
            }
        }
    }

    async fn end(&self, key: &str, status: StatusCode, body: Bytes) -> Result<(), Fault> {
        match self {
            Self::Redis(connection) => {
                let kept = [status.as_str().as_bytes(), &body].concat();
                let mut set = redis::cmd("SET");
                set.arg(key).arg(kept).arg("EX").arg(RETENTION_SECONDS);
                Ok(set.query_async::<()>(&mut connection.clone()).await?)
            }
            Self::Postgres(pool) => {
                let connection = pool.get().await?;
                let update = connection.prepare_cached(UPDATE).await?;
                let status = i16::try_from(status.as_u16())?;
                connection.execute(&update, &[&key, &status, &&body[..]]).await?;
                Ok(())
            }
        }
    }
}

const INSERT: &str =
    "INSERT INTO middleware (key, expires) VALUES ($1, now() + interval '1 day') ON CONFLICT DO NOTHING";
const UPDATE: &str = "UPDATE middleware SET status = $2, body = $3 WHERE key = $1";
/// As many as the proxy's default.
const CONNECTIONS: usize = 8;
/// The proxy's default.
const RETENTION_SECONDS: u32 = 24 * 60 * 60;
