//! What goes wrong when: the failures of a demo, from its length and its seed.

use std::fmt;
use std::time::Duration;

use seaworthy_core::{Rng, Seeded};

use super::children::{FAIL_SHARE, INSTANCES, RECOMMENDATIONS, SERVICES, SLOW_TIMES};

/// A kind of failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// One instance killed with SIGKILL.
    Killed,
    /// One instance stopped with SIGSTOP: it accepts connections and never answers.
    Frozen,
    /// One instance far slower than usual.
    Slow,
    /// One instance failing a share of its calls.
    Failing,
    /// All instances of a service killed at once.
    Gone,
}

impl Fault {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Frozen => "frozen",
            Self::Slow => "slow",
            Self::Failing => "failing",
            Self::Gone => "gone",
        }
    }

    /// What is done, and how it ends.
    pub(super) fn how(self) -> String {
        match self {
            Self::Killed => "SIGKILL, then restarted on the same port".to_owned(),
            Self::Frozen => "SIGSTOP, then SIGCONT".to_owned(),
            Self::Slow => format!("service times multiplied by {SLOW_TIMES}"),
            Self::Failing => format!("{:.0} % of its answers are errors", FAIL_SHARE * 100.0),
            Self::Gone => "SIGKILL to all instances, then restarted on the same ports".to_owned(),
        }
    }
}

/// Whom a failure hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target {
    /// Which of [`SERVICES`].
    pub(super) service: usize,
    /// Which instance, from 1; `None` for all of them.
    pub(super) instance: Option<usize>,
}

impl Target {
    /// The shortest name, for a column: `catalog/2`, or the service's name alone for all of it.
    pub(super) fn short(self) -> String {
        match self.instance {
            Some(_) => self.to_string(),
            None => SERVICES.get(self.service).unwrap_or(&"?").to_string(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = SERVICES.get(self.service).unwrap_or(&"?");
        match self.instance {
            Some(number) => write!(f, "{name}/{number}"),
            None => write!(f, "all of {name}"),
        }
    }
}

/// A part of the demo in which one thing is wrong, or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Phase {
    /// Measured from the start of the traffic.
    pub(super) from: Duration,
    pub(super) until: Duration,
    /// What goes wrong at its start and is put right at its end.
    pub(super) failure: Option<(Fault, Target)>,
    name: &'static str,
}

impl Phase {
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }
}

/// The phases of a demo of length `total`, one after the other without gaps.
///
/// The seed says which instance is hit. Each of the four services is hit once by one of the four lesser failures, so
/// that what one phase has taught the breakers does not decide the next; then recommendations disappear altogether.
pub(super) fn phases(total: Duration, seed: u64) -> Vec<Phase> {
    let mut rng = Seeded::new(seed);
    let mut services = shuffled(&mut rng);
    // Not twice in a row the same service: see above.
    if services[3] == RECOMMENDATIONS {
        services.swap(usize::try_from(rng.below(3)).unwrap_or(0), 3);
    }
    let mut hit = services.into_iter();
    let mut at = Duration::ZERO;
    let mut phases = Vec::with_capacity(PLAN.len());
    for (name, fault, share) in PLAN {
        let until = at + total * share / PLAN.iter().map(|(_, _, share)| share).sum();
        let failure = fault.map(|fault| {
            let target = match fault {
                Fault::Gone => Target { service: RECOMMENDATIONS, instance: None },
                _ => Target {
                    service: hit.next().unwrap_or(0),
                    instance: Some(1 + usize::try_from(rng.below(INSTANCES as u64)).unwrap_or(0)),
                },
            };
            (fault, target)
        });
        phases.push(Phase { from: at, until, failure, name });
        at = until;
    }
    phases
}

fn shuffled(rng: &mut Seeded) -> [usize; SERVICES.len()] {
    let mut order = [0, 1, 2, 3];
    for last in (1..order.len()).rev() {
        order.swap(last, usize::try_from(rng.below(last as u64 + 1)).unwrap_or(0));
    }
    order
}

/// Name, failure, share of the time. In the default half minute these are seconds: long enough that a breaker opens and
/// is seen to hold, and that more than a client's timeout passes while an instance is frozen.
const PLAN: [(&str, Option<Fault>, u32); 7] = [
    ("healthy", None, 3),
    ("one killed", Some(Fault::Killed), 5),
    ("one frozen", Some(Fault::Frozen), 5),
    ("one slow", Some(Fault::Slow), 5),
    ("one failing", Some(Fault::Failing), 5),
    ("service gone", Some(Fault::Gone), 4),
    ("recovered", None, 3),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_and_fill_the_time() {
        let phases = phases(Duration::from_secs(30), 1);
        assert_eq!(phases[0].from, Duration::ZERO);
        for pair in phases.windows(2) {
            assert_eq!(pair[0].until, pair[1].from);
        }
        assert_eq!(phases[phases.len() - 1].until, Duration::from_secs(30));
    }

    #[test]
    fn every_seed_hits_every_service_once_and_none_twice_in_a_row() {
        for seed in 0..200 {
            let targets: Vec<Target> = phases(Duration::from_secs(10), seed)
                .iter()
                .filter_map(|p| p.failure)
                .map(|(_, t)| t)
                .collect();
            let mut services: Vec<usize> = targets[..4].iter().map(|target| target.service).collect();
            assert_ne!(services[3], targets[4].service, "seed {seed}");
            services.sort_unstable();
            assert_eq!(services, [0, 1, 2, 3], "seed {seed}");
            assert!(targets[..4].iter().all(|t| t.instance.is_some_and(|n| (1..=INSTANCES).contains(&n))));
        }
    }

    #[test]
    fn the_seed_decides() {
        let twenty = Duration::from_secs(20);
        assert_eq!(phases(twenty, 5), phases(twenty, 5));
        assert!((0..20).any(|seed| phases(twenty, seed) != phases(twenty, 5)));
    }
}
