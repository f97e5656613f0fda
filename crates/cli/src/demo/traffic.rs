//! The traffic: one schedule of calls, sent twice, side by side.
//!
//! Each call goes straight to the services and through Seaworthy at the same moment. The schedule is open-loop: calls
//! leave at a steady rate whether or not earlier ones were answered, as calls of independent customers do. Latency
//! counts from the moment the schedule names, so that a stall of this very process counts too instead of being
//! omitted together with the calls that it delayed ("coordinated omission", G. Tene).
//!
//! Straight means what a plain client does: the instances of its region in turn, no second try. Both ways give up after
//! the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use seaworthy_core::{Rng, Seeded};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::children::{Addresses, NEAR_INSTANCES, ORDERS, PRICES, SERVICES};
use crate::client::Pool;

/// Which way a call went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Direct,
    Through,
}

impl Way {
    pub(super) const BOTH: [Self; 2] = [Self::Direct, Self::Through];
}

/// What a call asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A GET, which may be repeated.
    Read,
    /// A POST that places an order, which may not.
    Order,
}

/// How a call ended for whoever made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    Good,
    /// Answered with something that stands in for what was asked for, and says so.
    Degraded,
    /// Answered with an error of this status.
    Error(u16),
    /// No connection, or one that broke.
    Broken,
    /// No answer within [`CLIENT_TIMEOUT`].
    TimedOut,
}

/// One call that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) way: Way,
    pub(super) service: usize,
    pub(super) kind: Kind,
    /// When the schedule wanted it sent, from the start of the traffic.
    pub(super) at: Duration,
    /// From then to the end of the answer, or to giving up.
    pub(super) took: Duration,
    pub(super) ending: Ending,
}

/// Where the traffic goes.
pub(super) struct Roads {
    /// To the near instances, by service.
    direct: Vec<Vec<Pool>>,
    turn: [AtomicUsize; SERVICES.len()],
    through: Pool,
}

impl Roads {
    pub(super) fn new(shop: &Addresses, proxy: std::net::SocketAddr) -> Self {
        Self {
            direct: shop
                .iter()
                .map(|all| all[..NEAR_INSTANCES].iter().copied().map(Pool::new).collect())
                .collect(),
            turn: Default::default(),
            through: Pool::new(proxy),
        }
    }

    fn pool(&self, way: Way, service: usize) -> &Pool {
        match way {
            Way::Through => &self.through,
            Way::Direct => {
                let turn = self.turn[service].fetch_add(1, Ordering::Relaxed);
                &self.direct[service][turn % NEAR_INSTANCES]
            }
        }
    }
}

/// Sends `rate` calls a second each way for `total` from `start` on. Each call reports its end once; the channel closes
/// after the last.
pub(super) async fn send(
    roads: Arc<Roads>,
    start: Instant,
    total: Duration,
    rate: u32,
    seed: u64,
    done: mpsc::UnboundedSender<Done>,
) {
    let mut rng = Seeded::new(seed);
    for number in 0.. {
        let at = Duration::from_secs(number) / rate;
        if at >= total {
            break;
        }
        tokio::time::sleep_until(start + at).await;
        let wish = Wish::draw(&mut rng);
        for way in Way::BOTH {
            let (roads, done) = (Arc::clone(&roads), done.clone());
            tokio::spawn(async move {
                let ending = wish.ask(&roads, way).await;
                let took = start.elapsed().saturating_sub(at);
                // Nobody listens any more once the demo is over.
                let _ = done.send(Done { way, service: wish.service, kind: wish.kind, at, took, ending });
            });
        }
    }
}

/// What a customer wants.
#[derive(Clone, Copy, Debug)]
struct Wish {
    service: usize,
    kind: Kind,
    item: u64,
}

impl Wish {
    /// Of twenty calls seven look at the catalog, five at prices, four at recommendations, three at an order, and one
    /// places an order.
    fn draw(rng: &mut Seeded) -> Self {
        let (service, kind) = match rng.below(20) {
            0..7 => (0, Kind::Read),
            7..12 => (1, Kind::Read),
            12..16 => (2, Kind::Read),
            16..19 => (ORDERS, Kind::Read),
            _ => (ORDERS, Kind::Order),
        };
        Self { service, kind, item: rng.below(1000) }
    }

    async fn ask(self, roads: &Roads, way: Way) -> Ending {
        let pool = roads.pool(way, self.service);
        let name = SERVICES[self.service];
        let item = if self.service == PRICES { self.item % DEPARTMENTS } else { self.item };
        let answer = async {
            match self.kind {
                Kind::Read => pool.call(Method::GET, &format!("/{name}/{item}"), Bytes::new()).await,
                Kind::Order => {
                    let body = Bytes::from(format!("{{\"item\":{item}}}"));
                    pool.call(Method::POST, &format!("/{name}"), body).await
                }
            }
        };
        match tokio::time::timeout(CLIENT_TIMEOUT, answer).await {
            Err(_) => Ending::TimedOut,
            Ok(Err(_)) => Ending::Broken,
            Ok(Ok(answer)) if answer.status.is_success() && answer.degraded.is_some() => Ending::Degraded,
            Ok(Ok(answer)) if answer.status.is_success() => Ending::Good,
            Ok(Ok(answer)) => Ending::Error(answer.status.as_u16()),
        }
    }
}

/// How many price lists there are, of which each is asked for about twice a second.
const DEPARTMENTS: u64 = 20;
/// How long a customer waits. The services answer in 5 ms, and in a quarter of a second when slow: a second is patient,
/// and still shorter than the shortest demo keeps an instance frozen.
pub(super) const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);
