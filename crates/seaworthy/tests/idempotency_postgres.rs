//! The store of idempotency keys in PostgreSQL keeps to what all of them keep to, to what it acknowledged when the server dies,
//! and commits a record together with the caller's effect.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod servers;
mod stores;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use seaworthy::idempotency::store::durability::Durability;
use seaworthy::idempotency::store::postgres::{First, JoinError, Joined, Options, Postgres};
use seaworthy::idempotency::store::{Answer, CHUNK_BYTES, Id, Reserved, Settled, Store, StoreError};
use seaworthy::idempotency::{Phase, Token};
use tokio::runtime::Handle;
use tokio_postgres::{Client, NoTls, Transaction};

use crate::stores::{
    HOUR, Opened, answer, begun, claim, fingerprint, forgotten, found, id, record, release, settled,
    standing, until,
};

/// One server for all tests that don't harm it, each in a schema of its own.
static SERVER: OnceLock<servers::Postgres> = OnceLock::new();
static OPENED: AtomicU32 = AtomicU32::new(0);

async fn open() -> Opened {
    Opened { store: Arc::new(shared().await), keep: Box::new(()) }
}

conformance!(open);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills_in_the_middle_of_writes() {
    let mut server = servers::Postgres::start();
    let store = Arc::new(store(&server.url(), PLENTY));
    let (acknowledged, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let writers: Vec<_> = (0..16_u32)
        .map(|writer| {
            let (store, acknowledged, stop) = (store.clone(), acknowledged.clone(), stop.clone());
            tokio::spawn(async move { write(&*store, writer, &acknowledged, &stop).await })
        })
        .collect();
    for round in 1..=4 {
        until("writes are acknowledged", || async { acknowledged.load(Ordering::Relaxed) >= round * 40 })
            .await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.restart();
        });
        acknowledged.store(round * 40, Ordering::Relaxed);
    }
    until("writes go on", || async { acknowledged.load(Ordering::Relaxed) >= 200 }).await;
    stop.store(1, Ordering::Relaxed);
    let mut kept = 0;
    for writer in writers {
        for (id, token) in writer.await.unwrap() {
            let standing = record(&*store, &id).await.standing;
            assert_eq!((standing.token, standing.phase), (token, Phase::Done), "{id}");
            kept += 1;
        }
    }
    assert!(kept >= 200, "{kept} were acknowledged, which proves little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_down_within_the_timeout_and_used_again() {
    let server = servers::Postgres::start();
    let patient = store(&server.url(), PLENTY);
    patient.migrate().await.unwrap();
    let store = store(&server.url(), SHORT);
    until("it answers", || async { store.find(&id("a")).await.is_ok() }).await;
    server.hang();
    // More of them than there are connections: those that find none are down, too.
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.find(&id("a")).await })
        })
        .collect();
    for asked in asked {
        assert_down(asked.await.unwrap().unwrap_err());
    }
    server.go_on();
    until("it answers again", || async { store.find(&id("a")).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_stall_take_no_more_connections_than_the_pool_has() {
    let server = servers::Postgres::start();
    let most = 4;
    let options = Options { timeout: SHORT, pool: most, ..Options::default() };
    let store = Postgres::new(&server.url(), options, Handle::current()).unwrap();
    store.migrate().await.unwrap();
    let counting = Counting::start(&server.url()).await;
    let admin = connected(&server.url()).await;
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    // From then on each step that writes is given up, and the server goes on with it. Each round is of new keys.
    let mut rounds = 0;
    until("all connections wait for the standby", || {
        rounds += 1;
        let (store, counting) = (&store, &counting);
        async move {
            give_up(store, &format!("round {rounds}")).await;
            counting.stalled().await == most
        }
    })
    .await;
    for round in 0..5 {
        for error in give_up(&store, &format!("stalled, round {round}")).await {
            assert_down(error.expect("it was acknowledged, and the standby does not have it"));
        }
    }
    assert_eq!(counting.stalled().await, most, "none of them was begun anew");
    admin.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until("it works again", || async { store.reserve(&id("after"), &claim(1)).await.is_ok() }).await;
    let hold = begun(&store, &id("after"), &claim(1)).await;
    settled(&store, &id("after"), hold, &answer("x")).await;
    until("nothing stalls", || async { counting.stalled().await == 0 }).await;
    assert_eq!(counting.greatest(), most, "of more connections than the pool has, some were left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_gets_no_more_connections_than_the_pool_has() {
    let server = servers::Postgres::start();
    let most = 3;
    let options = Options { timeout: SHORT, pool: most, ..Options::default() };
    let store = Postgres::new(&server.url(), options, Handle::current()).unwrap();
    server.hang();
    for round in 0..4 {
        for error in give_up(&store, &format!("round {round}")).await {
            assert_down(error.expect("nobody answered"));
        }
        assert!((1..=most).contains(&sockets(&server.url())), "in round {round}");
    }
    server.go_on();
    until("it works", || async { store.reserve(&id("after"), &claim(1)).await.is_ok() }).await;
    assert!(sockets(&server.url()) <= most);
}

/// How many connections to a server are open here.
fn sockets(url: &str) -> usize {
    let port: u16 = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let to = format!("0100007F:{port:04X}");
    // number, local, remote, state (01: established).
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields[2] == to && fields[3] == "01").count()
}

/// Twelve steps at once, and what became of those that were not taken.
async fn give_up(store: &Postgres, round: &str) -> Vec<Option<StoreError>> {
    let asked: Vec<_> = (0..12)
        .map(|n| {
            let (store, id) = (store.clone(), id(&format!("{round}, {n}")));
            tokio::spawn(async move { store.reserve(&id, &claim(1)).await.err() })
        })
        .collect();
    let mut ended = Vec::new();
    for asked in asked {
        ended.push(asked.await.unwrap());
    }
    ended
}

/// Looks all along how many connections of stores a server has.
struct Counting {
    client: Client,
    greatest: Arc<AtomicUsize>,
    looking: tokio::task::JoinHandle<()>,
}

impl Counting {
    async fn start(url: &str) -> Self {
        let (client, greatest) = (connected(url).await, Arc::new(AtomicUsize::new(0)));
        let (looker, seen) = (connected(url).await, greatest.clone());
        let looking = tokio::spawn(async move {
            loop {
                seen.fetch_max(Self::count(&looker, "true").await, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { client, greatest, looking }
    }

    /// How many of them wait for a standby.
    async fn stalled(&self) -> usize {
        Self::count(&self.client, "wait_event = 'SyncRep'").await
    }

    fn greatest(&self) -> usize {
        assert!(!self.looking.is_finished(), "nobody looked");
        self.greatest.load(Ordering::SeqCst)
    }

    async fn count(client: &Client, which: &str) -> usize {
        let count =
            format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'seaworthy' AND {which}");
        let row = client.query_one(&count, &[]).await.unwrap();
        usize::try_from(row.get::<_, i64>(0)).unwrap()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_restarted_while_nobody_asked_is_not_down() {
    let mut server = servers::Postgres::start();
    let store = store(&server.url(), PLENTY);
    begun(&store, &id("a"), &claim(1)).await;
    tokio::task::block_in_place(|| {
        server.kill();
        server.restart();
    });
    assert_eq!(record(&store, &id("a")).await.standing.phase, Phase::Running);
}

#[tokio::test]
async fn a_server_that_comes_later_is_down_until_then() {
    let mut server = servers::Postgres::start();
    let store = store(&server.url(), PLENTY);
    server.kill();
    assert_down(store.find(&id("a")).await.unwrap_err());
    server.restart();
    begun(&store, &id("a"), &claim(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_that_start_at_once_make_the_tables_once() {
    let schema = fresh();
    let starting: Vec<_> = (0..8)
        .map(|n| {
            let store = in_schema(&schema, &server().url(), PLENTY);
            tokio::spawn(async move { begun(&store, &id(&n.to_string()), &claim(1)).await })
        })
        .collect();
    for started in starting {
        assert_eq!(started.await.unwrap().token, Token::FIRST);
    }
    let client = client().await;
    let row = client.query_one(&format!("SELECT count(*) FROM {schema}.migrations"), &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn tables_of_a_newer_version_are_let_alone() {
    let schema = fresh();
    in_schema(&schema, &server().url(), PLENTY).migrate().await.unwrap();
    let client = client().await;
    client.batch_execute(&format!("INSERT INTO {schema}.migrations VALUES (1000, now())")).await.unwrap();
    assert_down(in_schema(&schema, &server().url(), PLENTY).migrate().await.unwrap_err());
}

#[tokio::test]
async fn a_role_that_may_only_use_the_tables_is_enough() {
    let schema = fresh();
    in_schema(&schema, &server().url(), PLENTY).migrate().await.unwrap();
    let role = format!("role_{schema}");
    let grant = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    );
    client().await.batch_execute(&grant).await.unwrap();
    let url = server().url().replace("postgres@", &format!("{role}@"));
    let store = in_schema(&schema, &url, PLENTY);
    let hold = begun(&store, &id("a"), &claim(1)).await;
    assert!(store.put_chunk(&id("a"), hold, 0, Bytes::from_static(b"x"), HOUR).await.unwrap());
    settled(&store, &id("a"), hold, &answer("x")).await;
    assert!(store.release(&release(&id("a"), hold.token, "why not")).await.unwrap());
    store.sweep(10).await.unwrap();
}

#[tokio::test]
async fn commits_wait_for_the_disk_whatever_the_role_prefers() {
    let schema = fresh();
    let role = format!("hasty_{schema}");
    let hasty = format!("CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET synchronous_commit = off");
    let mut client = client().await;
    client.batch_execute(&hasty).await.unwrap();
    // What a commit of a row is made with is written into it.
    let store = in_schema(&schema, &server().url().replace("postgres@", &format!("{role}@")), PLENTY);
    store.migrate().await.unwrap();
    let watch = format!(
        "CREATE TABLE {schema}.seen (setting text);
         CREATE FUNCTION {schema}.see() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO {schema}.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER see AFTER INSERT OR UPDATE ON {schema}.keys DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION {schema}.see()"
    );
    client.batch_execute(&watch).await.unwrap();
    let hold = begun(&store, &id("a"), &claim(1)).await;
    settled(&store, &id("a"), hold, &answer("x")).await;
    client.batch_execute("SET synchronous_commit = off").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    first(&store, &transaction, &id("b")).await.keep(&said("x")).await.unwrap();
    transaction.commit().await.unwrap();
    let rows = client.query(&format!("SELECT DISTINCT setting FROM {schema}.seen"), &[]).await.unwrap();
    let seen: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(seen, ["on"]);
}

#[test]
fn a_store_serves_several_runtimes_of_one_thread() {
    let home = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = Options { schema: fresh(), timeout: PLENTY, ..Options::default() };
    let store = Postgres::new(&server().url(), options, home.handle().clone()).unwrap();
    for n in 0..3 {
        let guests: Vec<_> = (0..3)
            .map(|m| {
                let store = store.clone();
                std::thread::spawn(move || {
                    let guest = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    guest.block_on(async { begun(&store, &id(&format!("{n} {m}")), &claim(1)).await })
                })
            })
            .collect();
        for guest in guests {
            assert_eq!(guest.join().unwrap().token, Token::FIRST);
        }
    }
    home.shutdown_background();
    let guest = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_down(guest.block_on(store.find(&id("a"))).unwrap_err());
}

#[tokio::test]
async fn what_does_not_read_as_written_is_corrupt() {
    let schema = fresh();
    let store = in_schema(&schema, &server().url(), PLENTY);
    store.migrate().await.unwrap();
    let client = client().await;
    client.batch_execute(&format!("ALTER TABLE {schema}.keys DROP CONSTRAINT phases")).await.unwrap();
    for damage in
        ["phase = 'gone'", "phase = 'running'", "fingerprint = 'short'", "token = -1", "head = NULL"]
    {
        let id = id(damage);
        let hold = begun(&store, &id, &claim(1)).await;
        settled(&store, &id, hold, &answer("x")).await;
        let damage = format!("UPDATE {schema}.keys SET {damage} WHERE key = $1");
        client.execute(&damage, &[&id.key.as_bytes()]).await.unwrap();
        assert_corrupt(store.find(&id).await.unwrap_err());
        assert_corrupt(store.reserve(&id, &claim(2)).await.unwrap_err());
    }
    // None of them keeps the others from being listed, a page of one at a time.
    begun(&store, &id("whole"), &claim(1)).await;
    let (mut unread, mut seen, mut from) = (0, Vec::new(), None);
    loop {
        let page = store.list(from.as_deref(), 1).await.unwrap();
        unread += page.unread;
        seen.extend(page.records.into_iter().map(|(id, _)| id));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!((unread, seen), (5, vec![id("whole")]));
}

#[tokio::test]
async fn what_is_past_its_retention_leaves_nothing_in_the_tables() {
    let schema = fresh();
    let store = in_schema(&schema, &server().url(), PLENTY);
    let short = Duration::from_millis(200);
    for n in 0..3 {
        let gone = id(&format!("gone {n}"));
        let hold = begun(&store, &gone, &claim(1)).await;
        for number in 0..7 {
            // The last one's counts.
            let retention = if number < 6 { HOUR } else { short };
            assert!(store.put_chunk(&gone, hold, number, Bytes::from_static(b"x"), retention).await.unwrap());
        }
        forgotten(&store, &gone).await;
    }
    let stays = begun(&store, &id("stays"), &claim(1)).await;
    assert!(store.put_chunk(&id("stays"), stays, 0, Bytes::from_static(b"x"), HOUR).await.unwrap());
    let client = client().await;
    let count = async |table: &str| -> i64 {
        client.query_one(&format!("SELECT count(*) FROM {schema}.{table}"), &[]).await.unwrap().get(0)
    };
    assert_eq!((count("keys").await, count("chunks").await), (4, 22));
    // Each time no more than is said, pieces counted too; in the end 3 records and 21 pieces.
    let mut swept = Vec::new();
    loop {
        swept.push(store.sweep(5).await.unwrap());
        if *swept.last().unwrap() < 5 {
            break;
        }
    }
    assert_eq!(swept, [5, 5, 5, 5, 4]);
    assert_eq!((count("keys").await, count("chunks").await), (1, 1));
    assert!(store.chunk(&id("stays"), stays.token, 0).await.unwrap().is_some());
}

#[tokio::test]
async fn what_the_server_finds_full_or_damaged_is_called_so() {
    let schema = fresh();
    let store = in_schema(&schema, &server().url(), PLENTY);
    store.migrate().await.unwrap();
    let client = client().await;
    let raise = format!(
        "CREATE FUNCTION {schema}.fail() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'so it is' USING ERRCODE = convert_from(NEW.key, 'UTF8'); END $$;
         CREATE TRIGGER fail BEFORE INSERT ON {schema}.keys FOR EACH ROW EXECUTE FUNCTION {schema}.fail()"
    );
    client.batch_execute(&raise).await.unwrap();
    for (sqlstate, name) in [("53100", "full"), ("XX001", "corrupt"), ("XX002", "corrupt"), ("53300", "down")]
    {
        let error = store.reserve(&id(sqlstate), &claim(1)).await.unwrap_err();
        assert_eq!(error.name(), name, "{error}");
        assert_eq!(store.find(&id(sqlstate)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_result_whose_chunk_is_gone_is_not_settled() {
    let store = shared().await;
    let hold = begun(&store, &id("a"), &claim(1)).await;
    assert!(store.put_chunk(&id("a"), hold, 0, Bytes::from_static(b"x"), HOUR).await.unwrap());
    let whole = Settled::Done(Answer { chunks: 2, ..Answer::default() });
    assert_corrupt(store.settle(&id("a"), hold, &whole, HOUR).await.unwrap_err());
    assert_eq!(standing(&store, &id("a")).await, (Phase::Running, 1));
}

#[tokio::test]
async fn what_the_server_promises_is_told() {
    assert_eq!(shared().await.durability().await.unwrap(), Durability::Durable);
    let weak = servers::Postgres::start_with(&["fsync=off", "full_page_writes=off"]);
    let told = store(&weak.url(), PLENTY).durability().await.unwrap();
    let Durability::Weaker(how) = told else { panic!("{told}") };
    assert!(how.contains("`fsync`") && how.contains("`full_page_writes`"), "{how}");
}

#[tokio::test]
async fn a_password_is_never_told() {
    let url = "postgresql://u:hunter2@127.0.0.1:1/db";
    let store = store(url, PLENTY);
    let error = store.find(&id("a")).await.unwrap_err();
    assert!(!format!("{error} {error:?} {store:?}").contains("hunter2"), "{error}");
    for url in [
        "http://u:hunter2@h",
        "postgresql://u:hunter2@h?sslmode=require",
        "password=hunter2",
        "hunter2",
        "host=h x=hunter2",
    ] {
        let error = Postgres::new(url, Options::default(), Handle::current()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    for schema in ["", "A", "a b", "1a", "a\"b", &"a".repeat(64)] {
        let options = Options { schema: schema.into(), ..Options::default() };
        assert!(Postgres::new("host=h", options, Handle::current()).is_err(), "{schema:?}");
    }
}

#[tokio::test]
async fn what_is_joined_is_there_with_the_commit_and_replayed() {
    let store = shared().await;
    let mut client = client().await;
    let transaction = client.transaction().await.unwrap();
    let guard = first(&store, &transaction, &id("a")).await;
    assert_eq!(guard.token(), Token::FIRST);
    guard.keep(&said("charged")).await.unwrap();
    assert_eq!(store.find(&id("a")).await.unwrap(), None, "nobody sees it before the commit");
    transaction.commit().await.unwrap();

    let transaction = client.transaction().await.unwrap();
    assert_eq!(replayed(join(&store, &transaction, &id("a")).await), said("charged"));
    let other = store.join(&transaction, &id("a"), fingerprint(2), HOUR).await.unwrap();
    assert!(matches!(other, Joined::Mismatch), "{other:?}");
    transaction.rollback().await.unwrap();

    assert_eq!(standing(&store, &id("a")).await, (Phase::Done, 1));
    let kept = found(store.reserve(&id("a"), &claim(1)).await.unwrap());
    assert_eq!(kept.answer, Some(said("charged")), "ordinary steps replay it, too");
}

#[tokio::test]
async fn what_is_rolled_back_was_never_there() {
    let store = shared().await;
    let mut client = client().await;
    for _ in 0..2 {
        let transaction = client.transaction().await.unwrap();
        first(&store, &transaction, &id("a")).await.keep(&said("x")).await.unwrap();
        transaction.rollback().await.unwrap();
        assert_eq!(store.find(&id("a")).await.unwrap(), None);
    }
}

#[tokio::test]
async fn what_is_committed_without_a_result_is_done_all_the_same() {
    let store = shared().await;
    let mut client = client().await;
    let transaction = client.transaction().await.unwrap();
    drop(first(&store, &transaction, &id("a")).await);
    transaction.commit().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    assert_eq!(replayed(join(&store, &transaction, &id("a")).await), Answer::default());
}

#[tokio::test]
async fn the_second_to_join_waits_and_replays_or_is_the_first() {
    let store = shared().await;
    // The key is new, or free, so a row is made, or changed.
    for (key, commits) in [("new", true), ("new", false), ("free", true), ("free", false)] {
        let id = id(&format!("{key} {commits}"));
        if key == "free" {
            let hold = begun(&store, &id, &claim(9)).await;
            settled(&store, &id, hold, &Settled::Free).await;
        }
        let (mut one, mut two, watching) = (client().await, client().await, client().await);
        let transaction = one.transaction().await.unwrap();
        first(&store, &transaction, &id).await.keep(&said("first")).await.unwrap();

        let waiting = {
            let (store, id) = (store.clone(), id.clone());
            tokio::spawn(async move {
                let transaction = two.transaction().await.unwrap();
                let kept = match join(&store, &transaction, &id).await {
                    Joined::First(guard) => {
                        guard.keep(&said("second")).await.map(|()| said("second")).unwrap()
                    }
                    Joined::Replay(answer) => answer,
                    other => panic!("{other:?}"),
                };
                transaction.commit().await.unwrap();
                kept
            })
        };
        until("the second waits", || async { waiting_for_locks(&watching).await > 0 }).await;
        if commits {
            transaction.commit().await.unwrap()
        } else {
            transaction.rollback().await.unwrap()
        }
        let kept = waiting.await.unwrap();
        assert_eq!(kept, said(if commits { "first" } else { "second" }), "{id}");
        assert_eq!(record(&store, &id).await.answer, Some(kept));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_join_at_once_one_has_the_effect() {
    let store = shared().await;
    let table = format!("effects_{}", fresh());
    client().await.batch_execute(&format!("CREATE TABLE {table} (key text)")).await.unwrap();
    let joining: Vec<_> = (0..32)
        .map(|n| {
            let (store, table) = (store.clone(), table.clone());
            tokio::spawn(async move {
                let mut client = client().await;
                let transaction = client.transaction().await.unwrap();
                match join(&store, &transaction, &id("a")).await {
                    Joined::First(guard) => {
                        transaction.execute(&format!("INSERT INTO {table} VALUES ('a')"), &[]).await.unwrap();
                        guard.keep(&said("done")).await.unwrap();
                    }
                    joined => assert_eq!(replayed(joined), said("done")),
                }
                // Some of those that had it don't come to their end.
                if n % 3 == 0 {
                    return;
                }
                transaction.commit().await.unwrap();
            })
        })
        .collect();
    for joined in joining {
        joined.await.unwrap();
    }
    let row = client().await.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn what_ordinary_steps_began_is_not_joined() {
    let store = shared().await;
    let mut client = client().await;
    let hold = begun(&store, &id("a"), &claim(1)).await;
    let transaction = client.transaction().await.unwrap();
    assert_eq!(began(join(&store, &transaction, &id("a")).await), (Phase::Running, Token(1)));
    settled(&store, &id("a"), hold, &Settled::Unknown).await;
    assert_eq!(began(join(&store, &transaction, &id("a")).await), (Phase::Unknown, Token(1)));
    settled(&store, &id("a"), hold, &answer("late")).await;
    let Settled::Done(late) = answer("late") else { unreachable!() };
    assert_eq!(replayed(join(&store, &transaction, &id("a")).await), late);
    assert!(store.release(&release(&id("a"), hold.token, "again")).await.unwrap());
    // Free: whoever asks begins anew, whatever it asks for.
    let Joined::First(guard) = store.join(&transaction, &id("a"), fingerprint(5), HOUR).await.unwrap() else {
        panic!("it is free")
    };
    assert_eq!(guard.token(), Token(2));
    guard.keep(&said("joined")).await.unwrap();
    transaction.commit().await.unwrap();
    let record = record(&store, &id("a")).await;
    assert_eq!((record.standing.fingerprint, record.answer), (fingerprint(5), Some(said("joined"))));
    assert!(!store.settle(&id("a"), hold, &answer("fenced"), HOUR).await.unwrap());
}

#[tokio::test]
async fn an_ordinary_step_waits_for_who_has_joined() {
    let patient = shared().await;
    let (mut client, watching) = (client().await, client().await);
    let transaction = client.transaction().await.unwrap();
    first(&patient, &transaction, &id("a")).await.keep(&said("x")).await.unwrap();
    let waiting = {
        let patient = patient.clone();
        tokio::spawn(async move { patient.reserve(&id("a"), &claim(1)).await })
    };
    until("it waits", || async { waiting_for_locks(&watching).await > 0 }).await;
    transaction.commit().await.unwrap();
    assert_eq!(found(waiting.await.unwrap().unwrap()).answer, Some(said("x")));
}

#[tokio::test]
async fn an_ordinary_step_does_not_wait_for_ever() {
    let schema = fresh();
    let impatient = in_schema(&schema, &server().url(), SHORT);
    in_schema(&schema, &server().url(), PLENTY).migrate().await.unwrap();
    let mut client = client().await;
    let transaction = client.transaction().await.unwrap();
    first(&impatient, &transaction, &id("a")).await.keep(&said("x")).await.unwrap();
    assert_down(impatient.reserve(&id("a"), &claim(1)).await.unwrap_err());
    transaction.rollback().await.unwrap();
    until("it is reserved", || async { impatient.reserve(&id("a"), &claim(1)).await.is_ok() }).await;
}

#[tokio::test]
async fn what_was_forgotten_is_joined_anew() {
    let store = shared().await;
    let mut client = client().await;
    let transaction = client.transaction().await.unwrap();
    let short = Duration::from_millis(200);
    let joined = store.join(&transaction, &id("a"), fingerprint(1), short).await.unwrap();
    assert!(matches!(joined, Joined::First(_)), "{joined:?}");
    transaction.commit().await.unwrap();
    forgotten(&store, &id("a")).await;
    let transaction = client.transaction().await.unwrap();
    assert_eq!(first(&store, &transaction, &id("a")).await.token(), Token::FIRST);
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn under_a_stricter_isolation_the_second_fails_and_replays_when_begun_anew() {
    let store = shared().await;
    let (mut one, mut two) = (client().await, client().await);
    let strict = "SET default_transaction_isolation = 'serializable'";
    two.batch_execute(strict).await.unwrap();
    let late = two.transaction().await.unwrap();
    late.batch_execute("SELECT 1").await.unwrap();
    let transaction = one.transaction().await.unwrap();
    first(&store, &transaction, &id("a")).await.keep(&said("x")).await.unwrap();
    transaction.commit().await.unwrap();
    match store.join(&late, &id("a"), fingerprint(1), HOUR).await {
        Err(JoinError::Database(error)) => {
            assert_eq!(error.code().map(|code| code.code()), Some("40001"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    late.rollback().await.unwrap();
    let again = two.transaction().await.unwrap();
    assert_eq!(replayed(join(&store, &again, &id("a")).await), said("x"));
}

#[tokio::test]
async fn a_result_that_is_too_long_is_not_kept() {
    let store = shared().await;
    let mut client = client().await;
    let transaction = client.transaction().await.unwrap();
    let guard = first(&store, &transaction, &id("a")).await;
    let long = Answer { body: Bytes::from(vec![0; CHUNK_BYTES + 1]), ..Answer::default() };
    assert!(matches!(guard.keep(&long).await, Err(JoinError::TooLong)));
    transaction.rollback().await.unwrap();
}

#[tokio::test]
async fn a_pool_of_the_programs_own_does_as_well() {
    let config = server().url().parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config, NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(2).build().unwrap();
    let options = Options { schema: fresh(), timeout: PLENTY, ..Options::default() };
    let store = Postgres::from_pool(pool.clone(), options, Handle::current()).unwrap();
    // Whatever its sessions are set to.
    let strict = "SET default_transaction_isolation = 'serializable'; SET default_transaction_read_only = on";
    store.migrate().await.unwrap();
    pool.get().await.unwrap().batch_execute(strict).await.unwrap();
    let hold = begun(&store, &id("a"), &claim(1)).await;
    settled(&store, &id("a"), hold, &answer("x")).await;
    let row = pool.get().await.unwrap().query_one("SHOW default_transaction_isolation", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "serializable", "it leaves them as they were");
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
        let Ok(Reserved::New(hold)) = store.reserve(&id, &claim(1)).await else { continue };
        if store.settle(&id, hold, &answer("kept"), HOUR).await.is_ok_and(|held| held) {
            kept.push((id, hold.token));
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    kept
}

async fn join<'t>(store: &'t Postgres, transaction: &'t Transaction<'t>, id: &Id) -> Joined<'t> {
    store.join(transaction, id, fingerprint(1), HOUR).await.unwrap()
}

async fn first<'t>(store: &'t Postgres, transaction: &'t Transaction<'t>, id: &Id) -> First<'t> {
    match join(store, transaction, id).await {
        Joined::First(guard) => guard,
        other => panic!("not the first: {other:?}"),
    }
}

fn replayed(joined: Joined<'_>) -> Answer {
    match joined {
        Joined::Replay(answer) => answer,
        other => panic!("no replay: {other:?}"),
    }
}

fn began(joined: Joined<'_>) -> (Phase, Token) {
    match joined {
        Joined::Begun(phase, token) => (phase, token),
        other => panic!("not begun: {other:?}"),
    }
}

fn said(body: &'static str) -> Answer {
    Answer { head: Bytes::from_static(b"\0head"), body: Bytes::from_static(body.as_bytes()), chunks: 0 }
}

/// How many sessions of the server wait for another's transaction.
async fn waiting_for_locks(client: &Client) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    client.query_one(waiting, &[]).await.unwrap().get(0)
}

fn assert_corrupt(error: StoreError) {
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
}

fn assert_down(error: StoreError) {
    assert!(matches!(error, StoreError::Down(_)), "{error}");
}

fn server() -> &'static servers::Postgres {
    SERVER.get_or_init(servers::Postgres::start)
}

/// The name of a schema that nobody else has.
fn fresh() -> String {
    format!("test_{}", OPENED.fetch_add(1, Ordering::Relaxed))
}

async fn shared() -> Postgres {
    let store = in_schema(&fresh(), &server().url(), PLENTY);
    store.migrate().await.unwrap();
    store
}

fn in_schema(schema: &str, url: &str, timeout: Duration) -> Postgres {
    let options = Options { schema: schema.into(), timeout, ..Options::default() };
    Postgres::new(url, options, Handle::current()).unwrap()
}

fn store(url: &str, timeout: Duration) -> Postgres {
    in_schema("seaworthy", url, timeout)
}

/// A connection of the program's own.
async fn client() -> Client {
    connected(&server().url()).await
}

async fn connected(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

const PLENTY: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(500);
