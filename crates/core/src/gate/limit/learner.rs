//! How a limit moves.

use core::time::Duration;

use super::batch::{Batch, Level};
use super::{Algorithm, Config};
use crate::stats::ewma::Ewma;
use crate::stats::log::{ln, power_of_two};
use crate::stats::slices::Slices;
use crate::{Instant, Mode, Valid};

/// A limit that was moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The most calls in flight before.
    pub from: u32,
    /// And from now on.
    pub to: u32,
}

/// What a limit has learned by a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Learned {
    /// The most calls in flight.
    pub limit: u32,
    /// How long calls typically take of late.
    pub latency: Option<Duration>,
    /// How long they typically take while none waits in the upstream, as far as is known.
    pub baseline: Option<Duration>,
    /// Whether the limit is lowered for a moment to find that out.
    pub probing: bool,
}

/// The part of a [`Limit`](super::Limit) that moves it, for shells that count the calls in flight by themselves. How, the
/// [module](super) says.
#[derive(Clone, Debug)]
pub struct Learner {
    config: Valid<Config>,
    limit: f64,
    /// The share of the limit that the host can bear.
    share: f64,
    published: u32,
    window: Batch,
    began: Instant,
    latest: Option<Level>,
    average: Ewma,
    baseline: Baseline,
    descent: Option<Descent>,
    /// For how many windows latency has been at its least; unknown before it first was not.
    calm: Option<u32>,
    probe: Probe,
}

/// A limit on its way down: where it was when last looked at, and how long calls took then.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Descent {
    limit: f64,
    log2: f64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Probe {
    /// None before this moment.
    Due(Instant),
    /// The limit is lowered to this, and what was in the upstream drains.
    Draining(f64),
    /// It has drained, and what is seen now is the least; with the least of before.
    Measuring(f64, f64),
}

impl Learner {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        let mut learner = Self {
            limit: first(&config),
            share: 1.0,
            published: 0,
            window: Batch::default(),
            began: Instant::ZERO,
            latest: None,
            average: Ewma::average(AVERAGE),
            baseline: Baseline::new(config.baseline_window),
            descent: None,
            calm: None,
            probe: Probe::Due(Instant::ZERO),
            config,
        };
        learner.publish();
        learner
    }

    /// Takes new numbers. What was learned stays and is fitted between the new bounds; a limit that was fixed begins anew.
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        if self.config.baseline_window != config.baseline_window {
            self.baseline = Baseline::new(config.baseline_window);
        }
        if self.config.algorithm == Algorithm::Fixed || config.algorithm == Algorithm::Fixed {
            self.limit = first(&config);
        }
        self.config = config;
        self.probe = Probe::Due(self.began);
        self.move_to(self.limit);
        self.publish();
    }

    /// The numbers.
    #[must_use]
    pub const fn config(&self) -> &Valid<Config> {
        &self.config
    }

    /// The most calls in flight, at least 1.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.published
    }

    /// Lowers the limit to `share` of what it would be, from 0 to 1, whatever the algorithm: because the host itself has too
    /// much to do. One call may always be in flight. What is no number counts as 1.
    pub fn press(&mut self, share: f64) -> Option<Change> {
        self.share = if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) };
        self.publish()
    }

    /// Calls have ended since the last time, or were held back. To be told with each call, or with many a few times a second;
    /// O(1), and most times only sums.
    pub fn learn(&mut self, now: Instant, batch: &Batch) -> Option<Change> {
        if self.config.algorithm == Algorithm::Fixed || self.config.mode == Mode::Off {
            return None;
        }
        // What lay idle tells nothing of today; and a clock that was set back begins a new window.
        if now.since(self.began) > STALE || self.began > now {
            self.began = now;
            self.window = Batch::default();
        }
        self.window.merge(batch);
        if !self.is_complete(now) {
            return None;
        }
        self.began = now;
        let window = core::mem::take(&mut self.window);
        let level = window.level();
        if let Some(level) = level {
            self.baseline.add(now, level);
            self.average.record(now, Duration::from_nanos(power_of_two(level.log2) as u64));
            self.latest = Some(level);
        }
        self.judge(now, &window, level);
        self.publish()
    }

    /// What it knew at the end of its last window.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let latency = |level: Level| Duration::from_nanos(power_of_two(level.log2) as u64);
        Learned {
            limit: self.published,
            latency: self.latest.map(latency),
            baseline: self.baseline.least(self.began).map(latency),
            probing: !matches!(self.probe, Probe::Due(_)),
        }
    }

    /// Whether the window has seen enough: long enough for two round trips, so that it saw what the last step did; and as many
    /// calls as make chance small, unless that takes too long.
    fn is_complete(&self, now: Instant) -> bool {
        let round_trips = self.latest.map_or(0, |level| 2 * power_of_two(level.log2.min(50.0)) as u64);
        let least = WINDOW.max(Duration::from_nanos(round_trips).min(LONGEST));
        let age = now.since(self.began);
        let many = self.window.calls.max(self.window.timed()) >= SAMPLES;
        // Who is on the way up does not wait for exactness: what chance may have added is taken off anyway.
        let exact = || self.is_calm() || self.window.level().is_none_or(|level| level.error <= EXACT);
        many && age >= least && (age >= LONGEST || exact())
    }

    fn judge(&mut self, now: Instant, window: &Batch, level: Option<Level>) {
        let refused = too_many(window.overloaded, window);
        if refused {
            self.calm = Some(0);
            self.probe = Probe::Due(now.plus(self.probe_every()));
            return self.move_to(self.limit * DOWN);
        }
        if self.is_probing(now, window, level) {
            return;
        }
        // The half is Netflix's guard: what was not used is not known to be of use.
        let used = f64::from(window.most_in_flight) * 2.0 >= self.limit;
        let to = match (self.config.algorithm, level) {
            (Algorithm::Aimd, level) => self.aimd(window, level),
            (Algorithm::Vegas, Some(level)) if used => self.vegas(now, level),
            (Algorithm::Gradient2, Some(level)) if used => self.gradient2(now, level),
            _ => self.limit,
        };
        if to < self.limit || used {
            let calm = to > self.limit && level.is_none_or(|level| self.excess(now, level) <= ROOMY);
            let to = if self.is_fast(calm) { to.max(self.limit * UP) } else { to };
            self.watch_descent(now, to, level);
            self.move_to(to);
        }
    }

    fn aimd(&self, window: &Batch, level: Option<Level>) -> f64 {
        let slow =
            level.is_some_and(|level| power_of_two(level.log2) > self.config.slow_after.as_nanos() as f64);
        let late = too_many(window.timed_out, window);
        if slow || late { self.limit * DOWN } else { self.limit + 1.0 }
    }

    /// Whether there has been nothing against a greater limit for so long that its usual steps are too small: as at the start,
    /// until something was (TCP's slow start).
    fn is_fast(&mut self, calm: bool) -> bool {
        self.calm = if calm { self.calm.map(|windows| windows.saturating_add(1)) } else { Some(0) };
        calm && self.is_calm()
    }

    fn is_calm(&self) -> bool {
        let measures = self.config.algorithm != Algorithm::Aimd;
        self.calm.is_none_or(|windows| measures && windows >= CALM)
    }

    /// Netflix's variant: `limit * (1 - least / latency)` calls wait in the upstream; fewer than alpha, and there is room, more
    /// than beta, and there are too many.
    fn vegas(&self, now: Instant, level: Level) -> f64 {
        let limit = self.limit;
        let log = (ln(limit) / core::f64::consts::LN_10).max(MIN_LOG);
        // Of a small limit the published thresholds would be most of it.
        let (alpha, beta) = ((3.0 * log).min(limit / 4.0), (6.0 * log).min(limit / 2.0));
        let waiting = limit * (1.0 - 1.0 / self.excess(now, level));
        if waiting <= log.min(alpha) {
            limit + beta
        } else if waiting < alpha {
            limit + log
        } else if waiting > beta {
            // Its step down, log, would take minutes from 1000 to 100.
            limit - ((waiting - beta) / 2.0).max(log)
        } else {
            limit
        }
    }

    /// Netflix's Gradient2, whose long average is held near the least latency: else it follows the overload, the limit follows
    /// it, and both drift up for ever.
    fn gradient2(&self, now: Instant, level: Level) -> f64 {
        let limit = self.limit;
        let least = self.baseline.least(now).unwrap_or(level);
        let average = self.average.value(now).map_or(0.0, |average| average.as_nanos() as f64);
        let above = (average / power_of_two(least.log2)).clamp(1.0, MOST_ABOVE);
        let gradient = (TOLERANCE * above / self.excess(now, level)).clamp(0.5, 1.0);
        let room = ROOM.max((limit as u32).isqrt().into()).min(limit / 4.0).max(1.0);
        let aim = limit * gradient + room;
        limit + (aim - limit) * SMOOTHING
    }

    /// How many times the least latency the present one is, at least 1, as far as chance doesn't explain it.
    fn excess(&self, now: Instant, level: Level) -> f64 {
        let least = self.baseline.least(now).unwrap_or(level);
        let chance = CHANCE * (level.error + least.error);
        power_of_two((level.log2 - least.log2 - chance).max(0.0))
    }

    /// If latency has not fallen with the calls in flight, these are not what it comes from: the least latency is out of date.
    fn watch_descent(&mut self, now: Instant, to: f64, level: Option<Level>) {
        let Some(level) = level.filter(|_| to < self.limit) else {
            self.descent = None;
            return;
        };
        let here = Descent { limit: self.limit, log2: level.log2 };
        let from = *self.descent.get_or_insert(here);
        if level.log2 > from.log2 + FALLEN {
            // Still rising: what made it rise is not over.
            self.descent = Some(here);
        } else if self.limit <= from.limit * FAR_ENOUGH {
            if level.log2 > from.log2 - FALLEN {
                self.baseline.clear();
                self.baseline.add(now, level);
                self.average = Ewma::average(AVERAGE);
                self.descent = None;
            } else {
                self.descent = Some(here);
            }
        }
    }

    /// Looks for the least latency while the limit is what holds calls back, and so no window would ever show it. By Little's
    /// law `limit * least / latency` calls in flight carry the present throughput with none waiting in the upstream.
    fn is_probing(&mut self, now: Instant, window: &Batch, level: Option<Level>) -> bool {
        let (Some(level), Some(least)) = (level, self.baseline.least(now)) else {
            // Nothing was measured, and nobody knows when something will be.
            if !matches!(self.probe, Probe::Due(_)) {
                self.probe = Probe::Due(now.plus(self.probe_every()));
            }
            return false;
        };
        let measures = matches!(self.config.algorithm, Algorithm::Gradient2 | Algorithm::Vegas);
        match self.probe {
            Probe::Draining(low) => self.probe = Probe::Measuring(low, least.log2),
            Probe::Measuring(_, before) => {
                let lower = level.log2 < before - LOWER;
                self.probe = Probe::Due(now.plus(if lower { AGAIN } else { self.probe_every() }));
                return false;
            }
            Probe::Due(due) => {
                let ahead = due.since(now) > self.probe_every();
                let ratio = level.mean / least.mean;
                if ratio <= NEAR || ahead {
                    self.probe = Probe::Due(now.plus(self.probe_every()));
                    return false;
                }
                if !measures || now < due || window.held_back == 0 || ratio > FAR {
                    return false;
                }
                let low = self.limit / ratio * SPARE;
                self.probe = Probe::Draining(low.max(self.config.min_in_flight.into()));
            }
        }
        true
    }

    fn probe_every(&self) -> Duration {
        self.config.baseline_window / 3
    }

    fn move_to(&mut self, to: f64) {
        if self.config.algorithm == Algorithm::Fixed {
            return;
        }
        let to = to.max(self.limit * DOWN);
        let most = f64::from(self.config.max_in_flight);
        self.limit = to.min(most).max(f64::from(self.config.min_in_flight).min(most));
    }

    fn publish(&mut self) -> Option<Change> {
        let limit = match self.probe {
            Probe::Due(_) => self.limit,
            Probe::Draining(low) | Probe::Measuring(low, _) => low.min(self.limit),
        };
        let (from, to) = (self.published, ((limit * self.share) as u32).max(1));
        self.published = to;
        (from != to).then_some(Change { from, to })
    }
}

/// The least typical latency of the last while.
#[derive(Clone, Debug)]
struct Baseline {
    clock: Slices,
    least: [Option<Level>; SLICES],
}

impl Baseline {
    fn new(span: Duration) -> Self {
        Self { clock: Slices::new(span, SLICES), least: [None; SLICES] }
    }

    fn add(&mut self, now: Instant, level: Level) {
        let Self { clock, least } = self;
        let place = clock.roll(now, |place| least[place] = None);
        if least[place].is_none_or(|least| level.log2 < least.log2) {
            least[place] = Some(level);
        }
    }

    fn least(&self, now: Instant) -> Option<Level> {
        let levels = self.clock.live(now).filter_map(|place| self.least[place]);
        levels.min_by(|a, b| a.log2.total_cmp(&b.log2))
    }

    fn clear(&mut self) {
        self.least = [None; SLICES];
    }
}

fn first(config: &Config) -> f64 {
    match config.algorithm {
        Algorithm::Fixed => config.max_in_flight.into(),
        _ => {
            config.initial.clamp(config.min_in_flight.min(config.max_in_flight), config.max_in_flight).into()
        }
    }
}

/// Whether `bad` calls are more than accidents.
fn too_many(bad: u32, window: &Batch) -> bool {
    f64::from(bad) > f64::from(window.calls) * ACCIDENTS
}

/// A tenth of a second: ten steps in the second within which an overload is to be settled.
const WINDOW: Duration = Duration::from_millis(100);
/// A window that has not seen enough by then makes do with what it saw.
const LONGEST: Duration = Duration::from_secs(1);
/// A window as old as this saw next to nothing.
const STALE: Duration = Duration::from_secs(10);
/// The least samples of a window; ten, as in concurrency-limits.
const SAMPLES: u32 = 10;
/// Chance may move what a window saw by a tenth (in powers of two: log2 1.1).
const EXACT: f64 = 0.1375;
/// Differences within 1.25 standard errors on either side are chance. Of some hundred windows the least lies about 2.5 standard
/// errors below their mean, which both sides together make up for.
const CHANCE: f64 = 1.25;
/// A refusal or two in a hundred calls are accidents.
const ACCIDENTS: f64 = 0.02;
/// The step down of AIMD in concurrency-limits, and the most that any window may take away: one bad window is not a collapse, and
/// ten, which are a second, leave a third.
const DOWN: f64 = 0.9;
/// What Vegas moves by at small limits.
const MIN_LOG: f64 = 0.5;
/// The step up after half a second of calm: from 20 to 1000 in less than two.
const UP: f64 = 1.25;
const CALM: u32 = 5;
/// Latency that is no sign of a queue yet: below where Vegas and Gradient2 settle.
const ROOMY: f64 = 1.15;
/// Of Gradient2, as in concurrency-limits: the latency that is no overload yet, the calls that may wait, the share of a step.
const TOLERANCE: f64 = 1.5;
const ROOM: f64 = 4.0;
const SMOOTHING: f64 = 0.2;
/// How far the long average may be above the least latency.
const MOST_ABOVE: f64 = 4.0 / 3.0;
/// The time constant of the long average: 600 windows, as in concurrency-limits.
const AVERAGE: Duration = Duration::from_secs(60);
/// How much the limit has to fall, and latency with it (to 0.9: log2), to be told from chance.
const FAR_ENOUGH: f64 = 0.7;
const FALLEN: f64 = 0.152;
/// So near the least latency there is nothing to look for.
const NEAR: f64 = 1.05;
/// So far from it the algorithm itself is on its way down, and a limit lowered by so much would cost too much if it is wrong.
const FAR: f64 = 4.0;
/// A tenth below what Little's law says, for the least that is known may lie above the true one.
const SPARE: f64 = 0.9;
/// A probe that found a lower one (by 3%: log2) is followed by the next at once.
const LOWER: f64 = 0.043;
const AGAIN: Duration = Duration::from_secs(1);
/// Six forget in steps of a sixth of the window.
const SLICES: usize = 6;
