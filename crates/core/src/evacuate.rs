//! Evacuate: take a region out of service while it still serves, and back.
//!
//! # What it is for
//! A region that is about to be worked on, or that behaves oddly, is better left in order than in flight: a share at a time, with
//! time to see that the others carry it. [`may_leave`] says whether they could; [`Evacuation`] goes the steps.
//!
//! # When not to use it
//! When the region has failed already: breakers and checks have taken it out by then. And not for one endpoint: force its breaker
//! open.
//!
//! # The states
//! ```text
//!              evacuate               share 0, nothing in flight
//!   SERVING ------------> EVACUATING ----------------------------> EVACUATED
//!     ^  ^                 |  ^   |                                    |
//!     |  |    the others   |  |   | restore                    restore |
//!     |  |    can't carry  v  |   v                                    |
//!     |  |    any more    HELD    RESTORING <--------------------------+
//!     |  +-- share 1 ---------------+
//! ```
//!
//! The share that goes to the region falls from 1 to 0 in [`STEPS`] equal steps, and rises as it fell. Before each step down the
//! others are judged again; when they can't carry the next one, it is held where it is until they can, or until somebody restores
//! it. Forced, it goes on whatever the others can carry.
//!
//! # Whether the others can carry it
//! Nobody knows the capacity of an endpoint until it is too late, so this asks for signs that it would be exceeded:
//!
//! * there must be somebody else who is ready;
//! * where regions have limits, all that is in flight must fit into [`Config::most_filled`] of the limits that remain;
//! * each endpoint that remains may get at most [`Config::most_growth`] times what the busiest has now, by weight.
//!
//! ```
//! use core::time::Duration;
//! use seaworthy_core::{Instant, Valid, evacuate::{Config, Evacuation, Region, State, may_leave}};
//! let config = Valid::new(Config::default()).unwrap();
//! let near = Region { ready: 3.0, in_flight: 30, limit: None, kept: 1.0 };
//! let far = Region { ready: 3.0, in_flight: 0, limit: None, kept: 1.0 };
//! may_leave(config, &[near, far], 0).unwrap();
//! let mut leaving = Evacuation::default();
//! leaving.evacuate(Instant::ZERO, Duration::from_secs(10));
//! leaving.look(Instant::from_millis(5_000), Ok(()), 15);
//! assert_eq!((leaving.state(), leaving.kept()), (State::Evacuating, 0.5));
//! ```

use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::{Fault, Instant, Rules, Valid};

/// What the regions that remain must be able to bear.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Config {
    /// How many times as much an endpoint may get as the busiest has now. 2: who runs two regions for each other's sake plans that
    /// one can carry both.
    pub most_growth: f64,
    /// How full the limits of the regions that remain may be, 0 to 1. 0.8: above it queues grow faster than load does.
    pub most_filled: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { most_growth: 2.0, most_filled: 0.8 }
    }
}

impl Rules for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !(1.0..=1000.0).contains(&self.most_growth) {
            faults.push(Fault {
                field: "most_growth",
                problem: format!("is {:?}", self.most_growth),
                remedy: "write how many times its load an endpoint can carry, 1 to 1000, such as 2".into(),
            });
        }
        if !(self.most_filled > 0.0 && self.most_filled <= 1.0) {
            faults.push(Fault {
                field: "most_filled",
                problem: format!("is {:?}", self.most_filled),
                remedy: "write a share above 0 to 1, such as 0.8".into(),
            });
        }
        faults
    }
}

/// A region of one upstream at a moment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Region {
    /// The weight of its endpoints that are ready for calls.
    pub ready: f64,
    /// Its attempts in flight.
    pub in_flight: u32,
    /// The most attempts that may be in flight, if there is a limit.
    pub limit: Option<u32>,
    /// The share of its traffic that it keeps, 0 to 1: below 1 while it is evacuated itself.
    pub kept: f64,
}

/// Why a region must stay.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody else is ready.
    NobodyElse,
    /// What is in flight does not fit into the limits that remain.
    TooMuch {
        /// In flight in all regions.
        in_flight: u32,
        /// What there is room for.
        room: u32,
    },
    /// Each endpoint that remains would get too much.
    TooFew {
        /// So many times what the busiest has now ...
        growth: f64,
        /// ... of this at most.
        most: f64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyElse => f.write_str("no other region has an endpoint that is ready"),
            Self::TooMuch { in_flight, room } => {
                write!(
                    f,
                    "{in_flight} attempts are in flight, and the limits of the other regions have room for {room}"
                )
            }
            Self::TooFew { growth, most } => write!(
                f,
                "each endpoint that remains would get {growth:.1} times what the busiest has now, and {most:.1} times is the most"
            ),
        }
    }
}

impl core::error::Error for Refusal {}

/// Whether the others can carry what `leaving`, an index into `regions`, leaves behind.
///
/// # Errors
/// Why it seems that they can't.
pub fn may_leave(config: Valid<Config>, regions: &[Region], leaving: usize) -> Result<(), Refusal> {
    let rest = || {
        regions.iter().enumerate().filter(|(n, region)| *n != leaving && region.kept > 0.0).map(|(_, r)| r)
    };
    let ready: f64 = rest().map(|region| region.ready * region.kept).sum();
    if ready <= 0.0 {
        return Err(Refusal::NobodyElse);
    }
    let in_flight = regions.iter().fold(0_u32, |sum, region| sum.saturating_add(region.in_flight));
    let limits = rest().filter(|region| region.ready > 0.0);
    let limits =
        limits.map(|region| region.limit).try_fold(0_u32, |sum, limit| Some(sum.saturating_add(limit?)));
    if let Some(limits) = limits {
        let room = (f64::from(limits) * config.most_filled) as u32;
        if in_flight > room {
            return Err(Refusal::TooMuch { in_flight, room });
        }
    }
    let after = f64::from(in_flight) / ready;
    let busy =
        |region: &Region| if region.ready > 0.0 { f64::from(region.in_flight) / region.ready } else { 0.0 };
    // Less than one attempt for each is no load to speak of, whatever it is compared with.
    let busiest = regions.iter().map(busy).fold(1.0, f64::max);
    let growth = after / busiest;
    if growth > config.most_growth {
        return Err(Refusal::TooFew { growth, most: config.most_growth });
    }
    Ok(())
}

/// The states of an [`Evacuation`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum State {
    /// The region has all of its traffic.
    #[default]
    Serving,
    /// It gets less, step by step, or nothing and finishes what it has.
    Evacuating,
    /// It gets no less for now, since the others can't carry more.
    Held,
    /// It gets nothing, and has nothing in flight.
    Evacuated,
    /// It gets more, step by step.
    Restoring,
}

impl State {
    /// The state's name in logs and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Evacuating => "evacuating",
            Self::Held => "held",
            Self::Evacuated => "evacuated",
            Self::Restoring => "restoring",
        }
    }
}

/// A region on its way out of service, or back. See the [module](self).
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Evacuation {
    state: State,
    /// Steps of its traffic that it has given up.
    given_up: u32,
    /// When the last step was made.
    stepped: Instant,
    /// The time between two steps.
    pace: Duration,
}

impl Evacuation {
    /// Begins to take the region out of service, over that time; from where it is, if it is on its way already.
    pub fn evacuate(&mut self, now: Instant, over: Duration) {
        if self.state != State::Evacuated {
            self.turn(State::Evacuating, now, over);
        }
    }

    /// Begins to take it back, over that time.
    pub fn restore(&mut self, now: Instant, over: Duration) {
        if self.state != State::Serving {
            self.turn(State::Restoring, now, over);
        }
    }

    /// Makes the steps that are due, and returns the state if it is another one now. `others` says whether the other regions can
    /// carry what this one leaves behind (always, if it is forced); `in_flight` is what it has itself.
    pub fn look(&mut self, now: Instant, others: Result<(), Refusal>, in_flight: u32) -> Option<State> {
        let before = self.state;
        // After the clock was set back, the next step is a pace away again.
        self.stepped = self.stepped.min(now);
        while matches!(self.state, State::Evacuating | State::Held | State::Restoring) {
            let due = self.pace.is_zero() || now.since(self.stepped) >= self.pace;
            match self.state {
                State::Restoring if self.given_up == 0 => self.state = State::Serving,
                State::Restoring if due => self.step(self.given_up - 1),
                State::Restoring => break,
                _ if self.given_up == STEPS && in_flight == 0 => self.state = State::Evacuated,
                _ if self.given_up == STEPS => {
                    self.state = State::Evacuating;
                    break;
                }
                _ if others.is_err() => {
                    self.state = State::Held;
                    self.stepped = now;
                    break;
                }
                _ => {
                    self.state = State::Evacuating;
                    if !due {
                        break;
                    }
                    self.step(self.given_up + 1);
                }
            }
        }
        (self.state != before).then_some(self.state)
    }

    /// The share of its traffic that it keeps, 0 to 1.
    #[must_use]
    pub fn kept(&self) -> f64 {
        1.0 - f64::from(self.given_up) / f64::from(STEPS)
    }

    /// The present state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    fn turn(&mut self, state: State, now: Instant, over: Duration) {
        self.state = state;
        self.stepped = now;
        self.pace = over / STEPS;
    }

    fn step(&mut self, given_up: u32) {
        self.given_up = given_up;
        self.stepped = self.stepped.plus(self.pace);
    }
}

/// A tenth at a time: each is seen in every graph, and none is felt.
pub const STEPS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn region(ready: f64, in_flight: u32) -> Region {
        Region { ready, in_flight, limit: None, kept: 1.0 }
    }

    fn config() -> Valid<Config> {
        Valid::new(Config::default()).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_region_can_carry_another_of_its_size_and_not_two() {
        let regions = [region(3.0, 30), region(3.0, 30)];
        assert_eq!(may_leave(config(), &regions, 0), Ok(()));
        let regions = [region(6.0, 61), region(3.0, 30)];
        assert!(matches!(may_leave(config(), &regions, 0), Err(Refusal::TooFew { .. })));
        assert_eq!(may_leave(config(), &regions, 1), Ok(()));
    }

    #[test]
    fn where_there_is_next_to_no_load_anybody_can_carry_it() {
        assert_eq!(may_leave(config(), &[region(100.0, 1), region(1.0, 1)], 0), Ok(()));
    }

    #[test]
    fn the_last_region_stays() {
        assert_eq!(may_leave(config(), &[region(3.0, 0)], 0), Err(Refusal::NobodyElse));
        assert_eq!(may_leave(config(), &[region(3.0, 0), region(0.0, 0)], 0), Err(Refusal::NobodyElse));
        let evacuated = Region { kept: 0.0, ..region(3.0, 0) };
        assert_eq!(may_leave(config(), &[region(3.0, 0), evacuated], 0), Err(Refusal::NobodyElse));
    }

    #[test]
    fn what_is_in_flight_must_fit_into_four_fifths_of_the_limits_that_remain() {
        let limited = |in_flight| [region(1.0, in_flight), Region { limit: Some(100), ..region(1.0, 40) }];
        assert_eq!(may_leave(config(), &limited(40), 0), Ok(()));
        assert_eq!(may_leave(config(), &limited(41), 0), Err(Refusal::TooMuch { in_flight: 81, room: 80 }));
        // A region without a limit may have room for any number.
        let [a, b] = limited(41);
        assert_eq!(may_leave(config(), &[a, b, region(1.0, 41)], 0), Ok(()));
    }

    #[test]
    fn it_goes_in_ten_steps_and_is_over_when_nothing_is_in_flight() {
        let mut leaving = Evacuation::default();
        leaving.evacuate(Instant::ZERO, 10 * SECOND);
        for step in 1..=10_u32 {
            let at = Instant::ZERO.plus(SECOND * step);
            assert_eq!(leaving.look(Instant::from_nanos(at.as_nanos() - 1), Ok(()), 9), None);
            assert_eq!(leaving.kept(), 1.0 - f64::from(step - 1) / 10.0);
            assert_eq!(leaving.look(at, Ok(()), 9), None);
            assert_eq!(leaving.kept(), 1.0 - f64::from(step) / 10.0);
        }
        assert_eq!(leaving.state(), State::Evacuating);
        assert_eq!(
            leaving.look(Instant::from_millis(10_001), Err(Refusal::NobodyElse), 0),
            Some(State::Evacuated)
        );
        leaving.restore(Instant::from_millis(20_000), 10 * SECOND);
        leaving.look(Instant::from_millis(25_000), Ok(()), 0);
        assert_eq!((leaving.state(), leaving.kept()), (State::Restoring, 0.5));
        assert_eq!(leaving.look(Instant::from_millis(30_000), Ok(()), 0), Some(State::Serving));
        assert_eq!(leaving.kept(), 1.0);
    }

    #[test]
    fn it_is_held_while_the_others_are_too_few_and_goes_on_when_they_are_not() {
        let mut leaving = Evacuation::default();
        leaving.evacuate(Instant::ZERO, 10 * SECOND);
        leaving.look(Instant::from_millis(3_000), Ok(()), 9);
        assert_eq!(leaving.look(Instant::from_millis(4_000), Err(Refusal::NobodyElse), 9), Some(State::Held));
        assert_eq!(leaving.look(Instant::from_millis(60_000), Err(Refusal::NobodyElse), 9), None);
        assert_eq!(leaving.kept(), 0.7);
        assert_eq!(leaving.look(Instant::from_millis(60_999), Ok(()), 9), Some(State::Evacuating));
        assert_eq!(leaving.kept(), 0.7);
        leaving.look(Instant::from_millis(61_000), Ok(()), 9);
        assert!((leaving.kept() - 0.6).abs() < 1e-9);
    }

    #[test]
    fn it_can_be_turned_round_on_the_way_and_at_once() {
        let mut leaving = Evacuation::default();
        leaving.evacuate(Instant::ZERO, Duration::ZERO);
        assert_eq!(leaving.look(Instant::ZERO, Ok(()), 3), None);
        assert_eq!(leaving.kept(), 0.0);
        leaving.restore(Instant::ZERO, Duration::ZERO);
        assert_eq!(leaving.look(Instant::ZERO, Ok(()), 3), Some(State::Serving));
        leaving.restore(Instant::ZERO, SECOND);
        assert_eq!(leaving.state(), State::Serving);
    }

    #[test]
    fn a_clock_that_is_set_back_delays_a_step_and_no_more() {
        let mut leaving = Evacuation::default();
        leaving.evacuate(Instant::from_millis(1_000_000), 10 * SECOND);
        assert_eq!(leaving.look(Instant::ZERO, Ok(()), 1), None);
        leaving.look(Instant::from_millis(1_000), Ok(()), 1);
        assert_eq!(leaving.kept(), 0.9);
        leaving.look(Instant::FAR, Ok(()), 1);
        assert_eq!(leaving.kept(), 0.0);
    }
}
