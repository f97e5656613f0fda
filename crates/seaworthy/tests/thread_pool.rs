//! The thread pool: whose work begins, who waits, and what a panic, a leaving caller and a shutdown do.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use seaworthy::bulkhead::thread_pool::{Config, Error};
use seaworthy::bulkhead::{StartError, ThreadPool};
use seaworthy::{Policy, Reason};

/// Longer than any test takes, so that nothing here is decided by time unless it says so.
const LONG: Duration = Duration::from_secs(600);

fn pool(threads: u32, queue: u32) -> ThreadPool {
    ThreadPool::new("test", Config { threads, queue, max_wait: LONG }).unwrap()
}

/// Work that says when it has begun, and ends when it is told to.
fn held() -> (impl FnOnce() + Send + 'static, Receiver<()>, Sender<()>) {
    let (begun, has_begun) = channel();
    let (end, may_end) = channel();
    let work = move || {
        begun.send(()).unwrap();
        // Also ends when the test has gone.
        may_end.recv().ok();
    };
    (work, has_begun, end)
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn work_runs_in_a_thread_of_the_pools_name() {
    let pool = pool(2, 0);
    let name = pool.run(|| std::thread::current().name().map(str::to_owned)).await.unwrap().unwrap();
    assert!(name == "test-0" || name == "test-1", "{name}");
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let pool = pool(1, 1);
    let (work, begun, end) = held();
    let first = tokio::spawn(pool.run(work));
    until(|| begun.try_recv().is_ok()).await;
    let second = tokio::spawn(pool.run(|| 2));
    until(|| pool.snapshot().waiting == 1).await;

    let refused = pool.run(|| 3).await.unwrap_err();
    let Error::Rejected(rejection) = &refused else { panic!("{refused}") };
    assert_eq!((rejection.policy, rejection.reason), (Policy::Bulkhead, Reason::QueueFull));
    assert_eq!(refused.retry_after(), Some(LONG));
    assert!(!refused.has_begun());
    assert_eq!((pool.snapshot().running, pool.snapshot().rejected), (1, 1));

    end.send(()).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn who_waits_too_long_is_told() {
    let config = Config { threads: 1, queue: 1, max_wait: Duration::from_millis(1) };
    let pool = ThreadPool::new("test", config).unwrap();
    let (work, begun, _end) = held();
    let _first = tokio::spawn(pool.run(work));
    until(|| begun.try_recv().is_ok()).await;
    let refused = pool.run(|| ()).await.unwrap_err();
    assert!(matches!(refused, Error::Rejected(r) if r.reason == Reason::WaitedTooLong), "{refused}");
}

#[tokio::test]
async fn a_panic_is_that_calls_error_and_the_thread_goes_on() {
    let pool = pool(1, 0);
    let id = pool.run(|| std::thread::current().id()).await.unwrap();
    let error = pool.run(|| -> u32 { panic!("no luck: {}", 7) }).await.unwrap_err();
    assert!(error.has_begun());
    assert!(matches!(&error, Error::Panicked(panicked) if panicked.message == "no luck: 7"), "{error:?}");
    assert_eq!(pool.run(|| std::thread::current().id()).await.unwrap(), id);
    assert_eq!(pool.snapshot().panicked, 1);
}

#[tokio::test]
async fn a_result_whose_drop_panics_does_not_end_the_thread() {
    #[derive(Debug)]
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let pool = pool(1, 1);
    let (work, begun, end) = held();
    let call = tokio::spawn(pool.run(move || {
        work();
        Bomb
    }));
    until(|| begun.try_recv().is_ok()).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    end.send(()).unwrap();
    assert_eq!(pool.run(|| 5).await.unwrap(), 5);
}

#[tokio::test]
async fn a_caller_that_leaves_the_queue_takes_its_work_along() {
    let pool = pool(1, 1);
    let (work, begun, end) = held();
    let first = tokio::spawn(pool.run(work));
    until(|| begun.try_recv().is_ok()).await;

    let ran = Arc::new(AtomicBool::new(false));
    let mark = ran.clone();
    let second = tokio::spawn(pool.run(move || mark.store(true, Ordering::SeqCst)));
    until(|| pool.snapshot().waiting == 1).await;
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    assert_eq!(pool.snapshot().waiting, 0);

    let third = tokio::spawn(pool.run(|| 3));
    until(|| pool.snapshot().waiting == 1).await;
    end.send(()).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(third.await.unwrap().unwrap(), 3);
    assert!(!ran.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_caller_that_leaves_during_the_work_keeps_its_place_until_it_ends() {
    let pool = pool(1, 0);
    let (work, begun, end) = held();
    let call = tokio::spawn(pool.run(work));
    until(|| begun.try_recv().is_ok()).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert!(matches!(pool.run(|| ()).await, Err(Error::Rejected(_))));
    end.send(()).unwrap();
    until(|| pool.snapshot().running == 0).await;
    pool.run(|| ()).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_refuses_who_waits_and_joins_who_works() {
    let pool = pool(1, 1);
    let (work, begun, end) = held();
    let first = tokio::spawn(pool.run(work));
    until(|| begun.try_recv().is_ok()).await;
    let second = tokio::spawn(pool.run(|| 2));
    until(|| pool.snapshot().waiting == 1).await;

    let late = pool.shutdown(Duration::ZERO).await.unwrap_err();
    assert_eq!(late.threads, 1);
    assert!(matches!(second.await.unwrap(), Err(Error::ShutDown)));
    assert!(matches!(pool.run(|| 3).await, Err(Error::ShutDown)));

    end.send(()).unwrap();
    pool.shutdown(LONG).await.unwrap();
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_outlives_the_pools_last_handle() {
    let pool = pool(1, 0);
    let (work, begun, end) = held();
    let call = tokio::spawn(pool.run(work));
    until(|| begun.try_recv().is_ok()).await;
    drop(pool);
    end.send(()).unwrap();
    call.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_served_in_full() {
    let pool = ThreadPool::new("crowd", Config { threads: 3, queue: 1_000, max_wait: LONG }).unwrap();
    let calls: Vec<_> = (0..1_000u64).map(|n| tokio::spawn(pool.run(move || n))).collect();
    let mut sum = 0;
    for call in calls {
        sum += call.await.unwrap().unwrap();
    }
    assert_eq!(sum, 499_500);
    until(|| pool.snapshot().running == 0).await;
}

#[test]
fn faults_are_named_in_the_pools_own_words() {
    let error = ThreadPool::new("test", Config { threads: 0, ..Config::default() }).unwrap_err();
    let StartError::Config(faults) = &error else { panic!("{error}") };
    assert_eq!(faults[0].field, "threads");
    assert!(error.to_string().contains("threads is 0: nothing could ever be done"), "{error}");
}
