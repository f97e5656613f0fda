//! The laws, one a function, in the order of the contract.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use seaworthy::idempotency::store::{
    Answer, CHUNK_BYTES, Claim, Hold, Id, LONGEST_NAME, Reserved, Settled, Store, StoreError,
};
use seaworthy::idempotency::{Phase, Token};

use super::{
    HOUR, Opened, SHORT, answer, begun, claim, claim_for, fingerprint, forgotten, found, id, listed, model,
    new, record, release, settled, standing, taken, until,
};

pub(crate) async fn what_is_absent_is_reserved_under_the_first_token(store: Opened) {
    assert_eq!(store.find(&id("a")).await.unwrap(), None);
    let hold = begun(&*store, &id("a"), &claim(1)).await;
    assert_eq!(hold, Hold { token: Token::FIRST, owner: 1 });
    let record = record(&*store, &id("a")).await;
    assert_eq!((record.standing.phase, record.standing.token), (Phase::Running, Token::FIRST));
    assert_eq!(record.standing.fingerprint, fingerprint(1));
    assert_eq!((record.answer, record.orphaned), (None, false));
}

pub(crate) async fn what_runs_is_found_by_others(store: Opened) {
    begun(&*store, &id("a"), &claim(1)).await;
    let record = found(store.reserve(&id("a"), &claim(2)).await.unwrap());
    assert_eq!(record.standing.fingerprint, fingerprint(1), "what was written first stands");
    assert_eq!(standing(&*store, &id("a")).await, (Phase::Running, 1));
}

pub(crate) async fn ones_own_reservation_is_new_again(store: Opened) {
    let hold = begun(&*store, &id("a"), &claim(1)).await;
    assert_eq!(begun(&*store, &id("a"), &claim(1)).await, hold);
    assert_eq!(taken(&*store, &id("a"), &claim(1), hold.token).await, hold, "nobody takes over from itself");
    let second = taken(&*store, &id("a"), &claim(2), hold.token).await;
    assert_eq!(taken(&*store, &id("a"), &claim(2), hold.token).await, second);
    assert_eq!(begun(&*store, &id("a"), &claim(2)).await, second);
    settled(&*store, &id("a"), second, &answer("x")).await;
    assert_eq!(found(store.reserve(&id("a"), &claim(2)).await.unwrap()).standing.phase, Phase::Done);
}

pub(crate) async fn what_is_free_is_reserved_under_a_higher_token(store: Opened) {
    for token in 1..=5_u64 {
        let owner = u128::from(token);
        let hold = begun(&*store, &id("a"), &claim(owner)).await;
        assert_eq!(hold.token, Token(token));
        assert_eq!(record(&*store, &id("a")).await.standing.fingerprint, fingerprint(owner));
        settled(&*store, &id("a"), hold, &Settled::Free).await;
        assert_eq!(standing(&*store, &id("a")).await, (Phase::Free, token));
    }
}

pub(crate) async fn what_is_done_or_unknown_is_found(store: Opened) {
    for (key, how) in [("d", answer("x")), ("u", Settled::Unknown)] {
        let hold = begun(&*store, &id(key), &claim(1)).await;
        settled(&*store, &id(key), hold, &how).await;
        let record = found(store.reserve(&id(key), &claim(2)).await.unwrap());
        assert_eq!(record.standing.phase, how.phase());
        assert_eq!(record.standing.fingerprint, fingerprint(1));
        assert_eq!(record.answer.is_some(), key == "d");
    }
}

pub(crate) async fn what_runs_or_is_unknown_is_taken_over(store: Opened) {
    for how in [None, Some(Settled::Unknown)] {
        let id = id(if how.is_some() { "u" } else { "r" });
        let hold = begun(&*store, &id, &claim(1)).await;
        if let Some(how) = &how {
            settled(&*store, &id, hold, how).await;
        }
        let next = taken(&*store, &id, &claim(2), hold.token).await;
        assert_eq!(next, Hold { token: Token(2), owner: 2 });
        assert_eq!(standing(&*store, &id).await, (Phase::Running, 2));
        assert_eq!(record(&*store, &id).await.standing.fingerprint, fingerprint(2));
        settled(&*store, &id, next, &answer("x")).await;
    }
}

pub(crate) async fn nothing_else_is_taken_over(store: Opened) {
    for (key, how) in [("d", answer("x")), ("f", Settled::Free)] {
        let hold = begun(&*store, &id(key), &claim(1)).await;
        settled(&*store, &id(key), hold, &how).await;
        let record = found(store.take_over(&id(key), &claim(2), hold.token).await.unwrap());
        assert_eq!((record.standing.phase, record.standing.token), (how.phase(), Token(1)));
    }
    // Under another token than it is asked for.
    let hold = begun(&*store, &id("r"), &claim(1)).await;
    taken(&*store, &id("r"), &claim(2), hold.token).await;
    for from in [0, 1, 3, u64::MAX] {
        let record = found(store.take_over(&id("r"), &claim(3), Token(from)).await.unwrap());
        assert_eq!((record.standing.phase, record.standing.token), (Phase::Running, Token(2)), "from {from}");
    }
    // What was forgotten meanwhile has nobody to be taken from, and is begun.
    assert_eq!(taken(&*store, &id("absent"), &claim(4), Token(7)).await.owner, 4);
}

pub(crate) async fn who_was_overtaken_is_fenced(store: Opened) {
    let old = begun(&*store, &id("a"), &claim(1)).await;
    let hold = taken(&*store, &id("a"), &claim(2), old.token).await;
    does_nothing(&*store, &id("a"), old).await;
    settled(&*store, &id("a"), hold, &answer("x")).await;
    does_nothing(&*store, &id("a"), old).await;
    assert!(
        !store.settle(&id("a"), old, &answer("x"), HOUR).await.unwrap(),
        "another's result is not its own"
    );
}

pub(crate) async fn who_was_released_is_fenced(store: Opened) {
    let old = begun(&*store, &id("a"), &claim(1)).await;
    assert!(store.release(&release(&id("a"), old.token, "it hangs")).await.unwrap());
    assert_eq!(standing(&*store, &id("a")).await, (Phase::Free, 1));
    does_nothing(&*store, &id("a"), old).await;
    let hold = begun(&*store, &id("a"), &claim(2)).await;
    assert_eq!(hold.token, Token(2), "tokens grow over a release");
    does_nothing(&*store, &id("a"), old).await;
}

pub(crate) async fn who_never_held_it_is_fenced(store: Opened) {
    does_nothing(&*store, &id("a"), Hold { token: Token(1), owner: 1 }).await;
    let hold = begun(&*store, &id("a"), &claim(1)).await;
    for (token, owner) in [(1, 2), (2, 1), (0, 1), (u64::MAX, 1), (1, u128::MAX), (1, 1 << 64)] {
        does_nothing(&*store, &id("a"), Hold { token: Token(token), owner }).await;
    }
    settled(&*store, &id("a"), hold, &answer("x")).await;
}

/// No step by this hold changes anything or says that it did.
async fn does_nothing(store: &dyn Store, id: &Id, hold: Hold) {
    let before = store.find(id).await.unwrap().map(|record| (record.standing, record.answer));
    for how in [answer("fenced"), Settled::Unknown, Settled::Free] {
        assert!(!store.settle(id, hold, &how, HOUR).await.unwrap(), "{hold:?} settled as {how:?}");
    }
    let put = store.put_chunk(id, hold, 0, Bytes::from_static(b"fenced"), HOUR).await.unwrap();
    assert!(!put, "{hold:?} put a chunk");
    assert_eq!(store.chunk(id, hold.token, 0).await.unwrap(), None);
    assert_eq!(store.find(id).await.unwrap().map(|record| (record.standing, record.answer)), before);
}

pub(crate) async fn settling_again_as_before_changes_nothing(store: Opened) {
    for (key, how) in [("d", answer("x")), ("u", Settled::Unknown), ("f", Settled::Free)] {
        let hold = begun(&*store, &id(key), &claim(1)).await;
        for _ in 0..3 {
            settled(&*store, &id(key), hold, &how).await;
            assert_eq!(standing(&*store, &id(key)).await, (how.phase(), 1));
        }
        let kept = record(&*store, &id(key)).await.answer.map(Settled::Done);
        assert_eq!(kept.unwrap_or(how.clone()), how);
    }
}

pub(crate) async fn what_is_settled_for_good_stays_so(store: Opened) {
    for (key, how) in [("d", answer("x")), ("f", Settled::Free)] {
        let hold = begun(&*store, &id(key), &claim(1)).await;
        settled(&*store, &id(key), hold, &how).await;
        for other in [answer("y"), Settled::Unknown, Settled::Free] {
            let same = other == how;
            assert_eq!(
                store.settle(&id(key), hold, &other, HOUR).await.unwrap(),
                same,
                "{how:?}, then {other:?}"
            );
        }
        assert!(!store.put_chunk(&id(key), hold, 0, Bytes::from_static(b"z"), HOUR).await.unwrap());
        assert_eq!(standing(&*store, &id(key)).await, (how.phase(), 1));
        let kept = record(&*store, &id(key)).await.answer.map(Settled::Done);
        assert_eq!(kept.unwrap_or(how.clone()), how);
    }
}

pub(crate) async fn what_is_unknown_takes_late_news(store: Opened) {
    for (key, news) in [("d", answer("late")), ("f", Settled::Free)] {
        let hold = begun(&*store, &id(key), &claim(1)).await;
        settled(&*store, &id(key), hold, &Settled::Unknown).await;
        assert!(store.put_chunk(&id(key), hold, 0, Bytes::from_static(b"late"), HOUR).await.unwrap());
        settled(&*store, &id(key), hold, &news).await;
        assert_eq!(standing(&*store, &id(key)).await, (news.phase(), 1));
    }
}

pub(crate) async fn what_is_found_is_what_was_written(store: Opened) {
    let hold = begun(&*store, &id("a"), &claim(1)).await;
    settled(&*store, &id("a"), hold, &answer("forty-two")).await;
    let record = record(&*store, &id("a")).await;
    assert_eq!(record.answer.clone().map(Settled::Done), Some(answer("forty-two")));
    assert!(!record.orphaned);
    assert!(
        record.changed > Duration::from_secs(1_600_000_000),
        "the wall clock's time: {:?}",
        record.changed
    );
    if let Some(left) = record.remembered {
        assert!(!left.is_zero() && left <= HOUR, "{left:?}");
    }
    let again = found(store.reserve(&id("a"), &claim(2)).await.unwrap());
    assert_eq!((again.standing, again.answer), (record.standing, record.answer));
}

pub(crate) async fn a_record_has_the_lease_of_who_began_last(store: Opened) {
    let with = |owner, lease_ms| Claim { lease: Duration::from_millis(lease_ms), ..claim(owner) };
    let lease_ms = async || record(&*store, &id("a")).await.lease.as_millis();
    let hold = begun(&*store, &id("a"), &with(1, 1_500)).await;
    assert_eq!(lease_ms().await, 1_500);
    assert_eq!(found(store.reserve(&id("a"), &with(2, 7)).await.unwrap()).lease.as_millis(), 1_500);
    let hold = taken(&*store, &id("a"), &with(2, 86_400_000), hold.token).await;
    assert_eq!(lease_ms().await, 86_400_000);
    settled(&*store, &id("a"), hold, &Settled::Free).await;
    begun(&*store, &id("a"), &with(3, 1)).await;
    assert_eq!(lease_ms().await, 1);
    // What a store can't count is never counted as less.
    let odd = Claim { lease: Duration::from_nanos(1_000_001), ..claim(1) };
    begun(&*store, &id("b"), &odd).await;
    assert!(record(&*store, &id("b")).await.lease >= odd.lease);
    let endless = Claim { lease: Duration::MAX, ..claim(1) };
    begun(&*store, &id("c"), &endless).await;
    assert!(record(&*store, &id("c")).await.lease > HOUR * 24 * 365);
}

pub(crate) async fn keys_are_apart(store: Opened) {
    let parts = [
        ("p", "c", "k"),
        ("p", "c", "kk"),
        ("pc", "", "k"),
        ("", "pc", "k"),
        ("p", "", "ck"),
        ("", "", "pck"),
    ];
    let ids: Vec<Id> = parts.iter().map(|(p, c, k)| made(p, c, k)).collect();
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(begun(&*store, id, &claim(n as u128)).await.token, Token::FIRST, "{id:?}");
    }
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(record(&*store, id).await.standing.fingerprint, fingerprint(n as u128));
    }
}

pub(crate) async fn ids_of_odd_characters_and_of_the_greatest_length(store: Opened) {
    let longest = "k".repeat(255);
    let client = "0123456789abcdef".repeat(2);
    let odd = [
        "'; drop table keys; --",
        "\"",
        "\\",
        "%",
        "%00",
        "_",
        "{a}",
        "a{b",
        "}",
        "*",
        "[a-z]",
        "?",
        ":",
        "/",
        "\n",
        "\t",
        "\r\n",
        " ",
        "\0",
        "a\0b",
        "\u{e4}",
        "a\u{308}",
        "\u{1f600}",
        "\u{fffd}",
        "A",
        "a",
        "null",
        "0",
        "-1",
        "$1",
        longest.as_str(),
    ];
    let mut ids: Vec<Id> = odd.iter().map(|key| made("p", &client, key)).collect();
    ids.extend(odd.iter().map(|place| made(place, &client, "k")));
    ids.push(made(&longest, &client, &longest));
    ids.push(made(&"\u{e4}".repeat(127), &client, &"\u{e4}".repeat(127)));
    for (n, id) in ids.iter().enumerate() {
        let hold = begun(&*store, id, &claim(n as u128)).await;
        assert_eq!(hold.token, Token::FIRST, "{id:?} was taken for another");
        assert!(store.put_chunk(id, hold, 0, Bytes::from(n.to_string()), HOUR).await.unwrap());
        settled(&*store, id, hold, &answer(&n.to_string())).await;
    }
    for (n, id) in ids.iter().enumerate() {
        let kept = record(&*store, id).await.answer.map(Settled::Done);
        assert_eq!(kept, Some(answer(&n.to_string())), "{id:?}");
        assert_eq!(store.chunk(id, Token::FIRST, 0).await.unwrap(), Some(Bytes::from(n.to_string())));
    }
    let mut listed: Vec<Id> = listed(&*store, 7).await.into_iter().map(|(id, _)| id).collect();
    listed.sort();
    ids.sort();
    assert_eq!(listed, ids);
}

fn made(place: &str, client: &str, key: &str) -> Id {
    Id { place: place.into(), client: client.into(), key: key.into() }
}

/// `length` bytes, every value of a byte among them.
fn bytes(length: usize, seed: usize) -> Bytes {
    (0..length).map(|n| (n * 31 + n / 256 + seed) as u8).collect::<Vec<u8>>().into()
}

pub(crate) async fn answers_of_any_bytes_and_of_the_greatest_size(store: Opened) {
    let sizes =
        [(0, 0), (0, 1), (1, 0), (256, 256), (CHUNK_BYTES, 0), (0, CHUNK_BYTES), (CHUNK_BYTES, CHUNK_BYTES)];
    for (n, (head, body)) in sizes.into_iter().enumerate() {
        let id = id(&n.to_string());
        let whole = Answer { head: bytes(head, n), body: bytes(body, n + 7), chunks: 0 };
        let hold = begun(&*store, &id, &claim(1)).await;
        settled(&*store, &id, hold, &Settled::Done(whole.clone())).await;
        assert!(record(&*store, &id).await.answer == Some(whole), "of {head} and {body} bytes");
    }
}

pub(crate) async fn chunks_are_read_as_they_were_put(store: Opened) {
    let id = id("a");
    let hold = begun(&*store, &id, &claim(1)).await;
    let chunks = [bytes(CHUNK_BYTES, 1), bytes(CHUNK_BYTES, 2), bytes(1, 3)];
    for (n, chunk) in (0..).zip(&chunks) {
        // Twice: what a lost answer makes of it.
        for _ in 0..2 {
            assert!(store.put_chunk(&id, hold, n, chunk.clone(), HOUR).await.unwrap());
        }
    }
    let whole = Answer { head: bytes(9, 4), body: bytes(CHUNK_BYTES, 5), chunks: 3 };
    settled(&*store, &id, hold, &Settled::Done(whole.clone())).await;
    settled(&*store, &id, hold, &Settled::Done(whole.clone())).await;
    assert!(record(&*store, &id).await.answer == Some(whole));
    for (n, chunk) in (0..).zip(&chunks) {
        assert!(store.chunk(&id, hold.token, n).await.unwrap().as_ref() == Some(chunk), "chunk {n}");
    }
    for (token, number) in [(1, 3), (1, u32::MAX), (2, 0), (0, 0)] {
        assert_eq!(store.chunk(&id, Token(token), number).await.unwrap(), None);
    }
    assert_eq!(store.chunk(&super::id("b"), hold.token, 0).await.unwrap(), None);
}

pub(crate) async fn chunks_of_a_former_result_are_not_taken_for_its_successors(store: Opened) {
    let id = id("a");
    let first = begun(&*store, &id, &claim(1)).await;
    assert!(store.put_chunk(&id, first, 0, Bytes::from_static(b"first"), HOUR).await.unwrap());
    let second = taken(&*store, &id, &claim(2), first.token).await;
    assert_eq!(store.chunk(&id, second.token, 0).await.unwrap(), None);
    assert!(store.put_chunk(&id, second, 0, Bytes::from_static(b"second"), HOUR).await.unwrap());
    let whole = Answer { chunks: 1, ..Answer::default() };
    settled(&*store, &id, second, &Settled::Done(whole)).await;
    assert_eq!(store.chunk(&id, second.token, 0).await.unwrap(), Some(Bytes::from_static(b"second")));
}

pub(crate) async fn what_is_past_its_retention_is_absent(store: Opened) {
    for (key, how) in
        [("r", None), ("d", Some(answer("x"))), ("u", Some(Settled::Unknown)), ("f", Some(Settled::Free))]
    {
        let id = id(key);
        let hold = begun(&*store, &id, &claim_for(1, if how.is_some() { HOUR } else { SHORT })).await;
        if let Some(how) = how {
            assert!(store.settle(&id, hold, &how, SHORT).await.unwrap());
        }
        forgotten(&*store, &id).await;
        assert_eq!(begun(&*store, &id, &claim(2)).await.owner, 2);
    }
}

pub(crate) async fn who_was_forgotten_is_fenced(store: Opened) {
    let old = begun(&*store, &id("a"), &claim_for(1, SHORT)).await;
    forgotten(&*store, &id("a")).await;
    does_nothing(&*store, &id("a"), old).await;
    assert!(!store.release(&release(&id("a"), old.token, "too late")).await.unwrap());
    // The token may be the same again; the owner is not.
    begun(&*store, &id("a"), &claim(2)).await;
    does_nothing(&*store, &id("a"), old).await;
}

pub(crate) async fn retention_begins_anew_at_every_change(store: Opened) {
    // Longer, so that what is done at once is done before.
    let short = Duration::from_secs(2);
    let other = id("other");
    let settle = begun(&*store, &id("settled"), &claim_for(1, short)).await;
    let put = begun(&*store, &id("put"), &claim_for(1, short)).await;
    let take = begun(&*store, &id("taken"), &claim_for(1, short)).await;
    let free = begun(&*store, &id("freed"), &claim_for(1, short)).await;
    settled(&*store, &id("settled"), settle, &answer("x")).await;
    assert!(store.put_chunk(&id("put"), put, 0, Bytes::from_static(b"x"), HOUR).await.unwrap());
    taken(&*store, &id("taken"), &claim(2), take.token).await;
    settled(&*store, &id("freed"), free, &Settled::Free).await;
    begun(&*store, &other, &claim_for(1, short)).await;
    forgotten(&*store, &other).await;
    for key in ["settled", "put", "taken", "freed"] {
        record(&*store, &id(key)).await;
    }
    let hold = begun(&*store, &id("freed"), &claim_for(3, SHORT)).await;
    assert_eq!(hold.token, Token(2), "tokens grow while the key is remembered");
    forgotten(&*store, &id("freed")).await;
}

pub(crate) async fn chunks_last_as_long_as_their_result(store: Opened) {
    let short = Duration::from_secs(2);
    let hold = begun(&*store, &id("a"), &claim(1)).await;
    assert!(store.put_chunk(&id("a"), hold, 0, Bytes::from_static(b"x"), short).await.unwrap());
    settled(&*store, &id("a"), hold, &Settled::Done(Answer { chunks: 1, ..Answer::default() })).await;
    begun(&*store, &id("other"), &claim_for(1, short)).await;
    forgotten(&*store, &id("other")).await;
    assert_eq!(store.chunk(&id("a"), hold.token, 0).await.unwrap(), Some(Bytes::from_static(b"x")));

    let hold = begun(&*store, &id("b"), &claim(1)).await;
    assert!(store.put_chunk(&id("b"), hold, 0, Bytes::from_static(b"x"), HOUR).await.unwrap());
    let whole = Settled::Done(Answer { chunks: 1, ..Answer::default() });
    assert!(store.settle(&id("b"), hold, &whole, SHORT).await.unwrap());
    forgotten(&*store, &id("b")).await;
    until("the chunk is gone too", || async {
        store.chunk(&id("b"), hold.token, 0).await.unwrap().is_none()
    })
    .await;
}

pub(crate) async fn a_listing_shows_all_once(store: Opened) {
    assert!(listed(&*store, 10).await.is_empty());
    let mut ids = Vec::new();
    for n in 0..53_u32 {
        let id = Id::new(&format!("place {}", n % 3), &n.to_be_bytes(), &format!("key {n}"));
        let hold = begun(&*store, &id, &claim(u128::from(n))).await;
        match n % 4 {
            0 => settled(&*store, &id, hold, &answer("x")).await,
            1 => settled(&*store, &id, hold, &Settled::Unknown).await,
            2 => settled(&*store, &id, hold, &Settled::Free).await,
            _ => {}
        }
        ids.push(id);
    }
    ids.sort();
    for most in [1, 2, 10, 53, 54, 1000] {
        let mut seen = listed(&*store, most).await;
        seen.sort_by(|(a, _), (b, _)| a.cmp(b));
        assert_eq!(seen.iter().map(|(id, _)| id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
        for (id, shown) in seen {
            assert_eq!(shown.standing, record(&*store, &id).await.standing, "{id}");
        }
    }
}

pub(crate) async fn a_listing_leaves_out_what_is_past_its_retention(store: Opened) {
    begun(&*store, &id("gone"), &claim_for(1, SHORT)).await;
    begun(&*store, &id("stays"), &claim(1)).await;
    forgotten(&*store, &id("gone")).await;
    let seen: Vec<Id> = listed(&*store, 10).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(seen, [id("stays")]);
}

pub(crate) async fn releases_are_kept_newest_first(store: Opened) {
    assert!(store.releases(10).await.unwrap().is_empty());
    let reason = "\u{e4} reason with 'quotes' and \n more ".repeat(25);
    for n in 0..5_u8 {
        let id = id(&n.to_string());
        let hold = begun(&*store, &id, &claim(1)).await;
        match n {
            1 => settled(&*store, &id, hold, &answer("x")).await,
            2 => settled(&*store, &id, hold, &Settled::Unknown).await,
            3 => settled(&*store, &id, hold, &Settled::Free).await,
            _ => {}
        }
        assert!(store.release(&release(&id, hold.token, &format!("{n} {reason}"))).await.unwrap());
        let record = record(&*store, &id).await;
        assert_eq!((record.standing.phase, record.answer), (Phase::Free, None));
        // So that their times differ by what a store counts in.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let kept = store.releases(10).await.unwrap();
    let phases = [Phase::Running, Phase::Done, Phase::Unknown, Phase::Free, Phase::Running];
    assert_eq!(kept.len(), 5);
    for (n, release) in kept.iter().rev().enumerate() {
        assert_eq!(release.id, id(&n.to_string()));
        assert_eq!(release.reason, format!("{n} {reason}"));
        assert_eq!((release.token, release.phase), (Token::FIRST, phases[n]), "as it stood before");
        assert!(release.at > Duration::from_secs(1_600_000_000), "by the store's wall clock");
    }
    assert_eq!(store.releases(2).await.unwrap(), kept[..2]);
    assert!(store.releases(0).await.unwrap().is_empty());
}

pub(crate) async fn a_release_of_what_stands_otherwise_does_nothing(store: Opened) {
    let hold = begun(&*store, &id("a"), &claim(1)).await;
    taken(&*store, &id("a"), &claim(2), hold.token).await;
    for token in [0, 1, 3, u64::MAX] {
        assert!(!store.release(&release(&id("a"), Token(token), "no")).await.unwrap());
    }
    assert!(!store.release(&release(&id("absent"), Token(1), "no")).await.unwrap());
    assert_eq!(standing(&*store, &id("a")).await, (Phase::Running, 2));
    assert!(store.releases(10).await.unwrap().is_empty());
}

pub(crate) async fn sweeping_is_bounded_and_spares_the_living(store: Opened) {
    for n in 0..20 {
        begun(&*store, &id(&format!("gone {n}")), &claim_for(1, SHORT)).await;
        begun(&*store, &id(&format!("stays {n}")), &claim(1)).await;
    }
    forgotten(&*store, &id("gone 19")).await;
    assert_eq!(store.sweep(0).await.unwrap(), 0);
    let mut swept = 0;
    loop {
        let now = store.sweep(7).await.unwrap();
        assert!(now <= 7, "{now}");
        swept += now;
        if now == 0 {
            break;
        }
    }
    // Those that sweep by themselves may have been faster.
    let by_itself = ["embedded", "redis"].contains(&store.kind());
    assert!(swept == 20 || (by_itself && swept < 20), "{swept} swept by {}", store.kind());
    assert_eq!(listed(&*store, 100).await.len(), 20);
    for n in 0..20 {
        assert_eq!(standing(&*store, &id(&format!("stays {n}"))).await, (Phase::Running, 1));
    }
}

/// What 64 tasks get that do the same at once.
async fn at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    store: &Opened,
    what: impl Fn(Arc<dyn Store>, u128) -> F,
) -> Vec<T> {
    let tasks: Vec<_> = (1..=64).map(|n| tokio::spawn(what(store.store.clone(), n))).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    all
}

pub(crate) async fn sweeping_takes_the_pieces_along(store: Opened) {
    for n in 0..3 {
        let id = id(&format!("gone {n}"));
        let hold = begun(&*store, &id, &claim_for(1, SHORT)).await;
        for number in 0..5 {
            assert!(store.put_chunk(&id, hold, number, Bytes::from_static(b"x"), SHORT).await.unwrap());
        }
        forgotten(&*store, &id).await;
    }
    loop {
        let swept = store.sweep(4).await.unwrap();
        assert!(swept <= 4, "{swept}");
        if swept < 4 {
            break;
        }
    }
    for n in 0..3 {
        let id = id(&format!("gone {n}"));
        let hold = begun(&*store, &id, &claim(2)).await;
        assert_eq!(hold.token, Token::FIRST);
        assert_eq!(store.chunk(&id, hold.token, 0).await.unwrap(), None, "another's piece");
    }
}

pub(crate) async fn an_id_that_is_too_long_is_refused_by_name(store: Opened) {
    let (fits, long) = ("k".repeat(LONGEST_NAME), "k".repeat(LONGEST_NAME + 1));
    for id in [
        made(&long, "c", "k"),
        made("p", &long, "k"),
        made("p", "c", &long),
        made("p", "c", &fits.repeat(20)),
    ] {
        for error in [store.reserve(&id, &claim(1)).await, store.take_over(&id, &claim(1), Token(1)).await] {
            let error = error.unwrap_err();
            assert!(matches!(error, StoreError::TooLong(_)), "{error}");
        }
        assert_eq!(store.find(&id).await.unwrap(), None);
    }
    begun(&*store, &made(&fits, &fits, &fits), &claim(1)).await;
}

pub(crate) async fn a_listing_has_no_bodies(store: Opened) {
    let hold = begun(&*store, &id("a"), &claim(1)).await;
    settled(&*store, &id("a"), hold, &answer("forty-two")).await;
    let seen = listed(&*store, 10).await;
    let [(_, shown)] = &seen[..] else { panic!("{seen:?}") };
    let answer = shown.answer.as_ref().unwrap();
    assert_eq!((&answer.head[..], &answer.body[..]), (&b"200"[..], &b""[..]));
}

pub(crate) async fn one_of_many_reserves(store: Opened) {
    for round in 0..5 {
        let id = id(&format!("round {round}"));
        let asked = id.clone();
        let all = at_once(&store, move |store, owner| {
            let id = asked.clone();
            async move { store.reserve(&id, &claim(owner)).await.unwrap() }
        })
        .await;
        let winners: Vec<&Reserved> = all.iter().filter(|one| matches!(one, Reserved::New(_))).collect();
        let [Reserved::New(hold)] = winners[..] else { panic!("{} began at once", winners.len()) };
        for other in &all {
            if let Reserved::Found(record) = other {
                assert_eq!(record.standing.fingerprint, fingerprint(hold.owner));
            }
        }
        settled(&*store, &id, *hold, &answer("x")).await;
    }
}

pub(crate) async fn one_of_many_takes_over(store: Opened) {
    let mut hold = begun(&*store, &id("a"), &claim(1000)).await;
    for round in 0..5_u128 {
        let from = hold.token;
        let all = at_once(&store, move |store, owner| async move {
            store.take_over(&id("a"), &claim(owner + round * 100), from).await.unwrap()
        })
        .await;
        let winners: Vec<Hold> = all
            .into_iter()
            .filter_map(|one| match one {
                Reserved::New(hold) => Some(hold),
                Reserved::Found(_) => None,
            })
            .collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(winners[0].token, from.next());
        hold = winners[0];
    }
    settled(&*store, &id("a"), hold, &answer("x")).await;
}

pub(crate) async fn one_of_many_settles(store: Opened) {
    let hold = begun(&*store, &id("a"), &claim(1)).await;
    let all = at_once(&store, move |store, n| async move {
        store.settle(&id("a"), hold, &answer(&n.to_string()), HOUR).await.unwrap()
    })
    .await;
    assert_eq!(
        all.iter().filter(|done| **done).count(),
        1,
        "one result is kept, and its writer alone is told so"
    );
    let winner = all.iter().position(|done| *done).unwrap() + 1;
    let kept = record(&*store, &id("a")).await.answer.map(Settled::Done);
    assert_eq!(kept, Some(answer(&winner.to_string())));
}

pub(crate) async fn a_dropped_step_leaves_the_store_whole(store: Opened) {
    let mut context = Context::from_waker(Waker::noop());
    for n in 0..50_u32 {
        let id = id(&n.to_string());
        let claim = claim(u128::from(n));
        // Asked for, and not waited for: it was done, or it was not.
        let _ = store.reserve(&id, &claim).as_mut().poll(&mut context);
        let hold = begun(&*store, &id, &claim).await;
        assert_eq!(hold.token, Token::FIRST);
        let chunk = Bytes::from_static(b"x");
        let _ = store.put_chunk(&id, hold, 0, chunk.clone(), HOUR).as_mut().poll(&mut context);
        let _ = store.find(&id).as_mut().poll(&mut context);
        assert!(store.put_chunk(&id, hold, 0, chunk, HOUR).await.unwrap());
        let how = Settled::Done(Answer { chunks: 1, ..Answer::default() });
        let _ = store.settle(&id, hold, &how, HOUR).as_mut().poll(&mut context);
        let _ = store.list(None, 10).as_mut().poll(&mut context);
        let _ = store.sweep(1).as_mut().poll(&mut context);
        settled(&*store, &id, hold, &how).await;
    }
    assert_eq!(listed(&*store, 7).await.len(), 50);
}

pub(crate) async fn random_steps_do_as_the_model_does(store: Opened) {
    for seed in [1, 2, 3, rand_seed()] {
        model::walk(&*store, seed, 300).await;
    }
    let hold = new(store.reserve(&id("after"), &claim(1)).await.unwrap());
    settled(&*store, &id("after"), hold, &Settled::Free).await;
}

/// One that was never tried; it is named if it fails.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    RandomState::new().build_hasher().finish()
}
