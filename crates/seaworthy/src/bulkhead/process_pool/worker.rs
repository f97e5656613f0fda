//! The worker's side: the program that a pool starts.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::wire::{ANSWER_HEAD, HELLO, PANIC, REQUEST_HEAD, RESULT};
use crate::panic;

/// The variable by which a pool tells its workers that they are, with the pool's name.
pub const WORKER: &str = "SEAWORTHY_WORKER";
/// The variable by which it tells them the most bytes of address space they may have.
pub const WORKER_MEMORY: &str = "SEAWORTHY_WORKER_MEMORY";

/// Whether this process is a worker of the pool `name`, and should [`serve`] it. To be asked first of all in `main`, before
/// anything is started that a worker has no use for.
#[must_use]
pub fn is_worker(name: &str) -> bool {
    std::env::var_os(WORKER).is_some_and(|pool| pool == OsStr::new(name))
}

/// Does the work of the pool that started this process, one request after the other, until the pool has no more; then the program
/// should end.
///
/// From the first request on, this process has at most the memory that the pool allows, reads nothing more from standard input,
/// which is the pipe, and on Linux is killed when its parent ends. What it prints goes where its parent said; by default to the
/// parent's standard error.
///
/// # Errors
/// This process was not started by a pool, the pipe broke, or the work panicked. A worker whose work panicked may have anything
/// left in its memory, so the pool takes another one.
pub fn serve(mut work: impl FnMut(Vec<u8>) -> Vec<u8>) -> io::Result<()> {
    let mut stream = take_over()?;
    stream.write_all(&HELLO)?;
    while let Some((number, request)) = receive(&mut stream)? {
        match catch_unwind(AssertUnwindSafe(|| work(request))) {
            Ok(answer) => send(&mut stream, number, RESULT, &answer)?,
            Err(payload) => {
                send(&mut stream, number, PANIC, panic::message(&*payload).as_bytes())?;
                return Err(io::Error::other("the work panicked"));
            }
        }
    }
    Ok(())
}

/// The pipe, and all that the pool wants of its workers.
fn take_over() -> io::Result<UnixStream> {
    if std::env::var_os(WORKER).is_none() {
        let why = format!("no pool started this process: it would have set {WORKER}");
        return Err(io::Error::new(io::ErrorKind::NotConnected, why));
    }
    // The pipe that closes ends a worker that waits; a worker that computes does not look at it.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // A copy that is not handed on: what the work starts must not hold the pipe open, or write into it.
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    if let Some(bytes) = std::env::var_os(WORKER_MEMORY) {
        let bytes = bytes.to_str().and_then(|text| text.parse().ok());
        let bytes = bytes.ok_or_else(|| io::Error::other(format!("{WORKER_MEMORY} is not a number")))?;
        limit_memory(bytes)?;
    }
    Ok(stream)
}

/// Limits the address space, or leaves it where it is if that is lower.
fn limit_memory(bytes: u64) -> io::Result<()> {
    let most = getrlimit(Resource::As).maximum.map_or(bytes, |most| most.min(bytes));
    setrlimit(Resource::As, Rlimit { current: Some(most), maximum: Some(most) })?;
    Ok(())
}

/// The next request, or `None` if the pool has closed.
fn receive(stream: &mut UnixStream) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut head = [0; REQUEST_HEAD];
    let mut had = 0;
    while had < head.len() {
        match stream.read(&mut head[had..]) {
            Ok(0) if had == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => had += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The pool was killed while an answer of ours lay unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let [n0, n1, n2, n3, n4, n5, n6, n7, l0, l1, l2, l3] = head;
    let length = u64::from(u32::from_be_bytes([l0, l1, l2, l3]));
    let mut request = Vec::new();
    if Read::by_ref(stream).take(length).read_to_end(&mut request)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]), request)))
}

fn send(stream: &mut UnixStream, number: u64, kind: u8, answer: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::other("an answer of more than 4 GiB");
    let length = u32::try_from(answer.len()).map_err(too_long)?;
    let mut head = [0; ANSWER_HEAD];
    head[..8].copy_from_slice(&number.to_be_bytes());
    head[8] = kind;
    head[9..].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&head)?;
    stream.write_all(answer)
}
