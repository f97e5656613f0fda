//! Deciding again.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Display;
use core::str::SplitAsciiWhitespace;

use super::breaker::Admitted;
use super::text::{self, As, Word, end, word};
use super::{HEADER, ReplayError};
use crate::call::{Action, Call, Extra, Learned, Plan, Sample, Shared, Start};
use crate::gate::breaker::{self, Breaker, Ticket};
use crate::{Instant, Rules, Valid};

/// What was replayed, every decision as it was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replayed {
    /// Calls.
    pub calls: u64,
    /// Gates.
    pub gates: u64,
    /// Decisions that were compared.
    pub decisions: u64,
}

/// Feeds what `text` recorded to fresh machines and compares what they decide. The format stands in the
/// [module](super).
///
/// # Errors
/// The first line that is not of the format; failing that, the first machine's first decision that differs.
pub fn replay(text: &str) -> Result<Replayed, ReplayError> {
    let machines = sort(text)?;
    let mut replayed = Replayed::default();
    for machine in machines.values() {
        let mut script =
            Script { lines: &machine.lines, at: 0, last: machine.line, decisions: 0, fault: None };
        match machine.kind {
            MachineKind::Call => {
                replay_call(machine, &mut script)?;
                replayed.calls += 1;
            }
            MachineKind::Breaker => {
                replay_breaker(machine, &mut script)?;
                replayed.gates += 1;
            }
        }
        replayed.decisions += script.decisions;
    }
    Ok(replayed)
}

/// The machines of a recording, each with its own lines, by section and number.
type Machines<'a> = BTreeMap<(u64, u64), Machine<'a>>;

struct Machine<'a> {
    kind: MachineKind,
    /// The rest of the line that introduces it, and that line's number.
    config: &'a str,
    line: usize,
    lines: Vec<Line<'a>>,
}

#[derive(Clone, Copy)]
enum MachineKind {
    Call,
    Breaker,
}

#[derive(Clone, Copy)]
struct Line<'a> {
    number: usize,
    body: &'a str,
}

fn sort(text: &str) -> Result<Machines<'_>, ReplayError> {
    let mut machines = Machines::new();
    let first = text.lines().next().unwrap_or_default();
    if first != HEADER {
        return Err(ReplayError::Version { found: first.chars().take(80).collect() });
    }
    let mut section = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let malformed = |problem| ReplayError::Malformed { line: number, problem };
        if line == HEADER {
            section += 1;
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (start, body) = line.split_once(' ').ok_or_else(|| malformed(format!("is only {line:?}")))?;
        if let Some(id) = u64::read(start) {
            let machine = machines.get_mut(&(section, id));
            let machine =
                machine.ok_or_else(|| malformed(format!("is of machine {id}, which was not introduced")))?;
            machine.lines.push(Line { number, body });
            continue;
        }
        let kind = match start {
            "call" => MachineKind::Call,
            "breaker" => MachineKind::Breaker,
            _ => return Err(malformed(format!("introduces an unknown machine, {start:?}"))),
        };
        let (id, config) = body.split_once(' ').unwrap_or((body, ""));
        let id = u64::read(id).ok_or_else(|| malformed(format!("has {id:?} as the machine's number")))?;
        let machine = Machine { kind, config, line: number, lines: Vec::new() };
        if machines.insert((section, id), machine).is_some() {
            return Err(malformed(format!("introduces machine {id} again")));
        }
    }
    Ok(machines)
}

/// The lines of one machine, of which those that are not inputs are what it should say.
struct Script<'a> {
    lines: &'a [Line<'a>],
    at: usize,
    /// The number of the line read last.
    last: usize,
    decisions: u64,
    /// The first thing that went wrong inside a machine, which can't be told of it there.
    fault: Option<ReplayError>,
}

impl<'a> Script<'a> {
    /// The next input and its words; `None` at the end.
    fn input(&mut self) -> Result<Option<(usize, SplitAsciiWhitespace<'a>)>, ReplayError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let Some(line) = self.lines.get(self.at) else { return Ok(None) };
        match line.body.strip_prefix("> ") {
            Some(input) => {
                self.advance();
                Ok(Some((line.number, input.split_ascii_whitespace())))
            }
            None => Err(self.mismatch(String::new())),
        }
    }

    /// A machine decided this: the next line should say so.
    fn decided(&mut self, what: impl Display) {
        if self.fault.is_some() {
            return;
        }
        let replayed = format!("< {what}");
        if self.lines.get(self.at).is_some_and(|line| line.body == replayed) {
            self.advance();
            self.decisions += 1;
        } else {
            self.fault = Some(self.mismatch(replayed));
        }
    }

    /// A machine asked this: the next line should say so, and what follows there is the answer. `None` once something
    /// is wrong.
    fn asked<T>(
        &mut self,
        what: &str,
        read: impl FnOnce(SplitAsciiWhitespace<'a>) -> Result<T, String>,
    ) -> Option<T> {
        if self.fault.is_some() {
            return None;
        }
        let line = self.lines.get(self.at);
        let answer =
            line.and_then(|line| line.body.strip_prefix("= ")?.strip_prefix(what)?.strip_prefix(' '));
        let Some(answer) = answer else {
            self.fault = Some(self.mismatch(format!("= {what}")));
            return None;
        };
        self.advance();
        self.decisions += 1;
        read(answer.split_ascii_whitespace())
            .map_err(|problem| self.fault = Some(ReplayError::Malformed { line: self.last, problem }))
            .ok()
    }

    fn advance(&mut self) {
        self.last = self.lines[self.at].number;
        self.at += 1;
    }

    fn mismatch(&self, replayed: String) -> ReplayError {
        match self.lines.get(self.at) {
            Some(line) => ReplayError::Mismatch { line: line.number, recorded: line.body.into(), replayed },
            None => ReplayError::Mismatch { line: self.last, recorded: String::new(), replayed },
        }
    }
}

fn replay_call(machine: &Machine<'_>, script: &mut Script<'_>) -> Result<(), ReplayError> {
    let malformed = |line| move |problem| ReplayError::Malformed { line, problem };
    let mut words = machine.config.split_ascii_whitespace();
    let config = text::read_call_config(&mut words).and_then(|config| end(&mut words).map(|()| config));
    let config = valid(config.map_err(malformed(machine.line))?, machine.line)?;
    let Some((line, mut words)) = script.input()? else { return Ok(()) };
    let (now, start) = read_start(&mut words).map_err(malformed(line))?;
    let mut call = Call::start(Plan::new(&config), now, start, script);
    while let Some((line, mut words)) = script.input()? {
        feed(&mut call, &mut words, script).map_err(malformed(line))?;
    }
    Ok(())
}

fn read_start(words: &mut SplitAsciiWhitespace<'_>) -> Result<(Instant, Start), String> {
    match words.next() {
        Some("start") => {}
        other => return Err(format!("has {:?} where the call starts", other.unwrap_or_default())),
    }
    let now = word(words, "time")?;
    let start = Start {
        deadline: word(words, "deadline")?,
        repeat: word(words, "repeatability")?,
        seed: word(words, "seed")?,
    };
    end(words)?;
    Ok((now, start))
}

fn feed(
    call: &mut Call,
    words: &mut SplitAsciiWhitespace<'_>,
    script: &mut Script<'_>,
) -> Result<(), String> {
    match words.next().unwrap_or_default() {
        "next" => {
            let now = word(words, "time")?;
            end(words)?;
            let action = call.next_action(now, script);
            script.decided(As(action));
            if matches!(action, Action::Finish(_)) {
                script.decided(format_args!("why {}", call.why()));
            }
        }
        "event" => {
            let now = word(words, "time")?;
            let event = text::read_event(words)?;
            end(words)?;
            call.on_event(now, event, script);
        }
        "would_reject" => {
            let (now, attempt) = (word(words, "time")?, word(words, "attempt")?);
            let rejection = word(words, "rejection")?;
            end(words)?;
            call.would_reject(now, attempt, rejection);
        }
        other => return Err(format!("has the unknown input {other:?}")),
    }
    Ok(())
}

fn replay_breaker(machine: &Machine<'_>, script: &mut Script<'_>) -> Result<(), ReplayError> {
    let malformed = |line| move |problem| ReplayError::Malformed { line, problem };
    let mut words = machine.config.split_ascii_whitespace();
    let seed = text::field(&mut words, "seed").map_err(malformed(machine.line))?;
    let config = text::read_breaker_config(&mut words).and_then(|config| end(&mut words).map(|()| config));
    let config = valid(config.map_err(malformed(machine.line))?, machine.line)?;
    let mut breaker = Breaker::new(config, seed);
    while let Some((line, mut words)) = script.input()? {
        let words = &mut words;
        if let Some(config) = feed_breaker(&mut breaker, words, script).map_err(malformed(line))? {
            breaker.reconfigure(valid(config, line)?);
        }
    }
    Ok(())
}

/// Feeds one input; new numbers are returned, to be checked first.
fn feed_breaker(
    breaker: &mut Breaker,
    words: &mut SplitAsciiWhitespace<'_>,
    script: &mut Script<'_>,
) -> Result<Option<breaker::Config>, String> {
    let kind = words.next().unwrap_or_default();
    if kind == "reconfigure" {
        let config = text::read_breaker_config(words)?;
        end(words)?;
        return Ok(Some(config));
    }
    let now = word(words, "time")?;
    match kind {
        "admit" => {
            end(words)?;
            script.decided(Admitted(&breaker.admit(now)));
        }
        "overdue" => {
            let mut ticket = read_ticket(words)?;
            end(words)?;
            script.decided(As(breaker.overdue(now, &mut ticket)));
        }
        "settle" => {
            let (ticket, outcome) = (read_ticket(words)?, word(words, "outcome")?);
            end(words)?;
            script.decided(As(breaker.settle(now, ticket, outcome)));
        }
        "fold" => {
            let successes = word(words, "number of successes")?;
            end(words)?;
            breaker.fold(now, successes);
        }
        "trip" => {
            let (cause, bound) = (word(words, "cause")?, word(words, "bound for probes")?);
            end(words)?;
            script.decided(As(breaker.trip(now, cause, bound)));
        }
        "force" => {
            let force = word(words, "override")?;
            end(words)?;
            script.decided(As(breaker.force(now, force)));
        }
        other => return Err(format!("has the unknown input {other:?}")),
    }
    Ok(None)
}

fn read_ticket(words: &mut SplitAsciiWhitespace<'_>) -> Result<Ticket, String> {
    let ticket = Ticket::passed(word(words, "generation")?, word(words, "time of admission")?);
    Ok(ticket.marked((word(words, "mark of a probe")?, word(words, "mark of the overdue")?)))
}

fn valid<C: Rules>(config: C, line: usize) -> Result<Valid<C>, ReplayError> {
    Valid::new(config).map_err(|faults| {
        let problem = faults.first().map(|fault| format!("has a configuration that can't be: {fault}"));
        ReplayError::Malformed { line, problem: problem.unwrap_or_default() }
    })
}

impl Shared for Script<'_> {
    fn learned(&mut self, _: Instant) -> Learned {
        self.asked("learned", |mut words| {
            let words = &mut words;
            let learned = Learned {
                timeout: word(words, "timeout")?,
                hedge_after: word(words, "hedge delay")?,
                late: word(words, "late limit")?,
                typical: word(words, "typical latency")?,
            };
            end(words).map(|()| learned)
        })
        .unwrap_or_default()
    }

    fn observe(&mut self, _: Instant, sample: Sample) {
        self.decided(format_args!("observe {}", As(sample)));
    }

    fn deposit(&mut self, _: Instant) {
        self.decided("deposit");
    }

    fn withdraw(&mut self, _: Instant, extra: Extra) -> bool {
        let what = format!("withdraw {}", As(extra).name());
        self.asked(&what, |mut words| {
            word(&mut words, "answer").and_then(|yes| end(&mut words).map(|()| yes))
        })
        .unwrap_or_default()
    }

    fn refund(&mut self, _: Instant, extra: Extra) {
        self.decided(format_args!("refund {}", As(extra).name()));
    }
}
