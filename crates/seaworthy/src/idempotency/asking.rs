//! Somebody who asks to begin.

use std::time::Duration;

use seaworthy_core::Instant;
use seaworthy_core::idempotency::{Decision, Phase, Token};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::config::WhenDown;
use super::counts::Count;
use super::errands::Turns;
use super::keys::{Begun, Keys, Refusal, Shared};
use super::running::Running;
use super::store::{Claim, Hold, Id, Record, Reserved, Settled, StoreError};
use crate::clock;

/// Somebody who asks to begin, and may have been granted it without having heard of it.
pub(super) struct Asking<'a> {
    keys: &'a Keys,
    id: &'a Id,
    claim: Claim,
    /// What is to be settled, if a step was begun and nobody knows whether it was taken.
    undo: Option<Settled>,
    /// When the first such step was begun, and as what: if it was taken, others count the lease from there.
    first: Option<(Instant, Count)>,
}

pub(super) enum Asked {
    Over(Result<Begun, Refusal>),
    /// Its lease ends in this much time at the latest.
    Busy(Duration),
}

impl<'a> Asking<'a> {
    pub(super) const fn new(keys: &'a Keys, id: &'a Id, claim: Claim) -> Self {
        Self { keys, id, claim, undo: None, first: None }
    }

    pub(super) async fn ask(&mut self) -> Asked {
        let keys = self.keys;
        let (mut from, mut failed) = (None, None);
        Asked::Over(loop {
            // Others may see the reservation from the moment on that the step begins, so its lease begins then.
            let now = clock::now();
            let how = if from.is_some() { Count::TakenOver } else { Count::Begun };
            let (began, how) = *self.first.get_or_insert((now, how));
            let record = match self.step(from.take()).await {
                Ok(Reserved::New(hold)) => break Ok(self.first(hold, began, how)),
                Ok(Reserved::Found(record)) => {
                    self.first = None;
                    record
                }
                Err(error @ StoreError::TooLong(_)) => {
                    // No store is down, and none will ever have it: whoever asks has made a mistake, and is to notice.
                    self.undo = None;
                    break Err(keys.shared.refused(Refusal::Down(error)));
                }
                Err(error) => match self.look(&error, now).await {
                    Some(record) => {
                        failed = Some(error);
                        record
                    }
                    None => break self.without(error),
                },
            };
            match (keys.judge(self.id, &record, self.claim.fingerprint), failed.take()) {
                (Decision::Replay, _) => break keys.replay(self.id, record),
                // It can be read and not be written.
                (Decision::TakeOver(_) | Decision::Reserve, Some(error)) => break self.without(error),
                (Decision::TakeOver(token), None) => from = Some(token),
                (Decision::Reserve, None) => {}
                (Decision::Busy(left), _) => return Asked::Busy(left),
                (Decision::Mismatch, _) => break Err(keys.shared.refused(Refusal::Mismatch)),
                (Decision::Unknown, _) => {
                    let token = record.standing.token;
                    break Err(keys.shared.refused(Refusal::Unknown { token }));
                }
            }
        })
    }

    /// Reserves, or takes over what stands under `from`.
    async fn step(&mut self, from: Option<Token>) -> Result<Reserved, StoreError> {
        let Keys { shared } = self.keys;
        let (step, undo) = match from {
            None => (shared.store.reserve(self.id, &self.claim), Settled::Free),
            // What was begun before is as unknown as it was, whatever becomes of this.
            Some(token) => (shared.store.take_over(self.id, &self.claim, token), Settled::Unknown),
        };
        // Once it may have been taken over it can't become free by a step that came later.
        if self.undo != Some(Settled::Unknown) {
            self.undo = Some(undo);
        }
        let reserved = shared.step(step).await;
        if reserved.is_ok() {
            self.undo = None;
        }
        reserved
    }

    /// What stands there, where a step that `began` then has failed: a store that can't write may still know that it was carried
    /// out before. In what is left of the step's time, so that nobody waits for a store that is down for longer than is chosen.
    async fn look(&mut self, error: &StoreError, began: Instant) -> Option<Record> {
        let shared = &self.keys.shared;
        let left = shared.config.store_timeout.saturating_sub(clock::now().since(began));
        if left.is_zero() {
            return None;
        }
        let was_answered = !matches!(error, StoreError::Down(_));
        let found = match timeout(left, shared.store.find(self.id)).await.ok()? {
            Ok(found) => found,
            Err(StoreError::Corrupt(_)) => {
                // Nobody can settle what can't be read.
                self.undo.take_if(|_| was_answered);
                return None;
            }
            Err(_) => return None,
        };
        let runs = found.as_ref().is_some_and(|record| record.standing.phase == Phase::Running);
        if !runs && was_answered {
            // The step was answered, so it is over, and it has not left anything. One that was not may still be on its way.
            self.undo = None;
        }
        found
    }

    /// It can't be looked up.
    fn without(&mut self, error: StoreError) -> Result<Begun, Refusal> {
        let shared = &self.keys.shared;
        match shared.config.when_down {
            WhenDown::Allow => {
                if self.undo.is_some() {
                    // It will be carried out, and nobody will write down how it ends.
                    self.undo = Some(Settled::Unknown);
                }
                shared.counts.add(Count::Unrecorded);
                Ok(Begun::Unrecorded(error))
            }
            WhenDown::Refuse => Err(shared.refused(Refusal::Down(error))),
        }
    }

    fn first(&self, hold: Hold, began: Instant, how: Count) -> Begun {
        self.keys.shared.counts.add(how);
        Begun::First(Running {
            keys: self.keys.clone(),
            id: self.id.clone(),
            hold,
            until: began.plus(self.claim.lease),
            runtime: Handle::try_current().ok(),
            settled: false,
        })
    }
}

impl Drop for Asking<'_> {
    /// What was reserved after all is given back: nothing was begun.
    fn drop(&mut self) {
        let Some(settled) = self.undo.take() else { return };
        let (keys, id, owner) = (self.keys.clone(), self.id.clone(), self.claim.owner);
        let shared = &self.keys.shared;
        let told = shared.undoing.run(None, 0, shared.config.lease, |turns| async move {
            keys.shared.undo(&id, owner, &settled, turns).await;
        });
        if !told {
            shared.counts.add(Count::Untold);
        }
    }
}

impl Shared {
    /// Settles what a step may have reserved for `owner` without anybody having heard of it. The step may still be on its way,
    /// so one look does not do.
    async fn undo(&self, id: &Id, owner: u128, settled: &Settled, mut turns: Turns) {
        for _ in 0..UNDO_LOOKS {
            let find = || async { unless_damaged(None, self.step(self.store.find(id)).await) };
            let Some(found) = turns.keep(find).await else { return };
            if let Some(Record { standing, .. }) = found
                && standing.phase == Phase::Running
            {
                // If it is another's, this does nothing.
                let hold = Hold { token: standing.token, owner };
                let settle = || async {
                    let step = self.store.settle(id, hold, settled, self.config.retention);
                    unless_damaged(false, self.step(step).await)
                };
                match turns.keep(settle).await {
                    Some(true) => return self.settled(id),
                    Some(false) => {}
                    None => return,
                }
            }
            sleep(self.config.store_timeout).await;
        }
    }
}

/// What is damaged is not asked about again and again: it stays so.
fn unless_damaged<T>(then: T, done: Result<T, StoreError>) -> Result<T, StoreError> {
    if matches!(done, Err(StoreError::Corrupt(_))) { Ok(then) } else { done }
}

/// How often it is looked whether a step was taken after all that nobody heard of, at intervals of the store's timeout.
const UNDO_LOOKS: u32 = 3;
