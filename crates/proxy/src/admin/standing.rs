//! How a record of an idempotency key stands, as operators are told.
//!
//! A store keeps how far an operation came, and a crash writes nothing down: who died carrying one out has left it `running`.
//! The embedded store knows that nobody is at it any more; of the others it can be told by the record's age, as nobody may be at
//! it for longer than the lease that it was begun under.
//!
//! **Age.** What is left of a record's retention is counted by the store's own clock, so the route's retention less what is left is
//! how long ago it was changed, whatever the clocks on the wall say here and there. It is right as long as the record was written
//! under the retention that the route has now. Of a place that is no route here, and of a record that has more left than its
//! route gives, only the wall clocks tell: this proxy's less the store's, as far apart as they are.

use std::time::Duration;

use seaworthy::clock::wall;
use seaworthy::idempotency::store::Record;
use seaworthy::idempotency::{Id, Phase};
use seaworthy_config::Config;

use crate::site::Site;

/// How a record stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Look {
    /// Of what is running and nobody's any more: unknown, as who repeats it is told.
    pub phase: Phase,
    /// Whether it is running, and whoever carries it out should have given up.
    pub past_lease: bool,
    /// Since when it has stood as it does.
    pub age: Age,
}

/// How old something is, and by what that is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Age {
    /// By the store's own clock.
    Store(Duration),
    /// By this proxy's wall clock and the store's, as if they agreed; zero if the store's is ahead.
    Clocks(Duration),
}

impl Age {
    const fn length(self) -> Duration {
        match self {
            Self::Store(age) | Self::Clocks(age) => age,
        }
    }
}

/// For how long the records of a place are remembered, if it is a route here that honours keys.
fn retention(config: &Config, place: &str) -> Option<Duration> {
    let route = config.routes.iter().find(|route| route.name == place)?;
    Some(route.idempotency.as_ref()?.retention)
}

impl Look {
    /// How `record` of `id` stands now.
    pub(super) fn at(site: &Site, id: &Id, record: &Record) -> Self {
        Self::by(retention(&site.config, &id.place), record, wall())
    }

    fn by(retention: Option<Duration>, record: &Record, wall: Duration) -> Self {
        let left = retention.zip(record.remembered);
        let age = match left.and_then(|(retention, left)| retention.checked_sub(left)) {
            Some(age) => Age::Store(age),
            None => Age::Clocks(wall.saturating_sub(record.changed)),
        };
        let runs = record.standing.phase == Phase::Running;
        Self {
            phase: if runs && record.orphaned { Phase::Unknown } else { record.standing.phase },
            past_lease: runs && !record.orphaned && age.length() >= record.lease,
            age,
        }
    }

    /// Whether it is among what is in `phase`. What is past its lease is among what runs, and among what is unknown too: whoever
    /// looks for what may be stuck is to find it.
    pub(super) fn is(&self, phase: Phase) -> bool {
        self.phase == phase || (phase == Phase::Unknown && self.past_lease)
    }
}

#[cfg(test)]
mod tests {
    use seaworthy::idempotency::{Fingerprint, Standing, Token};

    use super::*;

    const LEASE: Duration = Duration::from_secs(60);
    const RETENTION: Duration = Duration::from_secs(3600);
    /// Of a route here.
    const HERE: Option<Duration> = Some(RETENTION);
    const NOON: Duration = Duration::from_secs(1_000_000);
    const TICK: Duration = Duration::from_millis(1);

    /// A record that was changed so long ago, by the store's clock, which has just struck noon.
    fn aged(phase: Phase, age: Duration) -> Record {
        Record {
            standing: Standing { fingerprint: Fingerprint([0; 32]), token: Token(1), phase },
            lease: LEASE,
            orphaned: false,
            changed: NOON - age,
            remembered: RETENTION.checked_sub(age),
            answer: None,
        }
    }

    #[test]
    fn what_runs_is_past_its_lease_from_that_moment_on() {
        let before = Look::by(HERE, &aged(Phase::Running, LEASE - TICK), NOON);
        assert!(!before.past_lease && before.is(Phase::Running) && !before.is(Phase::Unknown));
        let after = Look::by(HERE, &aged(Phase::Running, LEASE), NOON);
        assert!(after.past_lease && after.is(Phase::Running) && after.is(Phase::Unknown));
        assert_eq!((after.phase, after.age), (Phase::Running, Age::Store(LEASE)));
    }

    #[test]
    fn what_has_ended_is_past_no_lease() {
        for phase in [Phase::Unknown, Phase::Free, Phase::Done] {
            let look = Look::by(HERE, &aged(phase, 2 * LEASE), NOON);
            assert!(!look.past_lease && look.is(phase) && look.phase == phase);
        }
    }

    #[test]
    fn what_nobody_carries_out_any_more_is_unknown_at_once() {
        for age in [Duration::ZERO, 2 * LEASE] {
            let look = Look::by(HERE, &Record { orphaned: true, ..aged(Phase::Running, age) }, NOON);
            assert_eq!((look.phase, look.past_lease), (Phase::Unknown, false));
            assert!(look.is(Phase::Unknown) && !look.is(Phase::Running));
        }
    }

    #[test]
    fn clocks_that_jump_make_nothing_older_or_younger() {
        let record = aged(Phase::Running, LEASE / 2);
        for wall in [Duration::ZERO, NOON - 2 * RETENTION, NOON, NOON + 2 * RETENTION] {
            let look = Look::by(HERE, &record, wall);
            assert_eq!((look.age, look.past_lease), (Age::Store(LEASE / 2), false), "{wall:?}");
        }
    }

    #[test]
    fn where_the_retention_tells_nothing_the_clocks_on_the_wall_do_and_never_less_than_nothing() {
        let old = aged(Phase::Running, 2 * LEASE);
        let look = Look::by(None, &old, NOON);
        assert_eq!((look.age, look.past_lease), (Age::Clocks(2 * LEASE), true));
        let ahead = Look::by(None, &old, Duration::ZERO);
        assert_eq!((ahead.age, ahead.past_lease), (Age::Clocks(Duration::ZERO), false));
        // A retention that was longer when it was written; a store that can't tell.
        for remembered in [Some(2 * RETENTION), None] {
            let look = Look::by(HERE, &Record { remembered, ..old.clone() }, NOON);
            assert_eq!(look.age, Age::Clocks(2 * LEASE));
        }
    }

    #[test]
    fn only_routes_that_honour_keys_say_how_long_they_are_remembered() {
        let text = "[idempotency]\nstore = \"memory\"\n[upstream.app]\nendpoints = \"http://127.0.0.1:1\"\ndeadline = \"5s\"\n\
             [[route]]\nname = \"a\"\npath = \"/a\"\n[route.idempotency]\nretention = \"2h\"\n\
             [[route]]\nname = \"plain\"\npath = \"/plain\"\n";
        let config = Config::from_toml("test.toml", text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(retention(&config, "a"), Some(Duration::from_secs(7200)));
        assert_eq!([retention(&config, "plain"), retention(&config, "gone")], [None; 2]);
    }
}
