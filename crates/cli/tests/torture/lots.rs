//! Everything that is left to chance comes from one seed.

use std::hash::{BuildHasher, RandomState};

/// Draws lots: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(crate) struct Lots(u64);

impl Lots {
    /// Of a seed, and for somebody in particular: `who` draws nothing that another does.
    pub(crate) fn new(seed: u64, who: &str) -> Self {
        let mut lots = Self(seed);
        for byte in who.bytes() {
            lots.0 = lots.next() ^ u64::from(byte);
        }
        lots
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to and without `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Whether it is one of so many in a hundred.
    pub(crate) fn percent(&mut self, of_a_hundred: u64) -> bool {
        self.below(100) < of_a_hundred
    }
}

/// The seed of this run: `SEAWORTHY_TORTURE_SEED`, or a new one.
pub(crate) fn seed() -> u64 {
    match std::env::var("SEAWORTHY_TORTURE_SEED") {
        Ok(text) => text.parse().expect("SEAWORTHY_TORTURE_SEED is a number"),
        Err(_) => RandomState::new().hash_one(0),
    }
}
