//! The scoreboard at the end: the same figures as a table for people and as one JSON object.

use std::time::Duration;

use serde::Serialize;

use super::board;
use super::children::SERVICES;
use super::policies::Counters;
use super::score::{Score, Tally};
use super::script::Phase;
use super::text::millis;
use super::traffic::{CLIENT_TIMEOUT, Kind, Way};
use crate::out::Ink;

/// Everything that a demo found out.
#[derive(Serialize)]
pub(super) struct Report {
    seed: u64,
    for_s: f64,
    rate_per_s: u32,
    client_timeout_ms: u64,
    /// Ended before its time; the figures are those of the calls that were made.
    interrupted: bool,
    direct: Side,
    through: Side,
    failures: Vec<Failed>,
    phases: Vec<PhaseReport>,
    policies: Counters,
    #[serde(skip)]
    score: Score,
    #[serde(skip)]
    script: Vec<Phase>,
}

/// The calls of one way. The figures at the top level are those of the calls that may be repeated; orders stand apart.
#[derive(Serialize)]
struct Side {
    #[serde(flatten)]
    reads: Figures,
    /// Attempts at the services to each call, the first included.
    attempts_per_call: Option<f64>,
    orders: Figures,
}

#[derive(Serialize)]
struct Figures {
    calls: u64,
    /// Answered to use, degraded answers included.
    succeeded: u64,
    /// From 0 to 1; `null` without calls.
    success_rate: Option<f64>,
    /// Of the succeeded: answered by a fallback that says so.
    degraded: u64,
    /// Answered with an error.
    errors: u64,
    /// Not connected, or cut off.
    broken: u64,
    timed_out: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl Figures {
    fn of(tally: &Tally) -> Self {
        Self {
            calls: tally.calls,
            succeeded: tally.succeeded(),
            success_rate: tally.success_rate(),
            degraded: tally.degraded,
            errors: tally.errors,
            broken: tally.broken,
            timed_out: tally.timed_out,
            p50_ms: tally.quantile_ms(0.5),
            p99_ms: tally.quantile_ms(0.99),
        }
    }
}

#[derive(Serialize)]
struct Failed {
    kind: &'static str,
    target: String,
    how: String,
    from_s: f64,
    until_s: f64,
}

#[derive(Serialize)]
struct PhaseReport {
    name: &'static str,
    from_s: f64,
    until_s: f64,
    /// The service that the failure hits; `null` if none does.
    service: Option<&'static str>,
    /// Repeatable calls to that service, or to all if none is hit.
    direct: Figures,
    through: Figures,
    /// Repeatable calls to all services.
    all_direct: Figures,
    all_through: Figures,
    /// What the policies did meanwhile.
    policies: Counters,
}

/// What a report is made of.
pub(super) struct Findings {
    pub(super) seed: u64,
    pub(super) rate: u32,
    pub(super) total: Duration,
    pub(super) interrupted: bool,
    pub(super) script: Vec<Phase>,
    pub(super) score: Score,
    /// The proxy's counters at the end of each phase that was begun.
    pub(super) counters: Vec<Counters>,
}

impl Report {
    pub(super) fn new(findings: Findings) -> Self {
        let Findings { seed, rate, total, interrupted, script, score, counters } = findings;
        let policies = counters.last().copied().unwrap_or_default();
        let begun = &script[..counters.len().min(script.len())];
        let phases =
            begun.iter().enumerate().map(|(n, phase)| phase_report(n, phase, &score, &counters)).collect();
        let failures = begun.iter().filter_map(failed).collect();
        let side = |way, attempts_per_call| Side {
            reads: Figures::of(&score.sum(None, None, Kind::Read, way)),
            attempts_per_call,
            orders: Figures::of(&score.sum(None, None, Kind::Order, way)),
        };
        Self {
            seed,
            for_s: total.as_secs_f64(),
            rate_per_s: rate,
            client_timeout_ms: u64::try_from(CLIENT_TIMEOUT.as_millis()).unwrap_or(u64::MAX),
            interrupted,
            // A plain client tries once.
            direct: side(Way::Direct, Some(1.0)),
            through: side(Way::Through, policies.attempts_per_call()),
            failures,
            phases,
            policies,
            script: begun.to_vec(),
            score,
        }
    }

    /// The scoreboard for people.
    pub(super) fn lines(&self, colour: bool) -> Vec<String> {
        let mut lines = vec![String::new(), self.title(colour), String::new()];
        lines.extend(heading(colour));
        for (number, phase) in self.script.iter().enumerate() {
            let service = phase.failure.map(|(_, target)| target.service);
            let target =
                phase.failure.map_or_else(|| "all services".to_owned(), |(_, target)| target.short());
            let attempts = self.phases[number].policies.attempts_per_call();
            let tallies = Way::BOTH.map(|way| self.score.sum(Some(number), service, Kind::Read, way));
            lines.push(row(phase.name(), &target, &tallies, attempts, colour));
        }
        lines.push(Ink::Quiet.on(colour, &format!("  {}", "─".repeat(WIDTH - 2))));
        let sum = |kind| Way::BOTH.map(|way| self.score.sum(None, None, kind, way));
        let attempts = self.policies.attempts_per_call();
        lines.push(row("all reads", "", &sum(Kind::Read), attempts, colour));
        lines.push(row("orders placed", "never repeated", &sum(Kind::Order), None, colour));
        lines.push(String::new());
        lines.extend(self.notes(colour));
        lines.push(String::new());
        lines.extend(self.policies.lines(colour));
        lines
    }

    fn title(&self, colour: bool) -> String {
        let early = if self.interrupted { ", ended early" } else { "" };
        let of =
            format!("{} calls/s each way for {} s, seed {}{early}", self.rate_per_s, self.for_s, self.seed);
        format!("  {}  {}", Ink::Strong.on(colour, "scoreboard"), Ink::Quiet.on(colour, &of))
    }

    /// How many reads got a degraded answer in phases in which nothing was wrong.
    fn degraded_late(&self) -> u64 {
        let well = self.script.iter().zip(&self.phases).filter(|(phase, _)| phase.failure.is_none());
        well.map(|(_, phase)| phase.all_through.degraded).sum()
    }

    fn notes(&self, colour: bool) -> Vec<String> {
        let mut notes = vec![
            "  A failure's row counts the reads of the service that it hit, for as long as it lasted."
                .to_owned(),
            format!(
                "  Latency counts from the moment a call was due to the moment its outcome is known; callers wait {} ms.",
                self.client_timeout_ms
            ),
            "  Load is what reached for the services for each call through Seaworthy; direct it is 1."
                .to_owned(),
        ];
        let degraded = self.through.reads.degraded;
        if degraded > 0 {
            notes.push(format!(
                "  {degraded} answers through Seaworthy were degraded: a fallback, marked as one, counted as a success;"
            ));
            notes.push(format!(
                "  {} of them while nothing was wrong with the service any more, until the breakers had found out.",
                self.degraded_late()
            ));
        }
        notes.iter().map(|note| Ink::Quiet.on(colour, note)).collect()
    }
}

fn failed(phase: &Phase) -> Option<Failed> {
    let (fault, target) = phase.failure?;
    Some(Failed {
        kind: fault.name(),
        target: target.to_string(),
        how: fault.how(),
        from_s: phase.from.as_secs_f64(),
        until_s: phase.until.as_secs_f64(),
    })
}

fn phase_report(number: usize, phase: &Phase, score: &Score, counters: &[Counters]) -> PhaseReport {
    let service = phase.failure.map(|(_, target)| target.service);
    let figures = |service, way| Figures::of(&score.sum(Some(number), service, Kind::Read, way));
    let before = number.checked_sub(1).and_then(|before| counters.get(before)).copied().unwrap_or_default();
    PhaseReport {
        name: phase.name(),
        from_s: phase.from.as_secs_f64(),
        until_s: phase.until.as_secs_f64(),
        service: service.map(|service| SERVICES[service]),
        direct: figures(service, Way::Direct),
        through: figures(service, Way::Through),
        all_direct: figures(None, Way::Direct),
        all_through: figures(None, Way::Through),
        policies: counters.get(number).copied().unwrap_or_default().since(before),
    }
}

fn heading(colour: bool) -> [String; 2] {
    let (success, p50, p99) = ("success", "p50", "p99");
    let first = format!("  {:<PHASE$}{:<TARGET$}{success:>PAIR$}{p50:>PAIR$}{p99:>PAIR$}", "", "");
    let pair = format!("{:>9}{:>9}", "direct", "through");
    let second = format!("  {:<PHASE$}{:<TARGET$}{pair}{pair}{pair}{:>7}", "phase", "hit", "load");
    [Ink::Strong.on(colour, &first), Ink::Quiet.on(colour, &second)]
}

fn row(
    name: &str,
    target: &str,
    [direct, through]: &[Tally; 2],
    attempts: Option<f64>,
    colour: bool,
) -> String {
    let mut line = format!("  {name:<PHASE$}{}", Ink::Quiet.on(colour, &format!("{target:<TARGET$}")));
    line.push_str(&board::success(direct, 9, colour));
    line.push_str(&board::success(through, 9, colour));
    for q in [0.5, 0.99] {
        line.push_str(&format!("{:>9}{:>9}", millis(direct.quantile_ms(q)), millis(through.quantile_ms(q))));
    }
    let attempts = attempts.map_or_else(String::new, |rate| format!("{rate:.2}"));
    line.push_str(&format!("{attempts:>7}"));
    line.trim_end().to_owned()
}

/// The scoreboard's width in columns, its margin included.
const WIDTH: usize = 2 + PHASE + TARGET + 3 * PAIR + 7;
const PHASE: usize = 14;
const TARGET: usize = 18;
/// The width of one figure both ways.
const PAIR: usize = 18;
