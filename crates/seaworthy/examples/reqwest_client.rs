//! reqwest in a plain call: connect errors are recognised, 5xx are failures, and each host has policies of its own.
//!
//! `cargo run -p seaworthy --example reqwest_client`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use seaworthy::classify::Http;
use seaworthy::keyed::Keyed;
use seaworthy::{Config, Failure, Outcome, Repeat};

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    // A server that fails every other time.
    let asked = Arc::new(AtomicU32::new(0));
    let seen = asked.clone();
    let flaky = async move || {
        let failing = seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        if failing { StatusCode::BAD_GATEWAY } else { StatusCode::OK }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let host = listener.local_addr()?.to_string();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(flaky))).await });

    let client = reqwest::Client::new();
    let hosts = Keyed::new("web", Config::default(), 1_000).map_err(|faults| format!("{faults:?}"))?;
    for n in 1..=3 {
        let pipeline = hosts.get(host.clone())?;
        let url = format!("http://{host}/");
        let answer = pipeline.call_as(Repeat::Safe, classify, |_| client.get(&url).send()).await?;
        println!("answer {n}: {}", answer.status());
        assert!(answer.status().is_success());
    }
    assert_eq!(asked.load(Ordering::Relaxed), 6, "each was asked twice");

    // A host that nobody listens at: its own breaker opens, and the other host's does not care.
    let gone = hosts.get("127.0.0.1:1".to_owned())?;
    for _ in 0..2 {
        let call = gone.call_as(Repeat::Safe, classify, |_| client.get("http://127.0.0.1:1/").send());
        let error = call.await.err().ok_or("it answered")?;
        println!("{error}: {}", error.why());
    }
    assert_eq!(gone.snapshot().breaker.opened, 1);
    assert_eq!(hosts.get(host)?.snapshot().breaker.opened, 0);
    Ok(())
}

fn classify(result: Result<&reqwest::Response, &reqwest::Error>) -> Outcome {
    match result {
        Ok(response) => Http::response(response.status(), response.headers()),
        Err(error) if error.is_connect() => Outcome::failed(Failure::Connect),
        Err(_) => Outcome::failed(Failure::Broken),
    }
}
