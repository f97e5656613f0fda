//! The store of idempotency keys in memory keeps to what all of them keep to.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod stores;

use std::sync::Arc;

use seaworthy::idempotency::store::memory::Memory;

use crate::stores::Opened;

async fn open() -> Opened {
    Opened { store: Arc::new(Memory::new(1000)), keep: Box::new(()) }
}

conformance!(open);
