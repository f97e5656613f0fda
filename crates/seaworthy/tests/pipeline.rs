//! The pipeline as its users see it, on tokio's paused clock.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use seaworthy::core::gate::breaker::{self, State};
use seaworthy::core::gate::{bulkhead, limit};
use seaworthy::{Attempt, Config, Error, Happening, Mode, Pipeline, Policy, Reason, clock};
use tokio::time::sleep;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn pipeline(set: impl FnOnce(&mut Config)) -> Pipeline {
    let mut config = Config { seed: 7, ..Config::default() };
    set(&mut config);
    Pipeline::with("test", config).unwrap()
}

async fn teach(pipeline: &Pipeline, latency: Duration) {
    for _ in 0..30 {
        pipeline
            .call(|_| async {
                sleep(latency).await;
                Ok::<_, ()>(())
            })
            .await
            .unwrap();
    }
    sleep(ms(200)).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_retried_until_it_succeeds() {
    let pipeline = pipeline(|_| {});
    let calls = Cell::new(0);
    let answer = pipeline
        .call(|attempt: Attempt| {
            calls.set(calls.get() + 1);
            async move { if attempt.number < 3 { Err("no") } else { Ok(attempt.number) } }
        })
        .await;
    assert_eq!(answer.unwrap(), 3);
    assert_eq!(calls.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_error_of_the_last_attempt_comes_back_with_its_record() {
    let pipeline = pipeline(|_| {});
    let error =
        pipeline.call(|attempt: Attempt| async move { Err::<(), _>(attempt.number) }).await.unwrap_err();
    assert!(
        error.why().to_string().ends_with("attempt 3 is not retried: all attempts were made"),
        "{}",
        error.why()
    );
    assert_eq!(error.into_service(), Some(3));
}

#[tokio::test(start_paused = true)]
async fn what_must_not_run_twice_runs_once() {
    let pipeline = pipeline(|_| {});
    let error = pipeline.call_once(|attempt: Attempt| async move { Err::<(), _>(attempt.number) }).await;
    assert_eq!(error.unwrap_err().into_service(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_hung_attempt_is_cut_off_at_the_learned_timeout() {
    let pipeline = pipeline(|c| c.call.retry.attempts = 1);
    teach(&pipeline, ms(100)).await;
    let before = clock::now();
    let error = pipeline.call(|_| pending::<Result<(), ()>>()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    let took = clock::now().since(before);
    assert!(took >= ms(195) && took <= ms(210), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_attempt_is_hedged_and_the_faster_wins() {
    let pipeline = pipeline(|c| c.call.hedge.mode = Mode::Enforce);
    teach(&pipeline, ms(20)).await;
    let dropped = Rc::new(Cell::new(0));
    struct CountsDrops(Rc<Cell<u32>>);
    impl Drop for CountsDrops {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let before = clock::now();
    let answer = pipeline
        .call(|attempt: Attempt| {
            let guard = CountsDrops(dropped.clone());
            async move {
                let _guard = guard;
                sleep(if attempt.number == 1 { ms(10_000) } else { ms(5) }).await;
                Ok::<_, ()>(attempt.number)
            }
        })
        .await;
    assert_eq!(answer.unwrap(), 2);
    assert!(clock::now().since(before) < ms(40));
    assert_eq!(dropped.get(), 2, "the loser is dropped before the answer is given");
}

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_tells_when_to_come_back_and_closes_again() {
    let pipeline = pipeline(|c| {
        c.call.retry.attempts = 1;
        c.breaker = breaker::Config { ramp: Duration::ZERO, ..c.breaker };
    });
    let mut events = pipeline.events();
    for _ in 0..5 {
        pipeline.call(|_| async { Err::<(), _>("no") }).await.unwrap_err();
    }
    let error = pipeline.call(|_| async { Ok::<_, &str>(()) }).await.unwrap_err();
    let rejection = *error.rejection().unwrap();
    assert_eq!((rejection.policy, rejection.reason), (Policy::Breaker, Reason::Open));
    sleep(error.retry_after().unwrap()).await;
    for _ in 0..3 {
        pipeline.call(|_| async { Ok::<_, &str>(()) }).await.unwrap();
    }
    assert_eq!(pipeline.snapshot().breaker.state, State::Closed);
    let mut states = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Happening::Breaker(change) = event.what {
            states.push((change.from.name(), change.to.name()));
        }
    }
    assert_eq!(states, [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]);
}

/// tower-resilience's clock could not be advanced: after an hour of virtual time its breaker was still open.
#[tokio::test(start_paused = true)]
async fn the_breaker_follows_the_paused_clock() {
    let pipeline = pipeline(|c| c.call.retry.attempts = 1);
    for _ in 0..5 {
        pipeline.call(|_| async { Err::<(), _>("no") }).await.unwrap_err();
    }
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert!(pipeline.call(|_| async { Ok::<_, &str>(()) }).await.is_ok());
}

/// All four Rust peers left their breakers closed after fifty outer timeouts against a hung backend.
#[tokio::test(start_paused = true)]
async fn calls_that_callers_give_up_open_the_breaker_once_they_hung() {
    let pipeline = pipeline(|c| c.breaker.hung_after = Some(ms(500)));
    for _ in 0..5 {
        let call = pipeline.call(|_| pending::<Result<(), ()>>());
        tokio::time::timeout(ms(600), call).await.unwrap_err();
    }
    assert_eq!(pipeline.snapshot().breaker.state, State::Open);
}

#[tokio::test(start_paused = true)]
async fn calls_that_callers_give_up_early_are_neutral_and_leak_nothing() {
    let pipeline = pipeline(|c| c.bulkhead = Some(bulkhead::Config { concurrency: 2, ..Default::default() }));
    for _ in 0..50 {
        let call = pipeline.call(|_| pending::<Result<(), ()>>());
        tokio::time::timeout(ms(5), call).await.unwrap_err();
    }
    let snapshot = pipeline.snapshot();
    assert_eq!(snapshot.breaker.state, State::Closed);
    assert_eq!((snapshot.limit.in_flight, snapshot.bulkhead.unwrap().running), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_limit_refuses_at_once_and_recovers() {
    let pipeline = pipeline(|c| c.limit.max_in_flight = 1);
    let hanging = pipeline.call(|_| pending::<Result<(), ()>>());
    let mut hanging = Box::pin(hanging);
    assert!(tokio::time::timeout(ms(1), &mut hanging).await.is_err());
    let error = pipeline.call(|_| async { Ok::<_, ()>(()) }).await.unwrap_err();
    assert_eq!(error.rejection().unwrap().policy, Policy::Limit);
    drop(hanging);
    pipeline.call(|_| async { Ok::<_, ()>(()) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_bulkhead_serves_in_order_and_lets_nobody_wait_too_long() {
    let numbers = bulkhead::Config { concurrency: 1, queue: 2, max_wait: ms(100), ..Default::default() };
    let pipeline = pipeline(|c| c.bulkhead = Some(numbers));
    let order = RefCell::new(Vec::new());
    let call = |n: u32, takes: u64| {
        let (pipeline, order) = (&pipeline, &order);
        async move {
            sleep(ms(u64::from(n))).await;
            let result = pipeline
                .call(|_| async {
                    sleep(ms(takes)).await;
                    Ok::<_, ()>(())
                })
                .await;
            order.borrow_mut().push((n, result.err().map(|e| e.rejection().unwrap().reason)));
        }
    };
    tokio::join!(call(0, 60), call(1, 60), call(2, 1), call(3, 1));
    let queue_full = Some(Reason::QueueFull);
    let too_long = Some(Reason::WaitedTooLong);
    assert_eq!(*order.borrow(), [(3, queue_full), (0, None), (2, too_long), (1, None)]);
}

#[tokio::test(start_paused = true)]
async fn observe_only_tells_and_does_nothing() {
    let pipeline = pipeline(|c| {
        c.limit = limit::Config { mode: Mode::Observe, max_in_flight: 1, ..limit::Config::default() };
        c.breaker.mode = Mode::Observe;
        c.call.retry.mode = Mode::Observe;
    });
    for _ in 0..6 {
        pipeline.call(|_| async { Err::<(), _>("no") }).await.unwrap_err();
    }
    let error = pipeline.call(|_| async { Err::<(), _>("no") }).await.unwrap_err();
    assert!(error.why().to_string().contains("would be rejected by breaker"), "{}", error.why());
    assert!(pipeline.snapshot().breaker.would_reject > 0);
}

#[tokio::test(start_paused = true)]
async fn new_numbers_apply_to_what_was_learned() {
    let pipeline = pipeline(|_| {});
    teach(&pipeline, ms(100)).await;
    let mut config = Config::default();
    config.call.timeout.multiplier = 3.0;
    pipeline.reconfigure(config).unwrap();
    let timeout = pipeline.snapshot().call.learned.timeout.unwrap();
    assert!(timeout >= ms(290) && timeout <= ms(310), "{timeout:?}");
    config.call.timeout.multiplier = 0.0;
    assert_eq!(pipeline.reconfigure(config).unwrap_err()[0].field, "multiplier");
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_force_the_breaker() {
    let pipeline = pipeline(|_| {});
    pipeline.force(Some(breaker::Force::Open));
    let error = pipeline.call(|_| async { Ok::<_, ()>(()) }).await.unwrap_err();
    assert_eq!(error.rejection().unwrap().reason, Reason::Forced);
    pipeline.force(None);
    pipeline.call(|_| async { Ok::<_, ()>(()) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_the_call() {
    let pipeline = pipeline(|c| c.call.deadline = Some(ms(300)));
    let before = clock::now();
    let error = pipeline.call(|_| pending::<Result<(), ()>>()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }));
    assert_eq!(clock::now().since(before).as_millis(), 300);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_the_queue_on() {
    let pipeline = pipeline(|c| {
        c.call.deadline = Some(ms(300));
        c.bulkhead = Some(bulkhead::Config { concurrency: 1, ..Default::default() });
    });
    let mut holds = Box::pin(pipeline.call(|_| sleep_for(ms(250))));
    assert!(tokio::time::timeout(ms(10), &mut holds).await.is_err());
    let before = clock::now();
    let hangs = || async {
        let result = pipeline.call(|_| pending::<Result<(), ()>>()).await;
        (clock::now().since(before), result.unwrap_err())
    };
    let (_, (one_ended, one), (other_ended, other)) = tokio::join!(holds, hangs(), hangs());
    assert_eq!((one_ended, other_ended), (ms(300), ms(300)));
    assert!(matches!(one, Error::TimedOut { .. }), "it had its place for 60 ms: {one:?}");
    assert_eq!(other.rejection().map(|r| r.policy), Some(Policy::Deadline), "it had none");
    let snapshot = pipeline.snapshot();
    let bulkhead = snapshot.bulkhead.unwrap();
    assert_eq!((bulkhead.running, bulkhead.waiting, snapshot.limit.in_flight), (0, 0, 0));
}

async fn sleep_for(time: Duration) -> Result<(), ()> {
    sleep(time).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_earlier_deadline_counts() {
    for (own, theirs) in [(Some(ms(300)), ms(100)), (Some(ms(100)), ms(300)), (None, ms(100))] {
        let pipeline = pipeline(|c| c.call.deadline = own);
        let before = clock::now();
        let call = pipeline.call(|_| pending::<Result<(), ()>>()).by(before.plus(theirs));
        assert!(matches!(call.await, Err(Error::TimedOut { .. })));
        assert_eq!(clock::now().since(before), ms(100));
    }
}

#[tokio::test(start_paused = true)]
async fn new_numbers_reach_the_bulkhead_and_those_who_wait_there() {
    let numbers = bulkhead::Config { concurrency: 1, queue: 4, ..Default::default() };
    let mut config = Config { bulkhead: Some(numbers), ..Config::default() };
    let pipeline = Pipeline::with("test", config).unwrap();
    let before = clock::now();
    let call = || async {
        let result = pipeline.call(|_| sleep_for(ms(500))).await;
        (clock::now().since(before), result.err().and_then(|e| e.rejection().map(|r| r.reason)))
    };
    let operate = async {
        sleep(ms(100)).await;
        config.bulkhead = Some(bulkhead::Config { concurrency: 2, max_wait: ms(50), ..numbers });
        pipeline.reconfigure(config).unwrap();
    };
    let (first, second, third, ()) = tokio::join!(call(), call(), call(), operate);
    assert_eq!(first, (ms(500), None));
    assert_eq!(second, (ms(600), None), "the new place is its own");
    assert_eq!(third, (ms(150), Some(Reason::WaitedTooLong)), "and this one waits no longer than is new");
    config.bulkhead = None;
    pipeline.reconfigure(config).unwrap();
    assert_eq!(pipeline.snapshot().bulkhead.unwrap().mode, Mode::Off);
}

#[tokio::test(start_paused = true)]
async fn a_bulkhead_can_be_had_later() {
    let pipeline = pipeline(|_| {});
    let bulkhead = Some(bulkhead::Config { concurrency: 1, queue: 0, ..Default::default() });
    let mut old = Box::pin(pipeline.call(|_| sleep_for(ms(100))));
    assert!(tokio::time::timeout(ms(1), &mut old).await.is_err());
    pipeline.reconfigure(Config { bulkhead, ..Config::default() }).unwrap();
    let (old, new, refused) =
        tokio::join!(old, pipeline.call(|_| sleep_for(ms(200))), pipeline.call(|_| sleep_for(ms(1))));
    assert!(old.is_ok() && new.is_ok());
    assert_eq!(refused.unwrap_err().rejection().unwrap().policy, Policy::Bulkhead);
    assert_eq!(pipeline.snapshot().bulkhead.unwrap().running, 0);
}

#[tokio::test(start_paused = true)]
async fn limit_and_bulkhead_in_observe_only_mode_tell_whom_they_would_refuse() {
    let pipeline = pipeline(|c| {
        c.limit = limit::Config { mode: Mode::Observe, max_in_flight: 1, ..limit::Config::default() };
        let mode = Mode::Observe;
        c.bulkhead = Some(bulkhead::Config { mode, concurrency: 1, queue: 0, ..Default::default() });
    });
    let mut holds = Box::pin(pipeline.call(|_| sleep_for(ms(100))));
    assert!(tokio::time::timeout(ms(1), &mut holds).await.is_err());
    let mut events = pipeline.events();
    pipeline.call(|_| sleep_for(ms(1))).await.unwrap();
    let Happening::Call(why) = events.try_recv().unwrap().what else { panic!("no record") };
    let told = why.to_string();
    assert!(told.contains("rejected by limit") && told.contains("rejected by bulkhead"), "{told}");
}

/// Without a timeout nobody cuts an attempt off, and callers that wait for ever give up none.
#[tokio::test(start_paused = true)]
async fn a_hung_service_opens_the_breaker_before_any_call_has_ended() {
    let pipeline = pipeline(|c| {
        c.call.timeout.mode = Mode::Off;
        c.call.deadline = None;
        c.breaker.hung_after = Some(ms(500));
    });
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let pipeline = pipeline.clone();
            tokio::spawn(async move { pipeline.call(|_| pending::<Result<(), ()>>()).await })
        })
        .collect();
    sleep(ms(499)).await;
    assert_eq!(pipeline.snapshot().breaker.state, State::Closed);
    sleep(ms(2)).await;
    assert_eq!(pipeline.snapshot().breaker.state, State::Open);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_while_it_is_made_frees_its_slot() {
    let pipeline = pipeline(|c| c.call.retry.attempts = 1);
    for _ in 0..5 {
        pipeline.call(|_| async { Err::<(), _>("no") }).await.unwrap_err();
    }
    sleep(Duration::from_secs(5)).await;
    let probe = pipeline.clone();
    let panics = tokio::spawn(async move {
        let panics = |attempt: Attempt| {
            assert!(attempt.number == 0, "on purpose");
            async { Ok::<_, ()>(()) }
        };
        probe.call(panics).await
    });
    assert!(panics.await.unwrap_err().is_panic());
    assert_eq!(pipeline.snapshot().breaker.state, State::HalfOpen);
    pipeline.call(|_| async { Ok::<_, &str>(()) }).await.unwrap();
    assert_eq!(pipeline.snapshot().limit.in_flight, 0);
}

/// With one seed for all, every client of a service that failed would come back to it at the same moment.
#[test]
fn two_configurations_draw_differently() {
    assert_ne!(Config::default().seed, Config::default().seed);
}

/// The caller has the answer to give instead, and needs to know the reason.
#[tokio::test(start_paused = true)]
async fn an_error_stays_an_error_where_there_is_no_fallback() {
    let pipeline = pipeline(|c| {
        c.call.fallback = true;
        c.call.retry.attempts = 1;
    });
    let error = pipeline.call(|_| async { Err::<(), _>("no") }).await.unwrap_err();
    assert_eq!(error.into_service(), Some("no"));
}
