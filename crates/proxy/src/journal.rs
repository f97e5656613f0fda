//! The log: one line a call, one line an event.
//!
//! One thread writes, so that a slow disk or a full pipe stops no call. What does not fit into its queue is dropped and
//! counted.

use std::fmt::{Display, Write as _};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use http::StatusCode;
use seaworthy::clock::{self, rfc3339};
use seaworthy_config::{Config, Format, Level};
use seaworthy_core::Why;
use seaworthy_core::gate::breaker::Change;

use crate::fleet::Endpoint;
use crate::ledger::{About, Claimed, End};
use crate::tally::Degraded;

/// One call, as the log tells it.
pub(crate) struct Access {
    pub peer: SocketAddr,
    pub route: Option<usize>,
    /// The upstream and its endpoint that answered.
    pub at: Option<(usize, Arc<Endpoint>)>,
    pub attempts: u8,
    /// What it was answered with instead.
    pub degraded: Option<Degraded>,
    /// The reservation of its idempotency key.
    pub claim: Option<Claimed>,
    pub status: Option<StatusCode>,
    pub head: Option<Duration>,
    pub total: Duration,
    pub bytes: u64,
    pub end: End,
    pub about: Option<About>,
    pub why: Why,
}

enum Line {
    Access(Box<Access>),
    Event(String),
    End,
}

/// Where lines are sent.
#[derive(Clone)]
pub(crate) struct Journal {
    lines: SyncSender<Line>,
    level: Level,
    format: Format,
}

/// The thread that writes.
pub(crate) struct Writer {
    thread: JoinHandle<()>,
    lines: SyncSender<Line>,
}

impl Journal {
    /// Starts the thread that writes to standard error.
    pub(crate) fn start(config: &Config) -> std::io::Result<(Self, Writer)> {
        let (lines, queue) = sync_channel(QUEUE);
        let names = Names::of(config);
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
            write(&queue, &names, &mut std::io::stderr(), || std::thread::sleep(GATHER));
        })?;
        let journal = Self { lines: lines.clone(), level: config.log.level, format: config.log.format };
        Ok((journal, Writer { thread, lines }))
    }

    /// Logs a call; false if the writer is too far behind.
    pub(crate) fn access(&self, access: Access) -> bool {
        !matches!(self.lines.try_send(Line::Access(Box::new(access))), Err(TrySendError::Full(_)))
    }

    /// Logs that something happened; `fields` are names and values.
    pub(crate) fn event(&self, level: Level, event: &str, fields: &[(&str, &str)]) {
        if level > self.level {
            return;
        }
        let mut line = Text::new(self.format);
        line.time();
        line.text("level", level.name());
        line.text("event", event);
        for (name, value) in fields {
            line.text(name, value);
        }
        // An event that does not fit is one among thousands of lines that say the same.
        let _ = self.lines.try_send(Line::Event(line.finish()));
    }

    /// Logs that the breaker of an upstream's endpoint changed.
    pub(crate) fn breaker(&self, upstream: &str, endpoint: &Endpoint, change: &Change) {
        self.event(
            Level::Warn,
            "breaker",
            &[
                ("upstream", upstream),
                ("endpoint", &endpoint.authority),
                ("from", change.from.name()),
                ("to", change.to.name()),
                ("cause", change.cause.name()),
            ],
        );
    }
}

impl Writer {
    /// Waits until what was sent before is written.
    pub(crate) fn finish(self) {
        // If the thread is gone there is nothing to wait for.
        let _ = self.lines.send(Line::End);
        let _ = self.thread.join();
    }
}

/// What places are called.
struct Names {
    routes: Vec<String>,
    upstreams: Vec<String>,
    format: Format,
}

impl Names {
    fn of(config: &Config) -> Self {
        Self {
            routes: config.routes.iter().map(|route| route.name.clone()).collect(),
            upstreams: config.upstreams.iter().map(|upstream| upstream.name.clone()).collect(),
            format: config.log.format,
        }
    }
}

/// Writes what comes, many lines at a time; `gather` waits for more of them.
fn write(queue: &Receiver<Line>, names: &Names, out: &mut impl Write, mut gather: impl FnMut()) {
    let mut batch = String::new();
    let mut behind = false;
    while let Ok(first) = queue.recv() {
        // One waking for many lines: woken for each, this thread costs the workers as much again as the calls themselves.
        // With lines left over there is nothing to wait for.
        if !behind {
            gather();
        }
        let mut next = Some(first);
        while let Some(line) = next {
            match line {
                Line::Access(access) => batch.push_str(&render(&access, names)),
                Line::Event(line) => batch.push_str(&line),
                Line::End => {
                    let _ = out.write_all(batch.as_bytes());
                    return;
                }
            }
            next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        behind = batch.len() >= BATCH;
        // There is nowhere to tell that the log can't be written.
        let _ = out.write_all(batch.as_bytes());
        batch.clear();
    }
}

fn render(access: &Access, names: &Names) -> String {
    let mut line = Text::new(names.format);
    line.time();
    line.text("event", "call");
    if let Some(about) = &access.about {
        let names = ["request_id", "trace_id", "method", "host", "path"];
        for (name, value) in names.into_iter().zip(about.parts()) {
            line.text(name, value);
        }
    }
    line.text("client", &access.peer.ip().to_string());
    line.text("route", access.route.map_or("", |n| &names.routes[n]));
    if let Some((upstream, endpoint)) = &access.at {
        line.text("upstream", &names.upstreams[*upstream]);
        line.text("endpoint", &endpoint.authority);
    }
    if let Some(degraded) = access.degraded {
        line.text("degraded", degraded.name());
    }
    if let Some(claim) = access.claim {
        match claim {
            Claimed::Now(token) | Claimed::Before(token) => {
                line.plain("replayed", matches!(claim, Claimed::Before(_)));
                line.plain("fencing_token", token);
            }
            Claimed::Unrecorded => line.plain("recorded", false),
        }
    }
    line.number("attempts", f64::from(access.attempts));
    line.number("status", access.status.map_or(0.0, |s| f64::from(s.as_u16())));
    if let Some(head) = access.head {
        line.number("head_ms", millis(head));
    }
    line.number("total_ms", millis(access.total));
    line.number("bytes", access.bytes as f64);
    line.text("end", access.end.name());
    if !access.why.is_empty() {
        line.text("why", &access.why.to_string());
    }
    line.finish()
}

/// Milliseconds with microseconds behind the point.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// One line.
struct Text {
    line: String,
    json: bool,
}

impl Text {
    fn new(format: Format) -> Self {
        let json = format == Format::Json;
        Self { line: if json { "{" } else { "" }.to_owned(), json }
    }

    fn time(&mut self) {
        let time = rfc3339(clock::wall());
        self.text("time", &time);
    }

    fn name(&mut self, name: &str) {
        if self.line.len() > 1 {
            self.line.push(if self.json { ',' } else { ' ' });
        }
        // Writing to a string can't fail.
        let _ = if self.json { write!(self.line, "\"{name}\":") } else { write!(self.line, "{name}=") };
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if !self.json && !value.is_empty() && value.bytes().all(plain) {
            self.line.push_str(value);
        } else {
            let _ = write!(self.line, "{}", serde_json::Value::from(value));
        }
    }

    fn number(&mut self, name: &str, value: f64) {
        self.plain(name, value);
    }

    /// What is written as it is: numbers, `true` and `false`.
    fn plain(&mut self, name: &str, value: impl Display) {
        self.name(name);
        let _ = write!(self.line, "{value}");
    }

    fn finish(mut self) -> String {
        self.line.push_str(if self.json { "}\n" } else { "\n" });
        self.line
    }
}

/// Lines that wait for the writer at most: a second of a busy proxy, some ten megabytes.
const QUEUE: usize = 16 * 1024;
/// How late a line may be. In this time a worker can't fill the queue, and nobody who watches a log notices.
const GATHER: Duration = Duration::from_millis(10);
/// Bytes written at a time.
const BATCH: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use seaworthy_core::idempotency::Token;

    use super::*;

    #[test]
    fn a_value_cannot_break_out_of_its_line() {
        for format in [Format::Json, Format::Text] {
            let mut line = Text::new(format);
            line.text("path", "/a\"b\nc");
            let line = line.finish();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(line.contains(r#"/a\"b\nc"#), "{line}");
        }
    }

    #[test]
    fn a_call_under_a_key_says_so() {
        let mut access = Access {
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            route: None,
            at: None,
            attempts: 0,
            degraded: None,
            claim: Some(Claimed::Before(Token(u64::MAX))),
            status: None,
            head: None,
            total: Duration::ZERO,
            bytes: 0,
            end: End::Answered,
            about: None,
            why: Why::new(),
        };
        let names = Names { routes: Vec::new(), upstreams: Vec::new(), format: Format::Json };
        let line = render(&access, &names);
        assert!(line.contains(r#""replayed":true,"fencing_token":18446744073709551615,"#), "{line}");
        access.claim = Some(Claimed::Unrecorded);
        assert!(render(&access, &names).contains(r#""recorded":false,"#));
        access.claim = None;
        assert!(!render(&access, &names).contains("replayed"));
    }

    #[test]
    fn a_full_queue_is_written_without_a_pause() {
        let (lines, queue) = sync_channel(QUEUE);
        let text = format!("{}\n", "x".repeat(399));
        for _ in 1..QUEUE {
            lines.send(Line::Event(text.clone())).unwrap();
        }
        lines.send(Line::End).unwrap();
        let names = Names { routes: Vec::new(), upstreams: Vec::new(), format: Format::Json };
        let (mut out, mut pauses) = (Vec::new(), 0);
        write(&queue, &names, &mut out, || pauses += 1);
        assert_eq!((out.len(), pauses), ((QUEUE - 1) * text.len(), 1));
    }
}
