//! Whose a call is, and how much it matters: what decides who is served when not all can be.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::OnceLock;

use seaworthy_core::Criticality;

/// Whose a call is, and how much it matters. By default it matters as much as a call of which nobody has said anything
/// ([`Criticality::Critical`]), and is of the one client that all such calls are of.
///
/// ```
/// use seaworthy::{Caller, Criticality};
/// let nightly = Caller::new(Criticality::Sheddable).client("reports");
/// assert_eq!(nightly.client, Caller::default().client("reports").client);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Caller {
    /// How much the call matters: what matters more goes first in the queue, and is throttled last.
    pub criticality: Criticality,
    /// The key of the client, which has its own turns in the queue and its own rate. Best made by [`client`](Self::client).
    pub client: u64,
}

impl Caller {
    /// A call that matters so much, of nobody in particular.
    #[must_use]
    pub const fn new(criticality: Criticality) -> Self {
        Self { criticality, client: 0 }
    }

    /// The same, of the client that `name` tells apart: a user, a tenant, an address.
    ///
    /// The key is a hash that each process seeds anew. So nobody can choose names that share a key; and a key is not to be kept
    /// or sent.
    #[must_use]
    pub fn client(self, name: impl Hash) -> Self {
        static SEED: OnceLock<RandomState> = OnceLock::new();
        Self { client: SEED.get_or_init(RandomState::new).hash_one(name), ..self }
    }
}

/// Tells of a request whose it is. Any `Fn(&R) -> Caller` does.
pub trait Callers<R> {
    /// Whose `request` is, and how much it matters.
    fn caller(&self, request: &R) -> Caller;
}

impl<R, F: Fn(&R) -> Caller> Callers<R> for F {
    fn caller(&self, request: &R) -> Caller {
        self(request)
    }
}

/// All requests are alike, and of one client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Anybody;

impl<R> Callers<R> for Anybody {
    fn caller(&self, _request: &R) -> Caller {
        Caller::default()
    }
}

/// The [`Caller`] that somebody further out, such as who has read the credentials, has put into the request's extensions; without
/// one it is [`Anybody`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FromExtensions;

impl<B> Callers<http::Request<B>> for FromExtensions {
    fn caller(&self, request: &http::Request<B>) -> Caller {
        request.extensions().get().copied().unwrap_or_default()
    }
}
