//! Files that are flipped, torn, exchanged and lost: what comes back is right, or nothing does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use seaworthy::core::{Rng as _, Seeded};
use seaworthy::idempotency::Phase;
use seaworthy::idempotency::store::embedded::{Embedded, Notice, OpenError, Options, WhenCorrupt};
use seaworthy::idempotency::store::{Answer, Id, Settled, Store as _, StoreError};

use crate::stores::{HOUR, answer, begun, claim, id, listed, settled, until};

const KEYS: u32 = 40;

fn options(when_corrupt: WhenCorrupt) -> (Options, Arc<Mutex<Vec<Notice>>>) {
    let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
    let told = notices.clone();
    let notice = Some(Arc::new(move |notice: &Notice| told.lock().unwrap().push(notice.clone())) as _);
    (Options { when_corrupt, notice, ..Options::default() }, notices)
}

fn open(file: &Path) -> Embedded {
    Embedded::open(file, Options::default()).unwrap()
}

fn body(n: u32) -> Bytes {
    Bytes::from(vec![n as u8; 100 + 50 * n as usize])
}

fn key(n: u32) -> Id {
    id(&format!("key {n}"))
}

/// Results, a third of them with a chunk; and some that run.
async fn fill(store: &Embedded) {
    for n in 0..KEYS {
        let hold = begun(store, &key(n), &claim(u128::from(n) + 1)).await;
        let chunked = n % 3 == 0;
        if chunked {
            assert!(store.put_chunk(&key(n), hold, 0, body(n + 1), HOUR).await.unwrap());
        }
        if n % 5 != 0 {
            let whole = Answer { head: Bytes::new(), body: body(n), chunks: u32::from(chunked) };
            settled(store, &key(n), hold, &Settled::Done(whole)).await;
        }
    }
}

/// How many records are as they were written. Every other one has to be an error.
async fn right(store: &Embedded) -> u32 {
    let mut right = 0;
    for n in 0..KEYS {
        let record = match store.find(&key(n)).await {
            Ok(record) => record.unwrap_or_else(|| panic!("{n} was forgotten")),
            Err(StoreError::Corrupt(_) | StoreError::Down(_)) => continue,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(record.standing.phase, if n % 5 == 0 { Phase::Running } else { Phase::Done }, "{n}");
        if let Some(answer) = record.answer {
            assert!(answer.body == body(n), "{n} has another's body");
        }
        if n % 3 == 0 {
            match store.chunk(&key(n), record.standing.token, 0).await {
                Ok(chunk) => assert!(chunk == Some(body(n + 1)), "{n} has another's chunk"),
                Err(StoreError::Corrupt(_) | StoreError::Down(_)) => continue,
                Err(error) => panic!("{error}"),
            }
        }
        right += 1;
    }
    right
}

/// A closed store's folder.
struct Closed {
    folder: tempfile::TempDir,
}

impl Closed {
    async fn new() -> Self {
        let closed = Self { folder: tempfile::tempdir().unwrap() };
        fill(&open(&closed.file())).await;
        closed
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("keys.redb")
    }

    fn seen(&self) -> PathBuf {
        self.folder.path().join("keys.redb.seen")
    }

    fn aside(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.to_string_lossy().contains(".corrupt-")).collect()
    }

    /// Opens a file of these bytes, looks at everything, and says whether it was refused. It must end.
    fn look_at(&self, bytes: Vec<u8>, what: &str) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.redb");
        fs::write(&file, bytes).unwrap();
        fs::copy(self.seen(), folder.path().join("keys.redb.seen")).unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let refused = runtime.block_on(async {
                let (options, notices) = options(WhenCorrupt::Refuse);
                let store = Embedded::open(&file, options).unwrap();
                let right = right(&store).await;
                let corrupt = notices.lock().unwrap().iter().any(|one| matches!(one, Notice::Corrupt { .. }));
                assert!(if corrupt { right == 0 } else { right > 0 }, "{right} right, refused: {corrupt}");
                corrupt
            });
            drop(folder);
            tell.send(refused).unwrap();
        });
        told.recv_timeout(Duration::from_secs(120)).unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}

#[tokio::test]
async fn a_flipped_file_is_right_or_refused() {
    let closed = Closed::new().await;
    let whole = fs::read(closed.file()).unwrap();
    // Every byte of the header, and of what is in use as many as there is time for.
    let used: Vec<usize> = (512..whole.len()).filter(|at| whole[*at] != 0).collect();
    let mut rng = Seeded::new(7);
    let some: Vec<usize> = (0..150).map(|_| used[rng.next_u64() as usize % used.len()]).collect();
    let (mut tried, mut refused) = (0, 0);
    for at in (0..320).chain(some) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (rng.next_u64() % 8);
        tried += 1;
        refused += u32::from(closed.look_at(bytes, &format!("byte {at} flipped")));
    }
    assert!(refused > 50, "{refused} of {tried} were refused: do the flips hit anything?");
    assert!(!closed.look_at(whole, "not flipped"));
}

#[tokio::test]
async fn a_torn_file_is_right_or_refused() {
    let closed = Closed::new().await;
    let whole = fs::read(closed.file()).unwrap();
    let last = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let lengths = [0, 1, 63, 64, 319, 320, 4095, 4096, 4097, 8192, last / 4, last / 3, last / 2, last - 1];
    for length in lengths.into_iter().chain((1..20).map(|n| n * last / 20)) {
        assert!(closed.look_at(whole[..length].to_vec(), &format!("{length} bytes left")), "{length}");
    }
    // A page that was never written, of those in the file.
    let mut refused = 0;
    for page in 0..last.div_ceil(4096) {
        let mut bytes = whole.clone();
        bytes[page * 4096..((page + 1) * 4096).min(whole.len())].fill(0);
        refused += u32::from(closed.look_at(bytes, &format!("page {page} is empty")));
    }
    assert!(refused > 0);
    let mut rng = Seeded::new(9);
    let noise: Vec<u8> = (0..whole.len()).map(|_| rng.next_u64() as u8).collect();
    assert!(closed.look_at(noise, "noise"));
}

#[tokio::test]
async fn a_damaged_file_is_put_aside_and_refused_until_it_is_put_back() {
    let closed = Closed::new().await;
    let whole = fs::read(closed.file()).unwrap();
    fs::write(closed.file(), "no such thing").unwrap();
    let (options, notices) = options(WhenCorrupt::Refuse);
    let store = Embedded::open(&closed.file(), options).unwrap();
    let [aside] = &closed.aside()[..] else { panic!("{:?}", closed.aside()) };
    assert_eq!(fs::read(aside).unwrap(), b"no such thing");
    let told = notices.lock().unwrap()[0].to_string();
    assert!(told.contains(aside.to_str().unwrap()) && told.contains("keys are refused"), "{told}");
    let error = store.reserve(&key(1), &claim(9)).await.unwrap_err();
    assert_eq!(error.name(), "corrupt");
    for part in [aside.to_str().unwrap(), closed.seen().to_str().unwrap()] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // A restart changes nothing.
    drop(store);
    let store = open(&closed.file());
    assert_eq!(store.find(&key(1)).await.unwrap_err().name(), "corrupt");
    fs::write(closed.file(), whole).unwrap();
    until("it is found again", || async { store.find(&key(1)).await.is_ok() }).await;
    assert_eq!(right(&store).await, KEYS);
}

#[tokio::test]
async fn whoever_says_so_begins_anew() {
    let closed = Closed::new().await;
    for n in 0..3 {
        fs::write(closed.file(), "no such thing").unwrap();
        let store = open(&closed.file());
        assert_eq!(store.find(&key(1)).await.unwrap_err().name(), "corrupt");
        if n == 0 {
            assert!(store.begin_anew().await.unwrap());
            assert!(!store.begin_anew().await.unwrap(), "what is whole is not thrown away");
        } else {
            fs::remove_file(closed.seen()).unwrap();
            until("it has begun anew", || async { store.find(&key(1)).await.is_ok() }).await;
        }
        assert!(listed(&store, 10).await.is_empty());
        let hold = begun(&store, &key(1), &claim(1)).await;
        settled(&store, &key(1), hold, &answer("anew")).await;
        drop(store);
        assert_eq!(listed(&open(&closed.file()), 10).await.len(), 1);
    }
    assert_eq!(closed.aside().len(), 3);
}

#[tokio::test]
async fn by_choice_it_begins_anew_by_itself() {
    let closed = Closed::new().await;
    fs::write(closed.file(), "no such thing").unwrap();
    let (options, notices) = options(WhenCorrupt::BeginAnew);
    let store = Embedded::open(&closed.file(), options).unwrap();
    assert!(listed(&store, 10).await.is_empty());
    begun(&store, &key(1), &claim(1)).await;
    assert_eq!((closed.aside().len(), store.stats().quarantined), (1, 1));
    let notices = notices.lock().unwrap();
    assert!(matches!(notices[..], [Notice::Corrupt { begun_anew: true, to: Some(_), .. }]), "{notices:?}");
}

#[tokio::test]
async fn a_file_that_knows_less_than_was_acknowledged_is_damaged() {
    let closed = Closed::new().await;
    let older = fs::read(closed.file()).unwrap();
    begun(&open(&closed.file()), &id("later"), &claim(1)).await;
    fs::write(closed.file(), older).unwrap();
    let error = open(&closed.file()).find(&key(1)).await.unwrap_err();
    assert_eq!(error.name(), "corrupt");
    assert!(error.to_string().contains("were acknowledged"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_gone_is_not_taken_for_a_new_one() {
    let closed = Closed::new().await;
    fs::remove_file(closed.file()).unwrap();
    let store = open(&closed.file());
    let error = store.find(&key(1)).await.unwrap_err();
    assert!(error.name() == "corrupt" && error.to_string().contains("is gone"), "{error}");
    // What was half begun when a process died is begun again.
    fs::write(closed.folder.path().join("keys.redb.new"), "half of it").unwrap();
    assert!(store.begin_anew().await.unwrap());
    begun(&store, &key(1), &claim(1)).await;
}

#[tokio::test]
async fn what_counts_the_commits_may_be_damaged() {
    let closed = Closed::new().await;
    fs::write(closed.seen(), "what?").unwrap();
    let store = open(&closed.file());
    assert_eq!(right(&store).await, KEYS);
    drop(store);
    assert_eq!(right(&open(&closed.file())).await, KEYS);
}

#[tokio::test]
async fn only_one_has_it_open() {
    let closed = Closed::new().await;
    let store = open(&closed.file());
    let error = Embedded::open(&closed.file(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("is open in another process"), "{error}");
    // Also while its file is damaged and put aside.
    drop(store);
    fs::write(closed.file(), "no such thing").unwrap();
    let store = open(&closed.file());
    assert!(matches!(
        Embedded::open(&closed.file(), Options::default()).unwrap_err(),
        OpenError::Locked { .. }
    ));
    drop(store);
    open(&closed.file());
}
