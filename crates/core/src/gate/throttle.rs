//! Throttle: calls that are not sent, in proportion to what the upstream refuses.
//!
//! # What it is for
//! An upstream that has too much to do refuses, and refusing costs it as well: asked ten times as often as it can serve, it does
//! little else. Who asks less leaves it its time for calls that it can serve.
//!
//! # When not to use it
//! For upstreams that fail: an open [breaker](super::breaker) leaves those alone altogether. And not where a refusal is
//! one client's own fault, as a 429 for each of many tenants behind one key can be; then it is best switched off.
//!
//! # How
//! Of the calls in the window, `requests` wanted to be sent and `accepts` were not refused by the upstream. A share of
//!
//! ```text
//! p = (requests - multiplier * accepts) / (requests + 1)
//! ```
//! is not sent (Google, "Site Reliability Engineering", 2016, chapter 21). While the upstream accepts at least one in `multiplier`,
//! everything is sent; while it accepts nothing, next to nothing is. What is still sent is what finds out that it has recovered,
//! so a floor of it always is. The window is short, where Google's is two minutes, so that recovery takes seconds. And once nothing was
//! refused in the latest three tenths of it, these alone decide, with a multiplier of two at least: what is sent then doubles in less
//! than half a second, and all of it is sent again in three, also if the multiplier is near one.
//!
//! The share is taken from the least critical calls first. Which of several alike calls are not sent is no matter of chance: the share
//! adds up from call to call, and whenever it makes a whole call, that call is not sent.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::stats::log::ln;
use crate::stats::slices::Slices;
use crate::valid::fault;
use crate::{Criticality, Fault, Instant, Mode, Outcome, Policy, Pushback, Reason, Rejection, Rules, Valid};

/// The numbers of a [`Throttle`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// Whether it refuses, only tells what it would refuse, or is not there.
    pub mode: Mode,
    /// How far back it looks. Three seconds, of which the latest part decides once nothing is refused any more.
    pub window: Duration,
    /// How many times what the upstream accepts is sent. Two, as at Google: half of what arrives is refused there at worst.
    pub multiplier: f64,
    /// The greatest share that is not sent. 0.95: a twentieth finds out soon enough that the upstream has recovered.
    pub most: f64,
    /// Calls that are sent in a second whatever it refuses. Ten, as the floor of retry budgets.
    pub probes_per_second: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            window: Duration::from_secs(3),
            multiplier: 2.0,
            most: 0.95,
            probes_per_second: 10.0,
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let number = |bad: bool, field, value: f64, remedy| fault(bad, field, format!("is {value}"), remedy);
        [
            fault(
                self.window < Duration::from_millis(500) || self.window > Duration::from_secs(600),
                "window",
                format!("is {:?}", self.window),
                "write 500ms to 10m: shorter, and it sees chance; longer, and it never sees the recovery",
            ),
            number(!(1.0..=100.0).contains(&self.multiplier), "multiplier", self.multiplier, "write 1 to 100, such as 2"),
            number(
                !(0.0..=1.0).contains(&self.most),
                "most",
                self.most,
                "write a share from 0 to 1, such as 0.95",
            ),
            number(
                !(0.0..=1e9).contains(&self.probes_per_second),
                "probes_per_second",
                self.probes_per_second,
                "write a number from 0, such as 10",
            ),
            fault(
                self.most >= 1.0 && self.probes_per_second == 0.0,
                "probes_per_second",
                "is 0 while most is 1",
                "nothing would be sent that could find out that the upstream has recovered; raise it, or lower most",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// How calls of one criticality went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Sent, and not refused by the upstream.
    pub accepted: u32,
    /// Sent, and refused.
    pub refused: u32,
    /// Not sent.
    pub throttled: u32,
}

impl Counts {
    fn sum(levels: &[Self; LEVELS]) -> Self {
        let mut sum = Self::default();
        levels.iter().for_each(|counts| sum.merge(counts));
        sum
    }

    fn merge(&mut self, more: &Self) {
        self.accepted = self.accepted.saturating_add(more.accepted);
        self.refused = self.refused.saturating_add(more.refused);
        self.throttled = self.throttled.saturating_add(more.throttled);
    }

    fn requests(&self) -> f64 {
        f64::from(self.accepted) + f64::from(self.refused) + f64::from(self.throttled)
    }

    /// Google's formula; below 0 while nothing has to be throttled.
    fn excess(&self, multiplier: f64) -> f64 {
        (self.requests() - multiplier * f64::from(self.accepted)) / (self.requests() + 1.0)
    }
}

/// How many calls went how since the last time, by [`Criticality::rank`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    counts: [Counts; LEVELS],
    /// Until when the upstream does not want to be asked.
    told_until: Option<Instant>,
}

impl Batch {
    /// Adds a call that was sent. What nobody answered says nothing of how much the upstream accepts.
    pub fn add(&mut self, now: Instant, criticality: Criticality, outcome: Outcome) {
        let counts = &mut self.counts[criticality.rank()];
        match outcome {
            Outcome::Overloaded(pushback) => {
                counts.refused = counts.refused.saturating_add(1);
                if let Pushback::After(wait) = pushback {
                    self.told_until = self.told_until.max(Some(now.plus(wait.min(LONGEST_PUSHBACK))));
                }
            }
            Outcome::Success | Outcome::Failure(..) => counts.accepted = counts.accepted.saturating_add(1),
            Outcome::Ignored | Outcome::Abandoned => {}
        }
    }

    /// Adds another.
    pub fn merge(&mut self, other: &Self) {
        for (counts, more) in self.counts.iter_mut().zip(&other.counts) {
            counts.merge(more);
        }
        self.told_until = self.told_until.max(other.told_until);
    }
}

/// The state of a [`Throttle`] at a moment. What is by criticality is in the order of [`Criticality::ALL`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Snapshot {
    /// Whether it refuses or only observes.
    pub mode: Mode,
    /// The share of the calls that is not sent, by criticality.
    pub shares: [f64; LEVELS],
    /// What the window holds, by criticality.
    pub seen: [Counts; LEVELS],
    /// Calls that were not sent so far, or would not have been in observe-only mode.
    pub rejected: u64,
}

/// What is not sent to an upstream. See the [module](self).
#[derive(Clone, Debug)]
pub struct Throttle {
    config: Valid<Config>,
    clock: Slices,
    seen: [[Counts; LEVELS]; SLICES],
    shares: [f64; LEVELS],
    /// What of a call the shares have added up to, by criticality.
    owed: [f64; LEVELS],
    judged: Instant,
    told_until: Option<Instant>,
    rejected: u64,
}

impl Throttle {
    /// Of an upstream that has refused nothing yet.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        Self {
            clock: Slices::new(config.window, SLICES),
            seen: Default::default(),
            shares: [0.0; LEVELS],
            owed: [0.0; LEVELS],
            judged: Instant::ZERO,
            told_until: None,
            rejected: 0,
            config,
        }
    }

    /// Takes new numbers; what was seen stays, unless the window has another length.
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        if config.window != self.config.window {
            *self = Self { rejected: self.rejected, ..Self::new(config) };
        }
        self.config = config;
        if self.config.mode == Mode::Off {
            self.shares = [0.0; LEVELS];
        }
    }

    /// May a call be sent? `Ok` with the refusal that there would have been, in observe-only mode.
    ///
    /// # Errors
    /// The refusal, with when the upstream wants to be asked again, if it has said so.
    pub fn admit(&mut self, now: Instant, criticality: Criticality) -> Result<Option<Rejection>, Rejection> {
        if self.config.mode == Mode::Off {
            return Ok(None);
        }
        self.judge(now);
        let level = criticality.rank();
        self.owed[level] += self.shares[level];
        if self.owed[level] < 1.0 {
            return Ok(None);
        }
        self.owed[level] -= 1.0;
        self.rejected += 1;
        let until = self.told_until.filter(|until| *until > now);
        let wait = until.map_or(COME_BACK, |until| until.since(now));
        let rejection = Rejection::new(Policy::Throttle, Reason::Throttled).after(wait);
        if self.config.mode == Mode::Observe {
            return Ok(Some(rejection));
        }
        let place = self.roll(now);
        let counts = &mut self.seen[place][level];
        counts.throttled = counts.throttled.saturating_add(1);
        Err(rejection)
    }

    /// A call of that criticality ended so.
    pub fn settle(&mut self, now: Instant, criticality: Criticality, outcome: Outcome) {
        let mut batch = Batch::default();
        batch.add(now, criticality, outcome);
        self.learn(now, &batch);
    }

    /// Calls have ended since the last time.
    pub fn learn(&mut self, now: Instant, batch: &Batch) {
        if self.config.mode == Mode::Off {
            return;
        }
        let place = self.roll(now);
        let mut sum = Batch { counts: self.seen[place], told_until: self.told_until };
        sum.merge(batch);
        (self.seen[place], self.told_until) = (sum.counts, sum.told_until);
        self.judge(now);
    }

    /// Whether any call might be refused now.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.shares.iter().any(|share| *share > 0.0)
    }

    /// The state at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            mode: self.config.mode,
            shares: self.shares,
            seen: self.window(now),
            rejected: self.rejected,
        }
    }

    fn roll(&mut self, now: Instant) -> usize {
        let Self { clock, seen, .. } = self;
        clock.roll(now, |place| seen[place] = Default::default())
    }

    fn window(&self, now: Instant) -> [Counts; LEVELS] {
        let mut sum = Batch::default();
        for place in self.clock.live(now) {
            sum.merge(&Batch { counts: self.seen[place], told_until: None });
        }
        sum.counts
    }

    /// Looks at the window again, ten times a second.
    fn judge(&mut self, now: Instant) {
        let due = self.judged.plus(JUDGE_EVERY);
        if now < due && now >= self.judged {
            return;
        }
        self.judged = now;
        let window = self.window(now);
        let requests = window.map(|counts| counts.requests());
        let all: f64 = requests.iter().sum();
        let share = self.share(&Counts::sum(&window), &self.latest(now));
        let probes = self.config.probes_per_second * self.config.window.as_secs_f64();
        let mut left = (share * all).min(all - probes).max(0.0);
        for level in (0..LEVELS).rev() {
            let taken = left.min(requests[level]);
            left -= taken;
            self.shares[level] = if requests[level] > 0.0 { taken / requests[level] } else { 0.0 };
        }
        if !self.is_active() {
            self.owed = [0.0; LEVELS];
        }
    }

    /// The share of all calls that is not to be sent.
    fn share(&self, window: &Counts, latest: &Counts) -> f64 {
        let Config { multiplier, most, .. } = *self.config;
        let share = window.excess(multiplier);
        // If it still had too much to do, one in so many would be refused of what the multiplier lets through; are they enough for
        // that to have shown?
        let shows = f64::from(latest.accepted) * ln(multiplier) >= CERTAIN;
        let recovers = latest.refused == 0 && shows;
        let share = if recovers { share.min(latest.excess(multiplier.max(RECOVERY))) } else { share };
        share.clamp(0.0, most)
    }

    /// What the last part of the window holds.
    fn latest(&self, now: Instant) -> Counts {
        let mut sum = Counts::default();
        for (_, place) in self.clock.latest(now).filter(|(age, _)| *age < LATEST) {
            sum.merge(&Counts::sum(&self.seen[place]));
        }
        sum
    }
}

const LEVELS: usize = Criticality::ALL.len();
/// The window forgets in steps of a tenth.
const SLICES: usize = 10;
/// The two slices before the one that is being filled, and that: six to nine tenths of a second of the default window.
const LATEST: usize = 3;
/// What the multiplier lets through and was accepted every time is chance once in 32 (ln 32).
const CERTAIN: f64 = 3.47;
/// While nothing is refused any more, what is sent may double, as in TCP's slow start.
const RECOVERY: f64 = 2.0;
/// Often beside the window, rarely beside calls.
const JUDGE_EVERY: Duration = Duration::from_millis(100);
/// An upstream that asks for more is not believed: it may be mistaken about when it is well.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(30);
/// The least that Retry-After can say.
const COME_BACK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
