//! Drawing by weight in constant time.
//!
//! Walker's alias method in Vose's form (Vose, "A Linear Algorithm for Generating Random Numbers with a Given
//! Distribution", 1991): every place has the same chance and belongs to at most two, the threshold tells whose it is.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// What is drawn from.
#[derive(Clone, Debug, Default)]
pub(super) struct Alias {
    places: Box<[Place]>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Below this share of 2^32 it is its own.
    threshold: u32,
    /// Whose it is above.
    other: u32,
}

impl Alias {
    /// Each index is drawn in proportion to its weight. The weights are finite and not negative; if none is positive, all
    /// are drawn alike.
    pub(super) fn new(weights: &[f64]) -> Self {
        let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
        let mut scaled: Vec<f64> =
            weights.iter().map(|weight| if mean > 0.0 { weight / mean } else { 1.0 }).collect();
        let mut places = vec![Place { threshold: u32::MAX, other: 0 }; weights.len()];
        let (mut small, mut large): (Vec<_>, Vec<_>) = (0..scaled.len()).partition(|&n| scaled[n] < 1.0);
        while let (Some(&rich), Some(poor)) = (large.last(), small.pop()) {
            places[poor] = Place { threshold: (scaled[poor] * TWO_32) as u32, other: rich as u32 };
            scaled[rich] -= 1.0 - scaled[poor];
            if scaled[rich] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        // Whoever is left is within a rounding error of 1.
        for n in small.into_iter().chain(large) {
            places[n].other = n as u32;
        }
        Self { places: places.into_boxed_slice() }
    }

    /// The index that 64 random bits draw; 0 if there is none.
    pub(super) fn draw(&self, bits: u64) -> usize {
        let place = ((bits >> 32) * self.places.len() as u64) >> 32;
        match self.places.get(place as usize) {
            Some(found) if bits as u32 >= found.threshold => found.other as usize,
            _ => place as usize,
        }
    }
}

const TWO_32: f64 = 4_294_967_296.0;

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;
    use crate::{Rng, Seeded};

    /// The chance of each index, exactly.
    fn chances(alias: &Alias) -> Vec<f64> {
        let mut chances = vec![0.0; alias.places.len()];
        let one = 1.0 / alias.places.len() as f64;
        for (n, place) in alias.places.iter().enumerate() {
            let own = f64::from(place.threshold) / TWO_32;
            chances[n] += one * own;
            chances[place.other as usize] += one * (1.0 - own);
        }
        chances
    }

    #[test]
    fn nothing_draws_the_first_of_nothing() {
        assert_eq!(Alias::default().draw(u64::MAX), 0);
        assert_eq!(Alias::new(&[0.0, 0.0]).draw(u64::MAX), 1);
    }

    #[test]
    fn draws_follow_the_chances() {
        let (alias, mut rng) = (Alias::new(&[1.0, 2.0, 7.0]), Seeded::new(1));
        let mut counts = [0u32; 3];
        (0..100_000).for_each(|_| counts[alias.draw(rng.next_u64())] += 1);
        for (count, expected) in counts.into_iter().zip([10_000, 20_000, 70_000]) {
            assert!(count.abs_diff(expected) < 600, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn the_chances_are_the_weights(weights in prop::collection::vec(0.0f64..1e6, 1..200)) {
            let sum: f64 = weights.iter().sum();
            prop_assume!(sum > 0.0);
            for (chance, weight) in chances(&Alias::new(&weights)).into_iter().zip(&weights) {
                prop_assert!((chance - weight / sum).abs() < 1e-8, "{chance} for {weight} of {sum}");
            }
        }
    }
}
