//! A pipeline for each host: the breaker of a dead one opens, and the others do not notice.
//!
//! `cargo run -p seaworthy --example keyed_hosts`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use seaworthy::core::gate::breaker::State;
use seaworthy::keyed::Keyed;
use seaworthy::{Config, Failure, Outcome, Policy, Reason, Repeat};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let alive = listener.local_addr()?;
    let (_kept, dead) = deserted()?;
    // Keys come from outside, so their number is bounded.
    let hosts = Keyed::new("web", Config::default(), 1_000).map_err(|faults| format!("{faults:?}"))?;

    let mut last = None;
    for call in 1..=3 {
        for host in [alive, dead] {
            // A connection stands here for whatever a program asks of a host.
            match hosts.get(host)?.call_as(Repeat::Safe, meaning, |_| TcpStream::connect(host)).await {
                Ok(_) => println!("call {call} to {host}: connected"),
                Err(error) => {
                    println!("call {call} to {host}: {error}; {}", error.why());
                    assert_eq!(host, dead);
                    last = error.rejection().copied();
                }
            }
        }
    }

    // Five failures in a row have opened the breaker of the dead one; its callers no longer wait for nothing.
    let refusal = last.ok_or("the dead host was asked to the last")?;
    assert_eq!((refusal.policy, refusal.reason), (Policy::Breaker, Reason::Open));
    assert!(refusal.retry_after.is_some(), "and are told when to come back");
    for (host, pipeline) in hosts.kept() {
        let state = pipeline.snapshot().breaker.state;
        assert_eq!(state, if host == dead { State::Open } else { State::Closed });
        println!("{} is {state:?}", pipeline.name());
    }
    Ok(())
}

/// Nothing was sent over a connection that was never made.
fn meaning(result: Result<&TcpStream, &io::Error>) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(_) => Outcome::failed(Failure::Connect),
    }
}

/// An address where nobody listens, nor will as long as the socket is kept.
fn deserted() -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}
