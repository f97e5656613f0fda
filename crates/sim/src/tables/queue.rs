//! Which queue serves most before too much work?
//!
//! Calls arrive at random at a server that takes exponential times and can serve 500 a second; whoever has no answer after 100 ms
//! gives up, and does not ask again. What counts is goodput: answers in time, as a share of what the server can serve.
//!
//! Refusing costs the server nothing, or a tenth of what serving takes. Then it can be asked to death, whatever its queue does, and only
//! who asks less helps: the last column has the core's throttle on the other side.

use std::time::Duration;

use seaworthy_core::call::{self, retry, timeout};
use seaworthy_core::gate::limit::Algorithm;
use seaworthy_core::gate::{limit, queue, throttle};
use seaworthy_core::{Mode, Rules, Valid};

use crate::{Change, Clients, Guard, Load, Policies, Scenario, Service, Spread, run};

/// The columns of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Column {
    /// The oldest first, however many.
    Fifo,
    /// The oldest first, and no more than twenty.
    Fifo20,
    /// The oldest first, but for those whose callers will have left: they have no more time than twice what a request takes on
    /// average.
    FifoExpiry,
    /// The core's queue, with its default numbers, before a limit that is known.
    Queue,
    /// The same before a limit that is learned by Vegas.
    Learned,
    /// [`Queue`](Self::Queue), and the core's throttle with its default numbers at the client.
    Throttled,
}

impl Column {
    /// All columns, from the left.
    pub const ALL: [Self; 6] =
        [Self::Fifo, Self::Fifo20, Self::FifoExpiry, Self::Queue, Self::Learned, Self::Throttled];

    /// The column's heading.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fifo => "FIFO",
            Self::Fifo20 => "FIFO, at most 20",
            Self::FifoExpiry => "FIFO, drop expired",
            Self::Queue => "ours",
            Self::Learned => "ours, limit learned",
            Self::Throttled => "ours + client throttle",
        }
    }

    fn guard(self) -> Option<Guard> {
        let fixed = limit::Config { max_in_flight: 1, ..limit::Config::default() };
        let vegas = limit::Config { algorithm: Algorithm::Vegas, ..limit::Config::default() };
        let expiring = queue::Config {
            // More than ever wait, and for longer: the callers' deadlines alone decide.
            size: 1_000_000,
            max_wait: PATIENCE * 2,
            overload_after: Duration::MAX,
            mode: Mode::Enforce,
        };
        let (limit, queue, takes) = match self {
            Self::Fifo | Self::Fifo20 => return None,
            Self::FifoExpiry => (fixed, expiring, TAKES * 2),
            Self::Queue | Self::Throttled => (fixed, queue::Config::default(), TAKES),
            Self::Learned => (vegas, queue::Config::default(), TAKES),
        };
        Some(Guard { limit: checked(limit), queue: checked(queue), takes })
    }
}

/// The scenario of one cell, its first phase to be discarded. `load` is in capacities, `refusal` what a refusal costs in requests.
///
/// # Panics
/// If `load` is not above 0.
#[must_use]
pub fn scenario(column: Column, load: f64, refusal: f64, seed: u64) -> Scenario {
    assert!(load > 0.0 && load.is_finite(), "{load} is no load");
    let call = call::Config {
        deadline: None,
        timeout: timeout::Config { fixed: Some(PATIENCE), ..timeout::Config::default() },
        retry: retry::Config { attempts: 1, ..retry::Config::default() },
        ..call::Config::default()
    };
    let mut policies = Policies::without_gates(checked(call));
    if column == Column::Throttled {
        policies.throttle = checked(throttle::Config::default());
    }
    Scenario {
        name: format!("{}, {load} times what it can serve", column.name()),
        seed,
        duration: WHOLE,
        record: false,
        clients: Clients { load: Load::Poisson(load * CAPACITY), ..Clients::default() },
        service: Service {
            servers: Some(1),
            queue: (column == Column::Fifo20).then_some(20),
            guard: column.guard(),
            refusal,
            latency: Spread::Exponential(TAKES),
            changes: vec![Change { at: DISCARDED, ..Change::default() }],
            ..Service::default()
        },
        policies,
    }
}

/// The goodput of one cell, as a share of what the server can serve.
///
/// # Panics
/// As [`scenario`] does.
#[must_use]
pub fn cell(column: Column, load: f64, refusal: f64, seed: u64) -> f64 {
    let row = run(&scenario(column, load, refusal, seed)).phases.pop().unwrap_or_default();
    row.succeeded as f64 / (CAPACITY * (row.to_s - row.from_s))
}

fn checked<C: Rules>(config: C) -> Valid<C> {
    match Valid::new(config) {
        Ok(valid) => valid,
        Err(faults) => unreachable!("{faults:?}"),
    }
}

/// What the server can serve, in calls a second.
pub const CAPACITY: f64 = 500.0;
/// The mean time of a request.
const TAKES: Duration = Duration::from_millis(2);
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long calls are made.
const WHOLE: Duration = Duration::from_secs(60);
/// The part of that in which everything finds its level.
const DISCARDED: Duration = Duration::from_secs(5);
