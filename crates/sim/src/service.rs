//! The service that is called: its instances, their servers and queues, and what goes wrong with them.

use std::collections::VecDeque;
use std::time::Duration;

use seaworthy_core::{Instant, Rng as _, Seeded};

use crate::spread::{Spread, seconds_of};

/// A service.
#[derive(Clone, PartialEq, Debug)]
pub struct Service {
    /// Its instances, counted from 1 through all groups. What follows is each instance's own.
    pub groups: Vec<Group>,
    /// How many requests it works on at once; the others wait in arrival order. `None`: all of them.
    pub servers: Option<u32>,
    /// How many may wait; a request that finds the queue full is answered at once that the service is overloaded. `None`:
    /// any number.
    pub queue: Option<u32>,
    /// How long the work on a request takes.
    pub latency: Spread,
    /// The share of requests that are answered with an error, 0 to 1.
    pub failures: f64,
    /// Whether a request that its caller gave up while it waited is dropped when its turn comes, instead of worked on.
    pub drops_cancelled: bool,
    /// What changes, and when.
    pub changes: Vec<Change>,
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
#[derive(Clone, Debug)]
pub(crate) struct Work<'a, J> {
    service: &'a Service,
    /// The changes that are about it.
    changes: Vec<&'a Change>,
    /// What the way there and back adds to every answer.
    pub(crate) distance: Duration,
    busy: u32,
    waiting: VecDeque<J>,
    latencies: Seeded,
    failures: Seeded,
}

/// What becomes of a request that arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// It is worked on until then.
    Begun(Instant),
    /// It waits.
    Waits,
    /// The queue is full.
    Refused,
}

impl<'a, J: Copy> Work<'a, J> {
    /// The instance with this number, which is one of `group`.
    pub(crate) fn new(service: &'a Service, number: u32, group: &Group, seeds: &mut Seeded) -> Self {
        Self {
            service,
            changes: service.changes.iter().filter(|change| change.aim.hits(number, group)).collect(),
            distance: group.distance,
            busy: 0,
            waiting: VecDeque::new(),
            latencies: Seeded::new(seeds.next_u64()),
            failures: Seeded::new(seeds.next_u64()),
        }
    }

    /// Whether nothing comes through to it or from it.
    pub(crate) fn is_gone(&self, now: Instant) -> bool {
        self.changes(now).any(|change| change.gone)
    }

    pub(crate) fn arrive(&mut self, now: Instant, job: J) -> Arrival {
        if self.waiting.is_empty() && self.can_begin(now) {
            return Arrival::Begun(self.begin(now));
        }
        if self.service.queue.is_some_and(|most| self.waiting.len() >= most as usize) {
            return Arrival::Refused;
        }
        self.waiting.push_back(job);
        Arrival::Waits
    }

    /// A request was finished: whether with success.
    pub(crate) fn finish(&mut self, now: Instant) -> bool {
        self.busy = self.busy.saturating_sub(1);
        let changed = self.changes(now).filter_map(|change| change.failures).last();
        self.failures.unit() >= changed.unwrap_or(self.service.failures)
    }

    /// The next request that can be begun, and until when it is worked on. `wanted` tells whether its caller still waits.
    pub(crate) fn next(&mut self, now: Instant, wanted: impl Fn(J) -> bool) -> Option<(J, Instant)> {
        while self.can_begin(now) {
            let job = self.waiting.pop_front()?;
            if !self.service.drops_cancelled || wanted(job) {
                return Some((job, self.begin(now)));
            }
        }
        None
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
        now.plus(latency)
    }

    fn changes(&self, now: Instant) -> impl Iterator<Item = &'a Change> {
        self.changes.iter().copied().filter(move |change| change.holds(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(changes: Vec<Change>) -> Service {
        Service {
            groups: vec![Group::default()],
            servers: Some(1),
            queue: Some(1),
            latency: Spread::Constant(Duration::from_millis(10)),
            failures: 0.0,
            drops_cancelled: true,
            changes,
        }
    }

    fn work<J: Copy>(service: &Service) -> Work<'_, J> {
        Work::new(service, 1, &service.groups[0], &mut Seeded::new(1))
    }

    #[test]
    fn one_is_worked_on_one_waits_and_the_third_is_refused() {
        let service = service(Vec::new());
        let mut work = work(&service);
        let now = Instant::ZERO;
        assert_eq!(work.arrive(now, 'a'), Arrival::Begun(Instant::from_millis(10)));
        assert_eq!(work.arrive(now, 'b'), Arrival::Waits);
        assert_eq!(work.arrive(now, 'c'), Arrival::Refused);
        assert!(work.next(now, |_| true).is_none());
        let now = Instant::from_millis(10);
        assert!(work.finish(now));
        assert_eq!(work.next(now, |_| true), Some(('b', Instant::from_millis(20))));
    }

    #[test]
    fn what_nobody_waits_for_is_dropped_in_its_turn() {
        let service = service(Vec::new());
        let mut work = work(&service);
        work.arrive(Instant::ZERO, 'a');
        work.arrive(Instant::ZERO, 'b');
        work.finish(Instant::ZERO);
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
        let ends: Vec<_> = [4, 5, 9, 10].map(|ms| work.arrive(Instant::from_millis(ms), ())).into();
        assert_eq!(ends, [14, 36, 40, 20].map(|ms| Arrival::Begun(Instant::from_millis(ms))));
        assert!(work.finish(Instant::from_millis(4)));
        assert!(!work.finish(Instant::from_millis(9)));
    }

    #[test]
    fn a_pause_begins_nothing() {
        let pause = Change { lasts: Some(Duration::from_millis(5)), paused: true, ..Change::default() };
        let service = service(vec![pause]);
        let mut work = work(&service);
        assert_eq!(work.arrive(Instant::ZERO, ()), Arrival::Waits);
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
