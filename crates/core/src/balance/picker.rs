//! Drawing from a table.

use super::ring::mix;
use super::table::{Probe, Slot, Table, Tier};
use super::{Algorithm, Ask, TIERS, View};
use crate::{Rng, Seeded};

/// One worker's hand: it draws from any [`Table`], and keeps nothing but its generator and whose turn it is.
#[derive(Clone, Copy, Debug)]
pub struct Picker {
    rng: Seeded,
    turns: [u64; TIERS],
}

impl Picker {
    /// A picker whose draws follow from `seed`. Workers have different ones, or they would all ask the same endpoint first.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Seeded::new(seed);
        let turns = core::array::from_fn(|_| rng.next_u64());
        Self { rng, turns }
    }

    /// Where the next attempt goes: an id of the table that `view` allows; `None` if it allows none that can be drawn.
    ///
    /// Constant time (logarithmic with round robin and consistent hashing) and without allocation, unless nearly all endpoints
    /// are refused one by one; then they are gone through.
    pub fn pick<V: View + ?Sized>(&mut self, table: &Table, ask: Ask, view: &V) -> Option<u32> {
        if ask.may_probe
            && let Some(id) = self.probe(table, view, PROBES_TRIED)
        {
            return Some(id);
        }
        let first = table.tier_at(self.lot(table, ask));
        // Where the lot's tier has nobody, the nearest has.
        let order = || core::iter::once(first).chain((0..TIERS).filter(move |&tier| tier != first));
        order()
            .find_map(|tier| self.draw(table, tier, ask, view))
            .or_else(|| order().find_map(|tier| self.go_through(table, tier, view)))
            // Nobody else is left: better a call that may be lost than an upstream that never finds out.
            .or_else(|| self.probe(table, view, table.probes.len()))
    }

    /// A number in `[0, 1)` that chooses the tier. A key's calls stay in theirs, as far as the shares do.
    fn lot(&mut self, table: &Table, ask: Ask) -> f64 {
        match ask.key {
            Some(key) if table.config.algorithm == Algorithm::ConsistentHash => unit(mix(key ^ TIER_SALT)),
            _ => self.rng.unit(),
        }
    }

    fn probe<V: View + ?Sized>(&mut self, table: &Table, view: &V, tried: usize) -> Option<u32> {
        if table.probes.is_empty() {
            return None;
        }
        let start = self.rng.below(table.probes.len() as u64) as usize;
        let (before, after) = table.probes.split_at(start);
        let free = |probe: &&Probe| view.has_room(probe.region) && view.allowed(probe.id);
        after.iter().chain(before).take(tried).find(free).map(|probe| probe.id)
    }

    /// Draws within a tier, giving up after a few that are not allowed.
    fn draw<V: View + ?Sized>(&mut self, table: &Table, tier: usize, ask: Ask, view: &V) -> Option<u32> {
        let within = &table.tiers[tier];
        if within.slots.is_empty() {
            return None;
        }
        let drawn = match (table.config.algorithm, ask.key) {
            (Algorithm::RoundRobin, _) => self.in_turn(table, tier, view),
            (Algorithm::ConsistentHash, Some(key)) => {
                on_ring(table, within, key, view).or_else(|| self.of_two(table, within, view))
            }
            _ => self.of_two(table, within, view),
        };
        // A few are gone through at once, so that the last near one is found before a call goes far away.
        let few = within.slots.len() <= FEW;
        drawn.map(|slot| slot.id).or_else(|| if few { self.go_through(table, tier, view) } else { None })
    }

    fn in_turn<'t, V: View + ?Sized>(&mut self, table: &'t Table, tier: usize, view: &V) -> Option<&'t Slot> {
        let within = &table.tiers[tier];
        let mut next = || {
            let turn = &mut self.turns[tier];
            *turn = turn.wrapping_add(1);
            &table.slots[within.slots.start + within.turns.at(*turn)]
        };
        (0..REDRAWS).map(|_| next()).find(|slot| is_free(slot, view))
    }

    /// Of two drawn by lot the better.
    fn of_two<'t, V: View + ?Sized>(&mut self, table: &'t Table, tier: &Tier, view: &V) -> Option<&'t Slot> {
        let mut next = || &table.slots[tier.slots.start + tier.alias.draw(self.rng.next_u64())];
        let one = (0..REDRAWS).map(|_| next()).find(|slot| is_free(slot, view))?;
        // Of equals, two different ones are compared: so a slow one is left alone by all. With weights, the same may come
        // twice: if a light one were in every comparison with a heavy one, its weight would mean nothing.
        let other = (0..REDRAWS)
            .map(|_| next())
            .find(|slot| (!tier.even || slot.id != one.id) && is_free(slot, view));
        let Some(other) = other.filter(|other| other.id != one.id) else { return Some(one) };
        let load = |slot| load(table.config.algorithm, slot, view);
        Some(if load(other).total_cmp(&load(one)).is_lt() { other } else { one })
    }

    /// Goes through all of a tier, from anywhere in it, passing over regions that are full.
    fn go_through<V: View + ?Sized>(&mut self, table: &Table, tier: usize, view: &V) -> Option<u32> {
        let within = &table.tiers[tier];
        let somewhere = self.rng.next_u64();
        let turned = |range: &core::ops::Range<usize>| {
            let slots = &table.slots[range.clone()];
            let start = (somewhere % slots.len().max(1) as u64) as usize;
            let (before, after) = slots.split_at(start);
            after.iter().chain(before)
        };
        let with_room = within.regions.iter().filter(|range| view.has_room(table.slots[range.start].region));
        with_room.flat_map(turned).find(|slot| view.allowed(slot.id)).map(|slot| slot.id)
    }
}

impl Table {
    /// The tier to which this lot belongs; where rounding left none, the nearest.
    fn tier_at(&self, lot: f64) -> usize {
        self.tiers.iter().position(|tier| lot < tier.until).unwrap_or(0)
    }
}

/// The next on the ring that is free and below the bound. Which part of its keys a member accepts during a slow start follows
/// from the keys as well, so that they come back one after the other and stay.
fn on_ring<'t, V: View + ?Sized>(table: &'t Table, tier: &Tier, key: u64, view: &V) -> Option<&'t Slot> {
    let bound = table.config.load_bound * (f64::from(view.total_in_flight()) + 1.0);
    let slots = &table.slots[tier.slots.clone()];
    tier.ring.from(key).take(WALK).map(|index| &slots[index]).find(|slot| {
        unit(mix(key ^ slot.hash)) < slot.accepts
            && is_free(slot, view)
            // Fewer than the bound, so at most the bound rounded up with this call; as the paper has it.
            && f64::from(view.in_flight(slot.id)) < bound * slot.share
    })
}

fn is_free<V: View + ?Sized>(slot: &Slot, view: &V) -> bool {
    view.has_room(slot.region) && view.allowed(slot.id)
}

/// What is compared; less is better.
///
/// With weights, the calls in flight count relative to them: twice the weight may have twice the calls. Idle endpoints
/// compare as if they had the same weight; their draws were weighted already.
fn load<V: View + ?Sized>(algorithm: Algorithm, slot: &Slot, view: &V) -> f64 {
    if algorithm != Algorithm::PeakEwma {
        return f64::from(view.in_flight(slot.id)) / slot.weight;
    }
    let cost = view.cost(slot.id);
    if (slot.weight - 1.0).abs() < 1e-9 {
        return cost;
    }
    let in_flight = f64::from(view.in_flight(slot.id));
    cost * (in_flight / slot.weight + 1.0) / (in_flight + 1.0)
}

/// A hash as a number in `[0, 1)`.
fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

/// How many draws may meet one that is not allowed. With half of them refused, eight all fail once in 256 times; then
/// they are gone through.
const REDRAWS: usize = 8;
/// A tier of so many is gone through when the draws fail; larger ones only when all tiers have failed.
const FEW: usize = 32;
/// How many waiting probes are offered to a call that may probe: usually one or two wait, and where thousands do, the next
/// calls begin elsewhere.
const PROBES_TRIED: usize = 4;
/// How many points of the ring are looked at. At a bound of 1.25 up to four in five may be full; that 256 in a row are
/// happens never (0.8^256 is below 10^-24).
const WALK: usize = 256;
/// Makes the tier's choice independent of the place on the ring.
const TIER_SALT: u64 = 0x5851_F42D_4C95_7F2D;
