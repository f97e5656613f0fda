extern crate std;

use std::collections::BTreeMap as Map;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const NOW: Instant = Instant::from_millis(1_000);

fn config(calls: u32, burst: u32, keys: u32) -> Valid<Config> {
    Valid::new(Config { calls, burst, keys, ..Config::default() }).unwrap()
}

fn after(nanos: u64) -> Instant {
    NOW.plus_nanos(nanos)
}

#[test]
fn refused_a_nanosecond_before_and_admitted_at_the_moment() {
    let mut rate = Rate::new(config(3, 1, 10));
    assert_eq!(rate.admit(NOW, 1), Ok(None));
    // A third of a second, rounded up: the rate is never exceeded, not by a nanosecond's part.
    let early = rate.admit(after(333_333_333), 1).unwrap_err();
    assert_eq!(early, exceeded(Duration::from_nanos(1)));
    assert_eq!(rate.admit(after(333_333_334), 1), Ok(None));
}

#[test]
fn a_burst_is_as_large_as_said_and_comes_back_one_by_one() {
    let mut rate = Rate::new(config(10, 5, 10));
    let mut burst = |now| (0..9).filter(|_| rate.admit(now, 1).is_ok()).count();
    assert_eq!(burst(NOW), 5);
    assert_eq!(burst(after(250_000_000)), 2);
    assert_eq!(burst(after(3_600_000_000_000)), 5, "and no larger after an hour");
}

#[test]
fn who_comes_back_when_told_is_admitted() {
    let mut rate = Rate::new(config(7, 3, 10));
    let mut now = NOW;
    for _ in 0..100 {
        match rate.admit(now, 1) {
            Ok(_) => {}
            Err(rejection) => {
                now = now.plus(rejection.retry_after.unwrap());
                assert_eq!(rate.admit(now, 1), Ok(None));
            }
        }
    }
}

#[test]
fn a_key_over_its_rate_is_never_forgotten() {
    let mut rate = Rate::new(config(1, 1, 2));
    assert!(rate.admit(NOW, 1).is_ok() && rate.admit(NOW, 2).is_ok());
    // Both have spent all they have. A third shares what is left for the rest, and so does a fourth.
    assert_eq!(rate.admit(NOW, 3), Ok(None));
    assert!(rate.admit(NOW, 4).is_err());
    assert!(rate.admit(NOW, 1).is_err() && rate.admit(NOW, 2).is_err());
    assert_eq!((rate.snapshot(NOW).keys, rate.snapshot(NOW).over, rate.snapshot(NOW).crowded), (2, 2, 2));
    // A second later nothing has to be remembered of either.
    let later = after(1_000_000_000);
    assert!(rate.admit(later, 4).is_ok() && rate.admit(later, 5).is_ok());
    assert_eq!((rate.snapshot(later).keys, rate.snapshot(later).evicted), (2, 0));
}

#[test]
fn who_has_used_least_is_forgotten_first() {
    let mut rate = Rate::new(config(1, 3, 2));
    for key in [1, 1, 2] {
        assert!(rate.admit(NOW, key).is_ok());
    }
    assert!(rate.admit(NOW, 3).is_ok(), "2 makes room");
    assert_eq!(rate.snapshot(NOW).evicted, 1);
    assert!(rate.admit(NOW, 1).is_ok() && rate.admit(NOW, 1).is_err(), "1 is still known");
}

#[test]
fn a_clock_set_back_makes_nobody_wait_longer_than_an_interval() {
    let mut rate = Rate::new(config(10, 2, 10));
    let far = NOW.plus(Duration::from_secs(31_536_000));
    assert!((0..2).all(|_| rate.admit(far, 1).is_ok()));
    assert_eq!(rate.admit(NOW, 1), Ok(None), "the next call is due");
    assert_eq!(rate.admit(NOW, 1), Err(exceeded(Duration::from_millis(100))));
    assert_eq!(rate.admit(after(100_000_000), 1), Ok(None));
}

#[test]
fn observing_it_tells_and_off_it_does_not() {
    let numbers = |mode| Valid::new(Config { mode, calls: 1, burst: 1, ..Config::default() }).unwrap();
    let mut rate = Rate::new(numbers(Mode::Observe));
    assert_eq!(rate.admit(NOW, 1), Ok(None));
    assert_eq!(rate.admit(NOW, 1), Ok(Some(exceeded(Duration::from_secs(1)))));
    rate.reconfigure(numbers(Mode::Enforce));
    assert!(rate.admit(NOW, 1).is_err(), "what was used stays used");
    rate.reconfigure(numbers(Mode::Off));
    assert_eq!(rate.admit(NOW, 1), Ok(None));
    assert_eq!(rate.snapshot(NOW).rejected, 2);
}

#[test]
fn faults_are_told() {
    let wrong = Config { calls: 0, burst: 0, keys: 0, per: Duration::from_secs(90_000), mode: Mode::Enforce };
    let fields: Vec<_> = Valid::new(wrong).unwrap_err().into_iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["calls", "burst", "keys", "per"]);
    let too_fast = Config { calls: 2, per: Duration::from_nanos(1), ..Config::default() };
    assert_eq!(Valid::new(too_fast).unwrap_err()[0].field, "per");
}

proptest! {
    /// In any span of time a key gets its burst and what the rate adds in that span, and no call more; and as long as there is
    /// room, exactly what a table without bounds would give it.
    #[test]
    fn it_is_neither_exceeded_nor_withheld(
        calls in 1u32..50, burst in 1u32..20,
        steps in prop::collection::vec((0u64..200_000_000, 0u64..4), 1..200),
    ) {
        let mut rate = Rate::new(config(calls, burst, 4));
        let quota = rate.quota();
        let mut model: Map<u64, u64> = Map::new();
        let mut admitted: Vec<(u64, u64)> = Vec::new();
        let mut now = NOW;
        for (pass, key) in steps {
            now = now.plus_nanos(pass);
            let decision = quota.decide(model.get(&key).copied().unwrap_or(0), now);
            match (rate.admit(now, key), decision) {
                (Ok(None), Decision::Admit(tat)) => {
                    model.insert(key, tat);
                    admitted.push((key, now.as_nanos()));
                }
                (Err(rejection), Decision::Refuse(wait)) => prop_assert_eq!(rejection, exceeded(wait)),
                (got, should) => prop_assert!(false, "{:?} but {:?}", got, should),
            }
        }
        for (n, (key, from)) in admitted.iter().enumerate() {
            let mut count = 0;
            for (_, at) in admitted[n..].iter().filter(|(other, _)| other == key) {
                count += 1;
                prop_assert!(count <= u64::from(burst) + (at - from) / quota.interval_ns);
            }
        }
    }

    #[test]
    fn whatever_comes_it_stays_bounded_and_remembers_who_is_over(
        keys in 1u32..6, burst in 1u32..4,
        steps in prop::collection::vec((any::<u64>(), 0u32..64, 0u64..12), 1..150),
    ) {
        let mut rate = Rate::new(config(2, burst, keys));
        let mut now = NOW;
        for (jump, shift, key) in steps {
            now = if shift == 0 { Instant::from_nanos(jump) } else { now.plus_nanos(jump >> shift >> 20) };
            let over: Vec<u64> =
                rate.keys.iter().filter(|(_, tat)| rate.quota.is_over(**tat, now)).map(|(key, _)| *key).collect();
            let admitted = rate.admit(now, key).is_ok();
            prop_assert!(!(admitted && over.contains(&key)));
            prop_assert!(over.iter().all(|key| rate.keys.contains_key(key)));
            prop_assert!(rate.keys.len() <= keys as usize && rate.keys.len() == rate.times.len());
        }
    }
}
