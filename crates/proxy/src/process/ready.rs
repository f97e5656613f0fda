//! Whether a child serves yet.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use seaworthy_config::Ready;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Returns once a check succeeds.
pub(super) async fn wait(port: u16, how: &Ready) {
    while !matches!(timeout(PATIENCE, check(port, how)).await, Ok(Ok(true))) {
        sleep(EVERY).await;
    }
}

async fn check(port: u16, how: &Ready) -> io::Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect(address).await?;
    // With nobody listening, TCP can connect a socket with itself, if the kernel happens to choose the port for both ends.
    if stream.local_addr()? == address {
        return Ok(false);
    }
    let Ready::Http { path } = how else { return Ok(true) };
    let ask = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: seaworthy\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await?;
    let mut head = [0; STATUS];
    stream.read_exact(&mut head).await?;
    Ok(is_success(&head))
}

/// Whether an answer begins with a status line of HTTP/1 that says 2xx (RFC 9112, section 4).
fn is_success(head: &[u8; STATUS]) -> bool {
    head.starts_with(b"HTTP/1.") && matches!(&head[8..], [b' ', b'2', b'0'..=b'9', b'0'..=b'9'])
}

/// The bytes of `HTTP/1.1 200`.
const STATUS: usize = 12;
/// From the end of one check to the start of the next: much less than a program takes to start, so that waiting adds little to it.
const EVERY: Duration = Duration::from_millis(50);
/// The longest time for one check. What is ready answers its own machine in milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_is_ready() {
        for (head, ready) in [
            (b"HTTP/1.1 200", true),
            (b"HTTP/1.0 204", true),
            (b"HTTP/1.1 301", false),
            (b"HTTP/1.1 503", false),
            (b"HTTP/1.1 2xx", false),
            (b"HTTP/2.0 200", false),
            (b"SSH-2.0-Open", false),
        ] {
            assert_eq!(is_success(head), ready, "{head:?}");
        }
    }
}
