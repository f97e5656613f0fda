//! The frames between a pool and its workers. Their format is described in [`process_pool`](super).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What a worker says first: that it speaks this format, and that it is ready.
pub(super) const HELLO: [u8; 8] = *b"seawork1";
/// The kind of an answer that is the work's result.
pub(super) const RESULT: u8 = 0;
/// The kind of an answer that tells what the work's panic said.
pub(super) const PANIC: u8 = 1;
/// Number and length.
pub(super) const REQUEST_HEAD: usize = 8 + 4;
/// Number, kind and length.
pub(super) const ANSWER_HEAD: usize = 8 + 1 + 4;

/// What can befall an exchange.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The deadline passed.
    Late,
    /// The other side closed.
    Closed,
    /// The system failed.
    System(io::Error),
    /// What came is not what the format allows.
    Broken(&'static str),
    /// The answer announced itself with more bytes than are allowed.
    TooLong(u64),
    /// The work panicked.
    Panicked(String),
}

/// The pool's end of the pipe to one worker.
pub(super) struct Wire {
    stream: UnixStream,
    /// The most bytes of an answer.
    most: u64,
}

impl Wire {
    pub(super) fn new(stream: UnixStream, most: u64) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, most })
    }

    /// Waits until the worker has said that it is ready.
    pub(super) fn greeted(&mut self, until: Instant) -> Result<(), Trouble> {
        let mut hello = [0; HELLO.len()];
        self.receive(&mut hello, until)?;
        if hello == HELLO { Ok(()) } else { Err(Trouble::Broken("it does not greet as a worker does")) }
    }

    /// Sends a request and waits for its answer.
    pub(super) fn exchange(&mut self, id: u64, request: &[u8], until: Instant) -> Result<Vec<u8>, Trouble> {
        let length = u32::try_from(request.len()).map_err(|_| Trouble::Broken("a request of 4 GiB"))?;
        let mut head = [0; REQUEST_HEAD];
        head[..8].copy_from_slice(&id.to_be_bytes());
        head[8..].copy_from_slice(&length.to_be_bytes());
        self.send(&head, until)?;
        self.send(request, until)?;

        let mut head = [0; ANSWER_HEAD];
        self.receive(&mut head, until)?;
        let (number, kind, length) = take_answer_head(&head);
        if number != id {
            return Err(Trouble::Broken("it answers what it was not asked"));
        }
        if length > self.most {
            return Err(Trouble::TooLong(length));
        }
        let answer = self.receive_body(length, until)?;
        match kind {
            RESULT => Ok(answer),
            PANIC => Err(Trouble::Panicked(String::from_utf8_lossy(&answer).into_owned())),
            _ => Err(Trouble::Broken("its answer is of no known kind")),
        }
    }

    /// What an idle worker has done, if anything: it should do nothing at all.
    pub(super) fn stirred(&mut self) -> Option<Trouble> {
        match self.stream.read(&mut [0]) {
            Ok(0) => Some(Trouble::Closed),
            Ok(_) => Some(Trouble::Broken("it speaks unasked")),
            Err(error) => trouble(error),
        }
    }

    /// Tells the worker that there is no more to do.
    pub(super) fn close(self) {
        // By word, as the killer of the worker has a handle of the pipe as well. A pipe that is closed already is no matter.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Waits until the worker stirs or the bell rings, which it then silences.
    pub(super) fn wait(&self, bell: &UnixStream, until: Option<Instant>) -> io::Result<()> {
        let mut both = [PollFd::new(&self.stream, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
        wait(&mut both, until)?;
        silence(bell)
    }

    fn send(&mut self, mut bytes: &[u8], until: Instant) -> Result<(), Trouble> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) => self.wait_after(error, PollFlags::OUT, until)?,
            }
        }
        Ok(())
    }

    fn receive(&mut self, mut buffer: &mut [u8], until: Instant) -> Result<(), Trouble> {
        while !buffer.is_empty() {
            match self.stream.read(buffer) {
                Ok(0) => return Err(Trouble::Closed),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) => self.wait_after(error, PollFlags::IN, until)?,
            }
        }
        Ok(())
    }

    /// Memory is taken as the bytes come, not as they are announced.
    fn receive_body(&mut self, length: u64, until: Instant) -> Result<Vec<u8>, Trouble> {
        let length = usize::try_from(length).map_err(|_| Trouble::TooLong(length))?;
        let mut body = Vec::new();
        while body.len() < length {
            let had = body.len();
            body.resize(length.min(had + CHUNK), 0);
            self.receive(&mut body[had..], until)?;
        }
        Ok(body)
    }

    fn wait_after(&self, error: io::Error, flags: PollFlags, until: Instant) -> Result<(), Trouble> {
        if let Some(trouble) = trouble(error) {
            return Err(trouble);
        }
        if Instant::now() >= until {
            return Err(Trouble::Late);
        }
        wait(&mut [PollFd::new(&self.stream, flags)], Some(until)).map_err(Trouble::System)
    }
}

/// Sleeps until the bell rings or the moment has come.
pub(super) fn wait_for_bell(bell: &UnixStream, until: Instant) -> io::Result<()> {
    wait(&mut [PollFd::new(bell, PollFlags::IN)], Some(until))?;
    silence(bell)
}

fn wait(fds: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    // What does not fit is longer than any wait here; it is then looked at again.
    let left = left.map(|left| Timespec::try_from(left.min(FAR))).transpose().map_err(io::Error::other)?;
    match poll(fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn silence(mut bell: &UnixStream) -> io::Result<()> {
    match bell.read(&mut [0; 64]) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// What an error means; `None` if it only says to come again.
fn trouble(error: io::Error) -> Option<Trouble> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => None,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Some(Trouble::Closed),
        _ => Some(Trouble::System(error)),
    }
}

fn take_answer_head(head: &[u8; ANSWER_HEAD]) -> (u64, u8, u64) {
    let [n0, n1, n2, n3, n4, n5, n6, n7, kind, l0, l1, l2, l3] = *head;
    let number = u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
    (number, kind, u64::from(u32::from_be_bytes([l0, l1, l2, l3])))
}

/// Bytes for which memory is taken at a time.
const CHUNK: usize = 64 * 1024;
/// A day: the longest single wait.
const FAR: Duration = Duration::from_secs(86_400);
