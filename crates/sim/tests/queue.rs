//! Goodput under too much work: what was calculated, and what is promised of the core's queue and throttle. The table is in
//! `docs/simulate.md`.

use seaworthy_sim::tables::queue::{Column, cell};

const SEED: u64 = 1;
const LOADS: [f64; 4] = [0.9, 1.5, 2.0, 10.0];
/// What a refusal costs, where it does: a tenth of a request.
const COST: f64 = 0.1;

/// Refusals cost nothing, and then at ten times the capacity a tenth of a request.
fn compare(column: Column, free: [f64; 4], costly: f64) {
    for (load, expected) in LOADS.into_iter().zip(free) {
        let goodput = cell(column, load, 0.0, SEED);
        assert!((goodput - expected).abs() <= 0.03, "seed {SEED}, {load}: {goodput} is not {expected}");
    }
    let goodput = cell(column, 10.0, COST, SEED);
    assert!((goodput - costly).abs() <= 0.03, "seed {SEED}: {goodput} is not {costly}");
}

#[test]
fn the_oldest_first_serves_nobody_in_time() {
    compare(Column::Fifo, [0.90, 0.0, 0.0, 0.0], 0.0);
}

#[test]
fn a_short_queue_serves_all_that_can_be_served_unless_refusing_costs() {
    compare(Column::Fifo20, [0.89, 1.0, 1.0, 1.0], 0.0);
}

#[test]
fn expiry_alone_serves_most() {
    compare(Column::FifoExpiry, [0.90, 0.96, 0.94, 0.88], 0.0);
}

/// At least 95% of the capacity from 1.5 to 10 times as much work, with a limit that is known and with one that is learned.
#[test]
fn our_queue_serves_all_that_can_be_served() {
    for column in [Column::Queue, Column::Learned] {
        for load in [1.5, 2.0, 5.0, 10.0] {
            let goodput = cell(column, load, 0.0, SEED);
            assert!(goodput >= 0.95, "seed {SEED}, {}, {load}: {goodput}", column.name());
        }
        let calm = cell(column, 0.9, 0.0, SEED);
        assert!(calm >= 0.85, "seed {SEED}, {}: {calm}", column.name());
    }
}

/// At ten times the capacity 1 / (1 + 0.1 (2 - 1)) = 0.91 is left where a refusal costs a tenth; without the throttle nothing is.
#[test]
fn our_throttle_keeps_refusals_from_eating_the_server() {
    let alone = cell(Column::Queue, 10.0, COST, SEED);
    let throttled = cell(Column::Throttled, 10.0, COST, SEED);
    assert!(alone < 0.05 && throttled >= 0.90, "seed {SEED}: {alone}, {throttled}");
    let free = cell(Column::Throttled, 10.0, 0.0, SEED);
    assert!(free >= 0.95, "seed {SEED}: {free}");
}
