//! Shares of tiers and regions, panic, slow start, evacuation.

use proptest::prelude::*;

use super::*;

/// `sizes[tier]` members in each tier, of which `down[tier]` are down; each tier is a region of its own.
fn tiers(sizes: [u32; TIERS], down: [u32; TIERS]) -> Vec<Member> {
    let mut all = vec![];
    for tier in 0..TIERS {
        for n in 0..sizes[tier] {
            let at =
                Member { tier: tier as u8, region: tier as u16, up: n >= down[tier], ..Member::default() };
            all.push(Member { id: all.len() as u32, hash: all.len() as u64, ..at });
        }
    }
    all
}

fn shares(table: &Table) -> [f64; TIERS] {
    let mut shares = [0.0; TIERS];
    table.shares().iter().for_each(|share| shares[usize::from(share.tier)] += share.share);
    shares
}

#[track_caller]
fn tier_shares(sizes: [u32; TIERS], down: [u32; TIERS], expected: [f64; TIERS]) {
    for algorithm in [Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::ConsistentHash] {
        let members = tiers(sizes, down);
        let table = build(with(algorithm), &members);
        let told = shares(&table);
        (0..TIERS).for_each(|tier| near(told[tier], expected[tier], 1e-9));
        let (mut picker, mut picked) = (Picker::new(1), [0.0; TIERS]);
        for key in 0..20_000u64 {
            let ask = Ask { key: Some(super::super::ring::mix(key)), may_probe: false };
            let id = picker.pick(&table, ask, &Seen::idle(members.len())).unwrap();
            picked[usize::from(members[id as usize].tier)] += 1.0 / 20_000.0;
        }
        (0..TIERS).for_each(|tier| near(picked[tier], expected[tier], 0.015));
    }
}

#[test]
fn what_is_near_gets_everything_while_it_copes() {
    tier_shares([10, 10, 10], [0, 0, 0], [1.0, 0.0, 0.0]);
    // 1.4 * 8 / 10 is more than all.
    tier_shares([10, 10, 10], [2, 0, 0], [1.0, 0.0, 0.0]);
}

#[test]
fn a_half_dead_zone_keeps_what_it_can_carry() {
    tier_shares([10, 10, 10], [5, 0, 0], [0.7, 0.3, 0.0]);
    tier_shares([10, 10, 10], [10, 0, 0], [0.0, 1.0, 0.0]);
    tier_shares([10, 10, 10], [9, 8, 0], [0.14, 0.28, 0.58]);
}

#[test]
fn what_nobody_can_carry_is_divided_in_proportion() {
    // 0.42 and 0.28 of what 0.7 is the sum of.
    let config = Config { panic_threshold: 0.0, ..Config::default() };
    let table = build(config, &tiers([10, 10, 0], [7, 8, 0]));
    near(shares(&table)[0], 0.6, 1e-9);
    near(shares(&table)[1], 0.4, 1e-9);
}

#[test]
fn without_locality_all_are_one_tier() {
    let table = build(Config { locality: false, ..Config::default() }, &tiers([2, 2, 4], [0; 3]));
    assert_eq!(table.shares().len(), 3, "regions are still told apart");
    near(shares(&table)[0], 1.0, 1e-9);
    near(table.shares()[2].share, 0.5, 1e-9);
}

#[test]
fn when_most_look_bad_the_checks_are_not_believed() {
    let table = build(Config::default(), &tiers([10, 0, 0], [5, 0, 0]));
    assert!(!table.panics(), "half is not less than half");
    let table = build(Config::default(), &tiers([10, 0, 0], [6, 0, 0]));
    assert!(table.panics());
    assert_eq!(table.usable(), 10);
    assert_eq!(picks(&table, Ask::default(), &Seen::idle(10), 1_000).len(), 10);
}

#[test]
fn far_capacity_prevents_panic() {
    let table = build(Config::default(), &tiers([10, 0, 8], [10, 0, 0]));
    assert!(!table.panics(), "less than half is healthy, but that carries everything");
}

#[test]
fn panic_does_not_overrule_breakers() {
    let mut members = tiers([10, 0, 0], [9, 0, 0]);
    members[..4].iter_mut().for_each(|member| member.out = true);
    let table = build(Config::default(), &members);
    assert!(table.panics());
    let picked = picks(&table, Ask::default(), &Seen::idle(10), 1_000);
    assert_eq!(picked.into_keys().collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9]);
}

#[test]
fn all_bad_is_panic_and_not_nothing() {
    let table = build(Config::default(), &tiers([3, 0, 0], [3, 0, 0]));
    assert!(table.panics());
    assert!(Picker::new(1).pick(&table, Ask::default(), &Seen::idle(3)).is_some());
    let never = build(Config { panic_threshold: 0.0, ..Config::default() }, &tiers([3, 0, 0], [3, 0, 0]));
    assert!(!never.panics());
    assert_eq!(Picker::new(1).pick(&never, Ask::default(), &Seen::idle(3)), None);
}

#[test]
fn nobody_is_no_panic() {
    let table = build(Config::default(), &[]);
    assert!(!table.panics() && table.is_empty());
    assert_eq!(Picker::new(1).pick(&table, Ask { key: Some(1), may_probe: true }, &Seen::idle(0)), None);
}

mod slow_start {
    use super::*;

    fn since(id: u32, ago: u64) -> Member {
        Member { since: Instant::from_millis(1_000_000 - ago), ..member(id) }
    }

    fn share_of(table: &Table, id: u32) -> f64 {
        f64::from(picks(table, Ask::default(), &Seen::idle(9), 20_000)[&id]) / 20_000.0
    }

    #[test]
    fn who_returns_begins_with_a_tenth_and_grows() {
        for (ago, weight) in [(0, 0.1), (1_000, 0.1), (5_000, 0.5), (9_999, 0.9999), (10_000, 1.0)] {
            let table = build(Config::default(), &[since(0, 60_000), since(1, 60_000), since(2, ago)]);
            near(share_of(&table, 2), weight / (2.0 + weight), 0.012);
            let settles =
                if ago < 10_000 { NOW.plus(Duration::from_millis(10_000 - ago)) } else { Instant::FAR };
            assert_eq!(table.settles_at(), settles);
        }
    }

    #[test]
    fn when_all_are_new_none_is_held_back() {
        let mut all = [since(0, 0), since(1, 0), since(2, 0)];
        all[2].tier = 2;
        let table = build(Config::default(), &all);
        near(shares(&table)[0], 1.0, 1e-9);
        assert!(!table.panics());
    }

    #[test]
    fn a_zone_that_returns_gets_its_traffic_back_gradually() {
        for (ago, share) in [(0, 0.14), (2_500, 0.35), (5_000, 0.7), (7_500, 1.0)] {
            let mut all = [since(0, ago), since(1, ago), since(2, 60_000)];
            all[2].tier = 2;
            near(shares(&build(Config::default(), &all))[0], share, 1e-9);
        }
    }

    #[test]
    fn who_is_down_holds_nobody_back_and_moves_no_settling() {
        let down = Member { up: false, ..since(0, 0) };
        let table = build(Config::default(), &[down, since(1, 3_000), since(2, 60_000)]);
        assert_eq!(table.settles_at(), NOW.plus(Duration::from_secs(7)));
    }

    #[test]
    fn none_at_all_if_it_lasts_no_time() {
        let config = Config { slow_start: Duration::ZERO, ..Config::default() };
        let table = build(config, &[since(0, 60_000), since(1, 0)]);
        assert_eq!(table.settles_at(), Instant::FAR);
        near(share_of(&table, 1), 0.5, 0.01);
    }

    #[test]
    fn a_clock_set_back_holds_nobody_back_for_ever() {
        let ahead = Member { since: Instant::FAR, ..member(0) };
        let table = build(Config::default(), &[ahead, since(1, 60_000)]);
        assert_eq!(table.settles_at(), Instant::FAR);
        near(share_of(&table, 0), 0.5, 0.01);
    }
}

mod evacuation {
    use super::*;

    /// A zone and its region (1), and another region (2).
    fn three_tiers(kept: f64) -> Vec<Member> {
        let mut all = tiers([2, 2, 4], [0; 3]);
        all.iter_mut().for_each(|member| member.region = if member.tier == 2 { 2 } else { 1 });
        all.iter_mut().filter(|member| member.region == 1).for_each(|member| member.kept = kept);
        all
    }

    #[test]
    fn a_region_keeps_exactly_the_share_that_it_may() {
        for kept in [1.0, 0.9, 0.5, 0.1, 0.0] {
            let table = build(Config::default(), &three_tiers(kept));
            near(shares(&table)[0], kept, 1e-9);
            near(shares(&table)[2], 1.0 - kept, 1e-9);
            assert!(!table.panics());
        }
    }

    #[test]
    fn within_a_tier_the_others_take_over() {
        let mut all = members(4);
        all[3].kept = 0.5;
        let table = build(Config { locality: false, ..Config::default() }, &all);
        let picked = picks(&table, Ask::default(), &Seen::idle(4), 40_000);
        near(f64::from(picked[&3]) / 40_000.0, 0.125, 0.01);
        near(f64::from(picked[&0]) / 40_000.0, 0.875 / 3.0, 0.01);
    }

    #[test]
    fn nobody_goes_where_nothing_is_kept_whatever_happens() {
        let table = build(Config::default(), &three_tiers(0.0));
        let mut view = Seen::idle(8);
        view.refused[4..].fill(true);
        let asked = Picker::new(1).pick(&table, Ask { key: None, may_probe: true }, &view);
        assert_eq!(asked, None);
    }

    #[test]
    fn what_two_regions_keep_is_kept_apart() {
        let mut all = tiers([1, 1, 1], [0; 3]);
        (all[0].kept, all[1].kept) = (0.25, 0.5);
        let told = shares(&build(Config::default(), &all));
        near(told[0], 0.25, 1e-9);
        near(told[1], 0.25, 1e-9);
        near(told[2], 0.5, 1e-9);
    }

    #[test]
    fn if_all_are_evacuated_in_part_the_rest_carries_all() {
        let mut all = members(2);
        all.iter_mut().for_each(|member| member.kept = 0.3);
        near(shares(&build(Config::default(), &all))[0], 1.0, 1e-9);
    }
}

fn any_member() -> impl Strategy<Value = Member> {
    (
        (0u8..5, 0u16..3, 0u32..5, any::<bool>(), 0u8..4),
        (any::<u64>(), prop_oneof![Just(f64::NAN), Just(0.0), Just(1.0), -1.0f64..2.0], any::<u64>()),
        prop_oneof![Just(1.0), Just(1.0), Just(0.0), Just(f64::NAN), -1.0f64..2.0],
    )
        .prop_map(|((tier, region, weight, up, breaker), (since, share, hash), kept)| Member {
            id: 0,
            tier,
            region,
            weight,
            up,
            out: breaker == 0,
            probe: breaker == 0 && hash % 2 == 0,
            since: if since % 2 == 0 { Instant::from_nanos(since) } else { NOW },
            share,
            kept,
            hash,
        })
}

pub(super) fn any_members() -> impl Strategy<Value = Vec<Member>> {
    prop::collection::vec(any_member(), 0..20).prop_map(|mut members| {
        (0..).zip(&mut members).for_each(|(id, member)| member.id = id);
        members
    })
}

pub(super) fn any_algorithm() -> impl Strategy<Value = Algorithm> {
    prop_oneof![
        Just(Algorithm::PeakEwma),
        Just(Algorithm::LeastRequests),
        Just(Algorithm::RoundRobin),
        Just(Algorithm::ConsistentHash)
    ]
}

proptest! {
    #[test]
    fn the_shares_are_a_whole_or_nothing(
        members in any_members(), now in any::<u64>(), locality in any::<bool>(), algorithm in any_algorithm(),
    ) {
        let config = Config { locality, ..with(algorithm) };
        let table = Table::build(Valid::new(config).unwrap(), Instant::from_nanos(now), &members);
        let sum: f64 = table.shares().iter().map(|share| share.share).sum();
        let expected = if table.usable() > 0 { 1.0 } else { 0.0 };
        prop_assert!((sum - expected).abs() < 1e-9, "{sum} with {} usable", table.usable());
        prop_assert_eq!(table.shares().iter().map(|share| share.members).sum::<u32>() as usize, members.len());
        prop_assert_eq!(table.shares().iter().map(|share| share.usable).sum::<u32>() as usize, table.usable());
    }
}
