//! An outage outlasts its cause, or not, as calculated: see the table in `docs/simulate.md`.

use std::time::Duration;

use seaworthy_sim::tables::metastable::{Cell, Column, cell};

const SEED: u64 = 1;

fn after(column: Column, rate: f64, pause_ms: u64) -> Cell {
    cell(column, rate, Duration::from_millis(pause_ms), SEED)
}

/// Stuck after the pauses of the first list, and well again after those of the second.
fn compare(column: Column, stuck: &[(f64, u64)], well: &[(f64, u64)]) {
    for (expected, cases) in [(true, stuck), (false, well)] {
        for &(rate, pause) in cases {
            let cell = after(column, rate, pause);
            let place = format!("seed {SEED}, {}, {rate} a second, {pause} ms: {cell:?}", column.name());
            assert_eq!(cell.is_stuck(), expected, "{place}");
            assert!(expected || cell.last.success > 0.99, "{place}");
        }
    }
}

/// Not even the worst pause leaves anything behind: a second after it, all is well.
fn never(column: Column) {
    for (rate, pause) in [(290.0, 30_000), (280.0, 2_000), (100.0, 30_000)] {
        let cell = after(column, rate, pause);
        let place = format!("seed {SEED}, {}, {rate} a second, {pause} ms: {cell:?}", column.name());
        assert!(cell.after.success > 0.99 && cell.last.success > 0.99, "{place}");
    }
}

/// Published: stuck at 160 from 2 s, at 200 from 1.5 s; never at 100.
#[test]
fn one_retry_sticks_where_twice_the_load_is_too_much() {
    compare(Column::OneRetry, &[(160.0, 2_000), (200.0, 1_500)], &[(160.0, 1_000), (100.0, 30_000)]);
    let cell = after(Column::OneRetry, 200.0, 1_500);
    assert!((1.95..=2.15).contains(&cell.last.load), "{cell:?}");
}

/// Published: stuck at 100 from 3 s, at 140 from 2 s, with four times the load.
#[test]
fn three_retries_stick_at_a_third_of_the_capacity() {
    compare(Column::ThreeRetries, &[(100.0, 3_000), (140.0, 2_000)], &[(100.0, 2_000), (140.0, 1_000)]);
    let cell = after(Column::ThreeRetries, 100.0, 3_000);
    assert!((3.9..=4.3).contains(&cell.last.load), "{cell:?}");
}

/// Published: stuck from 280 and 1.5 s, where 1.1 times the load is too much.
#[test]
fn a_budget_alone_sticks_near_the_capacity() {
    compare(Column::Bucket, &[(280.0, 1_500), (290.0, 30_000)], &[(240.0, 10_000), (200.0, 30_000)]);
}

/// Published: stuck from 280.
#[test]
fn expiry_alone_sticks_near_the_capacity() {
    compare(Column::ThreeRetriesExpiry, &[(280.0, 2_000), (290.0, 30_000)], &[(200.0, 30_000)]);
}

/// Published: never, up to 290 a second and pauses of 30 s; well within a second.
#[test]
fn a_budget_and_expiry_never_stick() {
    never(Column::BucketExpiry);
}

/// Published: never; well within a second.
#[test]
fn the_newest_first_and_expiry_never_stick() {
    never(Column::ThreeRetriesLifo);
}

#[test]
fn the_defaults_never_stick() {
    never(Column::Default);
}
