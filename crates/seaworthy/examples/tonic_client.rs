//! A gRPC client in a plain call: status codes are classified, and an idempotent method is asked again while the server is not serving.
//!
//! `cargo run -p seaworthy --example tonic_client`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error as StdError;

use seaworthy::{Attempt, Failure, Outcome, Pipeline, Pushback, Repeat};
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    // The standard health service, so that the example needs no code generated from a .proto file.
    let (reporter, health) = tonic_health::server::health_reporter();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(Server::builder().add_service(health).serve_with_incoming(incoming));

    let client = HealthClient::new(Endpoint::from_shared(url)?.connect().await?);
    let pipeline = Pipeline::new("health");
    let answer = pipeline
        .call_as(Repeat::Safe, classify, |attempt: Attempt| {
            let (mut client, reporter) = (client.clone(), reporter.clone());
            async move {
                if attempt.number == 2 {
                    reporter.set_service_status("shop", ServingStatus::Serving).await;
                }
                // Unknown to the server until the second attempt.
                client.check(HealthCheckRequest { service: "shop".to_owned() }).await
            }
        })
        .await?;
    println!("the shop is {:?} at the second attempt", answer.get_ref().status());
    Ok(())
}

/// `NOT_FOUND` is a failure here, because the service is known to appear; for most services it is a good answer.
fn classify<T>(result: Result<&Response<T>, &Status>) -> Outcome {
    match result.map_err(Status::code) {
        Ok(_) => Outcome::Success,
        Err(Code::ResourceExhausted) => Outcome::Overloaded(Pushback::Unsaid),
        Err(Code::Unavailable | Code::Unknown | Code::Internal | Code::NotFound) => {
            Outcome::failed(Failure::Error)
        }
        Err(Code::DeadlineExceeded) => Outcome::failed(Failure::Timeout),
        Err(_) => Outcome::Success,
    }
}
