//! First watch, then act: a breaker that only observes says what it would have done, and then is told to do it.
//!
//! `cargo run -p seaworthy --example events`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use seaworthy::core::What;
use seaworthy::core::gate::breaker::State;
use seaworthy::{Config, Event, Happening, Mode, Pipeline};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (_kept, dead) = deserted()?;
    let mut config = Config::default();
    config.breaker.mode = Mode::Observe;
    // Longer than this program, on however slow a machine.
    config.breaker.open_for = Duration::from_secs(60);
    let pipeline = Pipeline::with("cellar", config).map_err(|faults| format!("{faults:?}"))?;
    let mut events = pipeline.events();

    // Each of three calls makes its three attempts, although the breaker would have stopped them after the fifth.
    for _ in 0..3 {
        let error = call(&pipeline, dead).await.err().ok_or("nobody is there")?;
        assert!(error.rejection().is_none(), "who only observes refuses nothing");
    }
    let told = read(&mut events)?;
    assert_eq!(told.would, 4, "attempts 6 to 9");
    assert_eq!((told.changes, told.rejections), (1, 0));

    // What it has learned while it watched is what it acts on.
    config.breaker.mode = Mode::Enforce;
    pipeline.reconfigure(config).map_err(|faults| format!("{faults:?}"))?;
    assert_eq!(pipeline.snapshot().breaker.state, State::Open);
    let error = call(&pipeline, dead).await.err().ok_or("nobody is there")?;
    println!("from now on: {}", error.rejection().ok_or("the breaker was to refuse")?);
    Ok(())
}

/// Connects to `address`, behind the policies of `pipeline`.
async fn call(pipeline: &Pipeline, address: SocketAddr) -> Result<TcpStream, seaworthy::Error<io::Error>> {
    pipeline.call(|_attempt| TcpStream::connect(address)).await
}

/// What the events told, counted.
#[derive(Default)]
struct Told {
    changes: u32,
    rejections: u32,
    would: usize,
}

/// Reads what has happened so far. A reader that lags is told how much it missed.
fn read(events: &mut Receiver<Event>) -> Result<Told, TryRecvError> {
    let mut told = Told::default();
    loop {
        match events.try_recv() {
            Ok(Event { pipeline, what: Happening::Breaker(change), .. }) => {
                println!("{pipeline}: the breaker: {change:?}");
                told.changes += 1;
            }
            Ok(Event { pipeline, what: Happening::Rejected(rejection), .. }) => {
                println!("{pipeline}: {rejection}");
                told.rejections += 1;
            }
            Ok(Event { pipeline, what: Happening::Call(why), .. }) => {
                println!("{pipeline}: {why}");
                told.would += why.notes().iter().filter(|n| matches!(n.what, What::WouldReject(_))).count();
            }
            Ok(_) => {}
            Err(TryRecvError::Empty) => return Ok(told),
            Err(error) => return Err(error),
        }
    }
}

/// An address where nobody listens, nor will as long as the socket is kept.
fn deserted() -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}
