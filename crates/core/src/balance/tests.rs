//! What the table and the picker do together.

extern crate std;

use core::cell::Cell;
use core::time::Duration;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::{Valid, nanos};

mod choice;
mod table;

const NOW: Instant = Instant::from_millis(1_000_000);

/// A fake of what a worker sees; ids are indexes. It counts how often it is asked.
struct Seen {
    in_flight: Vec<u32>,
    latency: Vec<f64>,
    refused: Vec<bool>,
    full: Vec<u16>,
    asked: Cell<u32>,
}

impl Seen {
    fn idle(members: usize) -> Self {
        Self {
            in_flight: vec![0; members],
            latency: vec![1.0; members],
            refused: vec![false; members],
            full: vec![],
            asked: Cell::new(0),
        }
    }

    fn ask<T>(&self, answer: T) -> T {
        self.asked.set(self.asked.get() + 1);
        answer
    }
}

impl View for Seen {
    fn cost(&self, id: u32) -> f64 {
        let id = id as usize;
        self.ask(self.latency[id] * f64::from(self.in_flight[id] + 1))
    }

    fn in_flight(&self, id: u32) -> u32 {
        self.ask(self.in_flight[id as usize])
    }

    fn total_in_flight(&self) -> u32 {
        self.ask(self.in_flight.iter().sum())
    }

    fn allowed(&self, id: u32) -> bool {
        self.ask(!self.refused[id as usize])
    }

    fn has_room(&self, region: u16) -> bool {
        self.ask(!self.full.contains(&region))
    }
}

fn member(id: u32) -> Member {
    Member { id, hash: u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15), ..Member::default() }
}

fn members(count: u32) -> Vec<Member> {
    (0..count).map(member).collect()
}

fn with(algorithm: Algorithm) -> Config {
    Config { algorithm, ..Config::default() }
}

fn build(config: Config, members: &[Member]) -> Table {
    Table::build(Valid::new(config).unwrap(), NOW, members)
}

/// How often each id is picked in `times` picks that change nothing.
fn picks(table: &Table, ask: Ask, view: &Seen, times: u32) -> BTreeMap<u32, u32> {
    let (mut picker, mut counts) = (Picker::new(7), BTreeMap::new());
    for _ in 0..times {
        let id = picker.pick(table, ask, view).unwrap();
        *counts.entry(id).or_insert(0) += 1;
    }
    counts
}

/// How the picks of a steady load of `at_once` calls at a time are distributed; each call takes its endpoint's latency.
fn loaded(table: &Table, view: &mut Seen, at_once: u32, times: u32) -> Vec<f64> {
    let (mut picker, mut running) = (Picker::new(7), BTreeMap::new());
    let mut counts = vec![0.0; view.in_flight.len()];
    let mut now = 0u64;
    for n in 0..times {
        if n >= at_once {
            let ((ends, _), id) = running.pop_first().unwrap();
            now = ends;
            view.in_flight[id as usize] -= 1;
        }
        let id = picker.pick(table, Ask { key: Some(u64::from(n)), may_probe: false }, view).unwrap();
        counts[id as usize] += 1.0 / f64::from(times);
        view.in_flight[id as usize] += 1;
        let took = nanos(Duration::from_secs_f64(view.latency[id as usize] / 1e3));
        // A little jitter, or all calls keep step.
        running.insert((now + took + u64::from(n) * 7_919 % (took / 2 + 1), n), id);
    }
    counts
}

#[track_caller]
fn near(value: f64, expected: f64, tolerance: f64) {
    assert!((value - expected).abs() <= tolerance, "{value} instead of {expected}");
}
