extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const START: Instant = Instant::from_millis(1_000_000);

/// Without jitter, so that moments can be named.
fn exact() -> Config {
    Config { jitter: 0.0, ..Config::default() }
}

fn health(config: Config) -> Health {
    Health::new(Valid::new(config).unwrap(), 7, START)
}

fn before(moment: Instant) -> Instant {
    Instant::from_nanos(moment.as_nanos() - 1)
}

#[test]
fn the_defaults_are_valid_and_all_faults_are_told_at_once() {
    assert_eq!(Config::default().faults(), []);
    let wrong = Config {
        interval: Duration::ZERO,
        unsure_interval: Duration::from_secs(9),
        jitter: f64::NAN,
        timeout: Duration::ZERO,
        up: 0,
        down: 0,
    };
    let fields: Vec<_> = wrong.faults().iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["interval", "unsure_interval", "jitter", "timeout", "up", "down"]);
    let long = Config { interval: Duration::MAX, timeout: Duration::MAX, ..Config::default() };
    let fields: Vec<_> = long.faults().iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["interval", "timeout"]);
}

#[test]
fn one_result_settles_the_unknown() {
    for (ok, to) in [(true, State::Up), (false, State::Down)] {
        let mut health = health(exact());
        assert!(health.state().is_usable(), "unknown counts as usable");
        assert_eq!(health.checked(START, ok), Some(Change { from: State::Unknown, to, at: START }));
    }
}

#[test]
fn it_takes_so_many_in_a_row_and_not_one_less() {
    let mut health = health(exact());
    health.checked(START, true);
    for ok in [false, false, true, false, false] {
        assert_eq!(health.checked(START, ok), None, "a success in between starts the count anew");
    }
    let down = health.checked(START, false).unwrap();
    assert_eq!((down.from, down.to), (State::Up, State::Down));
    for ok in [true, false, true] {
        assert_eq!(health.checked(START, ok), None);
    }
    assert_eq!(health.snapshot(START).against, 1);
    assert_eq!(health.checked(START, true).unwrap().to, State::Up);
    let told = health.snapshot(START);
    assert_eq!((told.checks, told.failures, told.against, told.needed), (11, 6, 0, 3));
}

#[test]
fn the_interval_is_short_while_unsure_and_exact_to_the_nanosecond() {
    let mut health = health(exact());
    assert_eq!(health.next(START), START, "the first check is due at once");
    let (sure, unsure) = (START.plus(exact().interval), START.plus(exact().unsure_interval));
    for (ok, due) in [(true, sure), (false, unsure), (false, unsure), (true, sure), (false, unsure)] {
        health.checked(START, ok);
        assert_eq!(health.next(START), due);
        assert!(health.next(before(due)) > before(due) && health.next(due) <= due);
    }
    health.checked(START, false);
    health.checked(START, false);
    assert_eq!((health.state(), health.next(START)), (State::Down, sure), "certain that it is down");
    health.checked(START, true);
    assert_eq!(health.next(START), unsure, "down, with hope");
}

#[test]
fn the_first_checks_of_many_are_spread() {
    let config = Valid::new(Config { jitter: 1.0, ..Config::default() }).unwrap();
    let firsts: Vec<_> = (0..1_000).map(|seed| Health::new(config, seed, START).next(START)).collect();
    let latest = START.plus(config.unsure_interval);
    assert!(firsts.iter().all(|&first| (START..latest).contains(&first)));
    let half = START.plus(config.unsure_interval / 2);
    let early = firsts.iter().filter(|&&first| first < half).count();
    assert!((400..600).contains(&early), "{early}");
}

#[test]
fn a_clock_set_back_does_not_stop_the_checks() {
    let mut health = health(exact());
    health.checked(Instant::FAR, true);
    assert_eq!(health.next(START), START);
    health.checked(START, true);
    assert_eq!(health.next(START), START.plus(exact().interval));
}

#[test]
fn shorter_numbers_apply_at_once() {
    let mut health = health(exact());
    health.checked(START, true);
    let faster = Config { interval: Duration::from_secs(1), ..exact() };
    health.reconfigure(Valid::new(faster).unwrap());
    assert_eq!(health.next(START), START, "what the new interval does not allow is due now");
}

proptest! {
    #[test]
    fn the_next_check_is_within_the_jitter_of_its_interval(
        seed in any::<u64>(), jitter in 0.0f64..1.0, results in prop::collection::vec(any::<bool>(), 1..50),
    ) {
        let config = Config { jitter, ..Config::default() };
        let mut health = Health::new(Valid::new(config).unwrap(), seed, START);
        for ok in results {
            health.checked(START, ok);
            let wait = if health.is_unsure() { config.unsure_interval } else { config.interval };
            let next = health.next(START).since(START);
            prop_assert!(next >= wait.mul_f64(1.0 - jitter) && next <= wait.mul_f64(1.0 + jitter));
        }
    }

    #[test]
    fn any_clock_is_survived_and_a_check_is_always_soon_due(
        steps in prop::collection::vec((any::<u64>(), any::<bool>()), 1..50), glance in any::<u64>(),
    ) {
        let mut health = health(Config::default());
        for (now, ok) in steps {
            health.checked(Instant::from_nanos(now), ok);
            let glance = Instant::from_nanos(glance);
            prop_assert!(health.next(glance).since(glance) <= Duration::from_secs(6));
        }
    }
}
