//! The library, the simulator and fresh cores decide alike.
//!
//! Whatever drives the core must do what the core says and tell it what happens, no more and no less. Recordings show
//! whether it does: those of the library and of the simulator replay on fresh cores, and what the simulator recorded happens
//! again, to the millisecond, when the library meets the same answers at the same times.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seaworthy::{Attempt, Config, Error, Pipeline, Repeat};
use seaworthy_core::call::{budget, hedge, retry, timeout};
use seaworthy_core::gate::{breaker, bulkhead};
use seaworthy_core::record::{ReplayError, replay};
use seaworthy_core::{Mode, Rng as _, Seeded};
use seaworthy_sim::{Scenario, run};
use tokio::time::{Instant, sleep, sleep_until};

/// Every policy with something to do, and quickly.
fn busy() -> Config {
    let mut config = Config { seed: 7, ..Config::default() };
    config.call.timeout = timeout::Config { initial: Duration::from_millis(300), ..config.call.timeout };
    config.call.hedge = hedge::Config { mode: Mode::Enforce, ..config.call.hedge };
    config.breaker.open_for = Duration::from_millis(300);
    config.breaker.open_growth = 1.0;
    config.breaker.ramp = Duration::from_secs(1);
    config.bulkhead = Some(bulkhead::Config { concurrency: 30, ..bulkhead::Config::default() });
    config
}

/// Calls the pipeline two hundred times a second for ten seconds. In the third second nearly everything fails, in the sixth
/// nearly everything hangs, and some callers lose patience.
async fn trouble(pipeline: &Pipeline) {
    let begin = Instant::now();
    let calls: Vec<_> = (0..2_000u64)
        .map(|n| {
            let pipeline = pipeline.clone();
            tokio::spawn(async move {
                let start = begin + Duration::from_millis(5 * n);
                sleep_until(start).await;
                let second = 5 * n / 1_000;
                let rng = AtomicU64::new(n);
                let attempt = |_: Attempt| {
                    let mut rng = Seeded::new(rng.fetch_add(0x9E37_79B9, Ordering::Relaxed));
                    let hangs = if second == 5 { 0.9 } else { 0.03 };
                    let fails = if second == 2 { 0.9 } else { 0.03 };
                    let takes = if rng.unit() < hangs { 2_000 } else { 5 + rng.below(20) };
                    let good = rng.unit() >= fails;
                    async move {
                        sleep(Duration::from_millis(takes)).await;
                        if good { Ok(()) } else { Err("it failed") }
                    }
                };
                let call = pipeline.call(attempt);
                let patience = if n % 50 == 0 { 20 } else { 10_000 };
                let _impatient = tokio::time::timeout(Duration::from_millis(patience), call).await;
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_library_decided_fresh_cores_decide_again() {
    let pipeline = Pipeline::recorded("busy", busy()).unwrap();
    trouble(&pipeline).await;
    let recording = pipeline.take_recording().unwrap();
    for what in [
        "< send 2 retry",
        "< send 2 hedge",
        "timed_out",
        "lost_the_race",
        "> event ",
        " caller_gone",
        "breaker:open",
        "withdraw retry true",
        "withdraw hedge false",
        "< change closed open",
        "< change half_open ramping",
    ] {
        assert!(recording.contains(what), "nothing did {what:?}");
    }
    let replayed = replay(&recording).unwrap();
    assert!(replayed.calls > 1_000 && replayed.gates == 1 && replayed.decisions > 10_000, "{replayed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_recording_taken_in_parts_replays_as_a_whole() {
    let pipeline = Pipeline::recorded("parts", busy()).unwrap();
    let mut whole = String::new();
    for _ in 0..3 {
        for _ in 0..5 {
            let answer: Result<(), Error<&str>> = pipeline.call(|_| async { Err("it failed") }).await;
            answer.unwrap_err();
        }
        whole += &pipeline.take_recording().unwrap();
    }
    assert_eq!(replay(&whole).unwrap().calls, 15);
}

#[tokio::test(start_paused = true)]
async fn a_recording_with_a_decision_changed_does_not_replay() {
    let pipeline = Pipeline::recorded("tampered", busy()).unwrap();
    let _failed: Result<(), Error<&str>> = pipeline.call(|_| async { Err("it failed") }).await;
    let recording = pipeline.take_recording().unwrap();
    replay(&recording).unwrap();
    let tampered = recording.replacen("< send 2 retry", "< send 2 hedge", 1);
    assert_ne!(recording, tampered);
    assert!(matches!(replay(&tampered), Err(ReplayError::Mismatch { .. })));
}

#[tokio::test]
async fn a_pipeline_that_does_not_record_has_no_recording() {
    let pipeline = Pipeline::new("silent");
    pipeline.call(|_| async { Ok::<_, &str>(()) }).await.unwrap();
    assert_eq!(pipeline.take_recording(), None);
}

// What the simulator recorded, lived through again by the library.

/// Without lots, so that the library's own seeds don't matter, and in whole milliseconds, which is how exactly timers fire.
fn without_lots() -> Config {
    let mut config = Config::default();
    config.call.timeout = timeout::Config { fixed: Some(Duration::from_millis(102)), ..config.call.timeout };
    config.call.retry = retry::Config {
        jitter: retry::Jitter::None,
        base: Duration::from_millis(24),
        cap: Duration::from_millis(48),
        ..config.call.retry
    };
    config.call.budget = budget::Config { share: 0.3, per_second: 0.0, burst: 10 };
    config.breaker = breaker::Config {
        jitter: 0.0,
        open_for: Duration::from_millis(500),
        ramp: Duration::from_secs(2),
        ..config.breaker
    };
    config
}

const SCENARIO: &str = r#"
[simulation]
seed = 3
duration = "60s"
record = true
[clients]
rate = 50.0
arrivals = "even"
[service]
latency = "7ms"
failures = 0.05
[[service.change]]
at = "10s"
lasts = "10s"
failures = 0.4
[[service.change]]
at = "30s"
lasts = "2s"
slower = 20.0
[[service.change]]
at = "40s"
lasts = "3s"
failures = 1.0
[upstream.service.timeout]
fixed = "102ms"
[upstream.service.retry]
jitter = "none"
base = "24ms"
cap = "48ms"
[upstream.service.budget]
share = 0.3
per_second = 0.0
burst = 10
[upstream.service.breaker]
jitter = 0.0
open_for = "500ms"
ramp = "2s"
"#;

/// What one machine of a recording was told and decided: the moment in nanoseconds, and the words.
type Story = Vec<(u64, String)>;

/// The lines with this sign of every machine, by its number; decisions have the time of the input before them.
fn stories(recording: &str, sign: &str) -> BTreeMap<u64, Story> {
    let mut stories: BTreeMap<u64, Story> = BTreeMap::new();
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for line in recording.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let Ok(id) = words[0].parse::<u64>() else { continue };
        if words[1] == ">" {
            let now = words[2..].iter().find_map(|word| word.parse().ok()).unwrap();
            times.insert(id, now);
        }
        if words[1] == sign {
            stories.entry(id).or_default().push((times[&id], words[2..].join(" ")));
        }
    }
    stories
}

/// What a driver must do the same, with the time since `zero`: everything but how often it asked and was told to wait.
fn deeds(recording: &str, zero: u64) -> Vec<Story> {
    let calls = stories(recording, "<").into_values().filter(|story| story[0].1 == "deposit");
    let since = |story: Story| -> Story {
        let told = story.into_iter().filter(|(_, what)| !what.starts_with("wait"));
        told.map(|(now, what)| (now - zero, without_moment(&what, zero))).collect()
    };
    let mut deeds: Vec<Story> = calls.map(since).collect();
    deeds.sort();
    deeds
}

/// `send ATTEMPT KIND DUE` with DUE since `zero`.
fn without_moment(what: &str, zero: u64) -> String {
    match what.strip_prefix("send ").and_then(|send| send.rsplit_once(' ')) {
        Some((attempt, due)) => format!("send {attempt} {}", due.parse::<u64>().unwrap() - zero),
        None => what.to_owned(),
    }
}

/// The breaker's changes of state.
fn changes(recording: &str, zero: u64) -> Story {
    let all = stories(recording, "<").into_values().flatten();
    let changes = all.filter(|(_, what)| what.starts_with("change"));
    changes.map(|(now, what)| (now - zero, what)).collect()
}

/// When each call of a recording started.
fn starts(recording: &str) -> Vec<u64> {
    let mut starts: Vec<u64> =
        stories(recording, ">").into_values().map(|story| story[0].clone()).filter_map(started).collect();
    starts.sort_unstable();
    starts
}

fn started((now, what): (u64, String)) -> Option<u64> {
    what.starts_with("start").then_some(now)
}

#[tokio::test(start_paused = true)]
async fn what_the_simulator_recorded_the_library_does() {
    let simulated = run(&Scenario::parse(SCENARIO, "parity").unwrap()).recording.unwrap();
    let zero = starts(&simulated)[0];

    let pipeline = Pipeline::recorded("parity", without_lots()).unwrap();
    let begin = Instant::now();
    let mut calls = Vec::new();
    for inputs in stories(&simulated, ">").into_values() {
        let Some(start) = started(inputs[0].clone()) else { continue };
        let answers = Arc::new(answers(&inputs, zero, begin));
        let pipeline = pipeline.clone();
        calls.push(tokio::spawn(async move {
            sleep_until(begin + Duration::from_nanos(start - zero)).await;
            let attempt = |attempt: Attempt| {
                let answer = answers.get(&attempt.number).copied();
                async move {
                    // An attempt that was never answered was cut off.
                    let Some((at, good)) = answer else { return std::future::pending().await };
                    sleep_until(at).await;
                    if good { Ok(()) } else { Err("it failed") }
                }
            };
            let _any = pipeline.call_as(Repeat::Safe, seaworthy::classify::Plain, attempt).await;
        }));
    }
    for call in calls {
        call.await.unwrap();
    }

    let lived = pipeline.take_recording().unwrap();
    let own_zero = starts(&lived)[0];
    let (theirs, ours) = (deeds(&simulated, zero), deeds(&lived, own_zero));
    assert!(theirs.len() > 2_900, "{}", theirs.len());
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(theirs, ours);
    }
    assert_eq!(theirs.len(), ours.len());
    let opened = changes(&simulated, zero);
    assert!(opened.len() > 5, "{opened:?}");
    assert_eq!(opened, changes(&lived, own_zero));
}

/// When each attempt of a simulated call was answered, and whether with success.
fn answers(inputs: &Story, zero: u64, begin: Instant) -> BTreeMap<u8, (Instant, bool)> {
    let heads = inputs.iter().filter_map(|(now, what)| {
        let words: Vec<&str> = what.split(' ').collect();
        let ["event", _, "head", attempt, outcome] = words[..] else { return None };
        Some((attempt.parse().unwrap(), (begin + Duration::from_nanos(now - zero), outcome == "success")))
    });
    heads.collect()
}
