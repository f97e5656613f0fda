//! The three answers about health, served by axum: live, ready and deep. A database fails, the service is not ready and lives on,
//! and a crowd that asks for everything makes each check run once.
//!
//! `cargo run -p seaworthy --example health`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use seaworthy::health::{Check, Finding, HealthRegistry, MEDIA_TYPE, Report, headroom};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let health = HealthRegistry::new("shop", env!("CARGO_PKG_VERSION"));
    // What this process may run out of.
    let probe = headroom::register(&health, headroom::Config::default(), &[std::env::temp_dir()])
        .map_err(|faults| format!("{faults:?}"))?;
    tokio::spawn(probe);
    // What it depends on: without the database it can do nothing, without mail it can do most.
    let database = Arc::new(Database::default());
    let asked = database.clone();
    let check =
        Check::new("database:connections", move || asked.clone().ask()).component("datastore").critical();
    health.register(check.keep(Duration::ZERO));
    health.register(Check::new("mail:queue", async || {
        Finding::warn("400 letters wait").observed(400, "letters")
    }));

    let app = Router::new()
        .route("/health/live", get(async |State(health): State<HealthRegistry>| answer(&health.live())))
        .route(
            "/health/ready",
            get(async |State(health): State<HealthRegistry>| answer(&health.ready().await)),
        )
        // It tells much: let only those ask who should know.
        .route("/health/deep", get(async |State(health): State<HealthRegistry>| answer(&health.deep().await)))
        .with_state(health);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}/health", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    for (path, expected) in [("live", 200), ("ready", 200), ("deep", 200)] {
        show(&base, path, expected).await?;
    }
    database.down.store(true, Ordering::SeqCst);
    println!("-- the database fails");
    for (path, expected) in [("live", 200), ("ready", 503), ("deep", 503)] {
        show(&base, path, expected).await?;
    }

    let before = database.asked.load(Ordering::SeqCst);
    let mut crowd: JoinSet<_> = (0..50).map(|_| reqwest::get(format!("{base}/deep"))).collect();
    while let Some(answer) = crowd.join_next().await {
        answer??;
    }
    println!("50 asked, the database was asked {} times", database.asked.load(Ordering::SeqCst) - before);
    Ok(())
}

/// What a handler answers.
fn answer(report: &Report) -> Response {
    let status = StatusCode::from_u16(report.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Nobody in between may keep it.
    let headers = [(header::CONTENT_TYPE, MEDIA_TYPE), (header::CACHE_CONTROL, "no-store")];
    (status, headers, report.to_json()).into_response()
}

async fn show(base: &str, path: &str, expected: u16) -> Result<(), Box<dyn StdError>> {
    let answer = reqwest::get(format!("{base}/{path}")).await?;
    assert_eq!(answer.status(), expected, "{path}");
    println!("/health/{path}: {}\n    {}", answer.status(), answer.text().await?);
    Ok(())
}

/// Stands for a database that takes a while to answer.
#[derive(Default)]
struct Database {
    down: AtomicBool,
    asked: AtomicU32,
}

impl Database {
    async fn ask(self: Arc<Self>) -> Finding {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        if self.down.load(Ordering::SeqCst) {
            Finding::fail("connection refused")
        } else {
            Finding::pass().observed(3, "connections")
        }
    }
}
