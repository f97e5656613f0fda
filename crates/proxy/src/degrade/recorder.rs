//! Keeps an answer's body while it streams to the client.

use std::sync::Arc;

use bytes::Bytes;

use super::entry::{Entry, Head, Stored};
use super::flight::Leader;
use super::question::Question;
use super::store::Store;

/// Fed with an answer as it passes. Nothing is in the store until it was whole; dropped before, it leaves no trace.
#[derive(Debug)]
pub(crate) struct Recorder {
    store: Arc<Store>,
    question: Question,
    head: Head,
    body: Vec<u8>,
    /// How many bytes the body says it has, if it does.
    announced: Option<u64>,
    most: usize,
    /// What was invalidated when it began.
    epoch: u64,
    leader: Option<Leader>,
}

impl Recorder {
    pub(super) const fn new(
        store: Arc<Store>,
        question: Question,
        head: Head,
        announced: Option<u64>,
        most: usize,
        epoch: u64,
    ) -> Self {
        Self { store, question, head, body: Vec::new(), announced, most, epoch, leader: None }
    }

    /// Tells who waits for it when it is in the store.
    pub(crate) fn for_all(mut self, leader: Leader) -> Self {
        self.leader = Some(leader);
        self
    }

    /// A piece of the body. `None` if it is too much to be kept: then it goes on without being recorded.
    pub(crate) fn data(mut self, data: &[u8]) -> Option<Self> {
        if data.len() > self.most - self.body.len() || !self.store.reserve(data.len()) {
            return None;
        }
        self.body.extend_from_slice(data);
        Some(self)
    }

    /// The body ended as it should. What was stored, if it was.
    pub(crate) fn end(mut self) -> Option<Stored> {
        // A body that ends early was not whole, whoever says so.
        if self.announced.is_some_and(|announced| announced != self.body.len() as u64) {
            return None;
        }
        let body = std::mem::take(&mut self.body);
        self.store.unreserve(body.len());
        let entry = Entry { head: self.head.clone(), body: Bytes::from(body.into_boxed_slice()) };
        let stored = self.store.put(&self.question, entry, self.epoch)?;
        if let Some(leader) = self.leader.take() {
            leader.stored();
        }
        Some(stored)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.store.unreserve(self.body.len());
    }
}
