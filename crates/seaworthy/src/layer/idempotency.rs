//! The layer that carries a request with an idempotency key out once.

mod body;
mod clients;
mod keeping;

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::time::timeout_at;
use tower_layer::Layer;
use tower_service::Service;

pub use body::{AnswerBody, RequestBody};
pub use clients::Clients;

use self::body::BoxError;
use crate::clock;
use crate::idempotency::http::{IDEMPOTENCY_KEY, Keep, Print, Problem, REPLAYED_HEADERS};
use crate::idempotency::store::Settled;
use crate::idempotency::{Begun, Id, Key, Keys, Phase, Running, Token, http as keyed};

/// Carries a request with an `Idempotency-Key` out once, and answers every repetition with the first one's answer, marked
/// `Idempotent-Replayed: true`.
///
/// * With a method that needs a key and without one, or with one that is none: 400. With the key of another request: 422. While
///   the first is carried out: 409 with `Retry-After`, or the wait that [`Config::busy`](crate::idempotency::Config::busy) says. If
///   nobody knows how the first ended: 409. While the store is down: 503. All of them are problem documents (RFC 9457).
/// * An answer is kept, durably, before anybody hears of it; which are, [`keep`](Self::keep) says. One that is not kept sets the
///   key free, but for 502 and 504, of which nobody knows what happened behind them.
/// * What the service behind it ends with an error or a panic is unknown; if it was not even ready, the key is free.
/// * That service runs in a task of its own: a client that leaves does not end what it asked for, but while it waits for
///   somebody else's. It has nearly the whole of the [lease](crate::idempotency::Config::lease); one
///   [`store_timeout`](crate::idempotency::Config::store_timeout) before its end it is dropped, and its outcome is unknown. A server that stops gracefully waits for its connections, and not for the tasks of clients that have left.
/// * The service finds the [`Key`] among the request's extensions, and the fencing [`Token`] of its turn, to pass on to whatever
///   it changes. Where it is carried out unrecorded, as the store is down and
///   [that was chosen](crate::idempotency::WhenDown::Allow), the token is 0: older than every other. Without a key there is neither.
/// * Bodies of such requests are read whole, up to [`most_request_bytes`](Self::most_request_bytes); others pass as they
///   come. Requests of gRPC and upgrades get 400 if they have a key: their answers are more than a head and a body.
///
/// ```
/// use axum::{Router, routing::post};
/// use http::HeaderName;
/// use seaworthy::idempotency::{Keys, store::memory::Memory};
/// use seaworthy::layer::{Clients, Idempotency};
///
/// let keys = Keys::of(Memory::new(100_000));
/// let clients = Clients::by_header(HeaderName::from_static("x-account"));
/// let app: Router = Router::new()
///     .route("/payments", post(async || "paid"))
///     .layer(Idempotency::new("payments", keys, clients));
/// ```
#[derive(Clone, Debug)]
pub struct Idempotency {
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    place: Arc<str>,
    keys: Keys,
    methods: Vec<Method>,
    required: Vec<Method>,
    header: HeaderName,
    clients: Clients,
    counted: Vec<HeaderName>,
    keep: Keep,
    replayed: Vec<HeaderName>,
    most_request_bytes: u64,
    most_answer_bytes: u64,
}

impl Idempotency {
    /// The layer with `keys`, which are unique within `place`: a name of at most 255 bytes that no other service has which keeps
    /// its keys in the same store.
    ///
    /// A key is one client's: whoever else sends it asks for something else. There is no default for what tells `clients` apart, as
    /// with a wrong one a client that guesses another's key, or draws the same, is given that client's answer.
    ///
    /// A key is honoured with POST and PATCH, and not required.
    #[must_use]
    pub fn new(place: &str, keys: Keys, clients: Clients) -> Self {
        let settings = Settings {
            place: place.into(),
            keys,
            methods: vec![Method::POST, Method::PATCH],
            required: Vec::new(),
            header: IDEMPOTENCY_KEY,
            clients,
            counted: Vec::new(),
            keep: Keep::default(),
            replayed: REPLAYED_HEADERS.to_vec(),
            most_request_bytes: MOST_BYTES,
            most_answer_bytes: MOST_BYTES,
        };
        Self { settings: Arc::new(settings) }
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// The methods with which a key is honoured; with others it means nothing. POST and PATCH: the others can be repeated as they
    /// are (RFC 9110, section 9.2.2).
    #[must_use]
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.with(|settings| settings.methods = methods.into_iter().collect())
    }

    /// The methods that need a key, and with which one is honoured in any case. None.
    #[must_use]
    pub fn required(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.with(|settings| settings.required = methods.into_iter().collect())
    }

    /// What carries the key. `Idempotency-Key`.
    #[must_use]
    pub fn header(self, name: HeaderName) -> Self {
        self.with(|settings| settings.header = name)
    }

    /// The headers that make a request another if they differ, besides its method, host, path, query and body. None.
    #[must_use]
    pub fn fingerprint_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|settings| settings.counted = names.into_iter().collect())
    }

    /// Which answers are kept. [`Keep::Definite`].
    #[must_use]
    pub fn keep(self, keep: Keep) -> Self {
        self.with(|settings| settings.keep = keep)
    }

    /// The headers of an answer that are kept with it. [`REPLAYED_HEADERS`]: what describes the body, and where the result is.
    /// `Set-Cookie` is never kept: it would hand a session to whoever repeats the request.
    #[must_use]
    pub fn replayed_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|settings| settings.replayed = names.into_iter().collect())
    }

    /// How long a request with a key may be, in bytes; it is read whole before it is begun. 1 MiB. Longer: 413.
    #[must_use]
    pub fn most_request_bytes(self, most: u64) -> Self {
        self.with(|settings| settings.most_request_bytes = most)
    }

    /// How long an answer may be to be kept, in bytes. 1 MiB. A longer one is given to who asked first, and to others 409 with
    /// its status and headers: it is never carried out again.
    #[must_use]
    pub fn most_answer_bytes(self, most: u64) -> Self {
        self.with(|settings| settings.most_answer_bytes = most)
    }

    /// Its keys, for what they [count](Keys::counts).
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.settings.keys
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("place", &self.place)
            .field("methods", &self.methods)
            .field("required", &self.required)
            .field("header", &self.header)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for Idempotency {
    type Service = CarriedOutOnce<S>;

    fn layer(&self, service: S) -> Self::Service {
        CarriedOutOnce { service, settings: self.settings.clone() }
    }
}

/// A service behind [`Idempotency`].
#[derive(Clone, Debug)]
pub struct CarriedOutOnce<S> {
    service: S,
    settings: Arc<Settings>,
}

impl<S, B, R> Service<Request<B>> for CarriedOutOnce<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    /// Always ready: what is replayed needs no service. It is made ready for each request that is carried out.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { service, settings } = self.clone();
        Box::pin(answer(settings, service, request))
    }
}

async fn answer<S, B, R>(
    settings: Arc<Settings>,
    service: S,
    request: Request<B>,
) -> Result<Response<AnswerBody<R>>, S::Error>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    let (mut parts, body) = request.into_parts();
    let key = match settings.wish(&parts) {
        Ok(Some(key)) => key,
        Ok(None) => return passed(service, Request::from_parts(parts, RequestBody::passed(body))).await,
        Err(problem) => return Ok(told(&problem)),
    };
    let body = match RequestBody::read(body, settings.most_request_bytes).await {
        Ok(body) => body,
        Err(problem) => return Ok(told(&problem)),
    };
    let mut print = settings.print(&parts);
    body.show(&mut print);
    let id = Id::new(&settings.place, &settings.clients.of(&parts), key.as_str());
    parts.extensions.insert(key);
    let begun = settings.keys.begin(&id, print.finish()).await;
    let running = match begun {
        Ok(Begun::First(running)) => running,
        Ok(Begun::Replay(replay)) => return Ok(keeping::replayed(&replay)),
        Ok(Begun::Unrecorded(_)) => {
            // Older than every other.
            parts.extensions.insert(Token(0));
            return passed(service, Request::from_parts(parts, body)).await;
        }
        Err(refusal) => return Ok(told(&Problem::of(&refusal))),
    };
    parts.extensions.insert(running.token());
    // From here on it runs whether or not anybody waits for it. Between its beginning and this there is no pause in which it
    // could be dropped.
    let task = carry_out(settings, service, Request::from_parts(parts, body), running);
    match tokio::spawn(task).await {
        Ok(answered) => answered,
        // As it would be without the layer.
        Err(ended) if ended.is_panic() => resume_unwind(ended.into_panic()),
        Err(_) => {
            let detail = "the server is stopping; what the request did is unknown".to_owned();
            Ok(told(&Problem { status: StatusCode::SERVICE_UNAVAILABLE, detail, retry_after: None }))
        }
    }
}

/// Carries it out while there is time to write down how it ended. If the service panics, `running` is dropped, and so the outcome unknown.
async fn carry_out<S, B, R>(
    settings: Arc<Settings>,
    mut service: S,
    request: Request<B>,
    running: Running,
) -> Result<Response<AnswerBody<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
    R::Error: Into<BoxError>,
{
    let until = clock::to_tokio(running.stop_at());
    let ready = timeout_at(until, poll_fn(|cx| service.poll_ready(cx))).await;
    let (settled, result) = match ready {
        Ok(Ok(())) => match timeout_at(until, service.call(request)).await {
            Ok(Ok(answer)) => match settings.keep.settles(answer.status()) {
                Phase::Done => return Ok(keeping::keep(&settings, running, answer, until).await),
                Phase::Unknown => (Settled::Unknown, Ok(answer.map(AnswerBody::passed))),
                Phase::Free | Phase::Running => (Settled::Free, Ok(answer.map(AnswerBody::passed))),
            },
            Ok(Err(error)) => (Settled::Unknown, Err(error)),
            Err(_) => (Settled::Unknown, Ok(told(&timed_out()))),
        },
        Ok(Err(error)) => (Settled::Free, Err(error)),
        Err(_) => (Settled::Free, Ok(told(&not_ready()))),
    };
    // A store that does not hear it now is told later.
    let _unheard = running.settle(settled).await;
    result
}

/// As if the layer were not there.
async fn passed<S, B, R>(mut service: S, request: Request<B>) -> Result<Response<AnswerBody<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    poll_fn(|cx| service.poll_ready(cx)).await?;
    Ok(service.call(request).await?.map(AnswerBody::passed))
}

impl Settings {
    /// The key under which it is to be carried out once, if it asks for that.
    fn wish(&self, parts: &Parts) -> Result<Option<Key>, Problem> {
        let required = self.required.contains(&parts.method);
        if !required && !self.methods.contains(&parts.method) {
            return Ok(None);
        }
        match keyed::key(&parts.headers, &self.header) {
            Ok(None) if required => Err(Problem::missing(&self.header)),
            Ok(None) => Ok(None),
            Ok(Some(_)) if is_more_than_a_body(parts) => {
                // A key that is not honoured is worse than none.
                let detail = "an idempotency key can't be honoured with gRPC or an upgrade".to_owned();
                Err(Problem { status: StatusCode::BAD_REQUEST, detail, retry_after: None })
            }
            Ok(Some(key)) => Ok(Some(key)),
            Err(error) => Err(Problem::malformed(error)),
        }
    }

    /// The fingerprint of all but the body.
    fn print(&self, parts: &Parts) -> Print {
        let host = match parts.uri.authority() {
            Some(authority) => authority.as_str().as_bytes(),
            None => parts.headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default(),
        };
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        Print::new(&parts.method, host, target, &parts.headers, &self.counted)
    }
}

/// Whether the answer would be more than a head and a body.
fn is_more_than_a_body(parts: &Parts) -> bool {
    let starts = |name: HeaderName, with: &[u8]| {
        let value = parts.headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
        value.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    // An upgrade to HTTP/2 is about this hop, and declining it is to ignore it (RFC 9113, section 3.1).
    let upgrade = parts.headers.contains_key(header::UPGRADE) && !starts(header::UPGRADE, b"h2c");
    upgrade || starts(header::CONTENT_TYPE, b"application/grpc")
}

/// An answer of the layer's own.
fn told<R>(problem: &Problem) -> Response<AnswerBody<R>> {
    let mut response = Response::new(AnswerBody::own(Bytes::from(problem.document())));
    *response.status_mut() = problem.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(wait) = problem.retry_after {
        // Whole seconds, rounded up: who comes too early is refused again.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

fn timed_out() -> Problem {
    let detail = "the request took longer than it may; what it did is unknown".to_owned();
    Problem { status: StatusCode::SERVICE_UNAVAILABLE, detail, retry_after: None }
}

fn not_ready() -> Problem {
    let detail = "the service was not ready in time; the request was not carried out".to_owned();
    Problem { status: StatusCode::SERVICE_UNAVAILABLE, detail, retry_after: Some(COME_BACK) }
}

/// Enough for what is asked of an interface in one piece; uploads and downloads are not meant.
const MOST_BYTES: u64 = 1024 * 1024;
/// When to come back to a service that was busy for the whole of a lease.
const COME_BACK: std::time::Duration = std::time::Duration::from_secs(1);
