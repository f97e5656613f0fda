//! One endpoint under active checks.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use seaworthy::clock;
use seaworthy_config::Level;
use seaworthy_core::gate::health::{Change, Health, State};
use tokio::task::JoinHandle;

use crate::check::check;
use crate::fleet::{Checkup, Endpoint};
use crate::site::Site;

/// An endpoint that is checked until this is dropped.
pub(super) struct Patient {
    health: Rc<RefCell<Health>>,
    task: JoinHandle<()>,
}

impl Patient {
    /// Begins to check `endpoint`. Needs a local runtime.
    pub(super) fn admit(site: Arc<Site>, upstream: usize, endpoint: Arc<Endpoint>, health: Health) -> Self {
        let health = Rc::new(RefCell::new(health));
        let task = tokio::task::spawn_local(visit(site, upstream, endpoint, health.clone()));
        Self { health, task }
    }

    /// Whether it may be called, as far as the checks know.
    pub(super) fn is_up(&self) -> bool {
        self.health.borrow().state() != State::Down
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks for ever.
async fn visit(site: Arc<Site>, upstream: usize, endpoint: Arc<Endpoint>, health: Rc<RefCell<Health>>) {
    let config = &site.config.upstreams[upstream];
    let Some(spec) = &config.check else { return };
    loop {
        let due = health.borrow().next(clock::now());
        tokio::time::sleep(due.since(clock::now())).await;
        let address = &endpoint.address;
        let result = check(spec, config.protocol, &address.host, address.port).await;
        let change = health.borrow_mut().checked(clock::now(), result.is_ok());
        if let Some(change) = change {
            site.services[upstream].fleet.stir();
            tell(&site, &config.name, &endpoint, &change, result.as_ref().err());
        }
        let state = health.borrow().state();
        endpoint.checked(Checkup { state, error: result.err() });
    }
}

fn tell(site: &Site, upstream: &str, endpoint: &Endpoint, change: &Change, error: Option<&String>) {
    let level = if change.to == State::Down { Level::Warn } else { Level::Info };
    let mut fields = vec![
        ("upstream", upstream),
        ("endpoint", &endpoint.authority),
        ("from", change.from.name()),
        ("to", change.to.name()),
    ];
    fields.extend(error.map(|error| ("error", error.as_str())));
    site.journal.event(level, "check", &fields);
}
