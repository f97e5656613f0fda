//! Which endpoint of a tier is picked.

use proptest::prelude::*;

use super::table::{any_algorithm, any_members};
use super::*;

const NO_KEY: Ask = Ask { key: None, may_probe: false };

fn weighted(weights: &[u32]) -> Vec<Member> {
    (0..).zip(weights).map(|(id, &weight)| Member { weight, ..member(id) }).collect()
}

mod by_weight {
    use super::*;
    use crate::{Rng, Seeded};

    #[test]
    fn idle_endpoints_are_picked_by_weight() {
        for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequests, Algorithm::RoundRobin] {
            let table = build(with(algorithm), &weighted(&[1, 2, 7]));
            let picked = picks(&table, NO_KEY, &Seen::idle(3), 30_000);
            for (id, share) in [(0, 0.1), (1, 0.2), (2, 0.7)] {
                near(f64::from(picked[&id]) / 30_000.0, share, 0.012);
            }
        }
    }

    #[test]
    fn loaded_endpoints_are_picked_by_weight() {
        for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequests] {
            let table = build(with(algorithm), &weighted(&[1, 2, 2]));
            let picked = loaded(&table, &mut Seen::idle(3), 60, 30_000);
            near(picked[0], 0.2, 0.03);
            near(picked[1], 0.4, 0.03);
        }
    }

    #[test]
    fn weight_zero_is_nobody() {
        for algorithm in [Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::ConsistentHash] {
            let table = build(with(algorithm), &weighted(&[0, 1]));
            assert_eq!(picks(&table, Ask { key: Some(3), may_probe: true }, &Seen::idle(2), 100).len(), 1);
        }
    }

    #[test]
    fn a_canary_of_one_percent_gets_one_percent() {
        let table = build(Config::default(), &weighted(&[99, 1]));
        let picked = picks(&table, NO_KEY, &Seen::idle(2), 100_000);
        near(f64::from(picked[&1]) / 1e5, 0.01, 0.002);
    }

    #[test]
    fn a_canary_gets_its_share_whoever_happens_to_be_faster() {
        let table = build(Config::default(), &weighted(&[95, 5]));
        let (mut picker, mut rng, mut view) = (Picker::new(1), Seeded::new(2), Seen::idle(2));
        let mut picked = 0.0;
        for _ in 0..50_000 {
            view.latency = vec![rng.unit(), rng.unit()];
            picked += f64::from(picker.pick(&table, NO_KEY, &view).unwrap()) / 5e4;
        }
        near(picked, 0.05, 0.005);
    }

    #[test]
    fn weights_count_where_only_refusals_lead_as_well() {
        let mut all = weighted(&[1, 1, 9]);
        all[1..].iter_mut().for_each(|member| member.tier = 2);
        let table = build(Config::default(), &all);
        let mut view = Seen::idle(3);
        view.refused[0] = true;
        near(f64::from(picks(&table, NO_KEY, &view, 20_000)[&1]) / 2e4, 0.1, 0.01);
    }

    #[test]
    fn turns_are_exact() {
        let table = build(with(Algorithm::RoundRobin), &weighted(&[1, 1, 1, 1, 1]));
        assert!(
            picks(&table, NO_KEY, &Seen::idle(5), 1_000).into_values().all(|count| count.abs_diff(200) <= 1)
        );
        let table = build(with(Algorithm::RoundRobin), &weighted(&[1, 2, 7]));
        let picked = picks(&table, NO_KEY, &Seen::idle(3), 1_000);
        for (id, due) in [(0, 100), (1, 200), (2, 700)] {
            assert!(picked[&id].abs_diff(due) <= 3, "{picked:?}");
        }
    }
}

mod by_cost {
    use super::*;

    #[test]
    fn of_equals_one_ten_times_slower_is_left_alone() {
        let table = build(Config::default(), &members(10));
        let mut view = Seen::idle(10);
        view.latency[3] = 10.0;
        assert_eq!(picks(&table, NO_KEY, &view, 10_000).get(&3), None, "idle, it is dearer than any other");
        let share = loaded(&table, &mut view, 30, 20_000)[3];
        assert!(share < 0.02, "under load it gets {share}");
    }

    #[test]
    fn fewer_calls_in_flight_are_better() {
        let table = build(with(Algorithm::LeastRequests), &members(2));
        let mut view = Seen::idle(2);
        view.in_flight[0] = 1;
        assert_eq!(picks(&table, NO_KEY, &view, 100), BTreeMap::from([(1, 100)]));
    }

    #[test]
    fn two_choices_keep_the_load_even() {
        let table = build(with(Algorithm::LeastRequests), &members(100));
        let (mut picker, mut view) = (Picker::new(3), Seen::idle(100));
        for _ in 0..10_000 {
            let id = picker.pick(&table, NO_KEY, &view).unwrap();
            view.in_flight[id as usize] += 1;
        }
        // log2 log2 100 is below 3; one choice would be off by some 30.
        assert!(view.in_flight.iter().all(|n| n.abs_diff(100) <= 5), "{:?}", view.in_flight);
    }

    #[test]
    fn a_cost_that_is_no_number_loses() {
        let table = build(Config::default(), &members(2));
        let mut view = Seen::idle(2);
        view.latency[0] = f64::NAN;
        assert_eq!(picks(&table, NO_KEY, &view, 100), BTreeMap::from([(1, 100)]));
    }
}

mod probing {
    use super::*;

    fn one_out() -> Vec<Member> {
        let mut members = members(3);
        (members[1].out, members[1].probe) = (true, true);
        members
    }

    #[test]
    fn a_call_that_survives_it_is_the_probe() {
        let table = build(Config::default(), &one_out());
        let ask = Ask { may_probe: true, ..NO_KEY };
        assert_eq!(Picker::new(1).pick(&table, ask, &Seen::idle(3)), Some(1));
        let mut probed = Seen::idle(3);
        probed.refused[1] = true;
        assert_ne!(Picker::new(1).pick(&table, ask, &probed), Some(1));
    }

    #[test]
    fn another_call_is_not_while_there_is_somebody_else() {
        let table = build(Config::default(), &one_out());
        let mut view = Seen::idle(3);
        assert_eq!(picks(&table, NO_KEY, &view, 1_000).get(&1), None);
        view.refused = vec![true, false, true];
        assert_eq!(Picker::new(1).pick(&table, NO_KEY, &view), Some(1), "or nobody would ever find out");
    }

    #[test]
    fn nobody_probes_what_the_checks_call_down() {
        let mut members = one_out();
        members[1].up = false;
        let table = build(Config::default(), &members);
        let picked = picks(&table, Ask { may_probe: true, ..NO_KEY }, &Seen::idle(3), 100);
        assert_eq!(picked.get(&1), None);
    }

    #[test]
    fn if_all_are_out_each_of_them_is_probed() {
        let mut members = members(5);
        members.iter_mut().for_each(|member| (member.out, member.probe) = (true, true));
        let table = build(Config::default(), &members);
        assert_eq!(picks(&table, NO_KEY, &Seen::idle(5), 200).len(), 5);
    }
}

mod hashing {
    use super::super::super::ring::mix;
    use super::*;

    fn owners(members: &[Member], keys: u64) -> Vec<u32> {
        let table = build(with(Algorithm::ConsistentHash), members);
        let view = Seen::idle(1_000);
        let mut picker = Picker::new(1);
        let mut owner =
            |key| picker.pick(&table, Ask { key: Some(mix(key)), may_probe: false }, &view).unwrap();
        (0..keys).map(&mut owner).collect()
    }

    #[test]
    fn the_same_key_goes_to_the_same_endpoint_whoever_picks() {
        let table = build(with(Algorithm::ConsistentHash), &members(10));
        for key in 0..100 {
            let ask = Ask { key: Some(mix(key)), may_probe: false };
            let at = |seed| Picker::new(seed).pick(&table, ask, &Seen::idle(10));
            assert!((0..20).all(|seed| at(seed) == at(99)));
        }
    }

    #[test]
    fn who_goes_down_moves_its_own_keys_and_gets_them_back() {
        let whole = members(20);
        let before = owners(&whole, 5_000);
        let mut one_down = whole.clone();
        one_down[7].up = false;
        let after = owners(&one_down, 5_000);
        let moved: Vec<_> = (0..5_000).filter(|&key| before[key] != after[key]).collect();
        assert!(moved.iter().all(|&key| before[key] == 7), "only its own");
        assert!((150..400).contains(&moved.len()), "a twentieth: {}", moved.len());
        assert!(after.iter().all(|&owner| owner != 7));
        assert_eq!(owners(&whole, 5_000), before);
    }

    #[test]
    fn who_joins_takes_keys_and_moves_no_others() {
        let (before, after) = (owners(&members(20), 5_000), owners(&members(21), 5_000));
        assert!((0..5_000).all(|key| before[key] == after[key] || after[key] == 20));
    }

    #[test]
    fn during_a_slow_start_it_takes_some_of_its_keys_and_keeps_them() {
        let mut all = members(20);
        let settled = owners(&all, 5_000);
        let mut had: Vec<usize> = vec![];
        for ago in [0, 3_000, 6_000, 10_000] {
            all[7].since = Instant::from_millis(1_000_000 - ago);
            let now = owners(&all, 5_000);
            let has: Vec<_> = (0..5_000).filter(|&key| now[key] == 7).collect();
            assert!(had.iter().all(|key| has.contains(key)) && has.len() > had.len());
            assert!((0..5_000).all(|key| now[key] == settled[key] || settled[key] == 7));
            had = has;
        }
    }

    #[test]
    fn a_popular_key_overloads_nobody() {
        let count = 50;
        let table = build(with(Algorithm::ConsistentHash), &members(count));
        let (mut picker, mut view) = (Picker::new(1), Seen::idle(count as usize));
        for n in 1..=2_000u32 {
            // Every second call has the same key.
            let key = if n % 2 == 0 { 0 } else { u64::from(n) };
            let id = picker.pick(&table, Ask { key: Some(mix(key)), may_probe: false }, &view).unwrap();
            view.in_flight[id as usize] += 1;
            let bound = 1.25 * f64::from(n) / f64::from(count);
            let most = view.in_flight.iter().max().unwrap();
            assert!(f64::from(*most) < bound + 1.0, "{most} of {n} calls at one");
        }
    }

    #[test]
    fn without_a_key_the_load_is_even() {
        let table = build(with(Algorithm::ConsistentHash), &members(10));
        let picked = picks(&table, NO_KEY, &Seen::idle(10), 10_000);
        assert!(picked.values().all(|count| (800..1_200).contains(count)), "{picked:?}");
    }
}

mod refusals {
    use super::*;

    #[test]
    fn the_last_near_one_is_found_before_a_far_one() {
        let mut all = members(16);
        all[8..].iter_mut().for_each(|member| member.tier = 2);
        let table = build(Config::default(), &all);
        let mut view = Seen::idle(16);
        view.refused[..7].fill(true);
        assert_eq!(picks(&table, NO_KEY, &view, 1_000), BTreeMap::from([(7, 1_000)]));
    }

    #[test]
    fn a_full_region_is_passed_over_without_asking_each() {
        let mut all = members(10_000);
        all[5_000..].iter_mut().for_each(|member| (member.tier, member.region) = (2, 1));
        let table = build(Config::default(), &all);
        let mut view = Seen::idle(10_000);
        view.full = vec![0];
        assert!(picks(&table, NO_KEY, &view, 1_000).keys().all(|&id| id >= 5_000));
        view.full = vec![0, 1];
        view.asked.set(0);
        assert_eq!(Picker::new(1).pick(&table, NO_KEY, &view), None);
        assert!(view.asked.get() < 50, "{} questions", view.asked.get());
    }

    /// As many questions for 10,000 endpoints as for ten: the number of questions is all that could grow, besides the
    /// two binary searches.
    #[test]
    fn ten_thousand_endpoints_are_no_dearer_than_ten() {
        for algorithm in
            [Algorithm::PeakEwma, Algorithm::LeastRequests, Algorithm::RoundRobin, Algorithm::ConsistentHash]
        {
            let asked = [10, 10_000].map(|count| {
                let mut all = members(count);
                all.iter_mut().step_by(3).for_each(|member| (member.out, member.probe) = (true, true));
                let table = build(with(algorithm), &all);
                let mut view = Seen::idle(count as usize);
                view.refused.iter_mut().step_by(4).for_each(|refused| *refused = true);
                let mut picker = Picker::new(5);
                let picks = 2_000;
                let mut most = 0;
                for key in 0..picks {
                    let before = view.asked.get();
                    picker.pick(&table, Ask { key: Some(key), may_probe: key % 2 == 0 }, &view).unwrap();
                    most = most.max(view.asked.get() - before);
                }
                (f64::from(view.asked.get()) / picks as f64, most)
            });
            let [(few, _), (many, most)] = asked;
            assert!(many < few * 1.5 + 2.0, "{algorithm:?}: {few} questions for ten, {many} for 10,000");
            assert!(most < 300, "{algorithm:?}: {most} questions in one pick");
        }
    }

    proptest! {
        /// Who is picked is one of the table's, allowed and in a region with room; and if there is one, somebody is picked.
        #[test]
        fn whoever_is_picked_is_allowed_and_somebody_is(
            members in any_members(), algorithm in any_algorithm(), seed in any::<u64>(), locality in any::<bool>(),
            refused in prop::collection::vec(any::<bool>(), 20), full in prop::collection::vec(0u16..3, 0..3),
            key in any::<Option<u64>>(), may_probe in any::<bool>(), busy in prop::collection::vec(0u32..100, 20),
        ) {
            let table = build(Config { locality, ..with(algorithm) }, &members);
            let view = Seen { refused, full, in_flight: busy, ..Seen::idle(20) };
            let ask = Ask { key, may_probe };
            let picked = Picker::new(seed).pick(&table, ask, &view);
            let free = |member: &Member| {
                !view.refused[member.id as usize] && !view.full.contains(&member.region)
                    && member.weight > 0 && member.kept >= 0.005 && (member.up || table.panics())
            };
            let sound = |member: &Member| free(member) && !member.out && member.share > 0.0;
            let probe = |member: &Member| free(member) && member.probe;
            match picked {
                Some(id) => {
                    let member = &members[id as usize];
                    prop_assert!(sound(member) || probe(member), "{member:?}");
                    let other = members.iter().any(sound);
                    prop_assert!(may_probe || !other || sound(member), "a probe, although there is another");
                }
                None => prop_assert!(!members.iter().any(|member| sound(member) || probe(member))),
            }
        }

        #[test]
        fn the_same_seed_picks_the_same(members in any_members(), algorithm in any_algorithm(), seed in any::<u64>()) {
            let (table, view) = (build(with(algorithm), &members), Seen::idle(20));
            let (mut one, mut two) = (Picker::new(seed), Picker::new(seed));
            for _ in 0..20 {
                prop_assert_eq!(one.pick(&table, NO_KEY, &view), two.pick(&table, NO_KEY, &view));
            }
        }
    }
}
