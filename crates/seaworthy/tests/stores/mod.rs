//! What every store of idempotency keys keeps to: one body of tests, run against each of them.
//!
//! A store's test file says how one that is empty is opened, and `conformance!(open)` makes a test of every law:
//!
//! ```ignore
//! mod stores;
//! async fn open() -> stores::Opened { .. }
//! conformance!(open);
//! ```

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod laws;
pub(crate) mod model;

use std::any::Any;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seaworthy::idempotency::store::{Answer, Claim, Hold, Id, Record, Release, Reserved, Settled, Store};
use seaworthy::idempotency::{Fingerprint, Phase, Token};

/// An empty store, and what has to live as long as it does.
pub(crate) struct Opened {
    /// The store.
    pub(crate) store: Arc<dyn Store>,
    /// A folder, a server.
    pub(crate) keep: Box<dyn Any + Send + Sync>,
}

impl Deref for Opened {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

/// Makes one test of each law, for the stores that `$open` (an `async fn() -> Opened`) opens.
#[macro_export]
macro_rules! conformance {
    ($open:ident) => {
        $crate::conformance!($open:
            what_is_absent_is_reserved_under_the_first_token,
            what_runs_is_found_by_others,
            ones_own_reservation_is_new_again,
            what_is_free_is_reserved_under_a_higher_token,
            what_is_done_or_unknown_is_found,
            what_runs_or_is_unknown_is_taken_over,
            nothing_else_is_taken_over,
            who_was_overtaken_is_fenced,
            who_was_released_is_fenced,
            who_never_held_it_is_fenced,
            settling_again_as_before_changes_nothing,
            what_is_settled_for_good_stays_so,
            what_is_unknown_takes_late_news,
            what_is_found_is_what_was_written,
            a_record_has_the_lease_of_who_began_last,
            keys_are_apart,
            ids_of_odd_characters_and_of_the_greatest_length,
            answers_of_any_bytes_and_of_the_greatest_size,
            chunks_are_read_as_they_were_put,
            chunks_of_a_former_result_are_not_taken_for_its_successors,
            what_is_past_its_retention_is_absent,
            who_was_forgotten_is_fenced,
            retention_begins_anew_at_every_change,
            chunks_last_as_long_as_their_result,
            a_listing_shows_all_once,
            a_listing_leaves_out_what_is_past_its_retention,
            releases_are_kept_newest_first,
            a_release_of_what_stands_otherwise_does_nothing,
            sweeping_is_bounded_and_spares_the_living,
            sweeping_takes_the_pieces_along,
            an_id_that_is_too_long_is_refused_by_name,
            a_listing_has_no_bodies,
            one_of_many_reserves,
            one_of_many_takes_over,
            one_of_many_settles,
            a_dropped_step_leaves_the_store_whole,
            random_steps_do_as_the_model_does,
        );
    };
    ($open:ident: $($law:ident),+ $(,)?) => {
        mod conformance {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $law() {
                    $crate::stores::laws::$law(super::$open().await).await;
                }
            )+
        }
    };
}

/// Long enough for any test.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// Of a claim that says nothing else.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// Short enough to be waited for.
pub(crate) const SHORT: Duration = Duration::from_millis(400);

/// A key of one client at one place.
pub(crate) fn id(key: &str) -> Id {
    Id::new("payments", b"client", key)
}

/// A claim to be remembered for an hour.
pub(crate) fn claim(owner: u128) -> Claim {
    claim_for(owner, HOUR)
}

/// A claim with a fingerprint of its owner's.
pub(crate) fn claim_for(owner: u128, retention: Duration) -> Claim {
    Claim { fingerprint: fingerprint(owner), owner, lease: LEASE, retention }
}

/// What an owner asks for.
pub(crate) fn fingerprint(owner: u128) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[8..24].copy_from_slice(&owner.to_be_bytes());
    Fingerprint(bytes)
}

/// Reserves what must be there to be reserved.
pub(crate) async fn begun(store: &dyn Store, id: &Id, claim: &Claim) -> Hold {
    new(store.reserve(id, claim).await.unwrap())
}

/// Takes over what must be there to be taken over.
pub(crate) async fn taken(store: &dyn Store, id: &Id, claim: &Claim, from: Token) -> Hold {
    new(store.take_over(id, claim, from).await.unwrap())
}

/// Settles what must be held, for an hour.
pub(crate) async fn settled(store: &dyn Store, id: &Id, hold: Hold, settled: &Settled) {
    assert!(store.settle(id, hold, settled, HOUR).await.unwrap(), "{id} is not {hold:?}'s");
}

/// The hold of a reservation that was given.
pub(crate) fn new(reserved: Reserved) -> Hold {
    match reserved {
        Reserved::New(hold) => hold,
        Reserved::Found(record) => panic!("not reserved, but found {record:?}"),
    }
}

/// The record of a reservation that was not given.
pub(crate) fn found(reserved: Reserved) -> Record {
    match reserved {
        Reserved::Found(record) => record,
        Reserved::New(hold) => panic!("not found, but reserved {hold:?}"),
    }
}

/// The record of a key that must have one.
pub(crate) async fn record(store: &dyn Store, id: &Id) -> Record {
    store.find(id).await.unwrap().unwrap_or_else(|| panic!("{id} is not known"))
}

/// How far a key that must have a record came, and under which token.
pub(crate) async fn standing(store: &dyn Store, id: &Id) -> (Phase, u64) {
    let standing = record(store, id).await.standing;
    (standing.phase, standing.token.0)
}

/// A result of one piece.
pub(crate) fn answer(body: &str) -> Settled {
    Settled::Done(Answer {
        head: Bytes::from_static(b"200"),
        body: Bytes::copy_from_slice(body.as_bytes()),
        chunks: 0,
    })
}

/// An operator's word.
pub(crate) fn release(id: &Id, token: Token, reason: &str) -> Release {
    Release { id: id.clone(), token, phase: Phase::Running, reason: reason.into(), at: Duration::ZERO }
}

/// Every id that a listing shows, by pages of `most`.
pub(crate) async fn listed(store: &dyn Store, most: usize) -> Vec<(Id, Record)> {
    let mut all = Vec::new();
    let mut from: Option<String> = None;
    for _ in 0..10_000 {
        let page = store.list(from.as_deref(), most).await.unwrap();
        all.extend(page.records);
        match page.next {
            Some(next) => from = Some(next),
            None => return all,
        }
    }
    panic!("the listing does not end");
}

/// Waits until `what` holds; fails if it never does.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let given_up = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < given_up, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a key is forgotten.
pub(crate) async fn forgotten(store: &dyn Store, id: &Id) {
    until("it is forgotten", || async { store.find(id).await.unwrap().is_none() }).await;
}
