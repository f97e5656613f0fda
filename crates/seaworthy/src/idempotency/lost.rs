//! Results of which it is known that they were had, and whose bodies could not be kept.
//!
//! A result is not unknown because the store had no room for it, or lost a piece: that would have it carried out again where that
//! was chosen, and an operator look for what this process knew. So it is written down without its body. A zero byte before its head
//! says that; the heads of HTTP begin with something else, and those of a program have to.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::store::{Answer, CHUNK_BYTES, Settled};

impl Answer {
    /// Whether its body is kept. What is not whole was carried out, and its result can't be had any more.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !read(&self.head).0
    }

    /// What is kept of it where its body can't be.
    pub(super) fn without_body(&self) -> Self {
        let mut head = BytesMut::with_capacity(1 + self.head.len());
        head.put_u8(LOST);
        // No store takes more.
        if self.head.len() < CHUNK_BYTES {
            head.put_slice(&self.head);
        }
        Self { head: head.freeze(), ..Self::default() }
    }
}

impl Settled {
    /// The same without the body that it has.
    pub(super) fn without_body(&self) -> Option<Self> {
        match self {
            Self::Done(answer) if answer.is_whole() => Some(Self::Done(answer.without_body())),
            _ => None,
        }
    }

    /// The same without anything that takes room.
    pub(super) fn bare(&self) -> Self {
        match self {
            Self::Done(_) => Self::Done(Answer { head: Bytes::from_static(&[LOST]), ..Answer::default() }),
            other => other.clone(),
        }
    }
}

/// Whether the body is lost, and the head as it was.
pub(super) fn read(head: &[u8]) -> (bool, &[u8]) {
    match head.split_first() {
        Some((&LOST, head)) => (true, head),
        _ => (false, head),
    }
}

/// What stands before the head of a result whose body is lost.
const LOST: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_outlives_its_body_as_far_as_a_store_takes_it() {
        for (length, left) in [(0, 0), (7, 7), (CHUNK_BYTES - 1, CHUNK_BYTES - 1), (CHUNK_BYTES, 0)] {
            let head = Bytes::from(vec![1; length]);
            let whole = Answer { head, body: Bytes::from_static(b"body"), chunks: 3 };
            let lost = Settled::Done(whole).without_body();
            let Some(Settled::Done(lost)) = lost else { panic!("it was done") };
            assert_eq!((lost.is_whole(), lost.body.len(), lost.chunks), (false, 0, 0));
            assert_eq!(read(&lost.head), (true, &[1; CHUNK_BYTES][..left]));
            assert!(lost.head.len() <= CHUNK_BYTES);
            assert_eq!(Settled::Done(lost).without_body(), None, "there is nothing left to leave out");
        }
        assert_eq!(Settled::Unknown.without_body(), None);
        assert_eq!(Settled::Free.bare(), Settled::Free);
    }
}
