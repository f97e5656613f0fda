//! Runs a scenario: `cargo run -p seaworthy-sim --example simulate examples/retries.scenario.toml`. What the command
//! `seaworthy simulate` does, without the rest of it.

use std::error::Error;
use std::io::{self, Write};

use seaworthy_sim::{Scenario, run};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("which scenario? give its path")?;
    let scenario = Scenario::parse(&std::fs::read_to_string(&path)?, &path)?;
    write!(io::stdout().lock(), "{}", run(&scenario))?;
    Ok(())
}
