//! Every interleaving of a few threads at the shells: what they publish is what the sequential core would say of the
//! same events in some order, and nothing is given out twice.

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use seaworthy_core::call::{self, Extra, Shared, budget};
use seaworthy_core::gate::breaker::{self, State};
use seaworthy_core::gate::limit;
use seaworthy_core::gate::queue::{self, Asking};
use seaworthy_core::gate::throttle;
use seaworthy_core::{Criticality, Failure, Instant, Outcome, Pushback, Valid};

use super::cells::LOOM_SLOT;
use super::door::Entering;
use super::{Breaker, Commons, Door, Limit, Throttle};

const NOW: Instant = Instant::from_millis(1_000);
const FAILED: Outcome = Outcome::failed(Failure::Error);

/// Runs `work` on a thread with a cell of its own.
fn on_cell(cell: usize, work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        LOOM_SLOT.with(|slot| slot.set(cell));
        work();
    })
}

#[test]
fn a_limit_never_gives_out_more_than_there_is() {
    loom::model(|| {
        let config = limit::Config { max_in_flight: 1, ..Default::default() };
        let limit = Arc::new(Limit::new(Valid::new(config).unwrap()));
        let held = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|cell| {
                let (limit, held) = (limit.clone(), held.clone());
                on_cell(cell, move || {
                    if let Ok(permit) = limit.admit(NOW) {
                        assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0, "given out twice");
                        held.fetch_sub(1, Ordering::SeqCst);
                        limit.release(permit);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(limit.snapshot().in_flight, 0);
        assert!(limit.admit(NOW).is_ok(), "and none is lost");
    });
}

#[test]
fn a_limit_that_moves_never_gives_out_more_than_it_was_and_holds_what_it_became() {
    loom::model(|| {
        let config = limit::Config { max_in_flight: 2, ..Default::default() };
        let limit = Arc::new(Limit::new(Valid::new(config).unwrap()));
        let held = Arc::new(AtomicUsize::new(0));
        let pressed = {
            let limit = limit.clone();
            on_cell(0, move || {
                assert_eq!(limit.press(0.5), Some(limit::Change { from: 2, to: 1 }));
            })
        };
        let admitted = {
            let (limit, held) = (limit.clone(), held.clone());
            on_cell(1, move || {
                let permits: Vec<_> = (0..3).filter_map(|_| limit.try_admit()).collect();
                assert!((1..=2).contains(&permits.len()), "more or fewer than it ever was");
                held.store(permits.len(), Ordering::SeqCst);
                // The calls stay in flight.
                std::mem::forget(permits);
            })
        };
        pressed.join().unwrap();
        admitted.join().unwrap();
        assert_eq!(limit.snapshot().in_flight as usize, held.load(Ordering::SeqCst));
        assert!(limit.admit(NOW).is_err(), "no more start until fewer are in flight");
    });
}

#[test]
fn a_shared_limit_moves_as_a_sequential_one_would() {
    let config = limit::Config {
        algorithm: limit::Algorithm::Aimd,
        initial: 2,
        min_in_flight: 1,
        ..Default::default()
    };
    let config = Valid::new(config).unwrap();
    let took = Duration::from_millis(1);
    // Nine calls have ended, and with the tenth the window is complete.
    let mut sequential = limit::Limit::new(config);
    for _ in 0..9 {
        let permit = sequential.admit().unwrap();
        sequential.settle(NOW, permit, Outcome::Success, took);
    }
    let later = NOW.plus(Duration::from_millis(500));
    let permits = [(); 2].map(|()| sequential.admit().unwrap());
    let changes = permits.map(|permit| sequential.settle(later, permit, Outcome::Success, took));
    let change = changes[0].unwrap();
    assert_eq!(changes[1], None);
    loom::model(move || {
        let limit = Arc::new(Limit::new(config));
        for _ in 0..9 {
            let permit = limit.admit(NOW).unwrap();
            limit.settle(NOW, permit, Outcome::Success, took);
        }
        let moved = Arc::new(AtomicUsize::new(0));
        let permits = [(); 2].map(|()| limit.admit(NOW).unwrap());
        let mut cell = 0;
        let threads = permits.map(|permit| {
            let (limit, moved) = (limit.clone(), moved.clone());
            cell += 1;
            on_cell(cell - 1, move || {
                if let Some(told) = limit.settle(later, permit, Outcome::Success, took) {
                    assert_eq!(told, change);
                    moved.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(moved.load(Ordering::SeqCst), 1, "told once");
        assert_eq!((limit.snapshot().max_in_flight, limit.snapshot().in_flight), (change.to, 0));
    });
}

#[test]
fn a_shared_throttle_learns_of_every_refusal_and_of_each_once() {
    const REFUSED: Outcome = Outcome::Overloaded(Pushback::Unsaid);
    let config = Valid::new(throttle::Config::default()).unwrap();
    let later = NOW.plus(Duration::from_millis(200));
    let mut sequential = throttle::Throttle::new(config);
    (0..40).for_each(|_| sequential.settle(NOW, Criticality::Critical, REFUSED));
    (0..3).for_each(|_| sequential.settle(later, Criticality::Critical, REFUSED));
    let latest = later.plus(Duration::from_millis(200));
    sequential.settle(latest, Criticality::Critical, REFUSED);
    let told = sequential.snapshot(latest);
    assert!(sequential.is_active() && told.shares.iter().any(|share| *share > 0.0), "{told:?}");
    loom::model(move || {
        let throttle = Arc::new(Throttle::new(config));
        (0..40).for_each(|_| throttle.settle(NOW, Criticality::Critical, REFUSED));
        // They put together what there is, one of them or both, while the other still adds to it.
        let threads = [(0, 2), (1, 1)].map(|(cell, calls)| {
            let throttle = throttle.clone();
            on_cell(cell, move || {
                (0..calls).for_each(|_| throttle.settle(later, Criticality::Critical, REFUSED));
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        throttle.settle(latest, Criticality::Critical, REFUSED);
        assert_eq!(throttle.snapshot(latest), told);
        let refused = (0..100).filter(|_| throttle.admit(latest, Criticality::Critical).is_err()).count();
        assert!(refused > 0, "what was learned is asked for");
    });
}

fn breaker_config() -> breaker::Config {
    let minimum_calls = 1_000;
    breaker::Config { consecutive_failures: Some(2), minimum_calls, ..Default::default() }
}

/// The states that the sequential core can reach with `outcomes` in any order that keeps the second and third in theirs.
fn sequential(outcomes: [Outcome; 3]) -> Vec<(State, u64)> {
    [[0, 1, 2], [1, 0, 2], [1, 2, 0]]
        .into_iter()
        .map(|order| {
            let mut core = breaker::Breaker::new(Valid::new(breaker_config()).unwrap(), 1);
            // All were admitted before any ended.
            let mut tickets = [(); 3].map(|()| core.admit(NOW).ok());
            for n in order {
                core.settle(NOW, tickets[n].take().unwrap(), outcomes[n]);
            }
            let snapshot = core.snapshot(NOW);
            (snapshot.state, snapshot.totals.calls())
        })
        .collect()
}

#[test]
fn a_shared_breaker_says_what_a_sequential_one_would() {
    let outcomes = [Outcome::Success, FAILED, FAILED];
    let allowed = sequential(outcomes);
    loom::model(move || {
        let breaker = Arc::new(Breaker::new(Valid::new(breaker_config()).unwrap(), 1));
        let [a, b, c] = [(); 3].map(|()| breaker.admit(NOW).unwrap());
        let good = {
            let breaker = breaker.clone();
            on_cell(0, move || {
                breaker.settle(NOW, a, outcomes[0]);
            })
        };
        let bad = {
            let breaker = breaker.clone();
            on_cell(1, move || {
                breaker.settle(NOW, b, outcomes[1]);
                breaker.settle(NOW, c, outcomes[2]);
            })
        };
        good.join().unwrap();
        bad.join().unwrap();
        let snapshot = breaker.snapshot(NOW);
        let end = (snapshot.state, snapshot.totals.calls());
        assert!(allowed.contains(&end), "{end:?} is none of {allowed:?}");
    });
}

#[test]
fn a_half_open_breaker_lets_one_probe_through() {
    loom::model(|| {
        let breaker = Arc::new(Breaker::new(Valid::new(breaker_config()).unwrap(), 1));
        for _ in 0..2 {
            let ticket = breaker.admit(NOW).unwrap();
            breaker.settle(NOW, ticket, FAILED);
        }
        let later = NOW.plus(Duration::from_secs(3_600));
        let admitted = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|cell| {
                let (breaker, admitted) = (breaker.clone(), admitted.clone());
                on_cell(cell, move || {
                    if let Ok(probe) = breaker.admit(later) {
                        admitted.fetch_add(1, Ordering::SeqCst);
                        // The probe stays out.
                        std::mem::forget(probe);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(admitted.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_shared_budget_is_never_overdrawn_and_loses_no_deposit() {
    loom::model(|| {
        let config = call::Config {
            budget: budget::Config { share: 0.5, per_second: 0.0, burst: 2 },
            ..Default::default()
        };
        let commons = Arc::new(Commons::new(Valid::new(config).unwrap()));
        let granted = Arc::new(AtomicUsize::new(0));
        let withdraw = |commons: &Commons, granted: &AtomicUsize| {
            let mut shared = commons;
            if shared.withdraw(NOW, Extra::Retry) {
                granted.fetch_add(1, Ordering::SeqCst);
            }
        };
        // The bucket is empty, and each thread deposits half a token.
        withdraw(&commons, &granted);
        withdraw(&commons, &granted);
        let threads: Vec<_> = (0..2)
            .map(|cell| {
                let (commons, granted) = (commons.clone(), granted.clone());
                on_cell(cell, move || {
                    let mut shared: &Commons = &commons;
                    shared.deposit(NOW);
                    withdraw(&commons, &granted);
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        withdraw(&commons, &granted);
        assert_eq!(granted.load(Ordering::SeqCst), 3);
    });
}

/// Counts how often a waiting call was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn narrow_door() -> Door {
    let limit = limit::Config { max_in_flight: 1, ..limit::Config::default() };
    Door::new(Valid::new(limit).unwrap(), Valid::new(queue::Config::default()).unwrap())
}

const ASKING: Asking = Asking { criticality: Criticality::Critical, client: 1, deadline: None };

#[test]
fn a_place_that_becomes_free_is_never_missed() {
    loom::model(|| {
        let door = Arc::new(narrow_door());
        let held = door_poll(&door, &mut Entering::new(), &Default::default()).unwrap();
        let leaver = {
            let door = door.clone();
            on_cell(0, move || door.release(NOW, held))
        };
        let woken = std::sync::Arc::new(Woken::default());
        let mut entering = Entering::new();
        let at_once = door_poll(&door, &mut entering, &woken);
        leaver.join().unwrap();
        let admitted = match at_once {
            Some(permit) => Some(permit),
            None => {
                assert!(woken.0.load(Ordering::SeqCst) > 0, "a place is free, and nobody said so");
                door_poll(&door, &mut entering, &woken)
            }
        };
        door.release(NOW, admitted.unwrap());
        assert_eq!(door.snapshot(NOW).limit.in_flight, 0);
    });
}

#[test]
fn a_door_never_lets_in_more_than_it_may() {
    loom::model(|| {
        let door = Arc::new(narrow_door());
        let inside = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|cell| {
                let (door, inside) = (door.clone(), inside.clone());
                on_cell(cell, move || {
                    let mut entering = Entering::new();
                    match door_poll(&door, &mut entering, &Default::default()) {
                        Some(permit) => {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            door.release(NOW, permit);
                        }
                        // The caller goes away, perhaps when it has just been given a place.
                        None => entering.leave(&door, NOW),
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        let snapshot = door.snapshot(NOW);
        assert_eq!((snapshot.limit.in_flight, snapshot.queue.waiting), (0, [0; 4]));
    });
}

#[test]
fn a_place_given_to_one_who_has_left_goes_to_the_next() {
    loom::model(|| {
        let door = Arc::new(narrow_door());
        let held = door_poll(&door, &mut Entering::new(), &Default::default()).unwrap();
        let (mut first, mut second) = (Entering::new(), Entering::new());
        let woken = std::sync::Arc::new(Woken::default());
        assert!(door_poll(&door, &mut first, &Default::default()).is_none());
        assert!(door_poll(&door, &mut second, &woken).is_none());
        let (giver, leaver) = (door.clone(), door.clone());
        let giver = on_cell(0, move || giver.release(NOW, held));
        let leaver = on_cell(1, move || first.leave(&leaver, NOW));
        giver.join().unwrap();
        leaver.join().unwrap();
        assert!(woken.0.load(Ordering::SeqCst) > 0, "a place is free, and nobody said so");
        let permit = door_poll(&door, &mut second, &woken).unwrap();
        door.release(NOW, permit);
    });
}

#[test]
fn one_who_is_turned_away_costs_nobody_a_place() {
    // Three threads: without a bound it takes too long. Three preemptions suffice to find the fault that this is about.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let limit = limit::Config { max_in_flight: 1, ..Default::default() };
        let queue = queue::Config { size: 1, ..Default::default() };
        let door = Arc::new(Door::new(Valid::new(limit).unwrap(), Valid::new(queue).unwrap()));
        let held = door_poll(&door, &mut Entering::new(), &Default::default()).unwrap();
        let leaver = {
            let door = door.clone();
            on_cell(0, move || door.release(NOW, held))
        };
        let turned_away = {
            let door = door.clone();
            on_cell(1, move || {
                let asking = Asking { criticality: Criticality::Sheddable, ..ASKING };
                let mut entering = Entering::new();
                let waker = std::sync::Arc::new(Woken::default()).into();
                match entering.poll(&door, NOW, asking, &mut std::task::Context::from_waker(&waker)) {
                    std::task::Poll::Ready(Ok(permit)) => door.release(NOW, permit),
                    std::task::Poll::Ready(Err(_)) => {}
                    std::task::Poll::Pending => entering.leave(&door, NOW),
                }
            })
        };
        let woken = std::sync::Arc::new(Woken::default());
        let mut entering = Entering::new();
        let at_once = door_poll(&door, &mut entering, &woken);
        leaver.join().unwrap();
        turned_away.join().unwrap();
        let admitted = at_once.or_else(|| {
            assert!(woken.0.load(Ordering::SeqCst) > 0, "a place is free, and nobody said so");
            door_poll(&door, &mut entering, &woken)
        });
        door.release(NOW, admitted.unwrap());
        assert_eq!(door.snapshot(NOW).limit.in_flight, 0);
    });
}

#[test]
fn a_raised_limit_is_never_missed() {
    loom::model(|| {
        let door = Arc::new(narrow_door());
        let held = door_poll(&door, &mut Entering::new(), &Default::default()).unwrap();
        let raiser = {
            let door = door.clone();
            let raised = limit::Config { max_in_flight: 2, ..Default::default() };
            on_cell(0, move || door.reconfigure(NOW, Valid::new(raised).unwrap()))
        };
        let woken = std::sync::Arc::new(Woken::default());
        let mut entering = Entering::new();
        let at_once = door_poll(&door, &mut entering, &woken);
        raiser.join().unwrap();
        let admitted = at_once.or_else(|| {
            assert!(woken.0.load(Ordering::SeqCst) > 0, "a place is free, and nobody said so");
            door_poll(&door, &mut entering, &woken)
        });
        door.release(NOW, admitted.unwrap());
        door.release(NOW, held);
        assert_eq!(door.snapshot(NOW).limit.in_flight, 0);
    });
}

fn door_poll(door: &Door, entering: &mut Entering, woken: &std::sync::Arc<Woken>) -> Option<limit::Permit> {
    let waker = woken.clone().into();
    match entering.poll(door, NOW, ASKING, &mut std::task::Context::from_waker(&waker)) {
        std::task::Poll::Ready(admitted) => Some(admitted.unwrap()),
        std::task::Poll::Pending => None,
    }
}
