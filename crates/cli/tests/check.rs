//! `seaworthy check` on right and wrong files.

mod common;

use std::path::Path;

use common::{file, run, stderr, stdout};
use serde_json::Value;

const RIGHT: &str = "[upstream.shop]\nendpoints = \"http://127.0.0.1:3000\"\ntimeout.floor = \"20ms\"\n";
const WRONG: &str = "[upstream.shop]\nendpoints = \"ftp://127.0.0.1\"\nretry.attemps = 3\n";

#[test]
fn a_right_file_shows_every_setting_and_its_origin() {
    let path = file("check-right.toml", RIGHT);
    let output = run(&["check", path.to_str().unwrap()]);
    assert!(output.status.success());
    let floor = stdout(&output).lines().find(|line| line.starts_with("upstream.shop.timeout.floor")).unwrap();
    assert!(floor.contains("\"20ms\"") && floor.ends_with("check-right.toml:3"), "{floor}");
    let quantile =
        stdout(&output).lines().find(|line| line.starts_with("upstream.shop.timeout.quantile")).unwrap();
    assert!(quantile.ends_with("default"), "{quantile}");
}

#[test]
fn a_wrong_file_shows_all_mistakes_at_once_and_fails() {
    let path = file("check-wrong.toml", WRONG);
    let output = run(&["check", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("ftp://127.0.0.1") && text.contains("did you mean \"attempts\"?"), "{text}");
}

#[test]
fn json_says_the_same() {
    let path = file("check-json-right.toml", RIGHT);
    let output = run(&["check", path.to_str().unwrap(), "--json"]);
    assert!(output.status.success());
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["valid"], true);
    let settings = verdict["effective"].as_array().unwrap();
    let floor = settings.iter().find(|setting| setting["path"] == "upstream.shop.timeout.floor").unwrap();
    assert_eq!((&floor["value"], &floor["origin"]["line"]), (&"20ms".into(), &3.into()));

    let path = file("check-json-wrong.toml", WRONG);
    let output = run(&["check", path.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&verdict["valid"], verdict["errors"].as_array().unwrap().len()), (&false.into(), 2));
    assert_eq!(verdict["effective"], Value::Null);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = run(&["check", "/nowhere/seaworthy.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nowhere/seaworthy.toml"), "{}", stderr(&output));
}

#[test]
fn every_example_is_right_but_those_of_mistakes() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut checked = 0;
    for entry in std::fs::read_dir(&examples).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".toml") {
            continue;
        }
        let command = if name.ends_with(".scenario.toml") { "simulate" } else { "check" };
        let output = run(&[command, examples.join(&name).to_str().unwrap()]);
        assert_eq!(
            output.status.success(),
            !name.ends_with("mistakes.toml"),
            "{name}:\n{}{}",
            stdout(&output),
            stderr(&output)
        );
        checked += 1;
    }
    assert!(checked > 0, "no examples in {}", examples.display());
}
