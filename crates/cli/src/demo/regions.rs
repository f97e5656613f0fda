//! How the calls through Seaworthy are spread over the regions, lately and over time.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::children::{FAR, NEAR, REGIONS, SERVICES};
use super::script::ALL;

/// Attempts by service and region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Spread {
    attempts: [[u64; REGIONS.len()]; SERVICES.len()],
}

impl Spread {
    /// Adds attempts at an upstream's instances in a region. What the demo does not know is passed over.
    pub(super) fn add(&mut self, upstream: &str, region: &str, attempts: u64) {
        let places = SERVICES.iter().position(|name| *name == upstream);
        let places = places.zip(REGIONS.iter().position(|name| *name == region));
        if let Some((service, region)) = places {
            self.attempts[service][region] += attempts;
        }
    }

    /// What was counted after `before`.
    pub(super) fn since(mut self, before: &Self) -> Self {
        for (mine, theirs) in self.attempts.iter_mut().flatten().zip(before.attempts.iter().flatten()) {
            *mine = mine.saturating_sub(*theirs);
        }
        self
    }

    /// The sum of some services.
    pub(super) fn of(&self, services: &[usize]) -> Regions {
        let count = |region: usize| services.iter().map(|&service| self.attempts[service][region]).sum();
        let (near, far): (u64, u64) = (count(NEAR), count(FAR));
        let far_share = (near + far > 0).then(|| far as f64 / (near + far) as f64);
        Regions { near_attempts: near, far_attempts: far, far_share }
    }
}

/// How many attempts went to each region.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(super) struct Regions {
    pub(super) near_attempts: u64,
    pub(super) far_attempts: u64,
    /// From 0 to 1; `null` without attempts.
    pub(super) far_share: Option<f64>,
}

/// The last few readings.
#[derive(Default)]
pub(super) struct Recent {
    readings: VecDeque<(Instant, Spread)>,
}

impl Recent {
    /// Takes a reading, and tells what was counted in the `window` before it.
    pub(super) fn note(&mut self, now: Instant, spread: Spread, window: Duration) -> Spread {
        self.readings.push_back((now, spread));
        // The oldest that is left is the one before the window, which is what the difference is taken to.
        while self.readings.get(1).is_some_and(|(at, _)| *at + window <= now) {
            self.readings.pop_front();
        }
        self.readings.front().map_or(spread, |(_, before)| spread.since(before))
    }
}

/// The spread over the time of the demo, in as many equal parts as a line of text has room for.
pub(super) struct Course {
    total: Duration,
    /// What had been counted when each part ended.
    ends: Vec<Spread>,
}

impl Course {
    pub(super) const fn new(total: Duration) -> Self {
        Self { total, ends: Vec::new() }
    }

    /// Takes a reading at `now`, measured from the start of the traffic.
    pub(super) fn note(&mut self, now: Duration, spread: Spread) {
        let part = (now.as_secs_f64() / self.total.as_secs_f64() * PARTS as f64) as usize;
        let before = self.ends.last().copied().unwrap_or_default();
        let part = part.min(PARTS - 1).max(self.ends.len().saturating_sub(1));
        self.ends.resize(part + 1, before);
        self.ends[part] = spread;
    }

    /// Which share of the attempts went to the far region in each part; `None` where there were none.
    pub(super) fn far_shares(&self) -> Vec<Option<f64>> {
        let befores = std::iter::once(Spread::default()).chain(self.ends.iter().copied());
        self.ends.iter().zip(befores).map(|(end, before)| end.since(&before).of(&ALL).far_share).collect()
    }
}

/// Half a second each in the default 36 seconds.
pub(super) const PARTS: usize = 72;

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(near: u64, far: u64) -> Spread {
        let mut spread = Spread::default();
        spread.add("catalog", "near", near);
        spread.add("orders", "far", far);
        spread
    }

    #[test]
    fn shares_are_of_one_service_or_of_all() {
        let mut some = spread(30, 10);
        some.add("catalog", "elsewhere", 5);
        some.add("unknown", "far", 5);
        assert_eq!(some.of(&ALL), Regions { near_attempts: 30, far_attempts: 10, far_share: Some(0.25) });
        assert_eq!(some.of(&[0]).far_share, Some(0.0));
        assert_eq!(some.of(&[1]).far_share, None);
        assert_eq!(some.since(&spread(10, 10)).of(&ALL).near_attempts, 20);
    }

    #[test]
    fn only_what_is_in_the_window_is_recent() {
        let (mut recent, start, window) = (Recent::default(), Instant::now(), Duration::from_secs(2));
        let mut after = |secs, near, far| {
            recent.note(start + Duration::from_secs(secs), spread(near, far), window).of(&ALL)
        };
        assert_eq!(after(0, 0, 0).far_share, None);
        assert_eq!(after(1, 10, 0).far_share, Some(0.0));
        assert_eq!(after(3, 10, 30).near_attempts, 0);
        assert_eq!(after(4, 10, 40).far_attempts, 40);
        assert_eq!(after(5, 20, 40), Regions { near_attempts: 10, far_attempts: 10, far_share: Some(0.5) });
    }

    #[test]
    fn the_course_has_a_share_for_every_part_that_was_reached() {
        let total = Duration::from_secs(PARTS as u64);
        let mut course = Course::new(total);
        assert!(course.far_shares().is_empty());
        course.note(Duration::from_millis(100), spread(1, 0));
        course.note(Duration::from_millis(900), spread(3, 1));
        course.note(Duration::from_millis(2500), spread(3, 2));
        assert_eq!(course.far_shares(), [Some(0.25), None, Some(1.0)]);
        course.note(total * 2, spread(4, 2));
        let shares = course.far_shares();
        assert_eq!((shares.len(), shares[PARTS - 1]), (PARTS, Some(0.0)));
    }
}
