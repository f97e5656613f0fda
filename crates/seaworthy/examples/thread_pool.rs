//! Blocking work in threads of its own: it can't stop the async tasks, a burst beyond the queue is refused at once, and a panic
//! is one call's error.
//!
//! `cargo run -p seaworthy --example thread_pool`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error as StdError;
use std::sync::mpsc;
use std::time::Duration;

use seaworthy::bulkhead::ThreadPool;
use seaworthy::bulkhead::thread_pool::{Config, Error};

/// One thread: what waits here holds up nothing else.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn StdError>> {
    // Longer than this program, on however slow a machine. A real one waits as long as its callers are patient.
    let max_wait = Duration::from_secs(30);
    let images = ThreadPool::new("images", Config { threads: 2, queue: 2, max_wait })?;

    // Five come at once: two are worked on, two wait, and the fifth is refused while all of them are still there.
    let (tell, told) = mpsc::channel::<()>();
    let told = std::sync::Arc::new(std::sync::Mutex::new(told));
    let mut calls = tokio::task::JoinSet::new();
    for n in 1..=5 {
        let told = told.clone();
        calls.spawn(images.run(move || {
            // This blocks its thread until it is told to go on.
            told.lock().map(|told| told.recv().is_ok()).unwrap_or_default();
            format!("image {n} by {}", std::thread::current().name().unwrap_or("?"))
        }));
    }
    match calls.join_next().await.ok_or("nobody answered")?? {
        Err(Error::Rejected(rejection)) => println!("refused: {rejection}"),
        other => return Err(format!("the fifth should have been refused: {other:?}").into()),
    }
    println!("now {:?}", images.snapshot());
    for _ in 0..4 {
        tell.send(())?;
    }
    while let Some(done) = calls.join_next().await {
        println!("done: {}", done??);
    }

    // A panic is an error of the call that it belongs to, and the thread goes on.
    match images.run(|| -> u32 { panic!("this image is broken") }).await {
        Err(Error::Panicked(panicked)) => println!("panicked: {panicked}"),
        other => return Err(format!("it should have panicked: {other:?}").into()),
    }
    println!("and goes on: {}", images.run(|| 6 * 7).await?);
    images.shutdown(Duration::from_secs(30)).await?;
    println!("every thread has ended");
    Ok(())
}
