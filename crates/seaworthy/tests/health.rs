//! The health registry: what makes the whole well, and how often a check runs.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use seaworthy::health::{Check, Finding, HealthRegistry, Status, headroom};
use tokio::sync::Semaphore;

fn registry() -> HealthRegistry {
    HealthRegistry::new("test", "1")
}

/// A check that counts how often it was begun.
fn counting(keep: Duration) -> (Check, Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let count = runs.clone();
    let check = Check::new("a:b", move || {
        let run = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Finding::pass().observed(run, "runs") }
    });
    (check.keep(keep), runs)
}

#[tokio::test]
async fn a_critical_failure_is_the_wholes_and_any_other_a_warning() {
    let health = registry();
    assert_eq!(health.deep().await.status, Status::Pass);
    health.register(Check::new("a:b", async || Finding::pass()).critical());
    assert_eq!(health.deep().await.status, Status::Pass);
    health.register(Check::new("c:d", async || Finding::fail("no")));
    let report = health.deep().await;
    assert_eq!((report.status, report.http_status()), (Status::Warn, 200));
    health.register(Check::new("e:f", async || Finding::warn("soon")).critical());
    assert_eq!(health.deep().await.status, Status::Warn);
    health.register(Check::new("c:d", async || Finding::fail("no")).critical());
    let report = health.deep().await;
    assert_eq!((report.status, report.http_status()), (Status::Fail, 503));
    let names: Vec<_> = report.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["a:b", "c:d", "e:f"]);
    assert!(health.remove("c:d", None) && !health.remove("c:d", None));
    assert_eq!(health.deep().await.status, Status::Warn);
}

#[tokio::test]
async fn live_looks_at_nothing_and_ready_at_what_is_critical() {
    let health = registry();
    health.register(Check::new("a:b", async || Finding::fail("no")));
    assert_eq!(health.ready().await.status, Status::Pass);
    health.register(Check::new("c:d", async || Finding::fail("no")).critical());
    assert_eq!(health.live().status, Status::Pass);
    assert!(health.live().checks.is_empty());
    let ready = health.ready().await;
    assert_eq!((ready.status, ready.checks.len()), (Status::Fail, 1));
}

#[tokio::test]
async fn who_does_not_serve_is_not_ready_and_lives() {
    let health = registry();
    health.set_serving(false);
    let ready = health.ready().await;
    assert_eq!((ready.status, health.live().status), (Status::Fail, Status::Pass));
    assert!(ready.to_json().contains("starting or draining"));
    health.set_serving(true);
    assert_eq!(health.ready().await.status, Status::Pass);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_askers_are_one_run() {
    for keep in [Duration::ZERO, Duration::from_secs(1)] {
        let (gate, runs) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
        let (open, count) = (gate.clone(), runs.clone());
        let check = Check::new("a:b", move || {
            let (gate, run) = (gate.clone(), count.fetch_add(1, Ordering::SeqCst));
            async move {
                gate.acquire().await.unwrap().forget();
                Finding::pass().observed(run, "runs")
            }
        });
        let health = registry();
        health.register(check.keep(keep).timeout(Duration::from_secs(3_600)));
        let askers: Vec<_> = (0..1_000)
            .map(|_| {
                let health = health.clone();
                tokio::spawn(async move { health.deep().await })
            })
            .collect();
        // All of them have asked when the paused clock may move on.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        open.add_permits(1);
        for asker in askers {
            assert_eq!(asker.await.unwrap().status, Status::Pass);
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_is_kept_to_the_nanosecond() {
    let keep = Duration::from_secs(5);
    let (check, runs) = counting(keep);
    let health = registry();
    health.register(check);
    health.deep().await;
    tokio::time::advance(keep - Duration::from_nanos(1)).await;
    health.deep().await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    tokio::time::advance(Duration::from_nanos(1)).await;
    health.deep().await;
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn shallow_runs_nothing() {
    let (check, runs) = counting(Duration::ZERO);
    let health = registry();
    health.register(check);
    let report = health.shallow();
    assert_eq!(report.status, Status::Warn);
    assert_eq!(report.checks[0].finding.output.as_deref(), Some("it has never run"));
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    health.deep().await;
    let report = health.shallow();
    assert_eq!((report.status, runs.load(Ordering::SeqCst)), (Status::Pass, 1));
    assert!(report.checks[0].time.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_hangs_has_failed_and_holds_up_nobody_else() {
    let health = registry();
    health.register(Check::new("a:hangs", pending).timeout(Duration::from_secs(2)));
    health.register(Check::new("b:works", async || Finding::pass()));
    let began = tokio::time::Instant::now();
    let report = health.deep().await;
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    let told = report.checks[0].finding.output.clone().unwrap();
    assert_eq!(told, "it gave no answer within 2s");
    assert_eq!(report.checks[1].finding.status, Status::Pass);
}

#[tokio::test]
async fn what_panics_has_failed() {
    let health = registry();
    health.register(Check::new("a:early", || -> std::future::Ready<Finding> { panic!("at once") }));
    health.register(Check::new("b:late", async || {
        tokio::task::yield_now().await;
        panic!("later")
    }));
    let report = health.deep().await;
    let told: Vec<_> = report.checks.iter().map(|check| check.finding.output.clone().unwrap()).collect();
    assert_eq!(told, ["the check panicked: at once", "the check panicked: later"]);
}

#[tokio::test(start_paused = true)]
async fn an_asker_that_leaves_makes_room_for_another_run() {
    let (gate, runs) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
    let (open, count) = (gate.clone(), runs.clone());
    let check = Check::new("a:b", move || {
        count.fetch_add(1, Ordering::SeqCst);
        let gate = gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Finding::pass()
        }
    });
    let health = registry();
    health.register(check.timeout(Duration::from_secs(3_600)));
    let ask = || {
        let health = health.clone();
        tokio::spawn(async move { health.deep().await })
    };
    let first = ask();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let second = ask();
    tokio::time::sleep(Duration::from_millis(1)).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    open.add_permits(1);
    assert_eq!(second.await.unwrap().status, Status::Pass);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn checks_of_one_name_are_told_apart_by_their_id() {
    let health = registry();
    for id in ["b", "a"] {
        health.register(Check::new("shop:up", async || Finding::pass()).id(id).component("component"));
    }
    let json: serde_json::Value = serde_json::from_str(&health.deep().await.to_json()).unwrap();
    let of_shop = json["checks"]["shop:up"].as_array().unwrap();
    let ids: Vec<_> = of_shop.iter().map(|check| check["componentId"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert!(health.remove("shop:up", Some("a")));
    assert_eq!(health.deep().await.checks.len(), 1);
}

#[test]
fn a_runtime_of_one_thread_and_tasks_that_stay_on_it_are_enough() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let health = registry();
        let folder = std::env::temp_dir();
        let probe = headroom::register(&health, headroom::Config::default(), &[folder]).unwrap();
        tokio::task::spawn_local(probe);
        tokio::task::yield_now().await;
        let report = health.deep().await;
        let names: Vec<_> = report.checks.iter().map(|check| check.name.as_str()).collect();
        let all = ["disk:utilization", "eventLoop:lag", "fileDescriptors:utilization", "memory:utilization"];
        assert_eq!(names, all);
        if cfg!(target_os = "linux") {
            assert!(report.checks.iter().all(|check| check.finding.observed.is_some()), "{report:?}");
        }
    });
}

/// Blocks the loop, and sees that it was late by as much.
#[tokio::test]
async fn a_loop_that_stood_still_is_seen_to_have() {
    let bounds = headroom::Lag { warn: Duration::from_millis(1), fail: Duration::from_millis(200) };
    let (check, probe) = headroom::event_loop(bounds);
    let health = registry();
    health.register(check.keep(Duration::ZERO));
    assert!(health.deep().await.checks[0].finding.output.as_deref().unwrap().contains("nobody measures"));
    tokio::spawn(probe);
    tokio::task::yield_now().await;
    // The probe's timer is due in 100 ms, and nobody can fire it before these are over.
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(health.deep().await.checks[0].finding.status, Status::Fail);
}
