extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const WINDOW: Duration = Duration::from_secs(10);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn close(estimate: Duration, truth: Duration) -> bool {
    estimate.abs_diff(truth).as_nanos() * 64 <= truth.as_nanos().max(estimate.as_nanos())
}

#[test]
fn an_empty_window_knows_nothing() {
    let latency = Quantile::new(WINDOW);
    assert_eq!(latency.quantile(Instant::ZERO, 0.5), None);
    assert_eq!(latency.count(Instant::FAR), 0);
}

/// Kaplan-Meier by hand: deaths at 1, 3, 5; cut off at 2 and 4. S = 4/5, then 4/5 * 2/3 = 8/15, then 0.
#[test]
fn the_estimate_matches_one_worked_by_hand() {
    let mut latency = Quantile::new(WINDOW);
    for (value, ended) in [(1, true), (2, false), (3, true), (4, false), (5, true)] {
        if ended {
            latency.record(Instant::ZERO, ms(value));
        } else {
            latency.record_above(Instant::ZERO, ms(value));
        }
    }
    let at = |q| latency.quantile(Instant::ZERO, q).unwrap();
    assert!(close(at(0.2).value, ms(1)));
    assert!(close(at(0.21).value, ms(3)));
    assert!(close(at(7.0 / 15.0).value, ms(3)));
    assert!(close(at(0.47).value, ms(5)));
    assert!(!at(1.0).above);
}

/// The latency shifts from 10 ms to 300 ms under a timeout of 20 ms: successes alone would go on saying 10 ms.
#[test]
fn a_shift_beyond_the_timeout_is_seen() {
    let mut latency = Quantile::new(WINDOW);
    for n in 0..1_000 {
        latency.record(Instant::from_millis(n), ms(10));
    }
    for n in 1_000..1_020 {
        latency.record_above(Instant::from_millis(n), ms(20));
    }
    let now = Instant::from_millis(1_020);
    assert_eq!(latency.quantile(now, 0.99), Some(Estimate { value: ms(20), above: true }));
    let [half, slow] = latency.quantiles(now, [0.5, 0.99]).unwrap();
    assert!(!half.above && close(half.value, ms(10)));
    assert!(slow.above);
}

#[test]
fn what_is_outside_the_range_goes_to_its_ends() {
    let mut latency = Quantile::new(WINDOW);
    latency.record(Instant::ZERO, Duration::ZERO);
    latency.record(Instant::ZERO, Duration::MAX);
    let [low, high] = latency.quantiles(Instant::ZERO, [0.0, 1.0]).unwrap();
    assert!(low.value < Duration::from_micros(2));
    assert!(high.value > Duration::from_secs(3_600));
    for odd in [f64::NAN, f64::INFINITY, -1.0, 2.0] {
        assert!(latency.quantile(Instant::ZERO, odd).is_some());
    }
}

#[test]
fn a_sample_counts_for_four_fifths_of_the_window_and_never_past_it() {
    for at in [0, 1_999, 2_000, 12_345] {
        let mut latency = Quantile::new(WINDOW);
        latency.record(Instant::from_millis(at), ms(1));
        assert_eq!(latency.count(Instant::from_millis(at + 8_000)), 1, "recorded at {at}");
        assert_eq!(latency.count(Instant::from_millis(at + 10_000)), 0, "recorded at {at}");
    }
}

#[test]
fn idle_years_and_clocks_set_back_leave_it_usable() {
    let mut latency = Quantile::new(WINDOW);
    latency.record(Instant::FAR, ms(5));
    latency.record(Instant::ZERO, ms(7));
    assert_eq!(latency.count(Instant::ZERO), 2);
    latency.record(Instant::from_millis(10_000), ms(9));
    assert_eq!(latency.count(Instant::from_millis(10_000)), 1, "what came before the jump has aged");
}

proptest! {
    #[test]
    fn without_cut_off_calls_it_is_the_plain_quantile(
        mut values in prop::collection::vec(1_024u64..3_600_000_000_000, 1..300), q in 0.0f64..=1.0,
    ) {
        let mut latency = Quantile::new(WINDOW);
        for &value in &values {
            latency.record(Instant::ZERO, Duration::from_nanos(value));
        }
        values.sort_unstable();
        // The least value with at least q of the samples at or below it; one sample either way at the rounding.
        let rank = (q * values.len() as f64 - 1e-7).ceil().max(1.0) as usize;
        let estimate = latency.quantile(Instant::ZERO, q).unwrap();
        prop_assert!(!estimate.above);
        prop_assert!(close(estimate.value, Duration::from_nanos(values[rank - 1])));
    }

    /// The textbook form, sample by sample, against the form over buckets.
    #[test]
    fn with_cut_off_calls_it_is_the_product_limit_estimate(
        samples in prop::collection::vec((0usize..40, any::<bool>()), 1..120), q in 0.01f64..0.99,
    ) {
        let mut latency = Quantile::new(WINDOW);
        // Values in the middle of buckets of their own, so that ties are ties in both forms.
        let values: Vec<_> = (0..40).map(|n| middle(200 + 7 * n)).collect();
        for &(value, ended) in &samples {
            if ended {
                latency.record(Instant::ZERO, values[value]);
            } else {
                latency.record_above(Instant::ZERO, values[value]);
            }
        }
        let mut survival = 1.0;
        let mut expected = None;
        for (n, value) in values.iter().enumerate() {
            let at_risk = samples.iter().filter(|(v, _)| *v >= n).count() as f64;
            let ended = samples.iter().filter(|(v, ended)| *v == n && *ended).count() as f64;
            if ended > 0.0 {
                survival *= 1.0 - ended / at_risk;
                // Leave out cases that hang on the last bit.
                prop_assume!((survival - (1.0 - q)).abs() > 1e-9);
                if survival < 1.0 - q {
                    expected = Some(*value);
                    break;
                }
            }
        }
        let estimate = latency.quantile(Instant::ZERO, q).unwrap();
        match expected {
            Some(value) => prop_assert_eq!(estimate, Estimate { value, above: false }),
            None => {
                let longest = samples.iter().filter(|(_, ended)| !ended).map(|(v, _)| values[*v]).max().unwrap();
                prop_assert_eq!(estimate, Estimate { value: longest, above: true });
            }
        }
    }

    #[test]
    fn any_clock_is_survived(
        moments in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 1..60), q in any::<f64>(),
    ) {
        let mut latency = Quantile::new(WINDOW);
        for (now, value, ended) in moments {
            let (now, value) = (Instant::from_nanos(now), Duration::from_nanos(value));
            if ended { latency.record(now, value) } else { latency.record_above(now, value) }
            prop_assert!(latency.count(now) >= 1, "what was just recorded counts");
            prop_assert!(latency.quantile(now, q).is_some());
            let _ = (latency.count(Instant::ZERO), latency.quantile(Instant::FAR, q));
        }
    }
}
