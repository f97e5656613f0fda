//! What came of the calls: counts and latencies, by phase, service, kind and way.

use std::collections::VecDeque;
use std::time::Duration;

use super::children::SERVICES;
use super::script::Phase;
use super::traffic::{Done, Ending, Kind, Way};

/// Counts and latencies of some calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) calls: u64,
    pub(super) good: u64,
    pub(super) degraded: u64,
    pub(super) errors: u64,
    pub(super) broken: u64,
    pub(super) timed_out: u64,
    latencies: Histogram,
}

impl Tally {
    fn add(&mut self, done: &Done) {
        self.calls += 1;
        match done.ending {
            Ending::Good => self.good += 1,
            Ending::Degraded => self.degraded += 1,
            Ending::Error(_) => self.errors += 1,
            Ending::Broken => self.broken += 1,
            Ending::TimedOut => self.timed_out += 1,
        }
        self.latencies.add(done.took);
    }

    fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.good += other.good;
        self.degraded += other.degraded;
        self.errors += other.errors;
        self.broken += other.broken;
        self.timed_out += other.timed_out;
        self.latencies.merge(&other.latencies);
    }

    /// Calls whose caller got an answer to go on with.
    pub(super) const fn succeeded(&self) -> u64 {
        self.good + self.degraded
    }

    /// From 0 to 1; `None` without calls.
    pub(super) fn success_rate(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.succeeded() as f64 / self.calls as f64)
    }

    /// The latency that the share `q` of the calls stayed within, in milliseconds. Failed calls count with the time
    /// until their caller knew.
    pub(super) fn quantile_ms(&self, q: f64) -> Option<f64> {
        self.latencies.quantile_us(q).map(|us| us as f64 / 1000.0)
    }
}

/// All tallies of a demo.
pub(super) struct Score {
    phases: Vec<Phase>,
    /// Indexed by [`Score::cell`].
    cells: Vec<Tally>,
    recent: VecDeque<Done>,
}

impl Score {
    pub(super) fn new(phases: &[Phase]) -> Self {
        let cells = vec![Tally::default(); phases.len() * SERVICES.len() * KINDS * WAYS];
        Self { phases: phases.to_vec(), cells, recent: VecDeque::new() }
    }

    /// Counts a call to the phase that it was to be sent in.
    pub(super) fn add(&mut self, done: Done) {
        let phase = self.phase_at(done.at);
        let cell = Self::cell(phase, done.service, done.kind, done.way);
        if let Some(tally) = self.cells.get_mut(cell) {
            tally.add(&done);
        }
        self.recent.push_back(done);
        while self.recent.len() > MOST_RECENT {
            self.recent.pop_front();
        }
    }

    /// Which phase holds the time `at`.
    pub(super) fn phase_at(&self, at: Duration) -> usize {
        self.phases.partition_point(|phase| phase.until <= at).min(self.phases.len().saturating_sub(1))
    }

    /// The sum over some phases (`None` for all) and some services.
    pub(super) fn sum(&self, phase: Option<usize>, services: &[usize], kind: Kind, way: Way) -> Tally {
        let mut sum = Tally::default();
        let phases = phase.map_or(0..self.phases.len(), |phase| phase..phase + 1);
        for phase in phases {
            for &service in services {
                if let Some(tally) = self.cells.get(Self::cell(phase, service, kind, way)) {
                    sum.merge(tally);
                }
            }
        }
        sum
    }

    /// The calls that ended lately: those sent between `now - window` and `now`.
    pub(super) fn lately(
        &self,
        now: Duration,
        window: Duration,
        service: usize,
        kind: Kind,
        way: Way,
    ) -> Tally {
        let mut sum = Tally::default();
        let mine = |done: &&Done| done.service == service && done.kind == kind && done.way == way;
        for done in self.recent.iter().filter(|done| done.at + done.took + window >= now).filter(mine) {
            sum.add(done);
        }
        sum
    }

    const fn cell(phase: usize, service: usize, kind: Kind, way: Way) -> usize {
        ((phase * SERVICES.len() + service) * KINDS + kind as usize) * WAYS + way as usize
    }
}

/// A log-linear histogram of microseconds: 64 steps to each doubling, so a value is known to 1.6 %, in a few kilobytes
/// however long the demo runs (the layout of HdrHistogram, G. Tene).
#[derive(Clone, Debug, Default)]
struct Histogram {
    counts: Vec<u32>,
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let bucket = bucket_of(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(LONGEST_US));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
    }

    fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// The highest value of the bucket that holds the `q`-quantile by nearest rank.
    fn quantile_us(&self, q: f64) -> Option<u64> {
        let total: u64 = self.counts.iter().map(|&count| u64::from(count)).sum();
        let rank = ((q * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        self.counts.iter().enumerate().find_map(|(bucket, &count)| {
            seen += u64::from(count);
            (count > 0 && seen >= rank).then(|| highest_in(bucket))
        })
    }
}

fn bucket_of(us: u64) -> usize {
    // Values under STEPS have a bucket each; above, the bits below the leading seven are dropped.
    let dropped = (64 - us.leading_zeros()).saturating_sub(STEPS.trailing_zeros() + 1);
    usize::try_from(u64::from(dropped) * STEPS + (us >> dropped)).unwrap_or(usize::MAX)
}

fn highest_in(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let dropped = (bucket / STEPS).saturating_sub(1);
    let kept = bucket - dropped * STEPS;
    ((kept + 1) << dropped) - 1
}

/// Steps to each doubling; a power of two.
const STEPS: u64 = 64;
/// A quarter of an hour; nobody waits that long here, and it bounds the histogram.
const LONGEST_US: u64 = 900_000_000;
const KINDS: usize = 2;
const WAYS: usize = 2;
/// A few seconds' worth at the highest rate, for the live table.
const MOST_RECENT: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::script;

    fn done(at_ms: u64, took_us: u64, ending: Ending) -> Done {
        let (at, took) = (Duration::from_millis(at_ms), Duration::from_micros(took_us));
        Done { way: Way::Direct, service: 1, kind: Kind::Read, at, took, ending }
    }

    #[test]
    fn buckets_cover_every_value_within_two_percent() {
        let mut last = 0;
        for us in (0..5000).chain((5000..LONGEST_US).step_by(9_999_991)) {
            let bucket = bucket_of(us);
            let high = highest_in(bucket);
            assert!(bucket >= last && high >= us && high as f64 <= us as f64 * 1.02 + 1.0, "{us} -> {high}");
            last = bucket;
        }
    }

    #[test]
    fn quantiles_are_those_of_the_nearest_rank() {
        let mut tally = Tally::default();
        assert_eq!(tally.quantile_ms(0.5), None);
        for us in 1..=50 {
            tally.add(&done(0, us, Ending::Good));
        }
        assert_eq!(tally.quantile_ms(0.5), Some(0.025));
        assert_eq!(tally.quantile_ms(0.99), Some(0.05));
        assert_eq!(tally.quantile_ms(0.0), Some(0.001));
    }

    #[test]
    fn a_degraded_answer_is_a_success_and_counted_apart() {
        let mut tally = Tally::default();
        for ending in [Ending::Good, Ending::Degraded, Ending::Error(500), Ending::TimedOut] {
            tally.add(&done(0, 1, ending));
        }
        assert_eq!((tally.calls, tally.succeeded(), tally.degraded), (4, 2, 1));
        assert_eq!(tally.success_rate(), Some(0.5));
    }

    #[test]
    fn a_call_counts_to_the_phase_that_it_was_to_be_sent_in() {
        let phases = script::phases(Duration::from_secs(36), 1);
        let mut score = Score::new(&phases);
        score.add(done(2_999, 5_000_000, Ending::TimedOut));
        score.add(done(3_000, 1, Ending::Good));
        score.add(done(99_000, 1, Ending::Good));
        let calls = |phase| score.sum(Some(phase), &script::ALL, Kind::Read, Way::Direct).calls;
        assert_eq!((calls(0), calls(1), calls(phases.len() - 1)), (1, 1, 1));
        assert_eq!(score.sum(None, &[1], Kind::Read, Way::Direct).calls, 3);
        assert_eq!(score.sum(None, &script::ALL, Kind::Read, Way::Through).calls, 0);
    }
}
