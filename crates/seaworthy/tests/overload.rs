//! What a pipeline does while there is too much to do, on tokio's paused clock.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use seaworthy::core::Pushback;
use seaworthy::core::gate::limit::Algorithm;
use seaworthy::core::gate::{bulkhead, limit, queue, rate, throttle};
use seaworthy::keyed::Keyed;
use seaworthy::{
    Caller, Config, Criticality, Error, Happening, Instant, Mode, Outcome, Pipeline, Policy, Reason,
    Rejection, Repeat, clock,
};
use tokio::sync::Semaphore;
use tokio::time::sleep;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A pipeline whose limit is one call and before which `size` wait; no call is made twice.
fn queueing(size: u32, set: impl FnOnce(&mut Config)) -> Pipeline {
    let mut config = Config { seed: 7, ..Config::default() };
    config.call.retry.mode = Mode::Off;
    config.limit.max_in_flight = 1;
    config.queue = queue::Config { size, ..queue::Config::default() };
    set(&mut config);
    Pipeline::with("test", config).unwrap()
}

async fn takes(time: Duration) -> Result<(), ()> {
    sleep(time).await;
    Ok(())
}

fn client(name: &str) -> Caller {
    Caller::default().client(name)
}

/// Polls a call until it has nothing to do for now.
async fn start<F: Future + Unpin>(mut call: F) -> F {
    assert!(tokio::time::timeout(ms(1), &mut call).await.is_err(), "it was to wait");
    call
}

fn refused<T, E>(result: Result<T, Error<E>>) -> Option<Rejection> {
    result.err().and_then(|error| error.rejection().copied())
}

fn nobody_is_left(pipeline: &Pipeline) {
    let snapshot = pipeline.snapshot();
    assert_eq!((snapshot.limit.in_flight, snapshot.queue.waiting), (0, [0; 4]));
}

#[tokio::test(start_paused = true)]
async fn by_default_who_finds_no_place_does_not_wait() {
    let pipeline =
        Pipeline::with("test", Config { limit: limited(1, Algorithm::Fixed), ..Config::default() }).unwrap();
    let held = start(Box::pin(pipeline.call(|_| takes(ms(50))))).await;
    let rejection = refused(pipeline.call(|_| takes(ms(1))).await).unwrap();
    assert_eq!((rejection.policy, rejection.reason), (Policy::Limit, Reason::Full));
    held.await.unwrap();
}

fn limited(max_in_flight: u32, algorithm: Algorithm) -> limit::Config {
    limit::Config { max_in_flight, algorithm, ..limit::Config::default() }
}

#[tokio::test(start_paused = true)]
async fn what_matters_more_goes_first() {
    let pipeline = queueing(10, |_| {});
    let order = RefCell::new(Vec::new());
    let call = |criticality: Criticality| {
        let call = pipeline.call(|_| takes(ms(10))).of(Caller::new(criticality));
        let order = &order;
        async move {
            call.await.unwrap();
            order.borrow_mut().push(criticality);
        }
    };
    let [plus, critical, less, least] = Criticality::ALL;
    // The first finds the place free.
    tokio::join!(call(least), call(least), call(less), call(critical), call(plus));
    assert_eq!(*order.borrow(), [least, plus, critical, less, least]);
    nobody_is_left(&pipeline);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_sheds_what_matters_least_and_says_so() {
    let pipeline = queueing(1, |_| {});
    let mut events = pipeline.events();
    let of = |criticality| pipeline.call(|_| takes(ms(10))).of(Caller::new(criticality));
    let (held, shed, served, late) = tokio::join!(
        of(Criticality::Critical),
        of(Criticality::Sheddable),
        of(Criticality::Critical),
        of(Criticality::SheddablePlus),
    );
    assert!(held.is_ok() && served.is_ok());
    let shed = refused(shed).unwrap();
    assert_eq!((shed.policy, shed.reason), (Policy::Queue, Reason::Shed));
    let late = refused(late).unwrap();
    assert_eq!((late.policy, late.reason), (Policy::Queue, Reason::QueueFull));
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Happening::Rejected(rejection) = event.what {
            told.push(rejection);
        }
    }
    assert_eq!(told, [late, shed]);
}

#[tokio::test(start_paused = true)]
async fn clients_take_turns_however_much_each_asks() {
    let pipeline = queueing(50, |c| c.queue.max_wait = Duration::from_secs(10));
    let served = Arc::new(std::sync::Mutex::new(Vec::new()));
    let spawn = |name: &'static str| {
        let (pipeline, served) = (pipeline.clone(), served.clone());
        tokio::spawn(async move {
            pipeline.call(|_| takes(ms(10))).of(client(name)).await.unwrap();
            served.lock().unwrap().push(name);
        })
    };
    let greedy: Vec<_> = (0..30).map(|_| spawn("greedy")).collect();
    tokio::task::yield_now().await;
    let modest: Vec<_> = (0..3).map(|_| spawn("modest")).collect();
    for call in greedy.into_iter().chain(modest) {
        call.await.unwrap();
    }
    let served = served.lock().unwrap();
    assert_eq!(served.len(), 33);
    let last = served.iter().rposition(|name| *name == "modest").unwrap();
    assert!(last < 8, "every second turn was its own: {served:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_is_allowed() {
    let pipeline = queueing(10, |c| c.queue.max_wait = ms(50));
    let held = start(Box::pin(pipeline.call(|_| takes(ms(200))))).await;
    let before = clock::now();
    let rejection = refused(pipeline.call(|_| takes(ms(1))).await).unwrap();
    assert_eq!(clock::now().since(before), ms(50));
    assert_eq!((rejection.policy, rejection.reason), (Policy::Queue, Reason::WaitedTooLong));
    assert!(rejection.retry_after.is_some());
    held.await.unwrap();
    assert_eq!(pipeline.snapshot().queue.expired.iter().sum::<u64>(), 1);
    nobody_is_left(&pipeline);
}

/// A call that would typically end after its deadline is not begun, be the deadline the pipeline's or the caller's.
#[tokio::test(start_paused = true)]
async fn nobody_begins_what_could_not_end_in_time() {
    for (own, theirs) in [(Some(ms(300)), None), (None, Some(ms(300)))] {
        let pipeline = queueing(10, |c| c.call.deadline = own);
        for _ in 0..30 {
            pipeline.call(|_| takes(ms(100))).await.unwrap();
        }
        sleep(ms(200)).await;
        let held = start(Box::pin(pipeline.call(|_| takes(ms(280))))).await;
        let before = clock::now();
        let call = pipeline.call(|_| takes(ms(100)));
        let by = theirs.map_or(Instant::FAR, |within| before.plus(within));
        let rejection = refused(call.by(by).await).unwrap();
        let waited = clock::now().since(before);
        assert!(waited >= ms(190) && waited <= ms(205), "{waited:?}");
        assert_eq!((rejection.policy, rejection.reason), (Policy::Queue, Reason::DeadlineTooShort));
        drop(held);
        nobody_is_left(&pipeline);
    }
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_gives_on_its_turn() {
    let pipeline = queueing(1, |_| {});
    let held = start(Box::pin(pipeline.call(|_| takes(ms(50))))).await;
    let leaves = start(Box::pin(pipeline.call(|_| takes(ms(50))))).await;
    let full = refused(pipeline.call(|_| takes(ms(1))).await).unwrap();
    assert_eq!(full.reason, Reason::QueueFull);
    drop(leaves);
    let (held, next) = tokio::join!(held, pipeline.call(|_| takes(ms(1))));
    assert!(held.is_ok() && next.is_ok());
    let queue = pipeline.snapshot().queue;
    assert_eq!((queue.left.iter().sum::<u64>(), queue.served.iter().sum::<u64>()), (1, 1));
    nobody_is_left(&pipeline);
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_with_a_place_it_has_not_heard_of_gives_that_on() {
    let pipeline = queueing(2, |_| {});
    let held = start(Box::pin(pipeline.call(|_| takes(ms(50))))).await;
    let leaves = start(Box::pin(pipeline.call(|_| takes(ms(50))))).await;
    // Nobody polls the one that waits, while it is given the place.
    held.await.unwrap();
    assert_eq!(pipeline.snapshot().limit.in_flight, 1);
    let next = start(Box::pin(pipeline.call(|_| takes(ms(50))))).await;
    drop(leaves);
    let before = clock::now();
    next.await.unwrap();
    assert_eq!(clock::now().since(before), ms(50));
    nobody_is_left(&pipeline);
}

#[tokio::test(start_paused = true)]
async fn who_waits_at_the_bulkhead_gives_the_permit_to_the_queue_when_it_leaves() {
    let pipeline = queueing(5, |c| {
        c.limit.max_in_flight = 2;
        c.bulkhead = Some(bulkhead::Config { concurrency: 1, ..bulkhead::Config::default() });
    });
    let held = start(Box::pin(pipeline.call(|_| takes(ms(50))))).await;
    let at_bulkhead = start(Box::pin(pipeline.call(|_| takes(ms(50))))).await;
    let at_door = start(Box::pin(pipeline.call(|_| takes(ms(1))))).await;
    assert_eq!(pipeline.snapshot().queue.waiting, [0, 1, 0, 0]);
    drop(at_bulkhead);
    let (held, next) = tokio::join!(held, at_door);
    assert!(held.is_ok() && next.is_ok());
    assert_eq!(pipeline.snapshot().bulkhead.unwrap().running, 0);
    nobody_is_left(&pipeline);
}

#[tokio::test(start_paused = true)]
async fn new_numbers_reach_those_who_wait() {
    // The oldest goes first all the time.
    let waits = queue::Config { overload_after: Duration::from_secs(10), ..queue::Config::default() };
    let pipeline = queueing(5, |c| c.queue = waits);
    let mut config = Config { limit: limited(1, Algorithm::Fixed), queue: waits, ..Config::default() };
    let before = clock::now();
    let call = || async {
        let result = pipeline.call(|_| takes(ms(5_000))).await;
        (clock::now().since(before), refused(result).map(|rejection| rejection.reason))
    };
    let operate = async {
        sleep(ms(100)).await;
        config.limit.max_in_flight = 2;
        pipeline.reconfigure(config).unwrap();
        sleep(ms(100)).await;
        config.queue.mode = Mode::Off;
        pipeline.reconfigure(config).unwrap();
    };
    let (first, second, third, ()) = tokio::join!(call(), call(), call(), operate);
    assert_eq!(first, (ms(5_000), None));
    assert_eq!(second, (ms(5_100), None), "the new place is its own");
    assert_eq!(third, (ms(200), Some(Reason::Shed)), "there is nowhere to wait any more");
    config.queue = queue::Config { size: 5, max_wait: Duration::ZERO, ..queue::Config::default() };
    assert_eq!(pipeline.reconfigure(config).unwrap_err()[0].field, "max_wait");
}

/// So many callers ask the service again and again for `time`, each call 10 ms of a worker's time.
async fn load(pipeline: &Pipeline, service: &Arc<Semaphore>, callers: usize, time: Duration) {
    let until = clock::now().plus(time);
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (pipeline, service) = (pipeline.clone(), service.clone());
            tokio::spawn(async move {
                while clock::now() < until {
                    let answer = pipeline.call(|_| async {
                        let _worker = service.acquire().await.unwrap();
                        takes(ms(10)).await
                    });
                    if answer.await.is_err() {
                        sleep(ms(5)).await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_learns_falls_with_what_the_service_carries() {
    let pipeline = queueing(100, |c| {
        c.limit = limited(500, Algorithm::Vegas);
        c.call.timeout.mode = Mode::Off;
    });
    let service = Arc::new(Semaphore::new(20));
    load(&pipeline, &service, 40, Duration::from_secs(10)).await;
    let before = pipeline.snapshot().limit;
    assert!(before.latency.is_some() && before.max_in_flight >= 20, "{before:?}");
    // Most of the service's workers are gone.
    service.acquire_many(18).await.unwrap().forget();
    load(&pipeline, &service, 40, Duration::from_secs(10)).await;
    let after = pipeline.snapshot().limit;
    assert!(after.max_in_flight * 2 < before.max_in_flight, "{before:?} {after:?}");
    nobody_is_left(&pipeline);
}

#[tokio::test(start_paused = true)]
async fn a_limit_learns_from_refusals_and_rises_again_without_them() {
    let pipeline = queueing(0, |c| {
        c.limit = limited(100, Algorithm::Aimd);
        (c.breaker.mode, c.throttle.mode) = (Mode::Off, Mode::Off);
    });
    for (refuses, seconds) in [(true, 5), (false, 30)] {
        let before = pipeline.snapshot().limit.max_in_flight;
        let end = clock::now().plus(Duration::from_secs(seconds));
        let meaning = move |_: Result<&(), &()>| {
            if refuses { Outcome::Overloaded(Pushback::Unsaid) } else { Outcome::Success }
        };
        while clock::now() < end {
            let calls = (0..before).map(|_| {
                let pipeline = pipeline.clone();
                tokio::spawn(async move {
                    let _ = pipeline.call_as(Repeat::Safe, meaning, |_| takes(ms(10))).await;
                })
            });
            for call in calls.collect::<Vec<_>>() {
                call.await.unwrap();
            }
        }
        let after = pipeline.snapshot().limit.max_in_flight;
        assert!(if refuses { after == 4 } else { after > before }, "{before} {after} {refuses}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_pressed_gives_way_and_comes_back() {
    let pipeline = queueing(0, |c| c.limit.max_in_flight = 10);
    pipeline.press(0.5);
    assert_eq!(pipeline.snapshot().limit.max_in_flight, 5);
    pipeline.press(1.0);
    assert_eq!(pipeline.snapshot().limit.max_in_flight, 10);
}

/// A service that serves until it has served enough, refuses then, and counts what it is sent.
struct Choosy {
    serves: Cell<u32>,
    sent: Cell<u32>,
}

impl Choosy {
    fn new(serves: u32) -> Self {
        Self { serves: Cell::new(serves), sent: Cell::new(0) }
    }

    async fn ask(&self, pipeline: &Pipeline, criticality: Criticality) -> Result<bool, Error<()>> {
        let meaning = |served: Result<&bool, &()>| {
            if served == Ok(&true) { Outcome::Success } else { Outcome::Overloaded(Pushback::Unsaid) }
        };
        let call = pipeline.call_as(Repeat::Safe, meaning, |_| {
            let left = self.serves.get();
            self.serves.set(left.saturating_sub(1));
            self.sent.set(self.sent.get() + 1);
            async move { Ok(left > 0) }
        });
        call.of(Caller::new(criticality)).await
    }

    /// Asks a thousand times in a second of each criticality, and returns how often that was throttled.
    async fn second(&self, pipeline: &Pipeline, criticalities: &[Criticality]) -> Vec<u32> {
        let mut throttled = vec![0; criticalities.len()];
        for _ in 0..1_000 {
            for (criticality, throttled) in criticalities.iter().zip(&mut throttled) {
                let rejection = refused(self.ask(pipeline, *criticality).await);
                if let Some(rejection) = rejection {
                    assert_eq!((rejection.policy, rejection.reason), (Policy::Throttle, Reason::Throttled));
                    *throttled += 1;
                }
            }
            sleep(ms(1)).await;
        }
        throttled
    }
}

fn throttling(set: impl FnOnce(&mut throttle::Config)) -> Pipeline {
    queueing(0, |c| {
        c.limit.max_in_flight = 100;
        c.breaker.mode = Mode::Off;
        set(&mut c.throttle);
    })
}

#[tokio::test(start_paused = true)]
async fn what_the_service_refuses_is_soon_not_sent_and_sent_again_soon_after() {
    let (pipeline, service) = (throttling(|_| {}), Choosy::new(u32::MAX));
    let critical = [Criticality::Critical];
    assert_eq!(service.second(&pipeline, &critical).await, [0]);
    service.serves.set(0);
    for _ in 0..5 {
        service.second(&pipeline, &critical).await;
    }
    service.sent.set(0);
    let throttled = service.second(&pipeline, &critical).await[0];
    assert!(throttled > 900, "{throttled}");
    assert!((10..100).contains(&service.sent.get()), "a few find out: {}", service.sent.get());
    service.serves.set(u32::MAX);
    for _ in 0..3 {
        service.second(&pipeline, &critical).await;
    }
    assert_eq!(service.second(&pipeline, &critical).await, [0]);
    assert!(pipeline.snapshot().throttle.rejected > 900);
}

#[tokio::test(start_paused = true)]
async fn what_matters_least_is_throttled_first() {
    let (pipeline, service) = (throttling(|_| {}), Choosy::new(0));
    let both = [Criticality::Critical, Criticality::Sheddable];
    let mut throttled = [0, 0];
    for n in 0..6_000 {
        // Two calls a millisecond, of which the service carries seven in ten milliseconds.
        service.serves.set(u32::from(n % 10 < 7));
        for (criticality, throttled) in both.iter().zip(&mut throttled) {
            *throttled += u32::from(refused(service.ask(&pipeline, *criticality).await).is_some());
        }
        sleep(ms(1)).await;
    }
    assert_eq!(throttled[0], 0, "{throttled:?}");
    assert!(throttled[1] > 2_000, "{throttled:?}");
}

#[tokio::test(start_paused = true)]
async fn a_throttle_that_observes_sends_and_tells() {
    let (pipeline, service) = (throttling(|t| t.mode = Mode::Observe), Choosy::new(0));
    for _ in 0..5 {
        assert_eq!(service.second(&pipeline, &[Criticality::Critical]).await, [0]);
    }
    assert_eq!(service.sent.get(), 5_000);
    let mut events = pipeline.events();
    service.second(&pipeline, &[Criticality::Critical]).await;
    let mut told = 0;
    loop {
        match events.try_recv() {
            Ok(event) => told += u32::from(format!("{:?}", event.what).contains("Throttled")),
            Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => break,
        }
    }
    assert!(told > 800, "{told}");
}

fn rated(mode: Mode) -> Option<rate::Config> {
    Some(rate::Config { mode, calls: 10, burst: 3, ..rate::Config::default() })
}

#[tokio::test(start_paused = true)]
async fn each_client_has_its_rate_and_is_told_when_to_come_back() {
    let pipeline = queueing(0, |c| c.rate = rated(Mode::Enforce));
    let sent = Cell::new(0);
    let call = |name| {
        let count = |_| {
            sent.set(sent.get() + 1);
            takes(Duration::ZERO)
        };
        pipeline.call(count).of(client(name))
    };
    for _ in 0..3 {
        call("greedy").await.unwrap();
    }
    let error = call("greedy").await.unwrap_err();
    let rejection = error.rejection().unwrap();
    assert_eq!((rejection.policy, rejection.reason), (Policy::Rate, Reason::RateExceeded));
    assert_eq!(sent.get(), 3, "what is over the rate is not sent");
    call("modest").await.unwrap();
    sleep(error.retry_after().unwrap()).await;
    call("greedy").await.unwrap();
    assert!(call("greedy").await.is_err());
    let snapshot = pipeline.snapshot();
    assert_eq!((snapshot.rate.unwrap().rejected, snapshot.limit.in_flight), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_rate_can_be_had_later_observe_and_go() {
    let pipeline = queueing(0, |_| {});
    assert_eq!(pipeline.snapshot().rate, None);
    let mut config = Config { rate: rated(Mode::Observe), ..Config::default() };
    pipeline.reconfigure(config).unwrap();
    let mut events = pipeline.events();
    for _ in 0..4 {
        pipeline.call(|_| takes(Duration::ZERO)).await.unwrap();
    }
    let Happening::Call(why) = events.try_recv().unwrap().what else { panic!("no record") };
    assert!(why.to_string().contains("would be rejected by rate"), "{why}");
    config.rate = rated(Mode::Enforce);
    pipeline.reconfigure(config).unwrap();
    assert!(pipeline.call(|_| takes(Duration::ZERO)).await.is_err());
    config.rate = None;
    pipeline.reconfigure(config).unwrap();
    pipeline.call(|_| takes(Duration::ZERO)).await.unwrap();
    assert_eq!(pipeline.snapshot().rate.unwrap().mode, Mode::Off);
    config.rate = Some(rate::Config { calls: 0, ..rate::Config::default() });
    config.throttle.multiplier = 0.0;
    let faults = pipeline.reconfigure(config).unwrap_err();
    assert_eq!(faults.iter().map(|fault| fault.field).collect::<Vec<_>>(), ["multiplier", "calls"]);
}

/// Forgetting a pipeline would give its clients their rates anew.
#[tokio::test(start_paused = true)]
async fn a_pipeline_of_which_a_client_is_over_its_rate_is_not_forgotten() {
    let config = Config { rate: rated(Mode::Enforce), ..Config::default() };
    let hosts = Keyed::new("hosts", config, 2).unwrap();
    for _ in 0..3 {
        hosts.get(1).unwrap().call(|_| takes(Duration::ZERO)).await.unwrap();
    }
    let keys = || hosts.kept().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    (2..5).for_each(|key| drop(hosts.get(key).unwrap()));
    assert_eq!(keys(), [4, 1]);
    sleep(Duration::from_secs(1)).await;
    (5..8).for_each(|key| drop(hosts.get(key).unwrap()));
    assert_eq!(keys(), [7, 6]);
}

/// A pinned call is a future as any other: it can be boxed and sent to another task while it waits.
#[tokio::test(start_paused = true)]
async fn a_call_that_waits_can_go_to_another_task() {
    let pipeline = queueing(5, |_| {});
    let held = start(Box::pin(pipeline.call(|_| takes(ms(50))))).await;
    let (pipeline2, caller) = (pipeline.clone(), client("other"));
    let waits: Pin<Box<dyn Future<Output = _> + Send>> =
        Box::pin(async move { pipeline2.call(|_| takes(ms(1))).of(caller).await });
    let waits = tokio::spawn(start(waits).await);
    held.await.unwrap();
    waits.await.unwrap().unwrap();
    nobody_is_left(&pipeline);
}
