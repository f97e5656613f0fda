//! The regions of all upstreams, as far as operators take them out of service and back.

use std::collections::BTreeMap;

use seaworthy_config::Level;
use seaworthy_core::evacuate::{Config, Evacuation, Refusal, Region as Load, State, may_leave};
use seaworthy_core::{Instant, Valid};
use serde_json::{Value, json};

use super::Move;
use super::book::Book;
use crate::site::Site;

/// The regions that were ever moved.
#[derive(Default)]
pub(super) struct Regions {
    config: Valid<Config>,
    moved: BTreeMap<String, Moved>,
}

#[derive(Default)]
struct Moved {
    evacuation: Evacuation,
    force: bool,
    /// Who keeps it from going on.
    held: Option<String>,
    reason: String,
}

impl Regions {
    /// The share of its traffic that a region keeps.
    pub(super) fn kept(&self, region: &str) -> f64 {
        self.moved.get(region).map_or(1.0, |moved| moved.evacuation.kept())
    }

    /// Makes the steps that are due.
    pub(super) fn look(&mut self, now: Instant, site: &Site, books: &[Book]) {
        let names: Vec<String> = self.moved.keys().cloned().collect();
        for name in names {
            let others = self.may_leave(books, &name);
            let Some(moved) = self.moved.get_mut(&name) else { continue };
            let others = if moved.force { Ok(()) } else { others };
            moved.held = others.as_ref().err().map(|(upstream, refusal)| held(upstream, refusal));
            let others = others.map_err(|(_, refusal)| refusal);
            if let Some(state) = moved.evacuation.look(now, others, in_flight(books, &name)) {
                let why = moved.held.as_deref().filter(|_| state == State::Held).unwrap_or("");
                let level = if state == State::Held { Level::Warn } else { Level::Info };
                let fields = [
                    ("region", name.as_str()),
                    ("state", state.name()),
                    ("why", why),
                    ("reason", &moved.reason),
                ];
                site.journal.event(level, "region", &fields);
            }
            let over = self.moved.get(&name).is_some_and(|moved| moved.evacuation.state() == State::Serving);
            if over {
                self.moved.remove(&name);
            }
        }
    }

    /// Begins to take a region out of service.
    ///
    /// # Errors
    /// Why it must stay.
    pub(super) fn evacuate(
        &mut self,
        now: Instant,
        site: &Site,
        books: &[Book],
        wanted: Move,
    ) -> Result<Value, String> {
        let name = known(books, &wanted.region)?;
        if !wanted.force
            && let Err((upstream, refusal)) = self.may_leave(books, &name)
        {
            let why = held(&upstream, &refusal);
            tell(site, "evacuation_refused", &wanted, &why);
            return Err(format!(
                "{why}; add capacity elsewhere, or go on all the same with --force (\"force\": true)"
            ));
        }
        tell(site, "evacuation_ordered", &wanted, "");
        let moved = self.moved.entry(name.clone()).or_default();
        moved.evacuation.evacuate(now, wanted.over);
        (moved.force, moved.reason) = (wanted.force, wanted.reason);
        Ok(self.show_one(books, &name))
    }

    /// Begins to take a region back.
    ///
    /// # Errors
    /// If there is no such region.
    pub(super) fn restore(
        &mut self,
        now: Instant,
        site: &Site,
        books: &[Book],
        wanted: Move,
    ) -> Result<Value, String> {
        let name = known(books, &wanted.region)?;
        tell(site, "restoration_ordered", &wanted, "");
        if let Some(moved) = self.moved.get_mut(&name) {
            moved.evacuation.restore(now, wanted.over);
            moved.reason = wanted.reason;
        }
        Ok(self.show_one(books, &name))
    }

    /// All regions, for operators.
    pub(super) fn show(&self, books: &[Book]) -> Value {
        let regions = names(books).into_iter().map(|name| self.show_one(books, &name));
        json!({ "regions": regions.collect::<Vec<_>>() })
    }

    fn show_one(&self, books: &[Book], name: &str) -> Value {
        let moved = self.moved.get(name);
        let loads = books.iter().flat_map(|book| book.loads(|_| 1.0)).filter(|(region, _)| region == name);
        let (ready, limits) = loads.fold((0.0, Vec::new()), |(ready, mut limits), (_, load)| {
            limits.extend(load.limit);
            (ready + load.ready, limits)
        });
        json!({
            "name": name,
            "state": moved.map_or(State::Serving, |moved| moved.evacuation.state()).name(),
            "share": self.kept(name),
            "why": moved.and_then(|moved| moved.held.as_deref()),
            "reason": moved.map(|moved| moved.reason.as_str()),
            "ready_weight": ready,
            "in_flight": in_flight(books, name),
            "limit": (!limits.is_empty()).then(|| limits.iter().sum::<u32>()),
        })
    }

    /// Whether every upstream can do without the region; the error names the first that can't.
    fn may_leave(&self, books: &[Book], name: &str) -> Result<(), (String, Refusal)> {
        for book in books {
            let (names, loads): (Vec<String>, Vec<Load>) =
                book.loads(|region| self.kept(region)).into_iter().unzip();
            if let Some(leaving) = names.iter().position(|region| region == name) {
                may_leave(self.config, &loads, leaving)
                    .map_err(|refusal| (book.config().name.clone(), refusal))?;
            }
        }
        Ok(())
    }
}

fn held(upstream: &str, refusal: &Refusal) -> String {
    format!("upstream {upstream}: {refusal}")
}

fn names(books: &[Book]) -> Vec<String> {
    let names = books.iter().flat_map(|book| book.loads(|_| 1.0)).map(|(name, _)| name);
    let mut names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn known(books: &[Book], name: &str) -> Result<String, String> {
    let names = names(books);
    if names.iter().any(|known| known == name) {
        return Ok(name.to_owned());
    }
    Err(match names.as_slice() {
        [] => format!("there is no region {name:?}, as no endpoint is labelled with a region"),
        names => format!("there is no region {name:?}; there is {}", names.join(", ")),
    })
}

fn in_flight(books: &[Book], name: &str) -> u32 {
    let endpoints = books.iter().flat_map(Book::endpoints).filter(|endpoint| endpoint.region.name == name);
    u32::try_from(endpoints.map(|endpoint| endpoint.in_flight()).sum::<u64>()).unwrap_or(u32::MAX)
}

/// Notes what an operator wanted.
fn tell(site: &Site, event: &str, wanted: &Move, why: &str) {
    let over = format!("{:?}", wanted.over);
    let force = wanted.force.to_string();
    let fields = [
        ("region", wanted.region.as_str()),
        ("over", &over),
        ("force", &force),
        ("reason", &wanted.reason),
        ("why", why),
    ];
    site.journal.event(Level::Warn, event, &fields);
}
