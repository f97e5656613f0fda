//! What a call passes before it goes anywhere: the doors of its listener, its route and its upstream.
//!
//! Every call passes them in this order, so no two calls that hold a place at one door and wait at another wait for each other.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use seaworthy::shared::door::{Door, Entering};
use seaworthy_core::gate::limit::Permit;
use seaworthy_core::gate::queue::Asking;
use seaworthy_core::{Instant, Outcome, Rejection, What, Why};

use crate::task::HasClock;
use crate::worker::Worker;

/// Whose doors a call passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The address that it came to, by place in the configuration.
    pub listener: usize,
    /// Its route.
    pub route: usize,
    /// The upstream that is to answer: its route's, or another in its place.
    pub upstream: usize,
}

impl Way {
    fn doors(self, home: &Worker) -> [Option<&Door>; DOORS] {
        let site = &home.site;
        [
            site.listeners.get(self.listener).and_then(Option::as_ref),
            site.routes[self.route].door.as_ref(),
            Some(&home.service(self.upstream).door),
        ]
    }
}

/// The permits that a call holds until it ends.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    permits: [Option<Permit>; DOORS],
    /// When the last door let it in.
    since: Instant,
}

impl Pass {
    /// Waits until every door on the way has let the call in; what would have refused it, were it not only observing, is noted.
    ///
    /// # Errors
    /// The refusal of the first door that doesn't. What the others gave stays in the pass.
    pub(crate) async fn enter(
        &mut self,
        home: &Worker,
        way: Way,
        asking: Asking,
        why: &mut Why,
    ) -> Result<(), Rejection> {
        let since = home.clock().now();
        for (door, permit) in way.doors(home).into_iter().zip(&mut self.permits) {
            let Some(door) = door else { continue };
            let mut waiting = Waiting { home, door, entering: Entering::new() };
            let got = poll_fn(|cx| waiting.poll(asking, cx)).await?;
            if let Some(rejection) = got.shadow() {
                why.note(home.clock().now().since(since), 0, What::WouldReject(rejection));
            }
            *permit = Some(got);
        }
        self.since = home.clock().now();
        Ok(())
    }

    /// Gives the permits back. The upstream's limit learns from how the call ended, `took` after it had been let in.
    pub(crate) fn settle(&mut self, home: &Worker, way: Way, outcome: Outcome, head: Option<Instant>) {
        let now = home.clock().now();
        // What a client takes to read its answer says nothing of the upstream.
        let took: Duration = head.unwrap_or(now).since(self.since);
        for (door, permit) in way.doors(home).into_iter().zip(&mut self.permits) {
            if let (Some(door), Some(permit)) = (door, permit.take()) {
                door.settle(now, permit, outcome, took);
            }
        }
    }
}

/// A call before a door; leaves the queue if it is dropped.
struct Waiting<'a> {
    home: &'a Worker,
    door: &'a Door,
    entering: Entering,
}

impl Waiting<'_> {
    fn poll(&mut self, asking: Asking, cx: &mut Context<'_>) -> Poll<Result<Permit, Rejection>> {
        let polled = self.entering.poll(self.door, self.home.clock().now(), asking, cx);
        if polled.is_pending() {
            self.home.clock().wake_by(self.entering.wakes_by());
        }
        polled
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.entering.leave(self.door, self.home.clock().now());
    }
}

/// The listener's, the route's and the upstream's.
const DOORS: usize = 3;
