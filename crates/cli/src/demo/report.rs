//! The scoreboard at the end: the same figures as a table for people and as one JSON object.

use std::time::Duration;

use serde::Serialize;

use super::board;
use super::children::{DISTANCE, SERVICES};
use super::policies::{Books, Counters};
use super::regions::{Course, PARTS, Regions};
use super::score::{Score, Tally};
use super::script::{ALL, Phase};
use super::text::{NOTHING, columns, millis, rough_percent};
use super::traffic::{CLIENT_TIMEOUT, Kind, Way};
use super::visits::Visits;
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
    /// What somebody saw who looked at the shop's page through Seaworthy all the while.
    page: Visits,
    /// What the way to the far region and back adds to a call.
    distance_ms: u64,
    /// Where the attempts through Seaworthy went. Direct calls all stay near.
    regions: Regions,
    /// Which share of them went to the far region, from 0 to 1, in equal parts of the time; `null` where there were none.
    far_share_over_time: Vec<Option<f64>>,
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
    /// Of the succeeded: answered by something else that says so.
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
    /// The services that the failure hits.
    services: Vec<&'static str>,
    /// Repeatable calls to these services, or to all if none is hit.
    direct: Figures,
    through: Figures,
    /// Repeatable calls to all services.
    all_direct: Figures,
    all_through: Figures,
    /// What the policies did meanwhile.
    policies: Counters,
    /// Where the attempts at these services went, or at all if none is hit.
    regions: Regions,
    /// Where the attempts at all services went.
    all_regions: Regions,
}

/// What a report is made of.
pub(super) struct Findings {
    pub(super) seed: u64,
    pub(super) rate: u32,
    pub(super) total: Duration,
    pub(super) interrupted: bool,
    pub(super) script: Vec<Phase>,
    pub(super) score: Score,
    pub(super) visits: Visits,
    /// The proxy's books at the end of each phase that was begun.
    pub(super) books: Vec<Books>,
    pub(super) course: Course,
}

impl Report {
    pub(super) fn new(findings: Findings) -> Self {
        let Findings { seed, rate, total, interrupted, script, score, visits, books, course } = findings;
        let Books { counters: policies, spread } = books.last().copied().unwrap_or_default();
        let begun = &script[..books.len().min(script.len())];
        let phases =
            begun.iter().enumerate().map(|(n, phase)| phase_report(n, phase, &score, &books)).collect();
        let failures = begun.iter().filter_map(failed).collect();
        let side = |way, attempts_per_call| Side {
            reads: Figures::of(&score.sum(None, &ALL, Kind::Read, way)),
            attempts_per_call,
            orders: Figures::of(&score.sum(None, &ALL, Kind::Order, way)),
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
            page: visits,
            distance_ms: u64::try_from(DISTANCE.as_millis()).unwrap_or(u64::MAX),
            regions: spread.of(&ALL),
            far_share_over_time: course.far_shares(),
            script: begun.to_vec(),
            score,
        }
    }

    /// The scoreboard for people.
    pub(super) fn lines(&self, colour: bool) -> Vec<String> {
        let mut lines = vec![String::new(), self.title(colour), String::new()];
        lines.extend(heading(colour));
        for (number, phase) in self.script.iter().enumerate() {
            let target =
                phase.failure.map_or_else(|| "all services".to_owned(), |(_, target)| target.short());
            let PhaseReport { policies, regions, .. } = &self.phases[number];
            let price = Price { attempts: policies.attempts_per_call(), far: regions.far_share };
            let tallies = Way::BOTH.map(|way| self.score.sum(Some(number), hit(phase), Kind::Read, way));
            lines.push(row(phase.name(), &target, &tallies, Some(price), colour));
        }
        lines.push(Ink::Quiet.on(colour, &format!("  {}", "─".repeat(WIDTH - 2))));
        let sum = |kind| Way::BOTH.map(|way| self.score.sum(None, &ALL, kind, way));
        let price = Price { attempts: self.policies.attempts_per_call(), far: self.regions.far_share };
        lines.push(row("all reads", "", &sum(Kind::Read), Some(price), colour));
        lines.push(row("orders placed", "never repeated", &sum(Kind::Order), None, colour));
        lines.push(String::new());
        lines.extend(self.course(colour));
        lines.push(String::new());
        lines.extend(self.notes(colour));
        lines.push(String::new());
        lines.extend(self.page.lines(colour));
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

    /// How the calls went to the far region and came back, over time, and what was wrong meanwhile.
    fn course(&self, colour: bool) -> [String; 2] {
        let line = columns(&self.far_share_over_time);
        let mut under = String::new();
        for phase in &self.script {
            let at = (phase.from.as_secs_f64() / self.for_s * PARTS as f64).round() as usize;
            let gap = at.saturating_sub(under.chars().count());
            let what = phase.failure.map_or("well", |(fault, _)| fault.name());
            under.push_str(&format!("{:gap$}╵{what}", ""));
        }
        let name = Ink::Strong.on(colour, &format!("  {:<PHASE$}", "calls to far"));
        [format!("{name}{line}"), Ink::Quiet.on(colour, &format!("  {:<PHASE$}{under}", ""))]
    }

    /// How many reads got a degraded answer in phases in which nothing was wrong.
    fn degraded_late(&self) -> u64 {
        let well = self.script.iter().zip(&self.phases).filter(|(phase, _)| phase.failure.is_none());
        well.map(|(_, phase)| phase.all_through.degraded).sum()
    }

    fn notes(&self, colour: bool) -> Vec<String> {
        let mut notes = vec![
            "  A failure's row counts the reads of what it hit, for as long as it lasted.".to_owned(),
            format!(
                "  Latency counts from when a call was due until its outcome is known; callers wait {} ms.",
                self.client_timeout_ms
            ),
            "  Load is what reached for the services for each call through Seaworthy; direct it is 1."
                .to_owned(),
            format!(
                "  Far is the part of it that went to the region {} ms away; direct calls all go to the near one.",
                self.distance_ms
            ),
        ];
        let degraded = self.through.reads.degraded;
        if degraded > 0 {
            notes.push(format!(
                "  {degraded} answers through Seaworthy were degraded: a stand-in, marked as one, counted as a success;"
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

/// The services that a phase's figures are about: those that are hit, or all.
fn hit(phase: &Phase) -> &'static [usize] {
    phase.failure.map_or(&ALL[..], |(_, target)| target.services())
}

fn names(services: &[usize]) -> Vec<&'static str> {
    services.iter().map(|&service| SERVICES[service]).collect()
}

fn phase_report(number: usize, phase: &Phase, score: &Score, books: &[Books]) -> PhaseReport {
    let figures = |services, way| Figures::of(&score.sum(Some(number), services, Kind::Read, way));
    let before = number.checked_sub(1).and_then(|before| books.get(before)).copied().unwrap_or_default();
    let after = books.get(number).copied().unwrap_or_default();
    let spread = after.spread.since(&before.spread);
    PhaseReport {
        name: phase.name(),
        from_s: phase.from.as_secs_f64(),
        until_s: phase.until.as_secs_f64(),
        services: phase.failure.map_or_else(Vec::new, |(_, target)| names(target.services())),
        direct: figures(hit(phase), Way::Direct),
        through: figures(hit(phase), Way::Through),
        all_direct: figures(&ALL, Way::Direct),
        all_through: figures(&ALL, Way::Through),
        policies: after.counters.since(before.counters),
        regions: spread.of(hit(phase)),
        all_regions: spread.of(&ALL),
    }
}

/// What it cost: attempts to each call, and the share of them that went far.
struct Price {
    attempts: Option<f64>,
    far: Option<f64>,
}

fn heading(colour: bool) -> [String; 2] {
    let (success, p50, p99) = ("success", "p50", "p99");
    let first = format!("  {:<PHASE$}{:<TARGET$}{success:>PAIR$}{p50:>PAIR$}{p99:>PAIR$}", "", "");
    let pair = format!("{:>9}{:>8}", "direct", "through");
    let second =
        format!("  {:<PHASE$}{:<TARGET$}{pair}{pair}{pair}{:>6}{:>6}", "phase", "hit", "load", "far");
    [Ink::Strong.on(colour, &first), Ink::Quiet.on(colour, &second)]
}

fn row(
    name: &str,
    target: &str,
    [direct, through]: &[Tally; 2],
    price: Option<Price>,
    colour: bool,
) -> String {
    let mut line = format!("  {name:<PHASE$}{}", Ink::Quiet.on(colour, &format!("{target:<TARGET$}")));
    line.push_str(&board::success(direct, 9, colour));
    line.push_str(&board::success(through, 8, colour));
    for q in [0.5, 0.99] {
        line.push_str(&format!("{:>9}{:>8}", millis(direct.quantile_ms(q)), millis(through.quantile_ms(q))));
    }
    if let Some(Price { attempts, far }) = price {
        let attempts = attempts.map_or_else(|| NOTHING.to_owned(), |rate| format!("{rate:.2}"));
        line.push_str(&format!("{attempts:>6}{:>6}", rough_percent(far)));
    }
    line.trim_end().to_owned()
}

/// The scoreboard's width in columns, its margin included.
const WIDTH: usize = 2 + PHASE + TARGET + 3 * PAIR + 6 + 6;
const PHASE: usize = 14;
const TARGET: usize = 18;
/// The width of one figure both ways.
const PAIR: usize = 17;
