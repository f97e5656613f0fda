//! What needs clocks of the test's own, or a look inside; the rest is in `tests/idempotency_embedded.rs`.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use redb::ReadableTable as _;
use seaworthy_core::idempotency::{Fingerprint, Phase};

use super::row::name;
use super::step::KEYS;
use super::*;
use crate::idempotency::store::Answer;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// Clocks that stand still unless they are moved.
#[derive(Clone, Default)]
struct Moved {
    up_ms: Arc<AtomicU64>,
    wall_ms: Arc<AtomicU64>,
}

impl Moved {
    fn new() -> Self {
        let moved = Self::default();
        moved.up_ms.store(5 * MINUTE, Ordering::SeqCst);
        moved.wall_ms.store(500_000 * HOUR, Ordering::SeqCst);
        moved
    }

    fn clocks(&self, boot: u128) -> Clocks {
        let clock = |ms: &Arc<AtomicU64>| -> Arc<dyn Fn() -> Duration + Send + Sync> {
            let ms = ms.clone();
            Arc::new(move || Duration::from_millis(ms.load(Ordering::SeqCst)))
        };
        Clocks { boot, up: clock(&self.up_ms), wall: clock(&self.wall_ms) }
    }

    /// Time passes, by every clock.
    fn pass(&self, ms: u64) {
        self.up_ms.fetch_add(ms, Ordering::SeqCst);
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("keys.redb")
    }

    fn open(&self, moved: &Moved, boot: u128) -> Embedded {
        Embedded::open_by(&self.file(), Options::default(), moved.clocks(boot)).unwrap()
    }
}

fn id(key: &str) -> Id {
    Id::new("place", b"client", key)
}

fn claim(owner: u128, retention_ms: u64) -> Claim {
    let (lease, retention) = (Duration::from_secs(1), Duration::from_millis(retention_ms));
    Claim { fingerprint: Fingerprint([1; 32]), owner, lease, retention }
}

async fn begun(store: &Embedded, key: &str, retention_ms: u64) -> Hold {
    match store.reserve(&id(key), &claim(1, retention_ms)).await.unwrap() {
        Reserved::New(hold) => hold,
        Reserved::Found(record) => panic!("{record:?}"),
    }
}

async fn done(store: &Embedded, key: &str, retention_ms: u64) {
    let hold = begun(store, key, retention_ms).await;
    let answer = Answer { body: Bytes::copy_from_slice(key.as_bytes()), ..Answer::default() };
    let retention = Duration::from_millis(retention_ms);
    assert!(store.settle(&id(key), hold, &Settled::Done(answer), retention).await.unwrap());
}

async fn known(store: &Embedded, key: &str) -> bool {
    store.find(&id(key)).await.unwrap().is_some()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let given_up = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < given_up, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn no_jump_of_the_wall_clock_moves_retention() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    done(&store, "a", MINUTE).await;
    let before = moved.wall_ms.load(Ordering::SeqCst);
    for wall in [before + HOUR, before - HOUR, 0, u64::MAX] {
        moved.wall_ms.store(wall, Ordering::SeqCst);
        assert!(known(&store, "a").await);
        assert_eq!(store.sweep(10).await.unwrap(), 0);
    }
    // Nor from one opening to the next.
    drop(store);
    moved.wall_ms.store(before + HOUR, Ordering::SeqCst);
    let store = folder.open(&moved, 1);
    moved.pass(MINUTE - 1);
    assert!(known(&store, "a").await, "a millisecond before");
    moved.pass(1);
    assert!(!known(&store, "a").await, "at the moment");
}

#[tokio::test]
async fn over_a_boot_the_wall_clock_tells_what_has_passed() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    done(&store, "a", 2 * HOUR).await;
    drop(store);
    moved.up_ms.store(1, Ordering::SeqCst);
    moved.wall_ms.fetch_sub(HOUR, Ordering::SeqCst);
    let store = folder.open(&moved, 2);
    assert!(known(&store, "a").await, "time does not run backwards");
    drop(store);
    moved.wall_ms.fetch_add(HOUR, Ordering::SeqCst);
    let store = folder.open(&moved, 3);
    assert!(known(&store, "a").await);
    drop(store);
    moved.wall_ms.fetch_add(HOUR, Ordering::SeqCst);
    assert!(!known(&folder.open(&moved, 4), "a").await);
}

#[tokio::test]
async fn what_ran_at_an_earlier_opening_is_orphaned() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    let hold = begun(&store, "runs", HOUR).await;
    done(&store, "done", HOUR).await;
    assert!(!store.find(&id("runs")).await.unwrap().unwrap().orphaned);
    drop(store);
    let store = folder.open(&moved, 1);
    let record = store.find(&id("runs")).await.unwrap().unwrap();
    assert!(record.orphaned && record.standing.phase == Phase::Running);
    assert!(!store.find(&id("done")).await.unwrap().unwrap().orphaned);
    let Reserved::Found(found) = store.reserve(&id("runs"), &claim(2, HOUR)).await.unwrap() else {
        panic!("it was reserved twice");
    };
    assert!(found.orphaned);
    let Reserved::New(next) = store.take_over(&id("runs"), &claim(2, HOUR), hold.token).await.unwrap() else {
        panic!("it was not taken over");
    };
    assert_eq!(next.token, hold.token.next());
    assert!(!store.find(&id("runs")).await.unwrap().unwrap().orphaned);
}

#[tokio::test]
async fn what_runs_is_not_orphaned_when_the_store_opens_its_file_again() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    let hold = begun(&store, "runs", HOUR).await;
    store.inbox.send(Message::Suspect(Fault::Down("as a test says".into()))).unwrap();
    until("it was opened again", async || store.stats().reopened == 1).await;
    assert!(!store.find(&id("runs")).await.unwrap().unwrap().orphaned);
    assert!(store.settle(&id("runs"), hold, &Settled::Unknown, Duration::from_secs(60)).await.unwrap());
}

#[tokio::test]
async fn a_folder_that_is_out_of_reach_for_a_while_costs_nothing_that_was_acknowledged() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let place = folder.0.path().join("here");
    fs::create_dir(&place).unwrap();
    let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
    let told = notices.clone();
    let options = Options {
        notice: Some(Arc::new(move |notice| told.lock().unwrap().push(notice.clone()))),
        ..Options::default()
    };
    let store = Embedded::open_by(&place.join("keys.redb"), options, moved.clocks(1)).unwrap();
    done(&store, "a", HOUR).await;
    fs::rename(&place, folder.0.path().join("away")).unwrap();
    fs::write(&place, "a file where the folder was").unwrap();
    store.inbox.send(Message::Suspect(Fault::Down("as a test says".into()))).unwrap();
    until("the file is missed", async || {
        let error = store.find(&id("a")).await.err();
        assert!(error.as_ref().is_none_or(|error| error.name() == "down"), "{error:?}");
        error.is_some_and(|error| error.to_string().contains("keys.redb"))
    })
    .await;
    let error = store.reserve(&id("b"), &claim(1, HOUR)).await.unwrap_err();
    assert_eq!(error.name(), "down");
    fs::remove_file(&place).unwrap();
    fs::rename(folder.0.path().join("away"), &place).unwrap();
    until("it was opened again", async || store.find(&id("a")).await.is_ok()).await;
    assert!(known(&store, "a").await && !known(&store, "b").await);
    done(&store, "b", HOUR).await;
    until("that is told", async || matches!(notices.lock().unwrap().last(), Some(Notice::Reopened { .. })))
        .await;
    assert!(matches!(notices.lock().unwrap().first(), Some(Notice::Shut { .. })));
}

#[tokio::test]
async fn a_record_that_does_not_match_its_checksum_is_never_used() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    done(&store, "bad", MINUTE).await;
    done(&store, "good", MINUTE).await;
    let name = name(&id("bad"));
    // As redb has no sum over a page that it reads, what was flipped beneath it looks like this.
    let disk = store.shared.disk().unwrap();
    let transaction = disk.database.begin_write().unwrap();
    {
        let mut keys = transaction.open_table(KEYS).unwrap();
        let mut value = keys.get(&name).unwrap().unwrap().value().to_vec();
        *value.last_mut().unwrap() ^= 1;
        keys.insert(&name, value.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(disk);
    let release = Release {
        id: id("bad"),
        token: Token::FIRST,
        phase: Phase::Done,
        reason: "damaged".into(),
        at: Duration::ZERO,
    };
    assert_eq!(store.find(&id("bad")).await.unwrap_err().name(), "corrupt");
    assert_eq!(store.reserve(&id("bad"), &claim(2, MINUTE)).await.unwrap_err().name(), "corrupt");
    assert_eq!(store.take_over(&id("bad"), &claim(2, MINUTE), Token(1)).await.unwrap_err().name(), "corrupt");
    assert_eq!(store.release(&release).await.unwrap_err().name(), "corrupt");
    assert_eq!(store.list(None, 10).await.unwrap_err().name(), "corrupt");
    assert!(store.stats().damaged >= 5);
    // Nobody else is harmed, and it goes in its time.
    assert!(known(&store, "good").await);
    moved.pass(MINUTE);
    assert!(store.sweep(10).await.unwrap() <= 2);
    until("it is forgotten", async || matches!(store.find(&id("bad")).await, Ok(None))).await;
}

#[tokio::test]
async fn it_sweeps_by_itself() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    for n in 0..20 {
        done(&store, &n.to_string(), MINUTE).await;
    }
    done(&store, "stays", HOUR).await;
    moved.pass(MINUTE);
    until("all are swept", async || store.stats().swept == 20).await;
    assert!(known(&store, "stays").await);
}

#[tokio::test]
async fn a_step_that_nobody_waits_for_gives_its_room_back() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    let whole = store.room.available_permits();
    for n in 0..100 {
        let (id, claim) = (id(&n.to_string()), claim(1, HOUR));
        let mut step = store.reserve(&id, &claim);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(step.as_mut().poll(&mut context).is_pending());
    }
    until("all room is there again", async || store.room.available_permits() == whole).await;
}
