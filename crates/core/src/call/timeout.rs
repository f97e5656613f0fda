//! Adaptive timeout: as long as the slow ones of the healthy need, and no longer.
//!
//! # What it is for
//! A fixed timeout is a guess that ages: too long and a hung upstream ties everything up, too short and a slow day
//! becomes an outage of our own making. Here the timeout of an attempt follows what the upstream really needs:
//!
//! ```text
//! timeout = clamp(multiplier * quantile of the latencies of late, floor, ceiling)
//! ```
//!
//! With retries, that is when another attempt is worth more than waiting on; an attempt that no other can follow has
//! until the ceiling (decided in [`Call`](super::Call)).
//!
//! # When not to use it
//! Where the honest latencies of one upstream differ by more than the multiplier from request to request (a search
//! beside a report): give the slow route an upstream or a `fixed` timeout of its own.
//!
//! # A timed-out attempt is a sample
//! All that is known of it is that it needs *more* than it was given. Leaving it out, and learning from successes
//! alone, locks the timeout below the real latency for ever once the latency shifts: everything times out, so
//! nothing is learned. So it is recorded as a sample above its age, and the quantile is the Kaplan-Meier estimate over
//! both kinds (Kaplan and Meier, 1958). When more than `1 - quantile` of the samples are only known to lie above
//! something, the quantile itself is unknown, and the timeout becomes twice the longest age seen (as in RFC 6298,
//! section 5.5). It can't run away: a step is taken only after an attempt was cut off at the present length.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::stats::quantile::Quantile;
use crate::{Fault, Instant, Mode, Rules, Valid};

/// The numbers of an adaptive timeout.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// Whether attempts are cut off, only noted in the record (`observe`), or left to the call's deadline alone.
    pub mode: Mode,
    /// A timeout that does not adapt; the fields below are then without effect.
    pub fixed: Option<Duration>,
    /// The quantile that is followed, 0.5 to 0.9999. At 0.99 with the multiplier of 2 a healthy upstream sees some 0.1%
    /// false timeouts, the rate that Amazon's Builders' Library suggests to aim at.
    pub quantile: f64,
    /// Times the quantile, 1 to 100.
    pub multiplier: f64,
    /// Never shorter than this. 200 ms is the least that Linux waits before it sends a lost packet again: below it, one lost
    /// packet, a garbage collection or a busy core costs an attempt, and for what can't be repeated the call.
    pub floor: Duration,
    /// Never longer than this. 30 s is the longest that Polly and most gateways wait for anything.
    pub ceiling: Duration,
    /// Before enough was seen. Ten seconds, as in Microsoft's standard handler: generous, because nothing is known yet.
    pub initial: Duration,
    /// How many samples are enough. From 20, the quantile is at least the slowest but one in practice.
    pub minimum_samples: u32,
    /// How far back is "of late". 30 s forgets a bad minute within a minute and holds 300 samples at 10 a second.
    pub window: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            fixed: None,
            quantile: 0.99,
            multiplier: 2.0,
            floor: Duration::from_millis(200),
            ceiling: Duration::from_secs(30),
            initial: Duration::from_secs(10),
            minimum_samples: 20,
            window: Duration::from_secs(30),
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |field, problem, remedy: &str| {
            faults.push(Fault { field, problem, remedy: remedy.into() });
        };
        if self.fixed == Some(Duration::ZERO) {
            fault("fixed", "is 0".into(), "write how long an attempt may take, such as \"2s\"");
        }
        if !(0.5..=0.9999).contains(&self.quantile) {
            let remedy = "write a share of the calls between 0.5 and 0.9999, such as 0.99";
            fault("quantile", format!("is {}", self.quantile), remedy);
        }
        if !(1.0..=100.0).contains(&self.multiplier) {
            let remedy =
                "below 1 it would cut off calls that are known to succeed; write 1 to 100, such as 2";
            fault("multiplier", format!("is {}", self.multiplier), remedy);
        }
        if self.floor.is_zero() {
            fault("floor", "is 0".into(), "write the shortest timeout that makes sense, such as \"200ms\"");
        }
        if self.ceiling < self.floor {
            let problem = format!("is {:?}, below floor ({:?})", self.ceiling, self.floor);
            fault("ceiling", problem, "the longest timeout must be at least the shortest");
        }
        if self.initial.is_zero() {
            fault("initial", "is 0".into(), "write the timeout before anything is known, such as \"10s\"");
        }
        if self.minimum_samples == 0 {
            fault("minimum_samples", "is 0".into(), "at least 1 sample is needed to learn from");
        }
        if self.window < MIN_WINDOW {
            let problem = format!("is {:?}", self.window);
            fault("window", problem, "a window under a second holds too few samples; write \"10s\" or more");
        }
        faults
    }
}

/// A timeout that follows the latencies. See the [module](self).
#[derive(Clone, Debug)]
pub struct Timeout {
    config: Valid<Config>,
    current: Duration,
}

impl Timeout {
    /// A timeout that has seen nothing yet.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        Self { config, current: config.fixed.unwrap_or(config.initial) }
    }

    /// Takes new numbers; what is in force stays until the next [`learn`](Self::learn).
    pub fn reconfigure(&mut self, config: Valid<Config>) {
        self.config = config;
        self.current = config.fixed.unwrap_or(self.current);
    }

    /// Follows what `seen` knows at `now`.
    pub fn learn(&mut self, now: Instant, seen: &Quantile) {
        if self.config.fixed.is_some() {
            return;
        }
        let count = seen.count(now);
        if count == 0 {
            // An idle upstream forgets: the next caller meets it as a stranger.
            self.current = self.config.initial;
            return;
        }
        // Counting is cheap and a quantile is not, so it is not asked for one that would not count.
        let enough = count >= u64::from(self.config.minimum_samples);
        let estimate = if enough { seen.quantile(now, self.config.quantile) } else { None };
        let wanted = match estimate {
            None => self.config.initial,
            // Attempts were cut off too early, by how much is unknown: grow, and never shorten on no evidence.
            Some(estimate) if estimate.above => self.current.max(estimate.value.mul_f64(GROWTH)),
            Some(estimate) => estimate.value.mul_f64(self.config.multiplier),
        };
        self.current = wanted.clamp(self.config.floor, self.config.ceiling);
    }

    /// The timeout in force.
    #[must_use]
    pub const fn current(&self) -> Duration {
        self.current
    }

    /// The numbers in force.
    #[must_use]
    pub const fn config(&self) -> &Valid<Config> {
        &self.config
    }
}

/// How much longer than what proved too short: twice, as in RFC 6298, section 5.5. After a shift to thirty times the latency
/// 0.4% of the requests of five minutes are cut off for nothing; growing by half, it would be 0.6%. What it overshoots is taken
/// back as soon as the quantile is known again.
const GROWTH: f64 = 2.0;
/// The shortest window that still says something.
const MIN_WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_millis(1_000);

    fn learn(config: Config, samples: &[(bool, u64)]) -> Duration {
        let mut timeout = Timeout::new(Valid::new(config).unwrap());
        let mut seen = Quantile::new(config.window);
        for &(above, ms) in samples {
            let sample = Duration::from_millis(ms);
            if above { seen.record_above(START, sample) } else { seen.record(START, sample) }
        }
        timeout.learn(START, &seen);
        timeout.current()
    }

    #[test]
    fn it_is_the_multiple_of_the_quantile() {
        let learned = learn(Config::default(), &[(false, 100); 100]);
        assert!((196..=204).contains(&learned.as_millis()), "{learned:?}");
    }

    #[test]
    fn one_sample_short_of_the_minimum_it_is_the_initial_value() {
        assert_eq!(learn(Config::default(), &[(false, 100); 19]), Duration::from_secs(10));
        assert!(learn(Config::default(), &[(false, 100); 20]) < Duration::from_secs(1));
    }

    #[test]
    fn it_stays_between_floor_and_ceiling() {
        assert_eq!(learn(Config::default(), &[(false, 1); 50]), Duration::from_millis(200));
        assert_eq!(learn(Config::default(), &[(false, 29_000); 50]), Duration::from_secs(30));
    }

    #[test]
    fn what_was_cut_off_makes_it_grow_to_twice_that() {
        let config = Config { initial: Duration::from_millis(100), ..Config::default() };
        let learned = learn(config, &[(true, 100); 50]);
        assert!((196..=204).contains(&learned.as_millis()), "{learned:?}");
    }

    #[test]
    fn a_caller_in_a_hurry_does_not_shorten_it() {
        let mut samples = [(false, 200); 40].to_vec();
        samples.extend([(true, 1); 400]);
        let learned = learn(Config::default(), &samples);
        assert!((392..=408).contains(&learned.as_millis()), "{learned:?}");
    }

    #[test]
    fn a_fixed_timeout_does_not_move() {
        let config = Config { fixed: Some(Duration::from_millis(7)), ..Config::default() };
        assert_eq!(learn(config, &[(false, 100); 100]), Duration::from_millis(7));
    }

    /// A timeout that learned 20 ms escapes a shift to 320 ms within two seconds, with under 1% false timeouts after it
    /// over five minutes; learning from successes alone it never would.
    #[test]
    fn it_escapes_a_shift() {
        let config = Config { floor: Duration::from_millis(10), ..Config::default() };
        let mut timeout = Timeout::new(Valid::new(config).unwrap());
        let mut seen = Quantile::new(config.window);
        let mut in_flight: Vec<(Instant, Duration, bool)> = Vec::new();
        let (shift, end) = (Instant::from_millis(120_000), Instant::from_millis(420_000));
        let (mut cut_off, mut sent, mut last_cut) = (0u32, 0u32, shift);
        let mut now = Instant::ZERO;
        while now < end {
            now = now.plus(Duration::from_millis(10));
            let needs = Duration::from_millis(if now >= shift { 320 } else { 20 });
            let (age, ok) =
                if needs > timeout.current() { (timeout.current(), false) } else { (needs, true) };
            in_flight.push((now.plus(age), age, ok));
            in_flight.retain(|&(ends, age, ok)| {
                if ends > now {
                    return true;
                }
                if ok {
                    seen.record(now, age)
                } else {
                    seen.record_above(now, age)
                }
                if !ok {
                    (cut_off, last_cut) = (cut_off + 1, now);
                }
                false
            });
            sent += u32::from(now >= shift);
            if now.as_nanos().is_multiple_of(100_000_000) {
                timeout.learn(now, &seen);
            }
        }
        assert!(last_cut.since(shift) < Duration::from_secs(2), "{:?}", last_cut.since(shift));
        assert!(cut_off * 100 < sent, "{cut_off} of {sent}");
    }

    #[test]
    fn every_fault_is_told() {
        let bad = Config {
            fixed: Some(Duration::ZERO),
            quantile: 1.0,
            multiplier: 0.5,
            floor: Duration::ZERO,
            initial: Duration::ZERO,
            minimum_samples: 0,
            window: Duration::ZERO,
            ..Config::default()
        };
        let fields: Vec<_> = bad.faults().iter().map(|f| f.field).collect();
        assert_eq!(
            fields,
            ["fixed", "quantile", "multiplier", "floor", "initial", "minimum_samples", "window"]
        );
    }
}
