//! The layer for servers, with axum: what the draft asks for (draft-ietf-httpapi-idempotency-key-header-07), line by line, and
//! what it leaves open.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod faults;

use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use seaworthy::core::Valid;
use seaworthy::core::idempotency::OnUnknown;
use seaworthy::idempotency::http::Keep;
use seaworthy::idempotency::store::{Answer as Answered, CHUNK_BYTES, Id, Release, Settled, Store as _};
use seaworthy::idempotency::{Begun, Busy, Config, Key, Keys, Phase, Token, WhenDown};
use seaworthy::layer::{Clients, Idempotency};
use tokio::sync::Semaphore;
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt};

use crate::faults::{Fault, Faulty, Op};

const KEY: &str = "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"";

/// A server whose handler counts what it does.
struct Server {
    store: Arc<Faulty>,
    app: Router,
    shop: Arc<Shop>,
}

/// Most tests have one client, which says nothing of itself.
fn clients() -> Clients {
    Clients::by_header(HeaderName::from_static("x-account"))
}

struct Shop {
    /// How often something happened.
    effects: AtomicU32,
    /// How often somebody has come so far as to ask for something.
    begun: AtomicU32,
    /// Let it happen.
    open: Semaphore,
    answer: Box<dyn Fn(u32) -> Response + Send + Sync>,
    /// What handlers saw.
    seen: Mutex<Vec<Seen>>,
}

/// Key, token and body.
type Seen = (Option<String>, Option<u64>, Bytes);

async fn order(State(shop): State<Arc<Shop>>, request: Request<Body>) -> Response {
    shop.begun.fetch_add(1, Ordering::SeqCst);
    let key = request.extensions().get::<Key>().map(ToString::to_string);
    let token = request.extensions().get::<Token>().map(|token| token.0);
    let body = request.into_body().collect().await.unwrap().to_bytes();
    shop.seen.lock().unwrap().push((key, token, body));
    shop.open.acquire().await.unwrap().forget();
    let n = shop.effects.fetch_add(1, Ordering::SeqCst) + 1;
    (shop.answer)(n)
}

impl Server {
    fn new(config: Config, layer: impl Fn(Idempotency) -> Idempotency) -> Self {
        Self::answering(config, layer, |n| (StatusCode::CREATED, format!("order {n}")).into_response())
    }

    fn answering(
        config: Config,
        layer: impl Fn(Idempotency) -> Idempotency,
        answer: impl Fn(u32) -> Response + Send + Sync + 'static,
    ) -> Self {
        let store = Faulty::new();
        let keys = Keys::new(store.clone(), Valid::new(config).unwrap());
        let shop = Arc::new(Shop {
            effects: AtomicU32::new(0),
            begun: AtomicU32::new(0),
            open: Semaphore::new(1_000),
            answer: Box::new(answer),
            seen: Mutex::default(),
        });
        let app = Router::new()
            .route("/{*path}", any(order))
            .layer(layer(Idempotency::new("shop", keys, clients())))
            .with_state(shop.clone());
        Self { store, app, shop }
    }

    fn usual() -> Self {
        Self::new(Config::default(), |layer| layer)
    }

    fn effects(&self) -> u32 {
        self.shop.effects.load(Ordering::SeqCst)
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.app.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// A POST of `body` under the usual key.
    async fn post(&self, body: &'static str) -> Answer {
        self.send(post(body)).await
    }

    /// Waits until so many have come to the handler.
    async fn begun(&self, count: u32) {
        while self.shop.begun.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    }

    async fn until(&self, phase: Phase) {
        let id = Id::new("shop", b"", KEY.trim_matches('"'));
        while self.store.phase(&id).await != Some(phase) {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn post(body: &'static str) -> Request<Body> {
    with(post_without(body), "idempotency-key", KEY)
}

fn post_without(body: &'static str) -> Request<Body> {
    Request::post("/orders").header("host", "shop.example").body(Body::from(body)).unwrap()
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    request
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn replayed(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }

    /// Checks that it is a problem document of this status, and gives its detail.
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(self.headers[header::CACHE_CONTROL], "no-store");
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(document["status"], status);
        assert!(document["type"].is_string() && document["title"].is_string());
        document["detail"].as_str().unwrap().to_owned()
    }
}

mod the_draft {
    use super::*;

    #[tokio::test]
    async fn s2_1_the_key_is_a_string_in_quotes() {
        let server = Server::usual();
        assert_eq!(server.post("1 book").await.status, StatusCode::CREATED);
        assert!(server.post("1 book").await.replayed());
    }

    /// Beyond the draft, which has quotes as a MUST.
    #[tokio::test]
    async fn s2_1_a_bare_token_is_the_same_key() {
        let server = Server::usual();
        server.post("1 book").await;
        let bare = with(post_without("1 book"), "idempotency-key", KEY.trim_matches('"'));
        assert!(server.send(bare).await.replayed());
        assert_eq!(server.effects(), 1);
    }

    #[tokio::test]
    async fn s2_2_another_key_is_another_request() {
        let server = Server::usual();
        server.post("1 book").await;
        let other = server.send(with(post_without("1 book"), "idempotency-key", "\"other\"")).await;
        assert_eq!((other.replayed(), other.body), (false, "order 2".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn s2_3_a_key_expires() {
        let server = Server::usual();
        server.post("1 book").await;
        advance(Config::default().retention - Duration::from_millis(1)).await;
        assert!(server.post("1 book").await.replayed());
        advance(Config::default().retention).await;
        assert_eq!(server.post("1 book").await.body, "order 2");
    }

    #[tokio::test]
    async fn s2_4_the_fingerprint_is_of_method_host_target_and_body() {
        let server = Server::usual();
        server.post("1 book").await;
        let keyed = |request| with(request, "idempotency-key", KEY);
        let to = |method: Method, host: &str, target: &str| {
            let request = Request::builder().method(method).uri(target).header("host", host);
            keyed(request.body(Body::from("1 book")).unwrap())
        };
        assert_eq!(server.post("2 books").await.status, StatusCode::UNPROCESSABLE_ENTITY);
        for request in [
            to(Method::PATCH, "shop.example", "/orders"),
            to(Method::POST, "other.example", "/orders"),
            to(Method::POST, "shop.example", "/refunds"),
            to(Method::POST, "shop.example", "/orders?x=1"),
        ] {
            server.send(request).await.problem(422);
        }
        // What is not part of it may differ, as the port of another proxy before it.
        for host in ["shop.example:8081", "Shop.example"] {
            assert!(server.send(to(Method::POST, host, "/orders")).await.replayed());
        }
        assert!(server.send(with(post("1 book"), "x-request-id", "7")).await.replayed());
        assert_eq!(server.effects(), 1);
    }

    #[tokio::test]
    async fn s2_6_the_first_time_it_is_carried_out() {
        let server = Server::usual();
        let answer = server.post("1 book").await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::CREATED, &b"order 1"[..]));
        assert!(!answer.replayed());
    }

    #[tokio::test]
    async fn s2_6_a_repetition_of_what_succeeded_has_its_result() {
        let server = Server::answering(
            Config::default(),
            |layer| layer,
            |n| {
                let headers = [(header::LOCATION, "/orders/1"), (header::SET_COOKIE, "s=1")];
                (StatusCode::CREATED, headers, format!("order {n}")).into_response()
            },
        );
        let first = server.post("1 book").await;
        assert!(first.headers.contains_key(header::SET_COOKIE));
        for _ in 0..3 {
            let again = server.post("1 book").await;
            assert!(again.replayed());
            assert_eq!((again.status, &again.body), (first.status, &first.body));
            for name in [header::LOCATION, header::CONTENT_TYPE] {
                assert_eq!(again.headers[&name], first.headers[&name]);
            }
            assert!(!again.headers.contains_key(header::SET_COOKIE), "a session is not part of the result");
        }
        assert_eq!(server.effects(), 1);
    }

    #[tokio::test]
    async fn s2_6_a_repetition_of_what_failed_has_its_error() {
        let server =
            Server::answering(Config::default(), |layer| layer, |_| StatusCode::GONE.into_response());
        assert_eq!(server.post("1 book").await.status, StatusCode::GONE);
        let again = server.post("1 book").await;
        assert!(again.replayed() && again.status == StatusCode::GONE);
        assert_eq!(server.effects(), 1);
    }

    #[tokio::test]
    async fn s2_6_a_repetition_while_it_runs_is_a_conflict() {
        let server = Arc::new(Server::usual());
        server.shop.open.forget_permits(1_000);
        let first = tokio::spawn({
            let server = server.clone();
            async move { server.post("1 book").await }
        });
        server.begun(1).await;
        let conflict = server.post("1 book").await;
        conflict.problem(409);
        assert_eq!(conflict.headers[header::RETRY_AFTER], "1");
        server.shop.open.add_permits(1);
        assert_eq!(first.await.unwrap().body, "order 1");
        assert!(server.post("1 book").await.replayed());
    }

    #[tokio::test]
    async fn s2_7_a_missing_key_where_one_is_required_is_400() {
        let server = Server::new(Config::default(), |layer| layer.required([Method::POST]));
        let detail = server.send(post_without("1 book")).await.problem(400);
        assert!(detail.contains("idempotency-key"), "{detail}");
        assert_eq!(server.effects(), 0);
    }

    #[tokio::test]
    async fn s2_7_another_payload_is_422() {
        let server = Server::usual();
        server.post("1 book").await;
        server.post("2 books").await.problem(422);
        assert_eq!(server.effects(), 1);
    }

    /// In the section on security.
    #[tokio::test]
    async fn s5_a_malformed_key_is_400_before_any_look_up() {
        let server = Server::usual();
        for bad in ["", "\"\"", "\"open", "a b", "a,b", "\"a\";b=1", &"x".repeat(256)] {
            server.send(with(post_without("1 book"), "idempotency-key", bad)).await.problem(400);
        }
        server.send(with(post("1 book"), "idempotency-key", "another")).await.problem(400);
        assert_eq!(server.store.asked(Op::Reserve), 0);
        assert_eq!(server.effects(), 0);
    }

    #[tokio::test]
    async fn s5_a_key_belongs_to_one_client() {
        let server = Server::usual();
        for (account, order) in [("a", "order 1"), ("b", "order 2"), ("a", "order 1")] {
            assert_eq!(server.send(with(post("1 book"), "x-account", account)).await.body, order);
        }
    }
}

#[tokio::test]
async fn without_a_key_and_with_other_methods_it_is_as_if_the_layer_were_not_there() {
    let server = Server::usual();
    for n in 1..=2 {
        assert_eq!(server.send(post_without("1 book")).await.body, format!("order {n}"));
    }
    for n in 3..=4 {
        let put = Request::put("/orders").body(Body::from("1 book")).unwrap();
        assert_eq!(server.send(with(put, "idempotency-key", KEY)).await.body, format!("order {n}"));
    }
    assert_eq!(server.store.asked(Op::Reserve), 0);
    assert!(server.shop.seen.lock().unwrap().iter().all(|seen| *seen == (None, None, "1 book".into())));
}

#[tokio::test]
async fn methods_and_headers_are_chosen() {
    let server = Server::new(Config::default(), |layer| {
        layer
            .methods([Method::DELETE])
            .header(HeaderName::from_static("x-key"))
            .fingerprint_headers([HeaderName::from_static("x-tenant")])
            .replayed_headers([])
    });
    let delete = |tenant: &str| {
        let request = Request::delete("/orders").header("x-key", "a").header("x-tenant", tenant);
        request.body(Body::empty()).unwrap()
    };
    server.send(delete("one")).await;
    server.send(delete("two")).await.problem(422);
    let again = server.send(delete("one")).await;
    assert!(again.replayed() && !again.headers.contains_key(header::CONTENT_TYPE));
    assert_eq!(server.post("1 book").await.body, "order 2");
}

#[tokio::test]
async fn handlers_find_the_key_and_the_token_and_the_whole_body() {
    let failing = AtomicBool::new(true);
    let server = Server::answering(
        Config::default(),
        |layer| layer,
        move |_| {
            if failing.swap(false, Ordering::SeqCst) {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::OK
            }
            .into_response()
        },
    );
    server.post("1 book").await;
    server.post("1 book").await;
    let key = Some(KEY.trim_matches('"').to_owned());
    let expected = [(key.clone(), Some(1), "1 book".into()), (key, Some(2), "1 book".into())];
    assert_eq!(*server.shop.seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn what_is_not_kept_sets_the_key_free_but_for_what_a_gateway_did_not_hear() {
    for (keep, status, then) in [
        (Keep::Definite, 500, 500),
        (Keep::Definite, 503, 503),
        (Keep::Definite, 429, 429),
        (Keep::Definite, 502, 409),
        (Keep::Definite, 504, 409),
        (Keep::NoServerErrors, 500, 500),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let server =
            Server::answering(Config::default(), |layer| layer.keep(keep), move |_| status.into_response());
        assert_eq!(server.post("1 book").await.status, status);
        let again = server.post("1 book").await;
        assert_eq!((again.status.as_u16(), again.replayed()), (then, false));
    }
    for (keep, status) in [(Keep::All, 500), (Keep::All, 504), (Keep::NoServerErrors, 429)] {
        let status = StatusCode::from_u16(status).unwrap();
        let server =
            Server::answering(Config::default(), |layer| layer.keep(keep), move |_| status.into_response());
        server.post("1 book").await;
        assert!(server.post("1 book").await.replayed());
        assert_eq!(server.effects(), 1);
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_what_it_asked_for() {
    let server = Server::usual();
    server.shop.open.forget_permits(1_000);
    let asked = tokio::spawn(server.app.clone().oneshot(post("1 book")));
    server.begun(1).await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    server.shop.open.add_permits(1);
    server.until(Phase::Done).await;
    let again = server.post("1 book").await;
    assert_eq!((again.replayed(), again.body), (true, "order 1".into()));
}

#[tokio::test(start_paused = true)]
async fn who_waits_has_the_answer_of_the_first_and_who_leaves_while_it_waits_begins_nothing() {
    let server = Arc::new(Server::new(
        Config { busy: Busy::Wait(Duration::from_secs(30)), ..Config::default() },
        |layer| layer,
    ));
    server.shop.open.forget_permits(1_000);
    let asks = || {
        let server = server.clone();
        tokio::spawn(async move { server.post("1 book").await })
    };
    let first = asks();
    server.begun(1).await;
    let (waits, leaves) = (asks(), asks());
    sleep(Duration::from_secs(2)).await;
    leaves.abort();
    server.shop.open.add_permits(1);
    assert!(!first.await.unwrap().replayed());
    let waited = waits.await.unwrap();
    assert_eq!((waited.replayed(), waited.body), (true, "order 1".into()));
    assert_eq!(server.effects(), 1);
}

#[tokio::test]
async fn what_panics_is_unknown_and_panics_on() {
    let server = Server::answering(Config::default(), |layer| layer, |_| panic!("half way through"));
    let panicked = tokio::spawn(server.app.clone().oneshot(post("1 book"))).await.unwrap_err();
    assert!(panicked.is_panic());
    server.until(Phase::Unknown).await;
    server.post("1 book").await.problem(409);
    assert_eq!(server.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_its_lease_is_dropped_and_unknown() {
    let server = Server::new(Config { on_unknown: OnUnknown::Retry, ..Config::default() }, |layer| layer);
    server.shop.open.forget_permits(1_000);
    server.post("1 book").await.problem(503);
    server.until(Phase::Unknown).await;
    // Where that was chosen it is carried out again, under a higher token.
    server.shop.open.add_permits(1);
    assert_eq!(server.post("1 book").await.body, "order 1");
    assert_eq!(
        server.shop.seen.lock().unwrap().iter().map(|seen| seen.1).collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
}

/// An error of the service itself, which axum's handlers don't have.
#[tokio::test]
async fn an_error_is_unknown_and_of_what_was_not_even_ready_the_key_is_free() {
    for (ready, phase) in [(true, Phase::Unknown), (false, Phase::Free)] {
        let store = Faulty::new();
        let layer = Idempotency::new("shop", Keys::new(store.clone(), Valid::default()), clients());
        let failing = Failing { ready };
        let result = layer.layer(failing).oneshot(post("1 book")).await;
        assert_eq!(result.err(), Some("broken"));
        let id = Id::new("shop", b"", KEY.trim_matches('"'));
        assert_eq!(store.phase(&id).await, Some(phase));
    }
}

#[derive(Clone)]
struct Failing {
    ready: bool,
}

impl<R> tower::Service<R> for Failing {
    type Response = http::Response<Body>;
    type Error = &'static str;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(if self.ready { Ok(()) } else { Err("broken") })
    }

    fn call(&mut self, _: R) -> Self::Future {
        std::future::ready(Err("broken"))
    }
}

#[tokio::test]
async fn a_request_that_is_too_long_is_413_and_not_begun() {
    let server = Server::new(Config::default(), |layer| layer.most_request_bytes(6));
    assert_eq!(server.post("1 book").await.status, StatusCode::CREATED);
    server.send(with(post_without("2 books"), "idempotency-key", "long")).await.problem(413);
    // One that doesn't say how long it is.
    let pieces = ["2 ", "bo", "ok", "s"].map(Ok::<_, Infallible>);
    let request = Request::post("/orders").header("idempotency-key", "long").body(streamed(pieces)).unwrap();
    server.send(request).await.problem(413);
    assert_eq!((server.effects(), server.store.asked(Op::Reserve)), (1, 1));
}

#[tokio::test]
async fn a_request_that_breaks_off_is_400_and_not_begun() {
    let server = Server::usual();
    let request = Request::post("/orders").header("idempotency-key", "a");
    let broken = streamed([Ok("1 bo"), Err(std::io::Error::other("gone"))]);
    server.send(request.body(broken).unwrap()).await.problem(400);
    assert_eq!((server.effects(), server.store.asked(Op::Reserve)), (0, 0));
}

/// A body in pieces that doesn't say how long it is.
fn streamed<E>(pieces: impl IntoIterator<Item = Result<&'static str, E>>) -> Body
where
    E: std::error::Error + Send + Sync + 'static,
{
    let pieces: Vec<_> = pieces.into_iter().collect();
    Body::new(Pieces(pieces.into_iter().collect()))
}

struct Pieces<E>(std::collections::VecDeque<Result<&'static str, E>>);

impl<E> Unpin for Pieces<E> {}

impl<E> http_body::Body for Pieces<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, E>>> {
        let piece = self.get_mut().0.pop_front();
        Poll::Ready(
            piece.map(|piece| piece.map(|text| http_body::Frame::data(Bytes::from_static(text.as_bytes())))),
        )
    }
}

#[tokio::test]
async fn long_answers_lie_in_pieces_and_come_back_whole() {
    for length in [CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 7] {
        let text: Bytes = (0..length).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
        let long = text.clone();
        let server =
            Server::answering(Config::default(), |layer| layer, move |_| long.clone().into_response());
        for replayed in [false, true] {
            let answer = server.post("1 book").await;
            assert_eq!(answer.replayed(), replayed);
            assert!(answer.body == text, "{length}");
        }
        assert_eq!(server.store.asked(Op::PutChunk), (length - 1) / CHUNK_BYTES);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_given_once_and_then_that_it_was() {
    for streams in [false, true] {
        let server = Server::answering(
            Config::default(),
            |layer| layer.most_answer_bytes(6),
            move |_| {
                let pieces = ["order", " 1 of", " many"].map(Ok::<_, Infallible>);
                let body = if streams { streamed(pieces) } else { Body::from("order 1 of many") };
                let mut answer = ([(header::LOCATION, "/orders/1")], body).into_response();
                for (name, value) in [(header::CONTENT_ENCODING, "identity"), (header::ETAG, "\"1\"")] {
                    answer.headers_mut().insert(name, HeaderValue::from_static(value));
                }
                for link in ["<a>", "<b>"] {
                    answer.headers_mut().append(header::LINK, HeaderValue::from_static(link));
                }
                answer
            },
        );
        let first = server.post("1 book").await;
        assert_eq!((first.status, &first.body[..]), (StatusCode::OK, &b"order 1 of many"[..]));
        let again = server.post("1 book").await;
        assert!(again.problem(409).contains("200"));
        assert!(again.replayed() && again.headers[header::LOCATION] == "/orders/1");
        assert_eq!(again.headers.get_all(header::LINK).iter().collect::<Vec<_>>(), ["<a>", "<b>"]);
        for name in [header::CONTENT_ENCODING, header::ETAG] {
            assert!(!again.headers.contains_key(&name), "{name} is not of this document");
        }
        assert_eq!(server.effects(), 1);
    }
}

fn long() -> Bytes {
    (0..3 * CHUNK_BYTES).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

/// It is given once, as one that is too long.
#[tokio::test(start_paused = true)]
async fn an_answer_of_which_a_piece_can_not_be_kept_is_given_once_and_then_that_it_was() {
    for nth in 1..=2 {
        let server = Server::answering(Config::default(), |layer| layer, |_| long().into_response());
        let mut pieces = 0;
        server.store.plan(move |op| {
            pieces += u32::from(op == Op::PutChunk);
            (op == Op::PutChunk && pieces >= nth).then_some(Fault::Fails)
        });
        let first = server.post("1 book").await;
        assert!(first.status == StatusCode::OK && first.body == long(), "{}", first.body.len());
        let again = server.post("1 book").await;
        assert!(again.problem(409).contains("not kept") && again.replayed());
        assert_eq!(server.effects(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_a_store_did_not_take_is_put_again() {
    let server = Server::answering(Config::default(), |layer| layer, |_| long().into_response());
    server.store.once(Op::PutChunk, Fault::Fails);
    for replayed in [false, true] {
        let answer = server.post("1 book").await;
        assert!(answer.status == StatusCode::OK && answer.body == long(), "{}", answer.body.len());
        assert_eq!(answer.replayed(), replayed);
    }
}

#[tokio::test(start_paused = true)]
async fn of_an_answer_in_an_outage_what_is_here_is_given_where_that_was_chosen() {
    for (when_down, lost, given) in [
        (WhenDown::Allow, 1, true),
        // The first piece lies in the store, which is down.
        (WhenDown::Allow, 2, false),
        (WhenDown::Refuse, 1, false),
    ] {
        let server = Server::answering(
            Config { when_down, ..Config::default() },
            |layer| layer,
            |_| long().into_response(),
        );
        let mut pieces = 0;
        server.store.plan(move |op| {
            pieces += u32::from(op == Op::PutChunk);
            (pieces >= lost).then_some(Fault::Fails)
        });
        let first = server.post("1 book").await;
        if given {
            assert!(first.status == StatusCode::OK && first.body == long(), "{}", first.body.len());
        } else {
            assert!(first.problem(503).contains("was carried out"));
        }
        server.store.mend();
        server.until(Phase::Done).await;
        server.post("1 book").await.problem(409);
    }
}

#[tokio::test]
async fn an_answer_for_which_there_is_no_room_is_given_once_and_then_that_it_was() {
    let server = Server::usual();
    server.store.once(Op::Settle, Fault::Full);
    assert_eq!(server.post("1 book").await.body, "order 1");
    let again = server.post("1 book").await;
    assert!(again.problem(409).contains("201") && again.replayed());
}

/// Another program's, or one of another version.
#[tokio::test]
async fn what_is_no_answer_is_not_marked_as_one_that_was_given_before() {
    let server = Server::usual();
    let keys = Keys::new(server.store.clone(), Valid::default());
    server.post("1 book").await;
    let id = Id::new("shop", b"", KEY.trim_matches('"'));
    let print = server.store.inner.find(&id).await.unwrap().unwrap().standing.fingerprint;
    let id = Id::new("shop", b"", "other");
    let Begun::First(running) = keys.begin(&id, print).await.unwrap() else { panic!("it is the first") };
    running.settle(Settled::Done(Answered { head: "?".into(), ..Answered::default() })).await.unwrap();
    let strange = server.send(with(post_without("1 book"), "idempotency-key", "other")).await;
    assert!(strange.problem(409).contains("was carried out"));
    assert!(!strange.replayed() && server.effects() == 1);
}

#[tokio::test]
async fn who_was_overtaken_is_not_told_to_ask_again() {
    let server = Arc::new(Server::usual());
    server.shop.open.forget_permits(1_000);
    let first = tokio::spawn({
        let server = server.clone();
        async move { server.post("1 book").await }
    });
    server.begun(1).await;
    let id = Id::new("shop", b"", KEY.trim_matches('"'));
    let release = Release {
        id,
        token: Token::FIRST,
        phase: Phase::Running,
        reason: "a test says so".to_owned(),
        at: Duration::ZERO,
    };
    assert!(server.store.release(&release).await.unwrap());
    server.shop.open.add_permits(1);
    let first = first.await.unwrap();
    assert!(!first.headers.contains_key(header::RETRY_AFTER));
    assert!(first.problem(409).contains("may be carried out again"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_unknown() {
    let server = Server::answering(
        Config::default(),
        |layer| layer,
        |_| streamed([Ok("order"), Err(std::io::Error::other("gone"))]).into_response(),
    );
    server.post("1 book").await.problem(500);
    server.post("1 book").await.problem(409);
    assert_eq!(server.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_longer_than_the_lease_is_given_once_and_then_that_it_was() {
    for on_unknown in [OnUnknown::Refuse, OnUnknown::Retry] {
        let config = Config { on_unknown, ..Config::default() };
        let server = Server::answering(config, |layer| layer, |_| Body::new(Slow::new()).into_response());
        let first = server.post("1 book").await;
        assert_eq!((first.status, &first.body[..]), (StatusCode::OK, &b"early late"[..]));
        let again = server.post("1 book").await;
        assert!(again.problem(409).contains("not kept") && again.replayed());
        assert_eq!(server.effects(), 1);
    }
}

/// A body whose second half comes after the lease.
struct Slow {
    halves: std::vec::IntoIter<&'static str>,
    pause: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl Slow {
    fn new() -> Self {
        let pause = Box::pin(tokio::time::sleep(Config::default().lease * 2));
        Self { halves: vec!["early ", "late"].into_iter(), pause }
    }
}

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        if self.halves.len() == 1 {
            std::task::ready!(self.pause.as_mut().poll(cx));
        }
        let half = self.halves.next();
        Poll::Ready(half.map(|half| Ok(http_body::Frame::data(Bytes::from_static(half.as_bytes())))))
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_503_and_where_it_was_chosen_no_hindrance() {
    let server = Server::usual();
    server.store.plan(|_| Some(Fault::Fails));
    let refused = server.post("1 book").await;
    refused.problem(503);
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    assert_eq!(server.effects(), 0);
    // Without a key it is not asked.
    assert_eq!(server.send(post_without("1 book")).await.status, StatusCode::CREATED);

    let server = Server::new(Config { when_down: WhenDown::Allow, ..Config::default() }, |layer| layer);
    server.store.plan(|_| Some(Fault::Fails));
    assert_eq!(server.post("1 book").await.body, "order 1");
    assert_eq!(server.shop.seen.lock().unwrap()[0].1, Some(0), "older than every other");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_known_to_be_kept_is_not_given_but_where_it_was_chosen() {
    for (when_down, status) in [(WhenDown::Refuse, 503), (WhenDown::Allow, 201)] {
        let server = Server::new(Config { when_down, ..Config::default() }, |layer| layer);
        server.store.once(Op::Settle, Fault::Fails);
        assert_eq!(server.post("1 book").await.status, status);
        server.until(Phase::Done).await;
        let again = server.post("1 book").await;
        assert_eq!((again.replayed(), again.body), (true, "order 1".into()));
    }
}

#[tokio::test]
async fn a_piece_that_is_gone_breaks_the_replay_off_and_is_not_left_out() {
    let text = vec![7; 3 * CHUNK_BYTES];
    let server = Server::answering(Config::default(), |layer| layer, move |_| text.clone().into_response());
    server.post("1 book").await;
    server.store.once(Op::Chunk, Fault::Fails);
    let (parts, body) = server.app.clone().oneshot(post("1 book")).await.unwrap().into_parts();
    assert_eq!(parts.status, StatusCode::OK);
    assert!(body.collect().await.is_err());
}

#[tokio::test]
async fn a_key_on_what_is_more_than_a_body_is_400() {
    let server = Server::usual();
    server.send(with(post("1 book"), "content-type", "application/grpc+proto")).await.problem(400);
    server.send(with(post("1 book"), "upgrade", "websocket")).await.problem(400);
    assert_eq!(server.effects(), 0);
    // An offer of HTTP/2 is about the connection.
    assert_eq!(server.send(with(post("1 book"), "upgrade", "h2c")).await.status, StatusCode::CREATED);
}

/// It doesn't wait for the service to be ready: that is for those who are carried out.
#[tokio::test]
async fn what_is_replayed_needs_no_service() {
    #[derive(Clone)]
    struct Never(Arc<AtomicU32>);
    impl<R> tower::Service<R> for Never {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = std::future::Pending<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Poll::Pending
        }

        fn call(&mut self, _: R) -> Self::Future {
            pending()
        }
    }
    let server = Server::usual();
    server.post("1 book").await;
    let asked = Arc::new(AtomicU32::new(0));
    let keys = Keys::new(server.store.clone(), Valid::default());
    let never = Idempotency::new("shop", keys, clients()).layer(Never(asked.clone()));
    let answer = never.oneshot(post("1 book")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "order 1");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}
