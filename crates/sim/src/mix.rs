//! How much the calls of a client matter.

use seaworthy_core::{Criticality, Rng};

/// The shares of a client's calls by criticality.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Mix([f64; LEVELS]);

impl Mix {
    /// The shares in the order of [`Criticality::ALL`], in whatever proportion; `None` if one is negative or no number, or all
    /// are 0.
    #[must_use]
    pub fn new(shares: [f64; LEVELS]) -> Option<Self> {
        let sum: f64 = shares.iter().sum();
        let good = sum > 0.0 && sum.is_finite() && shares.iter().all(|share| *share >= 0.0);
        good.then(|| Self(shares.map(|share| share / sum)))
    }

    /// All calls alike.
    #[must_use]
    pub fn only(criticality: Criticality) -> Self {
        let mut shares = [0.0; LEVELS];
        shares[criticality.rank()] = 1.0;
        Self(shares)
    }

    /// Whether calls differ.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.0.iter().filter(|share| **share > 0.0).count() > 1
    }

    /// The criticality of one call. Of calls that don't differ, none is left to chance.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> Criticality {
        let mut left = if self.is_mixed() { rng.unit() } else { 0.0 };
        let mut last = Criticality::default();
        for (level, share) in Criticality::ALL.into_iter().zip(self.0).filter(|(_, share)| *share > 0.0) {
            if left < share {
                return level;
            }
            left -= share;
            last = level;
        }
        // Shares that add up to a hair less than 1.
        last
    }
}

/// All calls are as calls are that nothing is known of.
impl Default for Mix {
    fn default() -> Self {
        Self::only(Criticality::default())
    }
}

const LEVELS: usize = Criticality::ALL.len();

#[cfg(test)]
mod tests {
    use seaworthy_core::Seeded;

    use super::*;

    #[test]
    fn levels_are_drawn_by_their_shares() {
        let mix = Mix::new([0.0, 3.0, 0.0, 1.0]).unwrap();
        let mut rng = Seeded::new(1);
        let mut counts = [0u32; LEVELS];
        (0..10_000).for_each(|_| counts[mix.draw(&mut rng).rank()] += 1);
        assert_eq!((counts[0], counts[2]), (0, 0));
        assert!((7_350..=7_650).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn calls_that_do_not_differ_cost_no_chance() {
        let mut rng = Seeded::new(1);
        assert_eq!(Mix::only(Criticality::Sheddable).draw(&mut rng), Criticality::Sheddable);
        assert_eq!(rng, Seeded::new(1));
    }

    #[test]
    fn what_are_no_shares_is_no_mix() {
        for bad in
            [[0.0; 4], [1.0, -0.5, 0.0, 0.0], [f64::NAN, 1.0, 0.0, 0.0], [f64::INFINITY, 0.0, 0.0, 0.0]]
        {
            assert_eq!(Mix::new(bad), None);
        }
    }
}
