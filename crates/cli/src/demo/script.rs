//! What goes wrong when: the failures of a demo, from its length and its seed.

use std::fmt;
use std::time::Duration;

use seaworthy_core::{Rng, Seeded};

use super::children::{
    FAIL_SHARE, FLAGS, NEAR, NEAR_INSTANCES, PRICES, RECOMMENDATIONS, REGIONS, SERVICES, SLOW_TIMES, name_of,
    region_of,
};

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
    /// All instances of some services killed at once, wherever they are.
    Gone,
    /// All instances in a region stopped at once. As with a region whose network is down, nobody is told: nothing is
    /// refused and nothing is answered. That is harder to cope with than processes that die, whose ports refuse at once.
    Lost,
}

impl Fault {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Frozen => "frozen",
            Self::Slow => "slow",
            Self::Failing => "failing",
            Self::Gone => "gone",
            Self::Lost => "lost",
        }
    }

    /// What is done, and how it ends.
    pub(super) fn how(self) -> String {
        match self {
            Self::Killed => "SIGKILL, then restarted on the same port".to_owned(),
            Self::Frozen => "SIGSTOP, then SIGCONT".to_owned(),
            Self::Slow => format!("service times multiplied by {SLOW_TIMES}"),
            Self::Failing => format!("{:.0} % of its answers are errors", FAIL_SHARE * 100.0),
            Self::Gone => "SIGKILL to all, then restarted on the same ports".to_owned(),
            Self::Lost => "SIGSTOP to all instances: no answers, no refusals; then SIGCONT".to_owned(),
        }
    }
}

/// Whom a failure hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// One instance of a service, from 1.
    Instance(usize, usize),
    /// Services, in every region: those of [`SERVICES`] first.
    Services(&'static [usize]),
    /// A region, of [`REGIONS`], with all that is in it.
    Region(usize),
}

impl Target {
    /// Whether it is instance `number` of `service`, or that is part of it.
    pub(super) fn is_hit(self, service: usize, number: usize) -> bool {
        match self {
            Self::Instance(its, instance) => (its, instance) == (service, number),
            Self::Services(its) => its.contains(&service),
            Self::Region(region) => region_of(number) == region,
        }
    }

    /// Which of [`SERVICES`] are hit.
    pub(super) fn services(self) -> &'static [usize] {
        match self {
            Self::Instance(service, _) => ALL.get(service..=service).unwrap_or_default(),
            Self::Services(its) => &its[..its.partition_point(|&service| service < SERVICES.len())],
            Self::Region(_) => &ALL,
        }
    }

    /// The shortest name, for a column: `catalog/2`, or the service's name alone for all of it.
    pub(super) fn short(self) -> String {
        match self {
            Self::Instance(..) => self.to_string(),
            Self::Services(services) => format!("{} services", services.len()),
            Self::Region(region) => format!("region {}", REGIONS.get(region).unwrap_or(&"?")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Instance(service, number) => write!(f, "{}/{number}", name_of(service)),
            Self::Services(services) => {
                let names: Vec<&str> = services.iter().map(|&service| name_of(service)).collect();
                write!(f, "all of {}", names.join(", "))
            }
            Self::Region(region) => write!(f, "region {}", REGIONS.get(region).unwrap_or(&"?")),
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
/// that what one phase has taught the breakers does not decide the next; then what the shop has a stand-in for disappears
/// altogether; and when it is back, the near region does.
pub(super) fn phases(total: Duration, seed: u64) -> Vec<Phase> {
    let mut rng = Seeded::new(seed);
    let mut services = shuffled(&mut rng);
    // Not twice in a row the same service: see above.
    if GONE.contains(&services[3]) {
        let fit: Vec<usize> = (0..3).filter(|&at| !GONE.contains(&services[at])).collect();
        let chosen = usize::try_from(rng.below(fit.len() as u64)).unwrap_or(0);
        services.swap(fit.get(chosen).copied().unwrap_or(3), 3);
    }
    let mut hit = services.into_iter();
    let mut at = Duration::ZERO;
    let mut phases = Vec::with_capacity(PLAN.len());
    for (name, fault, share) in PLAN {
        let until = at + total * share / PLAN.iter().map(|(_, _, share)| share).sum::<u32>();
        let failure = fault.map(|fault| {
            let target = match fault {
                Fault::Gone => Target::Services(&GONE),
                Fault::Lost => Target::Region(NEAR),
                // A near one, as the far ones are of no use to the plain client.
                _ => Target::Instance(
                    hit.next().unwrap_or(0),
                    1 + usize::try_from(rng.below(NEAR_INSTANCES as u64)).unwrap_or(0),
                ),
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

/// What disappears altogether: each is stood in for in another way.
const GONE: [usize; 3] = [PRICES, RECOMMENDATIONS, FLAGS];
/// All of [`SERVICES`].
pub(super) static ALL: [usize; SERVICES.len()] = [0, 1, 2, 3];

/// Name, failure, share of the time. In the default 36 seconds these are seconds: long enough that a breaker opens and
/// is seen to hold, and that more than a client's timeout passes while an instance is frozen. Between the loss of a service
/// and that of a region is a pause, so that the one does not count to the other; and the return of a region takes time.
const PLAN: [(&str, Option<Fault>, u32); 9] = [
    ("healthy", None, 3),
    ("one killed", Some(Fault::Killed), 4),
    ("one frozen", Some(Fault::Frozen), 4),
    ("one slow", Some(Fault::Slow), 4),
    ("one failing", Some(Fault::Failing), 4),
    ("services gone", Some(Fault::Gone), 4),
    ("recovered", None, 3),
    ("region lost", Some(Fault::Lost), 5),
    ("region back", None, 5),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::children::INSTANCES;

    #[test]
    fn phases_follow_each_other_and_fill_the_time() {
        let phases = phases(Duration::from_secs(36), 1);
        assert_eq!(phases[0].from, Duration::ZERO);
        for pair in phases.windows(2) {
            assert_eq!(pair[0].until, pair[1].from);
        }
        assert_eq!(phases[phases.len() - 1].until, Duration::from_secs(36));
    }

    #[test]
    fn every_seed_hits_every_service_once_and_none_twice_in_a_row() {
        for seed in 0..200 {
            let targets: Vec<Target> = phases(Duration::from_secs(10), seed)
                .iter()
                .filter_map(|p| p.failure)
                .map(|(_, t)| t)
                .collect();
            let mut services: Vec<usize> =
                targets[..4].iter().flat_map(|target| target.services()).copied().collect();
            assert!(!targets[4].services().contains(&services[3]), "seed {seed}");
            services.sort_unstable();
            assert_eq!(services, [0, 1, 2, 3], "seed {seed}");
            let is_near =
                |target: &Target| matches!(target, Target::Instance(_, number) if region_of(*number) == NEAR);
            assert!(targets[..4].iter().all(is_near), "seed {seed}: {targets:?}");
            assert_eq!(targets[4..], [Target::Services(&GONE), Target::Region(NEAR)]);
        }
    }

    #[test]
    fn a_region_is_hit_with_all_that_is_in_it() {
        let hit = |target: Target| {
            let all =
                (0..SERVICES.len()).flat_map(|service| (1..=INSTANCES).map(move |number| (service, number)));
            all.filter(|&(service, number)| target.is_hit(service, number)).count()
        };
        assert_eq!(hit(Target::Region(NEAR)), SERVICES.len() * NEAR_INSTANCES);
        assert_eq!(hit(Target::Services(&GONE)), 2 * INSTANCES);
        assert_eq!(Target::Services(&GONE).services(), [PRICES, RECOMMENDATIONS]);
        assert_eq!(hit(Target::Instance(1, INSTANCES)), 1);
    }

    #[test]
    fn the_seed_decides() {
        let twenty = Duration::from_secs(20);
        assert_eq!(phases(twenty, 5), phases(twenty, 5));
        assert!((0..20).any(|seed| phases(twenty, seed) != phases(twenty, 5)));
    }
}
