//! What happened, as values.

use std::sync::{Arc, OnceLock};

use seaworthy_core::gate::breaker::Change;
use seaworthy_core::{Instant, Rejection, Why};
use tokio::sync::broadcast;

/// Something that happened in a pipeline. Good news is not told: it is in the snapshots.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// When, on the clock of [`clock::now`](crate::clock::now).
    pub at: Instant,
    /// What.
    pub what: Happening,
}

/// What an [`Event`] can tell.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Happening {
    /// The breaker changed its state.
    Breaker(Change),
    /// A policy refused a call or an attempt.
    Rejected(Rejection),
    /// A call ended that was not simply answered; this is its record.
    Call(Why),
}

/// The sending side: bounded, and never in the way of a call.
#[derive(Debug)]
pub(crate) struct Events(OnceLock<broadcast::Sender<Event>>);

impl Events {
    /// Without a queue: that is 80 kB, and most pipelines never have a listener.
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.get_or_init(|| broadcast::Sender::new(KEPT)).subscribe()
    }

    /// Tells whoever listens; costs one load if nobody does.
    pub(crate) fn tell(&self, pipeline: &Arc<str>, at: Instant, what: impl FnOnce() -> Happening) {
        if let Some(sender) = self.0.get().filter(|sender| sender.receiver_count() > 0) {
            // An error says that the last listener has just left.
            let _ = sender.send(Event { pipeline: pipeline.clone(), at, what: what() });
        }
    }
}

/// How many events a reader may lag behind before it misses the oldest (and is told how many).
const KEPT: usize = 1024;
