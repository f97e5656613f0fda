//! What a child writes, as lines that can't drown the log.
//!
//! Three bounds: on the length of a line, on the lines told in a second (a token bucket: [`BURST`] at once, then [`PER_SECOND`]), and
//! on the bytes read in a second, since reading costs the supervisor's thread whether or not the lines are kept. A child that
//! writes faster than that waits in its write, as it would for a slow terminal.

use std::time::Duration;

use seaworthy_core::Instant;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};

/// Something heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// A line, and whether it lost its rest.
    Line(String, bool),
    /// So many lines were dropped.
    Dropped(u64),
}

/// Reads until the stream ends.
pub(super) async fn read(mut from: Receiver, now: impl Fn() -> Instant, tell: impl Fn(Heard)) {
    let mut lines = Lines::new(now());
    let mut chunk = vec![0; CHUNK];
    loop {
        let more = from.read(&mut chunk);
        // Only who owes a word needs waking for it.
        let read = if lines.dropped > 0 { timeout(TOLD_EVERY, more).await } else { Ok(more.await) };
        match read {
            Err(_) => lines.tell_dropped(now(), &tell),
            Ok(Ok(count @ 1..)) => {
                lines.feed(now(), &chunk[..count], &tell);
                if count == chunk.len() {
                    sleep(PAUSE).await;
                }
            }
            // A pipe that can't be read has nothing to tell any more either.
            Ok(Ok(0) | Err(_)) => break,
        }
    }
    lines.end(now(), &tell);
}

/// Bytes on their way to lines.
struct Lines {
    /// The line so far, at most [`LONGEST`] of it.
    line: Vec<u8>,
    cut: bool,
    tokens: u64,
    /// Until when the tokens are accounted for.
    filled: Instant,
    dropped: u64,
    told: Instant,
}

impl Lines {
    fn new(now: Instant) -> Self {
        Self { line: Vec::new(), cut: false, tokens: BURST, filled: now, dropped: 0, told: now }
    }

    fn feed(&mut self, now: Instant, bytes: &[u8], tell: &impl Fn(Heard)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (part, whole) = match part.strip_suffix(b"\n") {
                Some(part) => (part, true),
                None => (part, false),
            };
            let room = LONGEST - self.line.len();
            self.cut |= part.len() > room;
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if whole {
                self.line_ends(now, tell);
            }
        }
        self.tell_dropped(now, tell);
    }

    fn line_ends(&mut self, now: Instant, tell: &impl Fn(Heard)) {
        self.fill(now);
        if self.tokens > 0 {
            self.tokens -= 1;
            let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
            tell(Heard::Line(String::from_utf8_lossy(line).into_owned(), self.cut));
        } else {
            self.dropped += 1;
        }
        self.line.clear();
        self.cut = false;
    }

    fn fill(&mut self, now: Instant) {
        let new = now.nanos_since(self.filled) / TOKEN_NANOS;
        self.tokens = self.tokens.saturating_add(new).min(BURST);
        // What is less than a token stays to be counted.
        self.filled = self.filled.plus_nanos(new * TOKEN_NANOS);
    }

    fn tell_dropped(&mut self, now: Instant, tell: &impl Fn(Heard)) {
        if self.dropped > 0 && now.since(self.told) >= TOLD_EVERY {
            tell(Heard::Dropped(std::mem::take(&mut self.dropped)));
            self.told = now;
        }
    }

    /// The stream ended, perhaps in the middle of a line.
    fn end(&mut self, now: Instant, tell: &impl Fn(Heard)) {
        if !self.line.is_empty() {
            self.line_ends(now, tell);
        }
        if self.dropped > 0 {
            tell(Heard::Dropped(std::mem::take(&mut self.dropped)));
        }
    }
}

/// The most bytes of a line that are kept: a stack trace fits, a dumped body does not.
const LONGEST: usize = 8 * 1024;
/// Lines told at once: what a program says while it starts.
const BURST: u64 = 1000;
/// Lines told in a second after that: more than anybody reads, less than a busy proxy logs by itself.
const PER_SECOND: u64 = 200;
const TOKEN_NANOS: u64 = 1_000_000_000 / PER_SECOND;
/// How often it is told that lines were dropped.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// Bytes read at a time. With the pause after each that was full: some 16 MB in a second at most.
const CHUNK: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const NOW: Instant = Instant::from_millis(1);

    fn line(text: &str) -> Heard {
        Heard::Line(text.to_owned(), false)
    }

    fn hear(feeds: &[(Instant, &[u8])]) -> (Lines, Vec<Heard>) {
        let heard = RefCell::new(Vec::new());
        let mut lines = Lines::new(NOW);
        for (now, bytes) in feeds {
            lines.feed(*now, bytes, &|one| heard.borrow_mut().push(one));
        }
        (lines, heard.into_inner())
    }

    fn end(mut lines: Lines, now: Instant) -> Vec<Heard> {
        let heard = RefCell::new(Vec::new());
        lines.end(now, &|one| heard.borrow_mut().push(one));
        heard.into_inner()
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let (lines, heard) = hear(&[(NOW, b"one\ntw"), (NOW, b"o\r\n\nth\xFFree")]);
        assert_eq!(heard, [line("one"), line("two"), line("")]);
        assert_eq!(end(lines, NOW), [line("th\u{FFFD}ree")]);
    }

    #[test]
    fn a_long_line_loses_its_rest_and_not_its_successor() {
        let long = vec![b'x'; LONGEST];
        let (_, heard) = hear(&[(NOW, &long), (NOW, b"\n"), (NOW, &long), (NOW, b"y"), (NOW, b"z\nnext\n")]);
        let text = "x".repeat(LONGEST);
        assert_eq!(heard, [line(&text), Heard::Line(text.clone(), true), line("next")]);
    }

    #[test]
    fn what_exceeds_the_rate_is_dropped_and_counted() {
        let flood = b"x\n".repeat(BURST as usize + 5);
        let token = NOW.plus_nanos(TOKEN_NANOS);
        let early = Instant::from_nanos(token.as_nanos() - 1);
        let second = NOW.plus(TOLD_EVERY);
        let (lines, heard) =
            hear(&[(NOW, &flood), (early, b"early\n"), (token, b"in time\n"), (second, b"")]);
        assert_eq!(heard.len(), BURST as usize + 2);
        assert_eq!(heard[BURST as usize..], [line("in time"), Heard::Dropped(6)]);
        assert_eq!(end(lines, second), []);
    }

    #[test]
    fn what_was_dropped_is_told_at_the_end_too() {
        let (lines, _) = hear(&[(NOW, &b"x\n".repeat(BURST as usize + 1))]);
        assert_eq!(end(lines, NOW), [Heard::Dropped(1)]);
    }

    #[test]
    fn a_clock_that_lies_does_no_harm() {
        let (lines, heard) = hear(&[(Instant::FAR, b"a\n"), (Instant::ZERO, b"b\n"), (Instant::FAR, b"c\n")]);
        assert_eq!(heard.len(), 3);
        assert_eq!(end(lines, Instant::ZERO), []);
    }
}
