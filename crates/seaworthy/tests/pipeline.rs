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
        c.limit = limit::Config { mode: Mode::Observe, max_in_flight: 1 };
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
