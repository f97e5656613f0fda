//! What was measured, as a table and for a file.

use std::fmt::Write as _;
use std::time::Duration;

use seaworthy_bench::process::Cpu;
use serde_json::{Value, json};

use crate::capacity::server::Counts;
use crate::capacity::tally::Tally;
use crate::contestant::{EVERYBODY, What};
use crate::{CAPACITY, DEADLINE};

/// One contestant under one load.
pub(crate) struct Figure {
    pub(crate) what: What,
    /// What was asked, as a multiple of the capacity.
    pub(crate) times: f64,
    pub(crate) tally: Tally,
    pub(crate) before: Snapshot,
    pub(crate) after: Snapshot,
}

/// What is read at the beginning and at the end of the counted time.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot {
    pub(crate) cpu: Cpu,
    pub(crate) upstream: Counts,
}

impl Figure {
    /// Good answers, as a share of the capacity.
    pub(crate) fn goodput(&self) -> f64 {
        self.tally.goodput() / CAPACITY.per_second()
    }

    pub(crate) fn p99_ms(&self) -> Option<f64> {
        self.tally.quantile(0.99).map(milliseconds)
    }

    fn cpu(&self) -> Cpu {
        let (from, to) = (self.before.cpu, self.after.cpu);
        Cpu { user: to.user - from.user, system: to.system - from.system }
    }

    fn in_vain(&self) -> u64 {
        self.after.upstream.in_vain - self.before.upstream.in_vain
    }

    fn as_json(&self) -> Value {
        let (tally, cpu) = (&self.tally, self.cpu());
        json!({
            "proxy": self.what.name(),
            "times": self.times,
            "offered_per_second": tally.offered_per_second(),
            "good_per_second": tally.goodput(),
            "goodput_of_capacity": self.goodput(),
            "p50_ms": tally.quantile(0.5).map(milliseconds),
            "p99_ms": self.p99_ms(),
            "refused": tally.share(tally.refused()),
            "refusal_p99_ms": tally.refusal_quantile(0.99).map(milliseconds),
            "gave_up": tally.share(tally.gave_up()),
            "otherwise_failed": tally.share(tally.failed() - tally.gave_up()),
            "calls": tally.offered(),
            "upstream_in_vain": self.in_vain(),
            "proxy_user_us": cpu.user,
            "proxy_system_us": cpu.system,
            "machine_late_ms": milliseconds(tally.stood_still()),
        })
    }
}

/// For overload.json.
pub(crate) fn as_json(figures: &[Figure]) -> Value {
    let runs: Vec<_> = figures.iter().map(Figure::as_json).collect();
    json!({ "capacity_per_second": CAPACITY.per_second(), "deadline_ms": milliseconds(DEADLINE), "runs": runs })
}

/// One line for each contestant and load, in Markdown.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| proxy | asked / C | goodput / C | p50 / p99 ms | refused | gave up | otherwise failed | in vain a second |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for figure in figures {
        let tally = &figure.tally;
        let percent = |count| 100.0 * tally.share(count);
        let quantile = |q| tally.quantile(q).map_or("–".to_owned(), |t| format!("{:.0}", milliseconds(t)));
        let in_vain = figure.in_vain() as f64 / (tally.offered() as f64 / tally.offered_per_second());
        // Writing to a String can't fail.
        let _infallible = writeln!(
            text,
            "| {} | {} | {:.2} | {} / {} | {:.1}% | {:.1}% | {:.1}% | {in_vain:.0} |",
            figure.what.name(),
            figure.times,
            figure.goodput(),
            quantile(0.5),
            quantile(0.99),
            percent(tally.refused()),
            percent(tally.gave_up()),
            percent(tally.failed() - tally.gave_up()),
        );
    }
    text
}

/// What a refused call costs the proxy beside a served one: the served from the load below the capacity, where none is refused; the
/// refused from the greatest load, less what its served ones cost.
pub(crate) fn refusals(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| proxy | served: user + system µs | refused: user + system µs | refused / served |\n|---|---|---|---|\n",
    );
    for what in EVERYBODY.into_iter().filter(|what| *what != What::Direct) {
        let mut of_it = figures.iter().filter(|figure| figure.what == what);
        let (Some(least), Some(most)) = (of_it.next(), of_it.next_back()) else { continue };
        let served = share(least.cpu(), Cpu::default(), 0.0, least.tally.good());
        let refused = share(most.cpu(), served, most.tally.good() as f64, most.tally.refused());
        let ratio = (refused.user + refused.system) / (served.user + served.system);
        let _infallible = writeln!(
            text,
            "| {} | {:.0} + {:.0} | {:.0} + {:.0} | {ratio:.2} |",
            what.name(),
            served.user,
            served.system,
            refused.user,
            refused.system,
        );
    }
    text
}

/// What one of `count` calls cost, once `others` calls at `each` are taken off.
fn share(cpu: Cpu, each: Cpu, others: f64, count: usize) -> Cpu {
    let of = |all: f64, one: f64| (all - one * others) / count as f64;
    Cpu { user: of(cpu.user, each.user), system: of(cpu.system, each.system) }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
