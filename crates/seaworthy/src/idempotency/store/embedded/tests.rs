//! What needs clocks of the test's own, or a look inside; the rest is in `tests/idempotency_embedded.rs`.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use redb::{ReadableDatabase as _, ReadableTable as _};
use seaworthy_core::idempotency::{Fingerprint, Phase};

use super::disk::{STATE, STATE_KEY};
use super::row::{Kind, name, seal_as};
use super::step::{CHUNKS, EXPIRIES, KEYS, read_expiry};
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
    flip(&store, "bad");
    assert_eq!(store.find(&id("bad")).await.unwrap_err().name(), "corrupt");
    assert_eq!(store.reserve(&id("bad"), &claim(2, MINUTE)).await.unwrap_err().name(), "corrupt");
    assert_eq!(store.take_over(&id("bad"), &claim(2, MINUTE), Token(1)).await.unwrap_err().name(), "corrupt");
    let page = store.list(None, 10).await.unwrap();
    assert_eq!((page.records.len(), page.unread), (1, 1), "the others are listed, and that one is missing");
    assert!(store.stats().damaged >= 3);
    // Nobody else is harmed, and it goes in its time.
    assert!(known(&store, "good").await);
    moved.pass(MINUTE);
    assert!(store.sweep(10).await.unwrap() <= 2);
    until("it is forgotten", async || matches!(store.find(&id("bad")).await, Ok(None))).await;
}

/// As redb has no sum over a page that it reads, what was flipped beneath it looks like this.
fn flip(store: &Embedded, key: &str) {
    let name = name(&id(key));
    let disk = store.shared.disk().unwrap();
    let transaction = disk.database.begin_write().unwrap();
    {
        let mut keys = transaction.open_table(KEYS).unwrap();
        let mut value = keys.get(&name).unwrap().unwrap().value().to_vec();
        *value.last_mut().unwrap() ^= 1;
        keys.insert(&name, value.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_record_that_can_not_be_read_is_released_whatever_its_token_was() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    let (hold, retention) = (begun(&store, "bad", HOUR).await, Duration::from_millis(HOUR));
    assert!(store.put_chunk(&id("bad"), hold, 0, Bytes::from_static(b"x"), retention).await.unwrap());
    flip(&store, "bad");
    let release = |key: &str| Release {
        id: id(key),
        token: Token(0),
        phase: Phase::Running,
        reason: "damaged".into(),
        at: Duration::ZERO,
    };
    assert!(!store.release(&release("absent")).await.unwrap());
    assert!(store.release(&release("bad")).await.unwrap());
    let freed = store.find(&id("bad")).await.unwrap().unwrap();
    assert_eq!((freed.standing.phase, freed.answer), (Phase::Free, None));
    assert!(freed.standing.token > hold.token, "tokens grow all the same");
    let noted = store.releases(10).await.unwrap();
    assert_eq!(noted.len(), 1);
    assert_eq!((&noted[0].id, noted[0].phase), (&id("bad"), Phase::Unknown));
    assert!(!store.settle(&id("bad"), hold, &Settled::Unknown, retention).await.unwrap(), "it is fenced");
    assert!(!store.release(&release("bad")).await.unwrap(), "now it can be read, and its token counts");
    let next = begun(&store, "bad", HOUR).await;
    assert_eq!(next.token, freed.standing.token.next());
    assert_eq!(store.chunk(&id("bad"), next.token, 0).await.unwrap(), None);
    drop(store);
    assert!(known(&folder.open(&moved, 1), "bad").await, "the file is whole");
}

#[tokio::test]
async fn a_key_whose_name_was_damaged_is_found_at_the_next_opening() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    for key in ["a", "b", "c"] {
        done(&store, key, HOUR).await;
    }
    // What was flipped in a leaf that is rewritten later has a sum again: redb does not find it any more.
    let (name, disk) = (name(&id("b")), store.shared.disk().unwrap());
    let transaction = disk.database.begin_write().unwrap();
    {
        let mut keys = transaction.open_table(KEYS).unwrap();
        let value = keys.remove(&name).unwrap().unwrap().value().to_vec();
        let mut flipped = name;
        flipped[31] ^= 1;
        keys.insert(&flipped, value.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(disk);
    drop(store);
    let error = folder.open(&moved, 1).find(&id("b")).await.unwrap_err();
    assert!(error.name() == "corrupt" && error.to_string().contains("not of the same keys"), "{error}");
}

#[tokio::test]
async fn a_damaged_time_does_not_forget_a_record_before_its_own() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    done(&store, "a", HOUR).await;
    let disk = store.shared.disk().unwrap();
    let transaction = disk.database.begin_write().unwrap();
    {
        let mut expiries = transaction.open_table(EXPIRIES).unwrap();
        let mut key = *expiries.pop_first().unwrap().unwrap().0.value();
        key[..8].fill(0);
        expiries.insert(&key, ()).unwrap();
    }
    transaction.commit().unwrap();
    until("it was looked at", async || {
        let expiries = disk.database.begin_read().unwrap().open_table(EXPIRIES).unwrap();
        let first = expiries.first().unwrap().unwrap();
        store.sweep(10).await.unwrap();
        read_expiry(first.0.value()).0 > 0
    })
    .await;
    assert!(known(&store, "a").await);
    drop(disk);
    moved.pass(HOUR);
    assert!(!known(&store, "a").await);
    until("it is swept in its time", async || store.stats().swept == 1).await;
}

#[tokio::test]
async fn a_sweep_is_bounded_in_pieces_and_leaves_none() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    let retention = Duration::from_millis(MINUTE);
    for key in ["a", "b"] {
        let hold = begun(&store, key, MINUTE).await;
        for number in 0..25 {
            let bytes = Bytes::from_static(b"piece");
            assert!(store.put_chunk(&id(key), hold, number, bytes, retention).await.unwrap());
        }
    }
    let pieces = || {
        let disk = store.shared.disk().unwrap();
        let chunks = disk.database.begin_read().unwrap().open_table(CHUNKS).unwrap();
        chunks.iter().unwrap().count()
    };
    assert_eq!(pieces(), 50);
    moved.pass(MINUTE);
    let disk = store.shared.disk().unwrap();
    let writing = |most| {
        let transaction = disk.database.begin_write().unwrap();
        let now = step::Now { ms: disk.clock.now_ms(), wall_ms: 0, epoch: 0, commits: 0 };
        let swept = step::Writing::open(&transaction, now).unwrap().sweep(most).unwrap();
        // It is not committed: the store may sweep by itself meanwhile.
        transaction.abort().unwrap();
        swept.work
    };
    assert!(writing(7) <= 7);
    drop(disk);
    until("all are swept", async || store.stats().swept == 2).await;
    assert_eq!(pieces(), 0);
}

#[tokio::test]
async fn what_is_free_keeps_no_pieces() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    let (hold, retention) = (begun(&store, "a", HOUR).await, Duration::from_millis(HOUR));
    assert!(store.put_chunk(&id("a"), hold, 0, Bytes::from_static(b"x"), retention).await.unwrap());
    assert!(store.settle(&id("a"), hold, &Settled::Free, retention).await.unwrap());
    let disk = store.shared.disk().unwrap();
    let chunks = disk.database.begin_read().unwrap().open_table(CHUNKS).unwrap();
    assert_eq!(chunks.iter().unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_of_another_format_is_refused_and_left_alone() {
    for format in [1_u8, 2, 4, 255] {
        let (folder, moved) = (Folder::new(), Moved::new());
        done(&folder.open(&moved, 1), "a", HOUR).await;
        let whole = fs::read(folder.file()).unwrap();
        assert_eq!((whole[64], whole[192]), (3, 3), "the places where redb says which format it is");
        let mut other = whole.clone();
        (other[64], other[192]) = (format, format);
        fs::write(folder.file(), &other).unwrap();
        let options = Options { when_corrupt: WhenCorrupt::BeginAnew, ..Options::default() };
        let error = Embedded::open_by(&folder.file(), options, moved.clocks(1)).unwrap_err();
        assert!(matches!(error, OpenError::Version { .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("format") && error.contains("keys.redb.seen"), "{error}");
        assert_eq!(fs::read(folder.file()).unwrap(), other, "nothing was done to it");
        fs::write(folder.file(), whole).unwrap();
        assert!(known(&folder.open(&moved, 1), "a").await);
    }
}

#[tokio::test]
async fn a_file_that_a_newer_version_has_written_to_is_refused_and_left_alone() {
    let (folder, moved) = (Folder::new(), Moved::new());
    let store = folder.open(&moved, 1);
    done(&store, "a", HOUR).await;
    let disk = store.shared.disk().unwrap();
    let transaction = disk.database.begin_write().unwrap();
    let newer = seal_as(2, Kind::State, b"", b"whatever it will be");
    transaction.open_table(STATE).unwrap().insert(STATE_KEY, newer.as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(disk);
    drop(store);
    let options = Options { when_corrupt: WhenCorrupt::BeginAnew, ..Options::default() };
    let error = Embedded::open_by(&folder.file(), options, moved.clocks(1)).unwrap_err();
    assert!(matches!(error, OpenError::Version { .. }), "{error:?}");
    assert!(error.to_string().contains("newer version"), "{error}");
    let beside = fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!beside.into_iter().any(|name| name.to_string_lossy().contains("corrupt")));
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

#[cfg(unix)]
#[tokio::test]
async fn what_is_made_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, moved) = (Folder::new(), Moved::new());
    done(&folder.open(&moved, 1), "a", HOUR).await;
    let files: Vec<_> = fs::read_dir(folder.0.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(files.len(), 3, "the file, its lock and what was seen of it");
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}
