//! How much calls matter, and what guards a service, as text.

use std::collections::BTreeMap;
use std::time::Duration;

use seaworthy_core::gate::{limit, queue};
use seaworthy_core::{Criticality, Rules as _, Valid};
use serde::Deserialize;
use toml::Spanned;

use super::{Found, Time};
use crate::mix::Mix;
use crate::service::Guard;

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGuard {
    size: Option<u32>,
    max_wait: Option<Time>,
    overload_after: Option<Time>,
    takes: Option<Time>,
}

impl RawGuard {
    fn queue(self) -> queue::Config {
        let usual = queue::Config::default();
        let or = |time: Option<Time>, usual| time.map_or(usual, |Time(time)| time);
        queue::Config {
            size: self.size.unwrap_or(usual.size),
            max_wait: or(self.max_wait, usual.max_wait),
            overload_after: or(self.overload_after, usual.overload_after),
            ..usual
        }
    }
}

impl Found<'_> {
    /// The shares of the calls by criticality; if there is an error, any.
    pub(super) fn mix(&mut self, raw: Option<&Spanned<BTreeMap<Spanned<String>, f64>>>) -> Mix {
        let Some(raw) = raw else { return Mix::default() };
        let mut shares = [0.0; Criticality::ALL.len()];
        for (name, share) in raw.get_ref() {
            match name.get_ref().parse::<Criticality>() {
                Ok(level) => shares[level.rank()] += share,
                Err(error) => {
                    let message = format!("{:?} {error}", name.get_ref());
                    self.error(
                        name.span(),
                        message,
                        "write such as mix = { critical = 0.3, sheddable = 0.7 }",
                    );
                    return Mix::default();
                }
            }
        }
        Mix::new(shares).unwrap_or_else(|| {
            let message = "clients.mix has no shares: some is negative, or all are 0".to_owned();
            self.error(raw.span(), message, "write such as mix = { critical = 0.3, sheddable = 0.7 }");
            Mix::default()
        })
    }

    /// A limit of as many requests as there are servers, and a queue before it.
    pub(super) fn guard(&mut self, raw: &Spanned<RawGuard>, servers: Option<&Spanned<u32>>) -> Option<Guard> {
        let Some(servers) = servers else {
            let message = "service.guard needs service.servers".to_owned();
            self.error(
                raw.span(),
                message,
                "write how many requests it works on at once, such as servers = 4",
            );
            return None;
        };
        let queue = raw.get_ref().queue();
        for fault in queue.faults() {
            let message = format!("service.guard.{} {}", fault.field, fault.problem);
            self.error(raw.span(), message, &fault.remedy);
        }
        let limit = limit::Config { max_in_flight: *servers.get_ref(), ..limit::Config::default() };
        let takes = raw.get_ref().takes.map_or(Duration::ZERO, |Time(takes)| takes);
        // If there are no servers, that is said of them.
        Some(Guard { limit: Valid::new(limit).ok()?, queue: Valid::new(queue).ok()?, takes })
    }
}
