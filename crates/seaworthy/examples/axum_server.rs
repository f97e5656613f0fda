//! An axum server that refuses what it can't carry: at most two requests at a time, a third waits a little, and what comes beyond gets 503 with
//! Retry-After at once instead of an answer after its caller has left.
//!
//! `cargo run -p seaworthy --example axum_server`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::convert::Infallible;
use std::error::Error as StdError;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use seaworthy::Error;
use seaworthy::classify::{Classify, Http, Repeatable};
use seaworthy::core::gate::bulkhead;
use seaworthy::layer::Bulkhead;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let numbers = bulkhead::Config { concurrency: 2, queue: 1, ..Default::default() };
    let bulkhead = Bulkhead::new(numbers).map_err(|faults| format!("{faults:?}"))?.classified(Once);
    let app = Router::new()
        .route("/", get(async || tokio::time::sleep(Duration::from_millis(200)).await))
        .layer(ServiceBuilder::new().layer(HandleErrorLayer::new(refuse)).layer(bulkhead));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..6 {
        asked.spawn(reqwest::get(url.clone()));
    }
    let (mut served, mut refused) = (0, 0);
    for answer in asked.join_all().await {
        let answer = answer?;
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert!(answer.headers().contains_key(header::RETRY_AFTER), "a refusal says when to come back");
            refused += 1;
        } else {
            served += 1;
        }
    }
    println!("{served} served, {refused} refused at once");
    assert_eq!((served, refused), (3, 3));
    Ok(())
}

/// A server does not repeat its requests, so it need not copy them.
#[derive(Clone)]
struct Once;

impl<B, E> Classify<axum::http::Response<B>, E> for Once {
    fn classify(&self, result: Result<&axum::http::Response<B>, &E>) -> seaworthy::Outcome {
        Http.classify(result)
    }
}

impl<R> Repeatable<R> for Once {
    fn repeat(&self, _request: &R) -> seaworthy::Repeat {
        seaworthy::Repeat::Never
    }

    fn copy(&self, _request: &R) -> Option<R> {
        None
    }
}

async fn refuse(error: Error<Infallible>) -> Response {
    let mut headers = HeaderMap::new();
    if let Some(wait) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    (StatusCode::SERVICE_UNAVAILABLE, headers, error.why().to_string()).into_response()
}
