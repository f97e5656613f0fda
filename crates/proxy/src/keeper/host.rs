//! How hard the host has it, and what that means for the limits.

use std::time::Duration;

use seaworthy::health::headroom::Sampler;
use seaworthy_config::Level;
use seaworthy_core::gate::pressure::Change;
use seaworthy_core::{Instant, Mode};

use crate::site::Site;

/// Feels the host's pressure, and hands it on.
pub(super) struct Watch {
    sampler: Sampler,
    next: Instant,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { sampler: Sampler::new(), next: Instant::ZERO }
    }

    /// Feels the pressure, if it is time.
    pub(super) fn look(&mut self, now: Instant, site: &Site) {
        // Reading the host costs some file reads, which nobody needs who is not to act on them.
        if now < self.next || site.config.pressure.mode == Mode::Off {
            return;
        }
        self.next = now.plus(FEEL_EVERY);
        let reading = self.sampler.read();
        let mut pressure = site.pressure();
        let Some(change) = pressure.feel(now, &reading) else { return };
        let share = pressure.share();
        drop(pressure);
        press(now, site, &change, share);
    }
}

fn press(now: Instant, site: &Site, change: &Change, share: f64) {
    for door in site.doors() {
        door.press(now, share);
    }
    // Each step would be a line four times a second: the first and the last tell it all.
    let (event, level) = match change {
        Change { from: 1.0, .. } => ("pressure", Level::Warn),
        Change { to: 1.0, .. } => ("pressure_over", Level::Info),
        _ => return,
    };
    let cause = change.cause.map_or("", |cause| cause.name());
    site.journal.event(level, event, &[("cause", cause), ("share", &format!("{:.2}", change.to))]);
}

/// Four times a second: a burst fills the memory of a host in about a second.
const FEEL_EVERY: Duration = Duration::from_millis(250);
