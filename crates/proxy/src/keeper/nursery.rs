//! The supervised processes, as far as calls are concerned: which replicas are endpoints, and which are to be let go.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use seaworthy_config::{Endpoint as Address, Level, Process};
use serde_json::{Value, json};

use crate::discovery::Target;
use crate::fleet::Endpoint;
use crate::journal::Journal;
use crate::process::{Enforced, Event, Refused, Replica, Settings, Shim, Snapshot, State, Supervisor, What};

/// The supervised processes.
pub(super) struct Nursery {
    supervisor: Rc<Supervisor>,
    config: Vec<Process>,
    journal: Journal,
    /// By process: the ports of the replicas that serve.
    serving: Vec<BTreeMap<u32, u16>>,
    /// The replicas that get no calls any more, and wait until those that they have are over.
    leaving: Vec<Leaving>,
    /// By name: the last rolling restart.
    restarts: Rc<RefCell<HashMap<String, Rolling>>>,
}

/// A rolling restart: how it ended, if it has.
type Rolling = Option<Result<(), Refused>>;

struct Leaving {
    process: usize,
    replica: u32,
    endpoints: Vec<Arc<Endpoint>>,
    /// Nothing was in flight at the last look. A worker may have chosen it just before it was taken away.
    idle: bool,
}

impl Nursery {
    /// Starts all processes; `tell` hears of them. Needs a local runtime, on a thread that lives as long as they do.
    pub(super) fn open(
        config: &[Process],
        shim: Shim,
        journal: Journal,
        tell: impl Fn(Event) + 'static,
    ) -> Self {
        let supervisor = Supervisor::start(config.iter().map(Settings::from).collect(), shim, tell);
        Self {
            supervisor: Rc::new(supervisor),
            config: config.to_vec(),
            journal,
            serving: vec![BTreeMap::new(); config.len()],
            leaving: Vec::new(),
            restarts: Rc::default(),
        }
    }

    /// Takes in what happened to a replica, and returns whether the endpoints of its process are others now. `endpoints` finds those at
    /// an address.
    pub(super) fn hear(&mut self, event: &Event, endpoints: impl Fn(&Address) -> Vec<Arc<Endpoint>>) -> bool {
        self.log(event);
        let What::State(state) = &event.what else { return false };
        let serving = &mut self.serving[event.process];
        if let State::Ready { port, .. } = state {
            return serving.insert(event.replica, *port) != Some(*port);
        }
        let Some(port) = serving.remove(&event.replica) else { return false };
        if matches!(state, State::Draining { .. }) {
            let endpoints = endpoints(&address(port));
            let (process, replica) = (event.process, event.replica);
            self.leaving.push(Leaving { process, replica, endpoints, idle: false });
        }
        true
    }

    /// The endpoints of a process.
    pub(super) fn targets(&self, process: usize) -> Vec<Target> {
        let labels = &self.config[process].labels;
        self.serving[process].values().map(|port| Target::new(address(*port), labels.clone())).collect()
    }

    /// Lets those go that have nothing in flight any more.
    pub(super) fn look(&mut self) {
        let supervisor = &self.supervisor;
        self.leaving.retain_mut(|leaving| {
            let idle = leaving.endpoints.iter().all(|endpoint| endpoint.in_flight() == 0);
            let was_idle = std::mem::replace(&mut leaving.idle, idle);
            if idle && was_idle {
                supervisor.drained(leaving.process, leaving.replica);
            }
            !(idle && was_idle)
        });
    }

    /// Begins a rolling restart.
    ///
    /// # Errors
    /// Why it can't be.
    pub(super) fn restart(&self, name: &str) -> Result<Value, String> {
        let known = || self.config.iter().map(|process| process.name.as_str()).collect::<Vec<_>>().join(", ");
        if !self.config.iter().any(|process| process.name == name) {
            return Err(format!("there is no process {name:?}; there is {}", known()));
        }
        if self.restarts.borrow().get(name).is_some_and(Option::is_none) {
            return Err(Refused::Underway { name: name.to_owned() }.to_string());
        }
        self.restarts.borrow_mut().insert(name.to_owned(), None);
        let (supervisor, restarts, journal) =
            (self.supervisor.clone(), self.restarts.clone(), self.journal.clone());
        let name = name.to_owned();
        journal.event(Level::Warn, "restart_ordered", &[("process", &name)]);
        let answer = json!({ "process": name });
        tokio::task::spawn_local(async move {
            let end = supervisor.restart(&name).await;
            let error = end.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let level = if end.is_ok() { Level::Info } else { Level::Error };
            journal.event(level, "restart_ended", &[("process", &name), ("error", &error)]);
            restarts.borrow_mut().insert(name, Some(end));
        });
        Ok(answer)
    }

    /// Ends all processes.
    pub(super) async fn close(&self) {
        self.supervisor.stop_all().await;
    }

    /// All processes, for operators.
    pub(super) fn show(&self) -> Value {
        let processes = self.supervisor.snapshot();
        json!({ "processes": processes.iter().map(|process| self.show_process(process)).collect::<Vec<_>>() })
    }

    fn show_process(&self, process: &Snapshot) -> Value {
        let restarts = self.restarts.borrow();
        let last = restarts.get(&process.name);
        let error = last.and_then(Option::as_ref).and_then(|end| end.as_ref().err()).map(ToString::to_string);
        json!({
            "name": process.name,
            "restarting": last.is_some_and(Option::is_none),
            "restart_error": error,
            "replicas": process.replicas.iter().map(show_replica).collect::<Vec<_>>(),
        })
    }

    fn log(&self, event: &Event) {
        let replica = event.replica.to_string();
        let mut fields = vec![("process", self.config[event.process].name.as_str()), ("replica", &replica)];
        match &event.what {
            What::State(state) => {
                let text = state.to_string();
                fields.extend([("state", state.name()), ("detail", &text)]);
                let level = match state {
                    State::GivenUp { .. } => Level::Error,
                    State::Restarting { .. } => Level::Warn,
                    _ => Level::Info,
                };
                self.journal.event(level, "process", &fields);
            }
            What::Line { stream, text, cut } => {
                fields.extend([("stream", stream.name()), ("line", text)]);
                if *cut {
                    fields.push(("cut", "true"));
                }
                self.journal.event(Level::Info, "process_output", &fields);
            }
            What::Dropped { stream, lines } => {
                let lines = lines.to_string();
                fields.extend([("stream", stream.name()), ("lines", &lines)]);
                self.journal.event(Level::Warn, "process_output_dropped", &fields);
            }
        }
    }
}

fn show_replica(replica: &Replica) -> Value {
    let limits = &replica.limits;
    json!({
        "replica": replica.replica,
        "state": replica.state.name(),
        "detail": replica.state.to_string(),
        "for_s": replica.for_time.as_secs_f64(),
        "port": replica.port,
        "pid": replica.pid,
        "restarts": replica.restarts,
        "memory_limit": limits.memory.as_ref().map(|(bytes, by)| json!({ "bytes": bytes, "enforced": enforced(by) })),
        "cpu_limit": limits.cpu.as_ref().map(|(cores, by)| json!({ "cores": cores, "enforced": enforced(by) })),
    })
}

/// Where a replica listens.
fn address(port: u16) -> Address {
    Address { host: "127.0.0.1".to_owned(), port }
}

fn enforced(by: &Enforced) -> String {
    match by {
        Enforced::Not { why } => format!("not: {why}"),
        by => by.name().to_owned(),
    }
}
