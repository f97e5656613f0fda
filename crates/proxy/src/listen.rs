//! Sockets that clients connect to, and what accepts them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use seaworthy_config::Level;
use socket2::{Domain, Protocol, Socket, Type};

use crate::connection::connection;
use crate::task::timed;
use crate::worker::Worker;

/// One listener for each worker on `address`: the kernel spreads the connections (`SO_REUSEPORT`), and no worker waits for
/// another. With port 0 all get the port that the first was given.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    let first = bind_one(address)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..workers {
        listeners.push(bind_one(address)?);
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections until it is dropped. `number` is the address's place in the configuration.
pub(crate) async fn accept(home: Rc<Worker>, number: usize, listener: tokio::net::TcpListener) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_connection(&error) => continue,
            Err(error) => {
                // Most likely there are no file descriptors left; some will be free again.
                let text = error.to_string();
                home.site.journal.event(Level::Error, "accept", &[("error", &text)]);
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Some(seat) = Seat::take(&home) else {
            home.site.turned_away.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        // Without it, a small answer waits for the client's acknowledgement of the one before. A socket that refuses is dead.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        home.tally.accepted.add(1);
        let served = home.clone();
        tokio::task::spawn_local(timed(home.clone(), async move {
            connection(served, stream, peer, number).await;
            drop(seat);
        }));
    }
}

/// Errors that concern the connection that would have been accepted, and nothing else.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// One of the connections that there may be.
struct Seat(Rc<Worker>);

impl Seat {
    fn take(home: &Rc<Worker>) -> Option<Self> {
        let taken = &home.site.connections;
        if taken.fetch_add(1, Ordering::Relaxed) < home.site.config.limits.max_connections {
            return Some(Self(home.clone()));
        }
        taken.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.site.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections that wait to be accepted: enough for a burst while a worker is busy. The kernel caps it.
const BACKLOG: i32 = 1024;
/// How long to wait when accepting fails.
const BREATH: Duration = Duration::from_millis(100);
