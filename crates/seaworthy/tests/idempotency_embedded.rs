//! The store of idempotency keys in a file keeps to what all of them keep to.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod stores;

use std::sync::Arc;

use seaworthy::idempotency::store::embedded::{Embedded, Options};

use crate::stores::Opened;

async fn open() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("keys.redb"), Options::default()).unwrap();
    Opened { store: Arc::new(store), keep: Box::new(folder) }
}

conformance!(open);
