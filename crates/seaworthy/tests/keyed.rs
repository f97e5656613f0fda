//! Pipelines by key: how many there are, and which of them are forgotten.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::future::pending;
use std::time::Duration;

use seaworthy::core::gate::breaker::{Force, State};
use seaworthy::keyed::Keyed;
use seaworthy::{Config, Pipeline};

fn keyed(most: usize) -> Keyed<u32> {
    let mut config = Config::default();
    config.call.retry.attempts = 1;
    Keyed::new("hosts", config, most).unwrap()
}

fn keys(keyed: &Keyed<u32>) -> Vec<u32> {
    let mut keys: Vec<_> = keyed.kept().into_iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys
}

async fn kill(pipeline: &Pipeline) {
    for _ in 0..5 {
        pipeline.call(|_| async { Err::<(), _>("no") }).await.unwrap_err();
    }
    assert_eq!(pipeline.snapshot().breaker.state, State::Open);
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_makes_room() {
    let hosts = keyed(3);
    for key in [1, 2, 3, 1, 4] {
        hosts.get(key).unwrap();
    }
    assert_eq!(keys(&hosts), [1, 3, 4]);
}

/// The successor of a pipeline that is forgotten in the middle of a call would have its permits once more.
#[tokio::test(start_paused = true)]
async fn a_pipeline_in_use_is_not_forgotten() {
    let hosts = keyed(2);
    let first = hosts.get(1).unwrap();
    let mut call = Box::pin(first.call(|_| pending::<Result<(), ()>>()));
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut call).await.is_err());
    for key in 2..10 {
        hosts.get(key).unwrap();
    }
    assert_eq!(keys(&hosts), [1, 9]);
    assert_eq!(hosts.get(1).unwrap().snapshot().limit.in_flight, 1);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_and_a_forced_one_are_not_forgotten() {
    let hosts = keyed(3);
    kill(&hosts.get(1).unwrap()).await;
    hosts.get(2).unwrap().force(Some(Force::Closed));
    for key in 3..10 {
        hosts.get(key).unwrap();
    }
    assert_eq!(keys(&hosts), [1, 2, 9]);
}

/// Keys come from outside. Whoever names enough hosts that do not answer would otherwise lock out all others for good, as an open
/// breaker that nobody asks stays open.
#[tokio::test(start_paused = true)]
async fn dead_hosts_that_nobody_asks_for_make_room_after_their_wait() {
    let hosts = keyed(4);
    for key in 0..4 {
        kill(&hosts.get(key).unwrap()).await;
    }
    assert_eq!(hosts.get(9).unwrap_err().most, 4);
    tokio::time::advance(Duration::from_secs(60)).await;
    hosts.get(9).unwrap();
    assert_eq!(keys(&hosts), [1, 2, 3, 9]);
}
