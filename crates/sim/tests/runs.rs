//! Properties of whole runs.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use proptest::prelude::*;
use seaworthy_core::Criticality;
use seaworthy_core::record::replay;
use seaworthy_sim::{Row, Scenario, run};

/// A scenario in which every policy has something to do.
fn busy(seed: u64, record: bool) -> Scenario {
    let text = format!(
        r#"
[simulation]
seed = {seed}
duration = "40s"
record = {record}
[clients]
count = 2
rate = 60.0
[service]
servers = 8
queue = 200
latency = {{ median = "20ms", sigma = 0.5 }}
failures = 0.02
[[service.change]]
at = "10s"
lasts = "5s"
failures = 0.9
[[service.change]]
at = "20s"
lasts = "3s"
paused = true
[[service.change]]
at = "30s"
lasts = "5s"
slower = 4.0
[upstream.service.breaker]
hung_after = "1s"
open_for = "1s"
open_growth = 1.0
ramp = "2s"
[upstream.service.timeout]
initial = "2s"
[upstream.service.hedge]
mode = "enforce"
[upstream.service.bulkhead]
concurrency = 20
queue = 10
max_wait = "100ms"
[upstream.service.limit]
max_in_flight = 40
"#
    );
    Scenario::parse(&text, "busy").unwrap()
}

fn ended(row: &Row) -> u64 {
    row.succeeded + row.degraded + row.rejected + row.failed
}

#[test]
fn every_policy_has_something_to_do() {
    let report = run(&busy(1, false));
    let row = &report.total;
    for (what, count) in [
        ("retries", row.retries),
        ("hedges", row.hedges),
        ("timeouts", row.timed_out),
        ("openings", row.opened),
        ("rejections", row.rejected),
        ("failures", row.failed),
    ] {
        assert!(count > 0, "no {what}:\n{report}");
    }
    let calm = &report.phases[0];
    assert!(calm.success > 0.995, "{report}");
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    let (first, again) = (run(&busy(1, true)), run(&busy(1, true)));
    assert_eq!(first, again);
    assert_ne!(first.phases, run(&busy(2, true)).phases);
}

#[test]
fn recording_changes_nothing() {
    let (silent, mut recorded) = (run(&busy(1, false)), run(&busy(1, true)));
    assert!(recorded.recording.take().is_some());
    assert_eq!(silent, recorded);
}

#[test]
fn a_recorded_run_replays() {
    let report = run(&busy(1, true));
    let replayed = replay(&report.recording.unwrap()).unwrap();
    // Calls that limit or bulkhead refused never began.
    assert!(replayed.calls > 3_000 && replayed.calls <= report.total.calls, "{replayed:?}");
    assert_eq!(replayed.gates, 2);
}

#[test]
fn a_report_is_json_with_its_seed() {
    let json: serde_json::Value = serde_json::to_value(run(&busy(9, true))).unwrap();
    assert_eq!(json["seed"], 9);
    assert_eq!(json["phases"].as_array().unwrap().len(), 7);
    assert!(json["total"]["p99_ms"].as_f64().unwrap() > 0.0);
    assert!(json.get("recording").is_none());
}

/// Thinking clients call no faster than they are answered: the open loop's backlog can't build up.
#[test]
fn in_a_closed_loop_load_follows_the_answers() {
    let text = r#"
[simulation]
duration = "60s"
[clients]
count = 10
think = "100ms"
[service]
servers = 1
latency = "100ms"
"#;
    let row = run(&Scenario::parse(text, "closed").unwrap()).total;
    // One server at 100 ms a request gives ten answers a second, whoever asks.
    assert!((590..=612).contains(&row.succeeded), "{row:?}");
    assert!(row.max_ms <= 1_000.1, "{row:?}");
}

/// The example's claim: with the defaults a service that stood still for ten seconds comes back; with many retries and
/// nothing that bounds them, the outage outlasts its cause.
#[test]
fn only_unbounded_retries_make_an_outage_outlast_its_cause() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/brownout.scenario.toml");
    let bounded = std::fs::read_to_string(path).unwrap();
    let unbounded = bounded
        .replace("max_in_flight = 256", "mode = \"off\"")
        .replace("open_for = \"2s\"", "mode = \"off\"")
        + "[upstream.service.bulkhead]\nmode = \"off\"\n[upstream.service.retry]\nattempts = 10\n"
        + "[upstream.service.budget]\nshare = 1.0\nper_second = 1000.0\n";
    let after = |text: &str| run(&Scenario::parse(text, path).unwrap()).phases.pop().unwrap();
    let (bounded, unbounded) = (after(&bounded), after(&unbounded));
    assert!(bounded.success > 0.7 && bounded.load < 1.1, "{bounded:?}");
    assert!(unbounded.success < 0.01 && unbounded.load > 5.0, "{unbounded:?}");
}

/// The example's claim: at twice the load at least 99.4% of the critical calls succeed, and the loss is the others'. Without the mix, or
/// without the limit, it is everybody's.
#[test]
fn at_twice_the_load_the_critical_calls_hardly_notice() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/overload.scenario.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let total = |text: &str| run(&Scenario::parse(text, path).unwrap()).total;
    for algorithm in ["vegas", "gradient2"] {
        let row = total(&text.replace("vegas", algorithm));
        let (critical, sheddable) =
            (row.of(Criticality::Critical).unwrap(), row.of(Criticality::Sheddable).unwrap());
        assert!(critical.success >= 0.994 && sheddable.success < 0.35, "{algorithm}: {row:?}");
        assert_eq!(critical.calls + sheddable.calls, row.calls);
        // Half of what comes can be served, and nearly all of that is.
        assert!(row.success >= 0.95 * 0.5, "{algorithm}: {row:?}");
    }
    let unmixed = total(&text.replace("mix =", "# mix ="));
    assert!(unmixed.by_criticality.is_empty() && unmixed.success < 0.55, "{unmixed:?}");
    let unlimited = total(&text.replace("algorithm = \"vegas\"", "mode = \"off\""));
    assert!(unlimited.of(Criticality::Critical).unwrap().success < 0.6, "{unlimited:?}");
}

/// The example's claim: after an outage of a minute all is well within five seconds; without a budget, or without expiry, it never is.
#[test]
fn after_a_minute_of_outage_all_is_well_within_five_seconds() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/metastable.scenario.toml");
    // Shorter than the example: a minute after the repair it is decided.
    let text = std::fs::read_to_string(path).unwrap().replace("duration = \"5m\"", "duration = \"3m\"");
    let after = |text: &str| run(&Scenario::parse(text, path).unwrap()).phases.pop().unwrap();
    let well = after(&text);
    assert_eq!((well.from_s, well.success > 0.999), (125.0, true), "{well:?}");
    let newest_first = after(&text.replace(", overload_after = \"1h\"", ""));
    assert!(newest_first.success > 0.99, "{newest_first:?}");
    let unbudgeted = text
        .replace("share = 0.1", "share = 1.0")
        .replace("per_second = 0.0", "per_second = 1000.0")
        .replace("burst = 10\n", "burst = 100000\n");
    let unbudgeted = after(&unbudgeted);
    assert!(unbudgeted.success < 0.1 && unbudgeted.load > 3.8, "{unbudgeted:?}");
    let unexpired = after(&text.replace("\nguard =", "\n# guard ="));
    assert!(unexpired.success < 0.01 && unexpired.load > 1.08, "{unexpired:?}");
}

#[test]
fn every_example_runs() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".scenario.toml") {
            let scenario = Scenario::parse(&std::fs::read_to_string(&path).unwrap(), &name).unwrap();
            let report = run(&scenario);
            assert!(report.to_string().contains(&format!("seed {}", scenario.seed)), "{report}");
            names.push(name);
        }
    }
    names.sort();
    let known = ["brownout", "hedging", "metastable", "overload", "region", "retries"]
        .map(|name| format!("{name}.scenario.toml"));
    assert_eq!(names, known);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens, every call ends once and is counted where it began.
    #[test]
    fn every_call_ends_once(
        seed: u64, servers in 1u32..6, queue in 0u32..50, failures in 0.0f64..1.0, drops: bool, mode in 0usize..3,
    ) {
        let mut scenario = busy(seed, true);
        scenario.duration = std::time::Duration::from_secs(12);
        scenario.service.servers = Some(servers);
        scenario.service.queue = Some(queue);
        scenario.service.failures = failures;
        scenario.service.drops_cancelled = drops;
        let mode = [seaworthy_core::Mode::Enforce, seaworthy_core::Mode::Observe, seaworthy_core::Mode::Off][mode];
        let mut breaker = *scenario.policies.breaker;
        breaker.mode = mode;
        scenario.policies.breaker = seaworthy_core::Valid::new(breaker).unwrap();
        let report = run(&scenario);
        for row in report.phases.iter().chain([&report.total]) {
            prop_assert_eq!(ended(row), row.calls, "{}", report);
        }
        let extra = report.total.retries + report.total.hedges;
        prop_assert!(report.total.attempts <= report.total.calls + extra);
        let replayed = replay(report.recording.as_deref().unwrap());
        prop_assert!(replayed.is_ok(), "{:?}", replayed);
    }
}

#[test]
fn the_scenarios_in_the_docs_are_such() {
    let docs = include_str!("../../../docs/simulate.md");
    let mut scenarios = docs.split("```toml\n").skip(1).map(|rest| {
        let scenario = rest.split("```").next().unwrap();
        Scenario::parse(scenario, "docs/simulate.md").unwrap()
    });
    assert_eq!(scenarios.next().unwrap().phases().len(), 3);
    assert_eq!(scenarios.next().unwrap().service.instances(), 6);
    assert_eq!(scenarios.next().unwrap().service.guard.unwrap().queue.size, 100);
}

/// A recording looks as the docs say.
#[test]
fn the_recording_in_the_docs_is_one() {
    let docs = include_str!("../../../docs/simulate.md");
    let recording = docs.split("```text\n").find(|block| block.starts_with("seaworthy-record")).unwrap();
    let call = "timeout=enforce retry=enforce attempts=3 base=25000000 cap=1000000000 jitter=full";
    let rest = "most_pushback=5000000000 hedge=off most_hedges=1 fallback=false";
    assert!(recording.contains(call));
    let recording =
        recording.split("```").next().unwrap().replace("jitter=full ...", &format!("jitter=full {rest}"));
    assert_eq!(replay(&recording).unwrap().calls, 1);
}

/// Whoever has one instance has nothing to choose from, wherever that is.
#[test]
fn one_instance_alone_is_called_whatever_is_said_of_places() {
    let mut placed = busy(1, true);
    let group = &mut placed.service.groups[0];
    (group.region, group.tier, group.weight) = ("far".into(), 2, 7);
    assert_eq!(run(&placed), run(&busy(1, true)));
    assert!(run(&placed).endpoints.is_empty());
}

/// Many instances leave recordings that replay, ejections included.
#[test]
fn a_recorded_run_with_many_instances_replays() {
    let mut scenario = busy(1, true);
    scenario.service.groups[0].instances = 5;
    let change = &mut scenario.service.changes[0];
    (change.aim.instances, change.failures) = (vec![2], Some(0.3));
    let report = run(&scenario);
    let recording = report.recording.as_deref().unwrap();
    assert!(recording.contains(" > trip "), "{report}");
    // Of two clients.
    assert_eq!(replay(recording).unwrap().gates, 10);
    assert_eq!(report, run(&scenario));
}
