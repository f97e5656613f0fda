//! Requests that are carried out once however often they come: those with an idempotency key, where the route honours it.

mod body;
mod once;
mod store;
mod watched;

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderName, Method, StatusCode};
use seaworthy::idempotency::http::{FENCING_TOKEN, Keep, Print, Problem, key};
use seaworthy::idempotency::{Busy, Config, Id, Key, Keys, OnUnknown, Store, WhenDown};
use seaworthy_config::{self as settings, RouteIdempotency};
use seaworthy_core::Valid;
use seaworthy_core::call::Repeat;

use crate::client::Client;
use crate::head::Asked;
use crate::standing;
use crate::worker::Worker;

pub(crate) use body::Kept;
pub(crate) use store::{Clerk, KeyStore, open};

/// The keys of one route, shared by all workers.
#[derive(Debug)]
pub(crate) struct RouteKeys {
    /// What was asked for under them.
    pub keys: Keys,
    /// With these a key is honoured.
    methods: Vec<Method>,
    /// With these there has to be one.
    required: Vec<Method>,
    /// What carries it.
    header: HeaderName,
    /// What makes a request the same besides method, host, target and body.
    counted: Vec<HeaderName>,
    /// Which answers are kept.
    keep: Keep,
    /// With which of their headers.
    replayed: Vec<HeaderName>,
    /// The longest body that is kept.
    answer_bytes: u64,
    /// The longest body of a request.
    request_bytes: u64,
}

/// What a request asks of its key.
pub(crate) enum Wish {
    /// It has none, and needs none.
    Nothing,
    /// To be carried out once.
    Once(Key),
    /// What is wrong with it.
    Wrong(Problem),
}

impl RouteKeys {
    /// The keys of a route with these `rules`, kept in `store`.
    pub(crate) fn new(rules: &RouteIdempotency, store: Arc<dyn Store>, kept_in: &settings::KeyStore) -> Self {
        let config = Config {
            lease: rules.lease,
            retention: rules.retention,
            on_unknown: rules.unknown,
            busy: match rules.busy {
                settings::Busy::Refuse => Busy::Refuse,
                settings::Busy::Wait(most) => Busy::Wait(most),
            },
            when_down: match rules.when_down {
                settings::WhenStoreDown::Refuse => WhenDown::Refuse,
                settings::WhenStoreDown::Allow => WhenDown::Allow,
            },
            store_timeout: kept_in.timeout,
        };
        Self {
            // The settings were checked by stricter rules.
            keys: Keys::new(store, Valid::new(config).unwrap_or_default()),
            methods: methods(&rules.methods),
            required: methods(&rules.required),
            header: names([&rules.header]).pop().unwrap_or(seaworthy::idempotency::http::IDEMPOTENCY_KEY),
            counted: names(&rules.fingerprint_headers),
            keep: match rules.keep {
                settings::Keep::Definite => Keep::Definite,
                settings::Keep::NoServerErrors => Keep::NoServerErrors,
                settings::Keep::All => Keep::All,
            },
            replayed: names(&rules.replay_headers),
            answer_bytes: rules.answer_bytes,
            request_bytes: rules.request_bytes,
        }
    }

    /// What the request asks for. A token of its caller's is taken off it, key or no key: it would pass for this proxy's.
    pub(crate) fn wish(&self, asked: &mut Asked) -> Wish {
        asked.headers.remove(FENCING_TOKEN);
        if !self.methods.contains(&asked.method) {
            return Wish::Nothing;
        }
        let key = match key(&asked.headers, &self.header) {
            Ok(Some(key)) => key,
            Ok(None) if self.required.contains(&asked.method) => {
                return Wish::Wrong(Problem::missing(&self.header));
            }
            Ok(None) => return Wish::Nothing,
            Err(error) => return Wish::Wrong(Problem::malformed(error)),
        };
        if asked.grpc || asked.upgrade {
            // Their answers are more than a head and a body; a key that is not honoured is worse than none.
            let detail = "an idempotency key can't be honoured with gRPC or an upgrade".to_owned();
            return Wish::Wrong(Problem { status: StatusCode::BAD_REQUEST, detail, retry_after: None });
        }
        Wish::Once(key)
    }

    /// Which operation it is.
    fn id(home: &Worker, route: usize, asked: &Asked, client: &Client, key: &Key) -> Id {
        let whose = standing::who(route, asked, client).unwrap_or_default();
        Id::new(&home.site.config.routes[route].name, &whose, key.as_str())
    }

    /// The fingerprint of all but the body.
    fn print(&self, asked: &Asked) -> Print {
        Print::new(&asked.method, asked.host.as_bytes(), asked.target.as_str(), &asked.headers, &self.counted)
    }

    /// Whether its attempts may be repeated: only where the upstream was promised to know keys, as a key that this proxy
    /// honours says nothing of what the upstream does with two attempts.
    fn repeat(&self, usual: Repeat) -> Repeat {
        match (usual, self.keys.config().on_unknown) {
            (Repeat::Never, _) | (_, OnUnknown::Refuse) => Repeat::Never,
            (_, OnUnknown::Retry) => Repeat::Keyed,
        }
    }
}

/// Keeps a worker from ending while an operation runs whose client may be gone.
struct Stay {
    home: Rc<Worker>,
    number: u64,
}

impl Stay {
    fn with(home: &Rc<Worker>) -> Self {
        // There is nothing to be woken for: it ends by itself.
        let number = home.enter(std::task::Waker::noop().clone());
        Self { home: home.clone(), number }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.home.leave(self.number);
    }
}

fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<HeaderName> {
    // The settings hold no name that is none.
    names.into_iter().filter_map(|name| HeaderName::try_from(name).ok()).collect()
}

fn methods(names: &[&'static str]) -> Vec<Method> {
    names.iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect()
}
