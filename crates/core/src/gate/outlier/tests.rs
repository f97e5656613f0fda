extern crate std;

use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{Rng, Rules, Seeded};

const START: Instant = Instant::from_millis(1_000_000);

fn outlier(config: Config) -> Outlier {
    Outlier::new(Valid::new(config).unwrap())
}

fn all_in(count: u32) -> Vec<(u32, bool)> {
    (0..count).map(|id| (id, false)).collect()
}

fn calls(successes: u32, failures: u32) -> Batch {
    Batch { successes, failures, ..Batch::default() }
}

/// `count` good calls of `millis` each.
fn timed(count: u32, millis: f64) -> Batch {
    let mut batch = Batch::default();
    (0..count).for_each(|_| batch.add(false, Some(Duration::from_secs_f64(millis / 1e3))));
    batch
}

fn ids(verdicts: &[Verdict]) -> Vec<u32> {
    verdicts.iter().map(|verdict| verdict.id).collect()
}

#[test]
fn the_defaults_are_valid_and_all_faults_are_told_at_once() {
    assert_eq!(Config::default().faults(), []);
    let wrong = Config {
        mode: Mode::Enforce,
        window: Duration::ZERO,
        minimum_failures: 0,
        error_excess: -0.1,
        slow_factor: Some(f64::NAN),
        slow_floor: Duration::ZERO,
        minimum_calls: 0,
        max_ejected: 0.0,
    };
    let fields: Vec<_> = wrong.faults().iter().map(|fault| fault.field).collect();
    let expected =
        ["window", "minimum_failures", "error_excess", "slow_factor", "minimum_calls", "max_ejected"];
    assert_eq!(fields, expected);
}

mod errors {
    use super::*;

    /// One of ten fails 20% of its calls, the others 0.1%: after how many of its calls it is found.
    fn calls_until_found(seed: u64) -> u32 {
        let (mut rng, mut outlier) = (Seeded::new(seed), outlier(Config::default()));
        let mut its_calls = 0;
        for call in 0..20_000 {
            // A thousand calls a second, each endpoint drawn alike.
            let now = START.plus(Duration::from_millis(call));
            let id = rng.below(10) as u32;
            let failed = rng.unit() < if id == 3 { 0.2 } else { 0.001 };
            its_calls += u32::from(id == 3);
            outlier.record(now, id, calls(u32::from(!failed), u32::from(failed)));
            match outlier.judge(now, &all_in(10)).as_slice() {
                [] => {}
                [Verdict { id: 3, cause: Cause::Errors, not_slower_than: None, .. }] => return its_calls,
                other => panic!("{other:?}, seed {seed}"),
            }
        }
        panic!("never found, seed {seed}");
    }

    #[test]
    fn one_of_ten_with_20_percent_errors_is_found_within_50_of_its_calls() {
        let mut after: Vec<_> = (0..20).map(calls_until_found).collect();
        after.sort_unstable();
        assert!(after[9] <= 50, "median {} of {after:?}", after[9]);
        assert!(after[19] <= 100, "{after:?}");
    }

    /// One of ten is well for a minute and fails 20% of its calls from then on: after how many of those it is found.
    fn calls_until_found_after_a_good_minute(seed: u64) -> u32 {
        let (mut rng, mut outlier) = (Seeded::new(seed), outlier(Config::default()));
        let mut its_calls = 0;
        for call in 0..120_000 {
            let now = START.plus(Duration::from_millis(call));
            let (id, ill) = (rng.below(10) as u32, call > 60_000);
            let failed = rng.unit() < if ill && id == 3 { 0.2 } else { 0.001 };
            its_calls += u32::from(ill && id == 3);
            outlier.record(now, id, calls(u32::from(!failed), u32::from(failed)));
            // As often as the keeper looks.
            if call % 100 == 0 && !outlier.judge(now, &all_in(10)).is_empty() {
                return its_calls;
            }
        }
        panic!("never found, seed {seed}");
    }

    #[test]
    fn nobody_lives_on_his_reputation() {
        let mut after: Vec<_> = (0..20).map(calls_until_found_after_a_good_minute).collect();
        after.sort_unstable();
        assert!(after[9] > 0 && after[9] <= 80, "median {} of {after:?}", after[9]);
    }

    #[test]
    fn a_whole_region_that_is_silent_is_found_by_the_other() {
        let mut outlier = outlier(Config::default());
        for second in 0..10 {
            (0..3).for_each(|id| outlier.record(START.plus(Duration::from_secs(second)), id, calls(60, 0)));
        }
        let now = START.plus(Duration::from_secs(10));
        (0..3).for_each(|id| outlier.record(now, id, calls(0, 24)));
        assert_eq!(outlier.judge(now, &all_in(6)), [], "it might be our own network");
        (3..6).for_each(|id| outlier.record(now, id, calls(12, 0)));
        assert_eq!(ids(&outlier.judge(now, &all_in(6))), [0, 1, 2]);
    }

    /// So many seconds of ten equal endpoints with that failure rate and so many calls a second, judged every second.
    fn among_equals(seconds: u64, rate: f64, calls_a_second: u32) {
        for seed in 0..20 {
            let (mut rng, mut outlier) = (Seeded::new(seed), outlier(Config::default()));
            for second in 0..seconds {
                let now = START.plus(Duration::from_secs(second));
                for _ in 0..calls_a_second {
                    let failed = rng.unit() < rate;
                    let id = rng.below(10) as u32;
                    outlier.record(now, id, calls(u32::from(!failed), u32::from(failed)));
                }
                assert_eq!(outlier.judge(now, &all_in(10)), [], "seed {seed}, second {second}");
            }
        }
    }

    #[test]
    fn among_equals_nobody_is_found() {
        among_equals(600, 0.01, 500);
    }

    #[test]
    fn among_equals_that_fail_often_and_are_called_little_nobody_is_found() {
        among_equals(300, 0.1, 50);
        among_equals(300, 0.4, 20);
    }

    #[test]
    fn few_calls_of_others_are_a_weak_measure() {
        for (of_others, found) in [(3, 0), (1_000, 1)] {
            let mut outlier = outlier(Config::default());
            outlier.record(START, 0, calls(15, 6));
            outlier.record(START, 1, calls(of_others, 0));
            assert_eq!(outlier.judge(START, &all_in(2)).len(), found);
        }
    }

    #[test]
    fn when_all_fail_alike_nobody_is_found() {
        let mut outlier = outlier(Config::default());
        (0..10).for_each(|id| outlier.record(START, id, calls(500, 500)));
        assert_eq!(outlier.judge(START, &all_in(10)), []);
    }

    #[test]
    fn a_certain_but_small_difference_is_nobodys_concern() {
        for (failures, found) in [(4_000, 0), (6_000, 1)] {
            let mut outlier = outlier(Config::default());
            (0..10).for_each(|id| outlier.record(START, id, calls(100_000, 0)));
            outlier.record(START, 0, calls(0, failures));
            assert_eq!(outlier.judge(START, &all_in(10)).len(), found);
        }
    }

    #[test]
    fn fewer_failures_than_the_minimum_are_nobodys_concern() {
        for (failures, found) in [(4, 0), (5, 1)] {
            let mut outlier = outlier(Config::default());
            (1..10).for_each(|id| outlier.record(START, id, calls(1_000, 0)));
            outlier.record(START, 0, calls(0, failures));
            assert_eq!(outlier.judge(START, &all_in(10)).len(), found, "{failures} failures");
        }
    }

    #[test]
    fn with_nobody_to_compare_nobody_is_found() {
        let mut outlier = outlier(Config::default());
        outlier.record(START, 0, calls(0, 1_000));
        assert_eq!(outlier.judge(START, &all_in(1)), []);
        assert_eq!(outlier.judge(START, &all_in(5)), [], "nor with four of which nothing is known");
    }

    #[test]
    fn what_the_window_has_forgotten_does_not_count() {
        for (age, found) in [(9, 1), (11, 0)] {
            let mut outlier = outlier(Config::default());
            outlier.record(START, 0, calls(0, 20));
            let now = START.plus(Duration::from_secs(age));
            (1..10).for_each(|id| outlier.record(now, id, calls(1_000, 0)));
            assert_eq!(outlier.judge(now, &all_in(10)).len(), found, "after {age} seconds");
        }
    }
}

mod latency {
    use super::*;

    #[test]
    fn who_is_far_away_is_compared_with_those_as_far() {
        let found = |slow_far: f64, places: fn(u32) -> u32| {
            let mut outlier = outlier(Config::default());
            for (id, millis) in (0..).zip([10.0, 10.0, 10.0, 70.0, 70.0, slow_far]) {
                outlier.record(START, id, timed(50, millis));
            }
            ids(&outlier.judge_by_place(START, &all_in(6), places))
        };
        assert_eq!(found(70.0, |id| id / 3), []);
        assert_eq!(found(300.0, |id| id / 3), [5]);
        assert_eq!(found(70.0, |_| 0), [3, 4, 5]);
    }

    /// A latency around `millis`, from a third of it to three times.
    fn spread(rng: &mut Seeded, millis: f64) -> Duration {
        let factor = (1..=4).fold(1.0, |factor, _| factor * if rng.unit() < 0.5 { 0.76 } else { 1.32 });
        Duration::from_secs_f64(millis * factor / 1e3)
    }

    fn run(seed: u64, slow: f64) -> Vec<Verdict> {
        let (mut rng, mut outlier) = (Seeded::new(seed), outlier(Config::default()));
        for second in 0..30 {
            let now = START.plus(Duration::from_secs(second));
            for id in 0..10 {
                let mut batch = Batch::default();
                let typical = if id == 4 { 10.0 * slow } else { 10.0 };
                // The balancer leaves it alone already: a tenth of its calls are left.
                let count = if id == 4 { 5 } else { 50 };
                (0..count).for_each(|_| batch.add(false, Some(spread(&mut rng, typical))));
                outlier.record(now, id, batch);
            }
            let found = outlier.judge(now, &all_in(10));
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    #[test]
    fn one_of_ten_ten_times_slower_is_found() {
        for seed in 0..20 {
            let found = run(seed, 10.0);
            let [Verdict { id: 4, cause: Cause::Latency, not_slower_than: Some(bound), seen, others }] =
                found[..]
            else {
                panic!("{found:?}, seed {seed}");
            };
            assert!(seen / others > 6.0 && seen / others < 16.0, "{seen} and {others}");
            assert!(bound > Duration::from_millis(20) && bound < Duration::from_millis(45), "{bound:?}");
        }
    }

    #[test]
    fn among_equals_and_at_twice_the_latency_nobody_is_found() {
        for seed in 0..20 {
            assert_eq!(run(seed, 1.0), []);
            assert_eq!(run(seed, 2.0), []);
        }
    }

    #[test]
    fn found_at_the_factor_and_not_below() {
        for (millis, found) in [(29.9, 0), (30.1, 1)] {
            let mut outlier = outlier(Config::default());
            (1..5).for_each(|id| outlier.record(START, id, timed(20, 10.0)));
            outlier.record(START, 0, timed(20, millis));
            assert_eq!(outlier.judge(START, &all_in(5)).len(), found, "{millis} ms");
        }
    }

    #[test]
    fn too_few_calls_or_too_small_a_difference_are_nobodys_concern() {
        for (count, fast, slow, found) in
            [(19, 10.0, 100.0, 0), (20, 10.0, 100.0, 1), (99, 0.5, 5.0, 0), (99, 0.5, 5.6, 1)]
        {
            let mut outlier = outlier(Config::default());
            (1..5).for_each(|id| outlier.record(START, id, timed(100, fast)));
            outlier.record(START, 0, timed(count, slow));
            assert_eq!(outlier.judge(START, &all_in(5)).len(), found, "{count} of {slow} ms");
        }
        let mut blind = outlier(Config { slow_factor: None, ..Config::default() });
        (0..5).for_each(|id| blind.record(START, id, timed(100, if id == 0 { 1e3 } else { 1.0 })));
        assert_eq!(blind.judge(START, &all_in(5)), []);
    }

    #[test]
    fn another_slow_one_hides_nothing() {
        let mut outlier = outlier(Config::default());
        (0..5).for_each(|id| {
            outlier.record(START, id, timed(50, [10.0, 10.0, 200.0, 10.0, 400.0][id as usize]))
        });
        assert_eq!(ids(&outlier.judge(START, &all_in(5))), [4, 2], "the worst first");
    }

    #[test]
    fn the_median_is_that_of_the_others() {
        let peer = |millis| Peer {
            spans: Default::default(),
            place: 0,
            id: 0,
            counts: Counts { timed: 20, ..Counts::default() },
            typical: Some(Duration::from_millis(millis)),
        };
        let peers = Peers::new([40, 10, 30, 20].map(peer).into(), 20);
        let medians =
            [10, 20, 30, 40].map(|own| peers.median_without(0, Duration::from_millis(own)).unwrap());
        assert_eq!(medians.map(|median| median.as_millis()), [30, 30, 20, 20]);
        let two = Peers::new([10, 20].map(peer).into(), 20);
        assert_eq!(two.median_without(0, Duration::from_millis(10)), Some(Duration::from_millis(20)));
        let one = Peers::new([10].map(peer).into(), 20);
        assert_eq!(one.median_without(0, Duration::from_millis(10)), None);
    }

    #[test]
    fn of_two_the_slower_is_found() {
        let mut outlier = outlier(Config::default());
        outlier.record(START, 0, timed(50, 10.0));
        outlier.record(START, 1, timed(50, 100.0));
        assert_eq!(ids(&outlier.judge(START, &all_in(2))), [1]);
    }

    #[test]
    fn the_probes_bound_is_what_would_be_found_again() {
        let mut outlier = outlier(Config::default());
        (0..3).for_each(|id| outlier.record(START, id, timed(50, if id == 2 { 300.0 } else { 10.0 })));
        let bound = outlier.judge(START, &all_in(3))[0].not_slower_than.unwrap();
        assert!(bound.abs_diff(Duration::from_millis(30)) < Duration::from_micros(30), "{bound:?}");
    }
}

mod ejection {
    use super::*;

    /// Of `count` endpoints, the first `bad` fail: the lower the id, the more.
    fn judged(share: f64, count: u32, bad: u32, out: u32) -> Vec<u32> {
        let mut outlier = outlier(Config { max_ejected: share, ..Config::default() });
        for id in 0..count {
            let failures = if id < bad { 500 - id } else { 0 };
            outlier.record(START, id, calls(if id < bad { 500 } else { 20_000 }, failures));
        }
        let members: Vec<_> = (0..count).map(|id| (id, id >= count - out)).collect();
        ids(&outlier.judge(START, &members))
    }

    #[test]
    fn the_worst_go_until_as_many_are_out_as_may_be() {
        assert_eq!(judged(0.5, 10, 7, 0), [0, 1, 2, 3, 4]);
        assert_eq!(judged(0.5, 10, 7, 2), [0, 1, 2], "whoever is out already counts");
        assert_eq!(judged(0.5, 10, 7, 5), []);
        assert_eq!(judged(0.29, 100, 40, 0).len(), 29);
    }

    #[test]
    fn one_of_two_or_more_may_always_be_out_and_one_always_stays() {
        assert_eq!(judged(0.1, 2, 1, 0), [0]);
        assert_eq!(judged(0.1, 5, 3, 0), [0]);
        assert_eq!(judged(0.1, 5, 3, 1), []);
        assert_eq!(judged(1.0, 2, 1, 1), []);
        assert_eq!(judged(1.0, 3, 1, 1), [0]);
    }

    #[test]
    fn not_even_two_that_are_bad_in_different_ways_may_both_go() {
        let mut outlier = outlier(Config { max_ejected: 1.0, ..Config::default() });
        outlier.record(START, 0, timed(100, 500.0));
        outlier.record(START, 1, timed(100, 10.0));
        outlier.record(START, 1, calls(0, 100));
        assert_eq!(ids(&outlier.judge(START, &all_in(2))), [1]);
    }

    #[test]
    fn who_was_found_needs_new_evidence() {
        let mut outlier = outlier(Config { mode: Mode::Observe, ..Config::default() });
        let record = |outlier: &mut Outlier| {
            (0..10).for_each(|id| outlier.record(START, id, calls(100, if id == 0 { 50 } else { 0 })));
        };
        record(&mut outlier);
        assert_eq!(ids(&outlier.judge(START, &all_in(10))), [0]);
        assert_eq!(outlier.snapshot(START, 0).calls, 0);
        assert_eq!(outlier.judge(START, &all_in(10)), []);
        record(&mut outlier);
        assert_eq!(ids(&outlier.judge(START, &all_in(10))), [0]);
    }

    #[test]
    fn what_ends_while_it_is_out_does_not_count_after_its_return() {
        let mut outlier = outlier(Config::default());
        (1..10).for_each(|id| outlier.record(START, id, calls(1_000, 0)));
        outlier.record(START, 0, calls(0, 100));
        let mut members = all_in(10);
        members[0].1 = true;
        assert_eq!(outlier.judge(START, &members), []);
        members[0].1 = false;
        assert_eq!(outlier.judge(START, &members), []);
    }

    #[test]
    fn who_is_out_is_no_measure() {
        let mut outlier = outlier(Config::default());
        outlier.record(START, 0, calls(100, 30));
        outlier.record(START, 1, calls(0, 1_000));
        outlier.record(START, 2, calls(10_000, 0));
        outlier.record(START, 3, calls(10_000, 0));
        assert_eq!(ids(&outlier.judge(START, &[(0, false), (1, true), (2, false), (3, false)])), [0]);
    }

    #[test]
    fn switched_off_it_remembers_and_finds_nothing() {
        let mut outlier = outlier(Config { mode: Mode::Off, ..Config::default() });
        outlier.record(START, 0, calls(0, 1_000));
        assert_eq!((outlier.snapshot(START, 0).calls, outlier.judge(START, &all_in(2)).len()), (0, 0));
    }

    #[test]
    fn verdicts_read_as_sentences() {
        let verdict =
            Verdict { id: 1, cause: Cause::Errors, not_slower_than: None, seen: 0.2, others: 0.001 };
        assert_eq!(verdict.to_string(), "20.0% of its calls fail, of the others' 0.1%");
        let verdict = Verdict { cause: Cause::Latency, seen: 0.1, others: 0.0104, ..verdict };
        assert_eq!(verdict.to_string(), "its calls take 100.0ms, the others' 10.4ms");
    }
}

#[test]
fn who_is_forgotten_is_gone_and_new_windows_are_empty() {
    let mut outlier = outlier(Config::default());
    outlier.record(START, 0, timed(10, 8.0));
    let told = outlier.snapshot(START, 0);
    assert_eq!((told.calls, told.failures, told.timed), (10, 0, 10));
    assert!(told.typical.unwrap().abs_diff(Duration::from_millis(8)) < Duration::from_micros(8));
    outlier.reconfigure(Valid::new(Config { minimum_calls: 1, ..Config::default() }).unwrap());
    assert_eq!(outlier.snapshot(START, 0), told);
    outlier.reconfigure(Valid::new(Config { window: Duration::from_secs(5), ..Config::default() }).unwrap());
    assert_eq!(outlier.snapshot(START, 0), Snapshot::default());
    outlier.record(START, 0, timed(10, 8.0));
    outlier.forget(0);
    assert_eq!(outlier.snapshot(START, 0), Snapshot::default());
}

#[test]
fn a_clock_set_back_freezes_no_window() {
    let mut outlier = outlier(Config::default());
    outlier.record(Instant::FAR, 0, calls(0, 100));
    outlier.record(START, 0, calls(1, 0));
    let later = START.plus(Duration::from_secs(11));
    assert_eq!(outlier.snapshot(later, 0).calls, 0);
}

proptest! {
    #[test]
    fn any_clock_and_any_numbers_are_survived(
        steps in prop::collection::vec((any::<u64>(), 0u32..6, any::<[u32; 3]>(), any::<u64>()), 0..60),
        out in any::<u8>(), glance in any::<u64>(),
    ) {
        let mut outlier = outlier(Config::default());
        let members: Vec<_> = (0..6).map(|id| (id, out >> id & 1 == 1)).collect();
        for (now, id, [successes, failures, timed], log2_nanos) in steps {
            let now = Instant::from_nanos(now);
            outlier.record(now, id, Batch { successes, failures, timed, log2_nanos });
            let (before, _) = (outlier.snapshot(now, id), outlier.snapshot(Instant::from_nanos(glance), id));
            prop_assert_eq!(outlier.snapshot(now, id), before);
            let found = outlier.judge(now, &members);
            let already = members.iter().filter(|(_, out)| *out).count();
            prop_assert!(found.is_empty() || found.len() + already <= 3);
            prop_assert!(found.iter().all(|verdict| !members[verdict.id as usize].1));
        }
    }
}
