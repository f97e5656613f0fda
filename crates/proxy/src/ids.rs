//! Request ids and trace contexts.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use seaworthy_core::{Rng, Seeded};

/// Makes ids. They need to be unlikely to collide, not to be unguessable.
#[derive(Debug)]
pub(crate) struct Ids {
    rng: Seeded,
    /// Ids are cut from a block, so that making one does not allocate.
    block: BytesMut,
}

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Seeded::new(seed), block: BytesMut::new() }
    }

    /// A number for whatever needs to be random in a call.
    pub(crate) fn draw(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// A new request id: 128 bits in lower-case hexadecimal.
    pub(crate) fn request_id(&mut self) -> HeaderValue {
        let bits = u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64());
        self.value(format_args!("{bits:032x}"))
    }

    /// A new trace context (W3C Trace Context, section 3.2): version 0, not sampled, as nobody has asked for it.
    pub(crate) fn traceparent(&mut self) -> HeaderValue {
        // An id of zeros is invalid; one chance in 2^64 that the other bits don't save it.
        let trace = u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64() | 1);
        let parent = self.rng.next_u64() | 1;
        self.value(format_args!("00-{trace:032x}-{parent:016x}-00"))
    }

    /// `text` as a header value; what can't be one is left empty.
    pub(crate) fn value(&mut self, text: std::fmt::Arguments<'_>) -> HeaderValue {
        if self.block.capacity() < LONGEST {
            self.block = BytesMut::with_capacity(BLOCK);
        }
        // Writing to a buffer that grows can't fail.
        let _ = self.block.write_fmt(text);
        let bytes: Bytes = self.block.split().freeze();
        HeaderValue::from_maybe_shared(bytes).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Whether a caller's request id may go on: short, and safe to print wherever it turns up.
pub(crate) fn is_fit(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=128).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b))
}

/// The trace id within a trace context, if that is well formed.
pub(crate) fn trace_id(traceparent: &HeaderValue) -> Option<&str> {
    let text = traceparent.to_str().ok()?;
    let id = text.get(3..35)?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let framed = text.as_bytes()[2] == b'-' && text.as_bytes().get(35) == Some(&b'-');
    (framed && id.bytes().all(hex) && id.bytes().any(|b| b != b'0')).then_some(id)
}

/// Room for about a hundred ids.
const BLOCK: usize = 8 * 1024;
/// Longer than every value made here.
const LONGEST: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_context_is_well_formed() {
        let mut ids = Ids::new(1);
        let made = ids.traceparent();
        assert_eq!(made.len(), 55);
        assert_eq!(trace_id(&made).map(str::len), Some(32));
    }

    #[test]
    fn ids_differ() {
        let mut ids = Ids::new(1);
        let (a, b) = (ids.request_id(), ids.request_id());
        assert_eq!(a.len(), 32);
        assert_ne!(a, b);
        assert!(is_fit(&a));
    }

    #[test]
    fn ids_that_could_break_a_log_are_not_kept() {
        for bad in ["", "a b", "x\"y", &"x".repeat(129)] {
            assert!(!is_fit(&HeaderValue::from_str(bad).unwrap()), "{bad}");
        }
    }

    #[test]
    fn a_context_of_zeros_or_of_another_form_has_no_id() {
        let zeros = format!("00-{}-{}-00", "0".repeat(32), "1".repeat(16));
        for bad in ["", "00", "hello", &zeros] {
            assert_eq!(trace_id(&HeaderValue::from_str(bad).unwrap()), None);
        }
    }
}
