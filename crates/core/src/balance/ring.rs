//! The ring of consistent hashing.
//!
//! Every member stands at many points of a ring that follow from its address alone; a key belongs to the next point
//! clockwise. Whoever leaves gives up its own keys and nobody else's; whoever joins takes only those that become its own.
//! (Karger and others, 1997.) A member with twice the weight stands at twice the points.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// The ring.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    /// The position in the upper half, the member's index in the lower, sorted.
    points: Box<[u64]>,
}

impl Ring {
    /// The ring on which the members with these hashes and weights stand.
    pub(super) fn new(members: impl Iterator<Item = (u64, u32)> + Clone) -> Self {
        let halvings = halvings(members.clone().map(|(_, weight)| weight));
        let mut points: Vec<u64> = Vec::new();
        for (index, (hash, weight)) in (0u64..).zip(members) {
            let positions = (0..points_of(weight, halvings)).map(|n| mix(hash.wrapping_add(mix(n))));
            points.extend(positions.map(|position| position >> 32 << 32 | index));
        }
        points.sort_unstable();
        Self { points: points.into_boxed_slice() }
    }

    /// The members' indexes from the key's position on, once round, some of them again and again.
    pub(super) fn from(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.points.partition_point(|point| point >> 32 < mix(key) >> 32);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|&point| point as u32 as usize)
    }
}

/// How often the number of points must be halved so that there are not too many in all. All members' points are halved
/// alike, and points that remain stay where they are; so only a membership that crosses a power of two moves more keys.
fn halvings(weights: impl Iterator<Item = u32> + Clone) -> u32 {
    let all = |halvings| weights.clone().map(|weight| points_of(weight, halvings)).sum::<u64>();
    (0..u64::BITS).find(|&halvings| all(halvings) <= MOST_POINTS).unwrap_or(u64::BITS - 1)
}

fn points_of(weight: u32, halvings: u32) -> u64 {
    ((u64::from(weight) * POINTS) >> halvings).max(1)
}

/// A bijection that scatters (the finaliser of SplitMix64; see [`Seeded`](crate::Seeded)).
pub(super) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The points of weight 1. With 64 the shares of equal members differ by an eighth (one over the root of it), which the
/// bound on load evens out.
const POINTS: u64 = 64;
/// The most points of a ring, a megabyte: 2,000 members with 64 each, or 10,000 with 8.
const MOST_POINTS: u64 = 1 << 17;

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_owns_a_key_of_an_empty_ring() {
        assert_eq!(Ring::default().from(7).next(), None);
    }

    #[test]
    fn once_round_is_everybody() {
        let members = [(1, 1), (2, 1), (3, 1)];
        assert_eq!(Ring::new(members.iter().copied()).from(9).count(), 3 * 64);
    }

    #[test]
    fn shares_follow_the_weights() {
        let members: Vec<_> = (0..10u64).map(|n| (mix(n), if n == 0 { 10 } else { 1 })).collect();
        let ring = Ring::new(members.iter().copied());
        let first = (0..20_000).filter(|&key| ring.from(mix(key)).next() == Some(0)).count();
        let expected = 20_000 * 10 / 19;
        assert!(first.abs_diff(expected) < expected / 8, "{first} instead of {expected}");
    }

    #[test]
    fn no_number_of_members_and_no_weight_makes_it_too_large() {
        for (count, weight) in [(10_000, 1), (100_000, 1_000), (3, u32::MAX)] {
            let halvings = halvings(core::iter::repeat_n(weight, count));
            assert!(points_of(weight, halvings) * count as u64 <= MOST_POINTS);
        }
    }

    proptest! {
        #[test]
        fn only_the_keys_of_who_left_move(
            hashes in prop::collection::hash_set(any::<u64>(), 2..30), keys in prop::collection::vec(any::<u64>(), 50),
        ) {
            let members: Vec<_> = hashes.into_iter().map(|hash| (hash, 1 + (hash % 3) as u32)).collect();
            let (gone, left) = members.split_last().unwrap();
            let (before, after) = (Ring::new(members.iter().copied()), Ring::new(left.iter().copied()));
            for key in keys {
                let owner = |ring: &Ring| ring.from(key).next().map(|index| members[index].0);
                prop_assert!(owner(&before) == owner(&after) || owner(&before) == Some(gone.0));
            }
        }
    }
}
