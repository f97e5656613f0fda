//! Keeps what a pipeline writes down, if it was asked to.

use seaworthy_core::Valid;
use seaworthy_core::call::{self, Plan};
use seaworthy_core::record::{HEADER, Tape};

use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// The recording of a pipeline. Its format is that of [`seaworthy_core::record`].
#[derive(Debug)]
pub(crate) struct Recorder {
    /// The number of the next machine.
    next: AtomicU64,
    config: Mutex<Valid<call::Config>>,
    text: Mutex<String>,
}

impl Recorder {
    /// The number under which the breaker is recorded; calls follow.
    pub(crate) const BREAKER: u64 = 0;

    pub(crate) fn new(config: Valid<call::Config>) -> Self {
        let text = Mutex::new(format!("{HEADER}\n"));
        Self { next: AtomicU64::new(Self::BREAKER + 1), config: Mutex::new(config), text }
    }

    pub(crate) fn reconfigure(&self, config: Valid<call::Config>) {
        *lock(&self.config) = config;
    }

    /// The plan of the next call, and the tape that it is written on.
    pub(crate) fn call(&self) -> (Plan, Tape) {
        let config = *lock(&self.config);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        (Plan::new(&config), Tape::call(id, &config))
    }

    pub(crate) fn keep(&self, lines: &str) {
        lock(&self.text).push_str(lines);
    }

    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut *lock(&self.text))
    }
}
