//! A flag service is asked, dies, and is missed by nobody: the value that anna had is still hers, also after a restart, and bert,
//! whom nobody knows, gets the conservative default.
//!
//! `cargo run -p seaworthy --features flags --example flags`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use open_feature::{EvaluationContext, OpenFeature};
use seaworthy::flags::{Flags, OfrepClient};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let file = std::env::temp_dir().join(format!("seaworthy-example-flags-{}", std::process::id()));
    let answer = r#"{"key":"new-checkout","value":true,"reason":"TARGETING_MATCH"}"#;
    let app = Router::new().route("/ofrep/v1/evaluate/flags/new-checkout", post(async move || answer));
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    // A runtime of its own, so that its connections end with it.
    let service = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    service.spawn(async move { axum::serve(TcpListener::from_std(listener)?, app).await });

    println!("-- the flag service answers");
    let flags = flags(at, &file)?;
    OpenFeature::singleton_mut().await.set_provider(flags.clone()).await;
    show("anna").await;
    tokio::task::spawn_blocking(move || service.shutdown_timeout(Duration::from_secs(5))).await?;

    println!("-- the flag service is gone");
    show("anna").await;
    show("bert").await;

    println!("-- and the program restarts");
    flags.flush(Duration::from_secs(5))?;
    OpenFeature::singleton_mut().await.set_provider(self::flags(at, &file)?).await;
    show("anna").await;
    show("bert").await;
    std::fs::remove_file(file)?;
    Ok(())
}

fn flags(at: SocketAddr, file: &Path) -> Result<Flags, Box<dyn StdError>> {
    let flags = Flags::of(OfrepClient::new(&format!("http://{at}"))?)
        .declare("new-checkout", false)
        .keep_in(file)
        .on_notice(|notice| println!("{notice}"))
        .build()
        .map_err(|faults| format!("{faults:?}"))?;
    Ok(flags)
}

/// What any program that uses OpenFeature does.
async fn show(user: &str) {
    let client = OpenFeature::singleton().await.create_client();
    let context = EvaluationContext::default().with_targeting_key(user);
    match client.get_bool_details("new-checkout", Some(&context), None).await {
        Ok(details) => {
            let reason = details.reason.map(|reason| reason.to_string()).unwrap_or_default();
            println!("{user}: new-checkout = {}, {reason}", details.value);
        }
        Err(error) => println!("{user}: {error:?}"),
    }
}
