//! What a run showed.

mod traffic;

use std::fmt;
use std::time::Duration;

use seaworthy_core::Criticality;
use serde::Serialize;

pub(crate) use traffic::Traffic;
pub use traffic::{EndpointRow, GroupRow, Outing};

/// What a run showed, whole and by phase. A call belongs to the phase in which it began, an attempt to that in which it
/// was sent.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed that yields this run again.
    pub seed: u64,
    /// The phases, in order.
    pub phases: Vec<Row>,
    /// The whole run.
    pub total: Row,
    /// The groups of instances; empty if there is only one instance.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupRow>,
    /// The instances; empty if there is only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointRow>,
    /// The recording of the run, if one was asked for; see [`seaworthy_core::record`].
    #[serde(skip)]
    pub recording: Option<String>,
}

/// One phase of a run, or all of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// When it began, in seconds of virtual time.
    pub from_s: f64,
    /// When it ended.
    pub to_s: f64,
    /// Calls that began in it.
    pub calls: u64,
    /// Those that were answered with success.
    pub succeeded: u64,
    /// Those that were answered by the fallback.
    pub degraded: u64,
    /// Those that a policy of ours refused.
    pub rejected: u64,
    /// Those that failed.
    pub failed: u64,
    /// Requests that were sent to the service.
    pub attempts: u64,
    /// Those that were retries.
    pub retries: u64,
    /// Those that were hedges.
    pub hedges: u64,
    /// Those that our timeout or deadline cut off.
    pub timed_out: u64,
    /// How often a breaker opened.
    pub opened: u64,
    /// Succeeded calls over all calls; 1 if there were none.
    pub success: f64,
    /// Requests that were sent to the service for every call; 1 if there were no calls.
    pub load: f64,
    /// The median duration of the calls that succeeded, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile of the same.
    pub p99_ms: f64,
    /// The longest of the same.
    pub max_ms: f64,
    /// How long after the phase began the last ten requests sent were for the last time mostly cut off by us, in seconds:
    /// how long the timeout took to find its new length. Zero if they never were.
    pub cut_off_for_s: f64,
    /// The calls by criticality, the most critical first, without those of which there were none; empty if all were alike.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_criticality: Vec<LevelRow>,
}

/// The calls of one criticality.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct LevelRow {
    /// Its name.
    pub criticality: &'static str,
    /// Calls that began.
    pub calls: u64,
    /// Those that were answered with success.
    pub succeeded: u64,
    /// Those that a policy of ours refused.
    pub rejected: u64,
    /// Succeeded calls over all calls.
    pub success: f64,
}

impl Row {
    /// The calls of one criticality, if there were any and calls differed in that.
    #[must_use]
    pub fn of(&self, criticality: Criticality) -> Option<&LevelRow> {
        self.by_criticality.iter().find(|level| level.criticality == criticality.name())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (seed {})\n", self.scenario, self.seed)?;
        let heads = [
            "phase",
            "calls",
            "success",
            "load",
            "failed",
            "rejected",
            "degraded",
            "timed out",
            "hedges",
            "opened",
        ];
        write!(f, "{:>15}", heads[0])?;
        heads[1..].iter().try_for_each(|head| write!(f, " {head:>9}"))?;
        writeln!(f, " {:>9} {:>9} {:>9}", "p50", "p99", "max")?;
        for row in &self.phases {
            row.write(f, &row.phase())?;
        }
        if self.phases.len() > 1 {
            self.total.write(f, "all")?;
        }
        self.write_levels(f)?;
        traffic::write(f, self)
    }
}

impl Report {
    /// Which share of the calls of each criticality succeeded, phase by phase.
    fn write_levels(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total.by_criticality.is_empty() {
            return Ok(());
        }
        write!(f, "\n{:>15}", "success of")?;
        self.total.by_criticality.iter().try_for_each(|level| write!(f, " {:>14}", level.criticality))?;
        writeln!(f)?;
        let all = (self.phases.len() > 1).then(|| (&self.total, "all".to_owned()));
        for (row, name) in self.phases.iter().map(|row| (row, row.phase())).chain(all) {
            write!(f, "{name:>15}")?;
            for level in &self.total.by_criticality {
                let its = row.by_criticality.iter().find(|its| its.criticality == level.criticality);
                write!(f, " {:>13.2}%", 100.0 * its.map_or(1.0, |its| its.success))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Row {
    fn phase(&self) -> String {
        format!("{} to {} s", self.from_s, self.to_s)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        write!(f, "{name:>15} {:>9} {:>8.2}% {:>8.2}x", self.calls, 100.0 * self.success, self.load)?;
        for count in [self.failed, self.rejected, self.degraded, self.timed_out, self.hedges, self.opened] {
            write!(f, " {count:>9}")?;
        }
        for ms in [self.p50_ms, self.p99_ms, self.max_ms] {
            write!(f, " {:>7.1}ms", ms)?;
        }
        writeln!(f)
    }
}

/// What is counted of a phase while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) row: Row,
    /// How long the calls that succeeded took, in nanoseconds.
    pub(crate) durations: Vec<u64>,
    /// The requests in the order in which they were sent: when, and whether they were cut off.
    pub(crate) sent: Vec<(u64, bool)>,
    /// By criticality, if that is to be told.
    pub(crate) levels: Option<[Counts; LEVELS]>,
}

/// How calls of one criticality went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    pub(crate) succeeded: u64,
    pub(crate) rejected: u64,
}

impl Tally {
    /// Counts a call that began.
    pub(crate) fn begun(&mut self, criticality: Criticality) {
        self.row.calls += 1;
        self.level(criticality, |counts| counts.calls += 1);
    }

    /// Counts a call that succeeded after so many nanoseconds.
    pub(crate) fn succeeded(&mut self, criticality: Criticality, nanos: u64) {
        self.row.succeeded += 1;
        self.durations.push(nanos);
        self.level(criticality, |counts| counts.succeeded += 1);
    }

    /// Counts a call that a policy of ours refused.
    pub(crate) fn rejected(&mut self, criticality: Criticality) {
        self.row.rejected += 1;
        self.level(criticality, |counts| counts.rejected += 1);
    }

    fn level(&mut self, criticality: Criticality, count: impl FnOnce(&mut Counts)) {
        if let Some(levels) = &mut self.levels {
            count(&mut levels[criticality.rank()]);
        }
    }

    /// The row of this and the others together.
    pub(crate) fn total(tallies: &[Self]) -> Row {
        let mut all = Self::default();
        for tally in tallies {
            let (row, more) = (&mut all.row, &tally.row);
            row.calls += more.calls;
            row.succeeded += more.succeeded;
            row.degraded += more.degraded;
            row.rejected += more.rejected;
            row.failed += more.failed;
            row.attempts += more.attempts;
            row.retries += more.retries;
            row.hedges += more.hedges;
            row.timed_out += more.timed_out;
            row.opened += more.opened;
            row.to_s = more.to_s;
            if let Some(more) = &tally.levels {
                let levels = all.levels.get_or_insert_default();
                levels.iter_mut().zip(more).for_each(|(counts, more)| counts.add(*more));
            }
            all.durations.extend(&tally.durations);
            all.sent.extend(&tally.sent);
        }
        all.into_row()
    }

    pub(crate) fn into_row(mut self) -> Row {
        self.durations.sort_unstable();
        let ms = |q: f64| {
            let rank = (q * self.durations.len() as f64).ceil() as usize;
            self.durations.get(rank.saturating_sub(1)).map_or(0.0, |&nanos| nanos as f64 * 1e-6)
        };
        let share = |part: u64| if self.row.calls == 0 { 1.0 } else { part as f64 / self.row.calls as f64 };
        Row {
            success: share(self.row.succeeded),
            load: share(self.row.attempts),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            max_ms: ms(1.0),
            cut_off_for_s: self.cut_off_for().as_secs_f64(),
            by_criticality: self.levels.iter().flat_map(level_rows).collect(),
            ..self.row
        }
    }

    fn cut_off_for(&self) -> Duration {
        let mostly =
            |latest: &&[(u64, bool)]| latest.iter().filter(|(_, cut)| *cut).count() * 2 > latest.len();
        let last = self.sent.windows(LATEST).rfind(mostly).and_then(|latest| latest.last());
        let from = Duration::from_secs_f64(self.row.from_s);
        last.map_or(Duration::ZERO, |(sent, _)| Duration::from_nanos(*sent).saturating_sub(from))
    }
}

impl Counts {
    const fn add(&mut self, more: Self) {
        self.calls += more.calls;
        self.succeeded += more.succeeded;
        self.rejected += more.rejected;
    }
}

fn level_rows(levels: &[Counts; LEVELS]) -> impl Iterator<Item = LevelRow> {
    let made = Criticality::ALL.into_iter().zip(levels).filter(|(_, counts)| counts.calls > 0);
    made.map(|(criticality, counts)| LevelRow {
        criticality: criticality.name(),
        calls: counts.calls,
        succeeded: counts.succeeded,
        rejected: counts.rejected,
        success: counts.succeeded as f64 / counts.calls as f64,
    })
}

const LEVELS: usize = Criticality::ALL.len();
/// Over how many requests "mostly cut off" is judged: few enough to see the end within a tenth of a second at a hundred a
/// second, enough that chance does not make six of them late.
const LATEST: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let durations = (1..=100).map(|ms| ms * 1_000_000).collect();
        let row = Tally { durations, ..Tally::default() }.into_row();
        assert_eq!([row.p50_ms, row.p99_ms, row.max_ms], [50.0, 99.0, 100.0]);
        assert_eq!(Tally::default().into_row().p99_ms, 0.0);
    }

    #[test]
    fn the_time_cut_off_ends_with_the_last_time_that_most_were() {
        let sent = (0..100u64).map(|n| (n * 1_000_000_000, n < 20 || n == 50)).collect();
        let row = Tally { sent, ..Tally::default() }.into_row();
        assert_eq!(row.cut_off_for_s, 23.0);
    }
}
