extern crate std;

use alloc::collections::VecDeque;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{Failure, Pushback, Rng, Seeded};

fn fixed(mode: Mode) -> Limit {
    Limit::new(Valid::new(Config { mode, max_in_flight: 3, ..Config::default() }).unwrap())
}

#[test]
fn the_last_place_is_given_and_none_after_it() {
    let mut limit = fixed(Mode::Enforce);
    let mut permits: Vec<_> = (0..3).map(|_| limit.admit().unwrap()).collect();
    assert_eq!(limit.admit(), Err(FULL));
    limit.release(permits.pop().unwrap());
    assert!(limit.admit().is_ok());
    assert_eq!(limit.snapshot().rejected, 1);
}

#[test]
fn who_can_wait_is_held_back_and_not_rejected() {
    let mut limit = fixed(Mode::Enforce);
    let _permits: Vec<_> = (0..3).map(|_| limit.try_admit().unwrap()).collect();
    assert_eq!(limit.try_admit(), None);
    assert_eq!((limit.snapshot().in_flight, limit.snapshot().rejected), (3, 0));
}

#[test]
fn observing_it_counts_tells_and_admits() {
    let mut limit = fixed(Mode::Observe);
    let permits: Vec<_> = (0..5).map(|_| limit.admit().unwrap()).collect();
    let told: Vec<_> = permits.iter().map(|permit| permit.shadow().is_some()).collect();
    assert_eq!(told, [false, false, false, true, true]);
    assert_eq!((limit.snapshot().in_flight, limit.snapshot().rejected), (5, 2));
    permits.into_iter().for_each(|p| limit.release(p));
    assert_eq!(limit.snapshot().in_flight, 0);
}

const MOVING: [Algorithm; 3] = [Algorithm::Aimd, Algorithm::Gradient2, Algorithm::Vegas];
const MEASURING: [Algorithm; 2] = [Algorithm::Gradient2, Algorithm::Vegas];

fn config(algorithm: Algorithm) -> Valid<Config> {
    Valid::new(Config { algorithm, ..Config::default() }).unwrap()
}

/// An upstream with workers and an unbounded queue before them, behind a limit, under an open load: calls come whether or not
/// others were answered.
struct World {
    limit: Limit,
    rng: Seeded,
    now: Instant,
    workers: usize,
    service: Duration,
    exponential: bool,
    next_arrival: Instant,
    /// When each busy worker is done, and when its call was admitted.
    busy: Vec<(Instant, Instant, Permit)>,
    queue: VecDeque<(Instant, Permit)>,
    slowest: Duration,
    served: u32,
    refused: u32,
    probes: u32,
    limits: (u32, u32),
}

impl World {
    fn new(algorithm: Algorithm, workers: usize, service: Duration, exponential: bool) -> Self {
        Self {
            limit: Limit::new(config(algorithm)),
            rng: Seeded::new(7),
            now: Instant::from_millis(1),
            workers,
            service,
            exponential,
            next_arrival: Instant::from_millis(1),
            busy: Vec::new(),
            queue: VecDeque::new(),
            slowest: Duration::ZERO,
            served: 0,
            refused: 0,
            probes: 0,
            limits: (0, 0),
        }
    }

    /// Calls that the upstream can serve in a second.
    fn capacity(&self) -> f64 {
        self.workers as f64 / self.service.as_secs_f64()
    }

    fn draw(&mut self, mean: f64) -> Duration {
        Duration::from_secs_f64(-(1.0 - self.rng.unit()).ln() * mean)
    }

    /// Lets `rate` calls a second come for a while. Counts anew.
    fn run(&mut self, seconds: f64, rate: f64) -> &Self {
        let end = self.now.plus(Duration::from_secs_f64(seconds));
        (self.served, self.refused, self.slowest, self.probes) = (0, 0, Duration::ZERO, 0);
        self.limits = (u32::MAX, 0);
        loop {
            let done = self.busy.iter().enumerate().min_by_key(|(_, (done, ..))| *done);
            match done.map(|(n, (done, ..))| (n, *done)) {
                Some((n, done)) if done <= self.next_arrival && done <= end => self.finish(n, done),
                _ if self.next_arrival <= end => self.arrive(rate),
                _ => break,
            }
            let limit = self.limit.snapshot().max_in_flight;
            self.limits = (self.limits.0.min(limit), self.limits.1.max(limit));
        }
        self.now = end;
        self
    }

    fn arrive(&mut self, rate: f64) {
        self.now = self.next_arrival;
        self.next_arrival = self.now.plus(self.draw(1.0 / rate));
        match self.limit.admit() {
            Ok(permit) => self.queue.push_back((self.now, permit)),
            Err(_) => self.refused += 1,
        }
        self.start();
    }

    fn start(&mut self) {
        while self.busy.len() < self.workers
            && let Some((came, permit)) = self.queue.pop_front()
        {
            let mean = self.service.as_secs_f64();
            let took = if self.exponential { self.draw(mean) } else { self.service };
            self.busy.push((self.now.plus(took), came, permit));
        }
    }

    fn finish(&mut self, n: usize, done: Instant) {
        let (_, came, permit) = self.busy.swap_remove(n);
        self.now = done;
        let took = done.since(came);
        self.slowest = self.slowest.max(took);
        self.served += 1;
        let was = self.limit.snapshot().probing;
        self.limit.settle(done, permit, Outcome::Success, took);
        self.probes += u32::from(!was && self.limit.snapshot().probing);
        self.start();
    }
}

#[test]
fn an_overload_settles_soon_and_costs_no_throughput() {
    for algorithm in MEASURING {
        // Vegas takes its time where no call is like the next, and is not meant for it.
        for exponential in [false, algorithm == Algorithm::Gradient2] {
            for load in [1.5, 10.0] {
                for (workers, ms) in [(4, 20), (32, 50), (100, 20)] {
                    let service = Duration::from_millis(ms);
                    let mut world = World::new(algorithm, workers, service, exponential);
                    let rate = world.capacity() * load;
                    let what = std::format!("{algorithm:?} {exponential} {load} {workers} x {ms}ms");
                    // A second, or fifty calls' time: where each call differs from the next, few say little.
                    world.run(f64::from(ms as u32).mul_add(0.05, 1.0), rate);
                    let served = f64::from(world.run(3.0, rate).served) / 3.0 / world.capacity();
                    assert!(served > 0.95, "{what}: {served} of what it can at {:?}", world.limits);
                    // Twenty calls in flight from the start make the least latency look greater, until a probe.
                    let most = (workers as u32 * 3).max(40);
                    assert!(world.limits.1 <= most, "{what}: {:?}", world.limits);
                }
            }
        }
    }
}

#[test]
fn an_overload_of_ten_minutes_does_not_drive_the_limit_up() {
    for algorithm in MEASURING {
        for exponential in [false, true] {
            let mut world = World::new(algorithm, 16, Duration::from_millis(80), exponential);
            let rate = world.capacity() * 2.0;
            world.run(540.0, rate);
            let served = f64::from(world.run(60.0, rate).served) / 60.0 / world.capacity();
            assert!(served > 0.95, "{algorithm:?} {exponential}: {served}");
            assert!(world.limits.1 <= 48, "{algorithm:?} {exponential}: {:?}", world.limits);
            assert!(world.probes > 0);
        }
    }
}

#[test]
fn a_baseline_learned_in_an_overload_is_corrected() {
    for algorithm in MEASURING {
        // From the first call on, twenty calls are in flight where four are served.
        let mut world = World::new(algorithm, 4, Duration::from_millis(10), false);
        let rate = world.capacity() * 3.0;
        world.run(20.0, rate);
        let baseline = world.limit.snapshot().baseline.unwrap();
        assert!(baseline < Duration::from_millis(12), "{algorithm:?}: {baseline:?}");
        assert!(world.run(10.0, rate).limits.1 <= 12, "{algorithm:?}: {:?}", world.limits);
    }
}

#[test]
fn nothing_is_refused_and_nothing_probed_below_capacity() {
    for algorithm in MOVING {
        let mut world = World::new(algorithm, 32, Duration::from_millis(50), false);
        let rate = world.capacity() * 0.5;
        world.run(5.0, rate);
        world.run(120.0, rate);
        let share = f64::from(world.refused) / f64::from(world.served);
        assert!(share < 1e-3, "{algorithm:?}: {share} refused at {:?}", world.limits);
        if world.refused == 0 {
            assert_eq!(world.probes, 0, "{algorithm:?}");
        }
    }
}

#[test]
fn a_new_capacity_is_found_soon() {
    for algorithm in MEASURING {
        let mut world = World::new(algorithm, 100, Duration::from_millis(50), false);
        let rate = world.capacity() * 1.5;
        world.run(20.0, rate);
        // Nine of ten workers are gone, then they come back.
        world.workers = 10;
        world.run(20.0, rate);
        let few = f64::from(world.run(10.0, rate).served) / 10.0 / world.capacity();
        assert!(few > 0.95 && world.limits.1 <= 40, "{algorithm:?}: {few} {:?}", world.limits);
        world.workers = 100;
        world.run(20.0, rate);
        let all = f64::from(world.run(10.0, rate).served) / 10.0 / world.capacity();
        assert!(all > 0.95, "{algorithm:?}: {all} {:?}", world.limits);
    }
}

/// Feeds windows of a hundred calls that take `took`, with as many in flight as may be.
fn windows(learner: &mut Learner, now: &mut Instant, count: u32, took: Duration) -> u32 {
    let mut least = u32::MAX;
    for _ in 0..count {
        let mut batch = Batch { held_back: 1, ..Batch::default() };
        for n in 0..100 {
            // A little uneven.
            batch.add(Outcome::Success, took + took * n / 1000, learner.limit());
        }
        *now = now.plus(Duration::from_millis(200).max(took * 3));
        learner.learn(*now, &batch);
        least = least.min(learner.limit());
    }
    least
}

#[test]
fn a_stale_minimum_is_given_up() {
    for algorithm in MEASURING {
        let (mut learner, mut now) = (Learner::new(config(algorithm)), Instant::ZERO);
        windows(&mut learner, &mut now, 5, Duration::from_millis(1));
        let before = learner.limit();
        // From now on every call takes twenty times as long, however few are in flight.
        let least = windows(&mut learner, &mut now, 100, Duration::from_millis(20));
        assert!(least > before / 2, "{algorithm:?} fell from {before} to {least}");
        assert!(learner.limit() > before, "{algorithm:?} rose from {before} to {}", learner.limit());
        assert!(learner.learned().baseline.unwrap() >= Duration::from_millis(20));
    }
}

#[test]
fn one_outlier_moves_next_to_nothing() {
    for (algorithm, outlier) in [
        (Algorithm::Vegas, Duration::from_secs(60)),
        (Algorithm::Vegas, Duration::from_micros(10)),
        (Algorithm::Gradient2, Duration::from_secs(60)),
        (Algorithm::Gradient2, Duration::from_micros(10)),
        (Algorithm::Aimd, Duration::from_secs(60)),
    ] {
        let (mut learner, mut now) = (Learner::new(config(algorithm)), Instant::ZERO);
        windows(&mut learner, &mut now, 50, Duration::from_millis(20));
        let before = learner.limit();
        let mut batch = Batch::default();
        batch.add(Outcome::Success, outlier, before);
        learner.learn(now, &batch);
        let least = windows(&mut learner, &mut now, 50, Duration::from_millis(20));
        assert!(f64::from(least) >= f64::from(before) * 0.9, "{algorithm:?} fell from {before} to {least}");
    }
}

#[test]
fn a_limit_that_is_not_used_does_not_grow() {
    for algorithm in MOVING {
        let (mut learner, mut now) = (Learner::new(config(algorithm)), Instant::ZERO);
        for in_flight in [9, 15] {
            for _ in 0..50 {
                let mut batch = Batch::default();
                for _ in 0..100 {
                    batch.add(Outcome::Success, Duration::from_millis(5), in_flight);
                }
                now = now.plus(Duration::from_millis(200));
                learner.learn(now, &batch);
                if in_flight == 9 {
                    assert_eq!(learner.limit(), 20, "{algorithm:?}");
                }
            }
        }
        assert!(learner.limit() > 20, "{algorithm:?} grows once half of it is used");
    }
}

#[test]
fn what_the_upstream_refuses_lowers_every_kind() {
    for algorithm in MOVING {
        for outcome in
            [Outcome::Overloaded(Pushback::Unsaid), Outcome::Failure(Failure::Unprocessed, Pushback::Unsaid)]
        {
            let mut learner = Learner::new(config(algorithm));
            let mut batch = Batch::default();
            for n in 0..100 {
                let outcome = if n < 3 { outcome } else { Outcome::Success };
                batch.add(outcome, Duration::from_millis(5), 20);
            }
            learner.learn(Instant::from_millis(1), &Batch::default());
            let change = learner.learn(Instant::from_millis(500), &batch);
            assert_eq!(change, Some(Change { from: 20, to: 18 }), "{algorithm:?}");
        }
    }
}

#[test]
fn timeouts_are_latencies_and_calls_given_up_at_once_are_not() {
    let mut batch = Batch::default();
    for _ in 0..10 {
        batch.add(Outcome::Success, Duration::from_millis(10), 1);
        batch.add(Outcome::failed(Failure::Connect), Duration::from_micros(1), 1);
    }
    let typical = batch.level().unwrap().log2;
    let mut given_up = batch;
    given_up.add(Outcome::Abandoned, Duration::from_micros(1), 1);
    assert!((given_up.level().unwrap().log2 - typical).abs() < 1e-9);
    let mut late = batch;
    late.add(Outcome::failed(Failure::Timeout), Duration::from_secs(1), 1);
    assert!(late.level().unwrap().log2 > typical + 0.1);
    assert_eq!((late.calls, late.timed_out, late.most_in_flight), (21, 1, 1));
}

#[test]
fn pressure_lowers_a_fixed_limit_too_and_never_to_nothing() {
    let mut limit = Learner::new(config(Algorithm::Fixed));
    assert_eq!(limit.press(0.5), Some(Change { from: 1024, to: 512 }));
    assert_eq!(limit.press(0.0), Some(Change { from: 512, to: 1 }));
    assert_eq!(limit.press(f64::NAN), Some(Change { from: 1, to: 1024 }));
}

#[test]
fn new_numbers_keep_what_was_learned_between_their_bounds() {
    let (mut learner, mut now) = (Learner::new(config(Algorithm::Vegas)), Instant::ZERO);
    windows(&mut learner, &mut now, 20, Duration::from_millis(10));
    let learned = learner.limit();
    assert!(learned > 50);
    let numbers = |algorithm, max_in_flight| {
        Valid::new(Config { algorithm, max_in_flight, ..Config::default() }).unwrap()
    };
    learner.reconfigure(numbers(Algorithm::Gradient2, 1024));
    assert_eq!(learner.limit(), learned);
    learner.reconfigure(numbers(Algorithm::Gradient2, 30));
    assert_eq!(learner.limit(), 30);
    learner.reconfigure(numbers(Algorithm::Fixed, 500));
    assert_eq!(learner.limit(), 500);
    learner.reconfigure(numbers(Algorithm::Aimd, 500));
    assert_eq!(learner.limit(), 20);
}

#[test]
fn faults_are_told() {
    let wrong = Config {
        algorithm: Algorithm::Vegas,
        min_in_flight: 9,
        max_in_flight: 8,
        initial: 0,
        baseline_window: Duration::ZERO,
        ..Config::default()
    };
    let fields: Vec<_> = Valid::new(wrong).unwrap_err().into_iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["min_in_flight", "initial", "baseline_window"]);
    assert!(Valid::new(Config { algorithm: Algorithm::Fixed, ..wrong }).is_ok(), "none of them matters");
}

fn outcome(n: u8) -> Outcome {
    match n {
        0..=3 => Outcome::Success,
        4 => Outcome::failed(Failure::Timeout),
        5 => Outcome::Overloaded(Pushback::Unsaid),
        6 => Outcome::Abandoned,
        _ => Outcome::failed(Failure::Error),
    }
}

proptest! {
    #[test]
    fn whatever_it_is_told_it_stays_within_its_bounds_and_steps(
        algorithm in 0usize..3, least in 1u32..50, room in 0u32..2000, initial in 1u32..3000,
        steps in prop::collection::vec((any::<u64>(), 0u32..70, 0u8..9, any::<u32>(), 0u32..80), 1..80),
    ) {
        let numbers = Config {
            algorithm: MOVING[algorithm], min_in_flight: least, max_in_flight: least + room, initial, ..Config::default()
        };
        let mut learner = Learner::new(Valid::new(numbers).unwrap());
        let mut now = Instant::ZERO;
        for (jump, shift, what, in_flight, calls) in steps {
            // Mostly a little ahead, at times anywhere, back as well.
            now = if shift > 63 { Instant::from_nanos(jump) } else { now.plus_nanos(jump >> shift >> 20) };
            let mut batch = Batch { held_back: 1, ..Batch::default() };
            for _ in 0..calls {
                batch.add(outcome(what), Duration::from_nanos(jump.rotate_left(7) >> (shift & 63)), in_flight);
            }
            let before = learner.limit();
            let probed = learner.learned().probing;
            learner.learn(now, &batch);
            let after = learner.limit();
            prop_assert!((least..=least + room).contains(&after), "{after}");
            if !probed && !learner.learned().probing {
                prop_assert!(f64::from(after) >= (f64::from(before) * 0.9).floor() - 1.0, "{before} to {after}");
            }
        }
    }

    #[test]
    fn batches_are_the_same_in_any_division(calls in prop::collection::vec((0u8..9, any::<u32>(), 0u32..99), 0..60), cut in 0usize..60) {
        let sum = |calls: &[(u8, u32, u32)]| {
            let mut batch = Batch::default();
            for (what, took, in_flight) in calls {
                batch.add(outcome(*what), Duration::from_nanos((*took).into()), *in_flight);
            }
            batch
        };
        let (a, b) = calls.split_at(cut.min(calls.len()));
        let mut parts = sum(b);
        parts.merge(&sum(a));
        prop_assert_eq!(parts, sum(&calls));
    }
}
