//! `seaworthy check`: is this configuration right, and what does it amount to?

use std::path::{Path, PathBuf};

use seaworthy_config::{Config, Diagnostic, Effective, Mistakes};
use serde::Serialize;

use crate::failure::Failure;
use crate::out;

/// Check a configuration and show what it amounts to
///
/// Prints all errors at once, each with its line and a remedy, and exits with 1. Without errors it prints warnings and
/// every setting in force with where it comes from. Opens no socket.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  seaworthy check seaworthy.toml
  seaworthy check seaworthy.toml --json | jq '.effective[] | select(.origin.from != \"default\")'")]
pub(crate) struct Args {
    /// The configuration
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Checks the file and says what came of it.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    let name = args.file.display().to_string();
    let checked = Config::from_toml(&name, &read(&args.file)?);
    if args.json {
        out::json(&Verdict::of(&checked))?
    } else {
        out::line(&in_words(&name, &checked))?
    }
    checked.map(|_| ()).map_err(|_| Failure::Told)
}

/// The text of a configuration file.
pub(crate) fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::because(format!("could not read {}", file.display()), error))
}

#[derive(Serialize)]
struct Verdict<'a> {
    valid: bool,
    errors: &'a [Diagnostic],
    warnings: &'a [Diagnostic],
    /// Every setting in force; `null` if there are errors.
    effective: Option<&'a Effective>,
}

impl<'a> Verdict<'a> {
    fn of(checked: &'a Result<Config, Mistakes>) -> Self {
        match checked {
            Ok(config) => Self {
                valid: true,
                errors: &[],
                warnings: &config.warnings,
                effective: Some(&config.effective),
            },
            Err(mistakes) => {
                Self { valid: false, errors: &mistakes.errors, warnings: &mistakes.warnings, effective: None }
            }
        }
    }
}

fn in_words(name: &str, checked: &Result<Config, Mistakes>) -> String {
    let config = match checked {
        Ok(config) => config,
        Err(mistakes) => return mistakes.to_string(),
    };
    let mut text = config.effective.to_string();
    for warning in &config.warnings {
        text.push_str(&format!("\n{warning}\n"));
    }
    let warnings = match config.warnings.len() {
        0 => "no warnings".to_owned(),
        1 => "1 warning".to_owned(),
        n => format!("{n} warnings"),
    };
    format!("{text}\n{name} is valid, with {warnings}.")
}
