//! The life of one replica: start, watch, restart, until it is told to stop.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use seaworthy_core::Instant;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::child::{Child, Plan};
use super::decide::{Restarts, Verdict};
use super::output::Heard;
use super::ready;
use super::state::{Cause, Enforced, Event, Limits, Replica as Snapshot, State, What};
use super::{House, Settings};

/// Somebody wants a fresh start, and to be told once it is ready or has failed.
pub(super) type Ask = oneshot::Sender<Result<(), Cause>>;

/// What the supervisor sees of a replica.
pub(super) struct Seen {
    state: RefCell<State>,
    since: Cell<Instant>,
    port: Cell<Option<u16>>,
    pid: Cell<Option<u32>>,
    restarts: Cell<u64>,
    limits: RefCell<Limits>,
    /// Where to say that nothing is under way to it any more; there is one while it drains.
    drained: RefCell<Option<oneshot::Sender<()>>>,
}

impl Seen {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: RefCell::new(State::Starting),
            since: Cell::new(now),
            port: Cell::default(),
            pid: Cell::default(),
            restarts: Cell::default(),
            limits: RefCell::default(),
            drained: RefCell::default(),
        }
    }

    pub(super) fn snapshot(&self, replica: u32, now: Instant) -> Snapshot {
        Snapshot {
            replica,
            state: self.state.borrow().clone(),
            for_time: now.since(self.since.get()),
            port: self.port.get(),
            pid: self.pid.get(),
            restarts: self.restarts.get(),
            limits: self.limits.borrow().clone(),
        }
    }

    pub(super) fn drained(&self) {
        if let Some(waiting) = self.drained.take() {
            // It waits no longer if the time for it is over.
            let _ = waiting.send(());
        }
    }
}

/// What others want of a replica.
pub(super) struct Orders {
    pub asks: mpsc::UnboundedReceiver<Ask>,
    /// True once all is to stop.
    pub stop: watch::Receiver<bool>,
}

/// What to do next.
enum Next {
    Start(Option<Ask>),
    Stop,
}

impl Orders {
    /// Waits for an order. A supervisor that is gone wants no children.
    async fn next(&mut self) -> Next {
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => Next::Stop,
            ask = self.asks.recv() => ask.map_or(Next::Stop, |ask| Next::Start(Some(ask))),
        }
    }
}

/// How a run of the process ended.
enum End {
    /// By itself.
    Failed(Cause),
    /// By order.
    Told(Next),
}

/// One replica.
pub(super) struct Replica {
    /// The index of its process.
    pub process: usize,
    /// Its number, from 1.
    pub number: u32,
    pub settings: Rc<Settings>,
    pub house: Rc<House>,
    pub seen: Rc<Seen>,
    pub restarts: Restarts,
    pub orders: Orders,
}

impl Replica {
    /// Lives until it is told to stop.
    pub(super) async fn live(mut self) {
        let mut ask = None;
        loop {
            let next = match self.run(&mut ask).await {
                End::Told(next) => next,
                End::Failed(cause) => {
                    answer(&mut ask, Err(cause.clone()));
                    self.rest(cause).await
                }
            };
            match next {
                Next::Start(new) => {
                    if new.is_some() {
                        self.restarts.renew();
                    }
                    ask = new;
                }
                Next::Stop => break,
            }
        }
        self.change(State::Stopped);
    }

    /// One start, and what comes of it.
    async fn run(&mut self, ask: &mut Option<Ask>) -> End {
        self.change(State::Starting);
        let (mut child, port) = match self.start() {
            Ok(started) => started,
            Err(why) => return End::Failed(Cause::NotStarted { why }),
        };
        let pid = child.id();
        self.seen.pid.set(Some(pid));
        let end = tokio::select! {
            biased;
            next = self.orders.next() => Some(End::Told(next)),
            ready = becomes_ready(&mut child, port, &self.settings) => ready.err().map(End::Failed),
        };
        let end = match end {
            Some(end) => end,
            None => {
                self.restarts.ready(self.house.clock.now());
                self.change(State::Ready { port, pid });
                answer(ask, Ok(()));
                self.serve(&mut child, port).await
            }
        };
        if let End::Told(_) = end {
            self.change(State::Stopping);
            child.stop(self.settings.grace).await;
        }
        self.seen.pid.set(None);
        end
    }

    /// It is ready: until it ends, or is to end and has drained.
    async fn serve(&mut self, child: &mut Child, port: u16) -> End {
        let next = tokio::select! {
            biased;
            cause = child.ended() => return End::Failed(cause),
            next = self.orders.next() => next,
        };
        let Next::Start(ask) = next else { return End::Told(next) };
        let (done, drained) = oneshot::channel();
        self.seen.drained.replace(Some(done));
        self.change(State::Draining { port, pid: child.id() });
        let stopped = tokio::select! {
            biased;
            _ = self.orders.stop.wait_for(|stop| *stop) => true,
            _ = timeout(self.settings.drain, drained) => false,
            _ = child.ended() => false,
        };
        self.seen.drained.take();
        End::Told(if stopped { Next::Stop } else { Next::Start(ask) })
    }

    /// It ended by itself: waits as the rule says.
    async fn rest(&mut self, cause: Cause) -> Next {
        let verdict = self.restarts.ended(self.house.clock.now());
        self.seen.restarts.set(self.restarts.total());
        match verdict {
            Verdict::Again(after) => {
                self.change(State::Restarting { after, cause });
                tokio::select! {
                    biased;
                    next = self.orders.next() => next,
                    () = sleep(after) => Next::Start(None),
                }
            }
            Verdict::GiveUp => {
                let (restarts, within) = (self.settings.give_up, self.settings.give_up_window);
                self.change(State::GivenUp { cause, restarts, within });
                self.orders.next().await
            }
        }
    }

    fn start(&mut self) -> Result<(Child, u16), String> {
        let port = self.house.ports.take(self.seen.port.get());
        let port = port.map_err(|error| format!("no port is free on 127.0.0.1: {error}"))?;
        self.seen.port.set(Some(port));
        let (limits, cgroup) = self.house.limit(&self.settings, self.number);
        let address_space = match limits.memory {
            Some((bytes, Enforced::AddressSpace)) => Some(bytes),
            _ => None,
        };
        self.seen.limits.replace(limits);
        let plan = Plan {
            settings: &self.settings,
            shim: &self.house.shim,
            port,
            address_space,
            cgroup,
            clock: self.house.clock,
        };
        let (process, replica) = (self.process, self.number);
        let house = Rc::clone(&self.house);
        let child = Child::start(plan, move |stream, heard| {
            let what = match heard {
                Heard::Line(text, cut) => What::Line { stream, text, cut },
                Heard::Dropped(lines) => What::Dropped { stream, lines },
            };
            (house.tell)(Event { process, replica, what });
        });
        let program = self.house.shim.program.display();
        child.map(|child| (child, port)).map_err(|error| format!("can't run {program}: {error}"))
    }

    fn change(&self, state: State) {
        self.seen.state.replace(state.clone());
        self.seen.since.set(self.house.clock.now());
        (self.house.tell)(Event { process: self.process, replica: self.number, what: What::State(state) });
    }
}

/// Waits until `child` serves. If it does not within its time, it is dead when this returns.
async fn becomes_ready(child: &mut Child, port: u16, settings: &Settings) -> Result<(), Cause> {
    let start = async {
        if let Err(why) = child.becomes_command().await {
            child.kill().await;
            return Err(Cause::NotStarted { why });
        }
        tokio::select! {
            biased;
            cause = child.ended() => Err(cause),
            () = ready::wait(port, &settings.ready) => Ok(()),
        }
    };
    match timeout(settings.ready_timeout, start).await {
        Ok(ready) => ready,
        Err(_) => {
            child.kill().await;
            Err(Cause::NotReady { within: settings.ready_timeout, last: child.last_lines() })
        }
    }
}

fn answer(ask: &mut Option<Ask>, result: Result<(), Cause>) {
    if let Some(ask) = ask.take() {
        // Whoever asked may have lost patience.
        let _ = ask.send(result);
    }
}
