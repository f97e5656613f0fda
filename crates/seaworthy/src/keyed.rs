//! A pipeline for each key: each host, each tenant, each shard has policies of its own.
//!
//! The number of keys is bounded, because keys come from outside. When it is reached, those that were used least recently make
//! room, but none whose state would be forgotten just when it matters: while somebody holds its pipeline, as every call does,
//! its permits and budgets are in use; while its breaker, its throttle or its rate keeps calls away, forgetting it would let them
//! through; and what an operator has forced stays forced. A breaker whose wait is over and that nobody has asked since keeps nobody
//! away, so a crowd of dead hosts can't lock out new ones for longer than they wait; throttles and rates forget by themselves.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};

use seaworthy_core::Fault;
use seaworthy_core::gate::breaker::State;

use crate::pipeline::{Config, Pipeline, Snapshot};

/// Pipelines by key.
///
/// ```
/// use seaworthy::{Config, keyed::Keyed};
/// let hosts = Keyed::new("shop", Config::default(), 1_000).unwrap();
/// let one = hosts.get("a.example".to_owned()).unwrap();
/// assert_eq!(one.name(), "shop/a.example");
/// ```
#[derive(Debug)]
pub struct Keyed<K> {
    name: String,
    config: Config,
    most: usize,
    kept: Mutex<Kept<K>>,
}

#[derive(Debug)]
struct Kept<K> {
    by_key: HashMap<K, (Pipeline, u64)>,
    /// Counts the uses, so that the least recent can be told.
    uses: u64,
}

/// Every key that is kept is in use, or has a policy that keeps calls away, so none may be forgotten for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Crowded {
    /// How many keys are kept.
    pub most: usize,
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} keys are in use or have policies that keep calls away; allow more keys", self.most)
    }
}

impl std::error::Error for Crowded {}

impl<K: Eq + Hash + Clone + fmt::Display> Keyed<K> {
    /// Pipelines with the numbers of `config`, for at most `most` keys at a time.
    ///
    /// # Errors
    /// Everything that is wrong with `config`, at once.
    pub fn new(name: &str, config: Config, most: usize) -> Result<Self, Vec<Fault>> {
        Pipeline::with(name, config)?;
        let kept = Mutex::new(Kept { by_key: HashMap::new(), uses: 0 });
        Ok(Self { name: name.into(), config, most: most.max(1), kept })
    }

    /// The pipeline of `key`, made if there is none yet.
    ///
    /// # Errors
    /// [`Crowded`], if there is no room for another key.
    ///
    /// # Panics
    /// Never: the numbers were checked when this was made.
    pub fn get(&self, key: K) -> Result<Pipeline, Crowded> {
        let mut kept = self.locked();
        kept.uses += 1;
        let uses = kept.uses;
        if let Some((pipeline, used)) = kept.by_key.get_mut(&key) {
            *used = uses;
            return Ok(pipeline.clone());
        }
        if kept.by_key.len() >= self.most {
            kept.make_room().ok_or(Crowded { most: self.most })?;
        }
        let config = Config { seed: self.config.seed ^ uses, ..self.config };
        match Pipeline::with(&format!("{}/{key}", self.name), config) {
            Ok(pipeline) => {
                kept.by_key.insert(key, (pipeline.clone(), uses));
                Ok(pipeline)
            }
            Err(faults) => unreachable!("the numbers were checked before: {faults:?}"),
        }
    }

    /// The keys that are kept and their pipelines, the most recently used first: for their snapshots, and to steer them. Looking
    /// is no use; but as long as a pipeline is held, it is not forgotten.
    #[must_use]
    pub fn kept(&self) -> Vec<(K, Pipeline)> {
        let kept = self.locked();
        let mut all: Vec<_> =
            kept.by_key.iter().map(|(key, (p, used))| (*used, key.clone(), p.clone())).collect();
        drop(kept);
        all.sort_unstable_by_key(|(used, ..)| std::cmp::Reverse(*used));
        all.into_iter().map(|(_, key, pipeline)| (key, pipeline)).collect()
    }

    /// How many keys are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.locked().by_key.len()
    }

    /// Whether no key is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn locked(&self) -> MutexGuard<'_, Kept<K>> {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Kept<K> {
    /// Forgets a sixteenth of the keys, so that a stream of new keys does not search them all each time. `None` if none may
    /// be forgotten.
    fn make_room(&mut self) -> Option<()> {
        let rank =
            |(key, (pipeline, used)): (&K, &(Pipeline, u64))| Some((loss(pipeline)?, *used, key.clone()));
        let mut old: Vec<(Loss, u64, K)> = self.by_key.iter().filter_map(rank).collect();
        old.sort_unstable_by_key(|(loss, used, _)| (*loss, *used));
        let enough = (self.by_key.len() / 16).max(1);
        old.iter().take(enough).for_each(|(.., key)| drop(self.by_key.remove(key)));
        (!old.is_empty()).then_some(())
    }
}

/// What is lost with a pipeline, the least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    /// What was learned, and will be learned again.
    Knowledge,
    /// That its breaker would have let probes through before all others.
    Caution,
}

/// What would be lost with `pipeline`; `None` if it must not be.
fn loss(pipeline: &Pipeline) -> Option<Loss> {
    if pipeline.is_held() {
        return None;
    }
    let Snapshot { breaker, throttle, rate, .. } = pipeline.snapshot();
    // The shares are those of when it was last asked; the window goes on.
    let throttles = throttle.shares.iter().any(|share| *share > 0.0)
        && throttle.seen.iter().any(|counts| counts.refused > 0);
    let over = rate.is_some_and(|rate| rate.over > 0);
    match breaker.state {
        _ if breaker.forced.is_some() || throttles || over => None,
        State::Closed => Some(Loss::Knowledge),
        State::Open if breaker.wait.is_some_and(|wait| wait.is_zero()) => Some(Loss::Caution),
        // Nobody holds the pipeline, so no probe is out.
        State::HalfOpen => Some(Loss::Caution),
        State::Open | State::Ramping => None,
    }
}
