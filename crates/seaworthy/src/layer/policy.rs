//! The layers that are one policy alone.

use seaworthy_core::call::{budget, hedge, retry, timeout};
use seaworthy_core::gate::{breaker, bulkhead, limit, queue, rate, throttle};
use seaworthy_core::{Fault, Mode};
use tower_layer::Layer;

use super::service::{Resilient, Standard};
use crate::caller::Anybody;
use crate::classify::Plain;
use crate::pipeline::{Config, Pipeline, off};

macro_rules! policy_layer {
    ($(#[$doc:meta])* $name:ident, $label:literal, |$config:ident: $numbers:ty| $set:block) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name<C = Plain, B = Anybody>(Standard<C, B>);

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

        impl<C, B> $name<C, B> {
            /// The same, with another meaning of requests and results, such as [`Http`](crate::classify::Http).
            #[must_use]
            pub fn classified<D>(self, classify: D) -> $name<D, B> {
                $name(self.0.classified(classify))
            }

            /// The same, for requests of several callers; see [`Standard::callers`].
            #[must_use]
            pub fn callers<D>(self, callers: D) -> $name<C, D> {
                $name(self.0.callers(callers))
            }

            /// The pipeline in which only this policy is on, for its snapshots, events and overrides.
            #[must_use]
            pub const fn pipeline(&self) -> &Pipeline {
                self.0.pipeline()
            }
        }

        impl<S, C: Clone, B: Clone> Layer<S> for $name<C, B> {
            type Service = Resilient<S, C, B>;

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
    /// At most so many requests of each client in a while; [`callers`](Rate::callers) tells them apart. See
    /// [`gate::rate`](seaworthy_core::gate::rate).
    Rate, "rate", |numbers: rate::Config| { Config { rate: Some(numbers), ..off() } }
}

policy_layer! {
    /// At most so many requests in flight; the others are refused at once. See [`gate::limit`](seaworthy_core::gate::limit).
    Limit, "limit", |numbers: limit::Config| { Config { limit: numbers, ..off() } }
}

policy_layer! {
    /// At most so many requests in flight, and a queue of those that wait for a place; [`callers`](Queue::callers) tells how much
    /// each matters. See [`gate::queue`](seaworthy_core::gate::queue).
    Queue, "queue", |numbers: (limit::Config, queue::Config)| {
        let (limit, queue) = numbers;
        Config { limit, queue, ..off() }
    }
}

policy_layer! {
    /// Requests that are not sent because the service refuses so many. See [`gate::throttle`](seaworthy_core::gate::throttle). What a
    /// refusal is, [`classified`](Throttle::classified) tells: [`Plain`] takes nothing for one.
    Throttle, "throttle", |numbers: throttle::Config| { Config { throttle: numbers, ..off() } }
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
