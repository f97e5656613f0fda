//! hyper's pooled client as a Tower service behind the standard layer: an instance that breaks off its first connections is asked again.
//!
//! `cargo run -p seaworthy --example hyper_client`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error as StdError;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use seaworthy::classify::Http;
use seaworthy::layer::Standard;
use seaworthy::{Error, Pipeline};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, Service, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move {
        for n in 1.. {
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0; 4096];
            if stream.read(&mut request).await? > 0 && n % 3 == 0 {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
                    .await?;
            }
            // The others are closed without a word.
        }
        Ok::<_, std::io::Error>(())
    });

    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut client = Standard::new(Pipeline::new("greeter")).classified(Http).layer(client);

    let get = Request::get(&url).body(Full::default())?;
    let answer = client.ready().await?.call(get).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await?.to_bytes();
    println!("GET: {}", String::from_utf8_lossy(&body));

    // What might be done twice is not asked again.
    let post = Request::builder().method(Method::POST).uri(&url).body(Full::default())?;
    match client.ready().await?.call(post).await {
        Err(error @ Error::Service { .. }) => println!("POST: {error}, because {}", error.why()),
        other => return Err(format!("expected the service's own error: {other:?}").into()),
    }
    Ok(())
}
