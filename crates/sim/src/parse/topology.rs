//! Where the instances are, and which of them a change is about.

use seaworthy_config::Labels;
use serde::Deserialize;
use toml::Spanned;

use super::{Found, Here, RawChange, RawService, Time};
use crate::service::Group;

impl Found<'_> {
    /// The instances of the service, of which each of `clients` knows all.
    pub(super) fn groups(&mut self, raw: &RawService, here: Option<&Here>, clients: u32) -> Vec<Group> {
        if let Some(instances) = &raw.instances {
            let remedy = "write how many there are in each [[service.group]], or in [service] alone";
            self.check(
                raw.group.is_empty(),
                instances,
                "service has both instances and groups with instances",
                remedy,
            );
            self.some_instances(instances);
        }
        for group in &raw.group {
            self.some_instances(&group.get_ref().instances);
            let weight = &group.get_ref().weight;
            let in_range = (1..=Labels::MOST_WEIGHT).contains(weight.get_ref());
            self.check(in_range, weight, "service.group.weight is not from 1 to 1000", "1 is usual");
        }
        let groups: Vec<Group> = if raw.group.is_empty() {
            let instances = raw.instances.as_ref().map_or(1, |instances| *instances.get_ref());
            vec![Group { instances, ..Group::default() }]
        } else {
            raw.group.iter().map(|group| group.get_ref().at(here)).collect()
        };
        let all: u64 = groups.iter().map(|group| u64::from(group.instances)).sum();
        if all.saturating_mul(u64::from(clients)) > MOST_BREAKERS {
            let place = raw.instances.as_ref().map(Spanned::span);
            let place = place.or_else(|| raw.group.first().map(Spanned::span)).unwrap_or(0..0);
            let message = "clients times instances is above a million".to_owned();
            self.error(place, message, "each client has a breaker for each instance; lower either number");
        }
        groups
    }

    fn some_instances(&mut self, instances: &Spanned<u32>) {
        let some = (1..=MOST_INSTANCES).contains(instances.get_ref());
        self.check(
            some,
            instances,
            "instances is not from 1 to 100000",
            "write how many there are, such as 3",
        );
    }

    /// Whether what a change is about exists.
    pub(super) fn aim(&mut self, change: &RawChange, groups: &[Group]) {
        let all: u64 = groups.iter().map(|group| u64::from(group.instances)).sum();
        if let Some(numbers) = &change.instance {
            let there = |number: &u32| (1..=all).contains(&u64::from(*number));
            let message = format!("service.change.instance is not from 1 to {all}");
            let remedy = "instances are counted from 1, through all groups in the order of the file";
            let known = numbers.get_ref().all().iter().all(there) && !numbers.get_ref().all().is_empty();
            self.check(known, numbers, &message, remedy);
        }
        let regions: Vec<&str> = groups.iter().map(|group| group.region.as_str()).collect();
        let zones = groups.iter().map(|group| group.zone.as_str()).collect();
        for (kind, wanted, known) in [("region", &change.region, regions), ("zone", &change.zone, zones)] {
            if let Some(wanted) = wanted {
                let known = known.contains(&wanted.get_ref().as_str());
                let message = format!("no group of the service is in {kind} {:?}", wanted.get_ref());
                self.check(known, wanted, &message, "write the name of one that a [[service.group]] has");
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGroup {
    #[serde(default)]
    region: String,
    #[serde(default)]
    zone: String,
    #[serde(default = "one")]
    instances: Spanned<u32>,
    #[serde(default = "one")]
    weight: Spanned<u32>,
    distance: Option<Time>,
}

impl RawGroup {
    /// The group, as clients see it who are here.
    fn at(&self, here: Option<&Here>) -> Group {
        Group {
            region: self.region.clone(),
            zone: self.zone.clone(),
            instances: *self.instances.get_ref(),
            weight: *self.weight.get_ref(),
            tier: here.map_or(0, |here| here.tier(&self.region, &self.zone)),
            distance: self.distance.map(|Time(distance)| distance).unwrap_or_default(),
        }
    }
}

impl Here {
    /// How near a place is, as the proxy sees it: 0 in the same zone, 1 in the same region, 2 elsewhere. Who doesn't know
    /// where it is itself finds everything equally near.
    fn tier(&self, region: &str, zone: &str) -> u8 {
        if self.region.is_empty() && self.zone.is_empty() {
            0
        } else if !self.region.is_empty() && self.region != region {
            2
        } else {
            u8::from(self.zone.is_empty() || self.zone != zone)
        }
    }
}

/// One instance by its number, or several.
#[derive(Deserialize)]
#[serde(untagged, expecting = "this is no instance: write its number, such as 3, or several: [3, 4]")]
pub(super) enum RawInstances {
    One(u32),
    Several(Vec<u32>),
}

impl RawInstances {
    fn all(&self) -> &[u32] {
        match self {
            Self::One(number) => std::slice::from_ref(number),
            Self::Several(numbers) => numbers,
        }
    }
}

impl From<RawInstances> for Vec<u32> {
    fn from(raw: RawInstances) -> Self {
        raw.all().to_vec()
    }
}

fn one() -> Spanned<u32> {
    Spanned::new(0..0, 1)
}

/// More in one service are a slip of the keyboard.
const MOST_INSTANCES: u32 = 100_000;
/// A breaker takes up to a few kilobytes: a million are some gigabytes.
const MOST_BREAKERS: u64 = 1_000_000;
