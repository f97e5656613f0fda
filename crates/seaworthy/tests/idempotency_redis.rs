//! The store of idempotency keys in Redis keeps to what all of them keep to, and to what it acknowledged when the server dies.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod servers;
mod stores;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use seaworthy::idempotency::store::durability::Durability;
use seaworthy::idempotency::store::redis::{Options, Redis};
use seaworthy::idempotency::store::{Answer, Id, Settled, Store, StoreError};
use seaworthy::idempotency::{Phase, Token};
use tokio::runtime::Handle;

use crate::stores::{HOUR, Opened, answer, begun, claim, id, listed, record, release, settled, taken, until};

/// One server for all tests of the contract, each under a prefix of its own.
static SERVER: OnceLock<servers::Redis> = OnceLock::new();
static OPENED: AtomicU32 = AtomicU32::new(0);

async fn open() -> Opened {
    let server = SERVER.get_or_init(servers::Redis::durable);
    let options =
        Options { prefix: format!("test.{}", OPENED.fetch_add(1, Ordering::Relaxed)), timeout: PLENTY };
    let store = Redis::new(&server.url(), options, Handle::current()).unwrap();
    Opened { store: Arc::new(store), keep: Box::new(()) }
}

conformance!(open);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills_in_the_middle_of_writes() {
    let mut server = servers::Redis::durable();
    let store = Arc::new(store(&server.url(), PLENTY));
    stores_survive(store, || server.kill_and_restart()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_down_within_the_timeout_and_used_again() {
    let server = servers::Redis::durable();
    let store = store(&server.url(), SHORT);
    answers(&store).await;
    server.hang();
    for _ in 0..3 {
        let error = store.find(&id("a")).await.unwrap_err();
        assert!(matches!(error, StoreError::Down(_)), "{error}");
    }
    server.go_on();
    answers(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_restarted_while_nobody_asked_is_not_down() {
    let mut server = servers::Redis::durable();
    let store = store(&server.url(), PLENTY);
    begun(&store, &id("a"), &claim(1)).await;
    server.kill_and_restart();
    assert_eq!(record(&store, &id("a")).await.standing.phase, Phase::Running);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_down() {
    let mut server = servers::Redis::durable();
    let url = server.url();
    server.kill();
    let error = store(&url, PLENTY).find(&id("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Down(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_told_again() {
    let server = servers::Redis::durable();
    let (store, mut connection) = (store(&server.url(), PLENTY), connection(&server).await);
    let hold = begun(&store, &id("a"), &claim(1)).await;
    let _: Value = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    begun(&store, &id("b"), &claim(1)).await;
    settled(&store, &id("a"), hold, &answer("x")).await;
}

#[test]
fn a_store_serves_several_runtimes_of_one_thread() {
    let server = servers::Redis::durable();
    let home = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = Arc::new(Redis::new(&server.url(), options(PLENTY), home.handle().clone()).unwrap());
    // The first of them makes the connection and ends.
    for n in 0..3 {
        let guests: Vec<_> = (0..3)
            .map(|m| {
                let store = store.clone();
                std::thread::spawn(move || {
                    let guest = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    guest.block_on(async { begun(&*store, &id(&format!("{n} {m}")), &claim(1)).await })
                })
            })
            .collect();
        for guest in guests {
            assert_eq!(guest.join().unwrap().token, Token::FIRST);
        }
    }
    home.shutdown_background();
    let guest = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = guest.block_on(store.find(&id("a"))).unwrap_err();
    assert!(matches!(error, StoreError::Down(_)), "{error}");
}

#[tokio::test]
async fn what_does_not_read_as_written_is_corrupt() {
    let server = servers::Redis::durable();
    let (store, mut connection) = (store(&server.url(), PLENTY), connection(&server).await);
    for (field, value) in [
        ("phase", "gone"),
        ("phase", "running"),
        ("fingerprint", "short"),
        ("token", "-1"),
        ("token", "x"),
        ("changed", ""),
        ("chunks", "many"),
        ("key", "another"),
        ("place", "\u{0}"),
    ] {
        let id = id(&format!("{field} {value}"));
        let hold = begun(&store, &id, &claim(1)).await;
        settled(&store, &id, hold, &answer("x")).await;
        let name = name(&mut connection, &id).await;
        let _: Value =
            redis::cmd("HSET").arg(&name).arg(field).arg(value).query_async(&mut connection).await.unwrap();
        assert_corrupt(store.find(&id).await.unwrap_err());
        if value != "running" {
            assert_corrupt(store.reserve(&id, &claim(2)).await.unwrap_err());
        }
    }
    let id = id("another type");
    begun(&store, &id, &claim(1)).await;
    let name = name(&mut connection, &id).await;
    let _: Value = redis::cmd("SET").arg(&name).arg("x").query_async(&mut connection).await.unwrap();
    assert_corrupt(store.find(&id).await.unwrap_err());
    assert_corrupt(store.reserve(&id, &claim(1)).await.unwrap_err());
    // None of them keeps the others from being listed.
    begun(&store, &crate::stores::id("whole"), &claim(1)).await;
    let page = store.list(None, 100).await.unwrap();
    assert!(page.unread >= 7, "{page:?}");
    assert!(page.records.iter().any(|(id, _)| *id == crate::stores::id("whole")), "{page:?}");
}

#[tokio::test]
async fn a_result_whose_chunk_is_gone_is_not_settled() {
    let server = servers::Redis::durable();
    let store = store(&server.url(), PLENTY);
    let hold = begun(&store, &id("a"), &claim(1)).await;
    assert!(store.put_chunk(&id("a"), hold, 0, Bytes::from_static(b"x"), HOUR).await.unwrap());
    let whole = Settled::Done(Answer { chunks: 2, ..Answer::default() });
    let error = store.settle(&id("a"), hold, &whole, HOUR).await.unwrap_err();
    assert_corrupt(error);
    assert_eq!(record(&store, &id("a")).await.standing.phase, Phase::Running);
}

#[tokio::test]
async fn a_full_memory_is_full() {
    let server = servers::Redis::start(&[
        "--maxmemory",
        "3mb",
        "--maxmemory-policy",
        "noeviction",
        "--appendonly",
        "no",
    ]);
    let store = store(&server.url(), PLENTY);
    let hold = begun(&store, &id("a"), &claim(1)).await;
    let mut error = None;
    for n in 0..200 {
        let bytes = Bytes::from(vec![7; 64 * 1024]);
        if let Err(full) = store.put_chunk(&id("a"), hold, n, bytes, HOUR).await {
            error = Some(full);
            break;
        }
    }
    assert!(matches!(error, Some(StoreError::Full(_))), "{error:?}");
    assert_eq!(record(&store, &id("a")).await.standing.phase, Phase::Running, "what is there can be read");
}

#[tokio::test]
async fn all_keys_of_a_record_are_in_one_slot_and_a_cluster_takes_every_step() {
    let server = servers::Redis::start(&["--cluster-enabled", "yes", "--appendonly", "no"]);
    let mut connection = connection(&server).await;
    let mut all = redis::cmd("CLUSTER");
    all.arg("ADDSLOTS");
    (0..16_384).for_each(|slot: u32| {
        all.arg(slot);
    });
    let _: Value = all.query_async(&mut connection).await.unwrap();
    let store = store(&server.url(), PLENTY);
    until("the cluster is up", || async { store.find(&id("a")).await.is_ok() }).await;

    let hold = begun(&store, &id("a"), &claim(1)).await;
    for n in 0..3 {
        assert!(store.put_chunk(&id("a"), hold, n, Bytes::from_static(b"x"), HOUR).await.unwrap());
    }
    settled(&store, &id("a"), hold, &Settled::Done(Answer { chunks: 3, ..Answer::default() })).await;
    assert!(store.chunk(&id("a"), hold.token, 2).await.unwrap().is_some());
    assert_eq!(listed(&store, 10).await.len(), 1);
    begun(&store, &id("b"), &claim(1)).await;
    assert!(store.release(&release(&id("b"), hold.token, "why not")).await.unwrap());
    assert_eq!(store.releases(10).await.unwrap().len(), 1);

    // Where the server puts them, not where we think that it does.
    let mut names: Vec<String> = redis::cmd("KEYS").arg("*{*").query_async(&mut connection).await.unwrap();
    assert_eq!(names.len(), 6, "{names:?}");
    names.sort();
    let mut slots = Vec::new();
    for name in &names {
        let slot: i64 =
            redis::cmd("CLUSTER").arg("KEYSLOT").arg(name).query_async(&mut connection).await.unwrap();
        slots.push(slot);
    }
    slots.dedup();
    assert_eq!(slots.len(), 2, "{names:?}");
    // Chunks that are dropped are dropped in their slot.
    assert!(store.release(&release(&id("a"), hold.token, "why not")).await.unwrap());
    chunks_are_gone(&mut connection).await;
}

#[tokio::test]
async fn everything_expires() {
    let server = servers::Redis::durable();
    let (store, mut connection) = (store(&server.url(), PLENTY), connection(&server).await);
    let hold = begun(&store, &id("a"), &claim(1)).await;
    assert!(store.put_chunk(&id("a"), hold, 0, Bytes::from_static(b"x"), HOUR).await.unwrap());
    begun(&store, &id("b"), &claim(1)).await;
    assert!(store.release(&release(&id("b"), hold.token, "why not")).await.unwrap());
    let names: Vec<String> = redis::cmd("KEYS").arg("*{*").query_async(&mut connection).await.unwrap();
    for name in names {
        let left_ms: i64 = redis::cmd("PTTL").arg(&name).query_async(&mut connection).await.unwrap();
        assert!(left_ms > 0, "{name}: {left_ms}");
    }
}

#[tokio::test]
async fn chunks_that_nothing_refers_to_are_dropped() {
    let server = servers::Redis::durable();
    let (store, mut connection) = (store(&server.url(), PLENTY), connection(&server).await);
    let put = async |hold, number| {
        assert!(store.put_chunk(&id("a"), hold, number, Bytes::from_static(b"x"), HOUR).await.unwrap());
    };
    let first = begun(&store, &id("a"), &claim(1)).await;
    for number in [0, 2, 1, 1] {
        put(first, number).await;
    }
    let second = taken(&store, &id("a"), &claim(2), first.token).await;
    chunks_are_gone(&mut connection).await;
    put(second, 0).await;
    assert!(store.release(&release(&id("a"), second.token, "why not")).await.unwrap());
    chunks_are_gone(&mut connection).await;
    // Not those of who holds it now.
    let third = begun(&store, &id("a"), &claim(3)).await;
    put(third, 0).await;
    assert_eq!(begun(&store, &id("a"), &claim(3)).await, third);
    assert!(store.chunk(&id("a"), third.token, 0).await.unwrap().is_some());
}

async fn chunks_are_gone(connection: &mut redis::aio::MultiplexedConnection) {
    until("the chunks are gone", || {
        let mut connection = connection.clone();
        async move {
            let chunks: Vec<String> =
                redis::cmd("KEYS").arg("*}:[0-9]*").query_async(&mut connection).await.unwrap();
            chunks.is_empty()
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_server_promises_is_told() {
    let durable = servers::Redis::durable();
    assert_eq!(store(&durable.url(), PLENTY).durability().await.unwrap(), Durability::Durable);

    let weak = servers::Redis::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let Durability::Weaker(how) = store(&weak.url(), PLENTY).durability().await.unwrap() else {
        panic!("it is not durable")
    };
    for setting in ["appendonly", "appendfsync", "maxmemory-policy"] {
        assert!(how.contains(setting), "{how}");
    }

    let mut connection = connection(&durable).await;
    let mut user = redis::cmd("ACL");
    user.arg(&["SETUSER", "proxy", "on", ">secret", "~*", "+@all", "-config"]);
    let _: Value = user.query_async(&mut connection).await.unwrap();
    let url = durable.url().replace("://", "://proxy:secret@");
    let told = store(&url, PLENTY).durability().await.unwrap();
    assert!(matches!(told, Durability::Untold(_)), "{told}");
}

#[tokio::test]
async fn a_password_is_never_told() {
    let server = servers::Redis::start(&["--requirepass", "right"]);
    let wrong = store(&server.url().replace("://", "://:hunter2@"), PLENTY);
    let error = wrong.find(&id("a")).await.unwrap_err();
    assert!(!format!("{error} {error:?} {wrong:?}").contains("hunter2"), "{error}");
    for url in [
        "http://u:hunter2@localhost",
        "rediss://u:hunter2@localhost",
        "localhost:hunter2",
        "redis://:hunter2@h:x",
    ] {
        let error = Redis::new(url, Options::default(), Handle::current()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_prefix_that_could_be_taken_for_something_else_is_refused() {
    for prefix in ["", "a{b}", "a*", "a b", "\u{e4}"] {
        let options = Options { prefix: prefix.into(), ..Options::default() };
        assert!(Redis::new("redis://localhost", options, Handle::current()).is_err(), "{prefix:?}");
    }
}

/// Writers go on while the server is killed and comes back, several times over; then everything acknowledged is there.
async fn stores_survive(store: Arc<Redis>, mut kill_and_restart: impl FnMut()) {
    let acknowledged = Arc::new(AtomicU32::new(0));
    let stop = Arc::new(AtomicU32::new(0));
    let writers: Vec<_> = (0..16_u32)
        .map(|writer| {
            let (store, acknowledged, stop) = (store.clone(), acknowledged.clone(), stop.clone());
            tokio::spawn(async move { write(&*store, writer, &acknowledged, &stop).await })
        })
        .collect();
    for round in 1..=5 {
        until("writes are acknowledged", || async { acknowledged.load(Ordering::Relaxed) >= round * 40 })
            .await;
        tokio::task::block_in_place(&mut kill_and_restart);
        acknowledged.store(round * 40, Ordering::Relaxed);
    }
    until("writes go on", || async { acknowledged.load(Ordering::Relaxed) >= 240 }).await;
    stop.store(1, Ordering::Relaxed);
    let mut kept = 0;
    for writer in writers {
        for (id, token) in writer.await.unwrap() {
            let standing = record(&*store, &id).await.standing;
            assert_eq!((standing.token, standing.phase), (token, Phase::Done), "{id}");
            kept += 1;
        }
    }
    assert!(kept >= 240, "{kept} were acknowledged, which proves little");
}

/// Begins and settles one key after the other; what of it was acknowledged.
async fn write(
    store: &dyn Store,
    writer: u32,
    acknowledged: &AtomicU32,
    stop: &AtomicU32,
) -> Vec<(Id, Token)> {
    let mut kept = Vec::new();
    let mut number = 0;
    while stop.load(Ordering::Relaxed) == 0 {
        number += 1;
        let id = id(&format!("{writer} {number}"));
        let Ok(seaworthy::idempotency::store::Reserved::New(hold)) = store.reserve(&id, &claim(1)).await
        else {
            continue;
        };
        // If the answer to this is lost, either may be what stands.
        if store.settle(&id, hold, &answer("kept"), HOUR).await.is_ok_and(|held| held) {
            kept.push((id, hold.token));
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    kept
}

impl servers::Redis {
    fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }
}

fn assert_corrupt(error: StoreError) {
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
}

async fn answers(store: &dyn Store) {
    until("it answers", || async { store.find(&id("awaited")).await.is_ok() }).await;
}

fn store(url: &str, timeout: Duration) -> Redis {
    Redis::new(url, options(timeout), Handle::current()).unwrap()
}

fn options(timeout: Duration) -> Options {
    Options { timeout, ..Options::default() }
}

async fn connection(server: &servers::Redis) -> redis::aio::MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// The record's key in Redis, found by what it holds.
async fn name(connection: &mut redis::aio::MultiplexedConnection, id: &Id) -> String {
    let names: Vec<String> = redis::cmd("KEYS").arg("*{*}").query_async(connection).await.unwrap();
    for name in names {
        let key: Result<Vec<u8>, _> = redis::cmd("HGET").arg(&name).arg("key").query_async(connection).await;
        if key.is_ok_and(|key| key == id.key.as_bytes()) {
            return name;
        }
    }
    panic!("{id} is not there")
}

const PLENTY: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);
