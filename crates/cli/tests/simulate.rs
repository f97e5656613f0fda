//! `seaworthy simulate` on scenarios right and wrong.

mod common;

use common::{file, run, stderr, stdout};
use serde_json::Value;

const SCENARIO: &str = "\
[simulation]
seed = 7
duration = \"10s\"
[clients]
rate = 100.0
[service]
latency = \"20ms\"
failures = 0.1
[upstream.service.retry]
attempts = 2
";

#[test]
fn the_same_seed_gives_the_same_result_and_another_seed_another() {
    let path = file("simulate-seeds.scenario.toml", SCENARIO);
    let path = path.to_str().unwrap();
    let json = |arguments: &[&str]| {
        let output = run(&[&["simulate", path, "--json"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let own = json(&[]);
    assert_eq!(own["seed"], 7);
    assert_eq!(own, json(&["--seed", "7"]));
    assert_ne!(own["total"], json(&["--seed", "8"])["total"]);
    assert!(own["total"]["success"].as_f64().unwrap() > 0.95, "{own:#}");
}

#[test]
fn without_json_there_is_a_table() {
    let path = file("simulate-table.scenario.toml", SCENARIO);
    let output = run(&["simulate", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("success") && stdout(&output).contains("seed 7"), "{}", stdout(&output));
}

#[test]
fn a_recording_is_written_where_asked_for() {
    let path = file("simulate-record.scenario.toml", SCENARIO);
    let recording = file("simulate-record.out", "");
    let arguments = ["simulate", path.to_str().unwrap(), "--record", recording.to_str().unwrap()];
    assert!(run(&arguments).status.success());
    assert!(std::fs::metadata(&recording).unwrap().len() > 0);
}

#[test]
fn a_wrong_scenario_is_refused_with_its_mistakes() {
    let path =
        file("simulate-wrong.scenario.toml", &SCENARIO.replace("latency = \"20ms\"", "latency = \"soon\""));
    let output = run(&["simulate", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("simulate-wrong.scenario.toml:7"), "{}", stderr(&output));
}
