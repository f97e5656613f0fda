extern crate std;

use std::fmt::Write as _;
use std::string::String;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{Failure, Pushback, Rules};

const START: Instant = Instant::from_millis(1_000_000);
const YEAR: Duration = Duration::from_secs(31_536_000);
const FAILED: Outcome = Outcome::failed(Failure::Error);
const BUSY: Outcome = Outcome::Overloaded(Pushback::Unsaid);

/// The defaults with waits that are not drawn by lot, so that moments can be named.
fn exact() -> Config {
    Config { jitter: 0.0, ..Config::default() }
}

fn breaker(config: Config) -> Breaker {
    Breaker::new(Valid::new(config).unwrap(), 7)
}

fn state(breaker: &Breaker, now: Instant) -> State {
    breaker.snapshot(now).state
}

fn call(breaker: &mut Breaker, now: Instant, outcome: Outcome) -> Option<Change> {
    let ticket = breaker.admit(now).unwrap();
    breaker.settle(now, ticket, outcome)
}

/// Opens it by failures in a row, and returns the moment at which the wait is over.
fn open(breaker: &mut Breaker, now: Instant) -> Instant {
    let most = breaker.config().consecutive_failures.unwrap();
    let change = (0..most).filter_map(|_| call(breaker, now, FAILED)).last().unwrap();
    assert_eq!(
        (change.from, change.to, change.cause),
        (State::Closed, State::Open, Cause::ConsecutiveFailures)
    );
    now.plus(breaker.snapshot(now).wait.unwrap())
}

/// Opens it, waits, and returns the first probe's ticket and its moment.
fn half_open(breaker: &mut Breaker) -> (Ticket, Instant) {
    let now = open(breaker, START);
    let probe = breaker.admit(now).unwrap();
    assert_eq!(state(breaker, now), State::HalfOpen);
    (probe, now)
}

/// Brings it to the beginning of its ramp.
fn ramping(breaker: &mut Breaker) -> Instant {
    let (probe, now) = half_open(breaker);
    breaker.settle(now, probe, Outcome::Success);
    for _ in 1..breaker.config().successes_to_close {
        call(breaker, now, Outcome::Success);
    }
    assert_eq!(state(breaker, now), State::Ramping);
    now
}

fn before(moment: Instant) -> Instant {
    Instant::from_nanos(moment.as_nanos() - 1)
}

mod configuration {
    use super::*;

    fn faulty(config: Config) -> Vec<&'static str> {
        Valid::new(config).unwrap_err().iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().faults(), []);
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let config = Config {
            consecutive_failures: Some(0),
            failure_rate: Some(f64::NAN),
            slow_after: Some(Duration::ZERO),
            slow_rate: 1.5,
            window: Window::Count(10),
            hung_after: Some(Duration::ZERO),
            open_for: Duration::from_secs(90),
            open_growth: f64::INFINITY,
            jitter: -0.1,
            probes: 0,
            successes_to_close: 0,
            ..Config::default()
        };
        let expected = [
            "consecutive_failures",
            "failure_rate",
            "slow_rate",
            "minimum_calls",
            "hung_after",
            "slow_after",
            "open_growth",
            "open_at_most",
            "jitter",
            "probes",
            "successes_to_close",
        ];
        assert_eq!(faulty(config), expected);
    }

    #[test]
    fn what_could_never_work_is_refused() {
        let blind = Config { consecutive_failures: None, failure_rate: None, ..Config::default() };
        assert_eq!(faulty(blind), ["consecutive_failures"]);
        assert!(Valid::new(Config { mode: Mode::Off, ..blind }).is_ok());
        assert_eq!(faulty(Config { open_at_most: Duration::MAX, ..exact() }), ["open_at_most"]);
        assert_eq!(faulty(Config { window: Window::Count(u32::MAX), ..exact() }), ["window"]);
        assert_eq!(faulty(Config { window: Window::Count(0), minimum_calls: 1, ..exact() }), ["window"]);
        assert_eq!(faulty(Config { window: Window::Time(Duration::ZERO), ..exact() }), ["window"]);
    }
}

/// What other libraries were seen to get wrong.
mod seen_elsewhere {
    use super::*;

    #[test]
    fn after_a_million_successes_half_a_window_of_failures_opens_it() {
        let window = Window::Count(100);
        let mut breaker = breaker(Config { consecutive_failures: None, window, ..exact() });
        for _ in 0..1_000_000 {
            call(&mut breaker, START, Outcome::Success);
        }
        for _ in 0..49 {
            assert_eq!(call(&mut breaker, START, FAILED), None);
        }
        assert_eq!(call(&mut breaker, START, FAILED).unwrap().cause, Cause::FailureRate);
    }

    #[test]
    fn after_a_million_successes_five_failures_in_a_row_open_it() {
        let mut breaker = breaker(exact());
        breaker.fold(START, 1_000_000);
        open(&mut breaker, START);
    }

    #[test]
    fn the_rate_weighs_calls_and_not_the_time_between_them() {
        let mut breaker = breaker(Config { consecutive_failures: None, ..exact() });
        // 95% fail within single milliseconds, of which only the first call, a success, used to count.
        let mut opened = None;
        for n in 0..100u64 {
            let outcome = if n % 20 == 0 { Outcome::Success } else { FAILED };
            opened = opened.or(call(&mut breaker, START, outcome).map(|_| n));
            if opened.is_some() {
                break;
            }
        }
        assert_eq!(opened, Some(19), "as soon as the minimum of 20 calls is there");
    }

    #[test]
    fn a_low_failure_rate_never_opens_it() {
        let mut breaker = breaker(exact());
        for n in 0..10_000 {
            let now = START.plus(Duration::from_millis(n));
            let outcome = if n % 20 == 0 { FAILED } else { Outcome::Success };
            assert_eq!(call(&mut breaker, now, outcome), None);
        }
    }

    #[test]
    fn of_a_thousand_calls_at_once_half_open_admits_the_probes_and_no_more() {
        for probes in [1, 3] {
            let mut breaker = breaker(Config { probes, successes_to_close: 10, ..exact() });
            let (_probe, now) = half_open(&mut breaker);
            let more = (1..1_000).filter_map(|_| breaker.admit(now).ok()).count();
            assert_eq!(more as u32 + 1, probes);
            assert_eq!(breaker.admit(now).unwrap_err().reason, Reason::Probing);
        }
    }

    #[test]
    fn cancelled_probes_do_not_leave_it_half_open_for_ever() {
        let mut breaker = breaker(exact());
        let (probe, now) = half_open(&mut breaker);
        assert_eq!(breaker.settle(now, probe, Outcome::Abandoned), None);
        for _ in 0..1_000 {
            call(&mut breaker, now, Outcome::Abandoned);
            call(&mut breaker, now, Outcome::Ignored);
        }
        for _ in 0..3 {
            call(&mut breaker, now, Outcome::Success);
        }
        assert_eq!(state(&breaker, now), State::Ramping);
    }

    #[test]
    fn fewer_probes_than_successes_needed_do_close_it() {
        let mut breaker = breaker(Config { probes: 1, successes_to_close: 50, ..exact() });
        ramping(&mut breaker);
    }

    #[test]
    fn a_cancelled_probe_is_no_success() {
        let mut breaker = breaker(Config { successes_to_close: 1, ..exact() });
        let (probe, now) = half_open(&mut breaker);
        assert_eq!(breaker.settle(now, probe, Outcome::Abandoned), None);
        assert_eq!(state(&breaker, now), State::HalfOpen);
    }

    #[test]
    fn calls_given_up_after_they_hung_open_it() {
        let mut breaker = breaker(exact());
        let tickets: Vec<_> = (0..5).map(|_| breaker.admit(START).unwrap()).collect();
        let now = START.plus(Duration::from_secs(10));
        let changes: Vec<_> =
            tickets.into_iter().filter_map(|t| breaker.settle(now, t, Outcome::Abandoned)).collect();
        assert_eq!(changes.len(), 1);
        assert_eq!(state(&breaker, now), State::Open);
    }

    #[test]
    fn a_hung_upstream_opens_it_before_any_call_has_ended() {
        let mut breaker = breaker(exact());
        let mut tickets: Vec<_> = (0..5).map(|_| breaker.admit(START).unwrap()).collect();
        let due = START.plus(Duration::from_secs(10));
        assert!(tickets.iter_mut().all(|t| breaker.overdue(before(due), t).is_none()));
        assert_eq!(breaker.snapshot(due).totals.failures, 0, "not a nanosecond before");
        let changes: Vec<_> = tickets.iter_mut().filter_map(|t| breaker.overdue(due, t)).collect();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].cause, Cause::ConsecutiveFailures);
    }

    #[test]
    fn a_slow_success_from_before_the_trip_does_not_close_it() {
        let mut breaker = breaker(Config { successes_to_close: 1, ..exact() });
        let late = breaker.admit(START).unwrap();
        let (probe, now) = half_open(&mut breaker);
        assert_eq!(breaker.settle(now, late, Outcome::Success), None);
        assert_eq!(state(&breaker, now), State::HalfOpen);
        assert!(breaker.admit(now).is_err(), "nor does it free the probe's slot");
        assert_eq!(breaker.settle(now, probe, Outcome::Success).unwrap().to, State::Ramping);
    }

    #[test]
    fn the_clock_that_it_is_told_is_the_only_one() {
        let mut breaker = breaker(exact());
        open(&mut breaker, START);
        assert!(breaker.admit(START.plus(Duration::from_secs(3_600))).is_ok());
    }
}

mod opening {
    use super::*;

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let mut breaker = breaker(exact());
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(call(&mut breaker, START, FAILED), None);
            }
            call(&mut breaker, START, Outcome::Success);
        }
        open(&mut breaker, START);
    }

    #[test]
    fn overload_moves_the_rate_and_not_the_count() {
        let mut breaker = breaker(exact());
        for _ in 0..19 {
            assert_eq!(call(&mut breaker, START, BUSY), None);
        }
        assert_eq!(breaker.snapshot(START).consecutive, 0);
        assert_eq!(call(&mut breaker, START, BUSY).unwrap().cause, Cause::FailureRate);
    }

    #[test]
    fn what_is_neutral_counts_nowhere() {
        let mut breaker = breaker(exact());
        for _ in 0..4 {
            call(&mut breaker, START, FAILED);
        }
        call(&mut breaker, START, Outcome::Abandoned);
        call(&mut breaker, START, Outcome::Ignored);
        assert_eq!(breaker.snapshot(START).totals.calls(), 4);
        assert_eq!(call(&mut breaker, START, FAILED).unwrap().to, State::Open);
    }

    #[test]
    fn only_what_takes_as_long_as_slow_after_is_slow() {
        let slow_after = Some(Duration::from_secs(1));
        let mut breaker = breaker(Config { slow_after, failure_rate: None, minimum_calls: 2, ..exact() });
        let due = START.plus(Duration::from_secs(1));
        let [a, b, c, d] = [(); 4].map(|()| breaker.admit(START).unwrap());
        breaker.settle(before(due), a, Outcome::Success);
        breaker.settle(before(due), b, Outcome::Success);
        assert_eq!(breaker.snapshot(due).totals.slow, 0);
        breaker.settle(due, c, Outcome::Success);
        breaker.settle(due, d, Outcome::Success);
        assert_eq!((breaker.snapshot(due).totals.slow, state(&breaker, due)), (2, State::Closed));
    }

    #[test]
    fn slow_calls_open_it_although_they_succeed() {
        let slow_after = Some(Duration::from_secs(1));
        let mut breaker = breaker(Config { slow_after, slow_rate: 0.5, minimum_calls: 4, ..exact() });
        let now = START.plus(Duration::from_secs(1));
        let tickets: Vec<_> = (0..4).map(|_| breaker.admit(START).unwrap()).collect();
        let change = tickets.into_iter().filter_map(|t| breaker.settle(now, t, Outcome::Success)).next();
        assert_eq!(change.unwrap().cause, Cause::SlowRate);
    }

    #[test]
    fn a_hung_call_counts_once() {
        let mut breaker = breaker(exact());
        let mut ticket = breaker.admit(START).unwrap();
        let now = START.plus(Duration::from_secs(10));
        breaker.overdue(now, &mut ticket);
        breaker.overdue(now, &mut ticket);
        breaker.settle(now, ticket, FAILED);
        let snapshot = breaker.snapshot(now);
        assert_eq!((snapshot.totals.calls(), snapshot.consecutive), (1, 1));
    }

    #[test]
    fn nothing_hangs_when_hanging_is_off() {
        let mut breaker = breaker(Config { hung_after: None, ..exact() });
        let mut ticket = breaker.admit(START).unwrap();
        assert_eq!(breaker.overdue(START.plus(YEAR), &mut ticket), None);
        assert_eq!(breaker.settle(START.plus(YEAR), ticket, Outcome::Abandoned), None);
        assert_eq!(breaker.snapshot(START.plus(YEAR)).totals.calls(), 0);
    }
}

mod recovering {
    use super::*;

    #[test]
    fn refused_a_nanosecond_before_and_admitted_at_the_moment() {
        let mut breaker = breaker(exact());
        let until = open(&mut breaker, START);
        assert_eq!(until, START.plus(Duration::from_secs(5)));
        let rejection = breaker.admit(before(until)).unwrap_err();
        assert_eq!((rejection.reason, rejection.retry_after), (Reason::Open, Some(Duration::from_nanos(1))));
        assert!(breaker.admit(until).is_ok());
        let change = breaker.last_change().unwrap();
        assert_eq!((change.from, change.to, change.cause), (State::Open, State::HalfOpen, Cause::WaitOver));
    }

    #[test]
    fn a_probe_that_never_ends_reopens_it_at_its_moment() {
        for (hung_after, limit) in [(Some(Duration::from_secs(2)), 2), (None, 30)] {
            let mut breaker = breaker(Config { hung_after, ..exact() });
            let (_lost, now) = half_open(&mut breaker);
            let due = now.plus(Duration::from_secs(limit));
            assert_eq!(breaker.admit(before(due)).unwrap_err().reason, Reason::Probing);
            assert_eq!(breaker.admit(due).unwrap_err().reason, Reason::Open);
            assert_eq!(breaker.last_change().unwrap().cause, Cause::ProbeHung);
        }
    }

    #[test]
    fn every_reopening_waits_longer_up_to_the_longest() {
        let mut breaker = breaker(exact());
        let (mut probe, mut now) = half_open(&mut breaker);
        for seconds in [10, 20, 40, 60, 60] {
            assert_eq!(breaker.settle(now, probe, FAILED).unwrap().cause, Cause::ProbeFailed);
            assert_eq!(breaker.snapshot(now).wait, Some(Duration::from_secs(seconds)));
            now = now.plus(Duration::from_secs(seconds));
            probe = breaker.admit(now).unwrap();
        }
    }

    #[test]
    fn the_growth_is_forgotten_after_it_stayed_closed_as_long_as_it_was_open() {
        for (stayed, wait) in [(4_999, 10), (5_000, 5)] {
            let mut breaker = breaker(Config { ramp: Duration::ZERO, successes_to_close: 1, ..exact() });
            let (probe, now) = half_open(&mut breaker);
            assert_eq!(breaker.settle(now, probe, Outcome::Success).unwrap().to, State::Closed);
            let now = now.plus(Duration::from_millis(stayed));
            assert_eq!(
                open(&mut breaker, now),
                now.plus(Duration::from_secs(wait)),
                "closed for {stayed} ms"
            );
        }
    }

    #[test]
    fn a_slow_probe_does_not_close_what_opened_for_slowness() {
        let slow_after = Some(Duration::from_secs(1));
        let mut breaker = breaker(Config { slow_after, ..exact() });
        let (probe, now) = half_open(&mut breaker);
        let change = breaker.settle(now.plus(Duration::from_secs(1)), probe, Outcome::Success);
        assert_eq!(change.unwrap().to, State::Open);
    }

    #[test]
    fn the_ramp_admits_its_share_and_ends_at_its_moment() {
        let mut breaker = breaker(Config { hung_after: None, ..exact() });
        let began = ramping(&mut breaker);
        for (second, expected) in [(0, 100), (5, 550), (9, 910)] {
            let now = began.plus(Duration::from_secs(second));
            let admitted = (0..1_000).filter_map(|_| breaker.admit(now).ok()).count();
            assert!(admitted.abs_diff(expected) <= 2, "{admitted} at {second} s");
        }
        let end = began.plus(Duration::from_secs(10));
        assert_eq!(state(&breaker, before(end)), State::Ramping);
        assert!((0..1_000).all(|_| breaker.admit(end).is_ok()));
        assert_eq!(breaker.last_change().unwrap().cause, Cause::RampOver);
    }

    #[test]
    fn the_first_call_after_the_probes_passes() {
        let mut breaker = breaker(exact());
        let now = ramping(&mut breaker);
        assert!(breaker.admit(now).is_ok());
        assert_eq!(breaker.admit(now).unwrap_err().reason, Reason::Ramping);
    }

    #[test]
    fn failures_on_the_ramp_reopen_it_with_a_longer_wait() {
        let mut breaker = breaker(exact());
        let now = ramping(&mut breaker);
        let tickets: Vec<_> = (0..100).filter_map(|_| breaker.admit(now).ok()).collect();
        let change = tickets.into_iter().filter_map(|t| breaker.settle(now, t, FAILED)).next().unwrap();
        assert_eq!((change.from, change.to), (State::Ramping, State::Open));
        assert_eq!(breaker.snapshot(now).wait, Some(Duration::from_secs(10)));
    }

    #[test]
    fn calls_let_in_on_the_ramp_count_after_it() {
        let mut breaker = breaker(exact());
        let began = ramping(&mut breaker);
        let late = began.plus(Duration::from_secs(9));
        let mut tickets: Vec<_> = (0..5).map_while(|_| breaker.admit(late).ok()).collect();
        while tickets.len() < 5 {
            tickets.extend(breaker.admit(late));
        }
        let end = began.plus(Duration::from_secs(10));
        let _ = breaker.admit(end).unwrap();
        assert_eq!(state(&breaker, end), State::Closed);
        tickets.into_iter().for_each(|ticket| assert_eq!(breaker.settle(end, ticket, FAILED), None));
        let snapshot = breaker.snapshot(end);
        assert_eq!((snapshot.totals.failures, snapshot.consecutive), (5, 1));
    }

    #[test]
    fn the_wait_is_drawn_from_the_part_that_jitter_names() {
        let waits: Vec<_> = (0..200)
            .map(|seed| {
                let mut breaker = Breaker::new(Valid::default(), seed);
                open(&mut breaker, START).since(START)
            })
            .collect();
        assert!(waits.iter().all(|w| (2_500..=5_000).contains(&w.as_millis())));
        assert!(waits.iter().any(|w| w.as_millis() < 3_000) && waits.iter().any(|w| w.as_millis() > 4_500));
        let again = open(&mut Breaker::new(Valid::default(), 3), START).since(START);
        assert_eq!(again, waits[3], "the same seed draws the same wait");
    }
}

mod clocks {
    use super::*;

    #[test]
    fn set_back_while_open_it_waits_no_longer_than_the_longest_wait() {
        let mut breaker = breaker(exact());
        open(&mut breaker, START.plus(YEAR));
        assert!(breaker.admit(START.plus(Duration::from_secs(60))).is_ok());
    }

    #[test]
    fn set_back_while_half_open_a_lost_probe_still_ends_it() {
        let mut breaker = breaker(exact());
        let now = open(&mut breaker, START.plus(YEAR));
        let _lost = breaker.admit(now).unwrap();
        assert_eq!(breaker.admit(START).unwrap_err().reason, Reason::Probing);
        let due = START.plus(Duration::from_secs(10));
        assert_eq!(breaker.admit(due).unwrap_err().reason, Reason::Open);
    }

    #[test]
    fn set_back_while_ramping_the_ramp_still_ends() {
        let mut breaker = breaker(exact());
        ramping(&mut breaker);
        let _ = breaker.admit(Instant::ZERO);
        let end = Instant::ZERO.plus(Duration::from_secs(10));
        assert!(breaker.admit(end).is_ok());
        assert_eq!(state(&breaker, end), State::Closed);
    }

    #[test]
    fn set_back_while_closed_the_growth_is_still_forgotten() {
        let mut breaker = breaker(Config { ramp: Duration::ZERO, successes_to_close: 1, ..exact() });
        let (probe, now) = half_open(&mut breaker);
        breaker.settle(now, probe, Outcome::Success);
        call(&mut breaker, Instant::ZERO, FAILED);
        call(&mut breaker, Instant::ZERO, Outcome::Success);
        let later = Instant::from_millis(5_000);
        assert_eq!(open(&mut breaker, later), later.plus(Duration::from_secs(5)));
    }

    #[test]
    fn frozen_it_neither_opens_early_nor_panics() {
        let mut breaker = breaker(exact());
        open(&mut breaker, START);
        assert!((0..1_000).all(|_| breaker.admit(START).is_err()));
    }

    #[test]
    fn at_the_end_of_time_it_still_answers() {
        let mut breaker = breaker(exact());
        open(&mut breaker, Instant::FAR);
        assert!(breaker.admit(Instant::FAR).is_ok());
    }
}

mod operating {
    use super::*;

    #[test]
    fn forced_open_it_refuses_and_let_go_it_starts_closed_and_empty() {
        let mut breaker = breaker(exact());
        let late = breaker.admit(START).unwrap();
        for _ in 0..4 {
            call(&mut breaker, START, FAILED);
        }
        assert_eq!(breaker.force(START, Some(Force::Open)).unwrap().to, State::Open);
        assert_eq!(breaker.force(START, Some(Force::Open)), None, "it is already");
        assert_eq!(
            breaker.admit(START.plus(YEAR)).unwrap_err(),
            Rejection::new(Policy::Breaker, Reason::Forced)
        );
        assert_eq!(breaker.settle(START, late, FAILED), None);
        assert_eq!(breaker.force(START, None).unwrap().to, State::Closed);
        assert_eq!((breaker.snapshot(START).totals.calls(), breaker.snapshot(START).consecutive), (0, 0));
    }

    #[test]
    fn forced_closed_it_admits_whatever_happens() {
        let mut breaker = breaker(exact());
        open(&mut breaker, START);
        breaker.force(START, Some(Force::Closed));
        for _ in 0..100 {
            assert_eq!(call(&mut breaker, START, FAILED), None);
        }
    }

    #[test]
    fn forced_while_ramping_and_let_go_it_is_empty() {
        let mut breaker = breaker(exact());
        let now = ramping(&mut breaker);
        call(&mut breaker, now, FAILED);
        breaker.force(now, Some(Force::Closed));
        breaker.force(now, None);
        assert_eq!(breaker.snapshot(now).totals.calls(), 0);
    }

    /// What it would have refused is let in, told and counted, and moves nothing: so the shadow goes through the same
    /// states as the real one.
    #[test]
    fn observing_it_admits_and_tells_what_it_would_have_refused() {
        let mut breaker = breaker(Config { mode: Mode::Observe, ..exact() });
        let until = open(&mut breaker, START);
        let ticket = breaker.admit(START).unwrap();
        assert_eq!(ticket.shadow().unwrap().reason, Reason::Open);
        breaker.settle(START, ticket, FAILED);
        assert_eq!((breaker.snapshot(START).would_reject, breaker.snapshot(START).rejected), (1, 0));
        let probe = breaker.admit(until).unwrap();
        assert_eq!(probe.shadow(), None);
        let beside = breaker.admit(until).unwrap();
        assert_eq!(beside.shadow().unwrap().reason, Reason::Probing);
        assert_eq!(breaker.settle(until, beside, FAILED), None, "it was no probe");
        assert_eq!(breaker.settle(until, probe, FAILED).unwrap().to, State::Open);
    }

    #[test]
    fn switched_off_it_is_not_there() {
        let mut breaker = breaker(Config { mode: Mode::Off, ..exact() });
        for _ in 0..100 {
            assert_eq!(call(&mut breaker, START, FAILED), None);
        }
    }

    #[test]
    fn switched_off_and_on_while_half_open_it_loses_no_slot_and_takes_nobody_for_a_probe() {
        let mut breaker = breaker(Config { successes_to_close: 1, ..exact() });
        let (probe, now) = half_open(&mut breaker);
        breaker.reconfigure(Valid::new(Config { mode: Mode::Off, ..exact() }).unwrap());
        let meanwhile = breaker.admit(now).unwrap();
        breaker.settle(now, probe, Outcome::Success);
        breaker.reconfigure(Valid::new(Config { successes_to_close: 1, ..exact() }).unwrap());
        assert_eq!(breaker.settle(now, meanwhile, Outcome::Success), None);
        assert_eq!(state(&breaker, now), State::HalfOpen);
        assert!(breaker.admit(now).is_ok(), "the probe's slot is free");
        assert!(breaker.admit(now).is_err());
    }

    #[test]
    fn a_new_threshold_applies_to_the_old_window() {
        let mut breaker = breaker(exact());
        for n in 0..20 {
            call(&mut breaker, START, if n % 4 == 0 { FAILED } else { Outcome::Success });
        }
        breaker.reconfigure(Valid::new(Config { failure_rate: Some(0.25), ..exact() }).unwrap());
        assert_eq!(call(&mut breaker, START, FAILED).unwrap().cause, Cause::FailureRate);
    }

    #[test]
    fn folded_successes_count_as_if_they_had_been_settled_one_by_one() {
        let (mut one, mut many) = (breaker(exact()), breaker(exact()));
        for _ in 0..30 {
            call(&mut one, START, Outcome::Success);
        }
        many.fold(START, 30);
        assert_eq!(one.snapshot(START), many.snapshot(START));
    }
}

/// Every state, every input: where it leads.
#[test]
fn the_transitions() {
    let mut table = String::new();
    for from in ["closed", "open", "half_open", "ramping", "forced open", "forced closed"] {
        for (input, act) in INPUTS {
            let mut config = Config { consecutive_failures: Some(1), failure_rate: None, ..exact() };
            config.successes_to_close = if from == "ramping" { 1 } else { 2 };
            let mut breaker = breaker(config);
            let (ticket, now) = bring_to(&mut breaker, from);
            let before = breaker.generation();
            act(&mut breaker, now, ticket);
            let to = breaker.snapshot(now).state.name();
            let change = breaker.last_change().filter(|_| breaker.generation() != before);
            let cause = change.map_or("", |change| change.cause.name());
            writeln!(table, "{from:14}| {input:26}-> {to:10}{cause}").unwrap();
        }
    }
    let table: Vec<_> = table.lines().map(str::trim_end).collect();
    insta::with_settings!({ snapshot_path => "../snapshots", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("breaker_transitions", table.join("\n"));
    });
}

type Input = (&'static str, fn(&mut Breaker, Instant, Option<Ticket>));

/// In each case with a call in flight: one of the present state, or where that lets none in, a late one.
const INPUTS: [Input; 13] = [
    ("success", |b, now, t| settle(b, now, t, Outcome::Success)),
    ("two successes", |b, now, t| {
        settle(b, now, t, Outcome::Success);
        let next = b.admit(now).ok();
        settle(b, now, next, Outcome::Success);
    }),
    ("failure", |b, now, t| settle(b, now, t, FAILED)),
    ("overloaded", |b, now, t| settle(b, now, t, BUSY)),
    ("ignored", |b, now, t| settle(b, now, t, Outcome::Ignored)),
    ("abandoned", |b, now, t| settle(b, now, t, Outcome::Abandoned)),
    ("hung", |b, now, t| {
        if let Some(mut ticket) = t {
            b.overdue(now.plus(Duration::from_secs(10)), &mut ticket);
        }
    }),
    ("abandoned after it hung", |b, now, t| {
        settle(b, now.plus(Duration::from_secs(10)), t, Outcome::Abandoned)
    }),
    ("a call a minute later", |b, now, _| drop(b.admit(now.plus(Duration::from_secs(60))))),
    ("tripped", |b, now, _| trip(b, now)),
    ("forced open", |b, now, _| force(b, now, Some(Force::Open))),
    ("forced closed", |b, now, _| force(b, now, Some(Force::Closed))),
    ("let go", |b, now, _| force(b, now, None)),
];

fn trip(breaker: &mut Breaker, now: Instant) {
    breaker.trip(now, Cause::ErrorOutlier, None);
}

fn force(breaker: &mut Breaker, now: Instant, force: Option<Force>) {
    breaker.force(now, force);
}

fn settle(breaker: &mut Breaker, now: Instant, ticket: Option<Ticket>, outcome: Outcome) {
    if let Some(ticket) = ticket {
        breaker.settle(now, ticket, outcome);
    }
}

fn bring_to(breaker: &mut Breaker, from: &str) -> (Option<Ticket>, Instant) {
    match from {
        "closed" => {}
        "open" => {
            let late = breaker.admit(START).ok();
            open(breaker, START);
            return (late, START);
        }
        "half_open" => {
            let (probe, now) = half_open(breaker);
            return (Some(probe), now);
        }
        "ramping" => {
            let now = ramping(breaker);
            return (breaker.admit(now).ok(), now);
        }
        "forced open" => {
            let late = breaker.admit(START).ok();
            force(breaker, START, Some(Force::Open));
            return (late, START);
        }
        "forced closed" => force(breaker, START, Some(Force::Closed)),
        other => panic!("no such state: {other}"),
    }
    (breaker.admit(START).ok(), START)
}

mod tripping {
    use super::*;

    const BOUND: Duration = Duration::from_millis(30);

    fn tripped(breaker: &mut Breaker, bound: Option<Duration>) -> Instant {
        let change = breaker.trip(START, Cause::LatencyOutlier, bound).unwrap();
        let told = (change.from, change.to, change.cause, change.at);
        assert_eq!(told, (State::Closed, State::Open, Cause::LatencyOutlier, START));
        START.plus(breaker.snapshot(START).wait.unwrap())
    }

    #[test]
    fn it_waits_probes_and_ramps_as_after_any_opening() {
        let mut breaker = breaker(exact());
        let due = tripped(&mut breaker, None);
        assert_eq!(breaker.admit(before(due)).unwrap_err().reason, Reason::Open);
        for _ in 0..3 {
            call(&mut breaker, due, Outcome::Success);
        }
        assert_eq!(state(&breaker, due), State::Ramping);
        breaker.trip(due, Cause::ErrorOutlier, None).unwrap();
        assert_eq!(breaker.snapshot(due).wait, Some(Duration::from_secs(10)), "the wait grows");
    }

    #[test]
    fn a_probe_as_slow_as_the_bound_passes_and_a_nanosecond_more_fails() {
        for (age, to) in [(BOUND, State::HalfOpen), (BOUND + Duration::from_nanos(1), State::Open)] {
            let mut breaker = breaker(exact());
            let due = tripped(&mut breaker, Some(BOUND));
            let probe = breaker.admit(due).unwrap();
            breaker.settle(due.plus(age), probe, Outcome::Success);
            assert_eq!(state(&breaker, due), to);
        }
    }

    #[test]
    fn the_bound_holds_until_it_is_closed_again() {
        let mut breaker = breaker(exact());
        let mut now = tripped(&mut breaker, Some(BOUND));
        for _ in 0..3 {
            call(&mut breaker, now, Outcome::Success);
        }
        assert_eq!(
            (state(&breaker, now), breaker.snapshot(now).not_slower_than),
            (State::Ramping, Some(BOUND))
        );
        now = now.plus(breaker.config().ramp);
        call(&mut breaker, now, Outcome::Success);
        assert_eq!((state(&breaker, now), breaker.snapshot(now).not_slower_than), (State::Closed, None));
    }

    #[test]
    fn forced_off_or_not_closed_it_does_nothing() {
        let mut off = breaker(Config { mode: Mode::Off, ..exact() });
        assert_eq!(off.trip(START, Cause::ErrorOutlier, None), None);
        let mut forced = breaker(exact());
        forced.force(START, Some(Force::Closed));
        assert_eq!(forced.trip(START, Cause::ErrorOutlier, None), None);
        let mut open = breaker(exact());
        tripped(&mut open, None);
        assert_eq!(open.trip(START, Cause::ErrorOutlier, Some(BOUND)), None);
        assert_eq!(open.snapshot(START).not_slower_than, None);
    }

    #[test]
    fn observing_it_moves_and_admits() {
        let mut breaker = breaker(Config { mode: Mode::Observe, ..exact() });
        tripped(&mut breaker, Some(BOUND));
        assert!(breaker.admit(START).unwrap().shadow().is_some());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit,
    Settle(usize, u8),
    Lose(usize),
    Overdue(usize),
    Fold(u32),
    Trip(bool),
    Force(u8),
    Pass(u64),
    SetClock(u64),
}

fn step(clock_lies: bool) -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Admit),
        8 => (any::<usize>(), 0u8..5).prop_map(|(n, outcome)| Step::Settle(n, outcome)),
        1 => any::<usize>().prop_map(Step::Lose),
        2 => any::<usize>().prop_map(Step::Overdue),
        1 => (0u32..50).prop_map(Step::Fold),
        1 => any::<bool>().prop_map(Step::Trip),
        if clock_lies { 1 } else { 0 } => (0u8..3).prop_map(Step::Force),
        3 => (0u64..8_000).prop_map(Step::Pass),
        if clock_lies { 1 } else { 0 } => any::<u64>().prop_map(Step::SetClock),
    ]
}

fn outcome(n: u8) -> Outcome {
    match n {
        0 => Outcome::Success,
        1 => FAILED,
        2 => BUSY,
        3 => Outcome::Ignored,
        _ => Outcome::Abandoned,
    }
}

/// Does `steps`; calls `check` after each.
fn run(
    breaker: &mut Breaker,
    steps: Vec<Step>,
    mut check: impl FnMut(&Breaker, Instant),
) -> (Vec<Ticket>, Instant) {
    let (mut now, mut out) = (START, vec![]);
    for step in steps {
        match step {
            Step::Admit => out.extend(breaker.admit(now)),
            Step::Settle(n, how) if !out.is_empty() => {
                let ticket = out.swap_remove(n % out.len());
                breaker.settle(now, ticket, outcome(how));
            }
            Step::Lose(n) if !out.is_empty() => drop(out.swap_remove(n % out.len())),
            Step::Overdue(n) if !out.is_empty() => {
                let n = n % out.len();
                breaker.overdue(now, &mut out[n]);
            }
            Step::Fold(successes) => breaker.fold(now, successes),
            Step::Trip(bounded) => {
                breaker.trip(now, Cause::LatencyOutlier, bounded.then_some(Duration::from_millis(1)));
            }
            Step::Force(n) => force(breaker, now, [None, Some(Force::Open), Some(Force::Closed)][n as usize]),
            Step::Pass(millis) => now = now.plus(Duration::from_millis(millis)),
            Step::SetClock(nanos) => now = Instant::from_nanos(nanos),
            _ => {}
        }
        check(breaker, now);
    }
    (out, now)
}

fn any_config() -> impl Strategy<Value = Config> {
    (1u32..4, 1u32..4, prop::bool::ANY, prop::bool::ANY, prop::bool::ANY).prop_map(
        |(probes, successes_to_close, ramps, slow, hangs)| Config {
            consecutive_failures: Some(2),
            minimum_calls: 4,
            slow_after: slow.then_some(Duration::from_secs(1)),
            hung_after: hangs.then_some(Duration::from_secs(10)),
            ramp: if ramps { Duration::from_secs(10) } else { Duration::ZERO },
            probes,
            successes_to_close,
            ..Config::default()
        },
    )
}

proptest! {
    /// Whatever happened, and even if every call in flight is lost: with a healthy upstream and time passing, all calls
    /// pass again. So no state is without an exit and no slot is lost for good.
    #[test]
    fn it_always_comes_back(config in any_config(), steps in prop::collection::vec(step(true), 0..150)) {
        let mut breaker = breaker(config);
        let (lost, mut now) = run(&mut breaker, steps, |_, _| {});
        drop(lost);
        breaker.force(now, None);
        // The clock may have been set to its end; from here on it runs.
        now = now.min(Instant::from_millis(u64::MAX / 4_000_000));
        for _ in 0..2_000 {
            if let Ok(ticket) = breaker.admit(now) {
                breaker.settle(now, ticket, Outcome::Success);
            }
            now = now.plus(Duration::from_secs(1));
        }
        prop_assert_eq!(state(&breaker, now), State::Closed);
    }

    /// In half-open, when all calls in flight have been settled, in whatever order, every slot is free.
    #[test]
    fn no_half_open_slot_is_lost(
        probes in 1u32..6, order in prop::collection::vec((any::<usize>(), prop::bool::ANY), 0..60),
    ) {
        let mut breaker = breaker(Config { probes, ..exact() });
        let now = open(&mut breaker, START);
        let mut out = vec![];
        for (n, gives_up) in order {
            out.extend(breaker.admit(now));
            prop_assert!(out.len() as u32 <= probes);
            if n % 3 > 0 {
                let ticket = out.swap_remove(n % out.len());
                breaker.settle(now, ticket, if gives_up { Outcome::Abandoned } else { Outcome::Ignored });
            }
        }
        for ticket in out.drain(..) {
            breaker.settle(now, ticket, Outcome::Abandoned);
        }
        out.extend((0..probes).map_while(|_| breaker.admit(now).ok()));
        prop_assert_eq!(out.len() as u32, probes);
        prop_assert!(breaker.admit(now).is_err());
    }

    /// Results of calls that an older state let in leave everything as it is.
    #[test]
    fn late_results_never_move_newer_state(
        config in any_config(), steps in prop::collection::vec(step(false), 0..100), how in 0u8..5, wait in 0u64..60,
    ) {
        let mut breaker = breaker(config);
        let old: Vec<_> = (0..3).map(|_| breaker.admit(START).unwrap()).collect();
        // Something certainly comes between: it opens.
        while breaker.generation() == 0 {
            call(&mut breaker, START, FAILED);
        }
        let (_, now) = run(&mut breaker, steps, |_, _| {});
        let now = now.plus(Duration::from_secs(wait));
        let (before, generation) = (breaker.snapshot(now), breaker.generation());
        for mut ticket in old {
            prop_assert_eq!(breaker.overdue(now, &mut ticket), None);
            prop_assert_eq!(breaker.settle(now, ticket, outcome(how)), None);
        }
        prop_assert_eq!(breaker.snapshot(now), before);
        prop_assert_eq!(breaker.generation(), generation);
    }

    #[test]
    fn a_refusal_names_the_moment_to_come_back(seed in any::<u64>(), at in any::<u64>()) {
        let mut breaker = Breaker::new(Valid::default(), seed);
        let at = Instant::from_nanos(at.min(u64::MAX / 2));
        open(&mut breaker, at);
        let wait = breaker.admit(at).unwrap_err().retry_after.unwrap();
        prop_assert!(breaker.admit(before(at.plus(wait))).is_err());
        prop_assert!(breaker.admit(at.plus(wait)).is_ok());
    }

    /// Observing, it goes through the same states at the same moments as enforcing, fed with what the enforcing one
    /// lets in.
    #[test]
    fn observing_it_decides_as_if_it_were_enforcing(
        config in any_config(), calls in prop::collection::vec((0u64..3_000, 0u8..5), 1..150),
    ) {
        let mut real = breaker(config);
        let mut shadow = breaker(Config { mode: Mode::Observe, ..config });
        let mut now = START;
        for (gap, how) in calls {
            now = now.plus(Duration::from_millis(gap));
            let observed = shadow.admit(now).unwrap();
            match real.admit(now) {
                Ok(ticket) => {
                    prop_assert_eq!(observed.shadow(), None);
                    real.settle(now, ticket, outcome(how));
                }
                Err(rejection) => prop_assert_eq!(observed.shadow(), Some(rejection)),
            }
            shadow.settle(now, observed, outcome(how));
            prop_assert_eq!(real.snapshot(now).state, shadow.snapshot(now).state);
        }
    }

    #[test]
    fn any_clock_is_survived_and_reading_never_writes(
        config in any_config(), steps in prop::collection::vec(step(true), 0..150), glance in any::<u64>(),
    ) {
        let mut breaker = breaker(config);
        run(&mut breaker, steps, |breaker, now| {
            let snapshot = breaker.snapshot(now);
            let _ = breaker.snapshot(Instant::from_nanos(glance));
            assert_eq!(breaker.snapshot(now), snapshot);
            assert!((0.0..=1.0).contains(&snapshot.share));
            assert!(snapshot.wait.is_none_or(|_| snapshot.state == State::Open));
        });
    }
}

/// A stall of the caller's own host times out whatever is in flight; that says once that something was slow, not sixty times
/// that the endpoint is down.
#[test]
fn what_fails_together_is_one_failure_in_a_row() {
    let mut breaker = Breaker::new(Valid::new(Config::default()).unwrap(), 1);
    let start = Instant::from_millis(1_000);
    for round in 0..5 {
        assert_eq!(breaker.snapshot(start).state, State::Closed, "before round {round}");
        let sent = start.plus(Duration::from_millis(100 * round));
        let tickets: Vec<_> = (0..3).map(|_| breaker.admit(sent).unwrap()).collect();
        let ended = sent.plus(Duration::from_millis(50));
        for ticket in tickets {
            breaker.settle(ended, ticket, Outcome::failed(Failure::Timeout));
        }
        assert_eq!(u64::from(breaker.snapshot(ended).consecutive), round + 1);
    }
    assert_eq!(breaker.snapshot(start).state, State::Open, "five rounds are five in a row");
}

/// Calls that overlap can still be in a row: every fifth of these began when an earlier failure was known.
#[test]
fn overlapping_failures_open_it_in_five_times_their_length() {
    let config = Config { failure_rate: None, ..Config::default() };
    let mut breaker = Breaker::new(Valid::new(config).unwrap(), 1);
    let takes = Duration::from_millis(50);
    let mut in_flight = alloc::collections::VecDeque::new();
    let opened = (0..1_000).find(|step| {
        let now = Instant::from_millis(1_000 + 10 * step);
        if let Ok(ticket) = breaker.admit(now) {
            in_flight.push_back(ticket);
        }
        while in_flight.front().is_some_and(|ticket: &Ticket| now.since(ticket.admitted()) >= takes) {
            let ticket = in_flight.pop_front().unwrap();
            breaker.settle(now, ticket, Outcome::failed(Failure::Timeout));
        }
        breaker.snapshot(now).state == State::Open
    });
    assert_eq!(opened, Some(25), "five times 50 ms, in steps of 10");
}
