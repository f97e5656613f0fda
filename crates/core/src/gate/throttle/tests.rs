extern crate std;

use proptest::prelude::*;

use super::*;

const START: Instant = Instant::from_millis(1_000_000);

fn throttle(config: Config) -> Throttle {
    Throttle::new(Valid::new(config).unwrap())
}

/// An upstream that accepts `capacity` calls a second, asked `rate` times a second for `seconds`; returns what was sent and what was
/// not, of the second half.
fn drive(throttle: &mut Throttle, from: Instant, rate: u64, capacity: u64, seconds: u64) -> (u64, u64) {
    let (mut sent, mut throttled, mut served, mut second) = (0, 0, 0, u64::MAX);
    for n in 0..rate * seconds {
        let now = from.plus_nanos(n * 1_000_000_000 / rate);
        if n / rate != second {
            (second, served) = (n / rate, 0);
        }
        let late = n >= rate * seconds / 2;
        if throttle.admit(now, Criticality::Critical).is_err() {
            throttled += u64::from(late);
            continue;
        }
        sent += u64::from(late);
        // Spread over the second, as a server's capacity is.
        let due = (n % rate + 1) * capacity / rate;
        let outcome = if served < due { Outcome::Success } else { Outcome::Overloaded(Pushback::Unsaid) };
        served += u64::from(outcome == Outcome::Success);
        throttle.settle(now, Criticality::Critical, outcome);
    }
    (sent, throttled)
}

#[test]
fn what_is_sent_is_as_many_times_the_capacity_as_was_asked_for() {
    // Table T5: at x times the capacity c, min(x, K) * c are sent, and max(0, 1 - K / x) are not.
    for (multiplier, load, expected) in
        [(2.0, 3, 1.0 / 3.0), (2.0, 5, 0.6), (2.0, 10, 0.8), (1.1, 10, 0.89), (2.0, 1, 0.0)]
    {
        let mut throttle = throttle(Config { multiplier, most: 1.0, ..Config::default() });
        let (sent, throttled) = drive(&mut throttle, START, 100 * load, 100, 40);
        let share = throttled as f64 / (sent + throttled) as f64;
        assert!((share - expected).abs() < 0.02, "K {multiplier}, x {load}: {share} and not {expected}");
    }
}

/// How long after a total refusal of a minute the last call is throttled, of so many a second.
fn recovery(multiplier: f64, rate: u64) -> Duration {
    let mut throttle = throttle(Config { multiplier, ..Config::default() });
    drive(&mut throttle, START, rate, 0, 60);
    let share = throttle.snapshot(START).shares[Criticality::Critical.rank()];
    assert!(share > 0.8, "{share}");
    let recovered = START.plus(Duration::from_secs(60));
    let mut last = recovered;
    for n in 0..60 * rate {
        let now = recovered.plus_nanos(n * 1_000_000_000 / rate);
        match throttle.admit(now, Criticality::Critical) {
            Ok(_) => throttle.settle(now, Criticality::Critical, Outcome::Success),
            Err(_) => last = now,
        }
    }
    last.since(recovered)
}

#[test]
fn an_upstream_that_recovers_gets_all_of_its_calls_within_seconds() {
    for (multiplier, rate) in [(2.0, 100), (2.0, 1_000), (2.0, 10_000), (1.1, 1_000), (1.1, 10_000)] {
        let took = recovery(multiplier, rate);
        assert!(took < Duration::from_secs(4), "K {multiplier}, {rate} a second: {took:?}");
    }
}

#[test]
fn a_few_calls_are_always_sent() {
    let mut throttle = throttle(Config { most: 1.0, ..Config::default() });
    let (sent, _) = drive(&mut throttle, START, 1_000, 0, 20);
    assert!((50..=250).contains(&sent), "{sent} in ten seconds, where ten a second must be");
}

#[test]
fn what_matters_least_is_not_sent_first() {
    let mut throttle = throttle(Config::default());
    let mut now = START;
    let (mut refused, mut capacity) = ([0; LEVELS], 0.0);
    for n in 0..20_000_u64 {
        now = now.plus(Duration::from_millis(1));
        // It can serve 300 calls a second, of which 250 are critical.
        capacity = f64::min(capacity + 0.3, 10.0);
        let criticality = if n % 4 == 0 { Criticality::Critical } else { Criticality::Sheddable };
        if throttle.admit(now, criticality).is_err() {
            refused[criticality.rank()] += 1;
            continue;
        }
        let outcome = if capacity >= 1.0 { Outcome::Success } else { Outcome::Overloaded(Pushback::Unsaid) };
        capacity -= f64::from(u8::from(outcome == Outcome::Success));
        throttle.settle(now, criticality, outcome);
    }
    assert_eq!(refused[Criticality::Critical.rank()], 0, "{refused:?}");
    assert!(refused[Criticality::Sheddable.rank()] > 4_000, "{refused:?}");
}

#[test]
fn a_refusal_says_when_the_upstream_wants_to_be_asked_again() {
    let mut throttle = throttle(Config { probes_per_second: 0.0, ..Config::default() });
    let told = Outcome::Overloaded(Pushback::After(Duration::from_secs(7)));
    (0..100).for_each(|_| throttle.settle(START, Criticality::Critical, told));
    let later = START.plus(Duration::from_secs(1));
    let mut refusals = (0..10).filter_map(|_| throttle.admit(later, Criticality::Critical).err());
    assert_eq!(refusals.next().unwrap().retry_after, Some(Duration::from_secs(6)));
}

#[test]
fn observing_refuses_nothing_and_says_what_it_would() {
    let mut throttle = throttle(Config { mode: Mode::Observe, ..Config::default() });
    let refused = Outcome::Overloaded(Pushback::Unsaid);
    (0..100).for_each(|_| throttle.settle(START, Criticality::Critical, refused));
    let later = START.plus(Duration::from_millis(200));
    let shadows = (0..10).filter_map(|_| throttle.admit(later, Criticality::Critical).unwrap()).count();
    assert!(shadows > 0);
    assert_eq!(throttle.snapshot(later).rejected, shadows as u64);
}

proptest! {
    /// Whatever the clock does, the shares are shares, and an idle window forgets.
    #[test]
    fn no_clock_confuses_it(steps in prop::collection::vec((any::<u64>(), any::<bool>()), 1..50)) {
        let mut throttle = throttle(Config::default());
        for (nanos, good) in steps {
            let now = Instant::from_nanos(nanos);
            let _ = throttle.admit(now, Criticality::Critical);
            let outcome = if good { Outcome::Success } else { Outcome::Overloaded(Pushback::After(Duration::MAX)) };
            throttle.settle(now, Criticality::Critical, outcome);
            prop_assert!(throttle.shares.iter().all(|share| (0.0..=1.0).contains(share)));
        }
    }
}
