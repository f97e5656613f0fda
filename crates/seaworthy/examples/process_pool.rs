//! Work in processes of their own: one is killed in the middle of a call, which loses that call and nothing else.
//!
//! `cargo run -p seaworthy --example process_pool`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error as StdError;
use std::time::Duration;

#[cfg(unix)]
use seaworthy::bulkhead::process_pool::{self, Config, Error, ProcessPool};

#[cfg(unix)]
fn main() -> Result<(), Box<dyn StdError>> {
    // The workers are this program again: what they are is asked before anything else.
    if process_pool::is_worker("words") {
        return Ok(process_pool::serve(|text| work(&text))?);
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(parent())
}

/// The worker's part: counts words, or hangs where the text says so, as a bad parser would.
#[cfg(unix)]
fn work(text: &[u8]) -> Vec<u8> {
    if text == b"hang" {
        loop {
            std::thread::park();
        }
    }
    String::from_utf8_lossy(text).split_whitespace().count().to_string().into()
}

#[cfg(unix)]
async fn parent() -> Result<(), Box<dyn StdError>> {
    // Longer than this program, on however slow a machine.
    let max_wait = Duration::from_secs(30);
    let config = Config { workers: 2, max_wait, memory: Some(1 << 30), ..Config::default() };
    let words = ProcessPool::new("words", config)?;
    let count = words.call(b"how many words are these".to_vec()).await?;
    println!("{} words", String::from_utf8(count)?);

    // One call hangs. Its worker is the one that does not answer beside it.
    while words.snapshot().workers.len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let hangs = tokio::spawn(words.call(b"hang".to_vec()));
    let count = words.call(b"the other one works on".to_vec()).await?;
    println!("{} words, while a call hangs: {:?}", String::from_utf8(count)?, words.snapshot());

    // Both are killed: the idle one loses nothing, the other its call.
    let killed = words.snapshot().workers;
    for pid in &killed {
        std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    }
    match hangs.await? {
        Err(error @ Error::Lost { .. }) => {
            println!(
                "lost: {error}, because {}",
                error.source().map(ToString::to_string).unwrap_or_default()
            );
            println!("another try: {:?}", error.again());
        }
        other => return Err(format!("the call should have been lost: {other:?}").into()),
    }
    let is_new = |seen: Vec<u32>| seen.len() == 2 && !seen.iter().any(|pid| killed.contains(pid));
    while !is_new(words.snapshot().workers) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let count = words.call(b"and on it goes".to_vec()).await?;
    println!("{} words, with new workers: {:?}", String::from_utf8(count)?, words.snapshot());
    words.shutdown(Duration::from_secs(30)).await?;
    println!("every worker has ended");
    Ok(())
}

#[cfg(not(unix))]
fn main() -> Result<(), Box<dyn StdError>> {
    println!("a pool of processes needs Unix");
    Ok(())
}
