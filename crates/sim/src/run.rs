//! The driver: it performs what the core decides, in virtual time, and tells it what happens.

use std::collections::BTreeMap;

use seaworthy_core::balance::Algorithm;
use seaworthy_core::call::{
    Action, CancelWhy, Commons, Event, Finish, Kind, Plan, Repeat, Shared as _, Start,
};
use seaworthy_core::gate::breaker::State;
use seaworthy_core::gate::bulkhead::{self, Admission, Bulkhead, Turn};
use seaworthy_core::gate::limit::Permit;
use seaworthy_core::gate::queue::Asking;
use seaworthy_core::gate::throttle::Throttle;
use seaworthy_core::record::{HEADER, RecordedCall, Tape};
use seaworthy_core::{Criticality, Failure, Instant, Outcome, Pushback, Rejection, Rng as _, Seeded};

use crate::agenda::Agenda;
use crate::door::{Asked, Door};
use crate::fleet::{Entry, Fleet, Wish};
use crate::keeper::{LOOK_EVERY, first_look};
use crate::report::{Report, Tally, Traffic};
use crate::scenario::{Load, Scenario};
use crate::service::{Arrival, Work};
use crate::spread::{exponential, seconds_of};

/// Runs `scenario` to its end. The same scenario with the same seed yields the same report.
#[must_use]
pub fn run(scenario: &Scenario) -> Report {
    let mut world = World::new(scenario);
    while let Some((now, happening)) = world.agenda.next() {
        match happening {
            Happening::Arrive(client) => world.arrive(now, client),
            Happening::Wake(key) => world.wake(now, key),
            Happening::Done(job) => world.done(now, job),
            Happening::Answer(job, outcome) => world.answer_arrives(now, job, outcome),
            Happening::Resume => (0..world.service.len()).for_each(|at| world.begin_waiting(now, at)),
            Happening::Expire(client, turn) => world.turn(now, client, turn),
            Happening::Hung(job) => world.hung(now, job),
            Happening::Admit(client) => world.admit(now, client),
            Happening::Overdue(at) => world.overdue(now, at),
            Happening::Look(client) => world.look(now, client),
        }
    }
    world.report()
}

enum Happening {
    /// A client makes its next call.
    Arrive(usize),
    /// A call may have something to do.
    Wake(Key),
    /// An instance has finished with a request.
    Done(Job),
    /// An answer from afar is there.
    Answer(Job, Outcome),
    /// Instances begin to work again after a pause.
    Resume,
    /// A call has waited for its bulkhead as long as it may.
    Expire(usize, Turn),
    /// A breaker counts the attempt as hung.
    Hung(Job),
    /// Calls that wait at a client's door may come in, or have waited as long as they may.
    Admit(usize),
    /// A request has waited at an instance's door as long as it may.
    Overdue(usize),
    /// A client looks at how its instances are.
    Look(usize),
}

/// A call: its place, and its number, because places are used again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    place: usize,
    number: u64,
}

/// An attempt of a call at an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Job {
    call: Key,
    attempt: u8,
    at: u32,
}

struct Client {
    commons: Commons,
    door: Door<Caller>,
    throttle: Throttle,
    bulkhead: Bulkhead,
    /// The calls that wait for the bulkhead.
    waiting: BTreeMap<Turn, Arrived>,
    fleet: Fleet,
    chance: Seeded,
}

/// A call that has come.
#[derive(Clone, Copy)]
struct Caller {
    at: Instant,
    phase: usize,
    criticality: Criticality,
}

/// A call that passed the limit.
struct Arrived {
    caller: Caller,
    /// When it did.
    entered: Instant,
    permit: Permit,
}

/// A call under way.
struct Live {
    number: u64,
    client: usize,
    call: RecordedCall,
    arrived: Arrived,
    place: bulkhead::Ticket,
    /// The moment for which it is in the agenda.
    wakes_at: Option<Instant>,
    in_flight: Vec<InFlight>,
    /// What it has in common with others that are to go to the same instance.
    key: Option<u64>,
    /// Where its attempts went.
    tried: Vec<u32>,
}

struct InFlight {
    attempt: u8,
    entry: Entry,
    /// Where it is counted: the phase, and its place among the requests sent in it.
    phase: usize,
    place: usize,
}

struct World<'a> {
    scenario: &'a Scenario,
    plan: Plan,
    agenda: Agenda<Happening>,
    /// The instances.
    service: Vec<Work<'a, Job>>,
    clients: Vec<Client>,
    calls: Vec<Option<Live>>,
    free: Vec<usize>,
    seeds: Seeded,
    begun: u64,
    starts: Vec<Instant>,
    tallies: Vec<Tally>,
    /// Where the requests went, if there is more than one instance.
    traffic: Option<Traffic>,
    /// How many looks are in the agenda.
    looks: usize,
    recording: Option<String>,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let mut seeds = Seeded::new(scenario.seed);
        let instances = (1..).zip(scenario.service.groups_of_instances());
        let service = instances
            .map(|(number, (_, group))| Work::new(&scenario.service, number, group, &mut seeds))
            .collect();
        let clients: Vec<Client> =
            (0..scenario.clients.count).map(|n| Client::new(scenario, n, &mut seeds)).collect();
        let many = scenario.service.instances() > 1;
        let phases = scenario.phases();
        let mut world = Self {
            scenario,
            plan: Plan::new(&scenario.policies.call),
            agenda: Agenda::new(),
            service,
            clients,
            calls: Vec::new(),
            free: Vec::new(),
            seeds,
            // A recording tells machines by numbers; the first are the breakers'.
            begun: u64::from(scenario.clients.count) * u64::from(scenario.service.instances()),
            traffic: many.then(|| Traffic::new(&scenario.service, phases.len())),
            looks: 0,
            tallies: tallies(scenario, &phases),
            starts: phases.into_iter().map(|start| Instant::ZERO.plus(start)).collect(),
            recording: scenario
                .record
                .then(|| format!("{HEADER}\n# {}, seed {}\n", scenario.name, scenario.seed)),
        };
        for client in 0..world.clients.len() {
            world.first_call(client);
            if many {
                world.keep(client);
            }
        }
        for end in
            scenario.service.changes.iter().filter(|change| change.paused).filter_map(|change| change.end())
        {
            world.agenda.enter(Instant::ZERO.plus(end), Happening::Resume);
        }
        world
    }

    fn report(mut self) -> Report {
        if let Some(recording) = &mut self.recording {
            self.clients.iter_mut().for_each(|client| recording.push_str(&client.fleet.take_recording()));
        }
        let total = Tally::total(&self.tallies);
        let (groups, endpoints) = self.traffic.map(Traffic::into_rows).unwrap_or_default();
        Report {
            scenario: self.scenario.name.clone(),
            seed: self.scenario.seed,
            phases: self.tallies.into_iter().map(Tally::into_row).collect(),
            total,
            groups,
            endpoints,
            recording: self.recording,
        }
    }

    // Keepers.

    fn keep(&mut self, client: usize) {
        let seed = self.seeds.next_u64();
        self.clients[client].fleet.keep(self.scenario, seed);
        self.agenda.enter(first_look(seed), Happening::Look(client));
        self.looks += 1;
    }

    fn look(&mut self, now: Instant, client: usize) {
        self.clients[client].fleet.look(now);
        self.count_changes(now, client);
        self.looks -= 1;
        // When nothing but looks is to come, the run is over.
        if self.agenda.len() > self.looks {
            self.agenda.enter(now.plus(LOOK_EVERY), Happening::Look(client));
            self.looks += 1;
        }
    }

    // Clients.

    fn first_call(&mut self, client: usize) {
        let chance = &mut self.clients[client].chance;
        let seconds = match self.scenario.clients.load {
            Load::Poisson(rate) => exponential(chance) / rate,
            // Clients that began together would call together for ever.
            Load::Even(rate) => chance.unit() / rate,
            Load::Closed(think) => think.draw(chance).as_secs_f64(),
        };
        self.agenda.enter(Instant::ZERO.plus(seconds_of(seconds)), Happening::Arrive(client));
    }

    /// In an open loop the next call does not wait for this one.
    fn next_call(&mut self, now: Instant, client: usize) {
        let seconds = match self.scenario.clients.load {
            Load::Poisson(rate) => exponential(&mut self.clients[client].chance) / rate,
            Load::Even(rate) => 1.0 / rate,
            Load::Closed(_) => return,
        };
        self.agenda.enter(now.plus(seconds_of(seconds)), Happening::Arrive(client));
    }

    fn arrive(&mut self, now: Instant, client: usize) {
        if now >= self.scenario.end() {
            return;
        }
        self.next_call(now, client);
        let phase = self.phase(now);
        let own = &mut self.clients[client];
        let criticality = self.scenario.clients.mix.draw(&mut own.chance);
        self.tallies[phase].begun(criticality);
        let caller = Caller { at: now, phase, criticality };
        let (commons, patience) = (&mut own.commons, self.plan.deadline());
        let asking = || {
            // What takes as long as calls typically do would end after its deadline.
            let typical = commons.learned(now).typical.unwrap_or_default();
            let deadline = patience.map(|patience| now.plus(patience).minus(typical));
            Asking { criticality, client: 0, deadline }
        };
        match own.door.ask(now, asking, caller) {
            Asked::In(permit) => self.enter(now, client, Arrived { caller, entered: now, permit }),
            Asked::Waits(until, displaced) => {
                self.agenda.enter(until, Happening::Admit(client));
                if let Some((other, _)) = displaced {
                    self.rejected(now, client, other);
                }
            }
            Asked::Refused(_) => self.rejected(now, client, caller),
        }
    }

    /// Lets in who waits at the door of a client, as far as there is room, and turns away who has waited too long.
    fn admit(&mut self, now: Instant, client: usize) {
        while let Some((caller, permit)) = self.clients[client].door.next(now) {
            self.enter(now, client, Arrived { caller, entered: now, permit });
        }
        while let Some((caller, _)) = self.clients[client].door.expired(now) {
            self.rejected(now, client, caller);
        }
    }

    /// A call is through the door.
    fn enter(&mut self, now: Instant, client: usize, arrived: Arrived) {
        match self.clients[client].bulkhead.admit(now) {
            Ok(Admission::Start(place)) => self.begin(now, client, arrived, place),
            Ok(Admission::Wait(turn, until)) => {
                self.clients[client].waiting.insert(turn, arrived);
                self.agenda.enter(until, Happening::Expire(client, turn));
            }
            Err(_) => self.turned_away(now, client, arrived),
        }
    }

    /// The turn of a waiting call has come, or is over.
    fn turn(&mut self, now: Instant, client: usize, turn: Turn) {
        let own = &mut self.clients[client];
        let Some(arrived) = own.waiting.remove(&turn) else { return };
        match own.bulkhead.claim(now, turn) {
            Some(Ok(place)) => self.begin(now, client, arrived, place),
            Some(Err(_)) => self.turned_away(now, client, arrived),
            None => drop(own.waiting.insert(turn, arrived)),
        }
    }

    fn turned_away(&mut self, now: Instant, client: usize, arrived: Arrived) {
        self.clients[client].door.release(arrived.permit);
        self.make_room(now, client);
        self.rejected(now, client, arrived.caller);
    }

    /// A place behind the door of a client is free.
    fn make_room(&mut self, now: Instant, client: usize) {
        if self.clients[client].door.is_busy() {
            self.agenda.enter(now, Happening::Admit(client));
        }
    }

    fn rejected(&mut self, now: Instant, client: usize, caller: Caller) {
        self.tallies[caller.phase].rejected(caller.criticality);
        self.think(now, client);
    }

    /// In a closed loop the next call follows the end of this one.
    fn think(&mut self, now: Instant, client: usize) {
        if let Load::Closed(think) = self.scenario.clients.load {
            let pause = think.draw(&mut self.clients[client].chance);
            self.agenda.enter(now.plus(pause), Happening::Arrive(client));
        }
    }

    // Calls.

    fn begin(&mut self, now: Instant, client: usize, arrived: Arrived, place: bulkhead::Ticket) {
        self.begun += 1;
        let number = self.begun;
        let came = arrived.caller.at;
        // What it has waited counts.
        let deadline = self.plan.deadline().filter(|_| came < now).map(|patience| came.plus(patience));
        let start = Start { deadline, repeat: self.scenario.clients.repeat, seed: self.seeds.next_u64() };
        let tape = self.recording.is_some().then(|| Tape::call(number, &self.scenario.policies.call));
        let call = RecordedCall::start(self.plan, now, start, &mut self.clients[client].commons, tape);
        let key = self.key(client);
        let live = Live {
            number,
            client,
            call,
            arrived,
            place,
            wakes_at: None,
            in_flight: Vec::new(),
            key,
            tried: Vec::new(),
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.calls.push(None);
            self.calls.len() - 1
        });
        self.calls[at] = Some(live);
        self.drive(now, Key { place: at, number });
    }

    /// What a new call has in common with others, where that decides where it goes.
    fn key(&mut self, client: usize) -> Option<u64> {
        let Scenario { clients, policies, .. } = self.scenario;
        let sticks = policies.balance.algorithm == Algorithm::ConsistentHash && self.traffic.is_some();
        sticks.then(|| {
            let key = self.clients[client].chance.below(u64::from(clients.keys));
            Seeded::new(key).next_u64()
        })
    }

    fn live(&mut self, key: Key) -> Option<&mut Live> {
        self.calls[key.place].as_mut().filter(|live| live.number == key.number)
    }

    fn wake(&mut self, now: Instant, key: Key) {
        let Some(live) = self.live(key) else { return };
        if live.wakes_at.is_some_and(|at| at <= now) {
            live.wakes_at = None;
            self.drive(now, key);
        }
    }

    /// Performs what the call says until it waits or is over.
    fn drive(&mut self, now: Instant, key: Key) {
        loop {
            let Some(live) = self.calls[key.place].as_mut().filter(|live| live.number == key.number) else {
                return;
            };
            match live.call.next_action(now, &mut self.clients[live.client].commons) {
                Action::Send { attempt, kind, due } => self.send(now, key, attempt, kind, due),
                Action::Cancel { attempt, why } => self.cancel(now, key, attempt, why),
                Action::Finish(finish) => return self.finish(now, key, finish),
                Action::Wait(until) => {
                    let sooner = until.filter(|until| live.wakes_at.is_none_or(|at| *until < at));
                    if let Some(until) = sooner {
                        live.wakes_at = Some(until);
                        self.agenda.enter(until, Happening::Wake(key));
                    }
                    return;
                }
                // An action that this driver does not know can't be performed, and the call would never end.
                action => unreachable!("{action:?} is new to the simulator"),
            }
        }
    }

    fn send(&mut self, now: Instant, key: Key, attempt: u8, kind: Kind, due: Option<Instant>) {
        let Some(live) = self.calls[key.place].as_mut() else { return };
        let index = live.client;
        let client = &mut self.clients[index];
        let wish = Wish {
            key: live.key,
            may_probe: self.scenario.clients.repeat != Repeat::Never,
            hedge: kind == Kind::Hedge,
            tried: &live.tried,
        };
        let throttled = client.throttle.admit(now, live.arrived.caller.criticality);
        let chosen = throttled.and_then(|shadow| Ok((shadow, client.fleet.choose(now, &wish)?)));
        let (shadow, entry) = match chosen {
            Ok(chosen) => chosen,
            Err(rejection) => {
                live.call.on_event(now, Event::Refused { attempt, rejection }, &mut client.commons);
                return self.count_changes(now, index);
            }
        };
        for rejection in shadow.into_iter().chain(entry.ticket.shadow()) {
            live.call.would_reject(now, attempt, rejection);
        }
        let job = Job { call: key, attempt, at: entry.at };
        if let Some(hung) = self.scenario.policies.breaker.hung_after.map(|after| now.plus(after))
            && due.is_none_or(|due| hung < due)
        {
            self.agenda.enter(hung, Happening::Hung(job));
        }
        let phase = self.starts.partition_point(|start| *start <= now).saturating_sub(1);
        let tally = &mut self.tallies[phase];
        tally.row.attempts += 1;
        tally.row.retries += u64::from(kind == Kind::Retry);
        tally.row.hedges += u64::from(kind == Kind::Hedge);
        tally.sent.push((now.as_nanos(), false));
        if let Some(traffic) = &mut self.traffic {
            live.tried.push(job.at);
            traffic.sent(now, phase, job.at);
        }
        live.in_flight.push(InFlight { attempt, entry, phase, place: tally.sent.len() - 1 });
        let asking =
            Asking { criticality: live.arrived.caller.criticality, client: index as u64, deadline: due };
        self.count_changes(now, index);
        self.deliver(now, job, asking);
    }

    /// A request comes to its instance.
    fn deliver(&mut self, now: Instant, job: Job, asking: Asking) {
        let instance = &mut self.service[job.at as usize];
        if instance.is_gone(now) {
            return;
        }
        match instance.arrive(now, job, asking) {
            Arrival::Begun(until) => self.agenda.enter(until, Happening::Done(job)),
            Arrival::Waits => {}
            Arrival::WaitsUntil(until, displaced) => {
                self.agenda.enter(until, Happening::Overdue(job.at as usize));
                if let Some((other, rejection)) = displaced {
                    self.send_away(now, other, rejection);
                }
            }
            Arrival::Refused(None) => self.reply(now, job, Outcome::Overloaded(Pushback::Unsaid)),
            Arrival::Refused(Some(rejection)) => self.send_away(now, job, rejection),
        }
    }

    fn overdue(&mut self, now: Instant, at: usize) {
        while let Some((job, rejection)) = self.service[at].expired(now) {
            self.send_away(now, job, rejection);
        }
    }

    /// The door of an instance refuses a request, with when to come back.
    fn send_away(&mut self, now: Instant, job: Job, rejection: Rejection) {
        let instance = &self.service[job.at as usize];
        if !instance.is_gone(now) {
            let pushback = rejection.retry_after.map_or(Pushback::Unsaid, Pushback::After);
            let answer = Happening::Answer(job, Outcome::Overloaded(pushback));
            self.agenda.enter(now.plus(instance.distance), answer);
        }
    }

    /// An instance answers: at once, or when the answer has come all the way.
    fn reply(&mut self, now: Instant, job: Job, outcome: Outcome) {
        let distance = self.service[job.at as usize].distance;
        if distance.is_zero() {
            self.answer(now, job, outcome);
        } else {
            self.agenda.enter(now.plus(distance), Happening::Answer(job, outcome));
        }
    }

    fn answer_arrives(&mut self, now: Instant, job: Job, outcome: Outcome) {
        self.answer(now, job, outcome);
        self.drive(now, job.call);
    }

    fn cancel(&mut self, now: Instant, key: Key, attempt: u8, why: CancelWhy) {
        let Some(flight) = self.land(key, attempt) else { return };
        if why.outcome() == Outcome::failed(Failure::Timeout) {
            let tally = &mut self.tallies[flight.phase];
            tally.row.timed_out += 1;
            tally.sent[flight.place].1 = true;
        }
        self.settle(now, key, flight, why.outcome());
    }

    /// The attempt was answered: tells its breaker and its call, and does not yet ask what follows.
    fn answer(&mut self, now: Instant, job: Job, outcome: Outcome) {
        // If it was cancelled, nobody listens.
        let Some(flight) = self.land(job.call, job.attempt) else { return };
        self.settle(now, job.call, flight, outcome);
        let Some(live) = self.calls[job.call.place].as_mut() else { return };
        let event = Event::Head { attempt: job.attempt, outcome };
        live.call.on_event(now, event, &mut self.clients[live.client].commons);
    }

    fn hung(&mut self, now: Instant, job: Job) {
        let Some(live) = self.calls[job.call.place].as_mut().filter(|live| live.number == job.call.number)
        else {
            return;
        };
        let Some(flight) = live.in_flight.iter_mut().find(|flight| flight.attempt == job.attempt) else {
            return;
        };
        let client = live.client;
        self.clients[client].fleet.overdue(now, &mut flight.entry);
        self.count_changes(now, client);
    }

    fn settle(&mut self, now: Instant, key: Key, flight: InFlight, outcome: Outcome) {
        let Some(live) = self.live(key) else { return };
        let (client, criticality) = (live.client, live.arrived.caller.criticality);
        if let Some(traffic) = &mut self.traffic {
            traffic.ended(flight.entry.at, outcome);
        }
        self.clients[client].throttle.settle(now, criticality, outcome);
        self.clients[client].fleet.settle(now, flight.entry, outcome);
        self.count_changes(now, client);
    }

    /// Counts what breakers of a client have just become.
    fn count_changes(&mut self, now: Instant, client: usize) {
        for (at, change) in self.clients[client].fleet.take_changes() {
            let phase = self.phase(now);
            self.tallies[phase].row.opened += u64::from(change.to == State::Open);
            if let Some(traffic) = &mut self.traffic {
                traffic.changed(client, at, change);
            }
        }
    }

    fn land(&mut self, key: Key, attempt: u8) -> Option<InFlight> {
        let live = self.live(key)?;
        let place = live.in_flight.iter().position(|flight| flight.attempt == attempt)?;
        Some(live.in_flight.swap_remove(place))
    }

    fn finish(&mut self, now: Instant, key: Key, finish: Finish) {
        let Some(mut live) = self.calls[key.place].take() else { return };
        self.free.push(key.place);
        if let Some(recording) = &mut self.recording {
            recording.push_str(&live.call.take());
        }
        let Arrived { caller, entered, permit } = live.arrived;
        let tally = &mut self.tallies[caller.phase];
        match finish {
            Finish::Answer { outcome: Outcome::Success, .. } => {
                tally.succeeded(caller.criticality, now.nanos_since(caller.at));
            }
            Finish::Fallback => tally.row.degraded += 1,
            Finish::Rejected(_) => tally.rejected(caller.criticality),
            _ => tally.row.failed += 1,
        }
        self.think(now, live.client);
        let client = &mut self.clients[live.client];
        client.door.settle(now, permit, ended(finish), now.since(entered));
        if let Some(turn) = client.bulkhead.settle(now, live.place) {
            self.turn(now, live.client, turn);
        }
        self.make_room(now, live.client);
    }

    // The service.

    fn done(&mut self, now: Instant, job: Job) {
        let at = job.at as usize;
        let good = self.service[at].finish(now, job);
        self.begin_waiting(now, at);
        if self.service[at].is_gone(now) {
            return;
        }
        self.reply(now, job, if good { Outcome::Success } else { Outcome::failed(Failure::Error) });
        self.drive(now, job.call);
    }

    fn begin_waiting(&mut self, now: Instant, at: usize) {
        loop {
            let calls = &self.calls;
            let next = self.service[at].next(now, |job| {
                let live = calls[job.call.place].as_ref().filter(|live| live.number == job.call.number);
                live.is_some_and(|live| live.in_flight.iter().any(|flight| flight.attempt == job.attempt))
            });
            let Some((job, until)) = next else { return };
            self.agenda.enter(until, Happening::Done(job));
        }
    }

    fn phase(&self, now: Instant) -> usize {
        self.starts.partition_point(|start| *start <= now).saturating_sub(1)
    }
}

impl Client {
    /// The client with this number, from 0.
    fn new(scenario: &Scenario, number: u32, seeds: &mut Seeded) -> Self {
        let policies = &scenario.policies;
        let first = u64::from(number) * u64::from(scenario.service.instances()) + 1;
        Self {
            commons: Commons::new(policies.call),
            door: Door::new(policies.limit, policies.queue),
            throttle: Throttle::new(policies.throttle),
            bulkhead: Bulkhead::new(policies.bulkhead),
            waiting: BTreeMap::new(),
            fleet: Fleet::new(scenario, scenario.record.then_some(first), seeds),
            chance: Seeded::new(seeds.next_u64()),
        }
    }
}

/// What the limit learns from a call that ended so: nothing from one that did not come through to the service.
const fn ended(finish: Finish) -> Outcome {
    match finish {
        Finish::Answer { outcome, .. } | Finish::Failed { outcome, .. } => outcome,
        _ => Outcome::Abandoned,
    }
}

fn tallies(scenario: &Scenario, starts: &[std::time::Duration]) -> Vec<Tally> {
    let ends = starts.iter().skip(1).chain([&scenario.duration]);
    let rows = starts.iter().zip(ends).map(|(from, to)| {
        let levels = scenario.clients.mix.is_mixed().then(Default::default);
        let mut tally = Tally { levels, ..Tally::default() };
        (tally.row.from_s, tally.row.to_s) = (from.as_secs_f64(), to.as_secs_f64());
        tally
    });
    rows.collect()
}
