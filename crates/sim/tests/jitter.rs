//! Backoff and jitter as published: writes within 3%, time to finish within 6% (ten clients: 10%).

use seaworthy_core::call::retry::Jitter;
use seaworthy_sim::tables::jitter::{Column, cell};

/// Calls and milliseconds until the last client is through, for 10, 50, 100 and 190 clients.
const PUBLISHED: [(Column, [(f64, f64); 4]); 5] = [
    (Column::NoBackoff, [(51.0, 382.0), (692.0, 1_146.0), (2_418.0, 2_035.0), (8_010.0, 3_544.0)]),
    (
        Column::Backoff(Jitter::None),
        [(51.0, 3_508.0), (622.0, 36_483.0), (1_852.0, 64_065.0), (5_155.0, 101_131.0)],
    ),
    (Column::Backoff(Jitter::Equal), [(43.0, 728.0), (347.0, 4_262.0), (813.0, 6_606.0), (1_758.0, 9_387.0)]),
    (Column::Backoff(Jitter::Full), [(39.0, 472.0), (333.0, 2_847.0), (795.0, 4_913.0), (1_772.0, 7_457.0)]),
    (
        Column::Backoff(Jitter::Decorrelated),
        [(38.0, 428.0), (375.0, 2_121.0), (1_000.0, 4_569.0), (2_441.0, 7_862.0)],
    ),
];
const CLIENTS: [usize; 4] = [10, 50, 100, 190];
const TRIALS: u32 = 100;
const SEED: u64 = 1;

#[test]
fn writes_and_times_are_those_published() {
    let mut wrong = Vec::new();
    for (column, published) in PUBLISHED {
        for (clients, (calls, finish_ms)) in CLIENTS.into_iter().zip(published) {
            let measured = cell(column, clients, TRIALS, SEED);
            let (most_calls, most_finish): (f64, f64) =
                if clients == 10 { (0.03, 0.10) } else { (0.03, 0.06) };
            let off = [measured.calls / calls - 1.0, measured.finish_ms / finish_ms - 1.0];
            // The published counts are whole numbers.
            if off[0].abs() > most_calls.max(0.5 / calls) || off[1].abs() > most_finish {
                wrong.push((column.name(), clients, measured, off));
            }
        }
    }
    assert!(wrong.is_empty(), "seed {SEED}: {wrong:#?}");
}
