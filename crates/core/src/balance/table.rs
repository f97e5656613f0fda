//! What is known about the endpoints, weighed up.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use super::alias::Alias;
use super::ring::Ring;
use super::turns::Turns;
use super::{Algorithm, Config, Member, TIERS};
use crate::{Instant, Valid};

/// What is known about the endpoints of one upstream at one moment, ready to be drawn from. See the [module](super).
///
/// It never changes. Build another one when anything about a member changes, and now and then until
/// [`settles_at`](Self::settles_at).
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) config: Valid<Config>,
    /// Who may be drawn, by tier, then by region.
    pub(super) slots: Box<[Slot]>,
    pub(super) tiers: [Tier; TIERS],
    pub(super) probes: Box<[Probe]>,
    shares: Box<[Share]>,
    panics: bool,
    settles_at: Instant,
    members: usize,
}

/// Which part of the traffic goes to the endpoints of one region in one tier.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share {
    /// The tier, 0 to 2.
    pub tier: u8,
    /// The region's number.
    pub region: u16,
    /// How many endpoints there are.
    pub members: u32,
    /// How many of them may be drawn.
    pub usable: u32,
    /// Their part of the traffic, 0 to 1.
    pub share: f64,
}

/// One that may be drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) id: u32,
    pub(super) region: u16,
    /// Its configured weight, relative to the mean of its tier.
    pub(super) weight: f64,
    /// Its part of all the traffic.
    pub(super) share: f64,
    /// Which part of its keys it accepts: below 1 while it gets less than its weight.
    pub(super) accepts: f64,
    pub(super) hash: u64,
}

/// Where the slots of a tier are, and how to draw from them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tier {
    pub(super) slots: Range<usize>,
    /// Of the slots, those of each region.
    pub(super) regions: Box<[Range<usize>]>,
    /// Lots below this, and not below the tier before, belong to it.
    pub(super) until: f64,
    /// All slots are drawn alike.
    pub(super) even: bool,
    pub(super) alias: Alias,
    pub(super) turns: Turns,
    pub(super) ring: Ring,
}

/// One that is out and waits for a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) id: u32,
    pub(super) region: u16,
}

impl Table {
    /// Weighs up `members`, whose ids and hashes differ.
    #[must_use]
    pub fn build(config: Valid<Config>, now: Instant, members: &[Member]) -> Self {
        let mut there: Vec<Weighed<'_>> = members.iter().map(|member| weigh(&config, now, member)).collect();
        there.sort_unstable_by_key(|it| (it.tier, it.member.region, it.member.hash, it.member.id));
        let panics = panics(&config, &there);
        if panics {
            there.iter_mut().for_each(|it| it.usable = it.present() && !it.member.out);
        }
        relate(&mut there);
        let settles_at = there.iter().filter(|it| it.usable).filter_map(|it| it.settles_at).max();
        let tier_shares = divide(&config, &mut there);
        let probes = there.iter().filter(|it| it.present() && it.member.probe && (it.member.up || panics));
        let probes = probes.map(|it| Probe { id: it.member.id, region: it.member.region }).collect();
        let usable: Vec<&Weighed<'_>> = there.iter().filter(|it| it.usable).collect();
        let mut slots = Vec::with_capacity(usable.len());
        let mut until = 0.0;
        let tiers = core::array::from_fn(|tier| {
            until += tier_shares[tier];
            let of_it: Vec<_> = usable.iter().copied().filter(|it| it.tier == tier).collect();
            let tier = Tier { until, ..lay_out(config.algorithm, slots.len(), &of_it) };
            slots.extend(slots_of(&of_it));
            tier
        });
        Self {
            config,
            slots: slots.into_boxed_slice(),
            tiers,
            probes,
            shares: shares(&there),
            panics,
            settles_at: settles_at.unwrap_or(Instant::FAR),
            members: members.len(),
        }
    }

    /// Whether the checks are not believed, because they call too much bad.
    #[must_use]
    pub const fn panics(&self) -> bool {
        self.panics
    }

    /// Which part of the traffic goes where, by tier and region; regions without a member are left out.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// Until when its weights move because of slow starts; [`Instant::FAR`] if they don't.
    #[must_use]
    pub const fn settles_at(&self) -> Instant {
        self.settles_at
    }

    /// How many members it was built from.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.members
    }

    /// Whether it was built from none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// How many of its members may be drawn, not counting probes.
    #[must_use]
    pub const fn usable(&self) -> usize {
        self.slots.len()
    }
}

/// A member on its way to a slot.
struct Weighed<'a> {
    member: &'a Member,
    tier: usize,
    /// [`Member::kept`] in hundredths.
    kept: u8,
    usable: bool,
    settles_at: Option<Instant>,
    /// How far its slow start is, and then what of its weight counts.
    ready: f64,
    /// Its part of all the traffic.
    share: f64,
    /// The same for drawing within its tier, where it is positive even if the tier gets nothing.
    draw: f64,
}

impl Weighed<'_> {
    /// Whether it takes part at all: it has a weight, and its region is not evacuated.
    const fn present(&self) -> bool {
        self.member.weight > 0 && self.kept > 0
    }

    fn weight(&self) -> f64 {
        f64::from(self.member.weight)
    }
}

fn weigh<'a>(config: &Config, now: Instant, member: &'a Member) -> Weighed<'a> {
    let tier = if config.locality { usize::from(member.tier).min(TIERS - 1) } else { 0 };
    let kept = (member.kept.clamp(0.0, 1.0) * 100.0 + 0.5) as u8;
    let full = member.since.plus(config.slow_start);
    // A beginning that lies further ahead than a slow start lasts was told by a clock that has been set back.
    let starts = now < full && member.since.since(now) <= config.slow_start;
    let gone = now.since(member.since).as_secs_f64() / config.slow_start.as_secs_f64();
    let mut weighed = Weighed {
        member,
        tier,
        kept,
        usable: false,
        settles_at: starts.then_some(full),
        ready: if starts { gone.clamp(LEAST, 1.0) } else { 1.0 },
        share: 0.0,
        draw: 0.0,
    };
    weighed.usable = weighed.present() && member.share > 0.0 && member.up && !member.out;
    weighed
}

/// Whether so little is healthy that the checks are not believed.
fn panics(config: &Config, there: &[Weighed<'_>]) -> bool {
    let (mut healthy, mut total) = ([0.0; TIERS], [0.0; TIERS]);
    for it in there.iter().filter(|it| it.present()) {
        total[it.tier] += it.weight();
        healthy[it.tier] += if it.usable { it.weight() } else { 0.0 };
    }
    let carried: f64 = (0..TIERS).map(|tier| carries(config, healthy[tier], total[tier])).sum();
    let all: f64 = total.iter().sum();
    all > 0.0 && carried < 1.0 && healthy.iter().sum::<f64>() / all < config.panic_threshold
}

/// Turns how far each one's slow start is into what counts of its weight: relative to who is furthest.
fn relate(there: &mut [Weighed<'_>]) {
    let furthest = there.iter().filter(|it| it.usable).fold(LEAST, |most, it| it.ready.max(most));
    for it in there {
        // A share that is not a number is none.
        it.usable &= it.member.share > 0.0;
        let share = if it.usable { it.member.share.min(1.0) } else { 0.0 };
        it.ready = it.weight() * share * (it.ready / furthest).min(1.0);
    }
}

/// Gives every usable member its part of the traffic, and returns that of each tier.
///
/// While regions are evacuated there are several worlds, each of which is drawn from in its share of the draws: in the
/// first all members are there, in the next only those that keep more, and so on. What a member gets is the sum over the
/// worlds that it is part of.
fn divide(config: &Config, there: &mut [Weighed<'_>]) -> [f64; TIERS] {
    let mut levels: Vec<u8> = there.iter().filter(|it| it.present()).map(|it| it.kept).collect();
    levels.sort_unstable();
    levels.dedup();
    let (mut shares, mut above) = ([0.0; TIERS], 0);
    for level in levels {
        let length = f64::from(level - above) / 100.0;
        let (mut ready, mut total) = ([0.0; TIERS], [0.0; TIERS]);
        for it in there.iter().filter(|it| it.present() && it.kept > above) {
            total[it.tier] += it.weight();
            ready[it.tier] += if it.usable { it.ready } else { 0.0 };
        }
        let parts = spill(config, ready, total);
        for it in there.iter_mut().filter(|it| it.usable && it.kept > above) {
            let part = length * it.ready / ready[it.tier];
            it.share += part * parts[it.tier];
            it.draw += part * parts[it.tier].max(LEAST_PART);
        }
        (0..TIERS).for_each(|tier| shares[tier] += length * parts[tier]);
        above = level;
    }
    // If all regions are being evacuated, there are worlds with nobody in them; their share is divided among the others.
    let sum: f64 = shares.iter().sum();
    if sum > 0.0 {
        shares.iter_mut().for_each(|share| *share /= sum);
        there.iter_mut().for_each(|it| it.share /= sum);
    }
    shares
}

/// Each tier takes what it can carry of what the nearer ones left. If something is left in the end, all take more in
/// proportion (Envoy, "Priority levels").
fn spill(config: &Config, ready: [f64; TIERS], total: [f64; TIERS]) -> [f64; TIERS] {
    let mut left = 1.0;
    let parts: [f64; TIERS] = core::array::from_fn(|tier| {
        let part = carries(config, ready[tier], total[tier]).min(left);
        left -= part;
        part
    });
    let sum: f64 = parts.iter().sum();
    parts.map(|part| if sum > 0.0 { part / sum } else { 0.0 })
}

/// How much of all the traffic a tier can carry.
fn carries(config: &Config, ready: f64, total: f64) -> f64 {
    if total > 0.0 { (config.overprovision * ready / total).min(1.0) } else { 0.0 }
}

/// How to draw from the members of one tier, whose slots begin at `first`.
fn lay_out(algorithm: Algorithm, first: usize, members: &[&Weighed<'_>]) -> Tier {
    let draws: Vec<f64> = members.iter().map(|it| it.draw).collect();
    let mut regions: Vec<Range<usize>> = Vec::new();
    for (n, it) in (first..).zip(members) {
        match regions.last_mut() {
            Some(last) if members[last.start - first].member.region == it.member.region => last.end = n + 1,
            _ => regions.push(n..n + 1),
        }
    }
    let even = draws.windows(2).all(|pair| (pair[0] - pair[1]).abs() <= pair[0] * SAME);
    let points = members.iter().map(|it| (it.member.hash, it.member.weight));
    Tier {
        slots: first..first + members.len(),
        regions: regions.into_boxed_slice(),
        until: 0.0,
        even,
        alias: Alias::new(&draws),
        turns: if algorithm == Algorithm::RoundRobin { Turns::new(&draws) } else { Turns::default() },
        ring: if algorithm == Algorithm::ConsistentHash { Ring::new(points) } else { Ring::default() },
    }
}

fn slots_of<'a>(tier: &'a [&Weighed<'_>]) -> impl Iterator<Item = Slot> + 'a {
    let mean = tier.iter().map(|it| it.weight()).sum::<f64>() / tier.len() as f64;
    let most = tier.iter().fold(0.0, |most: f64, it| most.max(it.draw / it.weight()));
    tier.iter().map(move |it| Slot {
        id: it.member.id,
        region: it.member.region,
        weight: it.weight() / mean,
        share: it.share,
        accepts: it.draw / it.weight() / most,
        hash: it.member.hash,
    })
}

fn shares(there: &[Weighed<'_>]) -> Box<[Share]> {
    let mut shares: Vec<Share> = Vec::new();
    for it in there {
        let (tier, region) = (it.tier as u8, it.member.region);
        match shares.last_mut() {
            Some(last) if (last.tier, last.region) == (tier, region) => {}
            _ => shares.push(Share { tier, region, members: 0, usable: 0, share: 0.0 }),
        }
        if let Some(last) = shares.last_mut() {
            last.members += 1;
            last.usable += u32::from(it.usable);
            last.share += it.share;
        }
    }
    shares.into_boxed_slice()
}

/// What a slow start begins with: a tenth, as in Envoy, so that nobody waits long for its first call.
const LEAST: f64 = 0.1;
/// What a tier without traffic is taken to get, for the draws within it: they happen when all others refuse.
const LEAST_PART: f64 = 1e-9;
/// Weights that differ by less are the same but for rounding.
const SAME: f64 = 1e-9;
