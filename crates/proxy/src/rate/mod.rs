//! The rate of one place: of the whole proxy, or of one route.
//!
//! Each proxy counts by itself, or all that share a Redis count together: then the one number that is kept of a key is kept
//! there, and a script decides about it where it is, as [`rate::Quota::decide`] would ([`store`]).
//!
//! A Redis that can't be asked is not the caller's fault, so what happens then is the operator's choice ([`WhenDown`]). The
//! proxy's own quota is kept by what is decided here alone: while Redis answers it is not touched, so a key has all of its
//! burst when Redis fails.
//!
//! Proxies that share a rate must know a client by the same number: it can't be seeded by process, and is of a hash that nobody
//! finds a second client for.

mod store;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use seaworthy::clock;
use seaworthy::shared::Rate;
use seaworthy_config::{RateBy, RateLimit, RateStore, WhenDown};
use seaworthy_core::gate::rate::{self, Decision, Quota, exceeded};
use seaworthy_core::{Instant, Mode, Policy, Reason, Rejection, Valid};

pub(crate) use store::{Remote, Store};

/// The settings of a [`Meter`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// The quota of each key.
    pub rate: Valid<rate::Config>,
    /// Who shares a rate.
    pub by: RateBy,
    /// Whether it is counted in Redis, and what is done when that can't be asked.
    pub shared: Option<WhenDown>,
}

impl From<&RateLimit> for Settings {
    fn from(limit: &RateLimit) -> Self {
        let shared = match limit.store {
            RateStore::Local => None,
            RateStore::Redis => Some(limit.when_down),
        };
        Self { rate: limit.rate, by: limit.by, shared }
    }
}

/// The rate of one place, for all workers.
#[derive(Debug)]
pub(crate) struct Meter {
    /// The place's name, a part of its keys in Redis.
    place: String,
    quota: Quota,
    by: RateBy,
    shared: Option<WhenDown>,
    mode: AtomicU8,
    /// What this proxy counts by itself. Always in force: the mode is what this meter makes of it.
    own: Rate,
    asked: AtomicU64,
    refused: AtomicU64,
    down: AtomicU64,
}

/// What a [`Meter`] has counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Counts {
    /// Calls that were to be decided in Redis.
    pub asked: u64,
    /// Calls that were refused, or would have been in observe-only mode.
    pub refused: u64,
    /// Of [`asked`](Self::asked), those that were decided by [`WhenDown`].
    pub down: u64,
}

impl Meter {
    /// Nobody has called yet. Meters of the same `place` share what they count in one Redis.
    pub(crate) fn new(place: &str, settings: Settings) -> Self {
        let own = rate::Config { mode: Mode::Enforce, ..*settings.rate };
        // The mode is no reason for a fault, so numbers that were valid are.
        let own = Valid::new(own).unwrap_or(settings.rate);
        Self {
            place: place.to_owned(),
            quota: Quota::new(&settings.rate),
            by: settings.by,
            shared: settings.shared,
            mode: AtomicU8::new(settings.rate.mode as u8),
            own: Rate::new(own),
            asked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            down: AtomicU64::new(0),
        }
    }

    /// May a call of the client `key` start? `Ok` with the refusal that there would have been, in observe-only mode. Doesn't wait unless the
    /// rate is shared, and then for [`Store`]'s timeout at most. A shared rate without a `remote` is one that can't be asked.
    ///
    /// # Errors
    /// The refusal: [`Reason::RateExceeded`], with when the next call of the key is admitted; or [`Reason::StoreDown`].
    pub(crate) async fn admit(
        &self,
        remote: Option<&Remote>,
        now: Instant,
        key: u64,
    ) -> Result<Option<Rejection>, Rejection> {
        if self.mode() == Mode::Off {
            return Ok(None);
        }
        let key = match self.by {
            RateBy::Client => key,
            RateBy::All => 0,
        };
        let Some(when_down) = self.shared else { return self.alone(now, key) };
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = match remote {
            Some(remote) => {
                remote.ask(now, &self.place, key, self.quota).await.map_err(|down| down.retry_after)
            }
            None => Err(None),
        };
        match answer {
            Ok(Decision::Admit(_)) => Ok(None),
            Ok(Decision::Refuse(wait)) => self.refuse(exceeded(wait)),
            Err(retry_after) => {
                self.down.fetch_add(1, Ordering::Relaxed);
                match when_down {
                    WhenDown::Local => self.alone(clock::now(), key),
                    WhenDown::Allow => Ok(None),
                    WhenDown::Refuse => {
                        let wait = retry_after.unwrap_or(COME_BACK).max(COME_BACK);
                        self.refuse(Rejection::new(Policy::Rate, Reason::StoreDown).after(wait))
                    }
                }
            }
        }
    }

    /// Enforces, only observes, or lets everything pass.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Whether it enforces.
    pub(crate) fn mode(&self) -> Mode {
        let mode = self.mode.load(Ordering::Relaxed);
        [Mode::Enforce, Mode::Observe].into_iter().find(|known| *known as u8 == mode).unwrap_or(Mode::Off)
    }

    /// What it has counted.
    pub(crate) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts { asked: read(&self.asked), refused: read(&self.refused), down: read(&self.down) }
    }

    /// What this proxy counts by itself.
    pub(crate) fn own(&self, now: Instant) -> rate::Snapshot {
        self.own.snapshot(now)
    }

    fn alone(&self, now: Instant, key: u64) -> Result<Option<Rejection>, Rejection> {
        let admitted = self.own.admit(now, key);
        admitted.or_else(|rejection| self.refuse(rejection))
    }

    fn refuse(&self, rejection: Rejection) -> Result<Option<Rejection>, Rejection> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if self.mode() == Mode::Enforce { Err(rejection) } else { Ok(Some(rejection)) }
    }
}

/// Sooner than in a second nobody need come back for a store that is down: it is asked again about once a second.
const COME_BACK: Duration = Duration::from_secs(1);
