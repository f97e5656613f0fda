//! A generated gRPC client in a plain call: what a status means decides what is repeated.
//!
//! The service is gRPC's own health check, so that the example needs no protocol of its own. The first answers are
//! `UNAVAILABLE`, which another attempt may mend; `NOT_FOUND` is an answer like any other.
//!
//! `cargo run -p seaworthy --example tonic_client`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};

use seaworthy::classify::Grpc;
use seaworthy::{Happening, Outcome, Pipeline, Repeat};
use tokio::net::TcpListener;
use tonic::codegen::tokio_stream::{Empty, empty};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let channel = Channel::from_shared(flaky_service().await?)?.connect_lazy();
    let client = HealthClient::new(channel);
    let pipeline = Pipeline::new("health");
    let mut events = pipeline.events();
    let check = |service: &'static str| {
        // A check only reads, so it may be repeated. The clone shares the channel.
        let client = client.clone();
        pipeline.call_as(Repeat::Safe, meaning, move |_attempt| {
            let mut client = client.clone();
            async move { client.check(HealthCheckRequest { service: service.into() }).await }
        })
    };

    let answer = check("shop").await?.into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    println!("shop: {:?}", answer.status());
    if let Happening::Call(why) = events.recv().await?.what {
        assert!(why.to_string().contains("attempt 2 is retried"), "{why}");
        println!("      {why}");
    }

    let Err(error) = check("nobody").await else { return Err("nobody is there to serve".into()) };
    let status = error.into_service().ok_or("the service has answered")?;
    assert_eq!(status.code(), Code::NotFound);
    println!("nobody: {:?}, and not asked again", status.code());
    Ok(())
}

/// gRPC's meaning of a status, with what it says about when to come back.
fn meaning<T>(result: Result<&Response<T>, &Status>) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(status) => {
            let head = status.clone().into_http::<()>();
            Grpc::response(head.status(), head.headers())
        }
    }
}

/// A service whose first two answers are `UNAVAILABLE`.
struct Flaky(AtomicU32);

#[tonic::async_trait]
impl Health for Flaky {
    type WatchStream = Empty<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        asked: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match (self.0.fetch_add(1, Ordering::Relaxed), asked.get_ref().service.as_str()) {
            (0 | 1, _) => Err(Status::unavailable("starting")),
            (2, "shop") => Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() })),
            (3, _) => Err(Status::not_found("no such service")),
            (n, _) => Err(Status::internal(format!("there should be no request {n}"))),
        }
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(empty()))
    }
}

async fn flaky_service() -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let service = HealthServer::new(Flaky(AtomicU32::new(0)));
    // It ends with the program.
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
    Ok(url)
}
