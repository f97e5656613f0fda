//! Timeouts under a shift of latencies: the core's, one that stays, and one that learns from successes alone.

use seaworthy_sim::tables::shift::{Column, adaptive, cell, fixed, naive};

const SEED: u64 = 1;

/// At most half a percent of false timeouts after any shift, and an end to them within two seconds.
#[test]
fn the_adaptive_timeout_follows() {
    for column in Column::ALL {
        let row = cell(column, adaptive(), SEED);
        assert!(row.timed_out * 200 <= row.attempts, "seed {SEED}, {}: {row:?}", column.name());
        assert!(row.timed_out > 0, "nothing shifted: {row:?}");
        assert!(row.cut_off_for_s < 2.0, "seed {SEED}, {}: {row:?}", column.name());
    }
}

/// Published: 33%, 96% and 100%.
#[test]
fn a_timeout_of_250_ms_cuts_off_what_takes_longer() {
    for (column, published) in Column::ALL.into_iter().zip([0.33, 0.96, 1.0]) {
        let row = cell(column, fixed(), SEED);
        let measured = row.timed_out as f64 / row.attempts as f64;
        assert!((measured - published).abs() <= 0.01, "seed {SEED}, {}: {measured}", column.name());
    }
}

/// Published: 0.3%, 15%, and 100% for ever.
#[test]
fn what_learns_from_successes_alone_never_escapes() {
    let shares = Column::ALL.map(|column| naive(column, SEED).cut_off);
    assert!(shares[0] < 0.01, "{shares:?}");
    assert!((0.05..0.30).contains(&shares[1]), "{shares:?}");
    assert!(shares[2] > 0.999, "{shares:?}");
}
