//! What the clients asked for, and what they were told.

use std::collections::{BTreeMap, HashSet};

use crate::told::Says;
use crate::upstream::{Kind, Operation};

/// Of all clients together.
#[derive(Default)]
pub(crate) struct Known {
    /// Every operation that was drawn, in order.
    pub(crate) drawn: Vec<Operation>,
    asked: HashSet<Operation>,
    /// Those of which a result was acknowledged that is kept.
    acknowledged: HashSet<Operation>,
    /// Those whose first result came so late that it may not have been kept.
    late: HashSet<Operation>,
    /// Those whose result somebody was told as the first, and not as a replay.
    carried_out: HashSet<Operation>,
    requests: Vec<Sent>,
    statuses: BTreeMap<String, u64>,
    /// What those were told, by kind, who asked for something that the service was working on.
    meanwhile: BTreeMap<Kind, Meanwhile>,
}

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sent {
    /// To which life of the proxy.
    pub(crate) life: u32,
    /// Nobody had asked for its operation: the proxy can't answer it without carrying it out.
    pub(crate) first: bool,
    pub(crate) end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    None,
    /// It did not come, or not whole.
    Broken,
    Told(Says),
}

#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Meanwhile {
    pub(crate) busy: u32,
    pub(crate) replayed: u32,
}

/// The operations of one kind.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counted {
    pub(crate) asked: usize,
    pub(crate) acknowledged: usize,
}

/// What was said of an operation before.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Before {
    Acknowledged,
    AcknowledgedLate,
}

impl Before {
    /// Whether it may be told this now. That the proxy can't look, or had no time to, says nothing.
    pub(crate) const fn allows(self, says: Says) -> bool {
        match says {
            Says::Done { replayed: true } | Says::Failed(503 | 504) => true,
            Says::NotKept => matches!(self, Self::AcknowledgedLate),
            _ => false,
        }
    }
}

impl Known {
    /// What was said of it.
    pub(crate) fn of(&self, operation: &Operation) -> Option<Before> {
        if self.acknowledged.contains(operation) {
            Some(Before::Acknowledged)
        } else {
            self.late.contains(operation).then_some(Before::AcknowledgedLate)
        }
    }

    /// Notes what was said. Whether it is the second that was carried out, and not replayed.
    pub(crate) fn learn(&mut self, operation: &Operation, says: Says, late: bool, meanwhile: bool) -> bool {
        *self.statuses.entry(format!("{says:?}")).or_default() += 1;
        if meanwhile {
            let counted = self.meanwhile.entry(operation.0).or_default();
            counted.busy += u32::from(says == Says::Busy);
            counted.replayed += u32::from(says.is_replay());
        }
        if !says.is_done() {
            return false;
        }
        let known = if late && !says.is_replay() { &mut self.late } else { &mut self.acknowledged };
        known.insert(operation.clone());
        !says.is_replay() && !self.carried_out.insert(operation.clone())
    }

    /// Notes that it is asked for; the number of the request.
    pub(crate) fn send(&mut self, operation: &Operation, life: u32) -> usize {
        let first = self.asked.insert(operation.clone());
        self.requests.push(Sent { life, first, end: End::None });
        self.requests.len() - 1
    }

    /// Notes what became of a request.
    pub(crate) fn ends(&mut self, number: usize, end: End) {
        self.requests[number].end = end;
    }

    /// Every operation that was asked for.
    pub(crate) fn asked(&self) -> Vec<Operation> {
        self.drawn.iter().filter(|operation| self.asked.contains(*operation)).cloned().collect()
    }

    pub(crate) fn counted(&self, kind: Kind) -> Counted {
        let of = |operations: &HashSet<Operation>| operations.iter().filter(|of| of.0 == kind).count();
        Counted { asked: of(&self.asked), acknowledged: of(&self.acknowledged) }
    }

    /// How often each answer was given.
    pub(crate) fn statuses(&self) -> String {
        format!("{:?}", self.statuses)
    }

    pub(crate) fn meanwhile(&self, kind: Kind) -> Meanwhile {
        self.meanwhile.get(&kind).copied().unwrap_or_default()
    }

    /// The number of requests as yet.
    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// What became of the requests that have these numbers.
    pub(crate) fn became(&self, numbers: &[usize]) -> Vec<Sent> {
        numbers.iter().map(|number| self.requests[*number]).collect()
    }

    /// The requests that wait for an answer of one of these lives.
    pub(crate) fn awaiting(&self, lives: &[u32]) -> Vec<usize> {
        let awaits = |sent: &Sent| sent.end == End::None && lives.contains(&sent.life);
        self.requests.iter().enumerate().filter(|(_, sent)| awaits(sent)).map(|(number, _)| number).collect()
    }

    /// Whether this life has carried something out, and kept it, that was asked for after so many requests.
    pub(crate) fn is_served_by(&self, life: u32, since: usize) -> bool {
        let served = Sent { life, first: true, end: End::Told(Says::Done { replayed: false }) };
        self.requests[since..].contains(&served)
    }
}
