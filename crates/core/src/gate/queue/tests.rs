extern crate std;

use proptest::prelude::*;
use std::vec;

use super::*;

const AT: Instant = Instant::from_millis(1_000_000);

fn queue(size: u32) -> Queue {
    Queue::new(Valid::new(Config { size, ..Config::default() }).unwrap())
}

fn asking(criticality: Criticality, client: u64) -> Asking {
    Asking { criticality, client, deadline: None }
}

fn join(queue: &mut Queue, now: Instant, criticality: Criticality, client: u64) -> Id {
    queue.join(now, asking(criticality, client)).unwrap().id
}

fn ms(n: u64) -> Instant {
    AT.plus(Duration::from_millis(n))
}

#[test]
fn what_matters_more_goes_first() {
    let mut queue = queue(10);
    let low = join(&mut queue, AT, Criticality::Sheddable, 1);
    let high = join(&mut queue, AT, Criticality::CriticalPlus, 1);
    let plain = join(&mut queue, AT, Criticality::Critical, 1);
    let order: Vec<_> = core::iter::from_fn(|| queue.next(AT)).collect();
    assert_eq!(order, [high, plain, low]);
}

#[test]
fn clients_take_turns() {
    let mut queue = queue(10);
    let noisy: Vec<_> = (0..4).map(|_| join(&mut queue, AT, Criticality::Critical, 1)).collect();
    let quiet = join(&mut queue, AT, Criticality::Critical, 2);
    let order: Vec<_> = core::iter::from_fn(|| queue.next(AT)).collect();
    assert_eq!(order, [noisy[0], quiet, noisy[1], noisy[2], noisy[3]]);
}

#[test]
fn the_newest_goes_first_once_the_queue_is_overloaded() {
    let mut queue = queue(10);
    let ids: Vec<_> = (0..4).map(|n| join(&mut queue, ms(n), Criticality::Critical, 1)).collect();
    assert_eq!(queue.next(ms(50)), Some(ids[0]));
    assert!(queue.is_overloaded(ms(100)));
    assert_eq!(queue.next(ms(100)), Some(ids[3]));
    assert_eq!(queue.next(ms(100)), Some(ids[2]));
    assert_eq!(queue.next(ms(100)), Some(ids[1]));
    let next = join(&mut queue, ms(200), Criticality::Critical, 1);
    assert!(!queue.is_overloaded(ms(250)), "it was empty in between");
    assert_eq!(queue.next(ms(250)), Some(next));
}

#[test]
fn a_full_queue_gives_up_what_matters_least_of_whom_has_most() {
    let mut queue = queue(4);
    let noisy = join(&mut queue, AT, Criticality::Sheddable, 1);
    let noisier = join(&mut queue, AT, Criticality::Sheddable, 1);
    let quiet = join(&mut queue, AT, Criticality::Sheddable, 2);
    let important = join(&mut queue, AT, Criticality::Critical, 1);
    let joined = queue.join(AT, asking(Criticality::Critical, 3)).unwrap();
    assert_eq!(joined.displaced, Some(noisier));
    let refused = queue.join(AT, asking(Criticality::Sheddable, 1)).unwrap_err();
    assert_eq!(refused.reason, Reason::QueueFull, "who has most gives way itself");
    for id in [noisy, quiet, important, joined.id] {
        assert!(queue.has(id));
    }
    assert_eq!(queue.snapshot(AT).shed[Criticality::Sheddable.rank()], 2);
}

#[test]
fn while_overloaded_a_newcomer_takes_the_place_of_the_oldest() {
    let mut queue = queue(2);
    let old = join(&mut queue, AT, Criticality::Critical, 1);
    join(&mut queue, AT, Criticality::Critical, 1);
    let joined = queue.join(ms(100), asking(Criticality::Critical, 1)).unwrap();
    assert_eq!(joined.displaced, Some(old));
    assert_eq!(queue.next(ms(100)), Some(joined.id));
}

#[test]
fn nobody_is_served_past_his_time() {
    let mut queue = queue(10);
    let deadline = Some(ms(20));
    let hurried = queue.join(AT, Asking { deadline, ..asking(Criticality::Critical, 1) }).unwrap();
    assert_eq!(hurried.until, ms(20));
    let patient = join(&mut queue, AT, Criticality::Critical, 1);
    assert_eq!(queue.next(ms(20)), Some(patient));
    assert_eq!(queue.leave(ms(20), hurried.id).map(|r| r.reason), Some(Reason::WaitedTooLong));
    let late = queue.join(ms(20), Asking { deadline, ..asking(Criticality::Critical, 1) }).unwrap_err();
    assert_eq!(late.reason, Reason::DeadlineTooShort);
    let last = join(&mut queue, ms(30), Criticality::Critical, 1);
    assert_eq!(queue.leave(ms(40), last), None, "it left before its time was over");
    assert!(queue.is_empty());
}

#[test]
fn without_room_nobody_waits() {
    for config in [Config { size: 0, ..Config::default() }, Config { mode: Mode::Off, ..Config::default() }] {
        let mut queue = Queue::new(Valid::new(config).unwrap());
        assert!(!queue.is_on());
        assert!(queue.join(AT, asking(Criticality::Critical, 1)).is_err());
    }
}

#[derive(Clone, Debug)]
enum Op {
    Join(usize, u64, Option<u64>),
    Next,
    Leave(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..4_usize, 0..4_u64, prop::option::of(0..600_u64)).prop_map(|(c, k, d)| Op::Join(c, k, d)),
        2 => Just(Op::Next),
        1 => (0..40_usize).prop_map(Op::Leave),
        2 => (0..150_u64).prop_map(Op::Pass),
    ]
}

proptest! {
    /// Whatever happens: the bound holds, each call ends once, nobody is served late, and nothing waits behind what matters less.
    #[test]
    fn order_bound_and_expiry_hold(size in 1..12_u32, ops in prop::collection::vec(op(), 1..200)) {
        let mut queue = queue(size);
        let mut now = AT;
        let mut waiting: Vec<(Id, usize, Instant)> = vec![];
        for op in ops {
            match op {
                Op::Join(c, client, deadline) => {
                    let criticality = Criticality::ALL[c];
                    let deadline = deadline.map(|d| now.plus(Duration::from_millis(d)));
                    let before = queue.len();
                    match queue.join(now, Asking { criticality, client, deadline }) {
                        Ok(joined) => {
                            prop_assert!(joined.until > now);
                            if let Some(gone) = joined.displaced {
                                let n = waiting.iter().position(|(id, ..)| *id == gone).unwrap();
                                let least = waiting.iter().map(|(_, rank, _)| *rank).max().unwrap();
                                prop_assert_eq!(waiting.remove(n).1, least.max(c));
                            }
                            waiting.push((joined.id, c, joined.until));
                        }
                        Err(_) => prop_assert_eq!(queue.len(), before),
                    }
                }
                Op::Next => match queue.next(now) {
                    Some(id) => {
                        let n = waiting.iter().position(|(waits, ..)| *waits == id).unwrap();
                        let (_, rank, until) = waiting.remove(n);
                        prop_assert!(now < until);
                        let first = waiting.iter().filter(|(_, _, until)| now < *until).map(|(_, r, _)| *r).min();
                        prop_assert!(first.is_none_or(|first| rank <= first));
                        waiting.retain(|(id, ..)| queue.has(*id));
                    }
                    None => {
                        prop_assert!(waiting.iter().all(|(_, _, until)| *until <= now), "work was withheld");
                        waiting.clear();
                    }
                },
                Op::Leave(n) if !waiting.is_empty() => {
                    let (id, _, until) = waiting.remove(n % waiting.len());
                    prop_assert_eq!(queue.leave(now, id).is_some(), until <= now);
                }
                Op::Leave(_) => {}
                Op::Pass(millis) => now = now.plus(Duration::from_millis(millis)),
            }
            prop_assert!(queue.len() <= size as usize);
            prop_assert_eq!(queue.len(), waiting.len());
        }
    }

    /// While all of them have calls waiting, no client is served twice more often than another.
    #[test]
    fn shares_are_fair(backlog in prop::collection::vec(1..50_usize, 2..6), order in any::<u64>()) {
        let mut queue = queue(1_000);
        let mut rest = backlog.clone();
        let mut draw = order;
        while rest.iter().any(|left| *left > 0) {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let client = (draw >> 33) as usize % rest.len();
            if rest[client] > 0 {
                rest[client] -= 1;
                join(&mut queue, AT, Criticality::Critical, client as u64);
            }
        }
        let least = *backlog.iter().min().unwrap();
        let mut served = vec![0_usize; backlog.len()];
        for _ in 0..least * backlog.len() {
            let id = queue.next(AT).unwrap();
            let client = order_of(&backlog, id, order);
            served[client] += 1;
            let (most, fewest) = (served.iter().max().unwrap(), served.iter().min().unwrap());
            prop_assert!(most - fewest <= 1, "{:?}", served);
        }
    }
}

/// Whose the call was: the draws of [`shares_are_fair`] once more.
fn order_of(backlog: &[usize], id: Id, order: u64) -> usize {
    let (mut rest, mut draw, mut n) = (backlog.to_vec(), order, 0);
    loop {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let client = (draw >> 33) as usize % rest.len();
        if rest[client] > 0 {
            rest[client] -= 1;
            if n == id.0 {
                return client;
            }
            n += 1;
        }
    }
}
