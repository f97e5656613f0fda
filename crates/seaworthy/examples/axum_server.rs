//! An axum server that refuses what it can't carry: at most two requests at a time, a third waits a little, and what comes
//! beyond gets 503 with Retry-After at once instead of an answer after its caller has left.
//!
//! A place is held until the head of the answer is ready; a body that streams after it does not count any more.
//!
//! `cargo run -p seaworthy --example axum_server`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::Arc;
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
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    // Longer than this program, on however slow a machine. A real server waits as long as its callers are patient.
    let max_wait = Duration::from_secs(30);
    let numbers = bulkhead::Config { concurrency: 2, queue: 1, max_wait, ..Default::default() };
    let bulkhead = Bulkhead::new(numbers).map_err(|faults| format!("{faults:?}"))?.classified(Once);
    // The handler works until it is told that it is done.
    let done = Arc::new(Semaphore::new(0));
    let wait = done.clone();
    let handler = async move || wait.acquire().await.map(|permit| permit.forget()).is_ok().to_string();
    let app = Router::new()
        .route("/", get(handler))
        .layer(ServiceBuilder::new().layer(HandleErrorLayer::new(refuse)).layer(bulkhead));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    // Six come at once. Three are answered while nobody is served yet.
    let mut asked: JoinSet<_> = (0..6).map(|_| reqwest::get(url.clone())).collect();
    for _ in 0..3 {
        let refused = asked.join_next().await.ok_or("an answer is missing")???;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let after = refused.headers().get(header::RETRY_AFTER).ok_or("a refusal says when to come back")?;
        println!("refused at once, to come back in {} s", after.to_str()?);
        println!("    {}", refused.text().await?);
    }
    // The other three are served: two that worked, and the one that waited.
    done.add_permits(3);
    for served in asked.join_all().await {
        assert_eq!(served?.status(), StatusCode::OK);
        println!("served");
    }
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
    let Error::Rejected { rejection, .. } = error else {
        return StatusCode::GATEWAY_TIMEOUT.into_response();
    };
    let mut headers = HeaderMap::new();
    if let Some(wait) = rejection.retry_after {
        // Whole seconds, rounded up: who comes too early is refused again.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    (StatusCode::SERVICE_UNAVAILABLE, headers, rejection.to_string()).into_response()
}
