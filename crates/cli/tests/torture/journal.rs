//! What happened to each operation, in order, and what should not have.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::upstream::Operation;

/// Written by everybody.
pub(crate) struct Journal {
    begun: Instant,
    events: Mutex<Vec<Event>>,
    violations: Mutex<Vec<(Operation, String)>>,
}

struct Event {
    at: Duration,
    /// Of one operation, or of all.
    of: Option<Operation>,
    what: String,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), events: Mutex::default(), violations: Mutex::default() }
    }

    /// Something that happened to one operation.
    pub(crate) fn note(&self, of: &Operation, what: String) {
        self.write(Some(of.clone()), what);
    }

    /// Something that may concern all.
    pub(crate) fn note_for_all(&self, what: String) {
        self.write(None, what);
    }

    /// Something that must not happen to an operation.
    pub(crate) fn violation(&self, of: &Operation, what: impl Display) {
        self.note(of, format!("VIOLATION: {what}"));
        self.violations.lock().unwrap().push((of.clone(), what.to_string()));
    }

    /// All that must not happen and did: each of the first few with the history of its operation.
    pub(crate) fn violations(&self) -> Option<String> {
        let violations = self.violations.lock().unwrap();
        let mut shown = HashSet::new();
        let of_each = violations.iter().filter(|(operation, _)| shown.insert(operation));
        let first = of_each.take(MOST_SHOWN).map(|(operation, what)| {
            format!("{operation:?} {what}; its history:\n{}", self.history(operation))
        });
        let shown = first.collect::<Vec<_>>().join("\n");
        (!violations.is_empty())
            .then(|| format!("{} violations, of which the first:\n{shown}", violations.len()))
    }

    /// What happened to it, and meanwhile to all.
    fn history(&self, operation: &Operation) -> String {
        let events = self.events.lock().unwrap();
        let its_own = |event: &Event| event.of.as_ref() == Some(operation);
        let first = events.iter().position(its_own).unwrap_or(0);
        let last = events.iter().rposition(its_own).unwrap_or(0);
        let its =
            events.iter().take(last + 1).skip(first).filter(|event| event.of.is_none() || its_own(event));
        let mut lines: Vec<String> =
            its.map(|event| format!("  {:>8.3} s  {}", event.at.as_secs_f64(), event.what)).collect();
        if lines.len() > LONGEST {
            let left_out = format!("  .. {} more ..", lines.len() - LONGEST);
            lines.splice(LONGEST / 2..lines.len() - LONGEST / 2, [left_out]);
        }
        lines.join("\n")
    }

    fn write(&self, of: Option<Operation>, what: String) {
        // Under the lock, so that the times are in order.
        let mut events = self.events.lock().unwrap();
        events.push(Event { at: self.begun.elapsed(), of, what });
    }
}

/// More would not be read.
const MOST_SHOWN: usize = 3;
/// The lines of a history; what is left out is in its middle, where a key that was asked for a thousand times is replayed.
const LONGEST: usize = 60;
