//! Every command explains itself.

mod common;

use common::{run, stderr, stdout};

#[test]
fn every_command_shows_an_example() {
    for command in ["demo", "run", "check", "simulate"] {
        let output = run(&[command, "--help"]);
        assert!(output.status.success(), "{command}");
        let text = stdout(&output);
        let examples =
            text.split("Examples:").nth(1).unwrap_or_else(|| panic!("{command} has no examples:\n{text}"));
        assert!(examples.contains(&format!("seaworthy {command}")), "{command}:\n{text}");
    }
}

#[test]
fn the_overview_lists_the_commands_and_hides_the_demos_own() {
    let output = run(&["--help"]);
    let text = stdout(&output);
    for command in ["demo", "run", "check", "simulate"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(command)), "{command}:\n{text}");
    }
    assert!(!text.contains("demo-service"), "{text}");
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_what_is_wrong() {
    for arguments in [
        &["demo", "--for", "1s"][..],
        &["demo", "--rate", "0"],
        &["run"],
        &["run", "a.toml", "--to", "http://b"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("error:"), "{arguments:?}");
    }
}
