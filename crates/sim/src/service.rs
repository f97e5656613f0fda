//! The service that is called: its instances, their servers and queues, and what goes wrong with them.

use std::collections::VecDeque;
use std::time::Duration;

use seaworthy_core::gate::limit::{self, Permit};
use seaworthy_core::gate::queue::{self, Asking};
use seaworthy_core::{Failure, Instant, Outcome, Rejection, Rng as _, Seeded, Valid};

use crate::door::{Asked, Door};
use crate::spread::{Spread, seconds_of};

/// A service.
#[derive(Clone, PartialEq, Debug)]
pub struct Service {
    /// Its instances, counted from 1 through all groups. What follows is each instance's own.
    pub groups: Vec<Group>,
    /// How many requests it works on at once; the others wait in arrival order. `None`: all of them.
    pub servers: Option<u32>,
    /// How many may wait; a request that finds the queue full is answered at once that the service is overloaded. `None`:
    /// any number. Without effect behind a `guard`.
    pub queue: Option<u32>,
    /// What stands before it and decides who comes in, if anything does.
    pub guard: Option<Guard>,
    /// How long it takes a server to refuse a request, as a share of what it takes to serve one; 0 if nothing.
    pub refusal: f64,
    /// How long the work on a request takes.
    pub latency: Spread,
    /// The share of requests that are answered with an error, 0 to 1.
    pub failures: f64,
    /// Whether a request that its caller gave up while it waited is dropped when its turn comes, instead of worked on.
    pub drops_cancelled: bool,
    /// What changes, and when.
    pub changes: Vec<Change>,
}

/// A limit and a queue before an instance's servers: as with a proxy on its own machine.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Guard {
    /// How many requests are let in at once.
    pub limit: Valid<limit::Config>,
    /// Which of them wait.
    pub queue: Valid<queue::Config>,
    /// How long before its caller gives up a request must begin for that to be worth while.
    pub takes: Duration,
}

impl Default for Service {
    /// One instance that answers at once, whatever it is asked.
    fn default() -> Self {
        Self {
            groups: vec![Group::default()],
            servers: None,
            queue: None,
            guard: None,
            refusal: 0.0,
            latency: Spread::Constant(Duration::ZERO),
            failures: 0.0,
            drops_cancelled: false,
            changes: Vec::new(),
        }
    }
}

impl Service {
    /// How many instances it has.
    #[must_use]
    pub fn instances(&self) -> u32 {
        self.groups.iter().fold(0, |sum: u32, group| sum.saturating_add(group.instances))
    }

    /// The group of every instance, in order.
    pub(crate) fn groups_of_instances(&self) -> impl Iterator<Item = (usize, &Group)> {
        let groups = self.groups.iter().enumerate();
        groups.flat_map(|(n, group)| std::iter::repeat_n((n, group), group.instances as usize))
    }
}

/// Instances at the same place.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// The region that they are in; empty if unknown.
    pub region: String,
    /// The zone that they are in; empty if unknown.
    pub zone: String,
    /// How many they are.
    pub instances: u32,
    /// How much of the calls each should get, relative to the others.
    pub weight: u32,
    /// How near they are to the clients: 0 in the same zone, 1 in the same region, 2 elsewhere.
    pub tier: u8,
    /// What the way there and back adds to every answer.
    pub distance: Duration,
}

impl Default for Group {
    /// One instance beside the clients.
    fn default() -> Self {
        let distance = Duration::ZERO;
        Self { region: String::new(), zone: String::new(), instances: 1, weight: 1, tier: 0, distance }
    }
}

/// Something that is different for a while.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// For whom.
    pub aim: Aim,
    /// From when on.
    pub at: Duration,
    /// For how long; `None`: until the end.
    pub lasts: Option<Duration>,
    /// Times the latency.
    pub slower: f64,
    /// On top of the latency.
    pub extra: Duration,
    /// The share of requests that fail, instead of the usual.
    pub failures: Option<f64>,
    /// Whether no work is begun. What was begun before is finished.
    pub paused: bool,
    /// Whether nothing comes through, neither requests nor answers, and nobody says so: as an interface that is down.
    pub gone: bool,
}

/// Which instances a change is about: those that fit everything it says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Aim {
    /// By number, from 1; empty: any.
    pub instances: Vec<u32>,
    /// By region; `None`: any.
    pub region: Option<String>,
    /// By zone; `None`: any.
    pub zone: Option<String>,
}

impl Aim {
    pub(crate) fn hits(&self, number: u32, group: &Group) -> bool {
        let is = |wanted: &Option<String>, its: &str| wanted.as_ref().is_none_or(|wanted| wanted == its);
        (self.instances.is_empty() || self.instances.contains(&number))
            && is(&self.region, &group.region)
            && is(&self.zone, &group.zone)
    }
}

impl Default for Change {
    fn default() -> Self {
        Self {
            aim: Aim::default(),
            at: Duration::ZERO,
            lasts: None,
            slower: 1.0,
            extra: Duration::ZERO,
            failures: None,
            paused: false,
            gone: false,
        }
    }
}

impl Change {
    /// When it is over; `None`: never.
    #[must_use]
    pub fn end(&self) -> Option<Duration> {
        self.lasts.map(|lasts| self.at.saturating_add(lasts))
    }

    fn holds(&self, now: Instant) -> bool {
        let after = now.since(Instant::ZERO);
        after >= self.at && self.end().is_none_or(|end| after < end)
    }
}

/// An instance at work on requests that the world knows as `J`.
#[derive(Debug)]
pub(crate) struct Work<'a, J> {
    service: &'a Service,
    /// The changes that are about it.
    changes: Vec<&'a Change>,
    /// What the way there and back adds to every answer.
    pub(crate) distance: Duration,
    door: Option<Door<J>>,
    /// What was let in through the door, and when.
    inside: Vec<(J, Permit, Instant)>,
    busy: u32,
    waiting: VecDeque<J>,
    /// What servers have yet to spend on refusals.
    owed: Duration,
    latencies: Seeded,
    failures: Seeded,
}

/// What becomes of a request that arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival<J> {
    /// It is worked on until then.
    Begun(Instant),
    /// It waits for a server.
    Waits,
    /// It waits at the door until then, at the longest. Another may have lost its place to it.
    WaitsUntil(Instant, Option<(J, Rejection)>),
    /// There is no room, and the door may have said so.
    Refused(Option<Rejection>),
}

impl<'a, J: Copy + PartialEq> Work<'a, J> {
    /// The instance with this number, which is one of `group`.
    pub(crate) fn new(service: &'a Service, number: u32, group: &Group, seeds: &mut Seeded) -> Self {
        Self {
            service,
            changes: service.changes.iter().filter(|change| change.aim.hits(number, group)).collect(),
            distance: group.distance,
            door: service.guard.map(|guard| Door::new(guard.limit, guard.queue)),
            inside: Vec::new(),
            busy: 0,
            waiting: VecDeque::new(),
            owed: Duration::ZERO,
            latencies: Seeded::new(seeds.next_u64()),
            failures: Seeded::new(seeds.next_u64()),
        }
    }

    /// Whether nothing comes through to it or from it.
    pub(crate) fn is_gone(&self, now: Instant) -> bool {
        self.changes(now).any(|change| change.gone)
    }

    /// A request arrives; the deadline that it asks with is when its caller gives up.
    pub(crate) fn arrive(&mut self, now: Instant, job: J, mut asking: Asking) -> Arrival<J> {
        if let Some((door, guard)) = self.door.as_mut().zip(self.service.guard) {
            asking.deadline = asking.deadline.map(|deadline| deadline.minus(guard.takes));
            match door.ask(now, || asking, job) {
                Asked::In(permit) => self.inside.push((job, permit, now)),
                Asked::Waits(until, displaced) => {
                    displaced.iter().for_each(|_| self.refuse());
                    return Arrival::WaitsUntil(until, displaced);
                }
                Asked::Refused(rejection) => {
                    self.refuse();
                    return Arrival::Refused(Some(rejection));
                }
            }
        }
        if self.waiting.is_empty() && self.can_begin(now) {
            return Arrival::Begun(self.begin(now));
        }
        let bound = if self.door.is_some() { None } else { self.service.queue };
        if bound.is_some_and(|most| self.waiting.len() >= most as usize) {
            self.refuse();
            return Arrival::Refused(None);
        }
        self.waiting.push_back(job);
        Arrival::Waits
    }

    /// A request was finished: whether with success.
    pub(crate) fn finish(&mut self, now: Instant, job: J) -> bool {
        self.busy = self.busy.saturating_sub(1);
        let changed = self.changes(now).filter_map(|change| change.failures).last();
        let good = self.failures.unit() >= changed.unwrap_or(self.service.failures);
        self.leave(now, job, if good { Outcome::Success } else { Outcome::failed(Failure::Error) });
        good
    }

    /// The next request that can be begun, and until when it is worked on. `wanted` tells whether its caller still waits.
    pub(crate) fn next(&mut self, now: Instant, wanted: impl Fn(J) -> bool) -> Option<(J, Instant)> {
        while self.can_begin(now) {
            while let Some((job, permit)) = self.door.as_mut().and_then(|door| door.next(now)) {
                self.inside.push((job, permit, now));
                self.waiting.push_back(job);
            }
            let job = self.waiting.pop_front()?;
            if !self.service.drops_cancelled || wanted(job) {
                return Some((job, self.begin(now)));
            }
            self.leave(now, job, Outcome::Abandoned);
        }
        None
    }

    /// A request that waited at the door in vain, and is told so now.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<(J, Rejection)> {
        let expired = self.door.as_mut()?.expired(now)?;
        self.refuse();
        Some(expired)
    }

    fn leave(&mut self, now: Instant, job: J, outcome: Outcome) {
        let Some(door) = &mut self.door else { return };
        let place = self.inside.iter().position(|(one, ..)| *one == job);
        if let Some((_, permit, since)) = place.map(|place| self.inside.swap_remove(place)) {
            door.settle(now, permit, outcome, now.since(since));
        }
    }

    fn refuse(&mut self) {
        if self.service.refusal > 0.0 {
            let seconds = self.service.latency.typical().as_secs_f64() * self.service.refusal;
            self.owed = self.owed.saturating_add(seconds_of(seconds));
        }
    }

    fn can_begin(&self, now: Instant) -> bool {
        self.service.servers.is_none_or(|servers| self.busy < servers) && !self.changes(now).any(|c| c.paused)
    }

    fn begin(&mut self, now: Instant) -> Instant {
        self.busy = self.busy.saturating_add(1);
        let mut latency = self.service.latency.draw(&mut self.latencies);
        for change in self.changes(now) {
            latency = seconds_of(latency.as_secs_f64() * change.slower).saturating_add(change.extra);
        }
        now.plus(latency).plus(std::mem::take(&mut self.owed))
    }

    fn changes(&self, now: Instant) -> impl Iterator<Item = &'a Change> {
        self.changes.iter().copied().filter(move |change| change.holds(now))
    }
}

#[cfg(test)]
mod tests {
    use seaworthy_core::Criticality;

    use super::*;

    fn service(changes: Vec<Change>) -> Service {
        Service {
            servers: Some(1),
            queue: Some(1),
            latency: Spread::Constant(Duration::from_millis(10)),
            drops_cancelled: true,
            changes,
            ..Service::default()
        }
    }

    const ASKING: Asking = Asking { criticality: Criticality::Critical, client: 0, deadline: None };

    fn work<J: Copy + PartialEq>(service: &Service) -> Work<'_, J> {
        Work::new(service, 1, &service.groups[0], &mut Seeded::new(1))
    }

    #[test]
    fn one_is_worked_on_one_waits_and_the_third_is_refused() {
        let service = service(Vec::new());
        let mut work = work(&service);
        let now = Instant::ZERO;
        assert_eq!(work.arrive(now, 'a', ASKING), Arrival::Begun(Instant::from_millis(10)));
        assert_eq!(work.arrive(now, 'b', ASKING), Arrival::Waits);
        assert_eq!(work.arrive(now, 'c', ASKING), Arrival::Refused(None));
        assert!(work.next(now, |_| true).is_none());
        let now = Instant::from_millis(10);
        assert!(work.finish(now, 'a'));
        assert_eq!(work.next(now, |_| true), Some(('b', Instant::from_millis(20))));
    }

    #[test]
    fn what_nobody_waits_for_is_dropped_in_its_turn() {
        let service = service(Vec::new());
        let mut work = work(&service);
        work.arrive(Instant::ZERO, 'a', ASKING);
        work.arrive(Instant::ZERO, 'b', ASKING);
        work.finish(Instant::ZERO, 'a');
        assert_eq!(work.next(Instant::ZERO, |_| false), None);
    }

    #[test]
    fn a_change_holds_from_its_first_moment_until_its_end() {
        let change = Change {
            at: Duration::from_millis(5),
            lasts: Some(Duration::from_millis(5)),
            slower: 3.0,
            extra: Duration::from_millis(1),
            failures: Some(1.0),
            ..Change::default()
        };
        let service = Service { servers: None, ..service(vec![change]) };
        let mut work = work(&service);
        let ends: Vec<_> = [4, 5, 9, 10].map(|ms| work.arrive(Instant::from_millis(ms), (), ASKING)).into();
        assert_eq!(ends, [14, 36, 40, 20].map(|ms| Arrival::Begun(Instant::from_millis(ms))));
        assert!(work.finish(Instant::from_millis(4), ()));
        assert!(!work.finish(Instant::from_millis(9), ()));
    }

    #[test]
    fn a_pause_begins_nothing() {
        let pause = Change { lasts: Some(Duration::from_millis(5)), paused: true, ..Change::default() };
        let service = service(vec![pause]);
        let mut work = work(&service);
        assert_eq!(work.arrive(Instant::ZERO, (), ASKING), Arrival::Waits);
        assert_eq!(work.next(Instant::from_millis(4), |()| true), None);
        assert!(work.next(Instant::from_millis(5), |()| true).is_some());
    }

    #[test]
    fn a_change_is_about_those_that_fit_all_it_says() {
        let group = Group { region: "near".into(), zone: "a".into(), ..Group::default() };
        let aim = |instances: &[u32], region: Option<&str>, zone: Option<&str>| Aim {
            instances: instances.into(),
            region: region.map(str::to_owned),
            zone: zone.map(str::to_owned),
        };
        assert!(Aim::default().hits(7, &group));
        assert!(aim(&[3, 7], Some("near"), Some("a")).hits(7, &group));
        for other in [aim(&[3], None, None), aim(&[7], Some("far"), None), aim(&[7], None, Some("b"))] {
            assert!(!other.hits(7, &group), "{other:?}");
        }
    }

    #[test]
    fn what_is_gone_is_back_at_its_end() {
        let gone = Change { lasts: Some(Duration::from_millis(5)), gone: true, ..Change::default() };
        let service = service(vec![gone]);
        let work: Work<'_, ()> = work(&service);
        assert_eq!([0, 4, 5].map(|ms| work.is_gone(Instant::from_millis(ms))), [true, true, false]);
    }
}
