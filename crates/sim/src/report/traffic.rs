//! Where the requests went: by group of instances, by instance, and when a breaker kept them away.

use std::fmt::{self, Write as _};
use std::ops::Range;

use seaworthy_core::gate::breaker::{Change, State};
use seaworthy_core::{Instant, Outcome};
use serde::Serialize;

use super::{Report, Row};
use crate::service::Service;

/// The instances at one place.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct GroupRow {
    /// Their region; empty if unknown.
    pub region: String,
    /// Their zone; empty if unknown.
    pub zone: String,
    /// How many they are.
    pub instances: u32,
    /// Requests that were sent to them.
    pub attempts: u64,
    /// The same over all requests; 0 if there were none.
    pub share: f64,
    /// Requests sent to them in each phase.
    pub by_phase: Vec<u64>,
    /// Requests sent to them in each second of virtual time, up to the last second in which there were any.
    pub by_second: Vec<u64>,
    /// The most requests that were in flight to them at a time.
    pub most_in_flight: u32,
}

/// One instance.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct EndpointRow {
    /// Its number, from 1.
    pub number: u32,
    /// Its region; empty if unknown.
    pub region: String,
    /// Its zone; empty if unknown.
    pub zone: String,
    /// Requests that were sent to it.
    pub attempts: u64,
    /// Those that failed, cut off ones included.
    pub failed: u64,
    /// `attempts` over all requests; 0 if there were none.
    pub share: f64,
    /// Requests sent to it in each phase.
    pub by_phase: Vec<u64>,
    /// The most requests that were in flight to it at a time.
    pub most_in_flight: u32,
    /// When it was out, in order.
    pub outings: Vec<Outing>,
}

/// A while for which an instance got nothing but probes from a client.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Outing {
    /// Whose breaker kept requests away, from 1.
    pub client: u32,
    /// When it was put out, in seconds of virtual time.
    pub from_s: f64,
    /// Why: the name of the breaker's cause.
    pub why: &'static str,
    /// The requests that had been sent to it by then, by all clients.
    pub attempts: u64,
    /// When it began to get its share again; `None` if the run ended before.
    pub to_s: Option<f64>,
}

/// Counts where the requests go.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    groups: Vec<Count<GroupRow>>,
    endpoints: Vec<Count<EndpointRow>>,
    /// By instance.
    group_of: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Count<R> {
    row: R,
    in_flight: u32,
}

impl Traffic {
    pub(crate) fn new(service: &Service, phases: usize) -> Self {
        let none = vec![0; phases];
        let groups = service.groups.iter().map(|group| GroupRow {
            region: group.region.clone(),
            zone: group.zone.clone(),
            instances: group.instances,
            by_phase: none.clone(),
            ..GroupRow::default()
        });
        let numbered = (1..).zip(service.groups_of_instances());
        let endpoints = numbered.map(|(number, (_, group))| EndpointRow {
            number,
            region: group.region.clone(),
            zone: group.zone.clone(),
            by_phase: none.clone(),
            ..EndpointRow::default()
        });
        Self {
            groups: groups.map(|row| Count { row, in_flight: 0 }).collect(),
            endpoints: endpoints.map(|row| Count { row, in_flight: 0 }).collect(),
            group_of: service.groups_of_instances().map(|(group, _)| group).collect(),
        }
    }

    pub(crate) fn sent(&mut self, now: Instant, phase: usize, at: u32) {
        let Count { row, in_flight } = &mut self.endpoints[at as usize];
        *in_flight += 1;
        row.attempts += 1;
        row.by_phase[phase] += 1;
        row.most_in_flight = row.most_in_flight.max(*in_flight);
        let Count { row, in_flight } = &mut self.groups[self.group_of[at as usize]];
        *in_flight += 1;
        row.attempts += 1;
        row.by_phase[phase] += 1;
        row.most_in_flight = row.most_in_flight.max(*in_flight);
        let second = now.since(Instant::ZERO).as_secs() as usize;
        if row.by_second.len() <= second {
            row.by_second.resize(second + 1, 0);
        }
        row.by_second[second] += 1;
    }

    pub(crate) fn ended(&mut self, at: u32, outcome: Outcome) {
        let endpoint = &mut self.endpoints[at as usize];
        endpoint.in_flight -= 1;
        endpoint.row.failed += u64::from(outcome.is_failure());
        self.groups[self.group_of[at as usize]].in_flight -= 1;
    }

    /// A breaker of a client, counted from 0, has changed. A probe that fails prolongs an outing, it begins none.
    pub(crate) fn changed(&mut self, client: usize, at: u32, change: Change) {
        let client = client as u32 + 1;
        let row = &mut self.endpoints[at as usize].row;
        let seconds = change.at.since(Instant::ZERO).as_secs_f64();
        let open = row.outings.iter_mut().rfind(|it| it.client == client && it.to_s.is_none());
        match (change.to, open) {
            (State::Open, None) => row.outings.push(Outing {
                client,
                from_s: seconds,
                why: change.cause.name(),
                attempts: row.attempts,
                to_s: None,
            }),
            (State::Ramping | State::Closed, Some(outing)) => outing.to_s = Some(seconds),
            _ => {}
        }
    }

    pub(crate) fn into_rows(self) -> (Vec<GroupRow>, Vec<EndpointRow>) {
        let all: u64 = self.groups.iter().map(|group| group.row.attempts).sum();
        let share = |attempts: u64| attempts as f64 / all.max(1) as f64;
        let group = |Count { row, .. }: Count<GroupRow>| GroupRow { share: share(row.attempts), ..row };
        let endpoint =
            |Count { row, .. }: Count<EndpointRow>| EndpointRow { share: share(row.attempts), ..row };
        (self.groups.into_iter().map(group).collect(), self.endpoints.into_iter().map(endpoint).collect())
    }
}

impl GroupRow {
    /// Its share of the requests sent in these seconds of virtual time, among `all` groups; 0 if there were none.
    #[must_use]
    pub fn share_in(&self, seconds: Range<usize>, all: &[Self]) -> f64 {
        let sent = |group: &Self| group.by_second.iter().skip(seconds.start).take(seconds.len()).sum::<u64>();
        sent(self) as f64 / all.iter().map(sent).sum::<u64>().max(1) as f64
    }

    fn name(&self) -> String {
        name(&self.region, &self.zone)
    }
}

impl EndpointRow {
    fn name(&self) -> String {
        let place = name(&self.region, &self.zone);
        if place.is_empty() { self.number.to_string() } else { format!("{} {place}", self.number) }
    }

    fn outings(&self, clients: bool) -> String {
        let mut told = String::new();
        for outing in self.outings.iter().take(MOST_OUTINGS) {
            let comma = if told.is_empty() { "" } else { ", " };
            let from = outing.from_s;
            let to = outing.to_s.map_or("the end".to_owned(), |to| format!("{to:.1} s"));
            let _ = write!(told, "{comma}{from:.1} s to {to} ({}", outing.why);
            let _ = if clients { write!(told, ", client {})", outing.client) } else { write!(told, ")") };
        }
        match self.outings.len().saturating_sub(MOST_OUTINGS) {
            0 => told,
            more => format!("{told}, and {more} more"),
        }
    }
}

fn name(region: &str, zone: &str) -> String {
    let between = if region.is_empty() || zone.is_empty() { "" } else { "/" };
    format!("{region}{between}{zone}")
}

/// Writes which share went where, and who was out when.
pub(super) fn write(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    if report.groups.len() > 1 {
        write_groups(f, &report.groups, &report.phases)?;
    }
    if !report.endpoints.is_empty() {
        write_endpoints(f, &report.endpoints)?;
    }
    Ok(())
}

fn write_groups(f: &mut fmt::Formatter<'_>, groups: &[GroupRow], phases: &[Row]) -> fmt::Result {
    write!(f, "\n{:>15}", "requests to")?;
    groups.iter().try_for_each(|group| write!(f, " {:>9}", group.name()))?;
    writeln!(f)?;
    for (n, phase) in phases.iter().enumerate() {
        let all = groups.iter().map(|group| group.by_phase[n]).sum::<u64>().max(1) as f64;
        write!(f, "{:>15}", phase.phase())?;
        groups.iter().try_for_each(|group| write!(f, " {:>8.2}%", 100.0 * group.by_phase[n] as f64 / all))?;
        writeln!(f)?;
    }
    if phases.len() > 1 {
        write!(f, "{:>15}", "all")?;
        groups.iter().try_for_each(|group| write!(f, " {:>8.2}%", 100.0 * group.share))?;
        writeln!(f)?;
    }
    write!(f, "{:>15}", "most in flight")?;
    groups.iter().try_for_each(|group| write!(f, " {:>9}", group.most_in_flight))?;
    writeln!(f)
}

/// All of a few instances; of many those that were out.
fn write_endpoints(f: &mut fmt::Formatter<'_>, endpoints: &[EndpointRow]) -> fmt::Result {
    let few = endpoints.len() <= FEW;
    let shown = || endpoints.iter().filter(|row| few || !row.outings.is_empty());
    let several = endpoints.iter().flat_map(|row| &row.outings).any(|outing| outing.client > 1);
    if shown().next().is_some() {
        writeln!(f, "\n{:>15} {:>9} {:>9} {:>9}  out", "instance", "requests", "share", "failed")?;
    }
    for row in shown().take(FEW) {
        let (share, outings) = (100.0 * row.share, row.outings(several));
        let line =
            format!("{:>15} {:>9} {share:>8.2}% {:>9}  {outings}", row.name(), row.attempts, row.failed);
        writeln!(f, "{}", line.trim_end())?;
    }
    let hidden = endpoints.len() - shown().take(FEW).count();
    let out = endpoints.iter().filter(|row| !row.outings.is_empty()).count();
    match (few, hidden) {
        (true, _) => Ok(()),
        _ => {
            writeln!(f, "\n{hidden} instances are not listed; {out} of all {} were ever out", endpoints.len())
        }
    }
}

/// So many instances are listed, and so many lines are still read.
const FEW: usize = 20;
/// Of an instance that is out again and again the line would be longer than a screen.
const MOST_OUTINGS: usize = 3;

#[cfg(test)]
mod tests {
    use seaworthy_core::gate::breaker::Cause;

    use super::*;
    use crate::Group;

    fn traffic() -> Traffic {
        let group = |region: &str| Group { region: region.into(), instances: 2, ..Group::default() };
        let service = Service { groups: vec![group("near"), group("far")], ..Service::default() };
        Traffic::new(&service, 1)
    }

    #[test]
    fn requests_are_counted_where_they_went() {
        let mut traffic = traffic();
        for (second, at) in [(0, 0), (0, 1), (2, 3), (2, 1)] {
            traffic.sent(Instant::from_millis(second * 1000), 0, at);
        }
        traffic.ended(1, Outcome::Success);
        let (groups, endpoints) = traffic.into_rows();
        assert_eq!(endpoints.iter().map(|row| row.attempts).collect::<Vec<_>>(), [1, 2, 0, 1]);
        assert_eq!((groups[0].attempts, groups[0].share, groups[0].most_in_flight), (3, 0.75, 3));
        assert_eq!((&groups[0].by_second[..], &groups[1].by_second[..]), (&[2, 0, 1][..], &[0, 0, 1][..]));
        assert_eq!([0..2, 2..3].map(|seconds| groups[0].share_in(seconds, &groups)), [1.0, 0.5]);
    }

    #[test]
    fn an_outing_ends_when_calls_are_admitted_again() {
        let mut traffic = traffic();
        let steps = [
            (1, State::Closed, State::Open, Cause::ErrorOutlier),
            (6, State::Open, State::HalfOpen, Cause::WaitOver),
            (7, State::HalfOpen, State::Open, Cause::ProbeFailed),
            (9, State::Open, State::HalfOpen, Cause::WaitOver),
            (10, State::HalfOpen, State::Ramping, Cause::Probed),
            (20, State::Ramping, State::Closed, Cause::RampOver),
        ];
        for (second, from, to, cause) in steps {
            let at = Instant::from_millis(second * 1000);
            traffic.changed(0, 2, Change { from, to, at, cause });
        }
        let row = &traffic.into_rows().1[2];
        assert_eq!(row.outings.len(), 1);
        assert_eq!(row.outings(false), "1.0 s to 10.0 s (error_outlier)");
    }
}
