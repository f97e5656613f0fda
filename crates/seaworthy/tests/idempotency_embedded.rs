//! The store of idempotency keys in a file keeps to what all of them keep to; and it outlives what befalls files.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[path = "stores/embedded/damage.rs"]
mod damage;
#[path = "stores/embedded/killed.rs"]
mod killed;
mod stores;
#[path = "stores/embedded/trouble.rs"]
mod trouble;

use std::sync::Arc;

use seaworthy::idempotency::store::embedded::{Embedded, Options};

use crate::stores::Opened;

async fn open() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("keys.redb"), Options::default()).unwrap();
    Opened { store: Arc::new(store), keep: Box::new(folder) }
}

conformance!(open);

/// Not a test, but a measurement: `cargo test --release -p seaworthy --features idempotency-embedded --test
/// idempotency_embedded -- --ignored --nocapture`.
mod measured {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::stores::{HOUR, answer, begun, claim, id, settled};

    /// Operations, each reserved and settled, of 256 tasks at a time.
    async fn run(store: &Arc<Embedded>, from: u64, operations: u64) {
        let next = Arc::new(AtomicU64::new(from));
        let tasks: Vec<_> = (0..256)
            .map(|_| {
                let (store, next) = (store.clone(), next.clone());
                tokio::spawn(async move {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= from + operations {
                            return;
                        }
                        let id = id(&format!("8e03978e-40d5-43e8-bc93-{n:012x}"));
                        let hold = begun(&*store, &id, &claim(u128::from(n))).await;
                        settled(&*store, &id, hold, &answer("{\"charged\": true}")).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[ignore = "a measurement"]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn operations_a_second_and_memory_up_to_a_million_keys() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.redb");
        let store = Arc::new(Embedded::open(&file, Options::default()).unwrap());
        let mut before = store.stats();
        for round in 0..std::env::var("SEAWORTHY_ROUNDS").map_or(10, |n| n.parse().unwrap()) {
            let written_before = written();
            let start = Instant::now();
            run(&store, round * 100_000, 100_000).await;
            let (took, now) = (start.elapsed().as_secs_f64(), store.stats());
            println!(
                "{} keys: {:.0} operations/s, {:.0} steps a commit, {:.1} ms a commit, {} MiB on disk, {} MiB resident, {:.1} KiB written an operation",
                (round + 1) * 100_000,
                100_000.0 / took,
                (now.steps - before.steps) as f64 / (now.commits - before.commits) as f64,
                took * 1000.0 / (now.commits - before.commits) as f64,
                now.bytes >> 20,
                resident_kib() >> 10,
                (written() - written_before) as f64 / 1024.0 / 100_000.0,
            );
            before = now;
        }
        let start = Instant::now();
        let store = Arc::into_inner(store).unwrap();
        drop(store);
        let store = Embedded::open(&file, Options::default()).unwrap();
        println!("opened again in {:?}", start.elapsed());
        assert!(store.stats().bytes > 0 && HOUR > start.elapsed());
    }

    fn written() -> u64 {
        let io = std::fs::read_to_string("/proc/self/io").unwrap();
        let line = io.lines().find(|line| line.starts_with("wchar:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn resident_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}
