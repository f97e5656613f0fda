//! A timeout under a shift of latencies, as published for other rules, and the core's.

use seaworthy_sim::tables::shift::{Column, adaptive, cell, fixed};

#[test]
fn probe() {
    for seed in 0..5 {
        for column in Column::ALL {
            for (name, timeout) in [("fixed", fixed()), ("adaptive", adaptive())] {
                let row = cell(column, timeout, seed);
                println!(
                    "{:>8} {name:>9} {:.4} {:.1} p99 {}",
                    column.name(),
                    row.timed_out as f64 / row.attempts as f64,
                    row.cut_off_for_s,
                    row.p99_ms
                );
            }
        }
    }
}
