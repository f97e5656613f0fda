//! A pipeline for each key: each host, each tenant, each shard has policies of its own.
//!
//! The number of keys is bounded, because keys come from outside. When it is reached, the one that was used least recently
//! makes room, but never one whose breaker is not closed, whose state would be forgotten just when it matters.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Mutex;

use seaworthy_core::Fault;
use seaworthy_core::gate::breaker::State;

use crate::pipeline::{Config, Pipeline};

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

/// Every key that is kept has a breaker that is not closed, so none may be forgotten for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Crowded {
    /// How many keys are kept.
    pub most: usize,
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} keys have breakers that are not closed; allow more keys", self.most)
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
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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

    /// How many keys are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).by_key.len()
    }

    /// Whether no key is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash + Clone> Kept<K> {
    /// Forgets a sixteenth of the keys, the least recently used, so that a stream of new keys does not search them all
    /// each time. `None` if none may be forgotten.
    fn make_room(&mut self) -> Option<()> {
        let forgettable = |pipeline: &Pipeline| pipeline.snapshot().breaker.state == State::Closed;
        let mut old: Vec<(u64, K)> = self
            .by_key
            .iter()
            .filter(|(_, (pipeline, _))| forgettable(pipeline))
            .map(|(key, (_, used))| (*used, key.clone()))
            .collect();
        old.sort_unstable_by_key(|(used, _)| *used);
        let enough = (self.by_key.len() / 16).max(1);
        old.iter().take(enough).for_each(|(_, key)| drop(self.by_key.remove(key)));
        (!old.is_empty()).then_some(())
    }
}
