//! The endpoint of an attempt: what the table proposes, its region and its breaker must allow.

use std::rc::Rc;

use seaworthy::shared::breaker;
use seaworthy_core::balance::{Ask, View};
use seaworthy_core::gate::limit;
use seaworthy_core::{Criticality, Failure, Instant, Policy, Reason, Rejection};

use crate::fleet::Region;
use crate::node::Node;
use crate::worker::Worker;

/// An endpoint that an attempt may go to, with what it holds meanwhile.
pub(crate) struct Entry {
    pub node: Rc<Node>,
    pub ticket: breaker::Ticket,
    /// The permit to enter its region, where that has a limit.
    pub visa: Option<limit::Permit>,
}

/// What one call wants of its endpoints.
#[derive(Default)]
pub(crate) struct Wish {
    /// What calls that belong together have in common, if they are to go to the same endpoint.
    pub key: Option<u64>,
    /// Whether the call survives an attempt at an endpoint that is likely to fail.
    pub may_probe: bool,
    /// How much the call matters.
    pub criticality: Criticality,
    /// Where its attempts went.
    tried: Ids,
    /// The regions in which an attempt was not answered at all.
    unanswered: u64,
}

impl Wish {
    pub(crate) fn new(key: Option<u64>, may_probe: bool, criticality: Criticality) -> Self {
        Self { key, may_probe, criticality, ..Self::default() }
    }

    /// An attempt failed in that region.
    pub(crate) fn failed(&mut self, region: &Region, failure: Failure) {
        if matches!(failure, Failure::Connect | Failure::Timeout) {
            self.unanswered |= bit(region.index);
        }
    }
}

/// Chooses an endpoint for an attempt that begins at `now`: one that the call has not tried where there is one, and for a
/// hedge no other.
///
/// # Errors
/// The refusal of the only endpoint, or that none takes it.
pub(crate) fn choose(
    home: &Worker,
    upstream: usize,
    now: Instant,
    hedge: bool,
    wish: &mut Wish,
) -> Result<Entry, Rejection> {
    let fleet = &home.service(upstream).fleet;
    let mut crew = home.crews[upstream].borrow_mut();
    crew.muster(fleet);
    let (impatient, in_flight) = (crew.is_impatient(), crew.in_flight());
    let (table, picker, nodes) = crew.parts();
    // A first attempt alone is spent on finding out whether an endpoint has recovered: the others have failed once already.
    let ask =
        Ask { key: wish.key, may_probe: (wish.may_probe || impatient) && wish.tried.is_empty() && !hedge };
    let mut options = Options {
        nodes,
        now,
        in_flight,
        tried: Some(&wish.tried),
        refused: Ids::default(),
        full: 0,
        doubted: wish.unanswered | doubted(nodes, &wish.tried),
    };
    let mut last_resort = nodes.iter().flatten().take(LAST_RESORT);
    let mut refusal = None;
    loop {
        let node = match picker.pick(table, ask, &options) {
            Some(id) => nodes.get(id as usize).and_then(Option::as_ref),
            None if std::mem::take(&mut options.doubted) != 0 => continue,
            None if options.tried.take_if(|tried| !hedge && !tried.is_empty()).is_some() => continue,
            // Nobody is left but those that the table knows to be out. Their breakers say so, and since when they don't.
            None => match last_resort.find(|node| options.allowed(node.endpoint.id)) {
                Some(node) => Some(node),
                None => return Err(none(refusal, nodes.len())),
            },
        };
        let Some(node) = node else { unreachable!("the table and the nodes are of one roster") };
        match enter(home, node, now) {
            Ok(entry) => {
                wish.tried.add(node.endpoint.id);
                return Ok(entry);
            }
            Err(rejection) => {
                if rejection.policy == Policy::Limit {
                    options.full |= bit(node.endpoint.region.index);
                }
                options.refused.add(node.endpoint.id);
                refusal = Some(sooner(refusal, rejection));
            }
        }
    }
}

/// Whether the endpoint's region and breaker let the attempt in.
///
/// # Errors
/// Their refusal.
fn enter(home: &Worker, node: &Rc<Node>, now: Instant) -> Result<Entry, Rejection> {
    let limit = node.endpoint.region.limit.as_ref();
    let visa = limit.map(|limit| limit.admit(now)).transpose()?;
    let (admitted, change) = node.endpoint.breaker.admit_telling(now);
    node.changed(&home.site, change);
    match admitted {
        Ok(ticket) => Ok(Entry { node: node.clone(), ticket, visa }),
        Err(rejection) => {
            node.counts().refused.add(1);
            if let (Some(visa), Some(limit)) = (visa, limit) {
                limit.release(visa);
            }
            Err(rejection)
        }
    }
}

/// The endpoints that are left to this attempt.
struct Options<'a> {
    nodes: &'a [Option<Rc<Node>>],
    now: Instant,
    in_flight: u32,
    /// Not these, as long as there are others.
    tried: Option<&'a Ids>,
    /// Not these, as their breakers refused.
    refused: Ids,
    /// Not these regions, as they are full; a bit for each, the last for all from there on.
    full: u64,
    /// Not these regions, as long as there are others.
    doubted: u64,
}

impl Options<'_> {
    fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.get(id as usize)?.as_deref()
    }
}

impl View for Options<'_> {
    fn cost(&self, id: u32) -> f64 {
        self.node(id).map_or(0.0, |node| node.cost(self.now))
    }

    fn in_flight(&self, id: u32) -> u32 {
        self.node(id).map_or(0, Node::in_flight)
    }

    fn total_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn allowed(&self, id: u32) -> bool {
        !self.tried.is_some_and(|tried| tried.has(id)) && !self.refused.has(id)
    }

    fn has_room(&self, region: u16) -> bool {
        (self.full | self.doubted) & bit(region) == 0
    }
}

/// The regions in which two attempts of the call have failed: that is hardly the endpoints' fault. One is enough where nobody answered.
fn doubted(nodes: &[Option<Rc<Node>>], tried: &Ids) -> u64 {
    let regions = tried.iter().filter_map(|id| Some(nodes.get(id as usize)?.as_ref()?.endpoint.region.index));
    let mut seen = 0;
    // The second time that a region turns up. Kept in bits, as `full` is.
    regions.fold(0, |doubted, region| {
        let again = seen & bit(region);
        seen |= bit(region);
        doubted | again
    })
}

fn bit(region: u16) -> u64 {
    1 << region.min(63)
}

/// A few endpoints; the first without an allocation, since most calls have one attempt.
#[derive(Default)]
struct Ids {
    first: Option<u32>,
    more: Vec<u32>,
}

impl Ids {
    fn add(&mut self, id: u32) {
        if self.first.is_none() {
            self.first = Some(id);
        } else {
            self.more.push(id);
        }
    }

    fn has(&self, id: u32) -> bool {
        self.first == Some(id) || self.more.contains(&id)
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.first.iter().chain(&self.more).copied()
    }

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

/// How many endpoints that are known to be out are asked all the same: a small upstream's all, so that the refusal can tell when to come
/// back, and of a large one's not so many that refusing is work.
const LAST_RESORT: usize = 8;

/// What to say when no endpoint takes the attempt.
fn none(refusal: Option<Rejection>, endpoints: usize) -> Rejection {
    match refusal {
        Some(rejection) if endpoints == 1 => rejection,
        other => Rejection {
            retry_after: other.and_then(|rejection| rejection.retry_after),
            ..Rejection::new(Policy::Balancer, Reason::NoEndpoint)
        },
    }
}

/// The refusal that ends sooner.
fn sooner(a: Option<Rejection>, b: Rejection) -> Rejection {
    match a {
        Some(a) if a.retry_after.is_some() && (b.retry_after.is_none() || a.retry_after <= b.retry_after) => {
            a
        }
        _ => b,
    }
}
