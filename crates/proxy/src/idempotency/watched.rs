//! Notices when a store stops answering, and when it answers again.
//!
//! Nobody asks a server of keys whether it is there: every step finds out for itself, and answers its own client. So that an
//! operator hears of it too, once and not with every request, what becomes of all steps is heard here:
//!
//! ```text
//!                a step is done                a step fails, or does not come back in time
//! (not heard of) ----------------> answers --------------------------------------------------> does not
//!        |                            ^                                                          |  ^
//!        |                            +----------------------------------------------------------+  |
//!        |                              a step is done, and none has failed for CALM                |
//!        +------------------------------------------------------------------------------------------+
//! ```
//!
//! One failed step is enough, as a client went without an answer for it; the calm afterwards keeps a server that answers every
//! other step from filling the log. After one that was full only what was written proves something, as it could be read all along.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use seaworthy::clock;
use seaworthy::idempotency::store::{Claim, Hold, Page, Record, Release, Reserved, Settled, Step};
use seaworthy::idempotency::{Id, Store, StoreError, Token};
use seaworthy_core::Instant;

/// A store, and whether it answers. See the [module](self).
pub(crate) struct Watched<S> {
    store: S,
    /// How long a step may take: who asked for it waits no longer.
    timeout: Duration,
    /// What [`Health`] says, to be had without its lock.
    up: AtomicBool,
    health: Mutex<Health>,
    tell: Tell,
}

/// Is told of each change: what was wrong, or `None` when it answers again.
pub(crate) type Tell = Box<dyn Fn(Option<&StoreError>) + Send + Sync>;

impl<S: Store> Watched<S> {
    pub(crate) fn new(store: S, timeout: Duration, tell: Tell) -> Self {
        Self { store, timeout, up: AtomicBool::new(false), health: Mutex::new(Health::default()), tell }
    }

    /// The store itself.
    pub(crate) const fn inner(&self) -> &S {
        &self.store
    }

    /// Whether it answers, as far as its steps have shown. Not before the first.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Asks it something, so that it shows whether it is there when nobody else asks.
    pub(crate) async fn probe(&self) {
        let nobody = Id { place: "".into(), client: "".into(), key: "".into() };
        // What came of it was heard.
        let _heard = self.find(&nobody).await;
    }

    /// A step, of which `wrote` says whether it has written something.
    fn watch<'a, T: Send + 'a>(&'a self, step: Step<'a, T>, wrote: fn(&T) -> bool) -> Step<'a, T> {
        Box::pin(async move {
            let waiting = Waiting { watched: self, begun: clock::now() };
            let done = step.await;
            std::mem::forget(waiting);
            match &done {
                Ok(done) => self.answered(wrote(done)),
                Err(error @ (StoreError::Down(_) | StoreError::Full(_))) => self.failed(error),
                // It is there, and what it holds is no good.
                Err(_) => {}
            }
            done
        })
    }

    fn answered(&self, wrote: bool) {
        // Whoever is well has no need of the lock.
        if !self.is_up() && self.change(|health| health.answered(clock::now(), wrote)) {
            (self.tell)(None);
        }
    }

    fn failed(&self, error: &StoreError) {
        let full = matches!(error, StoreError::Full(_));
        if self.change(|health| health.failed(clock::now(), full)) {
            (self.tell)(Some(error));
        }
    }

    fn change(&self, how: impl FnOnce(&mut Health) -> bool) -> bool {
        // Who panicked in between has left three plain values.
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = how(&mut health);
        self.up.store(health.state == State::Up, Ordering::Relaxed);
        changed
    }
}

/// Somebody who waits for a step. Who waited for as long as it may take and left has had no answer.
struct Waiting<'a, S: Store> {
    watched: &'a Watched<S>,
    begun: Instant,
}

impl<S: Store> Drop for Waiting<'_, S> {
    fn drop(&mut self) {
        let most = self.watched.timeout;
        if clock::now().since(self.begun) + SLACK >= most {
            self.watched.failed(&StoreError::Down(format!("it did not answer within {most:?}")));
        }
    }
}

/// What was heard of a store.
#[derive(Debug, Default)]
struct Health {
    state: State,
    /// When a step failed last.
    failed: Instant,
    /// Whether it had no room, and nothing was written since.
    full: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Unheard,
    Up,
    Down,
}

impl Health {
    /// A step failed. Returns whether that is news.
    fn failed(&mut self, now: Instant, full: bool) -> bool {
        self.failed = now;
        self.full |= full;
        std::mem::replace(&mut self.state, State::Down) != State::Down
    }

    /// A step was taken. Returns whether that is news.
    fn answered(&mut self, now: Instant, wrote: bool) -> bool {
        self.full &= !wrote;
        match self.state {
            State::Unheard => {
                self.state = State::Up;
                false
            }
            State::Down if !self.full && now.since(self.failed) >= CALM => {
                self.state = State::Up;
                true
            }
            State::Up | State::Down => false,
        }
    }
}

impl<S: Store> Store for Watched<S> {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    fn reserve<'a>(&'a self, id: &'a Id, claim: &'a Claim) -> Step<'a, Reserved> {
        self.watch(self.store.reserve(id, claim), is_new)
    }

    fn take_over<'a>(&'a self, id: &'a Id, claim: &'a Claim, from: Token) -> Step<'a, Reserved> {
        self.watch(self.store.take_over(id, claim, from), is_new)
    }

    fn settle<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        settled: &'a Settled,
        retention: Duration,
    ) -> Step<'a, bool> {
        self.watch(self.store.settle(id, hold, settled, retention), |written| *written)
    }

    fn put_chunk<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        number: u32,
        bytes: Bytes,
        retention: Duration,
    ) -> Step<'a, bool> {
        self.watch(self.store.put_chunk(id, hold, number, bytes, retention), |written| *written)
    }

    fn chunk<'a>(&'a self, id: &'a Id, token: Token, number: u32) -> Step<'a, Option<Bytes>> {
        self.watch(self.store.chunk(id, token, number), |_| false)
    }

    fn find<'a>(&'a self, id: &'a Id) -> Step<'a, Option<Record>> {
        self.watch(self.store.find(id), |_| false)
    }

    /// Not watched: it is many questions in one, and one that makes no sense is refused as by a store that is down.
    fn list<'a>(&'a self, from: Option<&'a str>, most: usize) -> Step<'a, Page> {
        self.store.list(from, most)
    }

    fn release<'a>(&'a self, release: &'a Release) -> Step<'a, bool> {
        self.watch(self.store.release(release), |written| *written)
    }

    /// Not watched, as of [`list`](Self::list).
    fn releases(&self, most: usize) -> Step<'_, Vec<Release>> {
        self.store.releases(most)
    }

    /// Not watched: a store that forgets by itself says that it is done without having been asked.
    fn sweep(&self, most: usize) -> Step<'_, usize> {
        self.store.sweep(most)
    }
}

fn is_new(reserved: &Reserved) -> bool {
    matches!(reserved, Reserved::New(_))
}

impl<S: Store> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("store", &self.store).field("up", &self.up).finish_non_exhaustive()
    }
}

/// How long no step may have failed before a store answers again: two lines in the log for it at most, however often it fails.
const CALM: Duration = Duration::from_secs(5);
/// Timers are good for a millisecond, and who waits begins a moment before the step does.
const SLACK: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use seaworthy::idempotency::Fingerprint;
    use seaworthy::idempotency::store::memory::Memory;

    use super::*;

    /// Longer than a test takes.
    const TIMEOUT: Duration = Duration::from_secs(3600);

    /// What a store does that answers as it was told last.
    #[derive(Clone, Copy, Debug)]
    enum Does {
        Answer,
        Fail,
        HaveNoRoom,
        Hang,
        Lie,
    }

    #[derive(Debug)]
    struct Fickle(Memory, Mutex<Does>);

    impl Fickle {
        fn step<'a, T: Send + 'a>(&self, writes: bool, step: Step<'a, T>) -> Step<'a, T> {
            match *self.1.lock().unwrap() {
                Does::Fail => Box::pin(async { Err(StoreError::Down("connection refused".into())) }),
                Does::HaveNoRoom if writes => Box::pin(async { Err(StoreError::Full("OOM".into())) }),
                Does::Lie => Box::pin(async { Err(StoreError::Corrupt("nonsense".into())) }),
                Does::Hang => Box::pin(pending()),
                Does::HaveNoRoom | Does::Answer => step,
            }
        }
    }

    impl Store for Fickle {
        fn kind(&self) -> &'static str {
            "fickle"
        }
        fn reserve<'a>(&'a self, id: &'a Id, claim: &'a Claim) -> Step<'a, Reserved> {
            self.step(true, self.0.reserve(id, claim))
        }
        fn take_over<'a>(&'a self, id: &'a Id, claim: &'a Claim, from: Token) -> Step<'a, Reserved> {
            self.step(true, self.0.take_over(id, claim, from))
        }
        fn settle<'a>(&'a self, id: &'a Id, hold: Hold, how: &'a Settled, kept: Duration) -> Step<'a, bool> {
            self.step(true, self.0.settle(id, hold, how, kept))
        }
        fn put_chunk<'a>(
            &'a self,
            id: &'a Id,
            hold: Hold,
            number: u32,
            bytes: Bytes,
            kept: Duration,
        ) -> Step<'a, bool> {
            self.step(true, self.0.put_chunk(id, hold, number, bytes, kept))
        }
        fn chunk<'a>(&'a self, id: &'a Id, token: Token, number: u32) -> Step<'a, Option<Bytes>> {
            self.step(false, self.0.chunk(id, token, number))
        }
        fn find<'a>(&'a self, id: &'a Id) -> Step<'a, Option<Record>> {
            self.step(false, self.0.find(id))
        }
        fn list<'a>(&'a self, from: Option<&'a str>, most: usize) -> Step<'a, Page> {
            self.step(false, self.0.list(from, most))
        }
        fn release<'a>(&'a self, release: &'a Release) -> Step<'a, bool> {
            self.step(true, self.0.release(release))
        }
        fn releases(&self, most: usize) -> Step<'_, Vec<Release>> {
            self.step(false, self.0.releases(most))
        }
        fn sweep(&self, most: usize) -> Step<'_, usize> {
            self.0.sweep(most)
        }
    }

    /// A store, and what was told of it.
    fn fickle(does: Does) -> (Watched<Fickle>, Arc<Mutex<Vec<String>>>) {
        let said = Arc::<Mutex<Vec<String>>>::default();
        let tell = said.clone();
        let tell = Box::new(move |error: Option<&StoreError>| {
            tell.lock().unwrap().push(error.map_or("again".to_owned(), ToString::to_string));
        });
        (Watched::new(Fickle(Memory::new(100), Mutex::new(does)), TIMEOUT, tell), said)
    }

    fn now_does(store: &Watched<Fickle>, does: Does) {
        *store.inner().1.lock().unwrap() = does;
    }

    async fn reserve(store: &Watched<Fickle>, key: &str) -> Result<Reserved, StoreError> {
        let minute = Duration::from_secs(60);
        let claim =
            Claim { fingerprint: Fingerprint([0; 32]), owner: 1, lease: minute, retention: 2 * minute };
        store.reserve(&Id::new("p", b"c", key), &claim).await
    }

    #[tokio::test]
    async fn that_it_stops_answering_is_told_once() {
        let (store, said) = fickle(Does::Answer);
        assert!(!store.is_up(), "nobody has heard of it");
        store.probe().await;
        assert!(store.is_up() && said.lock().unwrap().is_empty(), "that it answers at first is no news");
        now_does(&store, Does::Fail);
        for key in ["a", "b", "c"] {
            reserve(&store, key).await.unwrap_err();
            assert!(!store.is_up());
        }
        assert_eq!(*said.lock().unwrap(), ["the store of idempotency keys is down: connection refused"]);
    }

    #[tokio::test]
    async fn that_it_answers_again_is_told() {
        let (store, said) = fickle(Does::Fail);
        store.probe().await;
        store.health.lock().unwrap().failed = Instant::ZERO;
        now_does(&store, Does::Answer);
        store.probe().await;
        assert!(store.is_up());
        store.probe().await;
        assert_eq!(said.lock().unwrap()[1..], ["again"]);
    }

    #[tokio::test]
    async fn who_waited_in_vain_has_had_no_answer_and_who_left_before_says_nothing() {
        let (store, said) = fickle(Does::Answer);
        store.probe().await;
        now_does(&store, Does::Hang);
        let id = Id::new("p", b"c", "k");
        let mut left = store.find(&id);
        let waker = std::task::Waker::noop();
        assert!(left.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        let waited = Waiting { watched: &store, begun: Instant::ZERO };
        assert!(store.is_up());
        drop(waited);
        assert!(!store.is_up());
        drop(left);
        let only = "the store of idempotency keys is down: it did not answer within 3600s";
        assert_eq!(*said.lock().unwrap(), [only]);
    }

    #[tokio::test]
    async fn what_is_damaged_and_what_operators_ask_in_vain_does_not_take_it_down() {
        let (store, said) = fickle(Does::Answer);
        store.probe().await;
        now_does(&store, Does::Lie);
        store.probe().await;
        now_does(&store, Does::Fail);
        store.list(Some("nonsense"), 1).await.unwrap_err();
        store.releases(1).await.unwrap_err();
        assert!(store.is_up() && said.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn after_one_that_was_full_only_what_is_written_proves_something() {
        let (store, said) = fickle(Does::Answer);
        reserve(&store, "a").await.unwrap();
        now_does(&store, Does::HaveNoRoom);
        reserve(&store, "b").await.unwrap_err();
        store.health.lock().unwrap().failed = Instant::ZERO;
        store.probe().await;
        reserve(&store, "a").await.unwrap_err();
        store.health.lock().unwrap().failed = Instant::ZERO;
        now_does(&store, Does::Answer);
        store.probe().await;
        assert!(!store.is_up(), "it could be read all along");
        reserve(&store, "b").await.unwrap();
        assert!(store.is_up());
        assert_eq!(*said.lock().unwrap(), ["the store of idempotency keys is full: OOM", "again"]);
    }

    #[test]
    fn one_that_was_never_there_is_news_and_one_that_answers_at_first_is_none() {
        let begun = Instant::ZERO.plus(CALM);
        assert!(Health::default().failed(begun, false));
        let mut health = Health::default();
        assert!(!health.answered(begun, false) && health.state == State::Up);
        assert!(!health.answered(begun, true));
    }

    #[test]
    fn it_answers_again_after_a_calm_and_not_a_moment_before() {
        let (mut health, failed) = (Health::default(), Instant::ZERO.plus(CALM));
        assert!(health.failed(failed, false));
        let calm = failed.plus(CALM);
        assert!(!health.answered(Instant::from_nanos(calm.as_nanos() - 1), true));
        assert!(health.answered(calm, false));
    }

    #[test]
    fn one_that_fails_now_and_then_does_not_fill_the_log() {
        let (mut health, mut now, mut news) = (Health::default(), Instant::ZERO, 0);
        for _ in 0..1000 {
            now = now.plus(CALM / 4);
            news += u32::from(health.failed(now, false));
            now = now.plus(CALM / 4);
            news += u32::from(health.answered(now, true));
        }
        assert_eq!(news, 1);
    }
}
