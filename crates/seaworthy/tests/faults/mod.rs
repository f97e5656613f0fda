//! A store that does on demand what stores do at the worst moment.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use seaworthy::idempotency::store::memory::Memory;
use seaworthy::idempotency::store::{
    Claim, Hold, Id, Page, Record, Release, Reserved, Settled, Step, Store, StoreError,
};
use seaworthy::idempotency::{Phase, Token};
use tokio::sync::oneshot;

/// The steps that can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// `reserve`.
    Reserve,
    /// `take_over`.
    TakeOver,
    /// `settle`.
    Settle,
    /// `put_chunk`.
    PutChunk,
    /// `chunk`.
    Chunk,
    /// `find`.
    Find,
}

/// What goes wrong.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is not taken, and says so.
    Fails,
    /// It is not taken, and never answers.
    Hangs,
    /// It is taken, and the answer is lost.
    Loses,
    /// It is taken, and never answers.
    LosesAndHangs,
    /// It is not taken: there is no room.
    Full,
    /// It is taken, and the answer says that there is no room.
    LosesAndIsFull,
    /// It is not taken, and what is there is damaged.
    Damaged,
    /// It is taken, and answers when it is told to.
    Holds(oneshot::Receiver<()>),
    /// A `reserve` that never answers, and is taken so much later. Others are as `Hangs`.
    Late(Duration),
}

type Plan = Box<dyn FnMut(Op) -> Option<Fault> + Send>;

/// A [`Memory`] with faults.
pub(crate) struct Faulty {
    pub(crate) inner: Arc<Memory>,
    plan: Mutex<Plan>,
    asked: Mutex<Vec<Op>>,
    /// Says of every record that its owner is dead.
    pub(crate) orphans: AtomicBool,
    /// Has lost all results.
    pub(crate) forgets_answers: AtomicBool,
}

impl Faulty {
    /// Without faults, yet.
    pub(crate) fn new() -> Arc<Self> {
        Self::over(Memory::new(100_000))
    }

    /// Without faults but those of `memory`, yet.
    pub(crate) fn over(memory: Memory) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(memory),
            plan: Mutex::new(Box::new(|_| None)),
            asked: Mutex::default(),
            orphans: AtomicBool::new(false),
            forgets_answers: AtomicBool::new(false),
        })
    }

    /// From now on every step goes wrong as `plan` says.
    pub(crate) fn plan(&self, plan: impl FnMut(Op) -> Option<Fault> + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    /// The next such step goes wrong.
    pub(crate) fn once(&self, op: Op, fault: Fault) {
        let mut fault = Some(fault);
        self.plan(move |asked| if asked == op { fault.take() } else { None });
    }

    /// All is well again.
    pub(crate) fn mend(&self) {
        self.plan(|_| None);
    }

    /// How often it was asked for such a step.
    pub(crate) fn asked(&self, op: Op) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| **asked == op).count()
    }

    /// How far a key has come, whatever the faults.
    pub(crate) async fn phase(&self, id: &Id) -> Option<Phase> {
        self.inner.find(id).await.unwrap().map(|record| record.standing.phase)
    }

    fn fault(&self, op: Op) -> Option<Fault> {
        self.asked.lock().unwrap().push(op);
        (self.plan.lock().unwrap())(op)
    }

    fn step<'a, T: Send + 'a>(&'a self, op: Op, step: Step<'a, T>) -> Step<'a, T> {
        Box::pin(async move {
            match self.fault(op) {
                None => step.await,
                Some(fault) => broken(step, fault).await,
            }
        })
    }

    fn seen(&self, mut record: Record) -> Record {
        record.orphaned = self.orphans.load(Ordering::Relaxed);
        if self.forgets_answers.load(Ordering::Relaxed) {
            record.answer = None;
        }
        record
    }

    fn found(&self, reserved: Reserved) -> Reserved {
        match reserved {
            Reserved::Found(record) => Reserved::Found(self.seen(record)),
            new => new,
        }
    }
}

async fn broken<T>(step: Step<'_, T>, fault: Fault) -> Result<T, StoreError> {
    match fault {
        Fault::Fails => down(),
        Fault::Hangs | Fault::Late(_) => pending().await,
        Fault::Loses => {
            step.await?;
            down()
        }
        Fault::LosesAndHangs => {
            step.await?;
            pending().await
        }
        Fault::Full => full(),
        Fault::LosesAndIsFull => {
            step.await?;
            full()
        }
        Fault::Damaged => Err(StoreError::Corrupt("a test has bent a bit".to_owned())),
        Fault::Holds(until) => {
            let result = step.await;
            until.await.unwrap();
            result
        }
    }
}

fn down<T>() -> Result<T, StoreError> {
    Err(StoreError::Down("a test has pulled its plug".to_owned()))
}

fn full<T>() -> Result<T, StoreError> {
    Err(StoreError::Full("a test has filled its disk".to_owned()))
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faulty")
    }
}

impl Store for Faulty {
    fn kind(&self) -> &'static str {
        "faulty"
    }

    fn reserve<'a>(&'a self, id: &'a Id, claim: &'a Claim) -> Step<'a, Reserved> {
        Box::pin(async move {
            let step = self.inner.reserve(id, claim);
            match self.fault(Op::Reserve) {
                None => step.await.map(|reserved| self.found(reserved)),
                Some(Fault::Late(after)) => {
                    let (inner, id, claim) = (self.inner.clone(), id.clone(), claim.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        inner.reserve(&id, &claim).await.unwrap();
                    });
                    pending().await
                }
                Some(fault) => broken(step, fault).await.map(|reserved| self.found(reserved)),
            }
        })
    }

    fn take_over<'a>(&'a self, id: &'a Id, claim: &'a Claim, from: Token) -> Step<'a, Reserved> {
        self.step(Op::TakeOver, self.inner.take_over(id, claim, from))
    }

    fn settle<'a>(&'a self, id: &'a Id, hold: Hold, settled: &'a Settled, keep: Duration) -> Step<'a, bool> {
        self.step(Op::Settle, self.inner.settle(id, hold, settled, keep))
    }

    fn put_chunk<'a>(
        &'a self,
        id: &'a Id,
        hold: Hold,
        number: u32,
        bytes: Bytes,
        keep: Duration,
    ) -> Step<'a, bool> {
        self.step(Op::PutChunk, self.inner.put_chunk(id, hold, number, bytes, keep))
    }

    fn chunk<'a>(&'a self, id: &'a Id, token: Token, number: u32) -> Step<'a, Option<Bytes>> {
        self.step(Op::Chunk, self.inner.chunk(id, token, number))
    }

    fn find<'a>(&'a self, id: &'a Id) -> Step<'a, Option<Record>> {
        self.step(
            Op::Find,
            Box::pin(async move { Ok(self.inner.find(id).await?.map(|record| self.seen(record))) }),
        )
    }

    fn list<'a>(&'a self, from: Option<&'a str>, most: usize) -> Step<'a, Page> {
        self.inner.list(from, most)
    }

    fn release<'a>(&'a self, release: &'a Release) -> Step<'a, bool> {
        self.inner.release(release)
    }

    fn releases(&self, most: usize) -> Step<'_, Vec<Release>> {
        self.inner.releases(most)
    }

    fn sweep(&self, most: usize) -> Step<'_, usize> {
        self.inner.sweep(most)
    }
}
