//! What is done behind a caller's back: telling the store, once it hears again, how an operation ended, and giving back what a
//! step may have reserved without anybody having heard of it.
//!
//! While a store is down every operation that ends leaves such an errand, and so does everybody who is refused, so there is a bound
//! to how many there are, to what they hold in memory and to how many of them ask the store at once. The two kinds have room of
//! their own: there is no end to those who are refused, and they must not crowd out a result. What finds no room is not told: its
//! key stays as it is until its lease is over, and is unknown from then on, which is the truth.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use seaworthy_core::Instant;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::clock;

/// The room for errands.
#[derive(Debug)]
pub(super) struct Errands {
    places: Arc<Semaphore>,
    /// For results, in KiB. Apart from the places, so that results don't take those of what has none.
    room: Arc<Semaphore>,
    at_once: Arc<Semaphore>,
}

/// An errand's turns at the store.
pub(super) struct Turns {
    at_once: Arc<Semaphore>,
    pause: Duration,
    until: Instant,
}

impl Errands {
    /// Room for one kind of errand.
    pub(super) fn new() -> Self {
        let of = |most| Arc::new(Semaphore::new(most));
        Self { places: of(MOST_ERRANDS), room: of(MOST_KIB), at_once: of(MOST_AT_ONCE) }
    }

    /// Runs `work`, which holds so many `bytes`, and whose turns end after `at_most`. It runs where the caller does, or in
    /// `elsewhere` if the caller is in no runtime. `false` if there is no room, or no runtime.
    pub(super) fn run<F: Future<Output = ()> + Send + 'static>(
        &self,
        elsewhere: Option<&Handle>,
        bytes: usize,
        at_most: Duration,
        work: impl FnOnce(Turns) -> F,
    ) -> bool {
        let here = Handle::try_current().ok();
        let Some(runtime) = here.as_ref().or(elsewhere) else { return false };
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let Ok(place) = self.places.clone().try_acquire_owned() else { return false };
        let Ok(room) = self.room.clone().try_acquire_many_owned(kib) else { return false };
        let until = clock::now().plus(at_most);
        let work = work(Turns { at_once: self.at_once.clone(), pause: FIRST_PAUSE, until });
        drop(runtime.spawn(async move {
            work.await;
            drop((place, room));
        }));
        true
    }
}

impl Turns {
    /// Waits for a turn, and takes it: does what `ask` says. `None` once there are no more.
    pub(super) async fn take<T>(&self, ask: impl Future<Output = T>) -> Option<T> {
        // Nobody closes it.
        let _turn = self.at_once.acquire().await.ok()?;
        if clock::now() >= self.until { None } else { Some(ask.await) }
    }

    /// Waits for a turn, and keeps it until what `ask` does is no error: so those who wait for theirs meanwhile ask nothing of a
    /// store that is down, however many they are. `None` once there are no more.
    pub(super) async fn keep<T, E, F>(&mut self, mut ask: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, E>>,
    {
        let at_once = self.at_once.clone();
        // Nobody closes it.
        let _turn = at_once.acquire().await.ok()?;
        while clock::now() < self.until {
            match ask().await {
                Ok(done) => return Some(done),
                Err(_) => self.pause().await,
            }
        }
        None
    }

    /// Waits before the next turn, longer each time.
    pub(super) async fn pause(&mut self) {
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// At some KiB for the key and the task of each, as much memory as the results may take.
const MOST_ERRANDS: usize = 16_384;
/// 64 MiB: a thousand results of ordinary size for each of the seconds that a lease has.
const MOST_KIB: usize = 64 * 1024;
/// A store that has come back is not met by all of them at once.
const MOST_AT_ONCE: usize = 32;
/// The first and the longest pause between two turns of one errand.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::Ordering::Relaxed;
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn there_is_room_for_so_many_bytes_and_no_more() {
        let errands = Errands::new();
        let all = MOST_KIB * 1024;
        assert!(!errands.run(None, all + 1, LONG, |_| pending()));
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        assert!(errands.run(None, all, LONG, |_| async move { drop(ended.await) }));
        assert!(!errands.run(None, 1, LONG, |_| pending()));
        assert!(errands.run(None, 0, LONG, |_| pending()), "what has no result needs no room");
        drop(end);
        // Its room is free again once it is over.
        drop(errands.room.acquire_many(u32::try_from(MOST_KIB).unwrap()).await.unwrap());
        assert!(errands.run(None, all, LONG, |_| pending()));
    }

    #[tokio::test]
    async fn there_are_so_many_places_and_no_more() {
        let errands = Errands::new();
        assert!((0..MOST_ERRANDS).all(|_| errands.run(None, 0, LONG, |_| pending())));
        assert!(!errands.run(None, 0, LONG, |_| pending()));
    }

    #[test]
    fn outside_a_runtime_it_runs_where_it_was_told_to() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let errands = Errands::new();
        assert!(!errands.run(None, 0, LONG, |_| pending()));
        let (tell, told) = tokio::sync::oneshot::channel();
        assert!(errands.run(Some(runtime.handle()), 0, LONG, |_| async move { tell.send(7).unwrap() }));
        assert_eq!(runtime.block_on(told).unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_ask_nothing_of_a_store_that_is_down() {
        let errands = Errands::new();
        let (is_up, asked, done) = (AtomicBool::default(), AtomicUsize::default(), AtomicUsize::default());
        let all = Arc::new((is_up, asked, done));
        for _ in 0..10 * MOST_AT_ONCE {
            let all = all.clone();
            assert!(errands.run(None, 0, LONG, |mut turns| async move {
                let ask = async || {
                    all.1.fetch_add(1, Relaxed);
                    if all.0.load(Relaxed) { Ok(()) } else { Err(()) }
                };
                turns.keep(ask).await.unwrap();
                all.2.fetch_add(1, Relaxed);
            }));
        }
        sleep(LONG / 2).await;
        let each = all.1.load(Relaxed) / MOST_AT_ONCE;
        assert!(
            (30..40).contains(&each),
            "about once a second, and no more of them than have a turn: {each}"
        );
        all.0.store(true, Relaxed);
        sleep(LONGEST_PAUSE).await;
        assert_eq!(all.2.load(Relaxed), 10 * MOST_AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_end_at_the_moment_and_not_before() {
        let errands = Errands::new();
        let (tell, told) = tokio::sync::oneshot::channel();
        assert!(errands.run(None, 0, LONG, |turns| async move {
            sleep(LONG - Duration::from_millis(1)).await;
            let before = turns.take(async {}).await;
            sleep(Duration::from_millis(1)).await;
            tell.send((before, turns.take(async {}).await)).unwrap();
        }));
        assert_eq!(told.await.unwrap(), (Some(()), None));
    }
}
