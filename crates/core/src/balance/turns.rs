//! Taking turns by weight.
//!
//! The members lie side by side on a line, each as long as its weight. A lap of turns visits as many evenly spaced points
//! of the line as there are members, in an order that jumps (by about the golden section, so that neighbours in time are
//! far apart on the line), and every lap is shifted a little, again by the golden section. With equal weights a lap visits
//! each member once. With any weights a lap visits each as often as its weight says, rounded up or down, and over many laps
//! the roundings cancel out (the multiples of the golden section are spread as evenly as any sequence's; Knuth, "The Art of
//! Computer Programming", vol. 3, section 6.4). The only state is the number of the turn, so that a new table changes
//! nothing but the line.

use alloc::boxed::Box;

/// The line.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    /// Where each member ends, from 0 to 1.
    ends: Box<[f64]>,
    /// By how many points a turn jumps; coprime to their number.
    jump: u64,
}

impl Turns {
    /// The weights are finite and not negative, and one is positive.
    pub(super) fn new(weights: &[f64]) -> Self {
        let sum: f64 = weights.iter().sum();
        let mut end = 0.0;
        let ends = weights.iter().map(|weight| {
            end += weight;
            end / sum
        });
        Self { ends: ends.collect(), jump: jump(weights.len() as u64) }
    }

    /// Whose turn it is.
    pub(super) fn at(&self, turn: u64) -> usize {
        let count = (self.ends.len() as u64).max(1);
        let (lap, step) = (turn / count, turn % count);
        // The jump and the step are below 2^32, as ids are.
        let point = step * self.jump % count;
        let shift = (lap.wrapping_mul(GOLDEN).wrapping_add(HALF) >> 11) as f64 / (1u64 << 53) as f64;
        let at = (point as f64 + shift) / count as f64;
        self.ends.partition_point(|&end| end <= at).min(self.ends.len().saturating_sub(1))
    }
}

/// The number nearest above the golden section of `count` that is coprime to it.
fn jump(count: u64) -> u64 {
    let golden = (count as f64 * 0.618_033_988_749_895) as u64;
    (golden.max(1)..).find(|&jump| coprime(jump, count)).unwrap_or(1)
}

fn coprime(mut a: u64, mut b: u64) -> bool {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

/// 2^64 times the golden section.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
/// Points begin in the middle of their stretch: at its edge, rounding would decide whose turn it is.
const HALF: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn with_equal_weights_every_lap_visits_each_once() {
        for count in [1, 2, 3, 4, 5, 7, 10, 100, 1_000] {
            let turns = Turns::new(&vec![3.0; count]);
            for lap in [0, 1, 2, 50, 1_000_003] {
                let mut visited: Vec<_> = (0..count).map(|n| turns.at((lap * count + n) as u64)).collect();
                visited.sort_unstable();
                assert_eq!(visited, (0..count).collect::<Vec<_>>(), "lap {lap} of {count}");
            }
        }
    }

    #[test]
    fn any_turn_is_somebodys() {
        assert_eq!(Turns::default().at(u64::MAX), 0);
        assert!(Turns::new(&[1.0, 0.0, 2.0]).at(u64::MAX) < 3);
    }

    #[test]
    fn a_heavy_one_is_not_asked_many_times_running() {
        let mut weights = vec![1.0; 11];
        weights[0] = 10.0;
        let turns = Turns::new(&weights);
        let mut had = 0.0;
        for turn in 1..=10_000 {
            had += f64::from(u8::from(turns.at(turn) == 0));
            let due = turn as f64 * 10.0 / 20.0;
            assert!((had - due).abs() < 3.0, "turn {turn}: {had} instead of {due}");
        }
    }

    proptest! {
        /// After any number of turns, each member had its share of them to within a few.
        #[test]
        fn nobody_is_ahead_or_behind_by_more_than_a_few(
            weights in prop::collection::vec(1u32..100, 1..20), start in 0u64..1_000_000,
        ) {
            let weights: Vec<_> = weights.into_iter().map(f64::from).collect();
            let sum: f64 = weights.iter().sum();
            let turns = Turns::new(&weights);
            let mut had = vec![0.0; weights.len()];
            for turn in 1..=5_000u64 {
                had[turns.at(start + turn)] += 1.0;
                for (had, weight) in had.iter().zip(&weights) {
                    let due = turn as f64 * weight / sum;
                    prop_assert!((had - due).abs() < 5.0, "turn {turn}: {had} instead of {due}");
                }
            }
        }
    }
}
