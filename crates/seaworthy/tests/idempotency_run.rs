//! What becomes of operations with keys, on tokio's paused clock, with a store that fails when it hurts.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod faults;

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use seaworthy::clock;
use seaworthy::core::idempotency::OnUnknown;
use seaworthy::core::{Rng, Seeded, Valid};
use seaworthy::idempotency::store::memory::Memory;
use seaworthy::idempotency::store::{Answer, CHUNK_BYTES, Id, Settled};
use seaworthy::idempotency::{
    Begun, Busy, COUNTED, Config, Fingerprint, Keys, Phase, Ran, Refusal, RunError, Running, StoreError,
    Token, Unsettled, WhenDown,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, advance, sleep};

use crate::faults::{Fault, Faulty, Op};

const LEASE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);
const ONE: Fingerprint = Fingerprint([1; 32]);
const OTHER: Fingerprint = Fingerprint([2; 32]);

fn id() -> Id {
    Id::new("pay", b"client", "8e03978e")
}

fn keys(store: &Arc<Faulty>, config: Config) -> Keys {
    Keys::new(store.clone(), Valid::new(config).unwrap())
}

fn wait(most: Duration) -> Config {
    Config { busy: Busy::Wait(most), ..Config::default() }
}

fn retry() -> Config {
    Config { on_unknown: OnUnknown::Retry, ..Config::default() }
}

fn allow() -> Config {
    Config { when_down: WhenDown::Allow, ..Config::default() }
}

fn counted(keys: &Keys, what: &str) -> u64 {
    keys.counts()[COUNTED.iter().position(|name| *name == what).unwrap()]
}

async fn first(keys: &Keys) -> Running {
    match keys.begin(&id(), ONE).await.unwrap() {
        Begun::First(running) => running,
        other => panic!("{other:?}"),
    }
}

async fn refused(keys: &Keys) -> Refusal {
    keys.begin(&id(), ONE).await.unwrap_err()
}

fn body(text: &'static str) -> Settled {
    Settled::Done(Answer { body: Bytes::from_static(text.as_bytes()), ..Answer::default() })
}

async fn replayed(keys: &Keys) -> Bytes {
    match keys.begin(&id(), ONE).await.unwrap() {
        Begun::Replay(replay) => replay.body().await.unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Waits until the key stands so.
async fn until(store: &Faulty, phase: Phase) {
    while store.phase(&id()).await != Some(phase) {
        sleep(TICK).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_done_is_replayed() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    let running = first(&keys).await;
    assert_eq!(running.token(), Token::FIRST);
    running.settle(body("paid")).await.unwrap();
    for n in 1..=3 {
        assert_eq!(replayed(&keys).await, "paid");
        assert_eq!(counted(&keys, "replayed"), n);
    }
    assert_eq!(counted(&keys, "begun"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_key_of_another_request_is_a_mismatch_while_it_runs_and_after() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    let running = first(&keys).await;
    assert!(matches!(keys.begin(&id(), OTHER).await, Err(Refusal::Mismatch)));
    running.settle(body("paid")).await.unwrap();
    assert!(matches!(keys.begin(&id(), OTHER).await, Err(Refusal::Mismatch)));
    assert_eq!(counted(&keys, "mismatched"), 2);
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_busy_and_says_when_to_come_back() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    let _running = first(&keys).await;
    let Refusal::Busy { retry_after } = refused(&keys).await else { panic!("it runs") };
    assert_eq!(retry_after, Duration::from_secs(1));
    advance(LEASE - Duration::from_millis(300)).await;
    let Refusal::Busy { retry_after } = refused(&keys).await else { panic!("it runs") };
    assert_eq!(retry_after, Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_when_it_is_settled_and_not_at_its_next_look() {
    let store = Faulty::new();
    let keys = keys(&store, wait(Duration::from_secs(30)));
    let running = first(&keys).await;
    let waiting = tokio::spawn({
        let keys = keys.clone();
        async move { (replayed(&keys).await, Instant::now()) }
    });
    // By now it looks once a second.
    sleep(Duration::from_millis(5_555)).await;
    let settled = Instant::now();
    running.settle(body("paid")).await.unwrap();
    assert_eq!(waiting.await.unwrap(), (Bytes::from_static(b"paid"), settled));
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_between_a_look_and_the_wait_for_it_wakes_too() {
    let store = Faulty::new();
    let keys = keys(&store, wait(Duration::from_secs(30)));
    let running = first(&keys).await;
    let (release, held) = oneshot::channel();
    // The first look goes without: nobody waits yet. The second finds it running, and hears so when it no longer does.
    let (mut looks, mut held) = (0, Some(held));
    store.plan(move |op| {
        looks += u32::from(op == Op::Reserve);
        if looks == 2 { held.take().map(Fault::Holds) } else { None }
    });
    let waiting = tokio::spawn({
        let keys = keys.clone();
        async move { (replayed(&keys).await, Instant::now()) }
    });
    while store.asked(Op::Reserve) < 3 {
        tokio::task::yield_now().await;
    }
    let settled = Instant::now();
    running.settle(body("paid")).await.unwrap();
    release.send(()).unwrap();
    assert_eq!(waiting.await.unwrap(), (Bytes::from_static(b"paid"), settled));
}

#[tokio::test(start_paused = true)]
async fn who_waits_gives_up_at_the_moment() {
    let store = Faulty::new();
    let keys = keys(&store, wait(Duration::from_secs(30)));
    let _running = first(&keys).await;
    let began = Instant::now();
    assert!(matches!(refused(&keys).await, Refusal::Busy { .. }));
    assert_eq!(began.elapsed(), Duration::from_secs(30));
    // Pauses of 10 ms to a second.
    assert!(store.asked(Op::Reserve) < 50, "{}", store.asked(Op::Reserve));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_another_process_finds_its_result() {
    let store = Faulty::new();
    let (here, there) = (keys(&store, wait(Duration::from_secs(30))), keys(&store, Config::default()));
    let running = first(&there).await;
    let waiting = tokio::spawn(async move { replayed(&here).await });
    sleep(Duration::from_secs(3)).await;
    running.settle(body("paid")).await.unwrap();
    assert_eq!(waiting.await.unwrap(), "paid");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_it_waits_changes_nothing_for_others() {
    let store = Faulty::new();
    let (there, here) = (keys(&store, Config::default()), keys(&store, wait(LEASE * 2)));
    std::mem::forget(first(&there).await);
    let began = Instant::now();
    let others = tokio::spawn({
        let here = here.clone();
        async move { (refused(&here).await, Instant::now()) }
    });
    for _ in 0..20 {
        assert!(tokio::time::timeout(Duration::from_secs(2), here.begin(&id(), ONE)).await.is_err());
    }
    let (refusal, when) = others.await.unwrap();
    assert!(matches!(refusal, Refusal::Unknown { token: Token::FIRST }));
    assert_eq!(when - began, LEASE, "nobody has taken it for over, and so watched it anew");
    assert_eq!(store.asked(Op::Find), 0, "they had reserved nothing that could be given back");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_over_when_an_observer_has_seen_it_stand_still_for_that_long() {
    let store = Faulty::new();
    let (dead, observer) = (keys(&store, Config::default()), keys(&store, Config::default()));
    std::mem::forget(first(&dead).await);
    advance(LEASE * 5).await;
    // However long it has been dead: it is watched from the first look on.
    assert!(matches!(refused(&observer).await, Refusal::Busy { .. }));
    advance(LEASE - TICK).await;
    assert!(matches!(refused(&observer).await, Refusal::Busy { .. }));
    advance(TICK).await;
    assert!(matches!(refused(&observer).await, Refusal::Unknown { token: Token::FIRST }));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_knows_to_be_orphaned_is_unknown_without_being_watched() {
    let store = Faulty::new();
    let (dead, observer) = (keys(&store, Config::default()), keys(&store, Config::default()));
    std::mem::forget(first(&dead).await);
    store.orphans.store(true, Ordering::Relaxed);
    assert!(matches!(refused(&observer).await, Refusal::Unknown { token: Token::FIRST }));
}

/// Whoever carried it out is dead, and what it has asked an upstream for may still be under way.
#[tokio::test(start_paused = true)]
async fn what_is_orphaned_is_carried_out_again_after_a_lease_and_not_before() {
    let store = Faulty::new();
    let (dead, observer) = (keys(&store, retry()), keys(&store, retry()));
    std::mem::forget(first(&dead).await);
    store.orphans.store(true, Ordering::Relaxed);
    assert!(matches!(refused(&observer).await, Refusal::Busy { .. }));
    advance(LEASE - TICK).await;
    assert!(matches!(refused(&observer).await, Refusal::Busy { .. }));
    advance(TICK).await;
    assert_eq!(first(&observer).await.token(), Token(2));
}

#[tokio::test(start_paused = true)]
async fn who_was_taken_over_is_fenced() {
    let store = Faulty::new();
    let (slow, next) = (keys(&store, retry()), keys(&store, retry()));
    let overtaken = first(&slow).await;
    assert!(matches!(refused(&next).await, Refusal::Busy { .. }));
    advance(LEASE).await;
    let running = first(&next).await;
    assert!(running.token() > overtaken.token());
    assert!(matches!(overtaken.put_chunk(0, Bytes::from_static(b"late")).await, Err(Unsettled::Fenced)));
    assert!(matches!(overtaken.settle(body("late")).await, Err(Unsettled::Fenced)));
    assert!(matches!(refused(&slow).await, Refusal::Busy { .. }), "the other still runs");
    running.settle(body("paid")).await.unwrap();
    assert_eq!(replayed(&slow).await, "paid");
    assert_eq!((counted(&next, "taken_over"), counted(&slow, "fenced")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn one_of_many_takes_over() {
    let store = Faulty::new();
    std::mem::forget(first(&keys(&store, retry())).await);
    let observers: Vec<_> = (0..16).map(|_| keys(&store, retry())).collect();
    for observer in &observers {
        assert!(matches!(refused(observer).await, Refusal::Busy { .. }));
    }
    advance(LEASE).await;
    let mut began = Vec::new();
    for observer in &observers {
        began.extend(observer.begin(&id(), ONE).await);
    }
    assert!(matches!(began[..], [Begun::First(_)]), "{began:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_forgotten_and_begun_anew_has_a_lease_of_its_own() {
    let store = Faulty::new();
    let config = Config { retention: LEASE * 2, ..retry() };
    let (owner, observer) = (keys(&store, config), keys(&store, config));
    std::mem::forget(first(&owner).await);
    assert!(matches!(refused(&observer).await, Refusal::Busy { .. }));
    // The wall clock has to have moved on, as it does in what the paused clock says is two minutes.
    let then = clock::wall();
    while clock::wall() == then {
        std::thread::yield_now();
    }
    advance(LEASE * 2).await;
    let running = first(&owner).await;
    assert_eq!(running.token(), Token::FIRST, "nobody remembers the one before");
    assert!(matches!(refused(&observer).await, Refusal::Busy { .. }), "this one lives");
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn a_lease_begins_when_others_may_see_it_and_not_when_its_owner_hears_of_it() {
    let store = Faulty::new();
    let (owner, observer) = (keys(&store, Config::default()), keys(&store, Config::default()));
    let (release, held) = oneshot::channel();
    store.once(Op::Reserve, Fault::Holds(held));
    let began = clock::now();
    let beginning = tokio::spawn(async move { first(&owner).await });
    until(&store, Phase::Running).await;
    let seen = clock::now();
    assert!(matches!(refused(&observer).await, Refusal::Busy { .. }));
    sleep(Duration::from_millis(900)).await;
    release.send(()).unwrap();
    let running = beginning.await.unwrap();
    assert_eq!(running.until(), began.plus(LEASE));
    assert!(running.until() <= seen.plus(LEASE));
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_while_it_runs_is_unknown() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    drop(first(&keys).await);
    until(&store, Phase::Unknown).await;
    assert!(matches!(refused(&keys).await, Refusal::Unknown { token: Token::FIRST }));
}

#[tokio::test]
async fn what_is_dropped_outside_a_runtime_is_unknown_too() {
    let store = Faulty::new();
    let running = first(&keys(&store, Config::default())).await;
    std::thread::spawn(move || drop(running)).join().unwrap();
    until(&store, Phase::Unknown).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_reserved_for_somebody_who_has_left_is_given_back() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    store.once(Op::Reserve, Fault::LosesAndHangs);
    let left = tokio::time::timeout(TICK, keys.begin(&id(), ONE)).await;
    assert!(left.is_err());
    until(&store, Phase::Free).await;
    assert_eq!(first(&keys).await.token(), Token(2));
}

#[tokio::test(start_paused = true)]
async fn what_is_reserved_after_its_timeout_is_given_back() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    store.once(Op::Reserve, Fault::Late(Duration::from_millis(1_500)));
    assert!(matches!(refused(&keys).await, Refusal::Down(_)));
    assert_eq!(store.phase(&id()).await, None);
    until(&store, Phase::Running).await;
    until(&store, Phase::Free).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_over_for_somebody_who_has_left_is_unknown_as_before() {
    let store = Faulty::new();
    let keys = keys(&store, retry());
    drop(first(&keys).await);
    until(&store, Phase::Unknown).await;
    store.once(Op::TakeOver, Fault::LosesAndHangs);
    assert!(matches!(refused(&keys).await, Refusal::Down(_)));
    until(&store, Phase::Unknown).await;
    assert_eq!(first(&keys).await.token(), Token(3));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_refuses_and_one_that_hangs_does_so_after_its_timeout() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    store.plan(|_| Some(Fault::Fails));
    assert!(matches!(refused(&keys).await, Refusal::Down(_)));
    store.plan(|_| Some(Fault::Hangs));
    let began = Instant::now();
    assert!(matches!(refused(&keys).await, Refusal::Down(_)));
    assert_eq!(began.elapsed(), keys.config().store_timeout);
    store.mend();
    assert_eq!(first(&keys).await.token(), Token::FIRST);
    assert_eq!(counted(&keys, "down"), 2);
}

#[tokio::test(start_paused = true)]
async fn where_it_was_chosen_a_store_that_is_down_does_not_hold_up_and_nothing_is_remembered() {
    let store = Faulty::new();
    let keys = keys(&store, allow());
    store.plan(|_| Some(Fault::Fails));
    assert!(matches!(keys.begin(&id(), ONE).await, Ok(Begun::Unrecorded(_))));
    store.mend();
    assert_eq!(store.phase(&id()).await, None);
    assert_eq!(counted(&keys, "unrecorded"), 1);
}

/// It is carried out though its reservation is not known to be there. If it is, the next one is not told to begin.
#[tokio::test(start_paused = true)]
async fn what_is_carried_out_unrecorded_is_unknown_if_it_was_reserved_after_all() {
    let store = Faulty::new();
    let keys = keys(&store, allow());
    store.plan(|op| match op {
        Op::Reserve => Some(Fault::Loses),
        _ => Some(Fault::Fails),
    });
    assert!(matches!(keys.begin(&id(), ONE).await, Ok(Begun::Unrecorded(_))));
    store.mend();
    until(&store, Phase::Unknown).await;
    assert!(matches!(refused(&keys).await, Refusal::Unknown { .. }));
}

/// A disk that is full, say: it is looked up before anything follows from the failure.
#[tokio::test(start_paused = true)]
async fn what_can_be_read_and_not_written_is_replayed_whatever_was_chosen() {
    for (config, fault) in [
        (allow(), || Fault::Full),
        (allow(), || Fault::Fails),
        (allow(), || Fault::Damaged),
        (Config::default(), || Fault::Full),
    ] as [(Config, fn() -> Fault); 4]
    {
        let store = Faulty::new();
        let keys = keys(&store, config);
        first(&keys).await.settle(body("paid")).await.unwrap();
        store.plan(move |op| (op == Op::Reserve).then(fault));
        assert_eq!(replayed(&keys).await, "paid");
        assert!(matches!(keys.begin(&id(), OTHER).await, Err(Refusal::Mismatch)));
        assert_eq!(counted(&keys, "unrecorded"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_runs_and_what_is_unknown_is_not_carried_out_beside_it_for_want_of_room() {
    let store = Faulty::new();
    let keys = keys(&store, allow());
    let running = first(&keys).await;
    store.plan(|op| (op == Op::Reserve).then_some(Fault::Full));
    assert!(matches!(refused(&keys).await, Refusal::Busy { .. }));
    drop(running);
    until(&store, Phase::Unknown).await;
    assert!(matches!(refused(&keys).await, Refusal::Unknown { .. }));
    assert_eq!(counted(&keys, "unrecorded"), 0);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_not_there_or_can_not_be_read_is_for_choice() {
    for (config, allowed) in [(allow(), true), (Config::default(), false)] {
        // A memory that is full knows that it does not know a key.
        let store = Faulty::over(Memory::new(1));
        let keys = keys(&store, config);
        first(&keys).await.settle(body("paid")).await.unwrap();
        let other = keys.begin(&Id::new("pay", b"client", "another"), ONE).await;
        assert_eq!(matches!(other, Ok(Begun::Unrecorded(_))), allowed, "{other:?}");
        assert_eq!(matches!(other, Err(Refusal::Down(_))), !allowed, "{other:?}");
        assert_eq!(replayed(&keys).await, "paid");
        // A store of which nothing can be had does not.
        store.plan(|_| Some(Fault::Fails));
        let same = keys.begin(&id(), ONE).await;
        assert_eq!(matches!(same, Ok(Begun::Unrecorded(_))), allowed, "{same:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_unknown_is_tried_again_unrecorded_only_where_both_were_chosen() {
    let store = Faulty::new();
    let keys = keys(&store, Config { when_down: WhenDown::Allow, ..retry() });
    drop(first(&keys).await);
    until(&store, Phase::Unknown).await;
    store.plan(|op| (op == Op::TakeOver).then_some(Fault::Full));
    assert!(matches!(keys.begin(&id(), ONE).await, Ok(Begun::Unrecorded(_))));
    assert_eq!(store.phase(&id()).await, Some(Phase::Unknown));
}

#[tokio::test(start_paused = true)]
async fn what_was_reserved_and_said_to_be_full_is_given_back() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    store.once(Op::Reserve, Fault::LosesAndIsFull);
    assert!(matches!(refused(&keys).await, Refusal::Busy { .. }), "it can't be told whose it is");
    until(&store, Phase::Free).await;
    assert_eq!(first(&keys).await.token(), Token(2));
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_by_a_full_store_leaves_nothing_to_be_done() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    store.plan(|op| (op == Op::Reserve).then_some(Fault::Full));
    assert!(matches!(refused(&keys).await, Refusal::Down(_)));
    let looked = store.asked(Op::Find);
    sleep(LEASE).await;
    assert_eq!(store.asked(Op::Find), looked);
}

/// It would never be remembered, and nobody would notice.
#[tokio::test(start_paused = true)]
async fn what_no_store_can_keep_is_refused_even_where_a_store_may_be_down() {
    let store = Faulty::new();
    let keys = keys(&store, allow());
    let long = keys.begin(&Id::new("pay", b"client", &"k".repeat(256)), ONE).await;
    assert!(matches!(long, Err(Refusal::Down(StoreError::TooLong(_)))), "{long:?}");
    sleep(LEASE).await;
    assert_eq!(store.asked(Op::Find), 0, "nothing is to be given back");
}

#[tokio::test(start_paused = true)]
async fn what_is_done_and_whose_result_is_gone_is_not_carried_out_even_where_a_store_may_be_down() {
    let store = Faulty::new();
    let keys = keys(&store, allow());
    first(&keys).await.settle(body("paid")).await.unwrap();
    store.forgets_answers.store(true, Ordering::Relaxed);
    assert!(matches!(refused(&keys).await, Refusal::Lost));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_hear_a_result_is_told_it_later() {
    for fault in [|| Fault::Fails, || Fault::Hangs, || Fault::Loses, || Fault::LosesAndHangs] {
        let store = Faulty::new();
        let keys = keys(&store, Config::default());
        let running = first(&keys).await;
        store.plan(move |op| (op == Op::Settle).then(fault));
        assert!(matches!(running.settle(body("paid")).await, Err(Unsettled::Down(_))));
        sleep(Duration::from_secs(10)).await;
        store.mend();
        until(&store, Phase::Done).await;
        assert_eq!(replayed(&keys).await, "paid");
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_is_told_later_even_if_nobody_waits_for_its_settling() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    let running = first(&keys).await;
    store.once(Op::Settle, Fault::Hangs);
    assert!(tokio::time::timeout(TICK, running.settle(body("paid"))).await.is_err());
    until(&store, Phase::Done).await;
    assert_eq!(replayed(&keys).await, "paid");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_down_is_not_told_for_ever() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    let running = first(&keys).await;
    store.plan(|op| (op == Op::Settle).then_some(Fault::Fails));
    assert!(running.settle(body("paid")).await.is_err());
    while counted(&keys, "untold") == 0 {
        sleep(Duration::from_secs(1)).await;
    }
    let asked = store.asked(Op::Settle);
    sleep(LEASE).await;
    assert_eq!(store.asked(Op::Settle), asked);
}

#[tokio::test(start_paused = true)]
async fn an_outage_leaves_bounded_work_behind() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    let result = Bytes::from(vec![7; CHUNK_BYTES]);
    let mut running = Vec::new();
    for n in 0..2_000 {
        let Ok(Begun::First(one)) = keys.begin(&Id::new("pay", b"", &n.to_string()), ONE).await else {
            panic!("it is the first")
        };
        running.push(one);
    }
    store.plan(|op| (op == Op::Settle).then_some(Fault::Fails));
    for one in running {
        let answer = Answer { body: result.clone(), ..Answer::default() };
        assert!(one.settle(Settled::Done(answer)).await.is_err());
    }
    store.mend();
    // All are known to be done: those for whose results there was room with them, and the others without.
    let mut whole = 0;
    for n in 0..2_000 {
        let id = Id::new("pay", b"", &n.to_string());
        while store.phase(&id).await == Some(Phase::Running) {
            sleep(TICK).await;
        }
        match keys.run(&id, ONE, || async { Err::<Bytes, _>("it is carried out again") }).await {
            Ok(ran) => whole += u32::from(ran.result == result),
            Err(RunError::Refused(Refusal::Lost)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!((500..=1_024).contains(&whole), "64 MiB of results are held: {whole}");
}

#[tokio::test(start_paused = true)]
async fn those_who_are_refused_in_an_outage_do_not_crowd_out_a_result() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    let running = first(&keys).await;
    store.plan(|_| Some(Fault::Fails));
    for n in 0..17_000 {
        let refused = keys.begin(&Id::new("pay", b"", &n.to_string()), ONE).await;
        assert!(matches!(refused, Err(Refusal::Down(_))));
    }
    assert!(running.settle(body("paid")).await.is_err());
    sleep(Duration::from_secs(10)).await;
    store.mend();
    until(&store, Phase::Done).await;
    assert_eq!(replayed(&keys).await, "paid");
}

#[tokio::test(start_paused = true)]
async fn long_results_come_in_pieces_and_back_as_one() {
    for length in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7] {
        let store = Faulty::new();
        let keys = keys(&store, Config::default());
        let long: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        for replayed in [false, true] {
            let ran = keys.run(&id(), ONE, || async { Ok::<_, ()>(long.clone()) }).await.unwrap();
            assert!(ran.result == long && ran.replayed == replayed, "{length}");
        }
        assert_eq!(store.asked(Op::PutChunk), length.saturating_sub(1) / CHUNK_BYTES);
    }
}

async fn run_long(keys: &Keys) -> Result<Ran<Vec<u8>>, RunError<()>> {
    keys.run(&id(), ONE, || async { Ok(vec![7; 2 * CHUNK_BYTES]) }).await
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_is_lost_is_put_again() {
    for fault in [Fault::Fails, Fault::Hangs, Fault::Loses] {
        let store = Faulty::new();
        let keys = keys(&store, Config::default());
        store.once(Op::PutChunk, fault);
        for replayed in [false, true] {
            assert_eq!(run_long(&keys).await.unwrap(), Ran { result: vec![7; 2 * CHUNK_BYTES], replayed });
        }
    }
}

/// Under either choice: what is known to be done is not unknown, and so not carried out again.
#[tokio::test(start_paused = true)]
async fn a_result_of_which_a_piece_can_not_be_kept_is_given_once_and_then_known_to_be_lost() {
    for config in [Config::default(), retry()] {
        for full in [false, true] {
            let store = Faulty::new();
            let keys = keys(&store, config);
            let fault = move || if full { Fault::Full } else { Fault::Fails };
            store.plan(move |op| (op == Op::PutChunk).then(fault));
            let began = Instant::now();
            assert!(!run_long(&keys).await.unwrap().replayed);
            let took = began.elapsed();
            assert!(took < LEASE && (took == Duration::ZERO) == full, "{took:?}");
            store.mend();
            assert!(matches!(run_long(&keys).await, Err(RunError::Refused(Refusal::Lost))));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_for_which_there_is_no_room_is_known_to_be_lost() {
    let store = Faulty::over(Memory::new(8).with_most_bytes(100));
    let keys = keys(&store, retry());
    let run = async || keys.run(&id(), ONE, || async { Ok::<_, ()>(vec![7; 101]) }).await;
    assert!(!run().await.unwrap().replayed);
    assert!(matches!(run().await, Err(RunError::Refused(Refusal::Lost))));
    assert_eq!(counted(&keys, "begun"), 1);
}

/// The store is down when it is settled, and full when it is up again.
#[tokio::test(start_paused = true)]
async fn a_result_for_which_there_is_no_room_later_is_known_to_be_lost() {
    let store = Faulty::over(Memory::new(8).with_most_bytes(100));
    let keys = keys(&store, Config::default());
    let running = first(&keys).await;
    store.once(Op::Settle, Fault::Fails);
    let answer = Answer { body: Bytes::from(vec![7; 101]), ..Answer::default() };
    assert!(matches!(running.settle(Settled::Done(answer)).await, Err(Unsettled::Down(_))));
    until(&store, Phase::Done).await;
    let Ok(Begun::Replay(replay)) = keys.begin(&id(), ONE).await else { panic!("it is done") };
    assert!(!replay.answer().is_whole());
    assert!(matches!(replay.body().await, Err(Refusal::Lost)));
}

#[tokio::test(start_paused = true)]
async fn what_failed_without_an_effect_may_be_asked_for_again() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    let ran = keys.run::<String, _, _>(&id(), ONE, || async { Err("no such account") }).await;
    assert!(matches!(ran, Err(RunError::Failed("no such account"))));
    let token = Arc::new(Mutex::new(None));
    let ran = keys
        .run_fenced(&id(), OTHER, async |fence| {
            *token.lock().unwrap() = Some(fence);
            Ok::<_, ()>("paid".to_owned())
        })
        .await
        .unwrap();
    assert!(!ran.replayed);
    assert_eq!(*token.lock().unwrap(), Some(Token(2)));
}

#[tokio::test(start_paused = true)]
async fn what_panics_is_unknown() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    let panics = tokio::spawn({
        let keys = keys.clone();
        async move { keys.run(&id(), ONE, || async { panic!("half way through") as Result<(), ()> }).await }
    });
    assert!(panics.await.unwrap_err().is_panic());
    until(&store, Phase::Unknown).await;
    let again = keys.run(&id(), ONE, || async { Ok::<_, ()>(()) }).await;
    assert!(matches!(again, Err(RunError::Refused(Refusal::Unknown { .. }))));
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_its_lease_is_given_up_while_there_is_time_to_write_that_down() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    let began = Instant::now();
    let ran = keys.run(&id(), ONE, pending::<Result<(), ()>>).await;
    let most = LEASE - keys.config().store_timeout;
    assert!(matches!(ran, Err(RunError::TimedOut(after)) if after == most));
    assert_eq!(began.elapsed(), most);
    until(&store, Phase::Unknown).await;
    assert!(began.elapsed() < LEASE);
}

#[tokio::test(start_paused = true)]
async fn what_is_carried_out_unrecorded_has_a_token_that_is_older_than_all() {
    let store = Faulty::new();
    let keys = keys(&store, allow());
    store.plan(|_| Some(Fault::Fails));
    let ran = keys.run_fenced(&id(), ONE, async |token| Ok::<_, ()>(token.to_string())).await.unwrap();
    assert_eq!((ran.result.as_str(), ran.replayed), ("0", false));
}

#[tokio::test(start_paused = true)]
async fn where_it_was_chosen_a_result_is_given_though_the_store_has_not_heard_it() {
    for (config, given) in [(allow(), true), (Config::default(), false)] {
        let store = Faulty::new();
        let keys = keys(&store, config);
        store.once(Op::Settle, Fault::Hangs);
        let ran = keys.run(&id(), ONE, || async { Ok::<_, ()>("paid".to_owned()) }).await;
        assert_eq!(ran.is_ok(), given);
        until(&store, Phase::Done).await;
        assert_eq!(replayed(&keys).await, "paid");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_past_its_retention_is_swept() {
    let store = Faulty::new();
    let keys = keys(&store, Config::default());
    for n in 0..2_500 {
        let begun = keys.begin(&Id::new("pay", b"", &n.to_string()), ONE).await;
        let Ok(Begun::First(running)) = begun else { panic!("{begun:?}") };
        running.settle(body("paid")).await.unwrap();
    }
    let sweeping = tokio::spawn(keys.sweep_every(Duration::from_secs(60)));
    sleep(keys.config().retention - Duration::from_secs(1)).await;
    assert_eq!(store.inner.records(), 2_500);
    while store.inner.records() > 0 {
        sleep(Duration::from_secs(1)).await;
    }
    sweeping.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_who_run_it_at_once_one_has_the_effect_and_all_have_its_result() {
    let keys = Keys::new(Arc::new(Memory::new(8)), Valid::new(wait(LEASE)).unwrap());
    let effects = Arc::new(AtomicU32::new(0));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (keys, effects) = (keys.clone(), effects.clone());
        running.spawn(async move {
            let operation = || async {
                let n = effects.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok::<_, ()>(format!("payment {n}"))
            };
            keys.run(&id(), ONE, operation).await.unwrap()
        });
    }
    let ran = running.join_all().await;
    assert!(ran.iter().all(|ran| ran.result == "payment 0"));
    assert_eq!(ran.iter().filter(|ran| !ran.replayed).count(), 1);
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}

/// Clients of three processes that share a store, ask for a few keys again and again, and leave when they like; the store loses
/// questions and answers. All from a seed.
#[tokio::test(start_paused = true)]
async fn nothing_happens_twice_whatever_is_lost() {
    for seed in 0..60 {
        Torture::new(seed).run().await;
    }
}

const KEYS: u32 = 8;
const CLIENTS: u64 = 12;
const ROUNDS: u32 = 12;

struct Torture {
    seed: u64,
    store: Arc<Faulty>,
    processes: Vec<Keys>,
    /// How often each key's operation had its effect.
    effects: Mutex<HashMap<u32, u32>>,
    /// What was said to be each key's result.
    said: Mutex<HashMap<u32, Vec<String>>>,
}

impl Torture {
    fn new(seed: u64) -> Arc<Self> {
        let store = Faulty::new();
        let mut rng = Seeded::new(seed);
        store.plan(move |op| fault(&mut rng, op));
        let wait = wait(Duration::from_secs(2));
        let processes = [Config::default(), wait, wait].map(|config| keys(&store, config)).to_vec();
        Arc::new(Self { seed, store, processes, effects: Mutex::default(), said: Mutex::default() })
    }

    async fn run(self: Arc<Self>) {
        let seed = self.seed;
        let clients: Vec<_> =
            (0..CLIENTS).map(|n| tokio::spawn(self.clone().client(Seeded::new(seed * 1_000 + n)))).collect();
        for client in clients {
            client.await.unwrap();
        }
        for (key, effects) in &*self.effects.lock().unwrap() {
            assert!(*effects <= 1, "seed {seed}: key {key} had {effects} effects");
        }
        self.store.mend();
        let said = std::mem::take(&mut *self.said.lock().unwrap());
        assert!(said.len() > 2, "seed {seed}: nearly nothing succeeded, so this shows nothing");
        for (key, results) in said {
            assert!(
                results.iter().all(|result| *result == results[0]),
                "seed {seed}: key {key}: {results:?}"
            );
            assert_eq!(self.effects.lock().unwrap().get(&key), Some(&1), "seed {seed}: key {key}");
            // What was acknowledged is not lost.
            let again = self.processes[0].run(&place(key), ONE, || async { Err::<String, _>(()) }).await;
            assert_eq!(
                again.ok().map(|ran| ran.result).as_ref(),
                Some(&results[0]),
                "seed {seed}: key {key}"
            );
        }
    }

    async fn client(self: Arc<Self>, mut rng: Seeded) {
        for _ in 0..ROUNDS {
            let key = below(&mut rng, KEYS);
            let keys = &self.processes[below(&mut rng, 3) as usize];
            let patience = Duration::from_millis(u64::from(below(&mut rng, 3_000)));
            let (takes, how) = (Duration::from_millis(u64::from(below(&mut rng, 500))), below(&mut rng, 10));
            let this = self.clone();
            let operation = || async move {
                sleep(takes).await;
                if how == 0 {
                    return Err("without an effect");
                }
                *this.effects.lock().unwrap().entry(key).or_default() += 1;
                sleep(takes).await;
                Ok(format!("{key} at {:?}", Instant::now()))
            };
            let ran = tokio::time::timeout(patience, keys.run(&place(key), ONE, operation)).await;
            if let Ok(Ok(ran)) = ran {
                self.said.lock().unwrap().entry(key).or_default().push(ran.result);
            }
            sleep(Duration::from_millis(u64::from(below(&mut rng, 20_000)))).await;
        }
    }
}

fn place(key: u32) -> Id {
    Id::new("torture", b"", &key.to_string())
}

fn below(rng: &mut Seeded, end: u32) -> u32 {
    (rng.next_u64() % u64::from(end)) as u32
}

fn fault(rng: &mut Seeded, op: Op) -> Option<Fault> {
    match (below(rng, 40), op) {
        (0..2, _) => Some(Fault::Fails),
        (2, _) => Some(Fault::Hangs),
        (3..5, _) => Some(Fault::Loses),
        (5, _) => Some(Fault::LosesAndHangs),
        (6, Op::Reserve) => Some(Fault::Late(Duration::from_millis(u64::from(below(rng, 2_500))))),
        _ => None,
    }
}
