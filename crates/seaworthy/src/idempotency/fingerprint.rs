//! Fingerprints: whether two requests under one key are the same.

use seaworthy_core::idempotency::Fingerprint;
use sha2::{Digest as _, Sha256};

/// The fingerprint of what an operation is asked to do: SHA-256 of the parts, each with its length, so that no two lists of parts
/// have the same.
///
/// Of a payment: who pays whom, how much, in which currency. What differs when the same is asked for again (the time, a number of the
/// request) is no part of it. A constant in its place would let a key that was reused by mistake have another operation's result.
///
/// ```
/// use seaworthy::idempotency::fingerprint;
///
/// let payment = fingerprint(&[b"ada", b"grace", &1000_u64.to_be_bytes(), b"EUR"]);
/// assert_ne!(payment, fingerprint(&[b"ada", b"grace", &9000_u64.to_be_bytes(), b"EUR"]));
/// ```
#[must_use]
pub fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    let mut all = Parts::default();
    parts.iter().for_each(|part| all.part(part));
    all.finish()
}

/// A fingerprint that is being taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    hash: Sha256,
}

impl Parts {
    /// With its length, so that no two lists of parts are the same bytes.
    pub(super) fn part(&mut self, part: &[u8]) {
        self.number(part.len());
        self.bare(part);
    }

    pub(super) fn number(&mut self, number: usize) {
        self.hash.update((number as u64).to_le_bytes());
    }

    /// Without its length: the last one, in as many pieces as it comes in.
    pub(super) fn bare(&mut self, piece: &[u8]) {
        self.hash.update(piece);
    }

    pub(super) fn finish(self) -> Fingerprint {
        Fingerprint(self.hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lists_of_parts_have_the_same() {
        let lists: [&[&[u8]]; 7] =
            [&[], &[b""], &[b"", b""], &[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[b"c", b"ab"]];
        for (n, one) in lists.iter().enumerate() {
            for (m, other) in lists.iter().enumerate() {
                assert_eq!(fingerprint(one) == fingerprint(other), n == m, "{one:?} {other:?}");
            }
        }
    }

    /// Records outlive a version of this library.
    #[test]
    fn it_stays_what_it_is() {
        let mut bytes = Vec::new();
        for part in ["ada", "7"] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part.as_bytes());
        }
        assert_eq!(fingerprint(&[b"ada", b"7"]), Fingerprint(Sha256::digest(bytes).into()));
    }
}
