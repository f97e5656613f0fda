//! Retries against budgets as published: success within a percentage point, load within 2%.

use seaworthy_sim::tables::budgets::{Column, cell};

/// The share of requests that fail; success and load without retries, with three retries, and with a budget.
const PUBLISHED: [(f64, [(f64, f64); 3]); 5] = [
    (0.05, [(0.950, 1.00), (1.000, 1.05), (0.9998, 1.05)]),
    (0.10, [(0.901, 1.00), (1.000, 1.11), (0.985, 1.09)]),
    (0.20, [(0.802, 1.00), (0.998, 1.25), (0.886, 1.11)]),
    (0.50, [(0.501, 1.00), (0.937, 1.88), (0.557, 1.11)]),
    (1.00, [(0.000, 1.00), (0.000, 4.00), (0.000, 1.11)]),
];
const SEED: u64 = 1;

fn compare(column: Column) {
    for (failures, published) in PUBLISHED {
        let (success, load) = published[column as usize];
        let row = cell(column, failures, SEED);
        assert!((row.success - success).abs() <= 0.01, "seed {SEED}, {failures}: {row:?}");
        assert!((row.load / load - 1.0).abs() <= 0.02, "seed {SEED}, {failures}: {row:?}");
    }
}

#[test]
fn without_retries() {
    compare(Column::NoRetries);
}

#[test]
fn with_three_retries() {
    compare(Column::ThreeRetries);
}

#[test]
fn with_a_budget() {
    compare(Column::Budget);
}
