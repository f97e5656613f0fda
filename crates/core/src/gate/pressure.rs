//! Pressure: limits that fall when the host itself has too much to do.
//!
//! # What it is for
//! A limit protects an upstream. Nothing protects the machine that the proxy or the program runs on but taking in less, before it
//! swaps, kills or runs out of file descriptors.
//!
//! # When not to use it
//! On a host whose load has nothing to do with the calls: there, fewer calls would not mend it.
//!
//! # How
//! A few times a second somebody reads how the host is. While any reading is above its bound, the share of all limits that is in
//! force falls by a tenth each time; while all are clearly below, it rises by a twentieth of the whole. Processor time that is
//! merely used up is no trouble, work that waits for it is; so what counts is the kernel's pressure stall information, the share of the
//! last ten seconds in which something waited (Linux: `Documentation/accounting/psi.rst`).

use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use crate::valid::fault;
use crate::{Fault, Instant, Mode, Rules, Valid};

/// The numbers of a [`Pressure`]. Each bound is a share from 0 to 1; `None` for none.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// Whether it lowers limits, only tells what it would, or is not there.
    pub mode: Mode,
    /// Of the processors' time that is used. None: a processor that is busy does its duty.
    pub cpu: Option<f64>,
    /// Of the time in which something waited for a processor. 0.9: so it is where many times more is to be done than can be.
    pub cpu_stall: Option<f64>,
    /// Of the memory that is used. 0.95, leaving the last twentieth to what is in flight.
    pub memory: Option<f64>,
    /// Of the time in which something waited for memory. 0.2: a host that swaps so much is slow for everybody.
    pub memory_stall: Option<f64>,
    /// Of the file descriptors that are open. 0.9, as new calls need some and files, too.
    pub descriptors: Option<f64>,
    /// The least share of the limits that stays in force. A tenth: without any, nothing would show that it is over.
    pub floor: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            cpu: None,
            cpu_stall: Some(0.9),
            memory: Some(0.95),
            memory_stall: Some(0.2),
            descriptors: Some(0.9),
            floor: 0.1,
        }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let bounds = [
            ("cpu", self.cpu),
            ("cpu_stall", self.cpu_stall),
            ("memory", self.memory),
            ("memory_stall", self.memory_stall),
            ("descriptors", self.descriptors),
            ("floor", Some(self.floor)),
        ];
        let bad = |(field, bound): (&'static str, Option<f64>)| {
            let bound = bound?;
            let wrong = !(bound > 0.0 && bound <= 1.0);
            fault(wrong, field, format!("is {bound}"), "write a share above 0 and up to 1, such as 0.9")
        };
        bounds.into_iter().filter_map(bad).collect()
    }
}

/// How the host is, each as a share from 0 to 1; `None` of what it doesn't tell.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Reading {
    /// Processors' time that is used.
    pub cpu: Option<f64>,
    /// Time in which something waited for a processor.
    pub cpu_stall: Option<f64>,
    /// Memory that is used.
    pub memory: Option<f64>,
    /// Time in which something waited for memory.
    pub memory_stall: Option<f64>,
    /// File descriptors that are open, of those that may be.
    pub descriptors: Option<f64>,
}

/// What the host is short of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// Processors' time.
    Cpu,
    /// Processors, for what waits for them.
    CpuStall,
    /// Memory.
    Memory,
    /// Memory, for what waits for it.
    MemoryStall,
    /// File descriptors.
    Descriptors,
}

impl Cause {
    /// Its name in configuration, metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuStall => "cpu_stall",
            Self::Memory => "memory",
            Self::MemoryStall => "memory_stall",
            Self::Descriptors => "descriptors",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The share of the limits that is in force has moved.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Change {
    /// The share before.
    pub from: f64,
    /// The share now, in force only if the mode is [`Mode::Enforce`].
    pub to: f64,
    /// What made it fall, if it fell.
    pub cause: Option<Cause>,
}

/// The state of a [`Pressure`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Snapshot {
    /// Whether it lowers limits or only observes.
    pub mode: Mode,
    /// The share of the limits that is, or would be, in force.
    pub share: f64,
    /// What the host is short of, or was when it last was.
    pub cause: Option<Cause>,
    /// What was read last.
    pub reading: Reading,
}

/// How hard it is for the host. See the [module](self).
#[derive(Clone, Debug)]
pub struct Pressure {
    config: Valid<Config>,
    share: f64,
    cause: Option<Cause>,
    reading: Reading,
}

impl Pressure {
    /// Of a host that is well.
    #[must_use]
    pub fn new(config: Valid<Config>) -> Self {
        Self { config, share: 1.0, cause: None, reading: Reading::default() }
    }

    /// The host was read, as it is a few times a second. If that moves the share, says so.
    pub fn feel(&mut self, _now: Instant, reading: &Reading) -> Option<Change> {
        self.reading = *reading;
        if self.config.mode == Mode::Off {
            return None;
        }
        let from = self.share;
        let cause = self.over(reading, 1.0);
        if cause.is_some() {
            self.cause = cause;
            self.share = (from * DOWN).max(self.config.floor);
        } else if self.over(reading, CLEARLY).is_none() {
            self.share = (from + UP).min(1.0);
        }
        (from != self.share).then_some(Change { from, to: self.share, cause })
    }

    /// The share of the limits that is in force.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.config.mode == Mode::Enforce { self.share } else { 1.0 }
    }

    /// The state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { mode: self.config.mode, share: self.share, cause: self.cause, reading: self.reading }
    }

    /// What is above this part of its bound, first what can't be waited for.
    fn over(&self, reading: &Reading, part: f64) -> Option<Cause> {
        let Config { cpu, cpu_stall, memory, memory_stall, descriptors, .. } = *self.config;
        let pairs = [
            (Cause::Memory, reading.memory, memory),
            (Cause::Descriptors, reading.descriptors, descriptors),
            (Cause::MemoryStall, reading.memory_stall, memory_stall),
            (Cause::CpuStall, reading.cpu_stall, cpu_stall),
            (Cause::Cpu, reading.cpu, cpu),
        ];
        let is_over = |(_, read, bound): &(Cause, Option<f64>, Option<f64>)| {
            read.zip(*bound).is_some_and(|(read, bound)| read > bound * part)
        };
        pairs.into_iter().find(is_over).map(|(cause, ..)| cause)
    }
}

/// A tenth less each time: four times a second, that is a third after a second.
const DOWN: f64 = 0.9;
/// A twentieth of the whole more: five seconds from nothing to all.
const UP: f64 = 0.05;
/// A reading this far below its bound is clearly below it.
const CLEARLY: f64 = 0.95;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Instant = Instant::from_millis(1);

    fn memory(share: f64) -> Reading {
        Reading { memory: Some(share), ..Reading::default() }
    }

    fn pressure(mode: Mode) -> Pressure {
        Pressure::new(Valid::new(Config { mode, ..Config::default() }).unwrap())
    }

    #[test]
    fn limits_fall_while_a_bound_is_passed_and_rise_when_all_are_kept() {
        let mut pressure = pressure(Mode::Enforce);
        assert_eq!(pressure.feel(NOW, &memory(0.5)), None);
        let fell = pressure.feel(NOW, &memory(0.96)).unwrap();
        assert_eq!((fell.from, fell.to, fell.cause), (1.0, 0.9, Some(Cause::Memory)));
        assert_eq!(pressure.feel(NOW, &memory(0.93)), None, "not clearly below");
        (0..100).for_each(|_| _ = pressure.feel(NOW, &memory(1.0)));
        assert_eq!(pressure.share(), 0.1, "never below the floor");
        (0..18).for_each(|_| _ = pressure.feel(NOW, &memory(0.5)));
        assert!((pressure.share() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_the_host_does_not_tell_is_no_trouble() {
        let mut pressure = pressure(Mode::Enforce);
        assert_eq!(pressure.feel(NOW, &Reading::default()), None);
        let all_cpu = Reading { cpu: Some(1.0), ..Reading::default() };
        assert_eq!(pressure.feel(NOW, &all_cpu), None, "there is no bound for it");
    }

    #[test]
    fn observing_leaves_the_limits_alone() {
        let mut pressure = pressure(Mode::Observe);
        assert!(pressure.feel(NOW, &memory(1.0)).is_some());
        assert_eq!(pressure.share(), 1.0);
        assert_eq!(pressure.snapshot().share, 0.9);
    }

    #[test]
    fn bounds_are_shares() {
        for bad in [0.0, -1.0, 1.5, f64::NAN] {
            assert!(Valid::new(Config { memory: Some(bad), ..Config::default() }).is_err(), "{bad}");
            assert!(Valid::new(Config { floor: bad, ..Config::default() }).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_can_not_be_waited_for_is_the_cause_named_first() {
        let mut pressure = pressure(Mode::Enforce);
        let all = Reading {
            cpu_stall: Some(1.0),
            memory: Some(1.0),
            memory_stall: Some(1.0),
            ..Reading::default()
        };
        assert_eq!(pressure.feel(NOW, &all).unwrap().cause, Some(Cause::Memory));
        let stalls = Reading { memory: Some(0.1), ..all };
        assert_eq!(pressure.feel(NOW, &stalls).unwrap().cause, Some(Cause::MemoryStall));
    }

    proptest! {
        #[test]
        fn whatever_is_read_the_share_stays_between_floor_and_all(
            floor in 0.01..1.0,
            readings in prop::collection::vec((any::<Option<f64>>(), prop::option::of(0.0..1.2)), 1..100),
        ) {
            let config = Config { floor, ..Config::default() };
            let mut pressure = Pressure::new(Valid::new(config).unwrap());
            for (memory, cpu_stall) in readings {
                let before = pressure.share();
                let change = pressure.feel(NOW, &Reading { memory, cpu_stall, ..Reading::default() });
                prop_assert!((floor..=1.0).contains(&pressure.share()));
                prop_assert_eq!(change.is_some(), pressure.share() != before);
                prop_assert_eq!(change.is_some_and(|change| change.cause.is_some()), pressure.share() < before);
            }
        }
    }
}
