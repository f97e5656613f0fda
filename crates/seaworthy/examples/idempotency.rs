//! An axum server that takes every payment once, however often its clients ask: a repetition is answered with the first answer,
//! also after the client had left before there was one.
//!
//! Keys lie in memory here, so they are gone after a restart. With `Embedded`, `Redis` or `Postgres` in place of `Memory` they are not.
//!
//! `cargo run -p seaworthy --features idempotency --example idempotency`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, Method, StatusCode};
use axum::routing::post;
use axum::{Extension, Router};
use seaworthy::idempotency::store::memory::Memory;
use seaworthy::idempotency::{Id, Keys, Token, fingerprint};
use seaworthy::layer::{Clients, Idempotency};

type Payments = Arc<AtomicU32>;

async fn pay(
    State(payments): State<Payments>,
    token: Extension<Token>,
    body: String,
) -> (StatusCode, String) {
    let n = payments.fetch_add(1, Ordering::SeqCst) + 1;
    (StatusCode::CREATED, format!("payment {n} of {body}, under token {}", token.0))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let payments = Payments::default();
    let keys = Keys::of(Memory::new(100_000));
    // What is past its retention goes only if somebody sweeps.
    tokio::spawn(keys.sweep_every(Duration::from_secs(60)));
    // Two accounts that draw the same key don't meet. In a real server, take what an outer layer has verified.
    let accounts = Clients::by_header(HeaderName::from_static("x-account"));
    let once = Idempotency::new("payments", keys, accounts).required([Method::POST]);
    let app = Router::new().route("/payments", post(pay)).layer(once).with_state(payments.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/payments", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let client = reqwest::Client::new();
    for (what, key, body) in [
        ("the first time", Some("8e03978e"), "10 EUR"),
        ("again", Some("8e03978e"), "10 EUR"),
        ("another sum, by mistake", Some("8e03978e"), "1000 EUR"),
        ("without a key", None, "10 EUR"),
    ] {
        let mut request = client.post(&url).header("x-account", "ada").body(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await?;
        let replayed = if answer.headers().contains_key("idempotent-replayed") { ", replayed" } else { "" };
        println!("{what}: {}{replayed}\n    {}", answer.status(), answer.text().await?.trim());
    }
    assert_eq!(payments.load(Ordering::SeqCst), 1);

    // The same without HTTP, for an operation of the program's own. What makes it the same operation is up to the program: here the
    // day is the key, and to whom the report goes is what must not differ under it.
    let keys = Keys::of(Memory::new(1_000));
    let id = Id::new("nightly-report", b"", "2026-02-28");
    let what = fingerprint(&[b"nightly-report", b"accounting@shop.example"]);
    for _ in 0..2 {
        let ran = keys.run(&id, what, || async { Ok::<_, std::io::Error>("sent".to_owned()) }).await?;
        println!("the report of the day: {}{}", ran.result, if ran.replayed { ", before" } else { " now" });
    }
    Ok(())
}
