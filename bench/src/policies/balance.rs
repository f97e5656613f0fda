//! Choosing an endpoint: the same choice among ten and among ten thousand.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use seaworthy_core::balance::{Algorithm, Ask, Config, Member, Picker, Table, View};
use seaworthy_core::stats::ewma::Ewma;
use seaworthy_core::{Instant, Valid};

use super::{Calls, Case, Shared, Worker};

pub(super) fn cases() -> Vec<Case> {
    let case = |policy, library, build| Case { policy, library, most_threads: 2, build };
    vec![
        case("choose of 10", "peak ewma", || chooser(Algorithm::PeakEwma, 10)),
        case("choose of 10,000", "peak ewma", || chooser(Algorithm::PeakEwma, 10_000)),
        case("choose of 10", "round robin", || chooser(Algorithm::RoundRobin, 10)),
        case("choose of 10,000", "round robin", || chooser(Algorithm::RoundRobin, 10_000)),
        case("choose of 10", "consistent hash", || chooser(Algorithm::ConsistentHash, 10)),
        case("choose of 10,000", "consistent hash", || chooser(Algorithm::ConsistentHash, 10_000)),
    ]
}

/// One table for all threads, and a picker and latencies for each, as the proxy's workers have them.
fn chooser(algorithm: Algorithm, members: u32) -> Shared {
    let config = Valid::new(Config { algorithm, ..Config::default() }).unwrap_or_default();
    let hash = |id: u32| u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let all: Vec<Member> = (0..members)
        .map(|id| Member { id, weight: 1 + id % 2, hash: hash(id), ..Member::default() })
        .collect();
    let table = Arc::new(Table::build(config, Instant::ZERO, &all));
    Box::new(move || {
        let mut latency = Ewma::peak(Duration::from_secs(10));
        latency.record(Instant::ZERO, Duration::from_millis(5));
        let seen = Rc::new(Seen { latencies: vec![latency; members as usize] });
        let (table, picker) = (table.clone(), Rc::new(RefCell::new(Picker::new(7))));
        let worker: Worker = Box::new(move |calls| -> Calls {
            let (table, picker, seen) = (table.clone(), picker.clone(), seen.clone());
            Box::pin(async move {
                let mut picker = picker.borrow_mut();
                (0..calls).all(|call| {
                    let ask = Ask { key: Some(call.wrapping_mul(0x9E37_79B9_7F4A_7C15)), may_probe: true };
                    black_box(picker.pick(&table, ask, &*seen)).is_some()
                })
            })
        });
        worker
    })
}

/// Endpoints whose latency is known and that have nothing in flight.
struct Seen {
    latencies: Vec<Ewma>,
}

impl View for Seen {
    fn cost(&self, id: u32) -> f64 {
        let now = Instant::from_millis(1_000);
        self.latencies[id as usize].value(now).map_or(0.0, |latency| latency.as_secs_f64())
    }

    fn in_flight(&self, _: u32) -> u32 {
        0
    }

    fn total_in_flight(&self) -> u32 {
        0
    }

    fn allowed(&self, _: u32) -> bool {
        true
    }
}
