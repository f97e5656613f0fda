//! A process that is killed while it writes: what it was told is there afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use seaworthy::core::{Rng as _, Seeded};
use seaworthy::idempotency::store::embedded::{Embedded, OpenError, Options};
use seaworthy::idempotency::store::{Answer, Settled, Store as _};
use seaworthy::idempotency::{Phase, Token};

use crate::stores::{HOUR, begun, claim, id, listed, settled};

/// How often the child is killed; more by `SEAWORTHY_KILLS`.
const KILLS: u64 = 12;

fn chunk(key: &str) -> Bytes {
    Bytes::from(key.repeat(300))
}

fn result(key: &str) -> Answer {
    Answer { head: Bytes::from_static(b"200"), body: Bytes::copy_from_slice(key.as_bytes()), chunks: 1 }
}

/// What is killed: 16 tasks that reserve and settle keys, and say a line for each that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `what_was_acknowledged_outlives_a_kill`"]
async fn writes_until_it_is_killed() {
    let Ok(file) = std::env::var("SEAWORTHY_KEYS_FILE") else { return };
    let round = std::env::var("SEAWORTHY_ROUND").unwrap();
    let store = Arc::new(Embedded::open(Path::new(&file), Options::default()).unwrap());
    let say = |line: String| {
        // One write, so that no line is torn by the kill.
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).unwrap();
        out.flush().unwrap();
    };
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (store, round) = (store.clone(), round.clone());
            tokio::spawn(async move {
                for n in 0..100_000 {
                    let key = format!("{round}-{task}-{n}");
                    let hold = begun(&*store, &id(&key), &claim(7)).await;
                    say(format!("\nreserved {key}\n"));
                    assert!(store.put_chunk(&id(&key), hold, 0, chunk(&key), HOUR).await.unwrap());
                    settled(&*store, &id(&key), hold, &Settled::Done(result(&key))).await;
                    say(format!("\ndone {key}\n"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn child(file: &Path, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["killed::writes_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
        .env("SEAWORTHY_KEYS_FILE", file)
        .env("SEAWORTHY_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Kills it after so many lines; puts what they say with what is known: whether a key was done.
fn kill_after(mut child: Child, lines: u64, known: &mut BTreeMap<String, bool>) {
    let mut seen = 0;
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        match line.trim_end().split_once(' ') {
            Some(("reserved", key)) => {
                known.entry(key.into()).or_insert(false);
                seen += 1;
            }
            Some(("done", key)) => {
                known.insert(key.into(), true);
                seen += 1;
            }
            _ => {}
        }
        if seen == lines {
            child.kill().unwrap();
        }
        line.clear();
    }
    child.wait().unwrap();
    assert!(seen >= lines, "the child ended by itself after {seen} lines");
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_kill() {
    let kills = std::env::var("SEAWORTHY_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let seed = std::env::var("SEAWORTHY_SEED").map_or(11, |seed| seed.parse().unwrap());
    println!("{kills} kills of seed {seed}");
    let mut rng = Seeded::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.redb");
    let mut known = BTreeMap::new();
    for round in 0..kills {
        kill_after(child(&file, round), 1 + rng.next_u64() % 400, &mut known);
        let store = Embedded::open(&file, Options::default()).unwrap();
        for (key, done) in &known {
            let record = store.find(&id(key)).await.unwrap().unwrap_or_else(|| panic!("{key} was lost"));
            assert_eq!(record.standing.token, Token::FIRST);
            match record.standing.phase {
                Phase::Done => {
                    assert!(record.answer == Some(result(key)), "{key} has another result");
                    let chunk_kept = store.chunk(&id(key), Token::FIRST, 0).await.unwrap();
                    assert!(chunk_kept == Some(chunk(key)), "{key} has another chunk");
                }
                Phase::Running => assert!(!done && record.orphaned, "{key}: {done}, {record:?}"),
                phase => panic!("{key} is {}", phase.name()),
            }
        }
        // What was not acknowledged was done or not, but nothing of it still runs.
        for (key, record) in listed(&store, 1000).await {
            assert!(record.standing.phase == Phase::Done || record.orphaned, "{key}: {record:?}");
        }
    }
}

#[tokio::test]
async fn a_child_that_lives_is_not_joined() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.redb");
    let mut child = child(&file, 0);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("reserved") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0);
    }
    let error = Embedded::open(&file, Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    Embedded::open(&file, Options::default()).unwrap();
}
