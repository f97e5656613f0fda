//! Whose a key is.

use std::fmt;
use std::sync::Arc;

use http::header::HeaderName;
use http::request::Parts;

/// What tells the clients of an [`Idempotency`](super::Idempotency) layer apart, so that none meets another's keys, or is given another's
/// answer. Whatever it goes by must be the same whenever a client repeats a request, so take what lasts: an account or an API
/// key, and not a session that is renewed. Only a hash of it is kept.
#[derive(Clone)]
pub struct Clients {
    name: &'static str,
    of: Of,
}

type Of = Arc<dyn Fn(&Parts) -> Vec<u8> + Send + Sync>;

impl Clients {
    /// By the value of a header; those without it are one client. It is worth as much as whoever verifies it.
    #[must_use]
    pub fn by_header(name: HeaderName) -> Self {
        let of = move |parts: &Parts| {
            parts.headers.get(&name).map(|value| value.as_bytes().to_vec()).unwrap_or_default()
        };
        Self { name: "by_header", of: Arc::new(of) }
    }

    /// By whatever this finds in a request, such as the account that an outer layer has put into its extensions.
    #[must_use]
    pub fn by(of: impl Fn(&Parts) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self { name: "by", of: Arc::new(of) }
    }

    /// There is one client, or all may have each other's answers: a key is the same whoever sends it.
    #[must_use]
    pub fn one() -> Self {
        Self { name: "one", of: Arc::new(|_| Vec::new()) }
    }

    pub(super) fn of(&self, parts: &Parts) -> Vec<u8> {
        (self.of)(parts)
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
