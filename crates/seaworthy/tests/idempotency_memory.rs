//! The store of idempotency keys in memory keeps to what all of them keep to.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod stores;

use std::sync::Arc;
use std::time::Duration;

use seaworthy::core::Valid;
use seaworthy::core::idempotency::OnUnknown;
use seaworthy::idempotency::store::memory::Memory;
use seaworthy::idempotency::{Begun, Config, Keys, Refusal, Token};
use tokio::time::advance;

use crate::stores::{Opened, fingerprint, id};

async fn open() -> Opened {
    Opened { store: Arc::new(Memory::new(1000)), keep: Box::new(()) }
}

conformance!(open);

const TICK: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn whoever_meets_another_waits_for_the_others_lease_whatever_its_own_is() {
    let (long, short) = (Duration::from_secs(60), Duration::from_secs(5));
    for (owners, observers) in [(long, short), (short, long)] {
        let store = Arc::new(Memory::new(10));
        let with = |lease| {
            let config = Config { lease, on_unknown: OnUnknown::Retry, ..Config::default() };
            Keys::new(store.clone(), Valid::new(config).unwrap())
        };
        let (owner, observer) = (with(owners), with(observers));
        let Ok(Begun::First(running)) = owner.begin(&id("a"), fingerprint(1)).await else {
            panic!("nobody was before it")
        };
        let busy = observer.begin(&id("a"), fingerprint(1)).await;
        assert!(matches!(busy, Err(Refusal::Busy { .. })), "{busy:?}");
        advance(owners - TICK).await;
        let busy = observer.begin(&id("a"), fingerprint(1)).await;
        assert!(matches!(busy, Err(Refusal::Busy { .. })), "{owners:?} are not over: {busy:?}");
        advance(TICK).await;
        let Ok(Begun::First(next)) = observer.begin(&id("a"), fingerprint(1)).await else {
            panic!("{owners:?} are over, and it was not taken over")
        };
        assert_eq!((running.token(), next.token()), (Token(1), Token(2)));
    }
}
