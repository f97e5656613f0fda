//! The layers that are one policy alone.

use seaworthy_core::call::{budget, hedge, retry, timeout};
use seaworthy_core::gate::{breaker, bulkhead, limit};
use seaworthy_core::{Fault, Mode};
use tower_layer::Layer;

use super::service::{Resilient, Standard};
use crate::classify::Plain;
use crate::pipeline::{Config, Pipeline, off};

macro_rules! policy_layer {
    ($(#[$doc:meta])* $name:ident, $label:literal, |$config:ident: $numbers:ty| $set:block) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name<C = Plain>(Standard<C>);

        impl $name {
            /// The layer with these numbers.
            ///
            /// # Errors
            /// Everything that is wrong with them, at once.
            pub fn new(numbers: $numbers) -> Result<Self, Vec<Fault>> {
                let set = |$config: $numbers| -> Config { $set };
                Ok(Self(Standard::new(Pipeline::with($label, set(numbers))?)))
            }
        }

        impl<C> $name<C> {
            /// The same, with another meaning of requests and results, such as [`Http`](crate::classify::Http).
            #[must_use]
            pub fn classified<D>(self, classify: D) -> $name<D> {
                $name(self.0.classified(classify))
            }

            /// The pipeline in which only this policy is on, for its snapshots, events and overrides.
            #[must_use]
            pub const fn pipeline(&self) -> &Pipeline {
                self.0.pipeline()
            }
        }

        impl<S, C: Clone> Layer<S> for $name<C> {
            type Service = Resilient<S, C>;

            fn layer(&self, service: S) -> Self::Service {
                self.0.layer(service)
            }
        }
    };
}

policy_layer! {
    /// A breaker around every request. See [`gate::breaker`](seaworthy_core::gate::breaker).
    Breaker, "breaker", |numbers: breaker::Config| { Config { breaker: numbers, ..off() } }
}

policy_layer! {
    /// At most so many requests in flight. See [`gate::limit`](seaworthy_core::gate::limit).
    Limit, "limit", |numbers: limit::Config| { Config { limit: numbers, ..off() } }
}

policy_layer! {
    /// Places with bounded waiting. See [`gate::bulkhead`](seaworthy_core::gate::bulkhead).
    Bulkhead, "bulkhead", |numbers: bulkhead::Config| { Config { bulkhead: Some(numbers), ..off() } }
}

policy_layer! {
    /// A timeout that follows the latencies. See [`call::timeout`](seaworthy_core::call::timeout).
    Timeout, "timeout", |numbers: timeout::Config| {
        let mut config = off();
        config.call.timeout = numbers;
        config
    }
}

policy_layer! {
    /// Further attempts after failures, within a budget. See [`call::retry`](seaworthy_core::call::retry).
    Retry, "retry", |numbers: (retry::Config, budget::Config)| {
        let mut config = off();
        (config.call.retry, config.call.budget) = numbers;
        config
    }
}

policy_layer! {
    /// Further attempts beside slow ones, within a budget. See [`call::hedge`](seaworthy_core::call::hedge). The delay is
    /// learned as a timeout is, over [`timeout::Config::default`]'s window. It is on, and observes only if `mode` says so.
    Hedge, "hedge", |numbers: hedge::Config| {
        let mut config = off();
        // It is off by default for those who did not ask for it. Who only wants to watch it has said so.
        let mode = if numbers.mode == Mode::Observe { Mode::Observe } else { Mode::Enforce };
        config.call.hedge = hedge::Config { mode, ..numbers };
        config
    }
}
