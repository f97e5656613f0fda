extern crate std;

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const FAILED: Sample = Sample { failed: true, slow: false };

#[test]
fn an_empty_window_has_no_rates() {
    let totals = Window::over_calls(10).totals(Instant::ZERO);
    assert_eq!((totals.calls(), totals.failure_rate(), totals.slow_rate()), (0, 0.0, 0.0));
}

/// Windows that only reset on a change of state needed as many failures as there had been successes.
#[test]
fn a_million_successes_weigh_no_more_than_the_window() {
    let mut window = Window::over_calls(100);
    for _ in 0..1_000_000 {
        window.record(Instant::ZERO, Sample::default());
    }
    for _ in 0..50 {
        window.record(Instant::ZERO, FAILED);
    }
    assert_eq!(window.totals(Instant::ZERO), Totals { successes: 50, failures: 50, slow: 0 });
}

#[test]
fn a_failure_counts_for_fifteen_sixteenths_of_the_span_and_never_past_it() {
    for at in [0, 999, 1_000, 77_777] {
        let mut window = Window::over_time(Duration::from_millis(16_000));
        window.record(Instant::from_millis(at), FAILED);
        let failures = |after| window.totals(Instant::from_millis(at + after)).failures;
        assert_eq!((failures(15_000), failures(16_000)), (1, 0), "recorded at {at}");
    }
}

#[test]
fn exactly_one_slice_falls_out_at_its_moment() {
    let mut window = Window::over_time(Duration::from_millis(16_000));
    window.record(Instant::ZERO, FAILED);
    let end = Instant::from_millis(16_000);
    assert_eq!(window.totals(Instant::from_nanos(end.as_nanos() - 1)).failures, 1);
    assert_eq!(window.totals(end).failures, 0);
}

#[test]
fn clearing_forgets_everything_and_works_on() {
    for mut window in [Window::over_calls(70), Window::over_time(Duration::from_secs(1))] {
        window.fold(Instant::ZERO, 69);
        window.record(Instant::ZERO, FAILED);
        window.clear();
        assert_eq!(window.totals(Instant::ZERO), Totals::default());
        window.record(Instant::ZERO, FAILED);
        assert_eq!(window.totals(Instant::ZERO), Totals::from(FAILED));
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Record(Sample),
    Fold(u32),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (any::<bool>(), any::<bool>()).prop_map(|(failed, slow)| Step::Record(Sample { failed, slow })),
        10 => (0u32..150).prop_map(Step::Fold),
        1 => Just(Step::Clear),
    ]
}

fn sum(samples: impl IntoIterator<Item = Sample>) -> Totals {
    let mut totals = Totals::default();
    samples.into_iter().for_each(|sample| totals.add(&Totals::from(sample)));
    totals
}

proptest! {
    #[test]
    fn over_calls_it_equals_a_list_of_the_last_calls(
        length in 1u32..200, steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut window = Window::over_calls(length);
        let mut list = VecDeque::new();
        for step in steps {
            match step {
                Step::Record(sample) => {
                    window.record(Instant::ZERO, sample);
                    list.push_back(sample);
                }
                Step::Fold(successes) => {
                    window.fold(Instant::ZERO, successes);
                    list.extend((0..successes).map(|_| Sample::default()));
                }
                Step::Clear => {
                    window.clear();
                    list.clear();
                }
            }
            while list.len() > length as usize {
                list.pop_front();
            }
            prop_assert_eq!(window.totals(Instant::ZERO), sum(list.iter().copied()));
        }
    }

    /// Between what 15/16 of the span and what all of it would hold, at any moment.
    #[test]
    fn over_time_it_is_within_one_slice_of_exact(
        steps in prop::collection::vec((0u64..4_000, any::<bool>()), 1..80), ahead in 0u64..20_000,
    ) {
        let mut window = Window::over_time(Duration::from_millis(1_600));
        let mut all = VecDeque::new();
        let mut now = 0;
        for (gap, failed) in steps {
            now += gap % 500;
            let sample = Sample { failed, slow: !failed };
            window.record(Instant::from_millis(now), sample);
            all.push_back((now, sample));
        }
        for now in [now, now + ahead] {
            let since = |age: u64| sum(all.iter().filter(|(at, _)| at + age > now).map(|(_, s)| *s));
            let totals = window.totals(Instant::from_millis(now));
            prop_assert!(totals.failures >= since(1_500).failures && totals.failures <= since(1_600).failures);
            prop_assert!(totals.calls() >= since(1_500).calls() && totals.calls() <= since(1_600).calls());
        }
    }

    #[test]
    fn any_clock_is_survived(moments in prop::collection::vec((any::<u64>(), any::<bool>()), 1..100)) {
        let mut window = Window::over_time(Duration::from_secs(10));
        for (now, failed) in moments {
            let now = Instant::from_nanos(now);
            window.record(now, Sample { failed, slow: failed });
            let totals = window.totals(now);
            prop_assert!(totals.calls() >= 1 && totals.slow == totals.failures);
        }
    }

    #[test]
    fn reading_never_writes(now in any::<u64>(), later in any::<u64>()) {
        let mut window = Window::over_time(Duration::from_secs(10));
        window.record(Instant::from_nanos(now), FAILED);
        let before = window.totals(Instant::from_nanos(now));
        let _ = window.totals(Instant::from_nanos(later));
        prop_assert_eq!(window.totals(Instant::from_nanos(now)), before);
    }
}
