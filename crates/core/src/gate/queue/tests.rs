extern crate std;

use proptest::prelude::*;
use std::collections::VecDeque;
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

/// A queue of one criticality and client that has been losing calls from `AT` for 100 ms, with those that wait in it.
fn losing(size: u32) -> (Queue, Vec<Id>) {
    let mut queue = queue(size);
    let ids = (0..size).map(|_| join(&mut queue, AT, Criticality::Critical, 1)).collect();
    let just_before = Instant::from_nanos(ms(100).as_nanos() - 1);
    for now in [AT, just_before, ms(100)] {
        assert!(!queue.is_overloaded());
        assert!(queue.join(now, asking(Criticality::Critical, 1)).is_err());
    }
    (queue, ids)
}

#[test]
fn the_newest_goes_first_once_calls_have_been_lost_for_so_long() {
    let (mut queue, ids) = losing(4);
    assert!(queue.is_overloaded());
    for id in ids.into_iter().rev() {
        assert_eq!(queue.next(ms(200)), Some(id));
    }
    join(&mut queue, ms(200), Criticality::Critical, 1);
    assert!(!queue.is_overloaded(), "it was empty in between");
}

#[test]
fn a_burst_that_can_be_served_in_time_is_served_in_its_order() {
    let mut queue = queue(100);
    // Never empty for half a second, and nobody waits longer than 200 ms.
    let mut waiting: VecDeque<_> =
        (0..20).map(|n| join(&mut queue, ms(n), Criticality::Critical, 1)).collect();
    for n in 2..50 {
        assert_eq!(queue.next(ms(10 * n)), waiting.pop_front());
        waiting.push_back(join(&mut queue, ms(10 * n), Criticality::Critical, 1));
        assert!(!queue.is_overloaded());
    }
}

#[test]
fn who_waits_in_vain_is_lost_however_that_ends() {
    let expire = |queue: &mut Queue, now, id| assert_eq!(queue.expired(now).map(|gone| gone.id), Some(id));
    let leave = |queue: &mut Queue, now, id| assert!(queue.leave(now, id));
    for lose in [expire, leave] {
        let mut queue = queue(10);
        let ids = [50, 149, 150].map(|end| {
            let deadline = Some(ms(end));
            (end, queue.join(AT, Asking { deadline, ..asking(Criticality::Critical, 1) }).unwrap().id)
        });
        let patient = join(&mut queue, AT, Criticality::Critical, 1);
        for (end, id) in ids {
            assert!(!queue.is_overloaded());
            lose(&mut queue, ms(end), id);
        }
        let newest = join(&mut queue, ms(150), Criticality::Critical, 1);
        assert_eq!([queue.next(ms(150)), queue.next(ms(150))], [newest, patient].map(Some));
    }
}

#[test]
fn a_full_queue_gives_up_what_matters_least_of_whom_has_most() {
    let mut queue = queue(4);
    let noisy = join(&mut queue, AT, Criticality::Sheddable, 1);
    let noisier = join(&mut queue, AT, Criticality::Sheddable, 1);
    let quiet = join(&mut queue, AT, Criticality::Sheddable, 2);
    let important = join(&mut queue, AT, Criticality::Critical, 1);
    let joined = queue.join(AT, asking(Criticality::Critical, 3)).unwrap();
    assert_eq!(joined.displaced.unwrap(), Gone { id: noisier, rejection: SHED });
    let refused = queue.join(AT, asking(Criticality::Sheddable, 1)).unwrap_err();
    assert_eq!(refused.reason, Reason::QueueFull, "who has most gives way itself");
    for id in [noisy, quiet, important, joined.id] {
        assert!(queue.until(id).is_some());
    }
    assert_eq!(queue.snapshot(AT).shed[Criticality::Sheddable.rank()], 2);
}

#[test]
fn while_overloaded_a_newcomer_takes_the_place_of_the_oldest() {
    let (mut queue, ids) = losing(2);
    let joined = queue.join(ms(100), asking(Criticality::Critical, 1)).unwrap();
    assert_eq!(joined.displaced.unwrap().id, ids[0]);
    assert_eq!(queue.next(ms(100)), Some(joined.id));
}

#[test]
fn of_clients_with_equally_many_the_last_to_come_gives_way_whatever_their_keys() {
    for keys in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
        let mut queue = queue(2);
        let held = [0, 1].map(|n| join(&mut queue, AT, Criticality::Critical, keys[n]));
        assert!(queue.join(AT, asking(Criticality::Critical, keys[2])).is_err());
        assert_eq!([queue.next(AT), queue.next(AT)], held.map(Some));
    }
}

#[test]
fn nobody_is_served_past_his_time() {
    let mut queue = queue(10);
    let deadline = Some(ms(20));
    let hurried = queue.join(AT, Asking { deadline, ..asking(Criticality::Critical, 1) }).unwrap();
    assert_eq!(hurried.until, ms(20));
    let patient = join(&mut queue, AT, Criticality::Critical, 1);
    let just_before = Instant::from_nanos(ms(20).as_nanos() - 1);
    assert_eq!(queue.expired(just_before), None);
    assert_eq!(queue.clone().next(just_before), Some(hurried.id));
    assert_eq!(queue.clone().next(ms(20)), Some(patient));
    assert_eq!(queue.expired(ms(20)), Some(Gone { id: hurried.id, rejection: TOO_LATE }));
    assert_eq!(queue.expired(ms(20)), None);
    assert_eq!(queue.expired(ms(500)), Some(Gone { id: patient, rejection: TOO_LONG }));
    let late = queue.join(ms(20), Asking { deadline, ..asking(Criticality::Critical, 1) }).unwrap_err();
    assert_eq!(late.reason, Reason::DeadlineTooShort);
    assert!(queue.is_empty());
    assert_eq!(queue.snapshot(ms(500)).expired[Criticality::Critical.rank()], 3);
}

#[test]
fn whose_time_is_over_makes_room_before_anybody_else_does() {
    let mut queue = queue(2);
    let important = Asking { deadline: Some(ms(10)), ..asking(Criticality::CriticalPlus, 1) };
    let over = queue.join(AT, important).unwrap().id;
    let alive = join(&mut queue, AT, Criticality::Sheddable, 1);
    let joined = queue.join(ms(10), asking(Criticality::Sheddable, 1)).unwrap();
    assert_eq!(joined.displaced, Some(Gone { id: over, rejection: TOO_LATE }));
    assert_eq!([queue.next(ms(10)), queue.next(ms(10))], [Some(alive), Some(joined.id)]);
}

#[test]
fn who_is_gone_can_not_be_touched_by_his_old_name() {
    let mut queue = queue(2);
    let [served, left] = [1, 2].map(|client| join(&mut queue, AT, Criticality::Critical, client));
    assert_eq!(queue.next(AT), Some(served));
    assert!(queue.leave(AT, left));
    let here = [1, 2].map(|client| join(&mut queue, AT, Criticality::Critical, client));
    for stale in [served, left] {
        assert!(!queue.leave(AT, stale));
        assert_eq!(queue.until(stale), None);
    }
    assert_eq!([queue.next(AT), queue.next(AT)], here.map(Some));
    assert_eq!(queue.snapshot(AT).left.iter().sum::<u64>(), 1);
}

fn reconfigured(queue: &Queue, set: impl FnOnce(&mut Config)) -> Valid<Config> {
    let mut config = *queue.config;
    set(&mut config);
    Valid::new(config).unwrap()
}

#[test]
fn new_numbers_hold_for_those_who_wait_already() {
    let mut queue = queue(3);
    let first = join(&mut queue, AT, Criticality::Critical, 1);
    let second = join(&mut queue, ms(1), Criticality::Sheddable, 1);
    let third = join(&mut queue, ms(2), Criticality::Critical, 1);
    queue.reconfigure(ms(2), reconfigured(&queue, |c| (c.size, c.max_wait) = (2, Duration::from_millis(20))));
    assert_eq!(queue.surplus(ms(2)).unwrap().id, second);
    assert_eq!(queue.surplus(ms(2)), None);
    assert_eq!([first, third].map(|id| queue.until(id)), [Some(ms(22)); 2]);
    queue.reconfigure(ms(3), reconfigured(&queue, |c| c.mode = Mode::Observe));
    let gone: Vec<_> = core::iter::from_fn(|| queue.surplus(ms(3))).map(|gone| gone.id).collect();
    assert_eq!((gone.len(), queue.len()), (2, 0), "in observe-only mode nobody is held");
}

#[test]
fn a_clock_set_back_makes_nobody_wait_longer_than_the_longest_wait() {
    let mut queue = queue(4);
    let year = Duration::from_secs(31_536_000);
    let early = join(&mut queue, AT.plus(year), Criticality::Critical, 1);
    let next = join(&mut queue, AT, Criticality::Critical, 1);
    assert_eq!(queue.expired(Instant::from_nanos(ms(500).as_nanos() - 1)), None);
    let gone: Vec<_> = core::iter::from_fn(|| queue.expired(ms(500))).map(|gone| gone.id).collect();
    assert_eq!(gone, [early, next]);
    let ahead = join(&mut queue, AT, Criticality::Critical, 1);
    assert_eq!(queue.next(AT.plus(year)), None);
    assert_eq!(queue.until(ahead), None);
    for now in [AT.plus(year), AT, ms(100)] {
        assert!(!queue.is_overloaded());
        let refused = (0..5).filter(|_| queue.join(now, asking(Criticality::Critical, 1)).is_err());
        assert!(refused.count() > 0);
    }
    assert!(queue.is_overloaded(), "nor is it overloaded a year later only");
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
    Expire,
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..4_usize, 0..4_u64, prop::option::of(0..600_u64)).prop_map(|(c, k, d)| Op::Join(c, k, d)),
        2 => Just(Op::Next),
        1 => (0..40_usize).prop_map(Op::Leave),
        1 => Just(Op::Expire),
        2 => (0..150_u64).prop_map(Op::Pass),
    ]
}

/// What waits, as a list: slow, and plain to see through.
struct Model {
    size: usize,
    calls: Vec<Call>,
    losses: [Option<(Instant, Instant)>; LEVELS],
    served: u64,
    /// When each client of each criticality came to the end of the round.
    turns: BTreeMap<(usize, u64), usize>,
    turn: usize,
}

#[derive(Clone, Copy)]
struct Call {
    id: Id,
    level: usize,
    client: u64,
    until: Instant,
}

impl Model {
    fn newest(&self, level: usize) -> bool {
        let losses = self.losses[level].filter(|_| self.calls.iter().any(|call| call.level == level));
        losses.is_some_and(|(first, last)| last.since(first) >= Config::default().overload_after)
    }

    fn end_turn(&mut self, of: (usize, u64)) {
        self.turn += 1;
        self.turns.insert(of, self.turn);
    }

    fn join(&mut self, call: Call) {
        if self.calls.iter().all(|other| other.level != call.level) {
            self.losses[call.level] = None;
        }
        let waits = |other: &Call| (other.level, other.client) == (call.level, call.client);
        if !self.calls.iter().any(waits) {
            self.end_turn((call.level, call.client));
        }
        self.calls.push(call);
    }

    fn remove(&mut self, id: Id) -> Option<Call> {
        let n = self.calls.iter().position(|call| call.id == id)?;
        Some(self.calls.remove(n))
    }

    fn lose(&mut self, now: Instant, call: Call) {
        self.losses[call.level].get_or_insert((now, now)).1 = now;
    }

    /// Whoever stands first among those alive, in the words of the documentation.
    fn first(&self) -> Option<Call> {
        let age = |call: &Call| if self.newest(call.level) { u64::MAX - call.id.0 } else { call.id.0 };
        let order = |call: &&Call| (call.level, self.turns[&(call.level, call.client)], age(call));
        self.calls.iter().min_by_key(order).copied()
    }

    fn victim(&self) -> Option<Call> {
        let of = |call: &Call| (call.level, call.client);
        let most = |call: &Call| self.calls.iter().filter(|other| of(other) == of(call)).count();
        let age = |call: &Call| if self.newest(call.level) { u64::MAX - call.id.0 } else { call.id.0 };
        let order = |call: &&Call| (call.level, most(call), self.turns[&of(call)], age(call));
        self.calls.iter().max_by_key(order).copied()
    }

    fn expire(&mut self, now: Instant) -> Vec<Id> {
        let (over, alive) = self.calls.iter().partition::<Vec<Call>, _>(|call| call.until <= now);
        self.calls = alive;
        over.iter().for_each(|call| self.lose(now, *call));
        over.into_iter().map(|call| call.id).collect()
    }
}

proptest! {
    /// Whatever happens, it does what the list does: the order, who has to go, who is late, and the bound. Each call ends once.
    #[test]
    fn it_does_what_a_plain_list_would(size in 1..12_u32, ops in prop::collection::vec(op(), 1..200)) {
        let mut queue = queue(size);
        let size = size as usize;
        let (turns, calls) = (BTreeMap::new(), vec![]);
        let mut model = Model { size, calls, losses: [None; LEVELS], served: 0, turns, turn: 0 };
        let (mut now, mut joined, mut shed, mut expired, mut left) = (AT, 0, 0, 0, 0);
        for op in ops {
            match op {
                Op::Join(level, client, deadline) => {
                    let longest = now.plus(Config::default().max_wait);
                    let deadline = deadline.map(|d| now.plus(Duration::from_millis(d)));
                    let until = deadline.map_or(longest, |d| d.min(longest));
                    joined += 1;
                    let asking = Asking { criticality: Criticality::ALL[level], client, deadline };
                    let id = Id(queue.next_id);
                    let got = queue.join(now, asking);
                    if until <= now {
                        expired += 1;
                        prop_assert_eq!(got, Err(TOO_LATE));
                        continue;
                    }
                    model.join(Call { id, level, client, until });
                    let over = model.calls.iter().filter(|c| c.until <= now).min_by_key(|c| (c.until, c.id));
                    let gone = match over.copied() {
                        _ if model.calls.len() <= model.size => None,
                        Some(over) => { expired += 1; Some(over.id) }
                        None => { shed += 1; model.victim().map(|call| call.id) }
                    };
                    if let Some(call) = gone.and_then(|gone| model.remove(gone)) {
                        model.lose(now, call);
                    }
                    match got {
                        Ok(got) => prop_assert_eq!((got.id, got.until, got.displaced.map(|g| g.id)), (id, until, gone)),
                        Err(refused) => prop_assert_eq!((refused, Some(id)), (FULL, gone)),
                    }
                }
                Op::Next => {
                    expired += model.expire(now).len() as u64;
                    let first = model.first();
                    if let Some(call) = first {
                        model.remove(call.id);
                        model.served += 1;
                        model.end_turn((call.level, call.client));
                    }
                    prop_assert_eq!(queue.next(now), first.map(|call| call.id));
                }
                // Now and then one that is gone already.
                Op::Leave(n) => {
                    let was_there = model.remove(Id(n as u64));
                    left += u64::from(was_there.is_some());
                    was_there.into_iter().for_each(|call| model.lose(now, call));
                    prop_assert_eq!(queue.leave(now, Id(n as u64)), was_there.is_some());
                }
                Op::Expire => {
                    let mut gone: Vec<_> = core::iter::from_fn(|| queue.expired(now)).map(|gone| gone.id).collect();
                    gone.sort();
                    expired += gone.len() as u64;
                    prop_assert_eq!(gone, model.expire(now));
                }
                Op::Pass(millis) => now = now.plus(Duration::from_millis(millis)),
            }
            prop_assert!(queue.len() <= size);
            let sum = |counts: [u64; LEVELS]| counts.iter().sum::<u64>();
            let state = queue.snapshot(now);
            let ended = [state.served, state.shed, state.expired, state.left].map(sum);
            prop_assert_eq!(ended, [model.served, shed, expired, left]);
            let waiting = state.waiting.iter().sum::<u32>();
            prop_assert_eq!(ended.iter().sum::<u64>() + u64::from(waiting), joined);
            prop_assert_eq!((waiting as usize, queue.len(), state.overloaded), (model.calls.len(), model.calls.len(), (0..LEVELS).any(|level| model.newest(level))));
        }
        let kept = queue.levels.iter().map(|level| level.clients.len()).sum::<usize>();
        prop_assert!(kept <= size && queue.ends.len() == queue.len(), "nothing is kept of those who are gone");
    }

    /// However fast one client asks, those who ask for less than their share of the places get all that they ask for, and the
    /// others share the rest alike.
    #[test]
    fn shares_are_max_min_fair_at_a_full_queue(rates in prop::collection::vec(1..40_u64, 2..6), size in 24..60_u32) {
        const ROUNDS: u64 = 300;
        // In each round so many places become free.
        const PLACES: u64 = 6;
        let mut queue = queue(size);
        let mut owner = BTreeMap::new();
        let mut served = vec![0_u64; rates.len()];
        // Rates are in tenths of a call a round.
        for round in 0..ROUNDS {
            let now = AT.plus(Duration::from_micros(round));
            for (client, rate) in rates.iter().enumerate() {
                for _ in (round * rate / 10)..((round + 1) * rate / 10) {
                    if let Ok(joined) = queue.join(now, asking(Criticality::Critical, client as u64)) {
                        owner.insert(joined.id, client);
                    }
                }
            }
            for _ in 0..PLACES {
                if let Some(id) = queue.next(now) {
                    served[owner[&id]] += 1;
                }
            }
        }
        let asked: Vec<u64> = rates.iter().map(|rate| ROUNDS * rate / 10).collect();
        for (client, got) in served.iter().enumerate() {
            let share = max_min(&asked, ROUNDS * PLACES)[client];
            // What waits at the end, and what was served before the queue was full.
            let slack = u64::from(size) + 2 * PLACES;
            prop_assert!(got.abs_diff(share) <= slack, "{:?} of {:?}, and {} were due", served, asked, share);
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

/// Divides what there is: whoever asks for less than an equal part gets it, and the others share what is left.
fn max_min(asked: &[u64], mut there_is: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by_key(|client| asked[*client]);
    let mut shares = vec![0; asked.len()];
    for (n, client) in order.iter().enumerate() {
        shares[*client] = asked[*client].min(there_is / (asked.len() - n) as u64);
        there_is -= shares[*client];
    }
    shares
}
