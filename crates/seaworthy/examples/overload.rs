//! Nearly four times as many calls as a service can carry: who is served, and by what the others are refused. Then a service that
//! refuses everything: how much of it is still sent.
//!
//! `cargo run -p seaworthy --example overload`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use seaworthy::classify::Plain;
use seaworthy::core::Pushback;
use seaworthy::core::gate::limit::{self, Algorithm};
use seaworthy::core::gate::{queue, rate};
use seaworthy::{Caller, Config, Criticality, Mode, Outcome, Pipeline, Repeat};
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// Who calls, how much that matters, and how many calls a second it makes.
const CLIENTS: [(&str, Criticality, u32); 4] = [
    ("checkout", Criticality::CriticalPlus, 100),
    ("modest", Criticality::Critical, 150),
    ("greedy", Criticality::Critical, 1_000),
    ("reports", Criticality::Sheddable, 300),
];
/// How long they call.
const SECONDS: u32 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    // On a paused clock the seconds pass at once.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        too_much().await?;
        refused().await
    })
}

async fn too_much() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    // How many calls the service carries is found out; at most 64.
    config.limit = limit::Config { algorithm: Algorithm::Vegas, max_in_flight: 64, ..config.limit };
    config.queue = queue::Config { size: 40, max_wait: Duration::from_millis(200), ..Default::default() };
    config.rate = Some(rate::Config { calls: 400, burst: 40, ..Default::default() });
    let pipeline = Pipeline::with("prices", config).map_err(|faults| format!("{faults:?}"))?;

    // Four workers, of whom each call takes one for 10 ms: 400 calls a second.
    let workers = Arc::new(Semaphore::new(4));
    let mut calls = Vec::new();
    for n in 0..SECONDS * 1_000 {
        for (name, criticality, a_second) in CLIENTS {
            if n * a_second / 1_000 != (n + 1) * a_second / 1_000 {
                let caller = Caller::new(criticality).client(name);
                let (pipeline, workers) = (pipeline.clone(), workers.clone());
                calls.push((name, tokio::spawn(async move { ask(&pipeline, caller, &workers).await })));
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    let snapshot = pipeline.snapshot();
    let mut ends: BTreeMap<_, u32> = BTreeMap::new();
    for (name, call) in calls {
        *ends.entry((name, call.await?)).or_default() += 1;
    }
    println!("of {SECONDS} seconds' calls");
    ends.iter().for_each(|((name, end), calls)| println!("{name:>9}: {calls:4} {end}"));
    assert_eq!(ends[&("checkout", "served".to_owned())], 100 * SECONDS, "what matters most is served");
    let (limit, queue) = (snapshot.limit, snapshot.queue);
    println!("at their end the limit was {}, and {:?} waited", limit.max_in_flight, queue.waiting);
    Ok(())
}

/// How a call ended, in words.
async fn ask(pipeline: &Pipeline, caller: Caller, workers: &Semaphore) -> String {
    let work = |_attempt| async {
        let _worker = workers.acquire().await;
        sleep(Duration::from_millis(10)).await;
        Ok::<_, &str>(())
    };
    match pipeline.call_as(Repeat::Never, Plain, work).of(caller).await {
        Ok(()) => "served".to_owned(),
        Err(error) => match error.rejection() {
            Some(refusal) => format!("refused by the {}: {}", refusal.policy.name(), refusal.reason),
            None => error.to_string(),
        },
    }
}

async fn refused() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    // It would leave the service alone altogether, as it does with one that fails.
    config.breaker.mode = Mode::Off;
    let pipeline = Pipeline::with("busy", config).map_err(|faults| format!("{faults:?}"))?;
    for second in 1..=7 {
        let refuses = second <= 3;
        let meaning = |_: Result<&(), &&str>| {
            if refuses { Outcome::Overloaded(Pushback::Unsaid) } else { Outcome::Success }
        };
        let mut sent = 0;
        for _ in 0..1_000 {
            let attempt = |_attempt| {
                sent += 1;
                async { Ok::<_, &str>(()) }
            };
            // What the throttle refuses was not sent; both are counted.
            let _ = pipeline.call_as(Repeat::Never, meaning, attempt).await;
            sleep(Duration::from_millis(1)).await;
        }
        let does = if refuses { "refuses" } else { "serves" };
        println!("second {second}: the service {does}, {sent} of 1000 calls were sent");
    }
    Ok(())
}
